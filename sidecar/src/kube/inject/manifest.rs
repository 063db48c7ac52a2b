//! Manifests as they are named and written: files, folders, standard input, and streams of JSON objects.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::de::IgnoredAny;

use super::{Fault, Faults, MAX_BYTES, Position};

/// What of a folder is a manifest, as `kubectl -f` has it.
const EXTENSIONS: [&str; 3] = ["json", "yaml", "yml"];

/// Part of a text that is a YAML stream by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub(super) text: &'a str,
    /// Lines of the text above it.
    lines: usize,
    /// Characters before it on its first line.
    columns: usize,
}

impl Piece<'_> {
    /// A place in the piece as a place in the text.
    pub(super) fn place(&self, at: Position) -> Position {
        Position {
            line: at.line + self.lines,
            column: at.column + if at.line == 1 { self.columns } else { 0 },
        }
    }
}

/// The pieces of a text, which one after the other are the text. JSON objects that follow each other without
/// `---`, as `jq` and several calls of `kubectl get -o json` write them, are one piece each; anything else is one.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let whole = vec![Piece {
        text,
        lines: 0,
        columns: 0,
    }];
    if !is_json(text) {
        return whole;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let mut ends = Vec::new();
    while let Some(Ok(_)) = values.next() {
        ends.push(values.byte_offset());
    }
    let Some(&last) = ends.last() else {
        return whole;
    };
    // What is no JSON any more is for the reader of YAML to judge: all of it, or the object that is broken.
    if is_json(&text[last..]) {
        ends.push(text.len());
    } else if text[last..].trim().is_empty() {
        ends.pop();
        ends.push(text.len());
    } else {
        return whole;
    }
    let mut pieces = Vec::new();
    let (mut start, mut lines, mut columns) = (0, 0, 0);
    for end in ends {
        let text = &text[start..end];
        pieces.push(Piece {
            text,
            lines,
            columns,
        });
        lines += text.matches('\n').count();
        columns = match text.rsplit_once('\n') {
            Some((_, last)) => last.chars().count(),
            None => columns + text.chars().count(),
        };
        start = end;
    }
    pieces
}

/// Several manifests as one. JSON stays JSON if all of it is; otherwise each piece is a YAML document.
pub(super) fn join(texts: &[String]) -> String {
    if let [text] = texts {
        return text.clone();
    }
    let all_json = texts.iter().all(|text| is_json(text));
    let mut joined = String::new();
    for piece in texts.iter().flat_map(|text| pieces(text)) {
        let text = piece.text.trim_start_matches(['\n', '\r']);
        if text.trim().is_empty() {
            continue;
        }
        if !joined.is_empty() {
            if !joined.ends_with('\n') {
                joined.push('\n');
            }
            // A directive (`%YAML`) may only come behind the end of the document before it.
            if text.starts_with('%') {
                joined.push_str("...\n");
            } else if !all_json && !text.starts_with("---") {
                joined.push_str("---\n");
            }
        }
        joined.push_str(text);
    }
    joined
}

fn is_json(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// The manifests that a `-f` names: of a folder those in it, not below it, by name.
///
/// # Errors
///
/// When a folder cannot be read, or has none.
pub(super) fn files(named: &Path) -> Result<Vec<PathBuf>, Faults> {
    if !named.is_dir() {
        return Ok(vec![named.to_owned()]);
    }
    let failed = |message: String, help: &str| fault(named, message, help);
    let entries = fs::read_dir(named)
        .and_then(Iterator::collect::<io::Result<Vec<_>>>)
        .map_err(|error| failed(format!("cannot read the folder: {error}"), ""))?;
    let mut files: Vec<_> = entries
        .iter()
        .map(fs::DirEntry::path)
        .filter(|path| {
            let extension = path.extension().and_then(|it| it.to_str());
            extension.is_some_and(|it| EXTENSIONS.contains(&it)) && path.is_file()
        })
        .collect();
    files.sort();
    if files.is_empty() {
        return Err(failed(
            "no .yaml, .yml or .json file in this folder".into(),
            "folders in it are not looked into: name each with a `-f` of its own",
        ));
    }
    Ok(files)
}

fn fault(file: &Path, message: String, help: &str) -> Faults {
    Faults(vec![Fault {
        file: name(file).to_owned(),
        at: None,
        message,
        help: help.into(),
    }])
}

/// What a file is called in errors.
pub(super) fn name(file: &Path) -> &Path {
    if file == Path::new("-") {
        Path::new("<stdin>")
    } else {
        file
    }
}

/// Reads a manifest; `-` is standard input.
///
/// # Errors
///
/// When it cannot be read, is longer than [`MAX_BYTES`], or is not UTF-8.
pub(super) fn load(file: &Path) -> Result<String, Faults> {
    let failed = |message: String, help: &str| fault(file, message, help);
    let mut bytes = Vec::new();
    let read = if file == Path::new("-") {
        io::stdin().take(MAX_BYTES + 1).read_to_end(&mut bytes)
    } else {
        File::open(file).and_then(|file| file.take(MAX_BYTES + 1).read_to_end(&mut bytes))
    };
    read.map_err(|error| {
        failed(
            format!("cannot read the manifest: {error}"),
            "name a file with `-f`, or `-f -` for standard input",
        )
    })?;
    if bytes.len() as u64 > MAX_BYTES {
        return Err(failed(format!("longer than {MAX_BYTES} bytes"), "split it"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = String::from_utf8_lossy(&error.as_bytes()[..at])
            .matches('\n')
            .count()
            + 1;
        failed(
            format!("not UTF-8 text in line {line}"),
            "save the file as UTF-8",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_json_objects_is_taken_apart_and_nothing_is_lost() {
        let text = "{\"a\": 1}\n{\"b\": 2} {\"c\":\n3}\n";
        let found = pieces(text);
        let texts: Vec<_> = found.iter().map(|piece| piece.text).collect();
        assert_eq!(texts.concat(), text);
        assert_eq!(texts, ["{\"a\": 1}", "\n{\"b\": 2}", " {\"c\":\n3}\n"]);
        let at = |line, column| Position { line, column };
        assert_eq!(found[1].place(at(2, 1)), at(2, 1));
        assert_eq!(found[2].place(at(1, 2)), at(2, 10));
        assert_eq!(found[2].place(at(2, 1)), at(3, 1));
    }

    #[test]
    fn what_is_no_stream_of_json_is_one_piece() {
        for text in [
            "",
            "a: 1\n",
            "{\"a\": 1}\n",
            "{\"a\": 1}\n---\n{\"b\": 2}\n",
            "{a: 1}\n",
        ] {
            assert_eq!(pieces(text).len(), 1, "{text:?}");
        }
        // An object that is broken is a piece, so that it is told of where it is.
        assert_eq!(pieces("{\"a\": 1}\n{\"b\": }").len(), 2);
    }

    #[test]
    fn several_manifests_are_joined_as_documents() {
        let join = |texts: &[&str]| {
            join(
                &texts
                    .iter()
                    .map(|&text| text.to_owned())
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(join(&["a: 1", "b: 2\n"]), "a: 1\n---\nb: 2\n");
        assert_eq!(join(&["a: 1\n", "---\nb: 2\n"]), "a: 1\n---\nb: 2\n");
        assert_eq!(
            join(&["a: 1\n", "%YAML 1.2\n---\nb: 2\n"]),
            "a: 1\n...\n%YAML 1.2\n---\nb: 2\n"
        );
        assert_eq!(
            join(&["{\"a\": 1}{\"b\": 2}", "{}\n"]),
            "{\"a\": 1}\n{\"b\": 2}\n{}\n"
        );
        assert_eq!(
            join(&["{\"a\": 1}{\"b\": 2}", "c: 3\n"]),
            "{\"a\": 1}\n---\n{\"b\": 2}\n---\nc: 3\n"
        );
    }
}
