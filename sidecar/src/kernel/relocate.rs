//! Writes the running kernel's field offsets into our programs' instructions, before they are loaded.
//!
//! This is what CO-RE relocations do for programs in C; rustc emits none.

use object::{Object as _, ObjectSection as _, SectionKind};
use sidecar_common::{
    layout::{OFFSET_IN_IMMEDIATE, OFFSET_IN_LOAD, Offsets},
    network::{NETWORK_OFFSET_IN_IMMEDIATE, NETWORK_OFFSET_IN_LOAD, NetworkOffsets},
};

use super::Error;

/// Bytes of an instruction (`struct bpf_insn`): code, registers, 16 bits offset, 32 bits immediate.
const INSTRUCTION: usize = 8;
/// `BPF_LD | BPF_DW | BPF_IMM`, which takes two instructions.
const LOAD_IMMEDIATE: u8 = 0x18;
/// `BPF_LDX | BPF_MEM`, of 4, 2, 1 and 8 bytes.
const LOADS: [u8; 4] = [0x61, 0x69, 0x71, 0x79];
/// `BPF_MOV | BPF_K`, of 8 and 4 bytes.
const MOVES: [u8; 2] = [0xb7, 0xb4];

/// The object with every offset in its place; `network` is what only the network monitor's has.
pub(super) fn relocate(
    object: &[u8],
    offsets: &Offsets,
    network: Option<&NetworkOffsets>,
) -> Result<Vec<u8>, Error> {
    let broken = |cause: String| Error::Load {
        what: "the kernel object".into(),
        cause,
    };
    let file = object::File::parse(object).map_err(|e| broken(e.to_string()))?;
    let mut relocated = object.to_vec();
    for section in file.sections().filter(|s| s.kind() == SectionKind::Text) {
        let text = section
            .file_range()
            .and_then(|(from, size)| {
                let from = usize::try_from(from).ok()?;
                relocated.get_mut(from..from.checked_add(usize::try_from(size).ok()?)?)
            })
            .ok_or_else(|| broken("a section lies outside of it".into()))?;
        relocate_text(text, offsets, network).map_err(broken)?;
    }
    Ok(relocated)
}

fn relocate_text(
    text: &mut [u8],
    offsets: &Offsets,
    network: Option<&NetworkOffsets>,
) -> Result<(), String> {
    let shared = fields_of(std::slice::from_ref(offsets));
    let own = fields_of(network.map_or(&[], std::slice::from_ref));
    // Which of the fields a mark stands for.
    let field_of = |fields: &[u32], mark: i64| {
        let at = usize::try_from(mark).ok()?;
        fields.get(at / size_of::<u32>()).copied()
    };
    let field = |number: i64, shared_from: i64, own_from: i64| {
        field_of(shared, number - shared_from).or_else(|| field_of(own, number - own_from))
    };
    let loaded = |offset: i16| {
        let (shared, own) = (OFFSET_IN_LOAD, NETWORK_OFFSET_IN_LOAD);
        field(offset.into(), shared.into(), own.into())
    };
    let immediate_field = |immediate: i32| {
        let (shared, own) = (OFFSET_IN_IMMEDIATE, NETWORK_OFFSET_IN_IMMEDIATE);
        field(immediate.into(), shared.into(), own.into())
    };
    let mut instructions = text.chunks_exact_mut(INSTRUCTION);
    while let Some([code, _, o0, o1, i0, i1, i2, i3]) = instructions.next() {
        let offset = i16::from_le_bytes([*o0, *o1]);
        let immediate = i32::from_le_bytes([*i0, *i1, *i2, *i3]);
        if *code == LOAD_IMMEDIATE {
            instructions.next();
        } else if LOADS.contains(code)
            && let Some(value) = loaded(offset)
        {
            let value = i16::try_from(value).map_err(|_| {
                format!("a field at offset {value} is out of an instruction's reach")
            })?;
            [*o0, *o1] = value.to_le_bytes();
        } else if MOVES.contains(code)
            && let Some(value) = immediate_field(immediate)
        {
            [*i0, *i1, *i2, *i3] = value.to_le_bytes();
        }
    }
    Ok(())
}

fn fields_of<T: bytemuck::NoUninit>(offsets: &[T]) -> &[u32] {
    bytemuck::cast_slice(offsets)
}

#[cfg(test)]
mod tests {
    use std::mem::offset_of;

    use bytemuck::Zeroable as _;

    use super::*;

    fn offsets() -> Offsets {
        Offsets {
            sb_magic: 96,
            sb_dev: 16,
            ..Offsets::zeroed()
        }
    }

    fn instruction(code: u8, offset: i16, immediate: i32) -> [u8; INSTRUCTION] {
        let ([o0, o1], [i0, i1, i2, i3]) = (offset.to_le_bytes(), immediate.to_le_bytes());
        [code, 0x21, o0, o1, i0, i1, i2, i3]
    }

    fn relocated(text: &[[u8; INSTRUCTION]]) -> Vec<[u8; INSTRUCTION]> {
        let mut bytes = text.concat();
        let network = NetworkOffsets {
            net_inum: 136,
            ..NetworkOffsets::zeroed()
        };
        relocate_text(&mut bytes, &offsets(), Some(&network)).unwrap();
        bytemuck::cast_slice(&bytes).to_vec()
    }

    #[test]
    fn an_offset_goes_where_its_mark_is() {
        let magic = i16::try_from(offset_of!(Offsets, sb_magic)).unwrap();
        let dev = i32::try_from(offset_of!(Offsets, sb_dev)).unwrap();
        let inum = i32::try_from(offset_of!(NetworkOffsets, net_inum)).unwrap();
        let short_inum = i16::try_from(inum).unwrap();
        assert_eq!(
            relocated(&[
                instruction(0x79, OFFSET_IN_LOAD + magic, 7),
                instruction(0xb7, 5, OFFSET_IN_IMMEDIATE + dev),
                instruction(0xb7, 5, NETWORK_OFFSET_IN_IMMEDIATE + inum),
                instruction(0x61, NETWORK_OFFSET_IN_LOAD + short_inum, 7),
            ]),
            [
                instruction(0x79, 96, 7),
                instruction(0xb7, 5, 16),
                instruction(0xb7, 5, 136),
                instruction(0x61, 136, 7),
            ]
        );
    }

    #[test]
    fn what_is_no_mark_stays() {
        let end = i16::try_from(size_of::<Offsets>()).unwrap();
        let text = [
            instruction(0x79, OFFSET_IN_LOAD - 1, OFFSET_IN_IMMEDIATE),
            instruction(0x79, OFFSET_IN_LOAD + end, 0),
            instruction(0xb7, OFFSET_IN_LOAD, OFFSET_IN_IMMEDIATE - 1),
            // the second half of a load of 64 bits is a number, whatever it looks like
            instruction(LOAD_IMMEDIATE, 0, OFFSET_IN_IMMEDIATE),
            instruction(0xb7, 0, OFFSET_IN_IMMEDIATE),
        ];
        assert_eq!(relocated(&text), text);
    }

    #[test]
    fn an_offset_out_of_reach_is_an_error() {
        let far = Offsets {
            sb_dev: 40_000,
            ..Offsets::zeroed()
        };
        let dev = i16::try_from(offset_of!(Offsets, sb_dev)).unwrap();
        let mut text = instruction(0x61, OFFSET_IN_LOAD + dev, 0);
        assert!(
            relocate_text(&mut text, &far, None)
                .unwrap_err()
                .contains("40000")
        );
    }

    #[test]
    fn an_object_that_is_none_is_an_error() {
        assert!(relocate(b"\x7fELF, it says", &offsets(), None).is_err());
    }
}
