//! What is legal and probably not meant: told by `validate`, and an error with `--strict`.

use std::path::Path;

use secrecy::ExposeSecret as _;

use super::{
    Binding, Config, ConfigError, Mode, Position, SecretRef, Source, fields::quoted, locate,
};

/// Everything in a configuration of which its author should know. No warning contains a secret's value.
pub(super) fn find(config: &Config, file: &Path) -> Vec<ConfigError> {
    let warn = |at: Option<Position>, message: String, hint: &str| {
        ConfigError::new(file, at, message).hint(hint)
    };
    let mut warnings = Vec::new();
    let monitors = config.monitoring.network.enabled || config.monitoring.syscalls.enabled;
    if config.secrets.is_empty() && !monitors {
        warnings.push(warn(
            None,
            "no bindings: no program gets a secret, and none is guarded".into(),
            "list them under `secrets:`",
        ));
    } else if !config.secrets.is_empty() && config.policy.mode == Mode::Disabled {
        warnings.push(warn(
            None,
            "policy.mode is disabled: programs start without their secrets, and nothing is guarded"
                .into(),
            "write `mode: enforce`, or `audit` to try",
        ));
    }
    for binding in &config.secrets {
        for secret in &binding.secret_refs {
            warnings.extend(
                inline(binding, secret).map(|(message, hint)| warn(Some(secret.at), message, hint)),
            );
        }
    }
    warnings
}

fn inline(binding: &Binding, secret: &SecretRef) -> Option<(String, &'static str)> {
    let Source::Value(value) = &secret.source else {
        return None;
    };
    let place = format!(
        "binding {}: the secret {}",
        quoted(&binding.name),
        quoted(&secret.name)
    );
    let text = value.expose_secret();
    Some(if locate::is_template(text) {
        (
            format!(
                "{place} looks like {}: programs would get it as it is",
                locate::TEMPLATE
            ),
            locate::RENDER,
        )
    } else {
        (
            format!("{place} is written here: whoever reads this file reads it"),
            "use secretKeyRef, fileRef or vaultRef; a value is for tests",
        )
    })
}
