//! Asks containerd over CRI, as the kubelet does.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::net::UnixStream;
use tokio::runtime::{Builder, Runtime};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic_prost::ProstCodec;

use crate::wire::{
    ContainerId, ContainerStatus, ContainerStatusRequest, ContainerStatusResponse,
    CreateContainerRequest, ExecSyncRequest, ExecSyncResponse, Nothing, PodSandboxConfig,
    PodSandboxStatusResponse, RunPodSandboxRequest, SandboxId, StopContainerRequest,
};

/// Nothing takes as long, in emulation on a busy machine either.
const PATIENCE: Duration = Duration::from_mins(5);
const EXEC_SECONDS: i64 = 240;

/// A connection to containerd.
#[derive(Debug)]
pub struct Cri {
    runtime: Runtime,
    channel: Channel,
}

impl Cri {
    /// Connects to its socket.
    pub fn connect(socket: &Path) -> Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let socket: PathBuf = socket.to_owned();
        let channel = runtime.block_on(
            // The address is a matter of form.
            Endpoint::from_static("http://localhost").connect_with_connector(tower::service_fn(
                move |_: Uri| {
                    let socket = socket.clone();
                    async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                },
            )),
        )?;
        Ok(Self { runtime, channel })
    }

    fn call<Q, A>(&self, method: &str, question: Q) -> Result<A>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(format!("/runtime.v1.RuntimeService/{method}"))?;
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        self.runtime
            .block_on(async {
                tokio::time::timeout(PATIENCE, async {
                    client.ready().await?;
                    let codec: ProstCodec<Q, A> = ProstCodec::default();
                    let answer = client
                        .unary(tonic::Request::new(question), path, codec)
                        .await?;
                    anyhow::Ok(answer.into_inner())
                })
                .await?
            })
            .with_context(|| format!("{method} of containerd"))
    }

    /// Starts a pod's sandbox: its namespaces, held by the pause container. Gives its id.
    pub fn run_sandbox(&self, config: &PodSandboxConfig) -> Result<String> {
        let config = Some(config.clone());
        let answer: SandboxId = self.call("RunPodSandbox", RunPodSandboxRequest { config })?;
        Ok(answer.id)
    }

    /// The address of a pod.
    pub fn address(&self, sandbox: &str) -> Result<String> {
        let id = sandbox.to_owned();
        let answer: PodSandboxStatusResponse = self.call("PodSandboxStatus", SandboxId { id })?;
        let network = answer.status.and_then(|status| status.network);
        Ok(network.context("the pod has no network")?.ip)
    }

    /// Ends a pod with all its containers.
    pub fn remove_sandbox(&self, sandbox: &str) -> Result<()> {
        let id = sandbox.to_owned();
        let _: Nothing = self.call("StopPodSandbox", SandboxId { id: id.clone() })?;
        let _: Nothing = self.call("RemovePodSandbox", SandboxId { id })?;
        Ok(())
    }

    /// Makes and starts a container; gives its id.
    pub fn start(&self, question: CreateContainerRequest) -> Result<String> {
        let created: ContainerId = self.call("CreateContainer", question)?;
        let _: Nothing = self.call("StartContainer", created.clone())?;
        Ok(created.id)
    }

    /// How a container is.
    pub fn status(&self, container: &str) -> Result<ContainerStatus> {
        let answer = self.full_status(container)?;
        answer.status.context("containerd told no status")
    }

    /// What the runtime was told of a container, as JSON.
    pub fn info(&self, container: &str) -> Result<serde_json::Value> {
        let answer = self.full_status(container)?;
        let text = answer.info.get("info").context("containerd told no info")?;
        Ok(serde_json::from_str(text)?)
    }

    fn full_status(&self, container: &str) -> Result<ContainerStatusResponse> {
        let container_id = container.to_owned();
        let question = ContainerStatusRequest {
            container_id,
            verbose: true,
        };
        self.call("ContainerStatus", question)
    }

    /// Ends a container's program: SIGTERM, and SIGKILL after so many seconds.
    pub fn stop(&self, container: &str, timeout: i64) -> Result<()> {
        let container_id = container.to_owned();
        let _: Nothing = self.call(
            "StopContainer",
            StopContainerRequest {
                container_id,
                timeout,
            },
        )?;
        Ok(())
    }

    /// Removes a container that has ended.
    pub fn remove(&self, container: &str) -> Result<()> {
        let id = container.to_owned();
        let _: Nothing = self.call("RemoveContainer", ContainerId { id })?;
        Ok(())
    }

    /// Runs a command in a container, as `kubectl exec` does.
    pub fn exec(&self, container: &str, command: &[&str]) -> Result<ExecSyncResponse> {
        let question = ExecSyncRequest {
            container_id: container.to_owned(),
            cmd: command.iter().map(|&word| word.to_owned()).collect(),
            timeout: EXEC_SECONDS,
        };
        self.call("ExecSync", question)
    }
}
