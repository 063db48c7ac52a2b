//! The section `vault`, and references to it.

use super::{
    super::{Config, Vault, VaultAuth, VaultKubernetes},
    accept, refuse, says, source,
};

const REF: &str = "vaultRef: {path: secret/data/app, key: token}";

fn with(vault: &str) -> String {
    format!("{}vault: {vault}\n", source(REF))
}

fn address(address: &str) -> String {
    with(&format!("{{address: {address}, auth: {{tokenFile: /t}}}}"))
}

fn auth(auth: &str) -> String {
    with(&format!("{{address: https://v, auth: {auth}}}"))
}

fn section(text: &str) -> Vault {
    let Config { vault, .. } = accept(text);
    vault.expect("a section")
}

#[test]
fn a_login_has_defaults() {
    let vault = section(&auth("{kubernetes: {role: app}}"));
    assert_eq!(
        vault.auth,
        VaultAuth::Kubernetes(VaultKubernetes {
            role: "app".into(),
            mount: "kubernetes".into(),
            token_file: "/var/run/secrets/kubernetes.io/serviceaccount/token".into(),
        })
    );
    assert_eq!((vault.ca_file, vault.namespace), (None, None));
}

#[test]
fn addresses_are_those_of_servers() {
    for (text, host, port, authority) in [
        ("https://vault", "vault", 443, "vault:443"),
        ("https://vault:8200/", "vault", 8200, "vault:8200"),
        ("https://10.0.0.1:8200", "10.0.0.1", 8200, "10.0.0.1:8200"),
        (
            "'https://[fd00::1]:8200'",
            "fd00::1",
            8200,
            "[fd00::1]:8200",
        ),
        ("http://127.0.0.2:8200", "127.0.0.2", 8200, "127.0.0.2:8200"),
        ("'http://[::1]'", "::1", 80, "[::1]:80"),
        ("http://localhost:8200", "localhost", 8200, "localhost:8200"),
    ] {
        let found = section(&address(text)).address;
        assert_eq!((found.host.as_str(), found.port), (host, port), "{text}");
        assert_eq!(found.authority(), authority);
    }
}

#[test]
fn addresses_that_are_none_are_told() {
    for (text, why) in [
        ("vault:8200", "is not an address"),
        ("http://vault:8200", "in the clear"),
        ("http://localhost.example:8200", "in the clear"),
        ("https://vault:8200/v1", "more than a host and a port"),
        ("https://:8200", "has no host"),
        ("https://a b", "has no host"),
        ("https://vault:0", "has an invalid port"),
        ("https://vault:65536", "has an invalid port"),
        ("https://vault:", "has an invalid port"),
        ("https://[::1]8200", "has an invalid port"),
    ] {
        let said = refuse(&address(&format!("'{text}'")));
        assert!(said.contains("config.yaml:7:18: address "), "{said}");
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn a_reference_needs_a_server() {
    says(
        &source(REF),
        "6:9: a vaultRef, and no vault to read it from",
    );
    section(&with(
        "{address: https://v, caFile: /ca.crt, namespace: team/a, auth: {tokenFile: /t}}",
    ));
}

#[test]
fn who_we_are_is_said_once() {
    for (text, why) in [
        ("{}", "auth is empty"),
        (
            "{tokenFile: /t, kubernetes: {role: a}}",
            "auth must be exactly one of these, not tokenFile and kubernetes",
        ),
        ("{kubernetes: {}}", "kubernetes lacks the key \"role\""),
        (
            "{kubernetes: {role: a, mount: /k}}",
            "mount is not a plain path",
        ),
        ("{tokenFile: token}", "tokenFile is not an absolute path"),
    ] {
        let said = refuse(&auth(text));
        assert!(said.contains(why), "{text}: {said}");
    }
}

#[test]
fn paths_are_plain() {
    for path in [
        "/secret/data/a",
        "secret/data/",
        "a//b",
        "a/../b",
        "a?b",
        "'a#b'",
        "'a%2fb'",
        "'a\"b'",
        "a/*",
        "a/+/b",
        "v1/a",
    ] {
        let text = format!("vaultRef: {{path: {path}, key: k}}");
        let text = source(&text) + "vault: {address: https://v, auth: {tokenFile: /t}}\n";
        let said = refuse(&text);
        assert!(said.contains("config.yaml:6:49: path "), "{path}: {said}");
    }
}

#[test]
fn a_token_in_a_wrong_place_is_not_shown() {
    for text in [
        auth("hunter2"),
        auth("{token: hunter2}"),
        auth("{hunter2: 1}"),
        auth("{tokenFile: hunter2}"),
        auth("{kubernetes: {role: a, token: hunter2}}"),
        auth("{kubernetes: {role: a, tokenFile: hunter2}}"),
        auth("{kubernetes: hunter2}"),
        address("https://root:hunter2@vault"),
        with("hunter2"),
        with("{token: hunter2}"),
    ] {
        let said = refuse(&text);
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_section_that_moved_is_the_same() {
    let here = section(&auth("{tokenFile: /t}"));
    let there = section(&format!("# moved\n{}", auth("{tokenFile: /t}")));
    assert!(here != there && here.is_like(&there));
    assert!(!here.is_like(&section(&auth("{tokenFile: /u}"))));
}
