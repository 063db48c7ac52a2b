//! Builds the kernel side, `sidecar-ebpf`, for bpfel-unknown-none, and leaves it in `OUT_DIR` as
//! `kernelseal.bpf.o`, and the network monitor's as `network.bpf.o`.
//!
//! * Toolchain: the one that builds the workspace if it has the standard library's source (rustup's
//!   component `rust-src`), otherwise Debian's rustc-web, cargo-web and rust-web-src. Unstable flags
//!   are enabled with `RUSTC_BOOTSTRAP` for this one child build only.
//! * Linker: bpf-linker is a build dependency. This script runs itself as the linker, and loads
//!   the libLLVM of the very rustc that produced the bitcode, so that their versions agree.

use std::{
    env,
    ffi::CString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use bpf_linker::{Cpu, Linker, LinkerInput, LinkerOptions, OptLevel, OutputType};
use object::build::elf;

/// Set for the runs of this script in which it is the linker.
const AS_LINKER: &str = "KERNELSEAL_BUILD_AS_BPF_LINKER";
/// Must match the `rust-llvm-*` feature of the bpf-linker build dependency.
const LLVM_MAJOR: &str = "22.";
const KERNEL_TARGET: &str = "bpfel-unknown-none";
/// The programs it is made of.
const OBJECTS: [&str; 3] = ["kernelseal", "network", "syscalls"];
/// Where Debian's toolchain is.
const DEBIAN: (&str, &str) = ("/usr/bin/cargo", "/usr/bin/rustc");

struct Toolchain {
    cargo: PathBuf,
    rustc: PathBuf,
    source: PathBuf,
    libllvm: PathBuf,
}

fn main() -> Result<()> {
    if env::var_os(AS_LINKER).is_some() {
        return link();
    }
    for path in [
        "build.rs",
        "../sidecar-ebpf",
        "../sidecar-common",
        "../Cargo.lock",
    ] {
        println!("cargo::rerun-if-changed={path}");
    }
    let cfg = |key: &str| env::var(format!("CARGO_CFG_TARGET_{key}")).unwrap_or_default();
    if cfg("ARCH") == "x86_64" && cfg("FEATURE").split(',').any(|it| it == "crt-static") {
        // Relocations in a twentieth of the room: who starts it is the C library in it, which knows them (glibc 2.36).
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    let var = |key: &str| {
        env::var_os(key)
            .map(PathBuf::from)
            .with_context(|| key.to_owned())
    };
    let out_dir = var("OUT_DIR")?;
    let ours = Toolchain::find(var("CARGO")?, var("RUSTC")?);
    let toolchain = ours.or_else(|ours| {
        Toolchain::find(DEBIAN.0.into(), DEBIAN.1.into()).map_err(|debians| {
            anyhow::anyhow!(
                "no toolchain here can build the kernel side:\n  {ours:#}\n  {debians:#}\nFix: \
                 `rustup component add rust-src`, or on Debian `apt-get install rustc-web \
                 cargo-web rust-web-src`"
            )
        })
    })?;
    build(&toolchain, &out_dir)
}

impl Toolchain {
    fn find(cargo: PathBuf, rustc: PathBuf) -> Result<Self> {
        let name = rustc.display().to_string();
        Self::inspect(cargo, rustc).context(name)
    }

    fn inspect(cargo: PathBuf, rustc: PathBuf) -> Result<Self> {
        let sysroot = PathBuf::from(capture(&rustc, &["--print", "sysroot"])?);
        let verbose = capture(&rustc, &["-vV"])?;
        let field = |key: &str| {
            verbose
                .lines()
                .find_map(|line| line.strip_prefix(key))
                .unwrap_or("?")
        };
        let (release, llvm) = (field("release: "), field("LLVM version: "));
        ensure!(
            llvm.starts_with(LLVM_MAJOR),
            "{release} uses LLVM {llvm}, {LLVM_MAJOR}x is needed"
        );
        let source = [
            sysroot.join("lib/rustlib/src/rust/library"),
            PathBuf::from(format!("/usr/src/rustc-{release}/library")),
        ]
        .into_iter()
        .find(|path| path.join("Cargo.lock").exists())
        .with_context(|| format!("no standard library source for rustc {release}"))?;
        // rustup keeps libLLVM in <sysroot>/lib, Debian in the multiarch directory
        let libllvm = ["lib", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu"]
            .iter()
            .filter_map(|dir| fs::read_dir(sysroot.join(dir)).ok())
            .flat_map(|dir| dir.flatten().map(|entry| entry.path()))
            .find(|path| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name.starts_with(&format!("libLLVM.so.{LLVM_MAJOR}"))
            })
            .with_context(|| format!("no libLLVM.so.{LLVM_MAJOR}x for rustc {release}"))?;
        Ok(Self {
            cargo,
            rustc,
            source,
            libllvm,
        })
    }
}

fn capture(program: &Path, args: &[&str]) -> Result<String> {
    let out = Command::new(program)
        .args(args)
        .output()
        .with_context(|| format!("run {}", program.display()))?;
    ensure!(out.status.success(), "{} failed", program.display());
    Ok(String::from_utf8(out.stdout)?.trim().to_owned())
}

fn build(toolchain: &Toolchain, out_dir: &Path) -> Result<()> {
    // A directory with nothing but the one libLLVM, first on the linker's search path.
    let llvm_dir = out_dir.join("libllvm");
    let _ = fs::remove_dir_all(&llvm_dir);
    fs::create_dir_all(&llvm_dir)?;
    std::os::unix::fs::symlink(&toolchain.libllvm, llvm_dir.join("libLLVM.so"))?;
    let mut lib_path = vec![llvm_dir];
    lib_path.extend(env::split_paths(
        &env::var_os("LD_LIBRARY_PATH").unwrap_or_default(),
    ));

    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("no workspace")?;
    let cargo_home = env::var_os("CARGO_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cargo"),
        PathBuf::from,
    );
    let flags = [
        // Lines of source are told with the programs: not those of this machine.
        renamed(workspace, "/kernelseal"),
        renamed(&cargo_home, "/cargo"),
        renamed(&toolchain.source, "/rust/library"),
        format!(
            "--cfg=bpf_target_arch=\"{}\"",
            env::var("CARGO_CFG_TARGET_ARCH")?
        ),
        // 32-bit arithmetic and jumps, which every kernel since 5.3 has
        "-Ctarget-cpu=v3".into(),
        "-Cdebuginfo=2".into(),
        "-Clink-arg=--btf".into(),
    ]
    .join("\x1f");
    let target_dir = out_dir.join("ebpf");
    let status = Command::new(&toolchain.cargo)
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
            KERNEL_TARGET,
            "-Zbuild-std=core",
            "--target-dir",
        ])
        .arg(&target_dir)
        .env("RUSTC", &toolchain.rustc)
        .env("RUSTC_BOOTSTRAP", "1")
        // Debian's source is not in its sysroot, where cargo would look
        .env("__CARGO_TESTS_ONLY_SRC_ROOT", &toolchain.source)
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
        .context("run cargo for the kernel side")?;
    ensure!(
        status.success(),
        "building the kernel side failed: {status}"
    );
    for name in OBJECTS {
        let object = target_dir.join(KERNEL_TARGET).join("release").join(name);
        let object = stripped(&fs::read(object)?).with_context(|| format!("strip {name}"))?;
        fs::write(out_dir.join(format!("{name}.bpf.o")), object)?;
    }
    Ok(())
}

fn renamed(path: &Path, name: &str) -> String {
    format!("--remap-path-prefix={}={name}", path.display())
}

/// Without what a debugger alone reads, four fifths of it, and without relocations of BTF, which loaders leave alone; BTF stays,
/// and what it says of functions.
fn stripped(object: &[u8]) -> Result<Vec<u8>> {
    let mut elf = elf::Builder::read(object)?;
    for section in &mut elf.sections {
        let name = section.name.as_slice();
        section.delete = name.starts_with(b".debug_")
            || name.starts_with(b".rel.debug_")
            || name.starts_with(b".rel.BTF");
        if name == b".BTF.ext"
            && let elf::SectionData::Data(found) = &section.data
        {
            let without = without_lines(found).context(".BTF.ext is cut short")?;
            section.data = elf::SectionData::Data(without.into());
        }
    }
    elf.delete_orphans();
    // (LLVM has the sections' names among the symbols')
    let names = elf.sections.add();
    names.name = b".shstrtab".as_slice().into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.data = elf::SectionData::SectionString;
    names.sh_addralign = 1;
    let mut stripped = Vec::new();
    elf.write(&mut stripped)?;
    Ok(stripped)
}

/// `.BTF.ext` without the lines of the source, of which the text is not there anyway: they are two fifths of an object. The layout is
/// that of Documentation/bpf/btf.rst: a header whose words 2 to 5 are where the records of functions and of lines are behind it, and
/// how long; both begin with the size of one.
fn without_lines(found: &[u8]) -> Option<Vec<u8>> {
    const WORD: usize = size_of::<u32>();
    let word = |index: usize| -> Option<usize> {
        let bytes = found.get(index * WORD..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let header = word(1)?;
    let part = |at: usize, length: usize| found.get(header + at..header + at + length);
    let functions = part(word(2)?, word(3)?)?;
    let size_of_line = part(word(4)?, WORD)?;
    let mut without = found.get(..header)?.to_vec();
    let mut set = |index: usize, value: usize| {
        let value = u32::try_from(value).ok()?;
        let place = without.get_mut(index * WORD..(index + 1) * WORD)?;
        place.copy_from_slice(&value.to_le_bytes());
        Some(())
    };
    set(2, 0)?;
    set(3, functions.len())?;
    set(4, functions.len())?;
    set(5, WORD)?;
    // (relocations that a loader would do by itself: rustc emits none)
    if header > 6 * WORD {
        set(6, functions.len() + WORD)?;
        set(7, 0)?;
    }
    without.extend_from_slice(functions);
    without.extend_from_slice(size_of_line);
    Some(without)
}

/// The part of bpf-linker's command line that rustc uses.
fn link() -> Result<()> {
    let (mut inputs, mut symbols, mut output) = (Vec::new(), Vec::new(), None);
    let (mut cpu, mut cpu_features, mut btf) = (Cpu::Generic, CString::default(), false);
    let mut optimize = OptLevel::Default;
    let mut args = env::args().skip(1);
    while let Some(arg) = args.next() {
        let (flag, inline) = match arg.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag, Some(value.to_owned())),
            _ => (arg.as_str(), None),
        };
        let mut value = || {
            inline
                .clone()
                .or_else(|| args.next())
                .context("missing value")
        };
        match flag {
            "-o" | "--output" => output = Some(PathBuf::from(value()?)),
            "--export-symbols" => {
                symbols.extend(fs::read_to_string(value()?)?.lines().map(str::to_owned));
            }
            "--export" => symbols.push(value()?),
            "--cpu" => cpu = value()?.parse().ok().context("--cpu")?,
            "--cpu-features" => cpu_features = CString::new(value()?)?,
            "-L" | "--target" => drop(value()?),
            "--btf" => btf = true,
            "--debug" => {}
            flag if flag.starts_with("-O") => {
                let level = if flag == "-O" {
                    value()?
                } else {
                    flag[2..].to_owned()
                };
                optimize = match level.as_str() {
                    "0" => OptLevel::No,
                    "1" => OptLevel::Less,
                    "2" => OptLevel::Default,
                    "3" => OptLevel::Aggressive,
                    "s" => OptLevel::Size,
                    "z" => OptLevel::SizeMin,
                    level => bail!("-O{level}"),
                };
            }
            flag if flag.starts_with('-') => bail!("unexpected linker argument {flag}"),
            _ => inputs.push(PathBuf::from(arg)),
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
        inputs.iter().map(|path| LinkerInput::new_from_file(path)),
        &output.context("-o")?,
        OutputType::Object,
        symbols.iter().map(String::as_str),
    )?;
    ensure!(!linker.has_errors(), "LLVM reported errors");
    Ok(())
}
