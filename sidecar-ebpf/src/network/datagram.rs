//! A UDP datagram, by its headers: what is really sent from where to where, whatever its socket is bound to.

use sidecar_common::network::Ends;

use crate::{
    at,
    ends::{mapped, netns},
    kernel::{Ptr, follow, read},
};

/// Bytes of a UDP header.
const HEADER: u16 = 8;

/// Where the parts of a buffer are.
#[derive(Clone, Copy)]
pub(crate) struct Datagram {
    network: Ptr,
    transport: Ptr,
}

impl Datagram {
    /// In a socket buffer whose headers are known.
    #[inline(always)]
    pub(crate) fn in_buffer(skb: Ptr) -> Self {
        let head = follow(skb, at!(skb_head));
        let part = |offset: usize| head.wrapping_add(usize::from(read::<u16>(skb, offset)));
        Self {
            network: part(at!(skb_network)),
            transport: part(at!(skb_transport)),
        }
    }

    /// From where to where, for a socket that sends it or, if not, has received it.
    #[inline(always)]
    pub(crate) fn ends(self, sock: Ptr, is_sent: bool) -> Option<Ends> {
        /// Places in the headers of IPv4, IPv6 and UDP.
        const SOURCE4: usize = 12;
        const DESTINATION4: usize = 16;
        const SOURCE6: usize = 8;
        const DESTINATION6: usize = 24;
        const DESTINATION_PORT: usize = 2;
        let (source, destination) = match read::<u8>(self.network, 0) >> 4 {
            4 => (
                mapped(read(self.network, SOURCE4)),
                mapped(read(self.network, DESTINATION4)),
            ),
            6 => (
                read(self.network, SOURCE6),
                read(self.network, DESTINATION6),
            ),
            _ => return None,
        };
        let source_port: u16 = read(self.transport, 0);
        let destination_port: u16 = read(self.transport, DESTINATION_PORT);
        let netns = netns(sock);
        Some(if is_sent {
            Ends {
                local: source,
                remote: destination,
                local_port: u16::from_be(source_port),
                remote_port: destination_port,
                netns,
            }
        } else {
            Ends {
                local: destination,
                remote: source,
                local_port: u16::from_be(destination_port),
                remote_port: source_port,
                netns,
            }
        })
    }

    /// Where its payload begins.
    #[inline(always)]
    pub(crate) fn payload(self) -> Ptr {
        self.transport.wrapping_add(usize::from(HEADER))
    }

    /// Bytes of its payload.
    #[inline(always)]
    pub(crate) fn length(self) -> u16 {
        const LENGTH: usize = 4;
        u16::from_be(read(self.transport, LENGTH)).saturating_sub(HEADER)
    }
}
