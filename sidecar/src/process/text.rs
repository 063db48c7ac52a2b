//! What the text files of `/proc/<pid>` say. Names and paths in them are bytes, not always UTF-8: the
//! kernel cuts a program's name at 15 bytes, be that amid a letter.

use std::{
    collections::BTreeMap, ffi::OsStr, ops::Range, os::unix::ffi::OsStrExt as _, path::PathBuf,
};

/// `startstack` in `stat`, counted from the state after the name (`proc_pid_stat(5)`).
const START_STACK_AFTER_NAME: usize = 25;

/// `ppid`, counted likewise.
const PARENT_AFTER_NAME: usize = 1;

/// `starttime`, counted likewise.
const STARTED_AFTER_NAME: usize = 19;

/// `env_start`, counted likewise; `env_end` follows.
const ENV_START_AFTER_NAME: usize = 47;

/// Bytes the stack may grow to, of `limits`: the soft limit.
pub(crate) fn stack_limit(limits: &[u8]) -> Option<u64> {
    match words(value(limits, b"Max stack size")?).next()? {
        b"unlimited" => Some(u64::MAX),
        number => parse(number),
    }
}

/// Where the stack began, of `stat`.
pub(crate) fn start_stack(stat: &[u8]) -> Option<u64> {
    parse(after_name(stat)?.nth(START_STACK_AFTER_NAME)?)
}

/// When it started, on the boot clock, in ticks (hundredths of a second), of `stat`.
pub(crate) fn started(stat: &[u8]) -> Option<u64> {
    parse(after_name(stat)?.nth(STARTED_AFTER_NAME)?)
}

/// Its `comm`, of `stat`.
pub(crate) fn name(stat: &[u8]) -> Option<&[u8]> {
    let begin = stat.iter().position(|byte| *byte == b'(')?;
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    stat.get(begin + 1..end)
}

/// Number of its parent, of `stat`; 0 for one outside of the PID namespace.
pub(crate) fn parent_of(stat: &[u8]) -> Option<u32> {
    parse(after_name(stat)?.nth(PARENT_AFTER_NAME)?)
}

/// Whether it has ended, and only its number is still there, of `stat`.
pub(crate) fn has_ended(stat: &[u8]) -> bool {
    let state = after_name(stat).and_then(|mut fields| fields.next());
    matches!(state, Some(b"Z" | b"X"))
}

/// Where the environment is in memory, of `stat`.
pub(crate) fn environment(stat: &[u8]) -> Option<Range<u64>> {
    let mut fields = after_name(stat)?.skip(ENV_START_AFTER_NAME);
    let range = parse(fields.next()?)?..parse(fields.next()?)?;
    (range.start <= range.end).then_some(range)
}

/// The fields of `stat` from the state on.
fn after_name(stat: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    // The name is in brackets, and may have some of its own.
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    Some(words(&stat[end + 1..]))
}

/// Number of the process that traces it, of `status`.
pub(crate) fn tracer(status: &[u8]) -> Option<u32> {
    let pid = words(value(status, b"TracerPid:")?).next()?;
    parse(pid).filter(|pid| *pid != 0)
}

/// Whether what system calls it makes is filtered (seccomp), of `status`.
pub(crate) fn has_filter(status: &[u8]) -> bool {
    // (a kernel without seccomp has no such line)
    let mode = value(status, b"Seccomp:").and_then(|line| words(line).next());
    mode.is_some_and(|mode| mode != b"0")
}

/// Number of its parent, of `status`; 0 for one outside of the PID namespace.
pub(crate) fn parent(status: &[u8]) -> Option<u32> {
    parse(words(value(status, b"PPid:")?).next()?)
}

/// A pod's labels as the kubelet writes them into a file: `key="value"`, a line each. (Neither has a letter that is escaped.)
pub(crate) fn labels(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let (key, value) = line.split_once('=')?;
            let value = value.strip_prefix('"')?.strip_suffix('"')?;
            Some((key.to_owned(), value.to_owned()))
        })
        .collect()
}

/// What a script has the kernel run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interpreter {
    /// The program.
    pub(crate) path: PathBuf,
    /// What it is given before the script's path, if anything: the rest of the line, in one.
    pub(crate) argument: Option<Vec<u8>>,
}

/// How far the kernel looks for it, in bytes: all of its buffer but the last (`BINPRM_BUF_SIZE`).
pub(crate) const FIRST_LINE: usize = 255;

/// The interpreter that a script's first bytes name, as the kernel reads them (`load_script`,
/// `fs/binfmt_script.c`); `None` of what is no script.
pub(crate) fn interpreter(script: &[u8]) -> Option<Interpreter> {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let line = script[..script.len().min(FIRST_LINE)]
        .strip_prefix(b"#!")?
        .split(|byte| *byte == b'\n')
        .next()?;
    let begin = line.iter().position(|byte| !is_space(byte))?;
    let last = line.iter().rposition(|byte| !is_space(byte))?;
    let line = line[begin..=last].split(|byte| *byte == 0).next()?;
    let end = line.iter().position(is_space).unwrap_or(line.len());
    let (path, rest) = line.split_at(end);
    if path.is_empty() {
        return None;
    }
    let argument = rest.iter().position(|byte| !is_space(byte));
    Some(Interpreter {
        path: OsStr::from_bytes(path).into(),
        argument: argument.map(|at| rest[at..].to_vec()),
    })
}

/// What follows on the line that begins like this.
fn value<'t>(text: &'t [u8], start: &[u8]) -> Option<&'t [u8]> {
    text.split(|byte| *byte == b'\n')
        .find_map(|line| line.strip_prefix(start))
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

fn parse<T: std::str::FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

/// Of a line of `/proc/<pid>/maps` the addresses, where a file is mapped there to be executed (`proc_pid_maps(5)`).
pub(super) fn range_of_code(line: &[u8]) -> Option<&str> {
    let mut words = line.split(|byte| *byte == b' ');
    let (range, rights) = (words.next()?, words.next()?);
    let (_offset, _device, inode) = (words.next()?, words.next()?, words.next()?);
    (rights.contains(&b'x') && inode != b"0").then_some(())?;
    str::from_utf8(range).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_is_told_from_other_memory() {
        let code = b"7f0c2a000000-7f0c2a150000 r-xp 00026000 fd:00 1835 /usr/lib/libc.so.6";
        assert_eq!(range_of_code(code), Some("7f0c2a000000-7f0c2a150000"));
        for other in [
            &b"7f0c2a000000-7f0c2a150000 r--p 00026000 fd:00 1835   /usr/lib/libc.so.6"[..],
            b"7ffc5a5f2000-7ffc5a5f4000 r-xp 00000000 00:00 0    [vdso]",
            b"",
            b"a b",
        ] {
            assert_eq!(range_of_code(other), None);
        }
    }

    /// "zehnmalzehnfüßé", cut at 15 bytes.
    const CUT: &[u8] = b"zehnmalzehnf\xc3\xbc\xc3";

    fn around_name(before: &str, after: &str) -> Vec<u8> {
        [before.as_bytes(), CUT, after.as_bytes()].concat()
    }

    #[test]
    fn a_scripts_first_line_names_its_interpreter() {
        let of = |script: &str| {
            let found = interpreter(script.as_bytes())?;
            let argument = found.argument.map(|text| String::from_utf8(text).unwrap());
            Some((
                found.path.to_str().unwrap().to_owned(),
                argument.unwrap_or_default(),
            ))
        };
        let is = |path: &str, argument: &str| Some((path.into(), argument.into()));
        assert_eq!(of("#!/bin/sh\necho"), is("/bin/sh", ""));
        let env = "#! \t/usr/bin/env -S python3  -u \t\n";
        assert_eq!(of(env), is("/usr/bin/env", "-S python3  -u"));
        assert_eq!(of("#!/bin/sh"), is("/bin/sh", ""));
        assert_eq!(of("#!/bin/sh\0 -e\n"), is("/bin/sh", ""));
        assert_eq!(of("#!/bin/sh -e\0x\n"), is("/bin/sh", "-e"));
        let long = format!("#!/bin/sh {}\n", "x".repeat(300));
        assert_eq!(of(&long), is("/bin/sh", &"x".repeat(FIRST_LINE - 10)));
        for none in [
            "",
            "#",
            "#!",
            "#! \n/bin/sh",
            "#!\0/bin/sh",
            "\u{7f}ELF #!/bin/sh",
            " #!/bin/sh",
        ] {
            assert_eq!(of(none), None, "{none:?}");
        }
    }

    #[test]
    fn a_name_cut_amid_a_letter_hides_nothing() {
        let fields: Vec<_> = (1..50).map(|n| n.to_string()).collect();
        let stat = around_name("7 (", &format!(") S {}\n", fields.join(" ")));
        assert_eq!(start_stack(&stat), Some(25));
        assert_eq!(started(&stat), Some(19));
        let status = around_name("Name:\t", "\nUmask:\t0022\nTracerPid:\t7\nUid:\t0\n");
        assert_eq!(tracer(&status), Some(7));
    }

    #[test]
    fn brackets_in_a_name_move_no_field() {
        let fields: Vec<_> = (1..50).map(|n| n.to_string()).collect();
        let fields = fields.join(" ");
        assert_eq!(
            start_stack(format!("7 (a) (b) S {fields}").as_bytes()),
            Some(25)
        );
        assert_eq!(
            environment(format!("7 (a) (b) S {fields}").as_bytes()),
            Some(47..48)
        );
        assert_eq!(environment(b"7 (a) S 1 2 3"), None);
        assert!(has_ended(b"7 (a) b) Z 1 2 3") && !has_ended(b"7 (a) Z) S 1 2 3"));
        assert_eq!(start_stack(b"7 (a) S 1 2 3"), None);
        assert_eq!(start_stack(b""), None);
    }

    #[test]
    fn nobody_traces_it() {
        assert_eq!(tracer(b"Name:\ta\nTracerPid:\t0\n"), None);
        assert_eq!(tracer(b"Name:\ta\n"), None);
    }

    #[test]
    fn a_filter_of_system_calls_is_told_by_its_mode() {
        assert!(has_filter(
            b"NoNewPrivs:\t0\nSeccomp:\t2\nSeccomp_filters:\t1\n"
        ));
        assert!(!has_filter(b"Seccomp:\t0\nSeccomp_filters:\t0\n"));
        assert!(!has_filter(b"Name:\ta\n"));
    }

    #[test]
    fn a_parent_and_labels() {
        assert_eq!(parent(b"Name:\ta\nPid:\t7\nPPid:\t0\n"), Some(0));
        assert_eq!(parent(b"Name:\ta\n"), None);
        let found = labels("app=\"shop\"\nexample.com/tier=\"\"\nbroken=shop\n\n");
        let found: Vec<_> = found
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_str()))
            .collect();
        assert_eq!(found, [("app", "shop"), ("example.com/tier", "")]);
    }

    #[test]
    fn the_soft_limit_is_taken() {
        let limits =
            |soft: &str| format!("Limit  Soft Limit\nMax stack size   {soft}   99  bytes\n");
        assert_eq!(stack_limit(limits("8388608").as_bytes()), Some(8_388_608));
        assert_eq!(stack_limit(limits("unlimited").as_bytes()), Some(u64::MAX));
        assert_eq!(stack_limit(limits("many").as_bytes()), None);
    }
}
