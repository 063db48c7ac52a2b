//! A real Kubernetes API server, with its etcd, from the folder that `KUBEBUILDER_ASSETS` names.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
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
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{Authority, leash::Leash};

/// The administrator's token.
pub const ADMIN_TOKEN: &str = "token-of-the-administrator";
/// A user who may do nothing until something is allowed.
pub const AGENT: &str = "agent";
/// That user's token.
pub const AGENT_TOKEN: &str = "token-of-the-agent";

/// What pods are told of where the API is: the first address of the services' range.
pub const SERVICE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 443);

const RBAC: &str = "rbac.authorization.k8s.io";
/// How long the server may take to be ready. A machine at its limit takes half a minute, an emulated one that
/// shares it with others a few.
const READY_WITHIN: Duration = Duration::from_mins(10);
/// Between two looks.
const STEP: Duration = Duration::from_millis(100);
/// Whoever finds a port free may find it taken a moment later.
const ATTEMPTS: usize = 3;

/// A server that runs, RBAC on.
pub struct ApiServer {
    url: String,
    authority: Authority,
    runtime: Runtime,
    processes: Mutex<Vec<Leash>>,
    dir: TempDir,
}

impl ApiServer {
    /// The one of this process, started at first use. Panics if there is none to start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().expect("a Kubernetes API server"))
    }

    /// Starts one, on loopback.
    pub fn start() -> Result<Self> {
        let assets = assets()?;
        let mut failure = None;
        for _ in 0..ATTEMPTS {
            match Self::try_start(
                &assets,
                SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()?),
            ) {
                Ok(server) => return Ok(server),
                Err(e) => failure = Some(e),
            }
        }
        Err(failure.context("no attempt")?)
    }

    /// Starts one at an address of this machine's. At [`SERVICE`] pods find it as in any cluster.
    pub fn start_at(address: SocketAddrV4) -> Result<Self> {
        Self::try_start(&assets()?, address)
    }

    fn try_start(assets: &Path, address: SocketAddrV4) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let identity = authority.identity_at(*address.ip())?;
        let file = |name: &str, content: &str| -> Result<String> {
            let path = dir.path().join(name);
            fs::write(&path, content)?;
            Ok(path.display().to_string())
        };
        let certificate = file("server.crt", &identity.certificate_pem())?;
        let key = file("server.key", &identity.key_pem())?;
        let tokens = format!(
            "{ADMIN_TOKEN},admin,admin,\"system:masters\"\n{AGENT_TOKEN},{AGENT},{AGENT}\n"
        );
        let tokens = file("tokens.csv", &tokens)?;
        let (client, peer) = (free_port()?, free_port()?);
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let etcd = [
            format!("--data-dir={}", dir.path().join("etcd").display()),
            format!("--listen-client-urls={}", at(client)),
            format!("--advertise-client-urls={}", at(client)),
            format!("--listen-peer-urls={}", at(peer)),
            "--unsafe-no-fsync".into(),
        ];
        let api = [
            format!("--etcd-servers={}", at(client)),
            format!("--secure-port={}", address.port()),
            format!("--bind-address={}", address.ip()),
            format!("--cert-dir={}", dir.path().display()),
            format!("--tls-cert-file={certificate}"),
            format!("--tls-private-key-file={key}"),
            format!("--token-auth-file={tokens}"),
            "--authorization-mode=RBAC".into(),
            format!("--service-account-key-file={certificate}"),
            format!("--service-account-signing-key-file={key}"),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            "--service-cluster-ip-range=10.0.0.0/24".into(),
            "--disable-admission-plugins=ServiceAccount".into(),
            // In a guest that another one shares the machine with, a minute was seen not to do.
            "--request-timeout=5m".into(),
        ];
        let processes = vec![
            Leash::start(&assets.join("kube-apiserver"), &api, dir.path())?,
            Leash::start(&assets.join("etcd"), &etcd, dir.path())?,
        ];
        let server = Self {
            url: format!("https://{address}"),
            authority,
            runtime: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()?,
            processes: Mutex::new(processes),
            dir,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let client = self.client(Some(ADMIN_TOKEN))?;
        let begun = Instant::now();
        loop {
            let request = axum::http::Request::get("/readyz").body(Vec::new())?;
            let said = self.runtime.block_on(client.request_text(request));
            if said.is_ok_and(|said| said == "ok") {
                return Ok(());
            }
            let log = fs::read_to_string(self.dir.path().join("kube-apiserver.log"))?;
            // What it says when it gives up.
            let has_ended = log.lines().any(|line| line.starts_with("Error:"));
            if has_ended || begun.elapsed() > READY_WITHIN {
                let end: Vec<&str> = log.lines().rev().take(20).collect();
                let end = end.join("\n");
                bail!(
                    "not ready after {:?}; its log, the last line first:\n{end}",
                    begun.elapsed()
                );
            }
            std::thread::sleep(STEP);
        }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Who signed its certificate.
    #[must_use]
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// A client, of nobody or with a token.
    pub(crate) fn client(&self, token: Option<&str>) -> Result<Client> {
        let mut config = Config::new(self.url.parse()?);
        config.root_cert = Some(vec![self.authority.der()]);
        config.default_retry = false;
        config.auth_info.token = token.map(|token| token.to_owned().into());
        let _here = self.runtime.enter();
        Ok(Client::try_from(config)?)
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
        fs::write(&authority, self.authority.pem())?;
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

    /// Ends the server, as when a control plane is gone.
    pub fn end(&self) {
        let mut processes = self
            .processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        processes.clear();
    }
}

/// The folder with the programs.
fn assets() -> Result<PathBuf> {
    let Some(folder) = env::var_os("KUBEBUILDER_ASSETS") else {
        bail!(
            "these tests talk to a real Kubernetes API server. Set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd; `setup-envtest use -p path` (kubebuilder's tool) fetches them and prints the folder"
        );
    };
    let folder = PathBuf::from(folder);
    for program in ["etcd", "kube-apiserver"] {
        let path = folder.join(program);
        ensure!(
            path.is_file(),
            "KUBEBUILDER_ASSETS: there is no {}",
            path.display()
        );
    }
    Ok(folder)
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
