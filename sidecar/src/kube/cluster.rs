//! Where the API is and who we are to it: what `KUBECONFIG` names, or a pod's service account.

use std::{env, io, path::Path, time::Duration};

use http::Uri;
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError},
};

/// How long connecting may take.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// What a pod's environment has where there is an API.
const IN_A_CLUSTER: &str = "KUBERNETES_SERVICE_HOST";
/// What a pod has that may speak to it.
const TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// A cluster's API, and our credentials there.
#[derive(Clone)]
pub(crate) struct Cluster {
    config: Config,
}

/// Credentials that are there and cannot be used. Quotes nothing of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// The file that `KUBECONFIG` names.
    #[error("KUBECONFIG: {0}")]
    Kubeconfig(String),
    /// The pod's own.
    #[error("the pod's service account: {0}")]
    ServiceAccount(#[from] kube::config::InClusterError),
    /// Anybody could answer.
    #[error(
        "KUBECONFIG: {0} is not authenticated, so anybody could answer. Write `server: https://…` and `certificate-authority`, and leave out `insecure-skip-tls-verify`"
    )]
    Insecure(Uri),
    /// Credentials of a kind that we do not use.
    #[error(
        "KUBECONFIG: the user's {0} would have the agent run a program or speak to another service for its credentials. Write `tokenFile` or `client-certificate`"
    )]
    Plugin(&'static str),
    /// No client comes of it.
    #[error("no connection can be made with the credentials: {0}")]
    Client(&'static str),
}

impl Cluster {
    /// The one that this process has credentials for: `KUBECONFIG` first, for it is said on purpose.
    pub(crate) async fn find() -> Result<Option<Self>, ClusterError> {
        let kubeconfig = Kubeconfig::from_env().map_err(|e| refused(&e))?;
        if let Some(kubeconfig) = kubeconfig {
            Self::of(kubeconfig).await.map(Some)
        } else if Self::is_ours() {
            Self::new(Config::incluster()?).map(Some)
        } else {
            Ok(None)
        }
    }

    /// Whether there are credentials for one, good or not.
    pub(crate) fn is_named() -> bool {
        let kubeconfig = env::var_os("KUBECONFIG").is_some_and(|named| !named.is_empty());
        kubeconfig || Self::is_ours()
    }

    /// Whether we are in one, and may speak to it.
    fn is_ours() -> bool {
        env::var_os(IN_A_CLUSTER).is_some() && Path::new(TOKEN).exists()
    }

    /// The one that a kubeconfig is about.
    pub(crate) async fn of(kubeconfig: Kubeconfig) -> Result<Self, ClusterError> {
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        Self::new(config.map_err(|e| refused(&e))?)
    }

    fn new(mut config: Config) -> Result<Self, ClusterError> {
        if config.cluster_url.scheme_str() != Some("https") || config.accept_invalid_certs {
            return Err(ClusterError::Insecure(config.cluster_url));
        }
        let user = &config.auth_info;
        if user.exec.is_some() {
            return Err(ClusterError::Plugin("exec"));
        }
        if user.auth_provider.is_some() {
            return Err(ClusterError::Plugin("auth-provider"));
        }
        config.connect_timeout = Some(CONNECT_WITHIN);
        // Whoever watches comes back by a pace of its own.
        config.default_retry = false;
        Ok(Self { config })
    }

    /// The namespace of what names none.
    pub(crate) fn namespace(&self) -> &str {
        &self.config.default_namespace
    }

    /// A client. Needs a tokio runtime.
    pub(crate) fn client(&self) -> Result<Client, ClusterError> {
        Client::try_from(self.config.clone()).map_err(|e| {
            ClusterError::Client(match e {
                kube::Error::RustlsTls(_) => {
                    "the certificates, or the key, are not what TLS can use"
                }
                kube::Error::ProxyProtocolUnsupported { .. }
                | kube::Error::ProxyProtocolDisabled { .. } => {
                    "proxy-url and HTTPS_PROXY are not supported"
                }
                _ => "they are not what a request can carry",
            })
        })
    }
}

/// Why a kubeconfig is none. What parsers say may quote a token: it is left out.
fn refused(error: &KubeconfigError) -> ClusterError {
    let file = |path: &Path, cause: &io::Error| format!("{}: {cause}", path.display());
    ClusterError::Kubeconfig(match error {
        KubeconfigError::ReadConfig(cause, path)
        | KubeconfigError::LoadCertificateAuthority(LoadDataError::ReadFile(cause, path))
        | KubeconfigError::LoadClientCertificate(LoadDataError::ReadFile(cause, path))
        | KubeconfigError::LoadClientKey(LoadDataError::ReadFile(cause, path)) => file(path, cause),
        KubeconfigError::Parse(_) => "not the YAML of a kubeconfig".into(),
        KubeconfigError::CurrentContextNotSet => "no current-context".into(),
        KubeconfigError::LoadContext(name) => format!("no context {name}"),
        KubeconfigError::LoadClusterOfContext(name) => format!("no cluster {name}"),
        KubeconfigError::MissingClusterUrl => "the cluster has no server".into(),
        _ => "its entries do not make up a cluster and a user".into(),
    })
}
