//! kernelseal's own modules, as they are.

#[path = "../../../sidecar/src/process/cgroup.rs"]
pub(crate) mod cgroup;
#[path = "../../../sidecar/src/config/mod.rs"]
pub(crate) mod config;
#[path = "kube.rs"]
pub(crate) mod kube;
#[path = "../../../sidecar/src/process/kubelet.rs"]
pub(crate) mod kubelet;
#[path = "../../../sidecar/src/seal/mountinfo.rs"]
pub(crate) mod mountinfo;
#[path = "../../../sidecar/src/kernel/ring.rs"]
pub(crate) mod ring;
#[path = "../../../sidecar/src/seal/stack.rs"]
pub(crate) mod stack;
#[path = "../../../sidecar/src/process/text.rs"]
pub(crate) mod text;
