//! A call's arguments, as an event tells them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::libc;
use sidecar_common::syscall::{Syscall, TEXT_BYTES};

use crate::{
    config::{
        self,
        calls::{Call, Meaning},
    },
    monitor::names::unix_name,
    observe::{Argument, Arguments},
};

/// By the kernel's names for them. What a call does not look at is left out: it is whatever was in a register.
pub(super) fn of(call: &Call, record: &Syscall) -> Arguments {
    let mut texts = record.texts.iter().zip(record.text_lengths);
    let mut arguments = Vec::with_capacity(call.arguments.len());
    let makes_file = makes_file(call.arguments, &record.arguments);
    for (argument, value) in call.arguments.iter().zip(record.arguments) {
        let told = match argument.1 {
            Meaning::Mode if !makes_file => continue,
            Meaning::Words(fields) => words(fields, &record.address, record.address_length)
                .unwrap_or_else(|| pointer(value)),
            Meaning::Text => {
                let read = texts.next().and_then(|(bytes, length)| text(bytes, length));
                read.map_or_else(|| pointer(value), Argument::Text)
            }
            Meaning::Address | Meaning::AddressOut | Meaning::Message => {
                address(&record.address, record.address_length).unwrap_or_else(|| pointer(value))
            }
            meaning => by_value(meaning, value),
        };
        arguments.push((argument.0, told));
    }
    Arguments(arguments)
}

/// One for which nothing of the program's memory is asked.
fn by_value(meaning: Meaning, value: u64) -> Argument {
    match meaning {
        // as wide as a register, and with a sign; those of 32 bits may have anything above
        Meaning::Offset => Argument::Number(value.cast_signed()),
        Meaning::Folder if low(value) == libc::AT_FDCWD => Argument::Text("AT_FDCWD".into()),
        Meaning::Number | Meaning::Descriptor | Meaning::Folder => {
            Argument::Number(low(value).into())
        }
        Meaning::Short => Argument::Number(short(value).into()),
        Meaning::Size => Argument::Size(value),
        Meaning::Mode => Argument::Text(format!("{:04o}", value & 0o7777)),
        Meaning::Signal => signal(low(value)),
        Meaning::Bits(bits) => Argument::Text(bits.text(value)),
        Meaning::Pointer
        | Meaning::Text
        | Meaning::Address
        | Meaning::AddressOut
        | Meaning::Message
        | Meaning::Words(_) => pointer(value),
    }
}

/// A structure's fields, as many as were read; but for its flags, those that are 0 say nothing.
fn words(fields: &[config::calls::Argument], bytes: &[u8], length: u16) -> Option<Argument> {
    let bytes = bytes.get(..usize::from(length))?;
    let (values, _) = bytes.as_chunks();
    let values: Vec<u64> = values.iter().copied().map(u64::from_ne_bytes).collect();
    values.first()?;
    let makes_file = makes_file(fields, &values);
    let told = fields.iter().zip(values).filter(|(field, value)| {
        let is_looked_at = !matches!(field.1, Meaning::Mode) || makes_file;
        is_looked_at && (*value != 0 || matches!(field.1, Meaning::Mode) || field.0 == "flags")
    });
    let told = told.map(|(field, value)| (field.0, by_value(field.1, value)));
    Some(Argument::Fields(Arguments(told.collect())))
}

/// Whether a mode is looked at.
fn makes_file(arguments: &[config::calls::Argument], values: &[u64]) -> bool {
    let flags = arguments.iter().zip(values);
    let mut flags = flags.filter(|(argument, _)| argument.0 == "flags");
    flags.next().is_none_or(|(_, flags)| {
        let flags = low(*flags);
        flags & libc::O_CREAT != 0 || flags & libc::O_TMPFILE == libc::O_TMPFILE
    })
}

#[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
fn low(value: u64) -> i32 {
    (value as u32).cast_signed()
}

/// An id of 16 bits; -1, which leaves one as it is, has all of them set.
#[expect(clippy::cast_possible_truncation, reason = "the lower part is meant")]
fn short(value: u64) -> i32 {
    match value as u16 {
        u16::MAX => -1,
        id => id.into(),
    }
}

fn pointer(value: u64) -> Argument {
    Argument::Text(format!("{value:#x}"))
}

fn signal(number: i32) -> Argument {
    nix::sys::signal::Signal::try_from(number).map_or(Argument::Number(number.into()), |signal| {
        Argument::Text(signal.as_str().to_owned())
    })
}

/// A text that was read; one that was too long ends in `…`.
fn text(bytes: &[u8; TEXT_BYTES], length: u16) -> Option<String> {
    let length = usize::from(length);
    let text = bytes.get(..length.checked_sub(1)?)?;
    let mut text = String::from_utf8_lossy(text).into_owned();
    if length == TEXT_BYTES {
        text.push('…');
    }
    Some(text)
}

/// A `struct sockaddr`: `ip:port`, a path, `@name` of an abstract socket, or the family's number.
fn address(bytes: &[u8], length: u16) -> Option<Argument> {
    let bytes = bytes.get(..usize::from(length))?;
    let (family, rest) = bytes.split_first_chunk()?;
    let family = u16::from_ne_bytes(*family);
    let port = || Some(u16::from_be_bytes(*rest.first_chunk()?));
    let text = match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = *rest.get(2..)?.first_chunk()?;
            SocketAddr::new(IpAddr::V4(Ipv4Addr::from(octets)), port()?).to_string()
        }
        libc::AF_INET6 => {
            // (behind the port is the flow's label)
            let octets: [u8; 16] = *rest.get(6..)?.first_chunk()?;
            let ip = Ipv6Addr::from(octets).to_canonical();
            SocketAddr::new(ip, port()?).to_string()
        }
        libc::AF_UNIX => unix_name(rest),
        other => format!("family {other}"),
    };
    Some(Argument::Text(text))
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use sidecar_common::syscall::ADDRESS_BYTES;

    use super::*;
    use crate::config::calls;

    fn record(arguments: &[u64]) -> Syscall {
        let mut record = Syscall::zeroed();
        record.arguments[..arguments.len()].copy_from_slice(arguments);
        record
    }

    fn with_text(mut record: Syscall, at: usize, text: &[u8]) -> Syscall {
        record.texts[at][..text.len()].copy_from_slice(text);
        record.text_lengths[at] = u16::try_from(text.len() + 1).unwrap();
        record
    }

    fn json(name: &str, record: &Syscall) -> String {
        serde_json::to_string(&of(calls::find(name).unwrap(), record)).unwrap()
    }

    #[test]
    fn an_open_with_and_without_a_mode() {
        let folder = u64::from(libc::AT_FDCWD.cast_unsigned());
        let record = with_text(record(&[folder, 0x1000, 0, 0o1234]), 0, b"/etc/passwd");
        assert_eq!(
            json("openat", &record),
            r#"{"dfd":"AT_FDCWD","filename":"/etc/passwd","flags":"O_RDONLY"}"#
        );
        let creates = u64::from((libc::O_WRONLY | libc::O_CREAT).cast_unsigned());
        let record = Syscall {
            arguments: [3, 0x1000, creates, 0o644, 0, 0],
            ..record
        };
        assert_eq!(
            json("openat", &record),
            r#"{"dfd":3,"filename":"/etc/passwd","flags":"O_WRONLY|O_CREAT","mode":"0644"}"#
        );
    }

    #[test]
    fn a_structure_is_told_by_its_fields_as_far_as_it_was_read() {
        let with = |words: &[u64]| {
            let mut record = with_text(record(&[3, 0x1000, 0x2000, 24]), 0, b"file");
            for (at, word) in words.iter().enumerate() {
                record.address[8 * at..8 * (at + 1)].copy_from_slice(&word.to_ne_bytes());
            }
            record.address_length = u16::try_from(8 * words.len()).unwrap();
            record
        };
        let creates = u64::from((libc::O_WRONLY | libc::O_CREAT).cast_unsigned());
        assert_eq!(
            json("openat2", &with(&[creates, 0o600, 0x08])),
            r#"{"dfd":3,"filename":"file","how":{"flags":"O_WRONLY|O_CREAT","mode":"0600","resolve":"RESOLVE_BENEATH"},"usize":24}"#
        );
        assert_eq!(
            json("openat2", &with(&[0, 0, 0])),
            r#"{"dfd":3,"filename":"file","how":{"flags":"O_RDONLY"},"usize":24}"#
        );
        assert_eq!(
            json("openat2", &with(&[])),
            r#"{"dfd":3,"filename":"file","how":"0x2000","usize":24}"#
        );
        let mut record = with(&[0x1100, 0, 0, 0, 17, 0x7000, 4096]);
        record.arguments = [0x3000, 56, 0, 0, 0, 0];
        assert_eq!(
            json("clone3", &record),
            r#"{"uargs":{"flags":"CLONE_VM|CLONE_PIDFD","exit_signal":"SIGCHLD","stack":"0x7000","stack_size":4096},"size":56}"#
        );
    }

    #[test]
    fn what_is_behind_a_text_is_not_told() {
        let mut record = with_text(record(&[0x1000]), 0, b"short");
        record.texts[0][6..10].copy_from_slice(b"left");
        assert_eq!(json("unlink", &record), r#"{"pathname":"short"}"#);
        record.text_lengths[0] = 0;
        assert_eq!(json("unlink", &record), r#"{"pathname":"0x1000"}"#);
        record.texts[0] = [b'x'; TEXT_BYTES];
        record.text_lengths[0] = u16::try_from(TEXT_BYTES).unwrap();
        assert!(json("unlink", &record).ends_with("x…\"}"));
    }

    #[test]
    fn addresses() {
        let told = |bytes: &[u8]| {
            let mut all = [0xee; ADDRESS_BYTES];
            all[..bytes.len()].copy_from_slice(bytes);
            match address(&all, u16::try_from(bytes.len()).unwrap()) {
                Some(Argument::Text(text)) => text,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            told(&[2, 0, 0x1f, 0x90, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]),
            "127.0.0.1:8080"
        );
        let mut six = vec![10, 0, 0, 53, 0, 0, 0, 0];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([0; 4]);
        assert_eq!(told(&six), "[::1]:53");
        six[8..24].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().octets());
        assert_eq!(told(&six), "10.0.0.1:53");
        assert_eq!(told(b"\x01\0/run/socket\0junk"), "/run/socket");
        assert_eq!(told(b"\x01\0\0name"), "@name");
        assert_eq!(told(b"\x01\0"), "unnamed");
        assert_eq!(told(&[16, 0, 0, 0]), "family 16");
        assert!(address(&[2, 0, 0], 3).is_none());
        assert!(address(&[], 0).is_none());
    }

    #[test]
    fn an_id_of_16_bits_is_what_the_kernel_takes_it_for() {
        assert_eq!([0x1_0000, 0xffff, 0xfffe, 5].map(short), [0, -1, 0xfffe, 5]);
    }

    #[test]
    fn numbers_of_32_bits_have_a_sign() {
        let record = record(&[0xdead_0000_ffff_ffff, 15]);
        assert_eq!(json("kill", &record), r#"{"pid":-1,"sig":"SIGTERM"}"#);
    }
}
