//! The whole program beside a real API server (`make test-kube`), in the mode that needs no kernel side.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use kernelseal_servers::{AGENT_TOKEN, ApiServer, Fault, Proxy};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Until then, what is to happen has happened.
const SOON: Duration = Duration::from_mins(1);
const STEP: Duration = Duration::from_millis(50);
/// What an agent that reads Secrets from the API may keep in memory, in KiB. (Unoptimized: twice what is shipped.)
const RESIDENT: u64 = 48 * 1024;

/// A running agent, and what it has said.
struct Agent {
    child: Child,
    port: u16,
    dir: TempDir,
}

/// Lays a pod's credentials, from the folder it is given, where a pod has them; then begins what follows.
const AS_IN_A_POD: &str = r#"mount -t tmpfs none /run &&
mkdir -p /run/secrets/kubernetes.io && cp -r "$1" /run/secrets/kubernetes.io/serviceaccount && shift && exec "$@""#;

impl Agent {
    fn start(server: &ApiServer, url: &str, namespace: &str, monitoring: &str) -> Self {
        Self::start_as(monitoring, |dir| {
            let kubeconfig = server.kubeconfig(dir, url, namespace, AGENT_TOKEN).unwrap();
            let mut command = command(dir);
            command.env("KUBECONFIG", kubeconfig);
            command
        })
    }

    fn start_as(monitoring: &str, make: impl FnOnce(&Path) -> Command) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let config = format!(
            "version: v1
policy: {{mode: disabled}}
secrets:
  - name: a
    selector: {{binary: /nowhere/a}}
    secretRefs: [{{name: PASSWORD, source: {{secretKeyRef: {{name: db, key: password}}}}}}]
monitoring: {{metricsPort: {port}, {monitoring}}}
"
        );
        fs::write(dir.path().join("config.yaml"), config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = make(dir.path())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, port, dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()?;
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n\r\n"
        )
        .ok()?;
        let mut said = String::new();
        stream.read_to_string(&mut said).ok()?;
        Some(said)
    }

    fn until(&self, path: &str, is_so: impl Fn(&str) -> bool) -> String {
        let begun = Instant::now();
        let mut last = None;
        while begun.elapsed() < SOON {
            last = self.get(path);
            match last {
                Some(said) if is_so(&said) => return said,
                _ => sleep(STEP),
            }
        }
        panic!("{path}: {last:?}\n{}", self.log());
    }

    fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:"));
        let mut words = line.unwrap().split_whitespace();
        words.nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kernelseal"));
    command
        .args(["run", "--config"])
        .arg(dir.join("config.yaml"))
        .env_clear();
    command
}

fn prepared(namespace: &str) -> (&'static ApiServer, Proxy) {
    let server = ApiServer::shared();
    server.namespace(namespace).unwrap();
    server.allow(namespace, "db").unwrap();
    let data: &[(&str, &[u8])] = &[("password", b"hunter2")];
    server.secret(namespace, "db", Some(data)).unwrap();
    (server, Proxy::before(server).unwrap())
}

#[test]
fn ready_and_metrics_tell_how_the_api_is() {
    let (server, proxy) = prepared("whole");
    let agent = Agent::start(server, proxy.url(), "whole", "logLevel: info");
    let said = agent.until("/ready", |said| said.contains(" 200 "));
    assert!(!said.contains("Secret"), "{said}");
    let metric = "kernelseal_cached_secret_age_seconds{secret=\"whole/db\",source=\"kubernetes\"}";
    agent.until("/metrics", |said| said.contains(metric));
    let resident = agent.resident();
    println!("resident: {resident} KiB");
    assert!(resident < RESIDENT, "{resident} KiB");

    proxy.set(Fault::Away);
    agent.until("/ready", |said| {
        said.contains(" 200 ") && said.contains("the Secret db in the namespace whole is served as")
    });
    proxy.set(Fault::None);
    agent.until("/ready", |said| !said.contains("served as"));
    assert!(agent.log().contains("the Secret db in the namespace whole"));
}

/// An edited configuration that is wrong is an event on the agent's pod. Without the right to make one it is a line of the log,
/// and the agent goes on.
#[test]
fn a_rejected_configuration_is_an_event_on_the_pod() {
    let (server, _) = prepared("told");
    let pod = server.apply_document(&json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "agent-1", "namespace": "told"},
        "spec": {"containers": [{"name": "agent", "image": "registry.example/kernelseal:1"}]},
    }));
    pod.unwrap();
    server.allow_node_agent().unwrap();
    let agent = Agent::start_as("logLevel: info", |dir| {
        let kubeconfig = server
            .kubeconfig(dir, server.url(), "told", AGENT_TOKEN)
            .unwrap();
        let mut command = command(dir);
        command
            .env("KUBECONFIG", kubeconfig)
            .env("POD_NAME", "agent-1")
            .env("POD_NAMESPACE", "told");
        command
    });
    agent.until("/ready", |said| said.contains(" 200 "));
    fs::write(agent.dir.path().join("config.yaml"), "version: v2\n").unwrap();
    let begun = Instant::now();
    let path = "/apis/events.k8s.io/v1/namespaces/told/events";
    let event = loop {
        let all = server.read(path).unwrap();
        if let Some(event) = all["items"].as_array().unwrap().first() {
            break event.clone();
        }
        assert!(begun.elapsed() < SOON, "no event\n{}", agent.log());
        sleep(STEP);
    };
    assert_eq!(event["reason"], "ConfigRejected");
    assert_eq!(event["regarding"]["name"], "agent-1");
    assert!(
        event["note"].as_str().unwrap().contains("config.yaml:1:10"),
        "{event}"
    );
}

/// kube itself would log such an answer.
#[test]
fn the_log_at_its_most_talkative_says_no_value_and_no_token() {
    let (server, proxy) = prepared("quiet");
    let garbled = Fault::Garbled("{\"password\":\"aHVudGVyMg==\"}", "\"hunter2\"");
    proxy.set(garbled);
    let agent = Agent::start(server, proxy.url(), "quiet", "logLevel: trace");
    agent.until("/ready", |said| said.contains("not the API"));
    proxy.set(Fault::None);
    let said = agent.until("/ready", |said| {
        said.contains(" 200 ") && !said.contains("Secret")
    });
    let all = [said, agent.get("/metrics").unwrap(), agent.log()].concat();
    assert!(all.contains("was read"), "{all}");
    for value in ["hunter2", "aHVudGVyMg", AGENT_TOKEN] {
        assert!(!all.contains(value), "{all}");
    }
}

/// The service account's token, certificate and namespace, where the kubelet puts them.
#[test]
fn in_a_pod_the_service_account_is_enough() {
    let (server, _) = prepared("pod");
    let token = server.account("pod", "checkout", "db").unwrap();
    let agent = Agent::start_as("logLevel: info", |dir| {
        let credentials = dir.join("credentials");
        fs::create_dir(&credentials).unwrap();
        fs::write(credentials.join("token"), token).unwrap();
        fs::write(credentials.join("namespace"), "pod").unwrap();
        fs::write(credentials.join("ca.crt"), server.authority_pem()).unwrap();
        let (host, port) = server
            .url()
            .trim_start_matches("https://")
            .split_once(':')
            .unwrap();
        // A mount namespace of its own, for the path is a fixed one.
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--map-root-user", "sh", "-c", AS_IN_A_POD, "sh"])
            .arg(&credentials)
            .args([env!("CARGO_BIN_EXE_kernelseal"), "run", "--config"])
            .arg(dir.join("config.yaml"))
            .env_remove("KUBECONFIG")
            .env("KUBERNETES_SERVICE_HOST", host)
            .env("KUBERNETES_SERVICE_PORT", port);
        command
    });
    let begun = Instant::now();
    while !agent
        .log()
        .contains("Secret db in the namespace pod was read")
    {
        assert!(begun.elapsed() < SOON, "{}", agent.log());
        sleep(STEP);
    }
}

#[test]
fn a_nodes_agent_says_in_an_objects_status_what_came_of_it() {
    let (server, _proxy) = prepared("asking");
    server.allow_node_agent().unwrap();
    let defined = Command::new(env!("CARGO_BIN_EXE_kernelseal"))
        .arg("crd")
        .output();
    let definition = String::from_utf8(defined.unwrap().stdout).unwrap();
    let definition: Value = serde_saphyr::from_str(&definition).unwrap();
    server.apply_document(&definition).unwrap();
    let agent = Agent::start_as("logLevel: info, syscalls: {objects: true}", |dir| {
        let kubeconfig = server
            .kubeconfig(dir, server.url(), "asking", AGENT_TOKEN)
            .unwrap();
        let mut command = command(dir);
        command
            .env("KUBECONFIG", kubeconfig)
            .env("NODE_NAME", "node-1");
        command
    });
    let path = |name: &str| {
        format!("/apis/kernelseal.io/v1alpha1/namespaces/asking/syscallmonitors/{name}")
    };
    let apply = |name: &str, call: &str| {
        let document = json!({
            "apiVersion": "kernelseal.io/v1alpha1", "kind": "SyscallMonitor",
            "metadata": {"name": name, "namespace": "asking"}, "spec": {"names": [call]},
        });
        let begun = Instant::now();
        // (a kind takes a moment to be known)
        while let Err(e) = server.apply_document(&document) {
            assert!(begun.elapsed() < SOON, "{e:#}");
            sleep(STEP);
        }
    };
    // Where this machine lets nobody attach anything, that is what there is to say.
    let told = |name: &str, generation: u64, call: &str| {
        let begun = Instant::now();
        loop {
            let node = server.read(&path(name)).unwrap()["status"]["nodes"][0].clone();
            if node["name"] == "node-1" && node["observedGeneration"] == generation {
                let is_attached = node["attached"] == json!([call]) && node["error"].is_null();
                let why = node["error"].as_str().unwrap_or_default();
                let is_refused = why.starts_with("not all of it is in force: ");
                assert!(is_attached || is_refused, "{node}");
                return is_attached;
            }
            assert!(begun.elapsed() < SOON, "{name}: {node}\n{}", agent.log());
            sleep(STEP);
        }
    };
    apply("first", "openat2");
    let is_attached = told("first", 1, "openat2");
    apply("second", "memfd_create");
    assert_eq!(told("second", 1, "memfd_create"), is_attached);
    apply("first", "io_uring_setup");
    assert_eq!(told("first", 2, "io_uring_setup"), is_attached);
    server.delete(&path("first")).unwrap();
    apply("second", "unshare");
    assert_eq!(told("second", 2, "unshare"), is_attached);
    // Not heeded any more, it has nothing to say.
    let file = agent.dir.path().join("config.yaml");
    let config = fs::read_to_string(&file).unwrap();
    fs::write(&file, config.replace("objects: true", "objects: false")).unwrap();
    let begun = Instant::now();
    while !server.read(&path("second")).unwrap()["status"]["nodes"][0].is_null() {
        assert!(begun.elapsed() < SOON, "{}", agent.log());
        sleep(STEP);
    }
}
