//! The webhook over real TLS, asked as the API server asks, and as it does not.

use std::{
    fs,
    io::{Read, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use clap::Parser;
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto::ring,
    pki_types::CertificateDer,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::*;

const IMAGE: &str = "registry.example/kernelseal:0.1.0";

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    sidecar: inject::Options,
}

fn sidecar() -> inject::Options {
    Line::try_parse_from(["webhook", "--image", IMAGE])
        .unwrap()
        .sidecar
}

/// A running webhook with a certificate of its own.
struct Webhook {
    folder: TempDir,
    certificate: CertificateDer<'static>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Webhook {
    fn start() -> Self {
        let folder = TempDir::new().unwrap();
        let certificate = renew(&folder);
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, listening) = mpsc::channel();
        let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
                listener.set_nonblocking(true)?;
                // (before anybody changes its files)
                let certificate = Certificate::load(&cert, &key)?;
                ready.send(listener.local_addr()?)?;
                let limits = Limits {
                    request: Duration::from_millis(500),
                    look_again: Duration::from_millis(50),
                };
                let stop = async move { stopped.await.unwrap_or_default() };
                serve(listener, certificate, sidecar(), limits, stop).await
            })
        });
        Self {
            folder,
            certificate,
            address: listening.recv().unwrap(),
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    fn connect(
        &self,
        trusted: &CertificateDer<'static>,
    ) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client =
            ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        StreamOwned::new(client, stream)
    }

    /// Status and body.
    fn ask(&self, head: &str, body: &[u8]) -> (u16, String) {
        let mut stream = self.connect(&self.certificate);
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .unwrap();
        // The answer to what is too long comes before all of it was read.
        let _ = stream.write_all(body);
        answer(&mut stream)
    }

    fn review(&self, object: &Value) -> Value {
        let (status, body) = self.ask(
            "POST /mutate",
            &serde_json::to_vec(&request("CREATE", object)).unwrap(),
        );
        assert_eq!(status, 200, "{body}");
        let review: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (review["kind"].as_str(), review["apiVersion"].as_str()),
            (Some("AdmissionReview"), Some("admission.k8s.io/v1"))
        );
        assert_eq!(
            review["response"]["uid"],
            "705ab4f5-6393-11e8-b7cc-42010a800002"
        );
        review["response"].clone()
    }
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap().unwrap();
        }
    }
}

fn renew(folder: &TempDir) -> CertificateDer<'static> {
    let new = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(
        folder.path().join("tls.key"),
        new.signing_key.serialize_pem(),
    )
    .unwrap();
    fs::write(folder.path().join("tls.crt"), new.cert.pem()).unwrap();
    new.cert.der().clone()
}

fn answer(stream: &mut impl Read) -> (u16, String) {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    // A connection may end without a goodbye.
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..n]);
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {text:?}"));
    (head[9..12].parse().unwrap(), body.to_owned())
}

fn request(operation: &str, object: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
            "name": "", "namespace": "shop", "operation": operation,
            "userInfo": {"username": "system:serviceaccount:kube-system:replicaset-controller"},
            "object": object, "oldObject": null, "dryRun": false,
            "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
        },
    })
}

fn pod(more: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "checkout-", "labels": {"kernelseal.io/inject": "true"}},
        "spec": {
            "containers": [{"name": "checkout", "image": "registry.example/checkout:1.0.0",
                "securityContext": {"readOnlyRootFilesystem": true},
                "volumeMounts": [{"name": "token", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]}],
            "volumes": [{"name": "token", "emptyDir": {}}],
        },
    });
    json_patch::merge(&mut pod, more);
    pod
}

/// The patch in a response, which is base64.
fn patch_of(response: &Value) -> json_patch::Patch {
    assert_eq!(response["patchType"], "JSONPatch");
    let review: kube_core::admission::AdmissionReview<kube_core::DynamicObject> =
        serde_json::from_value(json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response})).unwrap();
    serde_json::from_slice(&review.response.unwrap().patch.unwrap()).unwrap()
}

#[test]
fn a_pod_gets_by_patch_what_inject_writes() {
    let webhook = Webhook::start();
    let mut object = pod(&json!({}));
    let request = inject::Request {
        task: inject::Task::Add,
        options: &sidecar(),
        unfit: inject::Unfit::Fail,
        pod_paths: &[],
        surroundings: &inject::Surroundings::default(),
    };
    let text = object.to_string();
    let manifest = inject::edit(&text, std::path::Path::new("pod"), &request).unwrap();

    let response = webhook.review(&object);

    assert_eq!(response["allowed"], true);
    json_patch::patch(&mut object, &patch_of(&response).0).unwrap();
    assert_eq!(
        object,
        serde_json::from_str::<Value>(&manifest.text).unwrap()
    );
    assert_eq!(object["spec"]["initContainers"][0]["image"], IMAGE);
    assert_eq!(
        object["spec"]["containers"][0]["volumeMounts"][1]["mountPath"],
        "/run/kernelseal"
    );

    // Asked again, as with reinvocationPolicy, it adds nothing.
    let again = webhook.review(&object);
    assert_eq!(
        (&again["allowed"], &again["patch"]),
        (&json!(true), &Value::Null)
    );
}

#[test]
fn a_pod_that_cannot_have_it_is_refused_with_the_way_out() {
    let webhook = Webhook::start();
    for (spec, place, help) in [
        (json!({"hostPID": true}), "/spec/hostPID", "daemonset"),
        (
            json!({"hostUsers": false}),
            "/spec/hostUsers",
            "remove the line",
        ),
        (
            json!({"runtimeClassName": "kata-qemu"}),
            "/spec/runtimeClassName",
            "remove the line",
        ),
        (
            json!({"nodeSelector": {"kubernetes.io/os": "windows"}}),
            "/spec/nodeSelector/kubernetes.io~1os",
            "annotation",
        ),
    ] {
        let response = webhook.review(&pod(&json!({"spec": spec})));
        assert_eq!(response["allowed"], false, "{spec}");
        let message = response["status"]["message"].as_str().unwrap();
        assert!(
            message.contains(place) && message.contains(help),
            "{message}"
        );
    }
}

#[test]
fn a_note_is_a_warning_to_whoever_applies() {
    let response = Webhook::start().review(&pod(&json!({"spec": {"hostNetwork": true}})));
    assert!(
        response["warnings"][0].as_str().unwrap().contains("9090"),
        "{response}"
    );
}

#[test]
fn who_declines_and_what_is_no_new_pod_passes() {
    let webhook = Webhook::start();
    let declines = pod(&json!({"metadata": {"labels": {"kernelseal.io/inject": "false"}}}));
    assert_eq!(webhook.review(&declines)["patch"], Value::Null);

    let mut update = request("UPDATE", &pod(&json!({})));
    let (_, body) = webhook.ask("POST /mutate", update.to_string().as_bytes());
    let response: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(
        (
            &response["response"]["allowed"],
            &response["response"]["patch"]
        ),
        (&json!(true), &Value::Null)
    );

    update["request"]["operation"] = "CREATE".into();
    update["request"]["subResource"] = "ephemeralcontainers".into();
    let (_, body) = webhook.ask("POST /mutate", update.to_string().as_bytes());
    assert!(!body.contains("\"patch\""), "{body}");
}

#[test]
fn what_is_no_review_is_told_so_without_being_quoted() {
    let webhook = Webhook::start();
    for body in ["", "hunter2", "{\"kind\": \"hunter2\"}", "[]"] {
        let (status, text) = webhook.ask("POST /mutate", body.as_bytes());
        assert_eq!(status, 400, "{text}");
        assert!(
            text.contains("AdmissionReview") && !text.contains("hunter2"),
            "{text}"
        );
    }
    assert_eq!(webhook.ask("GET /healthz", b""), (200, "ok\n".into()));
    assert_eq!(webhook.ask("GET /elsewhere", b"").0, 404);
}

#[test]
fn size_and_time_are_bounded() {
    let webhook = Webhook::start();
    assert_eq!(
        webhook.ask("POST /mutate", &vec![b' '; MAX_REVIEW + 1]).0,
        413
    );
    // A body that never comes.
    let mut stream = webhook.connect(&webhook.certificate);
    write!(
        stream,
        "POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    )
    .unwrap();
    assert_eq!(answer(&mut stream).0, 408);
}

#[test]
fn a_new_certificate_is_taken_and_a_broken_one_is_not() {
    let mut webhook = Webhook::start();
    let old = webhook.certificate.clone();
    fs::write(webhook.folder.path().join("tls.crt"), "broken").unwrap();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(webhook.ask("GET /healthz", b"").0, 200, "the old one stays");

    webhook.certificate = renew(&webhook.folder);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let mut stream = webhook.connect(&webhook.certificate);
        if stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            .is_ok()
        {
            assert_eq!(answer(&mut stream).0, 200);
            break;
        }
        assert!(
            std::time::Instant::now() < deadline,
            "the new certificate is not served"
        );
        thread::sleep(Duration::from_millis(50));
    }
    let refused = webhook.connect(&old).write_all(b"GET");
    assert!(refused.is_err(), "the old one is still served");
}

#[test]
fn files_that_are_no_certificate_are_named() {
    let folder = TempDir::new().unwrap();
    let (cert, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    let why = || format!("{:#}", Certificate::load(&cert, &key).err().unwrap());
    assert!(
        why().contains("--tls-cert") && why().contains("No such file"),
        "{}",
        why()
    );
    renew(&folder);
    let other = fs::read(&key).unwrap();
    renew(&folder);
    fs::write(&key, other).unwrap();
    assert!(why().contains("belong together"), "{}", why());
    fs::write(&key, "x").unwrap();
    assert!(why().contains("PRIVATE KEY"), "{}", why());
    fs::write(&cert, "").unwrap();
    assert!(why().contains("CERTIFICATE"), "{}", why());
}
