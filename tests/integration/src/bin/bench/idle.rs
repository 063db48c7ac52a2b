//! Programs that do nothing, at hooks that ours are attached to: what a hook costs by itself, whoever is there. They are
//! put together here, instruction by instruction, since there is nothing in them to compile.

use anyhow::{Context, Result};
use aya::programs::{KProbe, Lsm, RawTracePoint};
use aya::{Btf, Ebpf, EbpfLoader};
use object::write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection};
use object::{
    Architecture, BinaryFormat, Endianness, RelocationFlags, SectionKind, SymbolFlags, SymbolKind,
    SymbolScope,
};

/// Where a program is attached.
#[derive(Debug, Clone, Copy)]
pub enum Hook {
    /// A hook of the security module.
    Lsm(&'static str),
    /// A raw tracepoint.
    Tracepoint(&'static str),
    /// The beginning of a function.
    Function(&'static str),
    /// Its return.
    Return(&'static str),
}

/// Attached programs that do nothing; gone when it is dropped.
#[derive(Debug)]
pub struct Idle {
    _ebpf: Ebpf,
}

/// The ring of a program that writes a record at each run: nobody reads it.
const RING_BYTES: u32 = 16 * 1024 * 1024;
/// `BPF_MAP_TYPE_RINGBUF` (uapi/linux/bpf.h)
const RINGBUF: u32 = 27;
/// `R_BPF_64_64`: the number of a map, in a load of 64 bits.
const MAP_RELOCATION: u32 = 1;
/// Where [`write_record`] loads the ring.
const RING_AT: u64 = 0;

/// An instruction (`struct bpf_insn`): code, registers, offset, number.
const fn insn(code: u8, target: u8, source: u8, offset: i16, number: i32) -> [u8; 8] {
    let (offset, number) = (offset.to_le_bytes(), number.to_le_bytes());
    [
        code,
        target | (source << 4),
        offset[0],
        offset[1],
        number[0],
        number[1],
        number[2],
        number[3],
    ]
}

/// `r0 = 0; exit`
const NOTHING: [[u8; 8]; 2] = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];

/// Reserves a record, fills it, and hands it over.
fn write_record(bytes: u32) -> Vec<[u8; 8]> {
    const RESERVE: i32 = 131;
    const SUBMIT: i32 = 132;
    let words = i16::try_from(bytes / 8).expect("records are small");
    let number = bytes.cast_signed();
    let mut program = vec![
        // r1 = ring; r2 = bytes; r3 = 0; call reserve; if r0 == 0 goto its end
        insn(0x18, 1, 0, 0, 0),
        insn(0, 0, 0, 0, 0),
        insn(0xb7, 2, 0, 0, number),
        insn(0xb7, 3, 0, 0, 0),
        insn(0x85, 0, 0, 0, RESERVE),
        insn(0x15, 0, 0, words + 3, 0),
    ];
    // *(u64 *)(r0 + ..) = 1
    program.extend((0..words).map(|word| insn(0x7a, 0, 0, word * 8, 1)));
    // r1 = r0; r2 = 0; call submit
    program.extend([
        insn(0xbf, 1, 0, 0, 0),
        insn(0xb7, 2, 0, 0, 0),
        insn(0x85, 0, 0, 0, SUBMIT),
    ]);
    program.extend(NOTHING);
    program
}

impl Idle {
    /// Attaches a program to each.
    pub fn at(hooks: &[Hook]) -> Result<Self> {
        Self::attach(hooks, &NOTHING.concat(), false)
    }

    /// The same of programs that write a record of so many bytes at each run.
    pub fn writing(hooks: &[Hook], bytes: u32) -> Result<Self> {
        Self::attach(hooks, &write_record(bytes).concat(), true)
    }

    fn attach(hooks: &[Hook], code: &[u8], has_ring: bool) -> Result<Self> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let license = section(&mut object, "license", SectionKind::Data, b"GPL\0");
        symbol(&mut object, "LICENSE", license, SymbolKind::Data, 4);
        let ring = has_ring.then(|| ring(&mut object));
        for (number, hook) in hooks.iter().enumerate() {
            let kind = match hook {
                Hook::Lsm(_) => "lsm",
                Hook::Tracepoint(_) => "raw_tp",
                Hook::Function(_) => "kprobe",
                Hook::Return(_) => "kretprobe",
            };
            let id = section(&mut object, kind, SectionKind::Text, code);
            let size = code.len() as u64;
            symbol(&mut object, &name(number), id, SymbolKind::Text, size);
            if let Some(symbol) = ring {
                let relocation = Relocation {
                    offset: RING_AT,
                    symbol,
                    addend: 0,
                    flags: RelocationFlags::Elf {
                        r_type: MAP_RELOCATION,
                    },
                };
                object.add_relocation(id, relocation)?;
            }
        }
        let mut ebpf = EbpfLoader::new().btf(None).load(&object.write()?)?;
        for (number, hook) in hooks.iter().enumerate() {
            attach(&mut ebpf, &name(number), *hook).with_context(|| format!("{hook:?}"))?;
        }
        Ok(Self { _ebpf: ebpf })
    }
}

fn name(number: usize) -> String {
    format!("idle_{number}")
}

fn section(object: &mut Object<'_>, name: &str, kind: SectionKind, data: &[u8]) -> SectionId {
    let id = object.add_section(Vec::new(), name.into(), kind);
    object.append_section_data(id, data, 8);
    id
}

fn symbol(
    object: &mut Object<'_>,
    name: &str,
    section: SectionId,
    kind: SymbolKind,
    size: u64,
) -> SymbolId {
    object.add_symbol(Symbol {
        name: name.into(),
        value: 0,
        size,
        kind,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}

/// A map as it was described before BTF: kind, key's size, value's size, entries, flags.
fn ring(object: &mut Object<'_>) -> SymbolId {
    let described: Vec<u8> = [RINGBUF, 0, 0, RING_BYTES, 0, 0, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    let maps = section(object, "maps", SectionKind::Data, &described);
    let size = described.len() as u64;
    symbol(object, "RING", maps, SymbolKind::Data, size)
}

fn attach(ebpf: &mut Ebpf, name: &str, hook: Hook) -> Result<()> {
    let program = ebpf.program_mut(name).context("it is not there")?;
    match hook {
        Hook::Lsm(hook) => {
            let program: &mut Lsm = program.try_into()?;
            program.load(hook, &Btf::from_sys_fs()?)?;
            program.attach()?;
        }
        Hook::Tracepoint(tracepoint) => {
            let program: &mut RawTracePoint = program.try_into()?;
            program.load()?;
            program.attach(tracepoint)?;
        }
        Hook::Function(function) | Hook::Return(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
    }
    Ok(())
}
