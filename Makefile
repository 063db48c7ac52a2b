# Everything a newcomer or CI runs. Each target installs what it needs (.ci/install) and says what it does.
#
#   make build         target/release/kernelseal, one self-contained file (target/arm64/kernelseal with ARCH=arm64)
#   make reproducible  builds it once more, elsewhere, and compares
#   make demo          the main job, told in a minute: on this machine if its kernel can enforce, else in a guest
#   make test          every test: the quick ones here, the kernel ones in a guest with Debian's 6.1, the image's, three minutes of soak
#   make test-quick    only those that need no guest
#   make test-kube     Secrets from a real Kubernetes API server, in KUBEBUILDER_ASSETS or fetched (tests/servers/fetch-kubernetes), and from OpenBao; the Helm chart
#   make guest-test K=6.12 F=attack      tests whose names contain F, in a guest with kernel K
#   make guest-programs K=6.12 F=redis   ordinary programs beside sealed ones, and sealed: the tests ordinary::
#   make guest-pods K=6.12 F=rotat       pods on a containerd, from our own manifests: the tests cri::
#   make guest-docker K=6.12             the README's `docker run`, word for word, on Docker's own engine: the tests docker::
#   make guest-kubelet K=6.12            pods under a real kubelet and API server (KUBEBUILDER_ASSETS): the tests kubelet::
#   make grounds             attacks, starts and launchers on many machines (kernels, boot options, control groups, roots): a line for each
#   make ground-cgroup-v1    on one of them, by its name in tests/integration/grounds.txt
#   make guest-image   builds the Dockerfile, without docker and registry, and runs the image in such a pod
#   make guest-test ARCH=arm64 K=6.12 F=attack   the same on arm64, compiled and emulated here; `make build ARCH=arm64`, too
#   make test-matrix   the kernel tests on every kernel
#   make host-test     the kernel tests on this machine, as root
#   make soak S=300    many starts for so many seconds, an hour unless told, in a guest: nothing grows, nothing is left
#   make crowd CROWD=10000   so many sealed programs that live at a time, and 300 starts at once, in guests whose time is instructions
#   make starve S=300  each way to starve the agent for so many seconds, at the manifest's limits, while programs start beside it
#   make launchers LAUNCHES=200   su, runuser, nsenter, sudo, perl, Python, cron and systemd start a program so often, the agent being paused
#   make bench         what it costs, in instructions (B=monitors: of the monitors alone)
#   make fuzz T=config S=600             arbitrary bytes for a parser (fuzz/), for so many seconds; T left out: for each
#   make lint          format, clippy; licences, bans and sources of dependencies (deny.toml)
#   make advisories    known faults in dependencies: fetches the RustSec database
#   make image         a container image, by docker or what CONTAINER names (buildah, podman)
#   make sbom          target/dist/kernelseal.cdx.json: what the program is made of
#   make release-notes V=0.1.0           that version's part of CHANGELOG.md
#   make dist V=0.1.0  target/dist: all of a release, with SHA256SUMS
#   make sign          a signature beside each file of it, by cosign
#   make chart         what the Helm chart gives, for the tests, by Helm's library (KERNELSEAL_HELM=helm: by that program)

KERNELS = 5.10 6.1 6.12 7.2
# The guests of `make test`, those that take longest first, and those of the matrix.
GUESTS = guest-pods guest-half-1 guest-half-2 guest-programs guest-kubelet guest-docker
MATRIX = $(foreach guest,$(GUESTS),$(KERNELS:%=%/$(guest)))
K ?= 6.1
F ?=
B ?=
T ?= config manifest stack ring proc mountinfo names
# Names the tests do not see: more options for the guest, such as --console FILE.
GUEST_OPTIONS ?= --timeout 3600

export KERNELSEAL_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/kernelseal
export CARGO_TARGET_DIR ?= target
# A Kubernetes for the tests: what is named, else what lies in the cache (tests/servers/fetch-kubernetes puts it there).
ifeq ($(strip $(KUBEBUILDER_ASSETS)),)
override KUBEBUILDER_ASSETS := $(abspath $(KERNELSEAL_CACHE))/kubernetes
endif
export KUBEBUILDER_ASSETS
# What tests run that Debian does not package (tests/servers/fetch).
export KERNELSEAL_OPENBAO ?= $(abspath $(KERNELSEAL_CACHE))/openbao/bao
export KERNELSEAL_HELM ?= tests/servers/helm
# What is built for, as Debian names it: this machine's architecture unless told.
HOST_ARCH := $(if $(filter aarch64,$(shell uname -m)),arm64,amd64)
ARCH ?= $(HOST_ARCH)
TRIPLE_amd64 = x86_64-unknown-linux-gnu
TRIPLE_arm64 = aarch64-unknown-linux-gnu
# Named, so that the flags reach the programs and not build scripts, whose macros cannot be static.
TRIPLE = $(or $(TRIPLE_$(ARCH)),$(error ARCH=$(ARCH): amd64 or arm64 is wanted))
# How the agent is built: what is released and measured as `release`; what most guests run, with less time spent on the last
# percents. The tests' own programs are never built otherwise.
PROFILE ?= tests
build reproducible bench test-matrix: export PROFILE = release
STATIC = $(CARGO_TARGET_DIR)/$(TRIPLE)/tests
AGENT = $(CARGO_TARGET_DIR)/$(TRIPLE)/$(PROFILE)/kernelseal
# No path of this machine is in it: whoever builds the same source has the same bytes.
NO_PATHS = --remap-path-prefix=$(CURDIR)=/kernelseal --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
static = RUSTFLAGS="-C target-feature=+crt-static $(NO_PATHS)" $(1)
static_build = $(call static,$(1) build --locked)
HOST_BUILD = $(call static_build,cargo) --target $(TRIPLE_$(HOST_ARCH))
STATIC_BUILD = $(HOST_BUILD)
TESTS_BUILD = $(STATIC_BUILD) --profile tests
# The agent of that profile, and what the tests' programs are built together with: one set of features, and what is shared is
# compiled once.
AGENT_BUILD = $(STATIC_BUILD) --profile $(PROFILE) -p kernelseal
TOGETHER = $(if $(filter tests,$(PROFILE)),-p kernelseal)
# All that `make test` runs: with one set of features, so that what is shared is compiled once.
EVERYTHING = --locked --target $(TRIPLE) --profile tests --features kernelseal/test-kube --workspace --exclude sidecar-ebpf
# The guest's kernel, what starts it, and what of it is not the same on all machines.
KERNEL = $(K)
PYTHON = python
RUNNER = $(STATIC)/guest run
# Where `make build` leaves the program.
BUILT = target/release
ifneq ($(ARCH),$(HOST_ARCH))
STATIC_BUILD = $(call static_build,.ci/cross $(TRIPLE))
KERNEL = $(K)-$(ARCH)
PYTHON = python-$(ARCH)
RUNNER = $(CARGO_TARGET_DIR)/$(TRIPLE_$(HOST_ARCH))/tests/guest run --programs $(STATIC)
BUILT = target/$(ARCH)
CROSS = $(ARCH)
FIXTURE_TOOLS = CC=$(subst -unknown,,$(TRIPLE))-gcc RUST_PROBE=$(abspath $(STATIC))/examples/probe-rust
endif
# How the names of the tests begin that need the disk of ordinary programs.
ORDINARY = ordinary::
FIXTURES = $(STATIC)/fixtures
GUEST = $(RUNNER) --kernel $(KERNEL) $(GUEST_OPTIONS) --memory 3072 \
	--add $(AGENT):/usr/bin/kernelseal \
	--add examples:/usr/share/kernelseal/examples \
	--add $(FIXTURES):/usr/lib/kernelseal/fixtures --add $(KERNELSEAL_CACHE)/$(PYTHON):/

.PHONY: reproducible only-here advisories image sbom release-notes dist sign chart build demo demo-build test test-here servers-fetch test-quick rules-test test-kube guest-test guest-programs guest-pods guest-docker grounds grounds-quick guest-kubelet kubernetes-fetch guest-image pods-build tests-build guests-build guests-fetch test-matrix $(MATRIX) host-test soak soak-test crowd starve launchers bench fuzz lint deps deps-tests deps-fuzz guest-build guest-fetch

build: deps
	$(AGENT_BUILD)
	mkdir -p $(BUILT)
	cp -f $(AGENT) $(BUILT)/kernelseal

# What git knows, in a folder of another name.
reproducible: build
	rm -rf target/elsewhere
	mkdir -p target/elsewhere/another-name
	git ls-files -z | tar --null --files-from - --create | tar -x -C target/elsewhere/another-name
	$(MAKE) --no-print-directory -C target/elsewhere/another-name build CARGO_TARGET_DIR=target
	cmp $(BUILT)/kernelseal target/elsewhere/another-name/$(BUILT)/kernelseal
	rm -rf target/elsewhere
	sha256sum $(BUILT)/kernelseal

deps:
	@.ci/install $(CROSS)

deps-tests:
	@.ci/install tests $(CROSS)

deps-fuzz:
	@.ci/install fuzz

# (Packages first: there is one dpkg.)
test: kubernetes-fetch deps-tests
	@.ci/install image
	@.ci/install grounds
	$(MAKE) --no-print-directory -j2 --output-sync=recurse tests-build guests-fetch
	$(TWO_AT_A_TIME) test-here guest-image $(filter-out guest-docker,$(GUESTS)) soak-test guest-docker grounds-quick

tests-build: only-here deps-tests
	$(if $(TOGETHER),,$(AGENT_BUILD))
	$(call static,cargo) build $(EVERYTHING) --bins --tests --examples
	$(FIXTURE_TOOLS) tests/integration/fixtures/build $(FIXTURES)

# An API server with its etcd, and a kubelet: what is named or in the cache, else fetched or built.
kubernetes-fetch:
	KUBELET="$(KUBELET)" tests/servers/fetch-kubernetes server kubelet

# Beside an API server.
servers-fetch: deps-tests
	tests/servers/fetch openbao helm

# Those of test-quick and test-kube. Four at a time: with an API server they wait more than they work.
test-here: tests-build servers-fetch rules-test
	RUST_TEST_THREADS=4 $(call static,cargo) test $(EVERYTHING)

test-quick: deps rules-test
	cargo test --locked

# The alerts of deploy/, by Prometheus' own tool.
rules-test:
	tests/rules/run

test-kube: export RUST_TEST_THREADS = 4
test-kube: deps servers-fetch
	tests/servers/fetch-kubernetes server
	cargo test --locked -p kernelseal --features test-kube --bin kernelseal -- tests::cluster tests::openbao kube::pods kube::objects kube::events
	cargo test --locked -p kernelseal --features test-kube --test kubernetes --test chart

guest-fetch:
	tests/integration/guest/fetch $(KERNEL)

guest-build: deps-tests
	$(if $(TOGETHER),,$(AGENT_BUILD))
	$(TESTS_BUILD) $(TOGETHER) -p kernelseal-integration --bins $(if $(CROSS),--example probe-rust)
	$(if $(CROSS),$(HOST_BUILD) --profile tests -p kernelseal-integration --bin guest)
	$(FIXTURE_TOOLS) tests/integration/fixtures/build $(FIXTURES)

# What needs a disk with Debian's programs, counts instructions, or runs here.
only-here:
	@[ -z "$(CROSS)" ] || { echo "make: on this machine ARCH=$(ARCH) is for build and guest-test alone" >&2; exit 1; }

guest-test: guest-build guest-fetch
	$(GUEST) -- suite --skip $(ORDINARY) $(F)

# Apart from the others for its disk, 240 MB of Debian's packages.
guest-programs: only-here guest-build
	tests/integration/guest/fetch $(K) programs
	$(GUEST) --disk $(KERNELSEAL_CACHE)/programs/image:/programs -- suite $(ORDINARY)$(F)

# A crate of its own: the others need no gRPC.
pods-build: only-here guest-build
	$(TESTS_BUILD) -p kernelseal-pods -p kernelseal-servers --bins

# The disk is a node's, with containerd (60 MB of Debian's packages). One test starts sidecar and application STARTS times; a
# hundred of them take 7 to 15 minutes in emulation.
STARTS ?= 25
guest-pods: pods-build
	tests/integration/guest/fetch $(K) pods
	$(GUEST) --add deploy:/usr/share/kernelseal/deploy --disk $(KERNELSEAL_CACHE)/pods/image:/pods \
	    --env KERNELSEAL_POD_STARTS=$(STARTS) -- pods --skip image:: --skip kubelet:: --skip docker:: $(F)

# What its network is made of, for nobody loads modules in a guest later.
DOCKER_MODULES = bridge nf_tables nft_compat nft_chain_nat xt_conntrack xt_MASQUERADE xt_addrtype xt_nat xt_tcpudp
guest-docker: pods-build
	tests/integration/guest/fetch $(K) pods
	$(GUEST) $(foreach module,$(DOCKER_MODULES),--module $(module)) \
	    $(foreach file,README.md Dockerfile LICENSE LICENSE-GPL-2.0,--add $(file):/usr/share/kernelseal/source/$(file)) \
	    --disk $(KERNELSEAL_CACHE)/pods/image:/pods -- pods docker::$(F)

# All of Kubernetes that a pod meets: kubelet and containerd in the guest, API server and etcd here. (GOGC: the kubelet spends
# memory rather than emulated time.)
KUBELET ?= $(KUBEBUILDER_ASSETS)/kubelet
guest-kubelet: kubernetes-fetch pods-build
	tests/integration/guest/fetch $(K) pods
	$(STATIC)/with-api-server $(GUEST) --add deploy:/usr/share/kernelseal/deploy --disk $(KERNELSEAL_CACHE)/pods/image:/pods \
	    --reach {port} --env KERNELSEAL_API_PORT={port} \
	    --add {authority}:/etc/kubernetes/ca.crt --env KERNELSEAL_API_AUTHORITY=/etc/kubernetes/ca.crt --env GOGC=400 \
	    --add $(KUBELET):/usr/lib/kernelseal/kube/kubelet --env KERNELSEAL_KUBELET=/usr/lib/kernelseal/kube/kubelet \
	    -- pods kubelet::$(F)

# The Dockerfile as it is, built as root (by sudo) but without docker or a registry, and run as a sidecar.
guest-image: pods-build
	@.ci/install image
	tests/integration/guest/fetch $(K) pods builder
	tests/pods/build-image $(CARGO_TARGET_DIR)/image.tar
	$(GUEST) --add $(CARGO_TARGET_DIR)/image.tar:/usr/share/kernelseal/image.tar \
	    --disk $(KERNELSEAL_CACHE)/pods/image:/pods -- pods image::

# Machines of tests/integration/grounds.txt: all, what `make test` has of them, or one by its name.
export KERNELSEAL_GROUND_LOGS ?= $(CARGO_TARGET_DIR)/grounds
GROUNDS = tests/integration/guest/grounds
grounds: only-here guest-build
	@.ci/install grounds
	$(GROUNDS) all -- $(GUEST)

grounds-quick: only-here guest-build
	@.ci/install grounds
	$(GROUNDS) quick without-bpf lockdown-unseen -- $(GUEST)

ground-%: only-here guest-build
	@.ci/install grounds
	$(GROUNDS) $* -- $(GUEST)

# All of guest-test, in two guests.
guest-half-%: guest-build guest-fetch
	$(GUEST) --env KERNELSEAL_SLICE=$*/2 -- suite --skip $(ORDINARY)

# For all guests of the matrix, at once.
guests-build: only-here deps-tests
	$(if $(TOGETHER),,$(AGENT_BUILD))
	$(TESTS_BUILD) $(TOGETHER) -p kernelseal-integration -p kernelseal-pods -p kernelseal-servers --bins
	$(FIXTURE_TOOLS) tests/integration/fixtures/build $(FIXTURES)

# Two guests at a time, each with its output in one piece; what was built for all is not built again.
TWO_AT_A_TIME = $(MAKE) --no-print-directory --keep-going -j2 --output-sync=recurse -o tests-build -o guest-build -o pods-build

guests-fetch:
	tests/integration/guest/fetch $(K) programs pods builder

test-matrix: kubernetes-fetch guests-build
	tests/integration/guest/fetch $(KERNELS) programs pods
	$(TWO_AT_A_TIME) $(MATRIX)

$(MATRIX):
	$(MAKE) --no-print-directory -o guest-build -o pods-build $(@F) K=$(@D)

host-test: only-here guest-build
	KERNELSEAL_BIN=$(abspath $(AGENT)) KERNELSEAL_FIXTURES=$(abspath $(FIXTURES)) $(STATIC)/suite --skip $(ORDINARY) $(F)

soak: S ?= 3600
soak-test: S ?= 180
# The guest has ten minutes more than the load.
soak soak-test: only-here guest-build guest-fetch
	$(GUEST) --timeout $$(($(S) + 600)) --env KERNELSEAL_SOAK_SECONDS=$(S) -- soak

# Where a nanosecond is an instruction: what is seen there is the same on a busy machine. (Ten thousand take more memory.)
CROWD ?= 10000
COUNTED = $(GUEST) --icount --timeout 7200 --env KERNELSEAL_COUNTED=1
crowd: only-here guest-build guest-fetch
	$(COUNTED) --memory 6144 --env KERNELSEAL_CROWD=$(CROWD) -- suite --nocapture starving::a_crowd
	$(COUNTED) -- suite --nocapture starving::three_hundred

# Five of them, each with some minutes for what comes before and after.
starve: S ?= 300
starve: only-here guest-build guest-fetch
	$(GUEST) --timeout $$((5 * $(S) + 3600)) --env KERNELSEAL_STARVE=$(S) -- suite --nocapture starving::siege

LAUNCHES ?= 200
launchers: only-here guest-build
	tests/integration/guest/fetch $(K) programs
	$(GUEST) --timeout 7200 --env KERNELSEAL_LAUNCHES=$(LAUNCHES) --disk $(KERNELSEAL_CACHE)/programs/image:/programs \
	    -- suite --nocapture ordinary::paused_

# What the demo runs, without the tests and what they need.
demo-build: only-here deps
	$(if $(TOGETHER),,$(AGENT_BUILD))
	$(TESTS_BUILD) $(if $(TOGETHER),$(TOGETHER) --bin kernelseal) -p kernelseal-integration --bin guest --bin init

demo: demo-build
	KERNELSEAL_BIN=$(abspath $(AGENT)) GUEST_RUNNER=$(abspath $(STATIC)/guest) \
	    DEMO_PROGRAMS=$(abspath $(STATIC)/demo) demo/run

bench: only-here guest-build guest-fetch
	$(GUEST) --icount -- bench $(B)

# The instrumentation is a matter of nightly compilers: this one is told to be one.
fuzz: export RUSTC_BOOTSTRAP = 1
fuzz: S ?= 60
fuzz: export CARGO_TARGET_DIR := $(CARGO_TARGET_DIR)/fuzz
fuzz: deps-fuzz
	for target in $(T); do \
	    mkdir -p fuzz/corpus/$$target && \
	    cargo fuzz run $$target fuzz/corpus/$$target $$(ls -d fuzz/seeds/$$target 2>/dev/null) -- \
	        -max_total_time=$(S) -max_len=8192 || exit 1; \
	done

lint: deps
	@.ci/install lint
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --all-targets -p kernelseal-pods -- -D warnings
	cargo clippy --locked --all-targets -p kernelseal --features test-kube -- -D warnings
	cargo deny --locked check licenses bans sources

advisories:
	@.ci/install lint
	cargo deny --locked check advisories

DIST = target/dist
CONTAINER ?= docker
V ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)

image:
	$(CONTAINER) build --tag kernelseal:$(V) .

sbom: deps
	@.ci/install sbom
	mkdir -p $(DIST)
	cargo cyclonedx --manifest-path sidecar/Cargo.toml --format json --target $(TRIPLE) --override-filename kernelseal.cdx
	mv -f sidecar/kernelseal.cdx.json $(DIST)/
	@rm -f */kernelseal.cdx.json tests/*/kernelseal.cdx.json # it writes one for every crate

# From the version's heading to the next one. A version without one has no release.
release-notes:
	@awk -v version='$(V)' '/^## / { on = index($$0, "## [" version "]") == 1; found = found || on; next } on; \
	    END { if (!found) { print "CHANGELOG.md has no part for " version > "/dev/stderr"; exit 1 } }' CHANGELOG.md

dist: build sbom
	cp -f target/release/kernelseal LICENSE LICENSE-GPL-2.0 $(DIST)/
	$(MAKE) --no-print-directory -s release-notes V=$(V) >$(DIST)/NOTES.md
	tar -C deploy -czf $(DIST)/deploy.tar.gz .
	cd $(DIST) && sha256sum kernelseal kernelseal.cdx.json deploy.tar.gz LICENSE LICENSE-GPL-2.0 >SHA256SUMS

# Keyless: the signature tells which workflow of which repository signed, and no key has to be kept.
sign:
	cd $(DIST) && for file in kernelseal kernelseal.cdx.json deploy.tar.gz SHA256SUMS; do \
	    cosign sign-blob --yes --bundle $$file.bundle $$file || exit 1; \
	done

# The rendered chart is judged by the tests.
chart: servers-fetch
	tests/servers/render-chart >sidecar/tests/manifests/chart.yaml.new
	mv sidecar/tests/manifests/chart.yaml.new sidecar/tests/manifests/chart.yaml
