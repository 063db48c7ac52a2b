//! What any feature may need, and what knows of none.

mod clock;
mod error_chain;
mod file_watch;
mod retry_policy;

pub(crate) use clock::Clock;
pub(crate) use error_chain::error_chain;
pub(crate) use file_watch::FileWatch;
pub(crate) use retry_policy::RetryPolicy;
