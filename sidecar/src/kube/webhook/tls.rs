//! The webhook's certificate: read at the start, and again whenever its files change.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use axum_server::tls_rustls::RustlsConfig;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use zeroize::Zeroizing;

/// The certificate in use, and where it comes from.
pub(super) struct Certificate {
    files: Files,
    /// What they held when they were last read.
    read: Pair,
    config: RustlsConfig,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
}

/// The contents of both.
#[derive(PartialEq)]
struct Pair {
    cert: Vec<u8>,
    key: Zeroizing<Vec<u8>>,
}

impl Certificate {
    /// Reads both files. What cannot be used is a failure to start.
    pub(super) fn load(cert: &Path, key: &Path) -> anyhow::Result<Self> {
        let files = Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        };
        let read = files.read()?;
        let config = RustlsConfig::from_config(Arc::new(files.server(&read)?));
        Ok(Self {
            files,
            read,
            config,
        })
    }

    /// What connections are accepted with; it follows the files.
    pub(super) fn config(&self) -> RustlsConfig {
        self.config.clone()
    }

    /// Looks at the files again and again. A pair that cannot be used leaves the old one in force: it may be
    /// half written, and no certificate is worse than an old one.
    pub(super) async fn keep_fresh(mut self, every: Duration) {
        loop {
            tokio::time::sleep(every).await;
            let pair = match self.files.read() {
                Ok(pair) if pair == self.read => continue,
                Ok(pair) => pair,
                Err(error) => {
                    tracing::warn!("the certificate in use stays: {error:#}");
                    continue;
                }
            };
            match self.files.server(&pair) {
                Ok(config) => {
                    self.config.reload_from_config(Arc::new(config));
                    tracing::info!("the certificate has changed, and is read again");
                }
                Err(error) => tracing::error!("the certificate in use stays: {error:#}"),
            }
            // Told once, not every time.
            self.read = pair;
        }
    }
}

impl Files {
    /// By polling: a mounted Secret changes by a link beside it, which watching the file would not tell.
    fn read(&self) -> anyhow::Result<Pair> {
        let open = |option: &str, path: &Path| {
            fs::read(path).with_context(|| format!("{option} {} cannot be read", path.display()))
        };
        Ok(Pair {
            cert: open("--tls-cert", &self.cert)?,
            key: Zeroizing::new(open("--tls-key", &self.key)?),
        })
    }

    fn server(&self, pair: &Pair) -> anyhow::Result<ServerConfig> {
        let (cert, key) = (self.cert.display(), self.key.display());
        let certs: Vec<_> = CertificateDer::pem_slice_iter(&pair.cert)
            .collect::<Result<_, _>>()
            .ok()
            .filter(|certs: &Vec<_>| !certs.is_empty())
            .with_context(|| {
                format!(
                    "--tls-cert {cert} holds no certificate in PEM (-----BEGIN CERTIFICATE-----)"
                )
            })?;
        let private = PrivateKeyDer::from_pem_slice(&pair.key)
            .ok()
            .with_context(|| {
                format!("--tls-key {key} holds no private key in PEM (-----BEGIN PRIVATE KEY-----)")
            })?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(certs, private)
            .with_context(|| {
                format!(
                    "{cert} and {key} do not belong together, or are of a kind that is not known"
                )
            })?;
        // One protocol, one set of limits.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}
