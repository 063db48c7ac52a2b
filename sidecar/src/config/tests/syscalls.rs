//! `monitoring.syscalls`: what is taken, and what is refused.

use super::{
    super::{Syscalls, calls::Category},
    accept, refuse,
};

fn syscalls(keys: &str) -> Syscalls {
    let text = format!("version: v1\nmonitoring:\n  syscalls: {{{keys}}}\n");
    accept(&text).monitoring.syscalls
}

#[track_caller]
fn refuses(keys: &str, expected: &str) {
    let text = format!("version: v1\nmonitoring:\n  syscalls: {{{keys}}}\n");
    let said = refuse(&text);
    assert!(said.contains(expected), "{said}");
}

#[test]
fn it_is_off_until_it_is_asked_for() {
    assert_eq!(
        accept("version: v1\n").monitoring.syscalls,
        Syscalls::default()
    );
    assert!(!syscalls("names: [openat]").enabled);
}

#[test]
fn objects_are_asked_for_by_themselves_and_their_place_is_known() {
    let alone = syscalls("objects: true");
    assert!(alone.objects && !alone.enabled);
    let at = alone.objects_at.unwrap();
    assert_eq!((at.line, at.column), (3, 23));
    refuses("objects: some", "objects");
}

#[test]
fn categories_and_names_add_up() {
    let on = syscalls(
        "enabled: true, categories: [descriptors], names: [openat, dup3], containers: [app], uids: [0, 4294967295], \
         failed: true, ratePerSecond: 20",
    );
    assert_eq!(on.categories, [Category::Descriptors]);
    assert_eq!(on.uids, [0, u32::MAX]);
    assert!(on.failed && on.rate_per_second == Some(20));
    let names: Vec<&str> = on.calls().map(|call| call.name).collect();
    let dups: Vec<&&str> = names.iter().filter(|name| **name == "dup3").collect();
    assert!(names.contains(&"openat") && dups.len() == 1, "{names:?}");
    assert!(
        names
            .iter()
            .all(|name| *name == "openat" || name.starts_with("dup"))
    );
}

#[test]
fn what_asks_for_nothing_is_refused() {
    refuses("enabled: true", "syscalls asks for no system call");
    refuses("enabled: true, names: []", "names is empty");
    refuses("names: [open_at]", "did you mean \"openat\"?");
    refuses("names: [signal]", "names cannot be \"signal\"");
    refuses("categories: [files]", "did you mean \"file\"?");
    refuses("category: [file]", "unknown key \"category\" in syscalls");
    refuses("ratePerSecond: 0", "ratePerSecond is 0");
    refuses("uids: [-1]", "uids");
}
