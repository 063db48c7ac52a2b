//! The documents are read by people who do not have English from birth: sentences are short. The figures of each document are
//! printed.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

/// Words of a sentence, on average.
const MEAN: f64 = 16.0;
/// Words of the longest.
const LONGEST: usize = 35;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A paragraph, a list's item, a heading, a cell of a table.
struct Run {
    text: String,
    /// Whether it counts for the mean: headings and cells are short anyway.
    is_prose: bool,
}

/// All of a document. Code in a line is a word; blocks of it are nothing.
fn runs(text: &str) -> Vec<Run> {
    let (mut runs, mut run, mut is_code) = (Vec::new(), String::new(), false);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        let is_prose = match event {
            Event::Start(Tag::CodeBlock(_)) => {
                is_code = true;
                true
            }
            Event::End(TagEnd::CodeBlock) => {
                is_code = false;
                continue;
            }
            Event::Text(text) if !is_code => {
                run += &text;
                continue;
            }
            // (a full stop in it ends no sentence)
            Event::Code(code) => {
                run += &code.replace(['.', '!', '?', ' '], "_");
                continue;
            }
            Event::SoftBreak | Event::HardBreak => {
                run.push(' ');
                continue;
            }
            // (an item that has another below it ends before that)
            Event::Start(Tag::Item | Tag::Paragraph)
            | Event::End(TagEnd::Paragraph | TagEnd::Item) => true,
            Event::End(TagEnd::Heading(_) | TagEnd::TableCell) => false,
            _ => continue,
        };
        let text = std::mem::take(&mut run);
        if !text.trim().is_empty() {
            runs.push(Run { text, is_prose });
        }
    }
    runs
}

/// A sentence ends at a full stop, a question or exclamation mark before a blank.
fn sentences(run: &str) -> impl Iterator<Item = &str> {
    run.split_inclusive(' ')
        .scan(0, |at, word| {
            *at += word.len();
            let word = word.trim_end().trim_end_matches([')', '"', '*']);
            Some((
                *at,
                word.ends_with(['.', '!', '?']) && !word.ends_with(".."),
            ))
        })
        .filter_map(|(end, is_last)| is_last.then_some(end))
        .chain([run.len()])
        .scan(0, |from, end| {
            let sentence = &run[*from..end];
            *from = end;
            Some(sentence)
        })
        .filter(|sentence| words(sentence) > 0)
}

fn words(sentence: &str) -> usize {
    let mut words = sentence.split_whitespace();
    words
        .by_ref()
        .filter(|word| word.contains(char::is_alphanumeric))
        .count()
}

/// Every document, by its path from the repository's root.
fn documents() -> Vec<String> {
    let mut found: Vec<String> = ["docs", "."]
        .into_iter()
        .flat_map(|folder| {
            std::fs::read_dir(root().join(folder))
                .unwrap()
                .map(move |e| (folder, e.unwrap().file_name()))
        })
        .map(|(folder, name)| match folder {
            "." => name.into_string().unwrap(),
            folder => format!("{folder}/{}", name.into_string().unwrap()),
        })
        .filter(|path| Path::new(path).extension().is_some_and(|end| end == "md"))
        .collect();
    found.push("tests/integration/README.md".to_owned());
    found.sort();
    found
}

#[test]
fn sentences_of_every_document_are_short() {
    let mut wrong = Vec::new();
    for path in documents() {
        let text = std::fs::read_to_string(root().join(&path)).unwrap();
        let runs = runs(&text);
        let all: Vec<&str> = runs.iter().flat_map(|run| sentences(&run.text)).collect();
        let prose = runs.iter().filter(|run| run.is_prose);
        let counts: Vec<usize> = prose
            .flat_map(|run| sentences(&run.text))
            .map(words)
            .collect();
        #[expect(
            clippy::cast_precision_loss,
            reason = "a document has thousands of words"
        )]
        let mean = counts.iter().sum::<usize>() as f64 / counts.len().max(1) as f64;
        let longest = all
            .iter()
            .map(|sentence| words(sentence))
            .max()
            .unwrap_or_default();
        // (not by `println!`, of which only a test that fails shows something)
        let _ = writeln!(
            std::io::stderr(),
            "{path}: {} sentences, {mean:.1} words each, {longest} at most",
            counts.len()
        );
        if mean > MEAN {
            wrong.push(format!(
                "{path}: {mean:.1} words a sentence, not {MEAN} at most"
            ));
        }
        let long = all.iter().filter(|sentence| words(sentence) > LONGEST);
        wrong.extend(long.map(|long| {
            format!(
                "{path}: {} words, not {LONGEST} at most: {long}",
                words(long)
            )
        }));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A heading's name in an address, as code hosts make it.
fn anchor(heading: &str) -> String {
    let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
    let text: String = heading.trim().to_lowercase().chars().filter(kept).collect();
    text.replace(' ', "-")
}

/// Where its links lead, and the names of its headings.
fn links_and_anchors(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut links, mut anchors, mut heading) = (Vec::new(), Vec::new(), None);
    for event in Parser::new_ext(text, Options::ENABLE_TABLES) {
        match event {
            Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                links.push(dest_url.into_string());
            }
            Event::Start(Tag::Heading { .. }) => heading = Some(String::new()),
            Event::Text(text) | Event::Code(text) => {
                if let Some(heading) = &mut heading {
                    *heading += &text;
                }
            }
            Event::End(TagEnd::Heading(_)) => {
                anchors.extend(heading.take().map(|heading| anchor(&heading)));
            }
            _ => {}
        }
    }
    (links, anchors)
}

#[test]
fn links_of_every_document_lead_somewhere() {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut dead = Vec::new();
    for path in documents() {
        let file = root().join(&path);
        for link in links_and_anchors(&read(&file)).0 {
            if link.contains("://") {
                continue;
            }
            let (to, wanted) = link.split_once('#').unwrap_or((&link, ""));
            let target = match to {
                "" => file.clone(),
                to => file.parent().unwrap().join(to),
            };
            let has_it = || {
                links_and_anchors(&read(&target))
                    .1
                    .iter()
                    .any(|name| name == wanted)
            };
            if !target.exists() || !(wanted.is_empty() || has_it()) {
                dead.push(format!("{path}: {link}"));
            }
        }
    }
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

#[test]
fn a_sentence_ends_where_a_reader_ends_it() {
    let text = "One. Two `a. b` words (see x.y)!\n\n    code. code\n\nThree:\n\n- four\n- five\n\n| a b | c. |\n|---|---|\n| d | e |\n";
    let runs = runs(text);
    let found: Vec<&str> = runs
        .iter()
        .flat_map(|run| sentences(&run.text))
        .map(str::trim)
        .collect();
    assert_eq!(
        found,
        [
            "One.",
            "Two a__b words (see x.y)!",
            "Three:",
            "four",
            "five",
            "a b",
            "c.",
            "d",
            "e"
        ]
    );
}
