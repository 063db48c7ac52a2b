# Builds the image from this repository:   docker build -t kernelseal .
# The image is for the architecture that it is built on; on arm64 it was not tried.
#
# `make guest-image` builds it without docker, by buildah from a Debian made by debootstrap, and runs it in a pod:
# 16.5 MB, 6.7 compressed.

FROM debian:bookworm AS build
# Debian's Rust 1.96 with the standard library's source. Needs no rustup: rust-toolchain.toml is
# rustup's file, Debian's cargo does not read it. (bookworm-security has 1.96; bookworm itself 1.85.)
RUN apt-get update \
 && apt-get install -y --no-install-recommends \
      ca-certificates gcc libc6-dev make rustc-web cargo-web rust-web-src \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN make build

# One static binary, the kernel object inside. No shell, no libraries, no package manager.
FROM scratch
COPY --from=build /src/target/release/kernelseal /kernelseal
COPY LICENSE LICENSE-GPL-2.0 /
# /metrics, /healthz, /ready
EXPOSE 9090
# Root: it attaches to programs of any user. deploy/ shows the capabilities it needs, and why.
ENTRYPOINT ["/kernelseal"]
CMD ["run"]
