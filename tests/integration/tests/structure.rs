//! The house has its arrows: whatever `sidecar/src` imports lies further down the list, and files stay short.

use std::{
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Attribute, Item, ItemMod, ItemUse, Meta, UseTree,
    spanned::Spanned as _,
    visit::{self, Visit},
};

/// The folders and files of `sidecar/src`: each imports only what is further down.
const TOP_DOWN: [&str; 22] = [
    "main",
    "cli",
    "status",
    "agent",
    "takeover",
    "guardian",
    "check",
    "validate",
    "top",
    "seal",
    "monitor",
    "unsupported",
    "secrets",
    "kube",
    "observe",
    "process",
    "kernel",
    "privileges",
    "confinement",
    "config",
    "limits",
    "util",
];

/// Lines of a file.
const LONGEST: usize = 400;
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Every Rust file below a folder of the repository, by its path from there.
fn sources(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root().join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                folders.push(path);
            } else if Path::new(&path).extension().is_some_and(|end| end == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The module of a file of `sidecar/src`, from the crate's root.
fn module_of(file: &str) -> Vec<String> {
    let path = file
        .trim_start_matches("sidecar/src/")
        .trim_end_matches(".rs")
        .trim_end_matches("/mod");
    path.split('/').map(str::to_owned).collect()
}

/// Collects what a file imports: the first name below the crate's root, and the line.
struct Imports {
    module: Vec<String>,
    found: Vec<(String, usize)>,
}

impl Imports {
    /// A path as it is written.
    fn add(&mut self, path: &[String], line: usize) {
        let mut module = self.module.clone();
        let mut path = path.iter().map(String::as_str).peekable();
        match path.peek() {
            Some(&"crate") => {
                path.next();
                module.clear();
            }
            Some(&"super") => {
                while path.next_if_eq(&"super").is_some() {
                    module.pop();
                }
            }
            _ => return,
        }
        module.extend(path.map(str::to_owned));
        if let Some(first) = module.first() {
            self.found.push((first.clone(), line));
        }
    }

    fn add_tree(&mut self, before: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(before, tree);
                }
            }
            UseTree::Name(name) => self.add_leaf(before, &name.ident.to_string(), tree),
            UseTree::Rename(name) => self.add_leaf(before, &name.ident.to_string(), tree),
            UseTree::Glob(_) => self.add(before, tree.span().start().line),
        }
    }

    fn add_leaf(&mut self, before: &[String], name: &str, tree: &UseTree) {
        let mut path = before.to_vec();
        if name != "self" {
            path.push(name.to_owned());
        }
        self.add(&path, tree.span().start().line);
    }
}

/// Tests may look up: they set scenes.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        matches!(&attribute.meta, Meta::List(list)
        if list.path.is_ident("cfg") && {
            let condition = list.tokens.to_string();
            condition == "test" || condition.starts_with("all (test")
        })
    })
}

impl Visit<'_> for Imports {
    fn visit_item(&mut self, item: &Item) {
        let attributes = match item {
            Item::Mod(ItemMod { attrs, .. }) | Item::Use(ItemUse { attrs, .. }) => attrs,
            Item::Fn(function) => &function.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_path(&mut self, path: &syn::Path) {
        let names: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.add(&names, path.span().start().line);
        visit::visit_path(self, path);
    }
}

/// What a file's text imports that lies above it.
fn upward(file: &str, text: &str) -> Vec<String> {
    let place = |name: &str| TOP_DOWN.iter().position(|known| *known == name);
    let mut imports = Imports {
        module: module_of(file),
        found: Vec::new(),
    };
    imports.visit_file(&syn::parse_file(text).unwrap());
    let own = imports.module[0].clone();
    let from = place(&own).unwrap_or_else(|| panic!("{own} has no place in TOP_DOWN"));
    let found = imports.found.into_iter();
    // (a name of the crate's root that is no module is a macro or a constant of main.rs)
    found
        .filter(|(to, _)| place(to).is_some_and(|to| to < from))
        .map(|(to, line)| format!("{file}:{line}: {own} imports {to}, which lies above it"))
        .collect()
}

#[test]
fn imports_lead_down_the_list() {
    let wrong: Vec<String> = sources("sidecar/src")
        .into_iter()
        .filter(|file| !file.contains("/tests/") && !file.ends_with("tests.rs"))
        .flat_map(|file| upward(&file, &fs::read_to_string(root().join(&file)).unwrap()))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn import_that_leads_up_is_told_with_its_line() {
    let text = "use std::io;\nuse crate::{\n    util::Clock,\n    agent::run,\n};\n";
    assert_eq!(
        upward("sidecar/src/seal/mod.rs", text),
        ["sidecar/src/seal/mod.rs:4: seal imports agent, which lies above it"]
    );
    let inline = "fn f() {\n    super::super::cli::main();\n}\n";
    assert_eq!(
        upward("sidecar/src/seal/held.rs", inline),
        ["sidecar/src/seal/held.rs:2: seal imports cli, which lies above it"]
    );
    let not_of_tests = "#[cfg(not(test))]\nuse crate::agent::run;\n";
    assert_eq!(upward("sidecar/src/seal/held.rs", not_of_tests).len(), 1);
    let of_tests = "#[cfg(test)]\nmod tests {\n    use crate::agent::run;\n}\n";
    assert!(upward("sidecar/src/seal/held.rs", of_tests).is_empty());
}

#[test]
fn files_are_short() {
    let folders = ["sidecar", "sidecar-ebpf/src", "sidecar-common/src", "tests"];
    let mut wrong = Vec::new();
    for file in folders.into_iter().flat_map(sources) {
        let lines = fs::read_to_string(root().join(&file))
            .unwrap()
            .lines()
            .count();
        if lines > LONGEST {
            wrong.push(format!("{file} has {lines} lines, not {LONGEST} at most"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
