//! Kubernetes: how an agent comes to stand beside a program in a pod, and the API: where it is, who we are to
//! it, and what is watched there: Secrets, a node's pods, objects that ask for system calls.

mod cluster;
mod events;
mod fault;
mod follow;
pub(crate) mod inject;
mod line;
mod objects;
mod pods;
mod retry;
mod secret;
pub(crate) mod webhook;

pub(crate) use cluster::{Cluster, ClusterError};
pub(crate) use events::{Digest, EventPen, PodEvent};
pub(crate) use fault::Fault;
pub(crate) use line::PollPolicy;
#[cfg(test)]
pub(crate) use objects::ObjectId;
pub(crate) use objects::{
    AskingObject, NodeStatus, ObjectKind, ObjectNews, Spec, StatusPen, definition, watch_objects,
};
pub(crate) use pods::{NodePod, PodNews, watch_pods};
pub(crate) use secret::{Data, SecretId, watch};
