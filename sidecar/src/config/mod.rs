//! The configuration: what a user may write in `config.yaml`, strictly.
//!
//! [`load`] and [`parse`] give a [`Config`] in which everything is legal, or [`ConfigErrors`] that
//! say, like a compiler, where the file is wrong and what to do. Nothing may start on an error.
//! No message contains the value of a secret.
//!
//! The way of a file: `yaml` reads it into a tree with positions; `fields` takes mappings
//! apart by the tables in `keys`; `decode` and its kin `decode_binding`, `decode_network`, `decode_syscalls` and `decode_vault` build the model with the
//! checks of `validate`; `conflicts` judges bindings together; `warnings` finds what is legal and hardly meant; `locate` finds the
//! place of what is no YAML; `excerpt` decides which
//! source lines an error may show.

mod binding;
pub(crate) mod calls;
mod conflicts;
mod decode;
mod decode_binding;
mod decode_network;
mod decode_syscalls;
mod decode_vault;
mod error;
mod excerpt;
mod fields;
mod keys;
mod locate;
mod model;
mod network;
mod schema;
mod syscalls;
#[cfg(test)]
mod tests;
mod validate;
mod vault;
mod warnings;
mod yaml;

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use secrecy::zeroize::Zeroizing;

pub(crate) use self::yaml::explain as yaml_syntax;
pub use self::{
    binding::{
        Binding, FileAccess, OnRotate, Provenance, RotateSignal, SecretKeyRef, SecretRef, Selector,
        Source, VaultRef,
    },
    error::{ConfigError, ConfigErrors, Position},
    model::{Config, LogFormat, LogLevel, Mode, Monitoring, OnFailure, Policy},
    network::{Direction, Network, PortRange, Protocols},
    schema::json_schema,
    syscalls::Syscalls,
    vault::{Address, Vault, VaultAuth, VaultKubernetes},
};
use self::{fields::Report, yaml::START};

/// A configuration file is at most this long, in bytes.
pub const MAX_BYTES: usize = 1024 * 1024;

/// A configuration, and what is legal in it and probably not meant.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// In the order of the file; they may be none.
    pub warnings: Vec<ConfigError>,
}

/// Reads the configuration in a file.
///
/// # Errors
///
/// When the file cannot be read, is longer than [`MAX_BYTES`], is not UTF-8, or as [`parse`] says.
pub fn load(path: &Path) -> Result<Config, ConfigErrors> {
    check(path).map(|checked| checked.config)
}

/// The same, with warnings.
///
/// # Errors
///
/// As of [`load`].
pub fn check(path: &Path) -> Result<Checked, ConfigErrors> {
    checked(path, File::open(path).and_then(read_limited))
}

/// The same of standard input.
///
/// # Errors
///
/// As of [`load`].
pub fn check_stdin() -> Result<Checked, ConfigErrors> {
    checked(Path::new("<stdin>"), read_limited(io::stdin()))
}

fn checked(name: &Path, read: io::Result<Zeroizing<Vec<u8>>>) -> Result<Checked, ConfigErrors> {
    let bytes = read.map_err(|error| {
        let message = format!("cannot read the configuration: {error}");
        ConfigError::new(name, None, message)
            .hint("name a file that is there and that you may read")
    })?;
    let config = parse_bytes(&bytes, name)?;
    let warnings = warnings::find(&config, name);
    Ok(Checked { config, warnings })
}

/// Up to one byte more than may be. With room for that from the start: growing would leave copies of secrets behind.
fn read_limited(from: impl Read) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BYTES + 1));
    let limit = u64::try_from(MAX_BYTES + 1).unwrap_or(u64::MAX);
    from.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a configuration from the bytes of a file.
///
/// # Errors
///
/// When they are more than [`MAX_BYTES`], are not UTF-8, or as [`parse`] says.
pub fn parse_bytes(bytes: &[u8], file: &Path) -> Result<Config, ConfigErrors> {
    if bytes.len() > MAX_BYTES {
        return Err(too_long(file));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => parse(text, file),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let line = before.matches('\n').count() + 1;
            let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
            let error = ConfigError::new(file, Some(Position { line, column }), "not UTF-8 text")
                .hint("save the file as UTF-8; keep binary secrets in files of their own, with `fileRef`");
            Err(error.into())
        }
    }
}

/// Reads a configuration from text. `file` is the name errors give to it.
///
/// # Errors
///
/// When the text is not exactly one YAML document, or not a legal configuration. Of a document
/// that is YAML, all errors are reported, up to 50.
pub fn parse(text: &str, file: &Path) -> Result<Config, ConfigErrors> {
    if text.len() > MAX_BYTES {
        return Err(too_long(file));
    }
    let root = yaml::read(text).map_err(|problem| {
        let excerpt = excerpt::Source::broken(text).excerpt(&problem.mark);
        ConfigError::new(file, Some(problem.mark.at), problem.message)
            .hint(problem.hint)
            .excerpt(excerpt)
    })?;
    let mut report = Report::new(file, excerpt::Source::read(text, &root));
    let config = decode::config(&mut report, &root);
    if let Some(config) = &config {
        conflicts::check(&mut report, &config.secrets);
        decode_vault::check(&mut report, config);
    }
    ConfigErrors::check(report.into_errors())?;
    // Without an error there is a configuration; should that ever be wrong, nothing may start.
    config.ok_or_else(|| ConfigError::new(file, None, "the configuration is incomplete").into())
}

fn too_long(file: &Path) -> ConfigErrors {
    ConfigError::new(
        file,
        Some(START.at),
        format!("longer than {MAX_BYTES} bytes"),
    )
    .hint("keep large secrets in files of their own, with `fileRef`")
    .into()
}
