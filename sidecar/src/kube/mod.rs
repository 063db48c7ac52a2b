//! The Kubernetes API: where it is, who we are to it, and Secrets watched there.

mod cluster;
mod fault;
mod line;
mod retry;
mod secret;

pub(crate) use cluster::{Cluster, ClusterError};
pub(crate) use fault::Fault;
pub(crate) use line::Pace;
pub(crate) use secret::{Data, SecretId, watch};
