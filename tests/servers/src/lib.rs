//! What kernelseal's tests talk to: servers on loopback that end with the test's process, however it ends.

mod administrator;
mod api;
mod documents;
mod leash;
mod openbao;
mod proxy;
mod tls;
mod vault;

pub use administrator::{ADMIN_TOKEN, AGENT, AGENT_TOKEN, Administrator, SERVICE};
pub use api::ApiServer;
pub use documents::{APPARMOR_PROFILE, NATIVE_SIDECARS};
pub use openbao::OpenBao;
pub use proxy::{Fault, Proxy};
pub use tls::Authority;
pub use vault::{Lease, VAULT_ROLE, VaultFault, VaultServer};
