//! Programs that do nothing, at hooks that ours are attached to: what a hook costs by itself, whoever is there. They are
//! put together here, instruction by instruction, since there is nothing in them to compile.

use std::sync::OnceLock;

use anyhow::{Context, Result};
use aya::programs::{BtfTracePoint, FEntry, KProbe, Lsm};
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
    /// A tracepoint, with its arguments' types.
    Tracepoint(&'static str),
    /// The beginning of a function, with its arguments' types.
    Entry(&'static str),
    /// A probe at the beginning of a function.
    Function(&'static str),
    /// Its return.
    Return(&'static str),
}

/// Attached programs that do nothing; gone when it is dropped.
#[derive(Debug)]
pub struct Idle {
    _ebpf: Ebpf,
}

/// Records that a program writes at each run, if it writes any: one by itself would be lost in what a run costs more or less.
pub const RECORDS_A_RUN: u64 = 16;
/// Their ring: nobody reads it.
const RING_BYTES: u32 = 16 * 1024 * 1024;
/// `BPF_MAP_TYPE_RINGBUF` (uapi/linux/bpf.h)
const RINGBUF: u32 = 27;
/// `R_BPF_64_64`: the number of a map, in a load of 64 bits.
const MAP_RELOCATION: u32 = 1;

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

/// `r0 = -EPERM; exit`
const REFUSE: [[u8; 8]; 2] = [insn(0xb7, 0, 0, 0, -1), insn(0x95, 0, 0, 0, 0)];

/// `r0 = 0; exit`
const NOTHING: [[u8; 8]; 2] = [insn(0xb7, 0, 0, 0, 0), insn(0x95, 0, 0, 0, 0)];

/// Reserves a record, fills it, stamps it with the kernel's clock as every event is, and hands it over. It begins with loading
/// the ring.
fn write_record(bytes: u32) -> Vec<[u8; 8]> {
    const CLOCK: i32 = 5;
    const RESERVE: i32 = 131;
    const SUBMIT: i32 = 132;
    let words = i16::try_from(bytes / 8).expect("records are small");
    let mut program = vec![
        // r1 = ring; r2 = bytes; r3 = 0; r6 = call reserve; if r6 != 0 goto after the end
        insn(0x18, 1, 0, 0, 0),
        insn(0, 0, 0, 0, 0),
        insn(0xb7, 2, 0, 0, bytes.cast_signed()),
        insn(0xb7, 3, 0, 0, 0),
        insn(0x85, 0, 0, 0, RESERVE),
        insn(0xbf, 6, 0, 0, 0),
        insn(0x55, 6, 0, 2, 0),
    ];
    // (the end: to go on with the next would be twice the ways for the verifier, of each)
    program.extend(NOTHING);
    // *(u64 *)(r6 + ..) = 1
    program.extend((0..words).map(|word| insn(0x7a, 6, 0, word * 8, 1)));
    program.extend([
        // *(u64 *)(r6 + 8) = call clock
        insn(0x85, 0, 0, 0, CLOCK),
        insn(0x7b, 6, 0, 8, 0),
        // r1 = r6; r2 = 0; call submit
        insn(0xbf, 1, 6, 0, 0),
        insn(0xb7, 2, 0, 0, 0),
        insn(0x85, 0, 0, 0, SUBMIT),
    ]);
    program
}

impl Idle {
    /// Attaches a program to each.
    pub fn at(hooks: &[Hook]) -> Result<Self> {
        Self::attach(hooks, &NOTHING.concat(), &[])
    }

    /// The same of programs that refuse what is asked there.
    pub fn refusing(hooks: &[Hook]) -> Result<Self> {
        Self::attach(hooks, &REFUSE.concat(), &[])
    }

    /// The same of programs that write [`RECORDS_A_RUN`] of so many bytes.
    pub fn writing(hooks: &[Hook], bytes: u32) -> Result<Self> {
        let record = write_record(bytes).concat();
        let loads: Vec<u64> = (0..RECORDS_A_RUN)
            .map(|before| before * record.len() as u64)
            .collect();
        let mut code = record.repeat(loads.len());
        code.extend(NOTHING.concat());
        Self::attach(hooks, &code, &loads)
    }

    /// `loads`: where the ring is loaded.
    fn attach(hooks: &[Hook], code: &[u8], loads: &[u64]) -> Result<Self> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let license = section(&mut object, "license", SectionKind::Data, b"GPL\0");
        symbol(&mut object, "LICENSE", license, SymbolKind::Data, 4);
        let ring = (!loads.is_empty()).then(|| ring(&mut object));
        for (number, hook) in hooks.iter().enumerate() {
            let kind = match hook {
                Hook::Lsm(_) => "lsm",
                Hook::Tracepoint(_) => "tp_btf",
                Hook::Entry(_) => "fentry",
                Hook::Function(_) => "kprobe",
                Hook::Return(_) => "kretprobe",
            };
            let id = section(&mut object, kind, SectionKind::Text, code);
            let size = code.len() as u64;
            symbol(&mut object, &name(number), id, SymbolKind::Text, size);
            for (&offset, symbol) in loads.iter().zip(ring.into_iter().cycle()) {
                let relocation = Relocation {
                    offset,
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

/// The kernel's types, which take seconds to read.
fn types() -> Result<&'static Btf> {
    static TYPES: OnceLock<Btf> = OnceLock::new();
    if let Some(types) = TYPES.get() {
        return Ok(types);
    }
    let types = Btf::from_sys_fs()?;
    Ok(TYPES.get_or_init(|| types))
}

fn attach(ebpf: &mut Ebpf, name: &str, hook: Hook) -> Result<()> {
    let program = ebpf.program_mut(name).context("it is not there")?;
    match hook {
        Hook::Lsm(hook) => {
            let program: &mut Lsm = program.try_into()?;
            program.load(hook, types()?)?;
            program.attach()?;
        }
        Hook::Tracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = program.try_into()?;
            program.load(tracepoint, types()?)?;
            program.attach()?;
        }
        Hook::Entry(function) => {
            let program: &mut FEntry = program.try_into()?;
            program.load(function, types()?)?;
            program.attach()?;
        }
        Hook::Function(function) | Hook::Return(function) => {
            let program: &mut KProbe = program.try_into()?;
            program.load()?;
            program.attach(function, 0)?;
        }
    }
    Ok(())
}
