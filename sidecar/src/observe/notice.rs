//! What the pod's owner should hear of through Kubernetes, too: a refused program looks like one that was out of memory
//! (exit 137), and who runs it reads `kubectl describe pod` before an agent's standard output.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::{Action, Detail, Lifecycle, Who};
use crate::process::PodRef;

/// Notices that may wait. Who gives one never waits: what is too much is counted, and no more.
const WAITING: usize = 512;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    /// A program got no secrets.
    Refused,
    /// The guard does not work.
    GuardLost,
    /// An edited configuration is wrong.
    ConfigRejected,
}

/// Something for Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Notice {
    /// What happened.
    pub(crate) topic: Topic,
    /// The pod of the program; `None` where it is not known, and for what is about the agent.
    pub(crate) pod: Option<PodRef>,
    /// A sentence for people, with no secret in it, as its event has none.
    pub(crate) note: String,
}

impl Notice {
    /// Of an event; nothing of most.
    pub(super) fn of(who: &Who<'_>, detail: &Detail<'_>) -> Option<Self> {
        match detail {
            Detail::Refused { reason, action, .. } => Some(Self {
                topic: Topic::Refused,
                pod: pod_of(who),
                note: format!(
                    "{} (pid {}) got no secrets, and {}: {reason}",
                    who.process,
                    who.pid,
                    became(*action)
                ),
            }),
            Detail::Agent { action, reason, .. } => {
                let (topic, what) = match action {
                    Lifecycle::GuardLost => (
                        Topic::GuardLost,
                        "the guard does not work: watched programs get no secrets and do not start, and those that run are not guarded",
                    ),
                    Lifecycle::ConfigRejected => (
                        Topic::ConfigRejected,
                        "the edited configuration is wrong, and the one before stays in force",
                    ),
                    _ => return None,
                };
                Some(Self {
                    topic,
                    pod: None,
                    note: format!("{what}: {}", reason.unwrap_or_default()),
                })
            }
            _ => None,
        }
    }
}

fn pod_of(who: &Who<'_>) -> Option<PodRef> {
    let container = who.container?;
    Some(PodRef {
        namespace: container.pod_namespace.clone()?,
        name: container.pod_name.clone()?,
        uid: who.pod_uid.map(str::to_owned),
    })
}

fn became(action: Action) -> &'static str {
    match action {
        Action::Killed => "was killed before its first instruction (exit 137)",
        Action::Started => "started without them",
        Action::Gone => "had ended already",
        Action::GoesOn => "goes on",
        Action::KeptSeal => "goes on with the secrets it had before that exec",
    }
}

/// Where notices are given. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Notices {
    waiting: Sender<Notice>,
    lost: Arc<AtomicU64>,
}

impl Notices {
    /// With where they are taken.
    pub(crate) fn new() -> (Self, Receiver<Notice>) {
        let (waiting, taken) = channel(WAITING);
        let notices = Self {
            waiting,
            lost: Arc::default(),
        };
        (notices, taken)
    }

    /// Takes one, or counts it where there is no room.
    pub(super) fn give(&self, notice: Notice) {
        if self.waiting.try_send(notice).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How many were too much since this was last asked.
    pub(crate) fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::{Container, Origin};

    #[test]
    fn notice_of_a_refusal_names_program_pod_reason_and_end() {
        let container = Container {
            id: "4f".into(),
            pod_name: Some("shop-1".into()),
            pod_namespace: Some("shop".into()),
            name: Some("app".into()),
        };
        let who = Who {
            pid: 7,
            process: "psql",
            container: Some(&container),
            pod_uid: Some("u-1"),
        };
        let origin = Origin::default();
        let detail = Detail::Refused {
            binding: "db",
            origin: (&origin).into(),
            reason: "somebody traces it",
            action: Action::Killed,
        };
        let notice = Notice::of(&who, &detail).unwrap();
        assert_eq!(
            notice.note,
            "psql (pid 7) got no secrets, and was killed before its first instruction (exit 137): somebody traces it"
        );
        let pod = PodRef {
            namespace: "shop".into(),
            name: "shop-1".into(),
            uid: Some("u-1".into()),
        };
        assert_eq!(notice.pod, Some(pod));
        assert_eq!(notice.topic, Topic::Refused);
    }

    #[test]
    fn notices_without_room_are_counted_and_nobody_waits() {
        let (notices, _taken) = Notices::new();
        let notice = Notice {
            topic: Topic::Refused,
            pod: None,
            note: String::new(),
        };
        for _ in 0..WAITING + 3 {
            notices.give(notice.clone());
        }
        assert_eq!((notices.take_lost(), notices.take_lost()), (3, 0));
    }
}
