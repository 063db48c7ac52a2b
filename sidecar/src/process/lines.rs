//! Texts of the kernel that others can make long, read line by line: `mountinfo` has a line for every mount that somebody
//! made, and each may be as long as two paths.

use std::{
    io::{self, Read},
    ops::ControlFlow,
};

/// What is read at a time, and kept of a text, in bytes, unless a line is longer.
const ROOM: usize = 8 * 1024;
/// The longest line that is looked at: two paths of 4,096 bytes, each of them written as four, and options.
const LONGEST: usize = 64 * 1024;
/// The longest text that is read, in bytes: some 80,000 mounts of a usual length. (A container has fewer than a hundred.)
pub(crate) const LONGEST_TEXT: u64 = 8 * 1024 * 1024;

/// The same of a text that others hardly make longer: the longest are a process's groups, 65,536 in one line.
pub(crate) const LONGEST_SHORT_TEXT: u64 = 1024 * 1024;

/// Looks at each line, without its end, until `each` breaks off. A line that is too long is left out; a text that is too long
/// is an error, when its first lines have been looked at.
pub(crate) fn each_line(
    text: impl Read,
    longest_text: u64,
    mut each: impl FnMut(&[u8]) -> ControlFlow<()>,
) -> io::Result<()> {
    let mut text = text.take(longest_text.saturating_add(1));
    let mut room = vec![0; ROOM];
    let (mut have, mut total) = (0, 0);
    let mut is_too_long = false;
    loop {
        if have == room.len() {
            if have >= LONGEST {
                (have, is_too_long) = (0, true);
            } else {
                room.resize(room.len() * 2, 0);
            }
        }
        let read = match text.read(&mut room[have..]) {
            Ok(read) => read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        total += read as u64;
        if total > longest_text {
            return Err(too_long(longest_text));
        }
        have += read;
        let mut begin = 0;
        while let Some(end) = room[begin..have].iter().position(|byte| *byte == b'\n') {
            let line = &room[begin..begin + end];
            if !std::mem::take(&mut is_too_long) && each(line).is_break() {
                return Ok(());
            }
            begin += end + 1;
        }
        if read == 0 {
            if begin < have && !is_too_long {
                let _ = each(&room[begin..have]);
            }
            return Ok(());
        }
        room.copy_within(begin..have, 0);
        have -= begin;
    }
}

/// All of a text, unless it is longer than that.
pub(crate) fn whole(text: impl Read, longest: u64) -> io::Result<Vec<u8>> {
    let mut whole = Vec::new();
    text.take(longest.saturating_add(1))
        .read_to_end(&mut whole)?;
    if whole.len() as u64 > longest {
        return Err(too_long(longest));
    }
    Ok(whole)
}

fn too_long(longest: u64) -> io::Error {
    io::Error::new(
        io::ErrorKind::FileTooLarge,
        format!("it is longer than {longest} bytes, and not read to its end"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], longest: u64) -> (Vec<Vec<u8>>, io::Result<()>) {
        let mut found = Vec::new();
        let done = each_line(text, longest, |line| {
            found.push(line.to_vec());
            ControlFlow::Continue(())
        });
        (found, done)
    }

    #[test]
    fn every_line_is_seen_whole() {
        let long = "x".repeat(3 * ROOM);
        let text = format!("one\n\n{long}\nlast");
        let (found, done) = lines(text.as_bytes(), LONGEST_TEXT);
        done.unwrap();
        let wanted = ["one", "", &long, "last"].map(|line| line.as_bytes().to_vec());
        assert_eq!(found, wanted);
        assert!(lines(b"", 10).0.is_empty());
    }

    #[test]
    fn a_line_without_end_takes_no_more_room() {
        let long = "x".repeat(5 * LONGEST);
        let text = format!("one\n{long}\ntwo\n{long}");
        let (found, done) = lines(text.as_bytes(), LONGEST_TEXT);
        done.unwrap();
        assert_eq!(found, [b"one".to_vec(), b"two".to_vec()]);
    }

    #[test]
    fn a_text_without_end_is_an_error() {
        let endless = io::repeat(b'\n');
        let mut count = 0;
        let done = each_line(endless, 1000, |_| {
            count += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        assert!(count <= 1001);
        assert!(whole(io::repeat(b'x'), 1000).is_err());
        assert_eq!(whole(&b"text"[..], 4).unwrap(), b"text");
    }

    #[test]
    fn who_has_seen_enough_reads_no_further() {
        let mut count = 0;
        each_line(io::repeat(b'\n'), u64::MAX, |_| {
            count += 1;
            ControlFlow::Break(())
        })
        .unwrap();
        assert_eq!(count, 1);
    }
}
