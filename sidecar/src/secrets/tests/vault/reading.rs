//! What is read, and what is told when it is another.

use std::{net::Ipv4Addr, time::Duration};

use super::{APP, LOGIN, PASSWORD, POLL_POLICY, PollPolicy, READING, Scene, VaultServer, json};

#[test]
fn one_login_and_one_reading_are_enough() {
    let mut scene = Scene::new("hunter2");
    let open = scene.open(&[PASSWORD, PASSWORD]);
    assert!(
        open.is(0, "hunter2") && open.is(1, "hunter2"),
        "{}",
        open.error(0)
    );
    let begin = ["POST auth/kubernetes/login 200", "GET secret/data/app 200"];
    assert_eq!(scene.server.requests()[..2], begin);
    assert_eq!(scene.notes(), "");
    let ages = scene.backends.known().ages();
    assert_eq!(ages[0].0, ["vault".to_owned(), APP.to_owned()]);
    // Again and again, with the same token.
    scene.until("read again", || scene.count(READING) > 3);
    assert_eq!(scene.count(LOGIN), 1);
}

#[test]
fn values_are_text_or_the_text_of_numbers() {
    let mut scene = Scene::new("");
    let data = json!({"text": "ü\n", "port": 5432, "on": true, "empty": "", "nested": {"a": "hunter2"}, "none": null});
    scene.server.put(APP, Some(data));
    let keys = ["text", "port", "on", "empty", "nested", "none", "other"];
    let keys = keys.map(|key| format!("{{path: {APP}, key: {key}}}"));
    let open = scene.open(&keys.each_ref().map(String::as_str));
    for (at, value) in ["ü\n", "5432", "true", ""].into_iter().enumerate() {
        assert!(open.is(at, value), "{value}");
    }
    for (at, why) in [
        (4, "has the key nested, and what it holds is not text"),
        (5, "has the key none, and what it holds is not text"),
        (
            6,
            "has no key other; its keys are: empty, nested, none, on, port, text",
        ),
    ] {
        let said = open.error(at);
        assert!(said.contains("vaultRef secret/data/app: "), "{said}");
        assert!(said.contains(why) && !said.contains("hunter2"), "{said}");
    }
}

#[test]
fn keys_that_are_not_plain_words_are_not_repeated() {
    let mut scene = Scene::new("");
    scene
        .server
        .put(APP, Some(json!({"a\nERROR b": "x", "c": "y"})));
    let said = scene.open(&[PASSWORD]).error(0);
    assert!(
        said.ends_with("its keys are: c, some that are not plain words"),
        "{said}"
    );
}

#[test]
fn a_change_is_told_and_only_a_change() {
    let mut scene = Scene::new("first");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    let before = *scene.changes.borrow_and_update();
    let read = scene.count(READING);
    scene.until("read again", || scene.count(READING) > read + 3);
    assert!(!scene.changes.has_changed().unwrap());
    scene.password("second");
    scene.until_password(&open, "second");
    assert_eq!(*scene.changes.borrow(), before + 1);
}

#[test]
fn a_secret_that_is_lent_for_a_short_time_is_read_again_within_it() {
    let poll_policy = PollPolicy {
        refresh: Duration::from_mins(10),
        ..POLL_POLICY
    };
    let mut scene = Scene::of(VaultServer::start().unwrap(), "first", poll_policy);
    scene.server.lend(1);
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    scene.password("second");
    scene.until_password(&open, "second");
}

#[test]
fn a_namespace_is_named() {
    let mut scene = Scene::new("hunter2");
    scene.server.within("team/a");
    let without = scene.open(&[PASSWORD]).error(0);
    assert!(without.contains("404"), "{without}");
    let section = scene.section(&scene.login());
    let section = section.replacen('{', "{namespace: team/a, ", 1);
    let open = scene.open_with(&section, &[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
}

#[test]
fn another_vault_has_other_secrets() {
    let mut scene = Scene::new("of the one");
    let other = Scene::new("of the other");
    let one = scene.open(&[PASSWORD]);
    assert!(one.is(0, "of the one"));
    let section = other.section(&other.login());
    let both = scene.open_with(&section, &[PASSWORD]);
    assert!(both.is(0, "of the other"), "{}", both.error(0));
    // What is in force goes on until the other is, and is told of once.
    assert!(one.is(0, "of the one"));
    assert_eq!(scene.backends.known().ages().len(), 1);
    drop(one);
    let before = scene.count(READING);
    scene.work(POLL_POLICY.refresh * 5);
    assert!(scene.count(READING) <= before + 1);
    drop(both);
    assert!(scene.backends.known().ages().is_empty());
}

#[test]
fn on_this_machine_tls_is_not_needed() {
    let server = VaultServer::start_at(Ipv4Addr::LOCALHOST, false).unwrap();
    let mut scene = Scene::of(server, "hunter2", POLL_POLICY);
    assert!(scene.server.url().starts_with("http://"));
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
}
