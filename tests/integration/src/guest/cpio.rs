//! Writes the "newc" cpio archives that the kernel unpacks as its first file system.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written. Parent directories are added by themselves, and a path only once.
pub struct Archive<W: Write> {
    out: W,
    offset: u64,
    inode: u32,
    seen: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    /// An empty archive.
    pub fn new(out: W) -> Self {
        Self {
            out,
            offset: 0,
            inode: 0,
            seen: BTreeSet::new(),
        }
    }

    /// Whether something is at `path`, which is relative to the root and has no leading slash.
    pub fn contains(&self, path: &str) -> bool {
        self.seen.contains(path)
    }

    /// Adds a directory, and those above it.
    pub fn directory(&mut self, path: &str) -> io::Result<()> {
        if path.is_empty() || self.contains(path) {
            return Ok(());
        }
        self.entry(path, DIRECTORY | 0o755, 0, (0, 0)).map(drop)
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> io::Result<()> {
        if self.entry(path, SYMLINK | 0o777, target.len() as u64, (0, 0))? {
            self.data(target.as_bytes())?;
            self.pad()?;
        }
        Ok(())
    }

    /// Adds a character device, such as the console that the kernel opens for init.
    pub fn character_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.entry(path, CHARACTER | 0o600, 0, (major, minor))
            .map(drop)
    }

    /// Adds a file with the given content.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        if self.entry(
            path,
            REGULAR | (permissions & 0o7777),
            content.len() as u64,
            (0, 0),
        )? {
            self.data(content)?;
            self.pad()?;
        }
        Ok(())
    }

    /// Adds a copy of a file of this machine.
    pub fn file_from(&mut self, path: &str, permissions: u32, source: &Path) -> io::Result<()> {
        let mut file = File::open(source)?;
        let size = file.metadata()?.len();
        if self.entry(path, REGULAR | (permissions & 0o7777), size, (0, 0))? {
            let copied = io::copy(&mut file, &mut self.out)?;
            self.offset += copied;
            if copied != size {
                return Err(io::Error::other(
                    "the file changed its size while it was read",
                ));
            }
            self.pad()?;
        }
        Ok(())
    }

    /// Ends the archive.
    pub fn finish(mut self) -> io::Result<W> {
        self.header("TRAILER!!!", 0, 0, (0, 0))?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// Starts an entry, unless there is one of that name already.
    fn entry(&mut self, path: &str, mode: u32, size: u64, device: (u32, u32)) -> io::Result<bool> {
        if self.contains(path) {
            return Ok(false);
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent)?;
        }
        let size = u32::try_from(size).map_err(|_| {
            io::Error::other(format!(
                "{path} is larger than the 4 GiB a cpio entry can hold"
            ))
        })?;
        self.inode += 1;
        self.header(path, mode, size, device)?;
        self.seen.insert(path.to_owned());
        Ok(true)
    }

    fn header(
        &mut self,
        path: &str,
        mode: u32,
        size: u32,
        (major, minor): (u32, u32),
    ) -> io::Result<()> {
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        let name_size = u32::try_from(path.len() + 1).map_err(io::Error::other)?;
        let inode = if mode == 0 { 0 } else { self.inode };
        let fields = [
            inode, mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0,
        ];
        let header: Vec<String> = fields.iter().map(|field| format!("{field:08x}")).collect();
        self.data(b"070701")?;
        self.data(header.concat().as_bytes())?;
        self.data(path.as_bytes())?;
        self.data(&[0])?;
        self.pad()
    }

    fn data(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.offset += bytes.len() as u64;
        Ok(())
    }

    /// Names and contents are padded to four bytes.
    fn pad(&mut self) -> io::Result<()> {
        let missing = self.offset.next_multiple_of(4) - self.offset;
        self.data(&[0; 3][..usize::try_from(missing).unwrap_or(0)])
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;

    /// Reads an archive back: name, mode and content of each entry.
    fn read(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let mut entries = Vec::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701", "at {at}");
            let field = |n: usize| {
                let start = at + 6 + 8 * n;
                let digits = std::str::from_utf8(&archive[start..start + 8]).unwrap();
                usize::from_str_radix(digits, 16).unwrap()
            };
            let (mode, size, name_size) = (field(1), field(6), field(11));
            let name = std::str::from_utf8(&archive[at + 110..at + 110 + name_size - 1])
                .unwrap()
                .to_owned();
            let content = (at + 110 + name_size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert_eq!(content, archive.len());
                return entries;
            }
            entries.push((
                name,
                u32::try_from(mode).unwrap(),
                archive[content..content + size].to_vec(),
            ));
            at = (content + size).next_multiple_of(4);
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut archive = Archive::new(Vec::new());
        archive.file("usr/bin/tool", 0o755, b"12345").unwrap();
        archive.symlink("bin", "usr/bin").unwrap();
        archive.character_device("dev/console", 5, 1).unwrap();
        let entries = read(&archive.finish().unwrap());
        let expected: [(&str, u32, &[u8]); 6] = [
            ("usr", 0o040_755, b""),
            ("usr/bin", 0o040_755, b""),
            ("usr/bin/tool", 0o100_755, b"12345"),
            ("bin", 0o120_777, b"usr/bin"),
            ("dev", 0o040_755, b""),
            ("dev/console", 0o020_600, b""),
        ];
        let expected =
            expected.map(|(name, mode, content)| (name.to_owned(), mode, content.to_vec()));
        assert_eq!(entries, expected);
    }

    #[test]
    fn the_first_of_two_files_stays() {
        let mut archive = Archive::new(Vec::new());
        archive.file("a", 0o644, b"first").unwrap();
        archive.file("a", 0o644, b"second").unwrap();
        assert_eq!(
            read(&archive.finish().unwrap()),
            [("a".to_owned(), 0o100_644, b"first".to_vec())]
        );
    }

    #[test]
    fn the_longest_padding_is_three_bytes() {
        for length in 0..9 {
            let mut archive = Archive::new(Vec::new());
            archive.file("f", 0o600, &vec![7; length]).unwrap();
            assert_eq!(read(&archive.finish().unwrap())[0].2.len(), length);
        }
    }
}
