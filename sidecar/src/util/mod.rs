//! What any feature may need, and what knows of none.

mod clock;
mod command_queue;
mod error_chain;
mod file_watch;
mod retry_policy;

pub(crate) use clock::Clock;
pub(crate) use command_queue::CommandQueue;
pub(crate) use error_chain::{error_chain, io_cause};
pub(crate) use file_watch::{FileWatcher, interval};
pub(crate) use retry_policy::RetryPolicy;
