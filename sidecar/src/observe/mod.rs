//! What the outside sees: events on stdout, the log on stderr, metrics and health over HTTP.

mod clock;
mod computed;
mod event;
mod http;
mod journal;
pub(crate) mod log;
mod metrics;

pub(crate) use clock::Clock;
pub(crate) use event::{Action, Container, Detail, Event, Kind, Who};
pub(crate) use http::{listen, serve};
pub(crate) use journal::{Journal, NODE_NAME, Writer as JournalWriter, node_in_kubernetes};
pub(crate) use metrics::Metrics;
