//! What the administrator of an API server does there for tests.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddrV4},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::TokenRequest,
        core::v1::{Namespace, Secret, ServiceAccount},
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_rustls::rustls::pki_types::{CertificateDer, pem::PemObject as _};

/// The administrator's token.
pub const ADMIN_TOKEN: &str = "token-of-the-administrator";
/// A user who may do nothing until something is allowed.
pub const AGENT: &str = "agent";
/// That user's token.
pub const AGENT_TOKEN: &str = "token-of-the-agent";

/// What pods are told of where the API is: the first address of the services' range.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 443);

const RBAC: &str = "rbac.authorization.k8s.io";

/// Who may do everything at a server, be it in this process' charge or not.
pub struct Administrator {
    url: String,
    authority: String,
    runtime: Runtime,
}

impl Administrator {
    /// The one of a server at an address whose certificate was signed by this authority, in PEM.
    pub fn new(address: SocketAddrV4, authority: &str) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            url: format!("https://{address}"),
            authority: authority.to_owned(),
            runtime,
        })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The certificate of who signed the server's.
    #[must_use]
    pub fn authority_pem(&self) -> &str {
        &self.authority
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A client, of nobody or with a token.
    pub(crate) fn client(&self, token: Option<&str>) -> Result<Client> {
        let _here = self.runtime.enter();
        client(&self.url, &self.authority, token)
    }

    /// A kubeconfig for the server, or for a proxy before it.
    pub fn kubeconfig(
        &self,
        into: &Path,
        url: &str,
        namespace: &str,
        token: &str,
    ) -> Result<PathBuf> {
        let authority = into.join("ca.crt");
        fs::write(&authority, &self.authority)?;
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
            "clusters": [{"name": "test", "cluster": {"server": url, "certificate-authority": authority}}],
            "users": [{"name": "test", "user": {"token": token}}],
        });
        let path = into.join("kubeconfig");
        fs::write(&path, config.to_string())?;
        Ok(path)
    }

    /// Makes a namespace.
    pub fn namespace(&self, name: &str) -> Result<()> {
        self.apply::<Namespace>(None, name, json!({"apiVersion": "v1", "kind": "Namespace"}))
    }

    /// Makes a Secret what is given, whatever it was. `None` takes it away.
    pub fn secret(
        &self,
        namespace: &str,
        name: &str,
        data: Option<&[(&str, &[u8])]>,
    ) -> Result<()> {
        let client = self.client(Some(ADMIN_TOKEN))?;
        let api: Api<Secret> = Api::namespaced(client, namespace);
        let Some(data) = data else {
            self.runtime
                .block_on(api.delete(name, &DeleteParams::default()))?;
            return Ok(());
        };
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            data: Some(
                data.iter()
                    .map(|(key, value)| ((*key).to_owned(), ByteString(value.to_vec())))
                    .collect(),
            ),
            ..Secret::default()
        };
        self.runtime.block_on(api.patch(
            name,
            &PatchParams::apply("tests").force(),
            &Patch::Apply(&secret),
        ))?;
        Ok(())
    }

    /// Lets the agent read one Secret, with the very rule that its message asks for.
    pub fn allow(&self, namespace: &str, secret: &str) -> Result<()> {
        let user = json!({"apiGroup": RBAC, "kind": "User", "name": AGENT});
        self.bind(namespace, secret, &user)
    }

    /// Makes a service account that may read one Secret, and gives a token of it.
    pub fn account(&self, namespace: &str, name: &str, secret: &str) -> Result<String> {
        let account = json!({"apiVersion": "v1", "kind": "ServiceAccount"});
        self.apply::<ServiceAccount>(Some(namespace), name, account)?;
        let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": namespace});
        self.bind(namespace, secret, &subject)?;
        let client = self.client(Some(ADMIN_TOKEN))?;
        let api: Api<ServiceAccount> = Api::namespaced(client, namespace);
        let asked = TokenRequest::default();
        let given = self.runtime.block_on(api.create_token_request(
            name,
            &PostParams::default(),
            &asked,
        ))?;
        Ok(given.status.context("no token")?.token)
    }

    fn bind(&self, namespace: &str, secret: &str, subject: &serde_json::Value) -> Result<()> {
        let version = format!("{RBAC}/v1");
        let allowed = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": [secret], "verbs": ["get", "list", "watch"]});
        let role = json!({"apiVersion": version, "kind": "Role", "rules": [allowed]});
        self.apply::<Role>(Some(namespace), secret, role)?;
        let binding = json!({
            "apiVersion": version, "kind": "RoleBinding", "subjects": [subject],
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": secret},
        });
        self.apply::<RoleBinding>(Some(namespace), secret, binding)
    }

    fn apply<K>(
        &self,
        namespace: Option<&str>,
        name: &str,
        mut what: serde_json::Value,
    ) -> Result<()>
    where
        K: kube::Resource<DynamicType = ()>,
    {
        what["metadata"] = json!({"name": name});
        let client = self.client(Some(ADMIN_TOKEN))?;
        let url = K::url_path(&(), namespace);
        let request = kube::core::Request::new(url).patch(
            name,
            &PatchParams::apply("tests").force(),
            &Patch::Apply(&what),
        )?;
        self.runtime.block_on(client.request_text(request))?;
        Ok(())
    }
}

/// A client of a server whose certificate was signed by this authority, in PEM. Needs a runtime around it.
pub(crate) fn client(url: &str, authority: &str, token: Option<&str>) -> Result<Client> {
    let mut config = Config::new(url.parse()?);
    let authority = CertificateDer::from_pem_slice(authority.as_bytes())?;
    config.root_cert = Some(vec![authority.to_vec()]);
    config.default_retry = false;
    config.auth_info.token = token.map(|token| token.to_owned().into());
    Ok(Client::try_from(config)?)
}
