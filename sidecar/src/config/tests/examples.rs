//! The examples and the JSON Schema that go with the code.

use std::{collections::BTreeSet, fs};

use serde_json::Value;

use super::{
    super::{json_schema, keys, load},
    folder,
};

#[test]
fn every_example_loads() {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder("examples")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "yaml") {
            load(&path).unwrap_or_else(|errors| panic!("{errors}"));
            names.insert(path.file_stem().unwrap().to_str().unwrap().to_owned());
        }
    }
    for name in [
        "minimal",
        "full",
        "kernelseal-readme",
        "postgres",
        "audit",
        "network",
        "syscalls",
    ] {
        assert!(names.contains(name), "examples/{name}.yaml is missing");
    }
}

#[test]
fn the_full_example_has_every_key() {
    let text = fs::read_to_string(folder("examples").join("full.yaml")).unwrap();
    for key in keys::LEVELS.iter().flat_map(|level| level.keys) {
        assert!(
            text.contains(&format!("{key}: ")) || text.contains(&format!("{key}:\n")),
            "{key}"
        );
    }
}

#[test]
fn the_schema_in_docs_is_current() {
    let path = folder("docs").join("config.schema.json");
    let current = format!("{:#}\n", json_schema());
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        fs::write(&path, &current).unwrap();
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        written == current,
        "docs/config.schema.json is out of date; run: UPDATE_SCHEMA=1 cargo test the_schema_in_docs_is_current"
    );
}

#[test]
fn the_schema_has_the_keys_that_are_accepted_and_no_others() {
    let schema = json_schema();
    let definition = |name: &str| schema["$defs"][name].clone();
    for (level, schema) in [
        (&keys::TOP, schema.clone()),
        (&keys::POLICY, definition("Policy")),
        (&keys::MONITORING, definition("Monitoring")),
        (&keys::NETWORK, definition("Network")),
        (&keys::SYSCALLS, definition("Syscalls")),
        (&keys::BINDING, definition("Binding")),
        (&keys::SELECTOR, definition("Selector")),
        (&keys::SECRET_REF, definition("SecretRef")),
        (&keys::SECRET_KEY_REF, definition("SecretKeyRef")),
        (&keys::FILE_REF, definition("FileRef")["oneOf"][1].clone()),
        (&keys::VAULT_REF, definition("VaultRef")),
        (&keys::VAULT, definition("Vault")),
        (&keys::VAULT_KUBERNETES, definition("VaultKubernetes")),
    ] {
        assert_eq!(
            schema["additionalProperties"],
            Value::Bool(false),
            "{}",
            level.name
        );
        assert_eq!(
            properties(&schema),
            level.keys.iter().map(ToString::to_string).collect()
        );
    }
    for (level, name) in [(&keys::SOURCE, "Source"), (&keys::VAULT_AUTH, "VaultAuth")] {
        let ways = definition(name)["oneOf"].as_array().unwrap().clone();
        let ways: BTreeSet<String> = ways.iter().flat_map(properties).collect();
        assert_eq!(ways, level.keys.iter().map(ToString::to_string).collect());
    }
}

#[test]
fn the_schema_has_descriptions_and_defaults() {
    let schema = json_schema();
    let policy = &schema["$defs"]["Policy"]["properties"];
    assert_eq!(policy["holdTimeout"]["default"], "5s");
    assert_eq!(policy["mode"]["default"], "enforce");
    assert_eq!(policy["blockMaps"]["default"], false);
    assert!(
        policy["blockMem"]["description"]
            .as_str()
            .unwrap()
            .contains("process_vm_readv")
    );
    let delivery = &schema["$defs"]["Binding"]["properties"]["delivery"];
    assert_eq!(delivery["default"], serde_json::json!(["env", "file"]));
    assert_eq!(
        schema["properties"]["secretsDir"]["default"],
        "/etc/kernelseal/secrets"
    );
    assert_eq!(schema["required"], serde_json::json!(["version"]));
}

fn properties(schema: &Value) -> BTreeSet<String> {
    schema["properties"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}
