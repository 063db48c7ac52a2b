//! What names and paths may look like. Each check says what is wrong without quoting its subject.

use super::binding::Delivery;

/// More bindings than this are a mistake.
pub(super) const MAX_BINDINGS: usize = 1000;
/// Longest name of a kind in Kubernetes, in bytes.
pub(super) const MAX_KIND: usize = 63;
/// Longest file name of Linux, in bytes.
const NAME_MAX: usize = 255;
/// Longest path of Linux, in bytes.
const PATH_MAX: usize = 4095;

type Check = Result<(), String>;

fn ensure(condition: bool, otherwise: &str) -> Check {
    if condition {
        Ok(())
    } else {
        Err(otherwise.to_owned())
    }
}

/// Text without control characters, such as NUL or a newline.
pub(super) fn word(text: &str) -> Check {
    ensure(
        !text.chars().any(char::is_control),
        "has a control character",
    )?;
    ensure(text.trim() == text, "begins or ends with a space")
}

/// The name of a binding.
pub(super) fn binding_name(name: &str) -> Check {
    word(name)?;
    ensure(name.len() <= 253, "is longer than 253 bytes")
}

/// An absolute path that needs no resolving: no `.`, `..`, `//` or trailing `/`.
pub(super) fn absolute_path(path: &str) -> Check {
    ensure(!path.contains('\0'), "has a NUL byte")?;
    ensure(path.len() <= PATH_MAX, "is longer than 4095 bytes")?;
    let Some(rest) = path.strip_prefix('/') else {
        return Err("is not an absolute path".to_owned());
    };
    let plain = rest.split('/').all(|part| !matches!(part, "" | "." | ".."));
    ensure(
        plain,
        "is not a plain path: no `.`, `..`, `//` or `/` at the end",
    )
}

/// The executed file: a basename, or an absolute path. What the kernel would never see as a file's name is refused, for such a
/// binding would silently match nothing.
pub(super) fn binary(binary: &str) -> Check {
    ensure(
        !binary.contains(['*', '?']),
        "is a pattern (`*`, `?`), and would match no program: write one path, or the name alone for every folder; a binding for each program",
    )?;
    ensure(
        !binary.contains(char::is_whitespace),
        "has a blank, and would match no program: write the file alone, without its arguments",
    )?;
    let basename = binary.rsplit('/').next().unwrap_or(binary);
    if binary.starts_with('/') {
        absolute_path(binary)?;
    } else if binary.contains('/') {
        return Err("is a relative path: write the name alone, or an absolute path".to_owned());
    } else {
        ensure(!matches!(binary, "." | ".."), "is not the name of a file")?;
        ensure(!binary.contains('\0'), "has a NUL byte")?;
    }
    ensure(
        basename.len() <= NAME_MAX,
        "has a name longer than 255 bytes",
    )
}

/// A SHA-256 digest.
pub(super) fn sha256(digest: &str) -> Check {
    let hex = digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    ensure(
        hex && digest.len() == 64,
        "must be 64 hexadecimal digits, as `sha256sum` prints them",
    )
}

/// A control group below the root.
pub(super) fn cgroup_path(path: &str) -> Check {
    ensure(path != "/", "cannot be \"/\", which every program is in")?;
    absolute_path(path)
}

/// A Kubernetes namespace: a DNS label.
pub(super) fn namespace(name: &str) -> Check {
    let legal = !name.contains('.') && is_dns_name(name) && name.len() <= 63;
    ensure(
        legal,
        "is not a Kubernetes namespace: 1 to 63 of a-z, 0-9 and inner `-`",
    )
}

/// The name of a Kubernetes object: a DNS subdomain.
pub(super) fn object_name(name: &str) -> Check {
    let legal = is_dns_name(name) && name.len() <= 253;
    ensure(
        legal,
        "is not a Kubernetes name: 1 to 253 of a-z, 0-9, inner `-` and `.`",
    )
}

fn is_dns_name(name: &str) -> bool {
    name.split('.').all(|label| {
        let legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty()
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// A key in a Kubernetes Secret.
pub(super) fn object_key(key: &str) -> Check {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    let legal = key.bytes().all(legal) && key.len() <= 253 && !key.starts_with("..") && key != ".";
    ensure(
        legal,
        "is not a key of a Kubernetes Secret: 1 to 253 of a-z, A-Z, 0-9, `-`, `_` and `.`",
    )
}

/// A path of Vault's API, or a part of one: what stands in a URL, and in a policy, as it is written.
pub(super) fn vault_path(path: &str) -> Check {
    word(path)?;
    ensure(
        !path.contains(['?', '#', '%', '"', '\\', '*', '+']),
        "has one of `?`, `#`, `%`, `*`, `+`, `\"` and `\\`",
    )?;
    let plain = path.split('/').all(|part| !matches!(part, "" | "." | ".."));
    ensure(
        plain,
        "is not a plain path: no `.`, `..` or `//`, nor `/` at its beginning or end",
    )?;
    ensure(
        !path.starts_with("v1/"),
        "begins with `v1/`, which goes without saying",
    )
}

/// The name of a variable in kernelseal's own environment.
pub(super) fn env_ref(name: &str) -> Check {
    ensure(
        !name.contains(['=', '\0']),
        "is not the name of an environment variable",
    )
}

/// The name under which a program gets a secret, or what is wrong with it and what to do.
pub(super) fn secret_name(
    name: &str,
    delivery: Delivery,
) -> Result<(), (&'static str, &'static str)> {
    if name == "KERNELSEAL_SECRETS_DIR" {
        return Err((
            "is reserved",
            "kernelseal sets it to the folder of the secret files",
        ));
    }
    if name.starts_with("LD_") {
        let hint = "a secret must not load code into the program that gets it";
        return Err(("steers the dynamic loader", hint));
    }
    if delivery.env && !is_variable(name) {
        let hint = "use letters, digits and `_`, not a digit first; or `delivery: [file]`";
        return Err(("is not a legal name for an environment variable", hint));
    }
    if delivery.file && !is_file_name(name) {
        let hint = "use at most 255 bytes without `/`";
        return Err(("is not a safe file name", hint));
    }
    Ok(())
}

fn is_variable(name: &str) -> bool {
    name.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

fn is_file_name(name: &str) -> bool {
    let plain = !name.contains('/') && !name.chars().any(char::is_control);
    plain && !matches!(name, "" | "." | "..") && name.len() <= NAME_MAX
}
