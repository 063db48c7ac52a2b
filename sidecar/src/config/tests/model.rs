//! What a legal file becomes.

use crate::config::binding::{Delivery, FileRef};
use std::{path::Path, time::Duration};

use secrecy::ExposeSecret;

use super::{
    super::{
        Config, LogFormat, LogLevel, Mode, OnFailure, Position, Provenance, Source, load, parse,
    },
    accept, binding, folder, source,
};

fn only_source(config: Config) -> Source {
    config
        .secrets
        .into_iter()
        .next()
        .unwrap()
        .secret_refs
        .remove(0)
        .source
}

#[test]
fn version_alone_gives_the_defaults() {
    let config = accept("version: v1\n");
    assert_eq!(config.policy.mode, Mode::Enforce);
    assert!(config.policy.block_environ && config.policy.block_mem && config.policy.block_ptrace);
    assert!(!config.policy.block_maps && !config.policy.audit_all);
    assert!(config.policy.allow_self_read && config.policy.kernel_binary_filter);
    assert_eq!(config.policy.on_failure, OnFailure::Deny);
    assert_eq!(config.policy.hold_timeout, Duration::from_secs(5));
    assert!(config.secrets.is_empty() && config.monitoring.enabled);
    assert_eq!(config.monitoring.metrics_port, 9090);
    assert_eq!(config.monitoring.log_level, LogLevel::Info);
    assert_eq!(config.monitoring.log_format, LogFormat::Text);
    assert_eq!(config.monitoring.audit_log, None);
    assert_eq!(config.secrets_dir, Path::new("/etc/kernelseal/secrets"));
}

#[test]
fn every_key_of_the_full_example_arrives() {
    let config = load(&folder("examples").join("full.yaml")).unwrap();
    let selector = &config.secrets[0].selector;
    assert_eq!(selector.binary, "postgres");
    assert_eq!(selector.sha256.as_ref().unwrap().len(), 64);
    assert_eq!(selector.container.as_deref(), Some("app"));
    assert_eq!(selector.namespace.as_deref(), Some("payments"));
    assert_eq!(selector.labels["app"], "checkout");
    assert_eq!(
        selector.cgroup_path.as_deref(),
        Some(Path::new("/system.slice/myapp.service"))
    );
    assert_eq!(selector.uid, Some(999));
    assert_eq!(selector.provenance, Some(Provenance::Image));
    assert_eq!(
        config.secrets[0].delivery,
        Delivery {
            env: true,
            file: true
        }
    );
    assert_eq!(config.secrets[0].secret_refs.len(), 6);
    assert_eq!(
        config.monitoring.audit_log.as_deref(),
        Some(Path::new("/var/log/kernelseal/audit.log"))
    );
}

#[test]
fn provenance_unless_told_is_by_place_and_by_what_else_tells_the_file() {
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let by = |selector: &str| {
        let text = format!(
            "version: v1\nsecrets: [{{name: a, selector: {{{selector}}}, secretRefs: [{{name: A, source: {{value: x}}}}]}}]\n"
        );
        let config = parse(&text, Path::new("config.yaml")).unwrap();
        let selector = &config.secrets[0].selector;
        (selector.provenance_in(true), selector.provenance_in(false))
    };
    let unless_told = (Provenance::Image, Provenance::System);
    assert_eq!(by("binary: psql"), unless_told);
    assert_eq!(by("binary: /usr/bin/psql"), unless_told);
    assert_eq!(by(&format!("binary: psql, sha256: {digest}")), unless_told);
    let any = (Provenance::Any, Provenance::Any);
    assert_eq!(by(&format!("binary: /psql, sha256: {digest}")), any);
    assert_eq!(by("binary: psql, provenance: any"), any);
    let told = Provenance::ImageAndLibraries;
    assert_eq!(
        by("binary: psql, provenance: image+libraries"),
        (told, told)
    );
}

#[test]
fn the_kernelseal_readme_works_as_it_is() {
    let config = load(&folder("examples").join("kernelseal-readme.yaml")).unwrap();
    assert!(!config.policy.kernel_binary_filter);
    assert_eq!(config.secrets[0].selector.binary, "sleep");
    assert_eq!(config.secrets[0].secret_refs[0].name, "MY_SECRET");
    assert_eq!(
        only_source(config),
        Source::EnvRef("KernelSeal_MY_SECRET".into())
    );
}

#[test]
fn an_empty_list_of_secrets_is_fine() {
    assert!(accept("version: v1\nsecrets: []\n").secrets.is_empty());
    assert!(
        accept("version: v1\nsecrets:\n  # - name: later\n")
            .secrets
            .is_empty()
    );
}

#[test]
fn hold_timeout_has_three_units() {
    for (text, millis) in [
        ("100ms", 100),
        ("500ms", 500),
        ("5s", 5_000),
        ("\"1m\"", 60_000),
        ("5m", 300_000),
    ] {
        let config = accept(&format!("version: v1\npolicy: {{holdTimeout: {text}}}\n"));
        assert_eq!(
            config.policy.hold_timeout,
            Duration::from_millis(millis),
            "{text}"
        );
    }
}

#[test]
fn a_file_is_trimmed_only_when_asked() {
    for (text, trim) in [
        ("fileRef: /p", false),
        ("fileRef: {path: /p}", false),
        ("fileRef: {path: /p, trim: false}", false),
        ("fileRef: {path: /p, trim: true}", true),
    ] {
        let expected = Source::FileRef(FileRef {
            path: "/p".into(),
            trim,
        });
        assert_eq!(only_source(accept(&source(text))), expected);
    }
}

#[test]
fn an_inline_value_is_taken_exactly_and_may_be_empty() {
    for (text, expected) in [
        ("value: \"\"", ""),
        ("value: ''", ""),
        ("value: \" a\\tb \"", " a\tb "),
        ("value: \"1234\"", "1234"),
        ("value: yes", "yes"),
        ("value: 0x", "0x"),
    ] {
        let Source::Value(value) = only_source(accept(&source(text))) else {
            panic!("{text}")
        };
        assert_eq!(value.expose_secret(), expected, "{text}");
    }
}

#[test]
fn a_block_scalar_is_taken_exactly() {
    let text = binding(
        "binary: app",
        "name: KEY\n        source:\n          value: |\n            -----BEGIN\n            abc\n",
    );
    let Source::Value(value) = only_source(accept(&text)) else {
        panic!()
    };
    assert_eq!(value.expose_secret(), "-----BEGIN\nabc\n");
}

#[test]
fn debug_does_not_show_an_inline_value() {
    let shown = format!("{:?}", accept(&source("value: hunter2")));
    assert!(
        shown.contains("Value(") && !shown.contains("hunter2"),
        "{shown}"
    );
}

#[test]
fn bindings_and_secrets_know_where_they_stand() {
    let config = accept(&binding(
        "binary: app",
        "name: TOKEN\n        source: {envRef: X}",
    ));
    let binding = &config.secrets[0];
    assert_eq!(binding.at, Position { line: 3, column: 5 });
    assert_eq!(
        binding.selector.at,
        Position {
            line: 4,
            column: 15
        }
    );
    assert_eq!(binding.secret_refs[0].at, Position { line: 6, column: 9 });
}

#[test]
fn the_basename_is_what_the_kernel_filters_by() {
    for binary in ["postgres", "/usr/lib/postgres"] {
        let config = accept(&binding(
            &format!("binary: {binary}"),
            "{name: A, source: {envRef: X}}",
        ));
        assert_eq!(config.secrets[0].selector.basename(), "postgres");
    }
}

#[test]
fn json_is_yaml() {
    accept(r#"{"version": "v1", "policy": {"mode": "audit", "blockMaps": true}, "secrets": []}"#);
}
