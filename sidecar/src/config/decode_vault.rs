//! From the tree to the model: `vault`, and whether what needs it has it.

use super::{
    binding::Source,
    conflicts,
    decode::absolute_path,
    decode_binding::{optional, required},
    fields::{Fields, Report},
    keys,
    model::Config,
    validate,
    vault::{Address, DEFAULT_ACCOUNT, DEFAULT_MOUNT, Vault, VaultAuth, VaultKubernetes},
    yaml::Node,
};

pub(super) fn vault(report: &mut Report, node: &Node) -> Option<Vault> {
    let fields = Fields::open(report, node, &keys::VAULT)?;
    let address = fields
        .require(report, "address")
        .and_then(|node| address(report, node));
    let ca_file = match fields.get("caFile") {
        Some(node) => absolute_path(report, node, "caFile").map(Some),
        None => Some(None),
    };
    let namespace = optional(report, &fields, "namespace", validate::vault_path);
    let auth = fields
        .require(report, "auth")
        .and_then(|node| auth(report, node));
    Some(Vault {
        address: address?,
        ca_file: ca_file?,
        namespace: namespace.ok()?,
        auth: auth?,
        at: node.mark.at,
    })
}

fn address(report: &mut Report, node: &Node) -> Option<Address> {
    let text = report.text(node, "address")?;
    Address::parse(text)
        .map_err(|why| {
            let hint = "write `https://host:port`; `http://` only for loopback";
            report.error(&node.mark, format!("address {why}"), hint);
        })
        .ok()
}

fn auth(report: &mut Report, node: &Node) -> Option<VaultAuth> {
    let fields = Fields::open(report, node, &keys::VAULT_AUTH)?;
    let given = fields.given();
    let [kind] = given[..] else {
        let message = if given.is_empty() {
            "auth is empty".to_owned()
        } else {
            format!(
                "auth must be exactly one of these, not {}",
                given.join(" and ")
            )
        };
        let one = format!("give one of: {}", keys::VAULT_AUTH.keys.join(", "));
        report.error(&node.mark, message, one);
        return None;
    };
    let value = fields.get(kind)?;
    match kind {
        "tokenFile" => absolute_path(report, value, kind).map(VaultAuth::TokenFile),
        _ => kubernetes(report, value).map(VaultAuth::Kubernetes),
    }
}

fn kubernetes(report: &mut Report, node: &Node) -> Option<VaultKubernetes> {
    let fields = Fields::open(report, node, &keys::VAULT_KUBERNETES)?;
    let role = required(report, &fields, "role", validate::word);
    let mount = optional(report, &fields, "mount", validate::vault_path);
    let token_file = fields.get("tokenFile").map_or_else(
        || Some(DEFAULT_ACCOUNT.into()),
        |node| absolute_path(report, node, "tokenFile"),
    );
    Some(VaultKubernetes {
        role: role?,
        mount: mount.ok()?.unwrap_or_else(|| DEFAULT_MOUNT.to_owned()),
        token_file: token_file?,
    })
}

/// Notes every `vaultRef` that has no server to be read from.
pub(super) fn check(report: &mut Report, config: &Config) {
    if config.vault.is_some() {
        return;
    }
    for secret in config.secrets.iter().flat_map(|b| &b.secret_refs) {
        if matches!(secret.source, Source::VaultRef(_)) {
            report.error(
                &conflicts::mark(secret.at),
                "a vaultRef, and no vault to read it from",
                "add `vault:` at the top level, with `address` and `auth`",
            );
        }
    }
}
