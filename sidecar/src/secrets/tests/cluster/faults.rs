//! What becomes of Secrets when the API does not do as it should.

use std::time::{Duration, Instant};

use kernelseal_servers::{ApiServer, Fault, Proxy};

use super::{POLL_POLICY, Scene, WAIT};

const PASSWORD: &str = "{name: db, key: password}";

/// A store that knows the first password, and then this happens.
fn after(fault: Fault) -> (Scene, super::Open) {
    let mut scene = Scene::with_password("first");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    scene.proxy.set(fault);
    (scene, open)
}

/// A start in which this happens, and what is said of the password then.
fn start_with(fault: Fault) -> (Scene, super::Open, String) {
    let mut scene = Scene::with_password("hunter2");
    scene.proxy.set(fault);
    let begun = Instant::now();
    let open = scene.open(&[PASSWORD]);
    assert!(begun.elapsed() < WAIT * 2, "a start waited too long");
    let said = open.error(0);
    assert!(!said.contains("hunter2"), "{said}");
    scene.until("noted", || !scene.notes().is_empty());
    assert!(!scene.notes().contains("hunter2"), "{}", scene.notes());
    (scene, open, said)
}

#[test]
fn a_start_without_an_api_is_a_start() {
    for (fault, word) in [
        (Fault::Away, "does not answer"),
        (Fault::Silent, "does not answer"),
        (Fault::Refuse(503), "503"),
        (Fault::Refuse(401), "401"),
        (Fault::Refuse(403), "resourceNames: [db]"),
    ] {
        let (scene, open, said) = start_with(fault.clone());
        assert!(said.contains(word), "{fault:?}: {said}");
        scene.proxy.set(Fault::None);
        scene.until_password(&open, "hunter2");
        scene.until("quiet", || scene.notes().is_empty());
    }
}

#[test]
fn an_answer_that_is_none_is_quoted_nowhere() {
    for (this, that) in [
        ("]}", "]"),
        ("aHVudGVyMg==", "hunter2"),
        ("{\"password\":\"aHVudGVyMg==\"}", "\"hunter2\""),
        (
            "\"password\":\"aHVudGVyMg==\"",
            "\"password\":[\"hunter2\"]",
        ),
    ] {
        let (_, _, said) = start_with(Fault::Garbled(this, that));
        assert!(said.contains("not the API"), "{said}");
        assert!(!said.contains("aHVudGVyMg"), "{said}");
    }
}

#[test]
fn a_stranger_is_told_by_its_certificate() {
    let server = ApiServer::shared();
    let mut scene = Scene::behind(Proxy::of_a_stranger(server).unwrap());
    scene.password("hunter2");
    scene.server.allow(&scene.namespace, "db").unwrap();
    let open = scene.open(&[PASSWORD]);
    let said = open.error(0);
    assert!(said.contains("certificate"), "{said}");
    assert!(
        scene.proxy.requests().is_empty(),
        "it was asked all the same"
    );
}

#[test]
fn without_the_api_the_cache_serves_and_says_how_old_it_is() {
    let (scene, open) = after(Fault::Away);
    scene.password("second");
    scene.until("noted", || scene.notes().contains("served as it was"));
    let age = |scene: &Scene| scene.backends.known().ages()[0].1;
    scene.until("old", || age(&scene) > 2.0);
    assert!(open.is(0, "first"));
    scene.proxy.set(Fault::None);
    scene.until_password(&open, "second");
    scene.until("quiet", || scene.notes().is_empty());
    assert!(age(&scene) < 2.0);
}

#[test]
fn a_right_that_is_taken_away_midway_is_told_and_the_cache_serves() {
    let (scene, open) = after(Fault::Refuse(403));
    scene.until("noted", || scene.notes().contains("resourceNames: [db]"));
    assert!(open.is(0, "first"));
}

#[test]
fn what_is_too_old_is_listed_anew() {
    for fault in [Fault::EndWatches(410), Fault::RefuseWatches(410)] {
        let (scene, open) = after(fault);
        scene.password("second");
        scene.until_password(&open, "second");
    }
}

#[test]
fn watches_that_are_cut_are_begun_again_and_not_too_often() {
    let (scene, open) = after(Fault::CutWatches(Duration::ZERO));
    scene.work(Duration::from_secs(1));
    let before = scene.proxy.requests().len();
    scene.work(Duration::from_secs(4));
    let watches = scene.proxy.requests().len() - before;
    let most = 4000 / POLL_POLICY.apart.as_millis() + 2;
    assert!((2..=most).contains(&(watches as u128)), "{watches}");
    scene
        .proxy
        .set(Fault::CutWatches(Duration::from_millis(300)));
    scene.password("second");
    scene.until_password(&open, "second");
}

#[test]
fn watches_that_say_nothing_are_given_up() {
    let (scene, open) = after(Fault::SilentWatches);
    scene.password("second");
    scene.work(POLL_POLICY.watch_for);
    assert!(open.is(0, "first"));
    scene.proxy.set(Fault::None);
    scene.until_password(&open, "second");
}

#[test]
fn a_slow_answer_is_an_answer() {
    let (scene, open) = after(Fault::Slow(Duration::from_millis(1)));
    scene.password("second");
    scene.until_password(&open, "second");
}
