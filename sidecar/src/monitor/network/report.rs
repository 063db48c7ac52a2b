//! What is said of a connection.

use std::net::{IpAddr, Ipv6Addr};

use nix::errno::Errno;
use sidecar_common::{
    monitor::Owner,
    network::{ABORTED, Address, ConnectionFlags, Ends, Flow, RecordKind, TCP, UDP, Unix},
};

use super::NetworkMonitor;
use crate::{
    monitor::context::{Actor, MonitorContext, name_of},
    monitor::names::unix_name,
    observe::{Between, Connection, Detail, Kind, Outcome, Protocol, Traffic},
    process::Place,
};

impl NetworkMonitor {
    /// One record of it.
    pub(super) fn report(&mut self, flow: &Flow, context: &mut MonitorContext) {
        let mut connection = connection(flow);
        let netns = connection.netns;
        if let Between::Hosts {
            dst_ip, dst_name, ..
        } = &mut connection.between
        {
            *dst_name = self.names.of(netns, *dst_ip).map(str::to_owned);
        }
        let (kind, detail) = describe(flow, connection);
        self.tell(
            &flow.begun.owner(),
            flow.header.time_ns,
            kind,
            detail,
            context,
        );
    }

    /// A connection by a Unix socket begins, or could not be made. Whether it was told.
    pub(super) fn report_unix(&mut self, unix: &Unix, context: &mut MonitorContext) -> bool {
        let (kind, detail) = describe_unix(unix);
        self.tell(&unix.owner, unix.header.time_ns, kind, detail, context)
    }

    /// It ends.
    pub(super) fn report_unix_end(
        &mut self,
        unix: &Unix,
        time_ns: u64,
        context: &mut MonitorContext,
    ) {
        let detail = Detail::Close {
            connection: unix_connection(unix),
            bytes_sent: None,
            bytes_received: None,
            duration_ns: time_ns.saturating_sub(unix.header.time_ns),
            retransmits: None,
        };
        self.tell(&unix.owner, time_ns, Kind::Close, detail, context);
    }

    /// An event of it, if somebody wants it: whether that is so.
    fn tell(
        &mut self,
        owner: &Owner,
        time_ns: u64,
        kind: Kind,
        detail: Detail<'_>,
        context: &mut MonitorContext,
    ) -> bool {
        let name = name_of(owner);
        let actor = Actor::of(owner, &name);
        let place = context.place_of(actor);
        let is_wanted = self.is_wanted(place.as_deref());
        if is_wanted {
            count(&context.metrics.traffic, &detail);
            context.tell(time_ns, kind, actor, place.as_deref(), detail);
        }
        is_wanted
    }

    /// Whether it is of a container that is asked for. Of one that cannot be told, it is not.
    fn is_wanted(&self, place: Option<&Place>) -> bool {
        let container = place.and_then(|place| place.container.as_ref());
        self.containers.is_empty()
            || container.is_some_and(|container| {
                let mut wanted = self.containers.iter();
                wanted.any(|name| container.is_called(name) == Some(true))
            })
    }
}

fn count(traffic: &Traffic, detail: &Detail<'_>) {
    let begun = |connection: &Connection, outcome: Outcome| {
        let destination = connection.destination();
        traffic.begun(
            connection.protocol,
            connection.direction,
            outcome,
            destination.as_deref(),
        );
    };
    match detail {
        Detail::Connect {
            connection,
            outcome,
        } => begun(connection, *outcome),
        Detail::Accept { connection } => begun(connection, Outcome::Established),
        Detail::Close {
            connection,
            bytes_sent,
            bytes_received,
            retransmits,
            ..
        } => traffic.ended(
            connection.protocol,
            connection.direction,
            connection.destination().as_deref(),
            bytes_sent.zip(*bytes_received),
            retransmits.unwrap_or(0),
        ),
        _ => {}
    }
}

/// What becomes of a record.
fn describe(flow: &Flow, connection: Connection) -> (Kind, Detail<'static>) {
    match RecordKind::try_from(flow.header.kind) {
        Ok(RecordKind::Connect) => {
            let outcome = outcome(flow.begun.protocol, flow.error);
            (
                Kind::Connect,
                Detail::Connect {
                    connection,
                    outcome,
                },
            )
        }
        Ok(RecordKind::Accept) => (Kind::Accept, Detail::Accept { connection }),
        _ => {
            let duration_ns = flow.header.time_ns.saturating_sub(flow.begun.since_ns);
            let detail = Detail::Close {
                connection,
                bytes_sent: Some(flow.sent),
                bytes_received: Some(flow.received),
                duration_ns,
                retransmits: (flow.begun.protocol == TCP).then_some(flow.retransmits),
            };
            (Kind::Close, detail)
        }
    }
}

/// From who began it to the other.
fn connection(flow: &Flow) -> Connection {
    let Ends {
        local,
        remote,
        local_port,
        remote_port,
        netns,
    } = flow.begun.ends;
    let local = (address(local), local_port);
    let remote = (address(remote), u16::from_be(remote_port));
    let is_inbound = flow.begun.flags.contains(ConnectionFlags::INBOUND);
    let ((src_ip, src_port), (dst_ip, dst_port)) = if is_inbound {
        (remote, local)
    } else {
        (local, remote)
    };
    Connection {
        protocol: if flow.begun.protocol == UDP {
            Protocol::Udp
        } else {
            Protocol::Tcp
        },
        between: Between::Hosts {
            src_ip,
            src_port,
            dst_ip,
            dst_port,
            dst_name: None,
        },
        netns,
        direction: direction(flow.begun.flags),
    }
}

fn direction(flags: ConnectionFlags) -> &'static str {
    if flags.contains(ConnectionFlags::INBOUND) {
        "inbound"
    } else {
        "outbound"
    }
}

/// What becomes of a connection by a Unix socket.
fn describe_unix(unix: &Unix) -> (Kind, Detail<'static>) {
    let connection = unix_connection(unix);
    if unix.flags.contains(ConnectionFlags::INBOUND) {
        return (Kind::Accept, Detail::Accept { connection });
    }
    let outcome = outcome(TCP, unix.error);
    let detail = Detail::Connect {
        connection,
        outcome,
    };
    (Kind::Connect, detail)
}

fn unix_connection(unix: &Unix) -> Connection {
    let length = usize::from(unix.length);
    let name = unix.name.get(..length).unwrap_or(&unix.name);
    // (the first two bytes are the family)
    let name = name.get(size_of::<u16>()..).unwrap_or_default();
    Connection {
        protocol: Protocol::Unix,
        between: Between::Processes {
            path: unix_name(name),
            peer_pid: (unix.peer != 0).then_some(unix.peer),
            inode: unix.inode,
        },
        netns: unix.netns,
        direction: direction(unix.flags),
    }
}

/// An address as people write it: IPv4 that IPv6 maps is IPv4.
fn address(words: Address) -> IpAddr {
    Ipv6Addr::from(bytemuck::cast::<Address, [u8; 16]>(words)).to_canonical()
}

/// What an error number says of an attempt.
fn outcome(protocol: u16, error: u32) -> Outcome {
    if error == ABORTED {
        return Outcome::Aborted;
    }
    match Errno::from_raw(error.cast_signed()) {
        _ if error == 0 && protocol == UDP => Outcome::Sent,
        _ if error == 0 => Outcome::Established,
        Errno::ECONNREFUSED => Outcome::Refused,
        Errno::ETIMEDOUT => Outcome::TimedOut,
        Errno::EHOSTUNREACH | Errno::ENETUNREACH | Errno::EHOSTDOWN | Errno::ENETDOWN => {
            Outcome::Unreachable
        }
        Errno::ECONNRESET => Outcome::Reset,
        Errno::EACCES | Errno::EPERM => Outcome::Denied,
        _ => Outcome::Failed,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;
    use serde_json::json;

    use super::*;

    fn flow(kind: u32) -> Flow {
        let mut flow = Flow::zeroed();
        flow.header.kind = kind;
        flow.begun.protocol = TCP;
        flow.begun.ends = Ends {
            local: bytemuck::cast(
                std::net::Ipv4Addr::new(10, 0, 0, 1)
                    .to_ipv6_mapped()
                    .octets(),
            ),
            remote: bytemuck::cast(Ipv6Addr::LOCALHOST.octets()),
            local_port: 40_000,
            remote_port: 443_u16.to_be(),
            netns: 7,
        };
        flow
    }

    fn as_json(flow: &Flow) -> serde_json::Value {
        serde_json::to_value(describe(flow, connection(flow)).1).unwrap()
    }

    #[test]
    fn the_source_is_who_began_it() {
        let mut began = flow(RecordKind::Connect as u32);
        let told = as_json(&began);
        assert_eq!(
            (&told["src_ip"], &told["src_port"]),
            (&"10.0.0.1".into(), &40_000.into())
        );
        assert_eq!(
            (&told["dst_ip"], &told["dst_port"]),
            (&"::1".into(), &443.into())
        );
        assert_eq!(
            (&told["netns"], &told["outcome"]),
            (&7.into(), &"established".into())
        );
        began.header.kind = RecordKind::Accept as u32;
        began.begun.flags = ConnectionFlags::INBOUND;
        let told = as_json(&began);
        assert_eq!(
            (&told["src_ip"], &told["dst_port"]),
            (&"::1".into(), &40_000.into())
        );
        assert_eq!(told["direction"], "inbound");
    }

    #[test]
    fn every_error_is_an_outcome() {
        let told = |errno: Errno| {
            let mut flow = flow(RecordKind::Connect as u32);
            flow.error = (errno as i32).cast_unsigned();
            as_json(&flow)["outcome"].as_str().unwrap().to_owned()
        };
        assert_eq!(told(Errno::ECONNREFUSED), "refused");
        assert_eq!(told(Errno::ETIMEDOUT), "timed_out");
        assert_eq!(told(Errno::EHOSTUNREACH), "unreachable");
        assert_eq!(told(Errno::ECONNRESET), "reset");
        assert_eq!(told(Errno::EACCES), "denied");
        assert_eq!(told(Errno::EADDRNOTAVAIL), "failed");
        assert_eq!(outcome(TCP, ABORTED), Outcome::Aborted);
        assert_eq!(outcome(UDP, 0), Outcome::Sent);
    }

    #[test]
    fn an_end_tells_what_passed() {
        let mut ended = flow(RecordKind::Close as u32);
        ended.header.time_ns = 30;
        ended.begun.since_ns = 10;
        (ended.sent, ended.received) = (5, 6);
        ended.retransmits = 1;
        let told = as_json(&ended);
        assert_eq!(
            (&told["bytes_sent"], &told["bytes_received"]),
            (&5.into(), &6.into())
        );
        assert_eq!(
            (&told["duration_ns"], &told["retransmits"]),
            (&20.into(), &1.into())
        );
        ended.begun.protocol = UDP;
        assert!(as_json(&ended).get("retransmits").is_none());
    }

    #[test]
    fn a_unix_socket_is_told_by_its_name() {
        let mut unix = Unix::zeroed();
        let name = b"\x01\0/run/docker.sock\0";
        unix.name[..name.len()].copy_from_slice(name);
        unix.length = u16::try_from(name.len()).unwrap();
        (unix.inode, unix.peer, unix.netns) = (9, 42, 7);
        let told = |unix: &Unix| serde_json::to_value(describe_unix(unix).1).unwrap();
        let expected = json!({
            "protocol": "UNIX", "path": "/run/docker.sock", "peer_pid": 42, "inode": 9, "netns": 7,
            "direction": "outbound", "outcome": "established",
        });
        assert_eq!(told(&unix), expected);
        unix.error = (Errno::EACCES as i32).cast_unsigned();
        assert_eq!(told(&unix)["outcome"], "denied");
        // the kernel may say more than there is, and an accepted one has no outcome
        (unix.length, unix.peer, unix.flags) = (u16::MAX, 0, ConnectionFlags::INBOUND);
        let told = told(&unix);
        assert_eq!(told["path"], "/run/docker.sock");
        assert!(told.get("peer_pid").is_none() && told.get("outcome").is_none());
    }
}
