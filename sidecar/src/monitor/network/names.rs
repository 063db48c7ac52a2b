//! Names of addresses, from the answers that name servers gave to watched programs.

use std::{
    collections::{HashMap, VecDeque},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use simple_dns::{Packet, rdata::RData};

/// Addresses whose names are remembered; the oldest are forgotten first.
const REMEMBERED: usize = 4096;

/// An address in a network namespace: what it is called there need not hold elsewhere.
type Key = (u32, IpAddr);

/// See the module.
#[derive(Default)]
pub(super) struct Names {
    names: HashMap<Key, String>,
    order: VecDeque<Key>,
}

impl Names {
    /// Learns from an answer. One that cannot be read, or is no answer, teaches nothing.
    pub(super) fn learn(&mut self, netns: u32, datagram: &[u8]) {
        let Some((name, addresses)) = read(datagram) else {
            return;
        };
        for address in addresses {
            let key = (netns, address);
            if self.names.insert(key, name.clone()).is_none() {
                self.order.push_back(key);
            }
        }
        while self.order.len() > REMEMBERED {
            if let Some(oldest) = self.order.pop_front() {
                self.names.remove(&oldest);
            }
        }
    }

    /// What an address was asked for as.
    pub(super) fn of(&self, netns: u32, address: IpAddr) -> Option<&str> {
        self.names.get(&(netns, address)).map(String::as_str)
    }
}

/// The name that was asked for, and the addresses that were answered: by way of other names, too.
fn read(datagram: &[u8]) -> Option<(String, Vec<IpAddr>)> {
    let packet = Packet::parse(datagram).ok()?;
    let name = packet
        .questions
        .first()?
        .qname
        .to_string()
        .to_ascii_lowercase();
    let addresses: Vec<IpAddr> = packet
        .answers
        .iter()
        .filter_map(|answer| match &answer.rdata {
            RData::A(address) => Some(Ipv4Addr::from(address.address).into()),
            RData::AAAA(address) => Some(Ipv6Addr::from(address.address).into()),
            _ => None,
        })
        .collect();
    (!addresses.is_empty()).then_some((name, addresses))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use simple_dns::{
        CLASS, Name, QCLASS, QTYPE, Question, ResourceRecord, TYPE,
        rdata::{A, AAAA, CNAME},
    };

    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

    fn answer(question: &str, records: Vec<RData<'static>>) -> Vec<u8> {
        let mut packet = Packet::new_reply(1);
        let asked = Name::new_unchecked(question).into_owned();
        packet.questions.push(Question::new(
            asked.clone(),
            QTYPE::TYPE(TYPE::A),
            QCLASS::CLASS(CLASS::IN),
            false,
        ));
        for data in records {
            packet
                .answers
                .push(ResourceRecord::new(asked.clone(), CLASS::IN, 60, data));
        }
        packet.build_bytes_vec_compressed().unwrap()
    }

    fn a(address: Ipv4Addr) -> RData<'static> {
        RData::A(A {
            address: address.into(),
        })
    }

    #[test]
    fn an_address_has_the_name_that_was_asked_for() {
        let mut names = Names::default();
        let alias = RData::CNAME(CNAME(Name::new_unchecked("other.example").into_owned()));
        let six = RData::AAAA(AAAA {
            address: Ipv6Addr::LOCALHOST.into(),
        });
        let datagram = answer(
            "db.shop.svc",
            vec![alias, a(Ipv4Addr::new(10, 0, 0, 7)), six],
        );
        names.learn(1, &datagram);
        assert_eq!(names.of(1, ADDRESS), Some("db.shop.svc"));
        assert_eq!(names.of(1, Ipv6Addr::LOCALHOST.into()), Some("db.shop.svc"));
        assert_eq!(names.of(2, ADDRESS), None);
        // another name since
        names.learn(
            1,
            &answer("cache.shop.svc", vec![a(Ipv4Addr::new(10, 0, 0, 7))]),
        );
        assert_eq!(names.of(1, ADDRESS), Some("cache.shop.svc"));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut names = Names::default();
        for number in 0..10_000_u32 {
            names.learn(1, &answer("a.example", vec![a(Ipv4Addr::from(number))]));
        }
        assert_eq!(
            (names.names.len(), names.order.len()),
            (REMEMBERED, REMEMBERED)
        );
        assert_eq!(names.of(1, Ipv4Addr::from(9_999).into()), Some("a.example"));
        assert_eq!(names.of(1, Ipv4Addr::from(0).into()), None);
    }

    #[test]
    fn a_name_in_any_case_is_told_in_lower_case() {
        let mut names = Names::default();
        names.learn(
            1,
            &answer("DB.Shop.svc", vec![a(Ipv4Addr::new(10, 0, 0, 7))]),
        );
        assert_eq!(names.of(1, ADDRESS), Some("db.shop.svc"));
    }

    proptest! {
        /// They come from whoever answers.
        #[test]
        fn any_bytes_are_read_or_not(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            Names::default().learn(1, &bytes);
        }

        #[test]
        fn an_answer_that_is_cut_is_read_or_not(length in 0_usize..100) {
            let whole = answer("db.shop.svc", vec![a(Ipv4Addr::LOCALHOST); 3]);
            Names::default().learn(1, &whole[..length.min(whole.len())]);
        }
    }
}
