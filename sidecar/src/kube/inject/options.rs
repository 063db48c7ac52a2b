//! What may be said about the sidecar that is added: the same for `inject` and for the webhook.

use clap::Args;

/// The port `monitoring.metricsPort` has unless a configuration says otherwise.
const METRICS_PORT: u16 = 9090;
/// A name in Kubernetes (RFC 1123) has at most this many characters, and a label of one this many.
pub(super) const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;
/// What our volumes' names add to the container's.
const LONGEST_SUFFIX: usize = "-config".len();

/// The sidecar to add.
#[derive(Args, Clone, Debug)]
#[group(id = "sidecar")]
pub(crate) struct Options {
    /// The sidecar's image.
    #[arg(long, default_value_t = own_image(), value_parser = image)]
    pub(crate) image: String,
    /// The `ConfigMap` that holds `config.yaml`. A pod's annotation `kernelseal.io/config-map` goes before.
    #[arg(long, value_name = "NAME", default_value = "kernelseal", value_parser = config_map)]
    pub(crate) config_map: String,
    /// The sidecar's name; its volumes' names begin with it.
    #[arg(long, value_name = "NAME", default_value = Self::NAME, value_parser = container)]
    pub(crate) name: String,
    /// A Secret to mount for `secretKeyRef`, at /etc/kernelseal/secrets/NAME. May be given more than once.
    #[arg(long = "mount-secret", value_name = "NAME", value_parser = config_map)]
    pub(crate) mount_secrets: Vec<String>,
    /// Give the sidecar, and no other container, a token of the pod's service account: for a `secretKeyRef` that is
    /// read from the API.
    #[arg(long)]
    pub(crate) api_token: bool,
    /// The configuration's `monitoring.metricsPort`: the probes ask there.
    #[arg(long, value_name = "PORT", default_value_t = METRICS_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) metrics_port: u16,
    /// For Kubernetes before 1.29, without native sidecars: an ordinary container. The application may
    /// start before it, then without secrets, and a Job's pod does not finish by itself.
    #[arg(long)]
    pub(crate) older_cluster: bool,
}

impl Options {
    /// What the sidecar is called unless told otherwise.
    pub(super) const NAME: &str = "kernelseal";

    /// Those of a sidecar of a name, of which nothing else matters.
    pub(super) fn named(name: &str) -> Self {
        Self {
            image: own_image(),
            config_map: Self::NAME.to_owned(),
            name: name.to_owned(),
            mount_secrets: Vec::new(),
            api_token: false,
            metrics_port: METRICS_PORT,
            older_cluster: false,
        }
    }
}

/// The image of this version, as it is called where this program was built: `kernelseal`, or what
/// `KERNELSEAL_IMAGE_NAME` was at the time.
fn own_image() -> String {
    let name = option_env!("KERNELSEAL_IMAGE_NAME").unwrap_or("kernelseal");
    format!("{name}:{}", env!("CARGO_PKG_VERSION"))
}

/// Letters that need no quotes in YAML, wherever they stand in the middle of a scalar.
fn image(text: &str) -> Result<String, String> {
    let legal = |c: char| c.is_ascii_alphanumeric() || "./:@_-".contains(c);
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    let ends = text.ends_with(|c: char| c.is_ascii_alphanumeric());
    if begins && ends && text.chars().all(legal) {
        Ok(text.to_owned())
    } else {
        Err("not an image's name, like registry.example/kernelseal:0.1.0".into())
    }
}

fn container(text: &str) -> Result<String, String> {
    let limit = MAX_LABEL - LONGEST_SUFFIX;
    if is_label(text) && text.len() <= limit {
        Ok(text.to_owned())
    } else {
        Err(format!(
            "not a container's name: small letters, digits and `-` between them, at most {limit}"
        ))
    }
}

/// A name of a `ConfigMap` or a Secret.
pub(super) fn config_map(text: &str) -> Result<String, String> {
    if text.len() <= MAX_NAME && text.split('.').all(is_label) {
        Ok(text.to_owned())
    } else {
        Err("not a name in Kubernetes: small letters, digits, `-` and `.` between them".into())
    }
}

fn is_label(text: &str) -> bool {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && text.chars().all(legal) && !text.starts_with('-') && !text.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_kubernetes_refuses_are_refused() {
        for bad in ["", "-a", "a-", "A", "a b", "a/b", "a\nb", &"a".repeat(57)] {
            assert!(container(bad).is_err(), "{bad:?}");
        }
        assert!(container(&"a".repeat(56)).is_ok());
        assert!(config_map("a.b-c").is_ok() && config_map("a..b").is_err());
    }

    #[test]
    fn an_image_cannot_break_out_of_its_line() {
        for bad in ["", "a b", "a: b", "a:", "\"a\"", "a\n- b", "*a", "#a", "-"] {
            assert!(image(bad).is_err(), "{bad:?}");
        }
        for good in ["kernelseal", "localhost:5000/a_b/c:1.0", "a@sha256:0f"] {
            assert!(image(good).is_ok(), "{good:?}");
        }
    }
}
