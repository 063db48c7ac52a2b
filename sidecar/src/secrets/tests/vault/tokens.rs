//! Who we are to Vault, and for how long.

use std::time::{Duration, Instant};

use super::{APP, LOGIN, Lease, PASSWORD, POLL_POLICY, RENEWAL, Scene, VaultFault};

const REFUSED: &str = "GET secret/data/app 403";
const SHORT: Lease = Lease {
    seconds: 2,
    is_renewable: true,
    longest: Duration::MAX,
};

/// With tokens of this lease, until something is so: no token ended meanwhile.
fn with(lease: Lease, is_so: impl Fn(&Scene) -> bool) -> Scene {
    let mut scene = Scene::new("hunter2");
    scene.server.accept(super::JWT, lease);
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
    scene.until("renewed", || is_so(&scene));
    assert_eq!(scene.notes(), "");
    assert_eq!(scene.count(REFUSED), 0, "a token ended");
    scene
}

#[test]
fn a_token_is_renewed_at_half_of_its_lease() {
    let begun = Instant::now();
    let scene = with(SHORT, |scene| scene.count(RENEWAL) == 2);
    assert!(begun.elapsed() > Duration::from_secs(2), "too early");
    assert_eq!(scene.count(LOGIN), 1);
}

#[test]
fn a_renewal_that_fails_is_tried_again() {
    let mut scene = Scene::new("hunter2");
    scene.server.accept(super::JWT, SHORT);
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
    scene.server.set(VaultFault::Refuse(500));
    scene.until("tried", || {
        scene.count("POST auth/token/renew-self 500") > 0
    });
    scene.server.set(VaultFault::None);
    scene.until("renewed", || scene.count(RENEWAL) > 0);
    assert_eq!((scene.count(LOGIN), scene.count(REFUSED)), (1, 0));
}

#[test]
fn where_a_token_cannot_be_renewed_there_is_another_in_time() {
    let fixed = Lease {
        is_renewable: false,
        ..SHORT
    };
    let scene = with(fixed, |scene| scene.count(LOGIN) == 3);
    assert_eq!(scene.count("POST auth/token/renew-self"), 0);
}

#[test]
fn a_token_that_nears_its_longest_life_is_followed_by_another() {
    let mortal = Lease {
        longest: Duration::from_secs(3),
        ..SHORT
    };
    let scene = with(mortal, |scene| scene.count(LOGIN) == 2);
    assert!(scene.count(RENEWAL) >= 1);
}

#[test]
fn a_token_that_was_revoked_is_followed_by_another() {
    let mut scene = Scene::new("first");
    let open = scene.open(&[PASSWORD]);
    assert!(open.is(0, "first"), "{}", open.error(0));
    scene.work(POLL_POLICY.login_apart);
    scene.server.revoke();
    scene.password("second");
    scene.until_password(&open, "second");
    assert_eq!(scene.count(LOGIN), 2);
}

#[test]
fn a_policy_that_is_missing_is_told_and_does_not_pile_up_logins() {
    let mut scene = Scene::new("hunter2");
    scene.server.allow(APP, false);
    let open = scene.open(&[PASSWORD]);
    let said = open.error(0);
    let policy = r#"path "secret/data/app" { capabilities = ["read"] }"#;
    for part in ["the role shop", "(403)", policy] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let begun = Instant::now();
    let before = scene.count(LOGIN);
    scene.until("refused often", || scene.count(REFUSED) > 8);
    let logins = scene.count(LOGIN) - before;
    let most = begun.elapsed().as_millis() / POLL_POLICY.login_apart.as_millis() + 1;
    assert!((1..=most).contains(&(logins as u128)), "{logins} of {most}");
    scene.server.allow(APP, true);
    scene.until_password(&open, "hunter2");
}

#[test]
fn a_login_that_is_refused_is_told_and_tried_again() {
    let mut scene = Scene::new("hunter2");
    scene.file("jwt", "eyJ.other.account");
    let open = scene.open(&[PASSWORD]);
    let said = open.error(0);
    for part in [
        "refused the login as the role shop",
        "auth/kubernetes (403)",
        "audience",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("eyJ"), "{said}");
    scene.file("jwt", super::JWT);
    scene.until_password(&open, "hunter2");
}

#[test]
fn what_is_no_proof_is_told_and_not_sent() {
    let mut scene = Scene::new("hunter2");
    for (content, why) in [
        (Some(""), "does not hold a token"),
        (Some("a b\",\"role\":\"admin"), "does not hold a token"),
        (None, "No such file"),
    ] {
        let path = scene.file("jwt", content.unwrap_or_default());
        if content.is_none() {
            std::fs::remove_file(&path).unwrap();
        }
        let said = scene.open(&[PASSWORD]).error(0);
        assert!(said.contains(why) && said.contains("/jwt"), "{said}");
        assert!(!said.contains("admin"), "{said}");
    }
    assert!(scene.server.requests().is_empty());
}

#[test]
fn a_token_of_a_file_is_read_again_when_it_is_another() {
    let mut scene = Scene::new("first");
    scene.server.token("hvs.one", Lease::NONE);
    let section = scene.section(&scene.by_file());
    let open = scene.open_with(&section, &[PASSWORD]);
    assert!(open.error(0).contains("No such file"), "{}", open.error(0));
    scene.file("token", "hvs.one\n");
    scene.until_password(&open, "first");
    scene.server.revoke();
    scene.until("refused", || scene.notes().contains("the token in "));
    scene.server.token("hvs.two", Lease::NONE);
    scene.password("second");
    scene.file("token", "hvs.two");
    scene.until_password(&open, "second");
    scene.until("quiet", || scene.notes().is_empty());
    assert_eq!(scene.count(LOGIN), 0);
}

#[test]
fn a_token_of_a_file_is_renewed_if_it_can_be() {
    let mut scene = Scene::new("hunter2");
    scene.server.token("hvs.one", SHORT);
    scene.file("token", "hvs.one");
    let section = scene.section(&scene.by_file());
    let open = scene.open_with(&section, &[PASSWORD]);
    assert!(open.is(0, "hunter2"), "{}", open.error(0));
    scene.until("renewed", || scene.count(RENEWAL) >= 2);
    assert_eq!(scene.count(REFUSED), 0);
}
