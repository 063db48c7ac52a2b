//! Builds `sidecar-ebpf` for bpfel-unknown-none and leaves it in OUT_DIR as sidecar.bpf.o.
//!
//! * Toolchain: the one building the workspace if it has the standard library's source
//!   (`rustup component add rust-src`, or Debian's rust-src of the same version), otherwise
//!   Debian's rustc-web/cargo-web/rust-web-src. Unstable flags are enabled with
//!   RUSTC_BOOTSTRAP for this one child build only.
//! * Linker: bpf-linker is a build dependency. This script re-executes itself as the linker
//!   and loads the libLLVM of the rustc that produced the bitcode, so their versions agree.
use std::{
    env,
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use bpf_linker::{Cpu, Linker, LinkerInput, LinkerOptions, OptLevel, OutputType};

const AS_LINKER: &str = "SIDECAR_BUILD_AS_BPF_LINKER";
/// Must match the `rust-llvm-*` feature of the bpf-linker build dependency.
const LLVM_MAJOR: &str = "22.";

struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    src: PathBuf,
    libllvm: PathBuf,
}

fn capture(program: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(out.status.success(), "{} failed", program.display());
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn probe(cargo: PathBuf, rustc: PathBuf, why_not: &mut Vec<String>) -> Option<Toolchain> {
    let mut try_it = || -> Result<Toolchain> {
        let sysroot = PathBuf::from(capture(&rustc, &["--print", "sysroot"])?);
        let verbose = capture(&rustc, &["-vV"])?;
        let field = |k: &str| {
            verbose
                .lines()
                .find_map(|l| l.strip_prefix(k))
                .unwrap_or("?")
        };
        let (release, llvm) = (field("release: "), field("LLVM version: "));
        ensure!(
            llvm.starts_with(LLVM_MAJOR),
            "{release} uses LLVM {llvm}, need {LLVM_MAJOR}x"
        );
        let src = [
            env::var_os("SIDECAR_RUST_SRC").map(PathBuf::from),
            Some(sysroot.join("lib/rustlib/src/rust/library")),
            Some(PathBuf::from(format!("/usr/src/rustc-{release}/library"))),
        ]
        .into_iter()
        .flatten()
        .find(|p| p.join("Cargo.lock").exists())
        .with_context(|| format!("no standard library source for rustc {release}"))?;
        // rustup keeps libLLVM in <sysroot>/lib, Debian in the multiarch directory
        let libllvm = [
            sysroot.join("lib"),
            sysroot.join("lib/x86_64-linux-gnu"),
            sysroot.join("lib/aarch64-linux-gnu"),
        ]
        .iter()
        .filter_map(|d| fs::read_dir(d).ok())
        .flat_map(|d| d.flatten().map(|e| e.path()))
        .find(|p| {
            let n = p
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            n.starts_with(&format!("libLLVM.so.{LLVM_MAJOR}"))
        })
        .with_context(|| format!("no libLLVM.so.{LLVM_MAJOR}x for rustc {release}"))?;
        Ok(Toolchain {
            cargo: cargo.clone(),
            rustc: rustc.clone(),
            src,
            libllvm,
        })
    };
    match try_it() {
        Ok(t) => Some(t),
        Err(e) => {
            why_not.push(format!("{}: {e:#}", rustc.display()));
            None
        }
    }
}

fn main() -> Result<()> {
    if env::var_os(AS_LINKER).is_some() {
        return link();
    }
    for p in [
        "build.rs",
        "../sidecar-ebpf",
        "../sidecar-common",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={p}");
    }
    println!("cargo::rerun-if-env-changed=SIDECAR_RUST_SRC");

    let var = |k: &str| {
        env::var_os(k)
            .map(PathBuf::from)
            .with_context(|| k.to_owned())
    };
    let out_dir = var("OUT_DIR")?;
    let mut why_not = Vec::new();
    let Some(tc) = probe(var("CARGO")?, var("RUSTC")?, &mut why_not).or_else(|| {
        probe(
            "/usr/bin/cargo".into(),
            "/usr/bin/rustc".into(),
            &mut why_not,
        )
    }) else {
        bail!(
            "no toolchain can build the eBPF programs:\n  {}\nFix: `rustup component add rust-src`, \
             or on Debian `apt-get install rustc-web cargo-web rust-web-src`",
            why_not.join("\n  ")
        );
    };
    println!(
        "cargo::warning=eBPF toolchain: {} (core from {})",
        tc.rustc.display(),
        tc.src.display()
    );

    // A directory holding nothing but the one libLLVM, first on the linker's search path.
    let llvm_dir = out_dir.join("libllvm");
    let _ = fs::remove_dir_all(&llvm_dir);
    fs::create_dir_all(&llvm_dir)?;
    std::os::unix::fs::symlink(&tc.libllvm, llvm_dir.join("libLLVM.so"))?;
    let mut lib_path = vec![llvm_dir];
    lib_path.extend(env::split_paths(
        &env::var_os("LD_LIBRARY_PATH").unwrap_or_default(),
    ));

    let flags = [
        format!(
            "--cfg=bpf_target_arch=\"{}\"",
            env::var("CARGO_CFG_TARGET_ARCH")?
        ),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ]
    .join("\x1f");
    let target_dir = out_dir.join("ebpf");
    let status = Command::new(&tc.cargo)
        .args([
            "build",
            "--locked",
            "--release",
            "--bins",
            "--package",
            "sidecar-ebpf",
        ])
        .args([
            "--target",
            "bpfel-unknown-none",
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("RUSTC", &tc.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &tc.src)
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env(
            "CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER",
            env::current_exe()?,
        )
        .env(AS_LINKER, "1")
        .env("LD_LIBRARY_PATH", env::join_paths(lib_path)?)
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO")
        .status()
        .context("spawn cargo")?;
    ensure!(status.success(), "building sidecar-ebpf failed: {status}");
    fs::copy(
        target_dir.join("bpfel-unknown-none/release/kernelseal"),
        out_dir.join("kernelseal.bpf.o"),
    )?;
    Ok(())
}

/// The part of bpf-linker's command line that rustc uses.
fn link() -> Result<()> {
    let (mut inputs, mut symbols, mut output) = (Vec::new(), Vec::new(), None);
    let (mut cpu, mut cpu_features, mut btf) = (Cpu::Generic, CString::default(), false);
    let mut optimize = OptLevel::Default;
    let mut args = env::args().skip(1);
    while let Some(a) = args.next() {
        let (flag, inline) = match a.split_once('=') {
            Some((f, v)) if f.starts_with("--") => (f, Some(v.to_owned())),
            _ => (a.as_str(), None),
        };
        let mut val = || {
            inline
                .clone()
                .or_else(|| args.next())
                .context("missing value")
        };
        match flag {
            "-o" | "--output" => output = Some(PathBuf::from(val()?)),
            "--export-symbols" => {
                symbols.extend(fs::read_to_string(val()?)?.lines().map(str::to_owned));
            }
            "--export" => symbols.push(val()?),
            "--cpu" => cpu = val()?.parse().ok().context("--cpu")?,
            "--cpu-features" => cpu_features = CString::new(val()?)?,
            "-L" | "--target" => drop(val()?),
            "--btf" => btf = true,
            "--debug" => {}
            f if f.starts_with("-O") => {
                let level = if f == "-O" { val()? } else { f[2..].to_owned() };
                optimize = match level.as_str() {
                    "0" => OptLevel::No,
                    "1" => OptLevel::Less,
                    "2" => OptLevel::Default,
                    "3" => OptLevel::Aggressive,
                    "s" => OptLevel::Size,
                    "z" => OptLevel::SizeMin,
                    l => bail!("-O{l}"),
                };
            }
            f if f.starts_with('-') => bail!("unexpected linker argument {f}"),
            _ => inputs.push(PathBuf::from(a)),
        }
    }
    let linker = Linker::new(LinkerOptions {
        target: None,
        cpu,
        cpu_features,
        optimize,
        unroll_loops: false,
        ignore_inline_never: false,
        llvm_args: Vec::new(),
        disable_expand_memcpy_in_order: false,
        disable_memory_builtins: false,
        btf,
        allow_bpf_trap: false,
    });
    linker.link_to_file(
        inputs.iter().map(|p| LinkerInput::new_from_file(p)),
        &output.context("-o")?,
        OutputType::Object,
        symbols.iter().map(String::as_str),
    )?;
    ensure!(!linker.has_errors(), "LLVM reported errors");
    Ok(())
}
