//! The room `kube`, of which only this is about parsing.

#[path = "../../../sidecar/src/kube/inject/mod.rs"]
pub(crate) mod inject;
