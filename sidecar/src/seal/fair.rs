//! A queue in which nobody waits for more than their share: turns go round by control group, that is by container, and within one
//! by program name.

use std::collections::{BTreeMap, VecDeque};

/// Who waits: the control group, and the name of what is executed there.
pub(super) struct Owner {
    /// As the inode number of its folder in cgroup2.
    pub(super) cgroup: u64,
    /// Its base name.
    pub(super) name: Vec<u8>,
}

/// Turns of some, one after the other; each has its own queue, and goes behind all others when it had its turn.
struct Round<K, Q> {
    waiting: BTreeMap<K, Q>,
    order: VecDeque<K>,
}

impl<K, Q> Default for Round<K, Q> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Ord + Clone, Q: Default> Round<K, Q> {
    fn queue(&mut self, key: K) -> &mut Q {
        let order = &mut self.order;
        self.waiting.entry(key).or_insert_with_key(|key| {
            order.push_back(key.clone());
            Q::default()
        })
    }

    /// The queue of the next whose turn it is; `take` gives its first, and whether that was its last.
    fn take<T>(&mut self, take: impl FnOnce(&mut Q) -> (Option<T>, bool)) -> Option<T> {
        let key = self.order.pop_front()?;
        let (taken, is_empty) = take(self.waiting.get_mut(&key)?);
        if is_empty {
            self.waiting.remove(&key);
        } else {
            self.order.push_back(key);
        }
        taken
    }
}

/// Seals of programs that wait to be served.
#[derive(Default)]
pub(super) struct FairQueue(Round<u64, Round<Vec<u8>, VecDeque<u64>>>);

impl FairQueue {
    /// Nobody waits.
    pub(super) fn is_empty(&self) -> bool {
        self.0.waiting.is_empty()
    }

    /// It waits behind those of its own.
    pub(super) fn push(&mut self, owner: Owner, seal: u64) {
        self.0.queue(owner.cgroup).queue(owner.name).push_back(seal);
    }

    /// The next whose turn it is.
    pub(super) fn pop(&mut self) -> Option<u64> {
        self.0.take(|names| {
            let seal = names.take(|seals| {
                let seal = seals.pop_front();
                (seal, seals.is_empty())
            });
            (seal, names.waiting.is_empty())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(waiting: &[(u64, &str, u64)]) -> FairQueue {
        let mut queue = FairQueue::default();
        for (cgroup, name, seal) in waiting {
            let name = name.as_bytes().to_vec();
            let cgroup = *cgroup;
            queue.push(Owner { cgroup, name }, *seal);
        }
        queue
    }

    fn all(mut queue: FairQueue) -> Vec<u64> {
        std::iter::from_fn(|| queue.pop()).collect()
    }

    #[test]
    fn a_containers_own_come_in_their_order() {
        let mut queue = queue(&[(1, "a", 3), (1, "a", 1), (1, "a", 2)]);
        assert!(!queue.is_empty());
        assert_eq!((queue.pop(), queue.pop()), (Some(3), Some(1)));
        assert_eq!((queue.pop(), queue.pop()), (Some(2), None));
        assert!(queue.is_empty());
    }

    #[test]
    fn a_flood_of_a_container_delays_no_other_one() {
        let mut waiting: Vec<_> = (0..100).map(|seal| (1, "a", seal)).collect();
        waiting.push((2, "a", 100));
        assert!(all(queue(&waiting)).iter().position(|seal| *seal == 100) <= Some(1));
        // (whoever comes while others have their turns)
        let mut queue = queue(&waiting[..100]);
        for _ in 0..50 {
            queue.pop();
        }
        queue.push(
            Owner {
                cgroup: 2,
                name: b"a".to_vec(),
            },
            100,
        );
        assert!([queue.pop(), queue.pop()].contains(&Some(100)));
    }

    /// Control groups that are made later have higher numbers.
    #[test]
    fn containers_that_are_made_again_and_again_delay_nobody() {
        let mut queue = queue(&[(7, "a", 7), (1, "a", 1)]);
        let mut order = Vec::new();
        for seal in 8..30 {
            queue.push(
                Owner {
                    cgroup: seal,
                    name: b"a".to_vec(),
                },
                seal,
            );
            order.extend(queue.pop());
        }
        assert_eq!(order[..2], [7, 1]);
    }

    #[test]
    fn many_names_give_a_container_no_more_turns() {
        let names = ["a", "b", "c", "d"];
        let mut waiting = Vec::new();
        for (seal, name) in (0..40).zip(names.into_iter().cycle()) {
            waiting.push((1, name, seal));
        }
        waiting.extend([(2, "x", 100), (2, "x", 101)]);
        let order = all(queue(&waiting));
        let at = |seal: u64| order.iter().position(|one| *one == seal);
        assert!(at(100) <= Some(1) && at(101) <= Some(3), "{order:?}");
    }

    #[test]
    fn a_flood_of_a_binding_delays_no_other_one() {
        let mut waiting: Vec<_> = (0..100).map(|seal| (1, "a", seal)).collect();
        waiting.push((1, "b", 100));
        assert!(all(queue(&waiting)).iter().position(|seal| *seal == 100) <= Some(1));
    }

    #[test]
    fn everybody_has_a_turn() {
        let waiting: Vec<_> = (0..30).map(|seal| (seal % 3, "a", seal)).collect();
        let mut order = all(queue(&waiting));
        order.sort_unstable();
        assert_eq!(order, (0..30).collect::<Vec<u64>>());
    }
}
