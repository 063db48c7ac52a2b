//! Where programs are attached, as the kernel numbers it among its types.
//!
//! aya finds these numbers by name, in a table that it parses of all the kernel's types and reads through for each name:
//! two thirds of what loading costs beside the verifier. We have been through the types already, and give it a table in
//! which nothing is named but these.

use aya::{Btf, BtfError, Endianness};

use super::{
    Error,
    offsets::{HOOK, Types, VMLINUX_BTF},
};
use crate::util::error_chain;

/// How the kernel names a tracepoint's type (`include/trace/bpf_probe.h`).
const TRACEPOINT: &str = "btf_trace_";

/// Kinds of types (`BTF_KIND_*`, `include/uapi/linux/btf.h`): one for all that is not named, …
const FORWARD: u32 = 7;
/// … a tracepoint's, and …
const TYPEDEF: u32 = 8;
/// … a hook's.
const FUNCTION: u32 = 12;

/// A table with these hooks and tracepoints, as far as the kernel has them.
pub(super) fn table(types: &Types, hooks: &[&str], tracepoints: &[&str]) -> Result<Btf, Error> {
    let hooks = hooks.iter().map(|name| (FUNCTION, format!("{HOOK}{name}")));
    let tracepoints = tracepoints
        .iter()
        .map(|name| (TYPEDEF, format!("{TRACEPOINT}{name}")));
    let named: Vec<Point> = hooks
        .chain(tracepoints)
        .flat_map(|(kind, name)| {
            let numbers = types.numbers(&name).iter();
            numbers.map(move |number| Point {
                number: *number,
                kind,
                name: name.clone(),
            })
        })
        .collect();
    of(&named)
}

/// One of them.
pub(super) struct Point {
    number: u32,
    kind: u32,
    name: String,
}

impl Point {
    /// A tracepoint, by [`number_of_tracepoint`].
    pub(super) fn tracepoint(name: &str, number: u32) -> Self {
        Self {
            number,
            kind: TYPEDEF,
            name: format!("{TRACEPOINT}{name}"),
        }
    }

    /// A function.
    pub(super) fn function(name: &str, number: u32) -> Self {
        Self {
            number,
            kind: FUNCTION,
            name: name.into(),
        }
    }
}

/// The kernel's number of a tracepoint's type.
pub(super) fn number_of_tracepoint(types: &Types, name: &str) -> Result<u32, Error> {
    types.number(&format!("{TRACEPOINT}{name}"))
}

/// A table with these.
pub(super) fn of(points: &[Point]) -> Result<Btf, Error> {
    written(points).map_err(|e| Error::Btf {
        what: VMLINUX_BTF.into(),
        cause: error_chain(&e),
    })
}

fn written(points: &[Point]) -> Result<Btf, BtfError> {
    // (number 0 is `void`, and not written)
    let count = points.iter().map(|point| point.number).max().unwrap_or(0);
    let mut types = vec![[0, FORWARD << 24, 0]; count as usize];
    let mut strings = vec![0];
    for point in points {
        types[point.number as usize - 1] = [length(&strings), point.kind << 24, 0];
        strings.extend(point.name.bytes().chain([0]));
    }
    Btf::parse(&bytes(&types, &strings), Endianness::default())
}

/// A table in its form as bytes: `struct btf_header`, types of three words each (name, kind, none), strings.
fn bytes(types: &[[u32; 3]], strings: &[u8]) -> Vec<u8> {
    const MAGIC_AND_VERSION: u32 = 0x0001_eb9f;
    let types: &[u8] = bytemuck::cast_slice(types);
    let header = [
        MAGIC_AND_VERSION,
        6 * u32::BITS / 8,
        0,
        length(types),
        length(types),
        length(strings),
    ];
    [bytemuck::cast_slice(&header), types, strings].concat()
}

/// (What is longer is no table, and aya says so.)
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use aya_obj::btf::BtfKind;

    use super::*;

    #[test]
    fn every_point_has_the_kernels_number() {
        let point = |number, kind, name: &str| Point {
            number,
            kind,
            name: name.into(),
        };
        let table = of(&[
            point(90_001, FUNCTION, "bpf_lsm_file_open"),
            point(1, TYPEDEF, "btf_trace_sched_process_exec"),
            point(77, FUNCTION, "bpf_lsm_bpf"),
        ])
        .unwrap();
        let find = |name, kind| table.id_by_type_name_kind(name, kind).ok();
        assert_eq!(find("bpf_lsm_file_open", BtfKind::Func), Some(90_001));
        assert_eq!(find("bpf_lsm_bpf", BtfKind::Func), Some(77));
        let tracepoint = "btf_trace_sched_process_exec";
        assert_eq!(find(tracepoint, BtfKind::Typedef), Some(1));
        assert_eq!(find(tracepoint, BtfKind::Func), None);
        assert_eq!(find("bpf_lsm_path_notify", BtfKind::Func), None);
    }

    #[test]
    fn without_points_it_is_a_table_still() {
        let table = of(&[]).unwrap();
        assert!(
            table
                .id_by_type_name_kind("bpf_lsm_bpf", BtfKind::Func)
                .is_err()
        );
    }
}
