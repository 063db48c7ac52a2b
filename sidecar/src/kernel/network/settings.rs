//! What is asked of the network monitor's kernel side, and how it comes to be there while the programs run.

use std::{collections::BTreeSet, net::IpAddr, ops::RangeInclusive};

use aya::{
    Ebpf,
    maps::{Array, LpmTrie, MapData, lpm_trie::Key},
};
use ipnet::IpNet;
use sidecar_common::{
    monitor::Within,
    network::{PORT_WORDS, Settings, WatchFlags},
};

use super::{Error, array, contract, maps::failed, trie};

/// Bits of a prefix that an IPv4 network has more when it is written as IPv6 maps it.
const MAPPED_BITS: u32 = 96;

/// What is asked of the kernel side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NetworkRequest {
    /// `WATCH_*` bits.
    pub(crate) watch: WatchFlags,
    /// Only connections to these; empty for all.
    pub(crate) ports: Vec<RangeInclusive<u16>>,
    /// Only other ends in these; empty for all.
    pub(crate) cidrs: Vec<IpNet>,
}

/// The maps that say it.
pub(super) struct Applied {
    settings: Array<MapData, Settings>,
    ports: Array<MapData, u64>,
    cidrs: LpmTrie<MapData, [u8; 16], u8>,
    within: Within,
    generation: u32,
}

impl Applied {
    pub(super) fn take(ebpf: &mut Ebpf, within: Within) -> Result<Self, Error> {
        Ok(Self {
            settings: array(ebpf, &contract::SETTINGS)?,
            ports: array(ebpf, &contract::PORTS)?,
            cidrs: trie(ebpf, &contract::CIDRS)?,
            within,
            generation: 0,
        })
    }

    /// Filters first, then who is to heed them; what both requests ask for is not left out in between.
    pub(super) fn apply(&mut self, request: &NetworkRequest) -> Result<(), Error> {
        for (index, word) in port_words(&request.ports).into_iter().enumerate() {
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.ports
                .set(index, word, 0)
                .map_err(failed(contract::PORTS.name))?;
        }
        let wanted: BTreeSet<(u32, [u8; 16])> = request.cidrs.iter().map(prefix).collect();
        for (length, address) in &wanted {
            let key = Key::new(*length, *address);
            self.cidrs
                .insert(&key, 1, 0)
                .map_err(failed(contract::CIDRS.name))?;
        }
        let stale: Vec<Key<[u8; 16]>> = self
            .cidrs
            .keys()
            .filter_map(Result::ok)
            .filter(|key| !wanted.contains(&(key.prefix_len(), key.data())))
            .collect();
        for key in stale {
            self.cidrs
                .remove(&key)
                .map_err(failed(contract::CIDRS.name))?;
        }
        let only = [
            (!request.ports.is_empty(), WatchFlags::ONLY_PORTS),
            (!request.cidrs.is_empty(), WatchFlags::ONLY_CIDRS),
        ];
        let only: WatchFlags = only
            .into_iter()
            .filter_map(|(is_asked, flag)| is_asked.then_some(flag))
            .collect();
        self.generation = self.generation.wrapping_add(1);
        let settings = Settings {
            within: self.within,
            flags: request.watch | only,
            generation: self.generation,
        };
        let set = self.settings.set(0, settings, 0);
        set.map_err(failed(contract::SETTINGS.name))
    }
}

/// A bit for every port.
fn port_words(ranges: &[RangeInclusive<u16>]) -> Vec<u64> {
    let mut words = vec![0; PORT_WORDS];
    for port in ranges.iter().cloned().flatten() {
        words[usize::from(port / 64)] |= 1_u64 << (port % 64);
    }
    words
}

/// A network's length and bytes, of IPv4 as IPv6 maps it.
fn prefix(network: &IpNet) -> (u32, [u8; 16]) {
    let length = u32::from(network.prefix_len());
    match network.network() {
        IpAddr::V4(address) => (MAPPED_BITS + length, address.to_ipv6_mapped().octets()),
        IpAddr::V6(address) => (length, address.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_has_its_bit() {
        let words = port_words(&[443..=443, 8000..=8001, u16::MAX..=u16::MAX]);
        let has = |port: u16| words[usize::from(port / 64)] >> (port % 64) & 1 == 1;
        let set: Vec<u16> = (0..=u16::MAX).filter(|port| has(*port)).collect();
        assert_eq!(set, [443, 8000, 8001, u16::MAX]);
    }

    #[test]
    fn a_network_of_ipv4_is_one_of_ipv6() {
        let (length, bytes) = prefix(&"10.1.0.0/16".parse().unwrap());
        assert_eq!(length, 112);
        assert_eq!(bytes[10..], [0xff, 0xff, 10, 1, 0, 0]);
        let (length, bytes) = prefix(&"fd00::/8".parse().unwrap());
        assert_eq!((length, bytes[0]), (8, 0xfd));
    }
}
