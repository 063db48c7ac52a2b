//! What we prove ourselves by: files, read at every use, of which no message shows anything.

use std::path::Path;

use http::HeaderValue;
use secrecy::zeroize::Zeroizing;

use super::{answer::header, fault::Fault};
use crate::{config::VaultKubernetes, secrets::backends::file};

/// A file's token, without the newline at its end.
pub(super) fn token(path: &Path) -> Result<HeaderValue, Fault> {
    let bytes = credentials(path)?;
    header(bytes.trim_ascii())
        .ok_or_else(|| Fault::Credentials(format!("{} does not hold a token", path.display())))
}

/// What a login says: the role, and the service account's token.
pub(super) fn login(login: &VaultKubernetes) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let path = &login.token_file;
    let bytes = credentials(path)?;
    let jwt = std::str::from_utf8(bytes.trim_ascii()).ok();
    // (of the letters of a JWT none needs escaping in JSON)
    let is_plain = |text: &&str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.=".contains(&byte);
        !text.is_empty() && text.bytes().all(legal)
    };
    let jwt = jwt.filter(is_plain).ok_or_else(|| {
        Fault::Credentials(format!("{} does not hold a token (a JWT)", path.display()))
    })?;
    let role = serde_json::Value::from(login.role.as_str());
    Ok(Zeroizing::new(
        format!(r#"{{"role":{role},"jwt":"{jwt}"}}"#).into_bytes(),
    ))
}

fn credentials(path: &Path) -> Result<Zeroizing<Vec<u8>>, Fault> {
    file::read(path).map_err(|cause| Fault::Credentials(format!("{}: {cause}", path.display())))
}
