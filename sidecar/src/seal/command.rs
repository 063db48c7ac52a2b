//! What a delivering thread is told by the others.

use std::{convert::Infallible, sync::Arc};

use tokio::sync::mpsc;

use crate::{config::Config, secrets::Store, util::CommandQueue};

/// Commands on their way to it.
pub(crate) type Commands = CommandQueue<Command>;

/// See the module.
pub(crate) enum Command {
    /// From now on by this configuration. What is sealed by another stays so.
    /// The other end hears when it is so: then this end is gone.
    Reconfigure(Arc<Config>, Arc<Store>, mpsc::Sender<Infallible>),
    /// A source may have another value: what runs is brought up to it.
    Refresh,
    /// The process of this number in the kernel's own, which is coming, has come a step further.
    Proceed(u32),
    /// There is more to know of the one with that seal.
    Look(u64),
    /// There is more to know of who is held.
    LookAgain,
    /// Deliver what is held, and end.
    Stop,
}
