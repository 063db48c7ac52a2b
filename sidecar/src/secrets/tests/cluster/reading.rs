//! What is read, with which rights, and what is told when it is not there.

use std::fs;

use super::{Open, Scene};

const PASSWORD: &str = "{name: db, key: password}";

#[test]
fn one_rule_with_the_secrets_name_is_enough() {
    let mut scene = Scene::with_password("hunter2");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
    assert_eq!(scene.notes(), "");
}

#[test]
fn bytes_are_what_they_were() {
    let mut scene = Scene::with_password("hunter2");
    let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let data: &[(&str, &[u8])] = &[("password", &bytes), ("empty", b"")];
    scene
        .server
        .secret(&scene.namespace, "db", Some(data))
        .unwrap();
    let open = scene.open(&[PASSWORD, "{name: db, key: empty}"]);
    assert!(open.find(0).unwrap().unwrap().expose() == bytes);
    assert!(open.is(1, ""));
}

#[test]
fn a_refusal_says_the_rule_that_is_missing_and_the_rule_helps() {
    let mut scene = Scene::new();
    scene.password("hunter2");
    let open = scene.open(&[PASSWORD]);
    let said = open.error(0);
    let rule = r#"{apiGroups: [""], resources: [secrets], resourceNames: [db], verbs: [get, list, watch]}"#;
    for part in ["403", "agent", rule, &scene.namespace] {
        assert!(said.contains(part), "{part}: {said}");
    }
    scene.server.allow(&scene.namespace, "db").unwrap();
    scene.until_password(&open, "hunter2");
}

#[test]
fn a_secret_that_is_not_there_is_named_and_may_come_and_go() {
    let mut scene = Scene::new();
    scene.server.allow(&scene.namespace, "db").unwrap();
    let open = scene.open(&[PASSWORD]);
    let said = open.error(0);
    let missing = format!("there is no Secret db in the namespace {}", scene.namespace);
    assert!(said.contains(&missing), "{said}");
    scene.password("hunter2");
    scene.until_password(&open, "hunter2");
    scene.server.secret(&scene.namespace, "db", None).unwrap();
    scene.until("gone", || open.find(0).is_err());
    assert!(open.error(0).contains(&missing), "{}", open.error(0));
}

#[test]
fn a_key_that_is_not_there_is_told_with_those_that_are() {
    let mut scene = Scene::with_password("hunter2");
    let data: &[(&str, &[u8])] = &[("user", b"hunter2"), ("url", b"hunter2")];
    scene
        .server
        .secret(&scene.namespace, "db", Some(data))
        .unwrap();
    let said = scene.open(&[PASSWORD]).error(0);
    assert!(said.contains("no key password"), "{said}");
    assert!(said.contains("url, user"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
}

#[test]
fn what_is_optional_need_not_be_there() {
    let mut scene = Scene::new();
    scene.server.allow(&scene.namespace, "db").unwrap();
    let open = scene.open(&["{name: db, key: password, optional: true}", PASSWORD]);
    assert!(open.find(0).unwrap().is_none());
    assert!(open.find(1).is_err());
    let data: &[(&str, &[u8])] = &[("user", b"me")];
    scene
        .server
        .secret(&scene.namespace, "db", Some(data))
        .unwrap();
    scene.until("there", || open.error(1).contains("no key"));
    assert!(open.find(0).unwrap().is_none());
    scene.password("hunter2");
    scene.until_password(&open, "hunter2");
}

#[test]
fn what_is_optional_is_an_error_when_nobody_knows() {
    let mut scene = Scene::new();
    let open = scene.open(&["{name: db, key: password, optional: true}"]);
    assert!(open.error(0).contains("403"), "{}", open.error(0));
}

#[test]
fn a_mounted_secret_wins() {
    let mut scene = Scene::with_password("of the API");
    let folder = scene.dir.path().join("mounted/db");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("password"), "of the mount").unwrap();
    let named = format!(
        "{{name: db, key: password, namespace: {}}}",
        scene.namespace
    );
    let open = scene.open(&[PASSWORD, &named]);
    assert!(open.is(0, "of the mount"));
    assert!(open.is(1, "of the API"), "{}", open.error(1));
    scene.until("watched", || scene.proxy.requests().len() >= 2);
    assert_eq!(scene.proxy.requests(), ["list", "watch"]);
}

#[test]
fn a_change_is_told_and_only_a_change() {
    let mut scene = Scene::with_password("first");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    let before = *scene.changes.borrow_and_update();
    // The same once more, and a few watches.
    scene.password("first");
    scene.work(super::POLL_POLICY.watch_for * 2);
    assert!(!scene.changes.has_changed().unwrap());
    scene.password("second");
    scene.until_password(&open, "second");
    assert_eq!(*scene.changes.borrow(), before + 1);
}

#[test]
fn another_configuration_keeps_what_it_still_wants() {
    let mut scene = Scene::with_password("hunter2");
    let data: &[(&str, &[u8])] = &[("key", b"of the other")];
    scene
        .server
        .secret(&scene.namespace, "other", Some(data))
        .unwrap();
    scene.server.allow(&scene.namespace, "other").unwrap();
    let lists = |scene: &Scene| {
        let requests = scene.proxy.requests();
        requests.iter().filter(|kind| *kind == "list").count()
    };
    let names = |scene: &Scene| scene.backends.known().ages().len();

    let first = scene.open(&[PASSWORD]);
    assert!(first.is(0, "hunter2"));
    let both = scene.open(&[PASSWORD, "{name: other, key: key}"]);
    assert!(both.is(0, "hunter2") && both.is(1, "of the other"));
    assert_eq!((lists(&scene), names(&scene)), (2, 2));
    drop(first);
    let other = scene.open(&["{name: other, key: key}"]);
    // Until the store that wants it is gone, it is held.
    assert_eq!(names(&scene), 2);
    drop(both);
    assert!(other.is(0, "of the other"));
    assert_eq!((lists(&scene), names(&scene)), (2, 1));
    // Nobody listens for the one that nobody wants.
    scene.work(super::POLL_POLICY.watch_for * 2);
    let before = scene.proxy.requests().len();
    scene.work(super::POLL_POLICY.watch_for * 2);
    let since = scene.proxy.requests().len() - before;
    assert!((1..=3).contains(&since), "{since} watches of one Secret");
}

/// An `Open` does not outlive what it is about.
#[test]
fn a_dropped_store_leaves_nothing() {
    let mut scene = Scene::with_password("hunter2");
    let open: Open = scene.open(&[PASSWORD]);
    drop(open);
    assert!(scene.backends.known().ages().is_empty());
}
