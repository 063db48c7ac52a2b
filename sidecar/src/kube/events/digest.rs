//! Many notices, few events: of what goes on and on, one at once and then one a minute that counts the others.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    observe::{Notice, Topic},
    process::PodRef,
};

/// From one event of a pod and a topic to the next.
const AGAIN_AFTER: Duration = Duration::from_mins(1);
/// Pods and topics of which something is remembered; a node has fewer.
const MOST: usize = 512;

/// An event to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodEvent {
    /// On which pod.
    pub(crate) pod: PodRef,
    /// What happened.
    pub(crate) topic: Topic,
    /// The last of it, in a sentence.
    pub(crate) note: String,
    /// How often.
    pub(crate) count: u64,
    /// When it happened first.
    pub(crate) first: Timestamp,
    /// And when last.
    pub(crate) last: Timestamp,
}

/// What is known of a pod and a topic.
struct Known {
    /// What has not been told.
    event: Option<PodEvent>,
    /// Before that nothing is told.
    not_before: Instant,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Digest {
    known: BTreeMap<(PodRef, Topic), Known>,
}

impl Digest {
    /// Takes a notice about a pod; `false` where too many others have something to be told.
    pub(crate) fn take(&mut self, pod: PodRef, notice: Notice, now: Instant) -> bool {
        let key = (pod, notice.topic);
        if self.known.len() >= MOST && !self.known.contains_key(&key) {
            self.known
                .retain(|_, known| known.event.is_some() || known.not_before > now);
            if self.known.len() >= MOST {
                return false;
            }
        }
        let at = Timestamp::now();
        let (pod, topic) = (key.0.clone(), key.1);
        let known = self.known.entry(key).or_insert(Known {
            event: None,
            not_before: now,
        });
        match &mut known.event {
            Some(event) => {
                event.note = notice.note;
                event.count += 1;
                event.last = at;
            }
            None => {
                known.event = Some(PodEvent {
                    pod,
                    topic,
                    note: notice.note,
                    count: 1,
                    first: at,
                    last: at,
                });
            }
        }
        true
    }

    /// An event that is to be made now.
    pub(crate) fn next(&mut self, now: Instant) -> Option<PodEvent> {
        let mut due = self.known.values_mut();
        let known = due.find(|known| known.event.is_some() && known.not_before <= now)?;
        known.not_before = now + AGAIN_AFTER;
        known.event.take()
    }

    /// How long it is until there is one; `None` where nothing is to be told.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let waiting = self.known.values().filter(|known| known.event.is_some());
        let waits = waiting.map(|known| known.not_before.saturating_duration_since(now));
        waits.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> PodRef {
        PodRef {
            namespace: "shop".into(),
            name: name.into(),
            uid: None,
        }
    }

    fn notice(note: &str) -> Notice {
        Notice {
            topic: Topic::Refused,
            pod: None,
            note: note.into(),
        }
    }

    #[test]
    fn a_flood_is_one_event_at_once_and_one_a_minute() {
        let (mut digest, begun) = (Digest::default(), Instant::now());
        let mut told = Vec::new();
        // ten thousand within a hundred seconds
        for n in 0_u32..10_000 {
            let now = begun + n * Duration::from_millis(10);
            assert!(digest.take(pod("web"), notice(&format!("{n}")), now));
            told.extend(digest.next(now));
        }
        assert_eq!(told.len(), 2);
        assert_eq!((told[0].count, told[0].note.as_str()), (1, "0"));
        assert_eq!((told[1].count, told[1].note.as_str()), (6_000, "6000"));
        // the rest in its time
        let now = begun + Duration::from_secs(100);
        assert_eq!(digest.next(now), None);
        let wait = digest.wait(now).unwrap();
        assert_eq!(wait, Duration::from_secs(20));
        assert_eq!(digest.next(now + wait).unwrap().count, 3_999);
        assert_eq!(digest.wait(now + wait), None);
    }

    #[test]
    fn pods_do_not_wait_for_each_other_and_are_not_remembered_without_number() {
        let (mut digest, now) = (Digest::default(), Instant::now());
        for n in 0..MOST {
            assert!(digest.take(pod(&format!("web-{n}")), notice("x"), now));
        }
        assert!(!digest.take(pod("one-more"), notice("x"), now));
        let told = std::iter::from_fn(|| digest.next(now)).count();
        assert_eq!(told, MOST);
        // (what was told is forgotten when its time is over)
        let later = now + AGAIN_AFTER;
        assert!(digest.take(pod("one-more"), notice("x"), later));
    }
}
