//! Kubernetes: how an agent comes to stand beside a program in a pod, and the API: where it is, who we are to
//! it, and Secrets and a node's pods watched there.

mod cluster;
mod fault;
mod follow;
pub(crate) mod inject;
mod line;
mod pods;
mod retry;
mod secret;
pub(crate) mod webhook;

pub(crate) use cluster::{Cluster, ClusterError};
pub(crate) use fault::Fault;
pub(crate) use line::Pace;
pub(crate) use pods::{NodePod, PodNews, watch_pods};
pub(crate) use secret::{Data, SecretId, watch};
