//! What `fixtures/stack` tells of the stack it was started with.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};

/// Kinds of entries of the auxiliary vector, of which what they point to is looked at.
pub const AT_PLATFORM: u64 = 15;
pub const AT_BASE_PLATFORM: u64 = 24;
pub const AT_RANDOM: u64 = 25;
pub const AT_EXECFN: u64 = 31;
const AT_NULL: u64 = 0;
/// Bytes that `AT_RANDOM` points to.
const RANDOM_BYTES: usize = 16;
/// Pieces that a dump has.
const PARTS: usize = 5;

/// The initial stack of a program, and what `/proc/self` said of it.
#[derive(Debug)]
pub struct Dump {
    /// Where it begins.
    pub pointer: u64,
    pub arguments: Vec<Vec<u8>>,
    pub variables: Vec<Vec<u8>>,
    /// Where the arguments are.
    pub argument_pointers: Vec<u64>,
    pub auxv: Vec<(u64, u64)>,
    pub proc_auxv: Vec<(u64, u64)>,
    pub proc_cmdline: Vec<u8>,
    pub proc_environ: Vec<u8>,
    memory: Vec<u8>,
}

impl Dump {
    /// Reads what it wrote; pointers are `width` bytes wide.
    pub fn parse(bytes: &[u8], width: usize) -> Result<Self> {
        let mut rest = bytes;
        let mut parts = Vec::new();
        for part in 0..PARTS {
            parts.push(pieces(&mut rest).with_context(|| format!("part {part} is cut off"))?);
        }
        let [pointer, memory, auxv, cmdline, environ] =
            <[_; PARTS]>::try_from(parts).expect("so many");
        let words = |bytes: &[u8]| -> Vec<u64> { bytes.chunks_exact(width).map(number).collect() };
        let mut found = Self {
            pointer: number(&pointer),
            arguments: Vec::new(),
            variables: Vec::new(),
            argument_pointers: Vec::new(),
            auxv: Vec::new(),
            proc_auxv: entries(&mut words(&auxv).into_iter()),
            proc_cmdline: cmdline,
            proc_environ: environ,
            memory,
        };
        let all = words(&found.memory);
        let mut words = all.into_iter();
        let count = words.next().context("no argc")?;
        let take = |words: &mut dyn Iterator<Item = u64>| -> Result<(Vec<u64>, Vec<_>)> {
            let pointers: Vec<u64> = words.take_while(|word| *word != 0).collect();
            let strings = pointers.iter().map(|pointer| found.string(*pointer));
            let strings = strings.collect::<Result<Vec<_>>>()?;
            Ok((pointers, strings))
        };
        let (argument_pointers, arguments) = take(&mut words)?;
        let (_, variables) = take(&mut words)?;
        ensure!(
            arguments.len() as u64 == count,
            "argc is {count}, and there are {} arguments",
            arguments.len()
        );
        (found.argument_pointers, found.arguments) = (argument_pointers, arguments);
        found.variables = variables;
        found.auxv = entries(&mut words);
        Ok(found)
    }

    /// The NUL-terminated string at an address.
    fn string(&self, address: u64) -> Result<Vec<u8>> {
        let text = self.at(address)?.split(|byte| *byte == 0).next();
        Ok(text.unwrap_or_default().to_vec())
    }

    fn at(&self, address: u64) -> Result<&[u8]> {
        let offset = address.checked_sub(self.pointer);
        offset
            .and_then(|offset| self.memory.get(usize::try_from(offset).ok()?..))
            .filter(|rest| !rest.is_empty())
            .with_context(|| format!("{address:#x} is not in its stack from {:#x}", self.pointer))
    }

    fn aux(&self, kind: u64) -> Option<u64> {
        self.auxv
            .iter()
            .find(|entry| entry.0 == kind)
            .map(|entry| entry.1)
    }

    /// What the entries of the auxiliary vector that are addresses of strings lead to.
    pub fn texts(&self) -> Result<BTreeMap<u64, Vec<u8>>> {
        let kinds = [AT_PLATFORM, AT_BASE_PLATFORM, AT_EXECFN];
        let there = kinds
            .into_iter()
            .filter_map(|kind| Some((kind, self.aux(kind)?)));
        there
            .map(|(kind, address)| Ok((kind, self.string(address)?)))
            .collect()
    }

    /// What `AT_RANDOM` leads to.
    pub fn random(&self) -> Result<&[u8]> {
        let address = self.aux(AT_RANDOM).context("no AT_RANDOM")?;
        self.at(address)?
            .get(..RANDOM_BYTES)
            .context("AT_RANDOM is cut off")
    }
}

fn pieces(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (piece, after) = after.split_at_checked(length)?;
        *rest = after;
        if piece.is_empty() {
            return Some(whole);
        }
        whole.extend_from_slice(piece);
    }
}

fn number(bytes: &[u8]) -> u64 {
    let mut whole = [0; 8];
    whole[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(whole)
}

/// Up to the one that ends them.
fn entries(words: &mut dyn Iterator<Item = u64>) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    while let (Some(kind), Some(value)) = (words.next(), words.next()) {
        found.push((kind, value));
        if kind == AT_NULL {
            break;
        }
    }
    found
}
