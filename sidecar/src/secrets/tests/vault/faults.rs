//! What becomes of secrets when Vault does not do as it should.

use std::{cell::RefCell, io, net::Ipv4Addr, time::Instant};

use tracing::subscriber::set_global_default;

use super::{APP, JWT, PASSWORD, POLL_POLICY, STEP, Scene, VaultFault, VaultServer, WAIT};

/// What nobody may say.
const SECRETS: [&str; 4] = ["hunter2", "hvs.", JWT, "c2lnbmF0dXJl"];

#[track_caller]
fn says_nothing(text: &str) {
    for secret in SECRETS {
        assert!(!text.contains(secret), "{text}");
    }
}

fn says(text: &str) -> VaultFault {
    VaultFault::Says(text.into())
}

#[test]
fn a_start_without_vault_is_a_start() {
    for (fault, word) in [
        (VaultFault::Away, "does not answer"),
        (VaultFault::Silent, "no answer within"),
        (VaultFault::Refuse(503), "vault operator unseal"),
        (VaultFault::Refuse(500), "answered 500"),
        (VaultFault::Refuse(307), "redirects (307)"),
        (VaultFault::Cut, "does not answer"),
        (VaultFault::Endless, "8388608 bytes"),
        (says("<html>hunter2</html>"), "is not Vault"),
        (
            says(r#"{"data": {"data": {"password": "hunter2"#),
            "is not Vault",
        ),
        (says(r#"{"data": {"password": "hunter2"}}"#), "version 2"),
        (
            says(r#"{"data": {"data": "hunter2", "metadata": {}}}"#),
            "version 2",
        ),
    ] {
        let mut scene = Scene::new("hunter2").impatient();
        scene.server.set(fault.clone());
        let begun = Instant::now();
        let open = scene.open(&[PASSWORD]);
        assert!(begun.elapsed() < WAIT, "a start waited too long");
        says_nothing(&scene.until_error(&open, word));
        says_nothing(&scene.notes());
        assert!(scene.notes().contains(word), "{fault:?}: {}", scene.notes());
        scene.server.set(VaultFault::None);
        scene.until_password(&open, "hunter2");
        scene.until("quiet", || scene.notes().is_empty());
    }
}

#[test]
fn without_vault_the_cache_serves_and_says_how_old_it_is() {
    let mut scene = Scene::new("first");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    let age = |scene: &Scene| scene.backends.known().ages()[0].1;
    for (fault, why) in [
        (VaultFault::Away, "does not answer"),
        (VaultFault::Refuse(503), "sealed"),
        (VaultFault::None, "capabilities"),
    ] {
        scene.server.allow(APP, fault != VaultFault::None);
        scene.server.set(fault);
        scene.password("second");
        scene.until("noted", || {
            let notes = scene.notes();
            notes.contains("served as it was") && notes.contains(why)
        });
        scene.until("old", || age(&scene) > 0.3);
        assert!(open.is(0, "first"));
        scene.server.set(VaultFault::None);
        scene.server.allow(APP, true);
        scene.until_password(&open, "second");
        scene.until("quiet", || scene.notes().is_empty());
        assert!(age(&scene) < 0.3);
        scene.password("first");
        scene.until_password(&open, "first");
    }
}

#[test]
fn after_failures_it_is_asked_less_often() {
    let mut scene = Scene::new("first").impatient();
    scene.server.set(VaultFault::Refuse(500));
    let _open = scene.open(&[PASSWORD]);
    scene.work(POLL_POLICY.retry_policy.retry_after_many * 4);
    let before = scene.server.requests().len();
    scene.work(POLL_POLICY.retry_policy.retry_after_many * 6);
    let asked = scene.server.requests().len() - before;
    assert!((1..=7).contains(&asked), "{asked}");
}

#[test]
fn a_secret_that_is_not_there_is_named_and_may_come_and_go() {
    let mut scene = Scene::new("hunter2");
    scene.server.allow("secret/data/new", true);
    let open = scene.open(&["{path: secret/data/new, key: password}"]);
    let missing = "there is no Vault secret secret/data/new. Vault answers 404";
    let said = open.error(0);
    assert!(said.contains(missing) && said.contains("`data/`"), "{said}");
    let data = super::json!({"password": "x"});
    scene.server.put("secret/data/new", Some(data));
    scene.until_password(&open, "x");
    scene.server.put("secret/data/new", None);
    scene.until("gone", || open.find(0).is_err());
    assert!(open.error(0).contains(missing), "{}", open.error(0));
}

#[test]
fn a_stranger_is_told_by_its_certificate() {
    let stranger = VaultServer::start().unwrap();
    let elsewhere = VaultServer::start_at(Ipv4Addr::new(127, 0, 0, 2), true).unwrap();
    for (mut scene, ca) in [
        (Scene::new("hunter2"), Some(stranger.authority().pem())),
        (Scene::of(elsewhere, "hunter2", POLL_POLICY), None),
    ] {
        if let Some(ca) = ca {
            scene.file("ca.crt", &ca);
        }
        scene.wait = STEP;
        let open = scene.open(&[PASSWORD]);
        scene.until_error(&open, "certificate");
        assert!(
            scene.server.requests().is_empty(),
            "it was asked all the same"
        );
    }
}

#[test]
fn certificates_that_are_there_later_are_believed() {
    let mut scene = Scene::new("hunter2").impatient();
    let stranger = VaultServer::start().unwrap();
    scene.file("ca.crt", &stranger.authority().pem());
    let open = scene.open(&[PASSWORD]);
    scene.until_error(&open, "certificate");
    scene.file("ca.crt", &scene.server.authority().pem());
    scene.until_password(&open, "hunter2");
}

#[test]
fn certificates_that_are_none_are_told_at_start() {
    let mut scene = Scene::new("hunter2");
    let section = scene.section(&scene.login());
    for (content, why) in [
        (Some(""), "holds no certificate in PEM"),
        (
            Some("-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n"),
            "holds no certificate in PEM",
        ),
        (None, "No such file"),
    ] {
        let path = scene.file("ca.crt", content.unwrap_or_default());
        if content.is_none() {
            std::fs::remove_file(&path).unwrap();
        }
        let wrong = scene.try_open(&section, &[PASSWORD]).err().expect("wrong");
        let [(at, error)] = &wrong[..] else {
            panic!("{wrong:?}")
        };
        let said = format!("{at}: {error}");
        assert!(said.starts_with("2:8: vault.caFile /"), "{said}");
        assert!(said.contains(why), "{said}");
    }
}

thread_local! {
    /// What is logged on a thread, where it is kept. (A subscriber of one thread alone would miss lines:
    /// who else logs decides, for all threads, whether anybody wants them.)
    static LOG: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Keeps what is logged.
struct Log;

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.with_borrow_mut(|log| {
            if let Some(log) = log {
                log.extend_from_slice(bytes);
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn nothing_of_a_secret_is_logged_by_us_or_by_libraries() {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(|| Log)
        .finish();
    set_global_default(subscriber).expect("the one of this process");
    LOG.set(Some(Vec::new()));
    let mut scene = Scene::new("hunter2");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
    scene.password("hunter2 the second");
    scene.until_password(&open, "hunter2 the second");
    for fault in [VaultFault::Cut, says("hunter2"), VaultFault::None] {
        scene.server.allow(APP, fault != VaultFault::None);
        scene.server.set(fault);
        scene.until("noted", || !scene.notes().is_empty());
        scene.server.set(VaultFault::None);
        scene.server.allow(APP, true);
        scene.until("quiet", || scene.notes().is_empty());
    }
    scene.server.put(APP, None);
    scene.until("gone", || open.find(0).is_err());
    let log = LOG.take().expect("what was logged");
    let log = String::from_utf8_lossy(&log);
    for line in [
        "logged in to Vault",
        "has changed",
        "capabilities",
        "there is no",
    ] {
        assert!(log.contains(line), "{line}: {log}");
    }
    says_nothing(&log);
}
