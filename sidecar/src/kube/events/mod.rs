//! Kubernetes Events (`events.k8s.io/v1`) on pods: what an agent has to say to whoever looks at a pod, and not at its stream of
//! events. They are written, never read: the right to `create` them is all that it takes.

mod digest;
#[cfg(all(test, feature = "test-kube"))]
mod tests;

use k8s_openapi::{
    api::{
        core::v1::ObjectReference,
        events::v1::{Event, EventSeries},
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};

pub(crate) use self::digest::{Digest, PodEvent};
use super::{Fault, PollPolicy, line};
use crate::observe::Topic;

/// Who reports: a name of ours, as the API wants it.
const CONTROLLER: &str = "kernelseal.io/agent";
/// Bytes of a note, for the API server.
const LONGEST_NOTE: usize = 1024;
/// Bytes of the reporting instance's name, for the API server.
const LONGEST_INSTANCE: usize = 128;
/// What stands where a note was cut.
const CUT: &str = "…";

/// Writes events.
pub(crate) struct EventPen {
    client: Client,
    instance: String,
}

impl EventPen {
    /// One agent's, by the name of its node. Asks no oftener than the policy says.
    pub(crate) fn of_node(client: Client, node: &str, poll_policy: PollPolicy) -> Self {
        Self {
            client: line::open(client, poll_policy, || {}),
            instance: cut(node, LONGEST_INSTANCE, ""),
        }
    }

    /// Makes an event.
    ///
    /// # Errors
    ///
    /// What the API said, or that it did not answer.
    pub(crate) async fn write(&self, event: &PodEvent) -> Result<(), Fault> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), &event.pod.namespace);
        let made = api
            .create(&PostParams::default(), &self.object(event))
            .await;
        made.map(drop).map_err(|e| Fault::of_request(&e))
    }

    fn object(&self, event: &PodEvent) -> Event {
        let (reason, action) = words(event.topic);
        let at = MicroTime(event.last);
        Event {
            metadata: ObjectMeta {
                namespace: Some(event.pod.namespace.clone()),
                generate_name: Some("kernelseal-".into()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(event.first)),
            reporting_controller: Some(CONTROLLER.into()),
            reporting_instance: Some(self.instance.clone()),
            reason: Some(reason.into()),
            action: Some(action.into()),
            type_: Some("Warning".into()),
            note: Some(cut(&event.note, LONGEST_NOTE, CUT)),
            regarding: Some(ObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                namespace: Some(event.pod.namespace.clone()),
                name: Some(event.pod.name.clone()),
                uid: event.pod.uid.clone(),
                ..ObjectReference::default()
            }),
            series: (event.count > 1).then(|| EventSeries {
                count: i32::try_from(event.count).unwrap_or(i32::MAX),
                last_observed_time: at,
            }),
            ..Event::default()
        }
    }
}

/// `reason` and `action` of a topic's events.
fn words(topic: Topic) -> (&'static str, &'static str) {
    match topic {
        Topic::Refused => ("SecretsRefused", "Refuse"),
        Topic::GuardLost => ("GuardLost", "Guard"),
        Topic::ConfigRejected => ("ConfigRejected", "Reload"),
    }
}

/// A text of so many bytes at the most.
fn cut(text: &str, longest: usize, end: &str) -> String {
    if text.len() <= longest {
        return text.to_owned();
    }
    let kept = text.floor_char_boundary(longest - end.len());
    format!("{}{end}", &text[..kept])
}

#[cfg(test)]
mod size_tests {
    use super::*;

    #[test]
    fn cut_of_a_long_text_ends_between_letters() {
        assert_eq!(cut("short", 10, CUT), "short");
        let long = cut(&"ü".repeat(600), LONGEST_NOTE, CUT);
        assert!(long.len() <= LONGEST_NOTE && long.ends_with("ü…"), "{long}");
    }
}
