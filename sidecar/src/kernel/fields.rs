//! Where the running kernel keeps the fields that the monitors read.

use std::{cell::Cell, io::Write as _, process::Command};

use sidecar_common::{layout::Offsets, network::NetworkOffsets};

use super::{
    Error, attach_ids,
    network::{ACCEPTED, STATES},
    offsets::{self, Types},
};
use crate::limits;

/// The hidden command by which this program looks them up, apart from the agent.
pub(crate) const COMMAND: &str = "offsets";

/// All that the programs read, and what the kernel's types have of where they are attached.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct Fields {
    pub(super) shared: Offsets,
    pub(super) network: NetworkOffsets,
    /// The number of the type of [`STATES`].
    pub(super) states: u32,
    /// The number of [`ACCEPTED`].
    pub(super) accepted: u32,
    /// Not 0 where all is known that is read of Unix sockets.
    pub(super) knows_unix: u32,
}

/// Asks a process of our own, for a monitor: what the kernel's type information takes of memory is gone with it.
pub(super) fn look_up(monitor: &'static str) -> Result<Fields, Error> {
    let failed = |cause: String| Error::Monitor {
        monitor,
        what: "the offsets of the kernel's fields".into(),
        cause,
    };
    let mut command = Command::new("/proc/self/exe");
    command.arg(COMMAND).env_clear();
    let output = limits::output(&mut command).map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(failed(said.trim().to_owned()));
    }
    bytemuck::try_pod_read_unaligned(&output.stdout)
        .map_err(|e| failed(format!("the answer is not of this version: {e}")))
}

/// Writes them to standard output, for [`look_up`].
pub(crate) fn print() -> anyhow::Result<()> {
    let types = Types::of_running_kernel()?;
    let (network, knows_unix) = of_network(&types)?;
    let fields = Fields {
        shared: offsets::resolve(&types)?,
        network,
        states: attach_ids::number_of_tracepoint(&types, STATES)?,
        accepted: types.number(ACCEPTED)?,
        knows_unix: knows_unix.into(),
    };
    Ok(std::io::stdout().write_all(bytemuck::bytes_of(&fields))?)
}

/// The second: whether all is known that is read of Unix sockets, which a kernel may have as a module, of whose types we know
/// nothing.
fn of_network(types: &Types) -> Result<(NetworkOffsets, bool), Error> {
    let at = |path: &str| types.offset(path);
    let knows_unix = Cell::new(true);
    let of_unix = |path: &str| {
        at(path).unwrap_or_else(|_| {
            knows_unix.set(false);
            0
        })
    };
    let common = |field: &str| types.offset(&format!("sock.__sk_common.{field}"));
    let offsets = NetworkOffsets {
        sock_family: common("skc_family")?,
        sock_state: common("skc_state")?,
        sock_ports: common("skc_portpair")?,
        sock_addresses4: common("skc_addrpair")?,
        sock_local6: common("skc_v6_rcv_saddr")?,
        sock_remote6: common("skc_v6_daddr")?,
        sock_net: common("skc_net.net")?,
        net_inum: at("net.ns.inum")?,
        sock_socket: at("sock.sk_socket")?,
        sock_protocol: at("sock.sk_protocol")?,
        sock_error: at("sock.sk_err")?,
        sock_flags: common("skc_flags")?,
        inet_local_port: at("inet_sock.inet_sport")?,
        tcp_sent: at("tcp_sock.bytes_sent")?,
        tcp_resent: at("tcp_sock.bytes_retrans")?,
        tcp_received: at("tcp_sock.bytes_received")?,
        tcp_retransmits: at("tcp_sock.total_retrans")?,
        sock_peer: of_unix("sock.sk_peer_pid"),
        socket_sock: of_unix("socket.sk"),
        socket_inode: of_unix("socket_alloc.vfs_inode"),
        unix_name: of_unix("unix_sock.addr"),
        unix_name_length: of_unix("unix_address.len"),
        unix_name_bytes: of_unix("unix_address.name"),
        skb_head: at("sk_buff.head")?,
        skb_sock: at("sk_buff.sk")?,
        skb_len: at("sk_buff.len")?,
        skb_data_len: at("sk_buff.data_len")?,
        skb_network: at("sk_buff.network_header")?,
        skb_transport: at("sk_buff.transport_header")?,
    };
    Ok((offsets, knows_unix.get()))
}
