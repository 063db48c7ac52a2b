//! What Vault answers, as far as it is of use. What a parser says of it is left out: it may quote it.

use std::{collections::BTreeMap, time::Duration};

use http::HeaderValue;
use secrecy::zeroize::Zeroizing;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::fault::Fault;

/// A secret's keys and what they hold; `None`: something that is no value (an object, a list, null).
pub(crate) type Data = BTreeMap<String, Option<Zeroizing<Vec<u8>>>>;

/// A secret, and for how long it is lent.
pub(super) struct Content {
    pub(super) data: Data,
    pub(super) lease: Duration,
}

/// What a login, a renewal or a question about a token gives.
pub(super) struct Grant {
    /// Where it is a login's.
    pub(super) token: Option<HeaderValue>,
    /// Zero: for ever.
    pub(super) lease: Duration,
    pub(super) is_renewable: bool,
}

#[derive(Deserialize)]
struct Read {
    #[serde(default)]
    lease_duration: u64,
    data: Option<Version>,
}

/// Of a secret in version 2 of the engine. Without `metadata` it is another's.
#[derive(Deserialize)]
struct Version {
    #[serde(rename = "metadata")]
    _metadata: IgnoredAny,
    data: Option<BTreeMap<String, Box<RawValue>>>,
}

#[derive(Deserialize)]
struct Granted {
    auth: Auth,
}

#[derive(Deserialize)]
struct Auth {
    client_token: String,
    lease_duration: u64,
    renewable: bool,
}

#[derive(Deserialize)]
struct LookedUp {
    data: Looks,
}

#[derive(Deserialize)]
struct Looks {
    ttl: u64,
    #[serde(default)]
    renewable: bool,
}

/// The secret that an answer has. `None`: its newest version is deleted.
pub(super) fn content(body: &[u8]) -> Result<Option<Content>, Fault> {
    let is_json = || serde_json::from_slice::<IgnoredAny>(body).is_ok();
    let read: Read = serde_json::from_slice(body).map_err(|_| {
        if is_json() {
            Fault::NotVersion2
        } else {
            Fault::Malformed
        }
    })?;
    let version = read.data.ok_or(Fault::NotVersion2)?;
    Ok(version.data.map(|data| Content {
        data: data
            .into_iter()
            .map(|(key, raw)| (key, value(raw.get())))
            .collect(),
        lease: Duration::from_secs(read.lease_duration),
    }))
}

/// Text without its quotes; a number or a boolean as JSON has it.
fn value(raw: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = match raw.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(raw).ok()?.into_bytes(),
        b'{' | b'[' | b'n' => return None,
        _ => raw.as_bytes().to_vec(),
    };
    Some(Zeroizing::new(bytes))
}

/// What a login or a renewal gives.
pub(super) fn grant(body: &[u8]) -> Result<Grant, Fault> {
    let granted: Granted = serde_json::from_slice(body).map_err(|_| Fault::Malformed)?;
    let auth = granted.auth;
    let token = Zeroizing::new(auth.client_token);
    Ok(Grant {
        token: Some(header(token.as_bytes()).ok_or(Fault::Malformed)?),
        lease: Duration::from_secs(auth.lease_duration),
        is_renewable: auth.renewable,
    })
}

/// What is known of a token.
pub(super) fn looked_up(body: &[u8]) -> Result<Grant, Fault> {
    let found: LookedUp = serde_json::from_slice(body).map_err(|_| Fault::Malformed)?;
    Ok(Grant {
        token: None,
        lease: Duration::from_secs(found.data.ttl),
        is_renewable: found.data.renewable,
    })
}

/// A token as a request carries it, marked so that nothing shows it.
pub(super) fn header(token: &[u8]) -> Option<HeaderValue> {
    let mut header = HeaderValue::from_bytes(token).ok()?;
    header.set_sensitive(true);
    (!header.is_empty()).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(data: &str) -> Data {
        let body = format!(r#"{{"data": {{"data": {data}, "metadata": {{"version": 1}}}}}}"#);
        content(body.as_bytes())
            .ok()
            .flatten()
            .expect("a secret")
            .data
    }

    fn is(data: &Data, key: &str, value: &str) -> bool {
        data[key]
            .as_ref()
            .is_some_and(|v| ***v == *value.as_bytes())
    }

    #[test]
    fn scalars_are_their_text() {
        let data = read(
            r#"{"a": "x\n\"\u00e9", "b": 1.10, "c": 12345678901234567890123, "d": true, "e": "", "f": 1e400}"#,
        );
        assert!(is(&data, "a", "x\n\"é") && is(&data, "e", "") && is(&data, "d", "true"));
        assert!(is(&data, "b", "1.10") && is(&data, "f", "1e400"));
        assert!(is(&data, "c", "12345678901234567890123"));
    }

    #[test]
    fn what_is_no_value_is_none() {
        let data = read(r#"{"a": {"b": 1}, "c": ["d"], "e": null, "f": "\ud800"}"#);
        assert_eq!(data.len(), 4);
        assert!(data.values().all(Option::is_none));
    }

    #[test]
    fn another_engine_is_told_from_another_server() {
        let fault = |body: &str| content(body.as_bytes()).err();
        for body in [
            r#"{"data": {"password": "hunter2"}}"#,
            r#"{"data": {"data": {"password": "hunter2"}}}"#,
            r#"{"data": {"keys": ["a"]}}"#,
            r#"{"data": {"data": "hunter2", "metadata": {}}}"#,
            r#"{"data": null}"#,
            "[]",
        ] {
            assert_eq!(fault(body), Some(Fault::NotVersion2), "{body}");
        }
        for body in ["", "<html>", r#"{"data": {"data": {"password": "hunt"#] {
            assert_eq!(fault(body), Some(Fault::Malformed), "{body}");
        }
    }

    #[test]
    fn a_deleted_version_is_no_secret() {
        let body = r#"{"data": {"data": null, "metadata": {"deletion_time": "x"}}}"#;
        assert!(content(body.as_bytes()).is_ok_and(|found| found.is_none()));
    }

    #[test]
    fn a_token_is_not_shown() {
        let token = header(b"hvs.hunter2").expect("a token");
        assert!(!format!("{token:?}").contains("hunter2"));
        assert!(header(b"").is_none() && header(b"a\nb").is_none());
    }
}
