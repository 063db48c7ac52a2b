//! Whose certificates we believe: those of a file, or those that the system trusts.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};

/// What keeps us from knowing whom to believe.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TrustError {
    /// The file.
    #[error("vault.caFile {path}: {cause}", path = .0.display(), cause = .1)]
    File(PathBuf, io::Error),
    /// What is in it.
    #[error("vault.caFile {}: it holds no certificate in PEM (`-----BEGIN CERTIFICATE-----`) that TLS can use", .0.display())]
    NotPem(PathBuf),
    /// Nothing to go by.
    #[error(
        "vault: the system has no trusted certificates (a container's image may have none). Set `caFile` to a file with the certificates of the authority that signed Vault's"
    )]
    Nobody,
    /// A name that no certificate has.
    #[error("vault.address: {0} is not a name that a certificate can have")]
    Name(String),
    /// A header that none is.
    #[error("vault.namespace: it has characters that a request cannot carry")]
    Namespace,
    /// The library.
    #[error("vault: TLS cannot be spoken: {0}")]
    Tls(rustls::Error),
}

/// What a connection is made by.
pub(super) struct Trust {
    file: Option<PathBuf>,
    config: Mutex<Arc<ClientConfig>>,
    name: ServerName<'static>,
}

impl Trust {
    pub(super) fn new(file: Option<PathBuf>, host: &str) -> Result<Self, TrustError> {
        let name = ServerName::try_from(host.to_owned());
        Ok(Self {
            config: Mutex::new(read(file.as_deref())?),
            file,
            name: name.map_err(|_| TrustError::Name(host.to_owned()))?,
        })
    }

    /// For whom the certificate must be.
    pub(super) fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    pub(super) fn config(&self) -> Arc<ClientConfig> {
        let config = self.config.lock();
        config.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The certificates may be others by now. If they are none, those we have stay.
    pub(super) fn read_again(&self) {
        if let Ok(config) = read(self.file.as_deref()) {
            let mut now = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            *now = config;
        }
    }
}

fn read(file: Option<&Path>) -> Result<Arc<ClientConfig>, TrustError> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = file {
        let text = fs::read(file).map_err(|e| TrustError::File(file.to_owned(), e))?;
        let not_pem = || TrustError::NotPem(file.to_owned());
        for certificate in CertificateDer::pem_slice_iter(&text) {
            let certificate = certificate.map_err(|_| not_pem())?;
            roots.add(certificate).map_err(|_| not_pem())?;
        }
        if roots.is_empty() {
            return Err(not_pem());
        }
    } else {
        // (some of a system's may be of no use: as long as others are)
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            return Err(TrustError::Nobody);
        }
    }
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TrustError::Tls)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    // Each connection is for one answer, and leaves nothing for the next.
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}
