//! What the outside sees: events on stdout, the log on stderr, metrics and health over HTTP.

mod computed;
mod event;
pub(crate) mod http;
mod journal;
mod labels;
pub(crate) mod log;
mod metrics;
mod notice;
mod output;
mod traffic;
#[cfg(test)]
mod wire;

pub(crate) use event::{
    Action, Argument, Arguments, Between, Connection, Detail, Event, Kind, Lifecycle, Who,
};
pub(crate) use http::listen;
pub(crate) use journal::{Journal, NODE_NAME, node_in_kubernetes};
pub(crate) use labels::{Outcome, Protocol, Reason, SECRET_FILE};
pub(crate) use metrics::Metrics;
pub(crate) use notice::{Notice, Notices, Topic};
pub(crate) use traffic::Traffic;
