//! A real Kubernetes API server, with its etcd, from the folder that `KUBEBUILDER_ASSETS` names.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddrV4, TcpListener},
    ops::Deref,
    path::{Path, PathBuf},
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{
    Authority,
    administrator::{ADMIN_TOKEN, AGENT, AGENT_TOKEN, Administrator},
    leash::Leash,
};

/// How long the server may take to be ready. A machine at its limit takes half a minute.
const READY_WITHIN: Duration = Duration::from_mins(3);
/// Between two looks.
const STEP: Duration = Duration::from_millis(100);
/// Whoever finds a port free may find it taken a moment later.
const ATTEMPTS: usize = 3;

/// A server that runs, RBAC on, and its administrator.
pub struct ApiServer {
    administrator: Administrator,
    authority: Authority,
    port: u16,
    processes: Mutex<Vec<Leash>>,
    dir: TempDir,
}

impl Deref for ApiServer {
    type Target = Administrator;

    fn deref(&self) -> &Administrator {
        &self.administrator
    }
}

impl ApiServer {
    /// The one of this process, started at first use. Panics if there is none to start.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<ApiServer> = OnceLock::new();
        SHARED.get_or_init(|| Self::start().expect("a Kubernetes API server"))
    }

    /// Starts one, on loopback.
    pub fn start() -> Result<Self> {
        Self::start_known_as(&[])
    }

    /// Starts one, on loopback, that its clients may find at other addresses, too.
    pub fn start_known_as(others: &[Ipv4Addr]) -> Result<Self> {
        let assets = assets()?;
        attempt(|| Self::try_start(&assets, others))
    }

    fn try_start(assets: &Path, others: &[Ipv4Addr]) -> Result<Self> {
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, free_port()?);
        let dir = tempfile::tempdir()?;
        let authority = Authority::new()?;
        let identity = authority.identity_at(&[&[*address.ip()], others].concat())?;
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
        ];
        let processes = vec![
            Leash::start(&assets.join("kube-apiserver"), &api, dir.path())?,
            Leash::start(&assets.join("etcd"), &etcd, dir.path())?,
        ];
        let server = Self {
            administrator: Administrator::new(address, &authority.pem())?,
            authority,
            port: address.port(),
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
            let said = self.runtime().block_on(client.request_text(request));
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

    /// The port of loopback where it is.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn authority(&self) -> &Authority {
        &self.authority
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
            "these tests talk to a real Kubernetes API server. Run them by `make test-kube`, which looks into the cache, or set KUBEBUILDER_ASSETS to a folder with kube-apiserver and etcd; `setup-envtest use -p path` (kubebuilder's tool) fetches them and prints the folder"
        );
    };
    let folder = PathBuf::from(folder);
    for program in ["etcd", "kube-apiserver"] {
        let path = folder.join(program);
        ensure!(
            path.is_file(),
            "KUBEBUILDER_ASSETS: there is no {}; put it there, or name a folder with kube-apiserver and etcd (`setup-envtest use -p path` fetches them and prints it)",
            path.display()
        );
    }
    Ok(folder)
}

/// Starts a server, once more if its port was taken meanwhile, or whatever it was.
pub(crate) fn attempt<T>(mut start: impl FnMut() -> Result<T>) -> Result<T> {
    let mut failure = None;
    for _ in 0..ATTEMPTS {
        match start() {
            Ok(server) => return Ok(server),
            Err(e) => failure = Some(e),
        }
    }
    Err(failure.context("no attempt")?)
}

/// One that nobody has right now.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}
