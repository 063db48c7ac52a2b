//! Kubernetes: how an agent comes to stand beside a program in a pod.

pub(crate) mod inject;
pub(crate) mod webhook;
