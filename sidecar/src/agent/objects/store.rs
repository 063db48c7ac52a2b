//! Which objects ask for system calls, and which of them are heeded.

use std::collections::{BTreeMap, HashMap};

use crate::{
    kernel::How,
    kube::{AskingObject, NodeStatus, ObjectKind, ObjectNews},
    monitor::{Attached, Subscription},
};

/// Objects of a kind that are heeded, the oldest first. Each costs a comparison with every call of what it names.
pub(super) const MAX_OBJECTS: usize = 100;

/// See the module. Each object by its uid.
#[derive(Default)]
pub(super) struct Store(BTreeMap<ObjectKind, HashMap<String, AskingObject>>);

/// An object, evaluated.
#[derive(Clone)]
pub(super) struct Evaluated {
    pub(super) object: AskingObject,
    /// What of it is heeded.
    pub(super) subscription: Subscription,
    /// What of it is not, and why.
    pub(super) wrong: Option<String>,
}

impl Store {
    /// Takes news of a kind; whether other things are asked for than before.
    pub(super) fn take(&mut self, kind: ObjectKind, news: ObjectNews) -> bool {
        let known = self.0.entry(kind).or_default();
        match news {
            ObjectNews::All(all) => {
                let is_another =
                    all.len() != known.len() || all.iter().any(|object| is_news(known, object));
                let all = all.into_iter();
                *known = all.map(|object| (object.uid.clone(), object)).collect();
                is_another
            }
            ObjectNews::Is(object) => {
                let is_another = is_news(known, &object);
                known.insert(object.uid.clone(), *object);
                is_another
            }
            ObjectNews::Gone(uid) => known.remove(&uid).is_some(),
        }
    }

    /// How many there are of a kind.
    pub(super) fn count(&self, kind: ObjectKind) -> usize {
        self.0.get(&kind).map_or(0, HashMap::len)
    }

    /// All of them.
    pub(super) fn evaluate(&self) -> Vec<Evaluated> {
        let kinds = self.0.values();
        kinds
            .flat_map(|objects| {
                let mut objects: Vec<&AskingObject> = objects.values().collect();
                // (so that a new one takes no older one's place)
                objects.sort_by_key(|object| (object.since, &object.uid));
                let ranked = objects.into_iter().enumerate();
                ranked.map(|(rank, object)| Evaluated::of(object, rank < MAX_OBJECTS))
            })
            .collect()
    }
}

/// Whether it is not known, or asks for something else than it did. (Every node's word in its status makes it another
/// object to the API.)
fn is_news(known: &HashMap<String, AskingObject>, object: &AskingObject) -> bool {
    known
        .get(&object.uid)
        .is_none_or(|before| before.generation != object.generation || before.asked != object.asked)
}

impl Evaluated {
    fn of(object: &AskingObject, has_place: bool) -> Self {
        let object = object.clone();
        let (heeded, wrong) = match &object.asked {
            _ if !has_place => {
                let kind = object.id.kind.name();
                let why = format!(
                    "not applied: there are more than {MAX_OBJECTS} objects of the kind {kind}, and the oldest are applied. Make one of several, or delete some"
                );
                (Subscription::default(), Some(why))
            }
            Err(why) => (Subscription::default(), Some(format!("not applied: {why}"))),
            Ok(asked) => {
                let (known, unknown) = Subscription::of_object(asked);
                let is_nothing_left = known.calls().next().is_none();
                (known, explain(&unknown, is_nothing_left))
            }
        };
        Self {
            object,
            subscription: heeded,
            wrong,
        }
    }

    /// What this node says of it, where those calls are watched; `trouble`: why not all could be.
    pub(super) fn status(
        &self,
        node: &str,
        attached: &Attached,
        trouble: Option<&str>,
    ) -> NodeStatus {
        let watched = || {
            self.subscription
                .calls()
                .filter_map(|name| attached.get_key_value(name))
        };
        let count = |wanted: How| {
            let count = watched().filter(|(_, how)| **how == wanted).count();
            u32::try_from(count).unwrap_or(u32::MAX)
        };
        let trouble = trouble.map(|why| format!("not all of it is in force: {why}"));
        NodeStatus {
            name: node.to_owned(),
            observed_generation: self.object.generation,
            attached: watched().map(|(name, _)| (*name).to_owned()).collect(),
            probes: count(How::Probes),
            tracepoints: count(How::Tracepoints),
            error: self.wrong.clone().or(trouble),
        }
    }
}

/// What cannot be watched here; `None` if there is none of that.
fn explain(unknown: &[String], is_nothing_left: bool) -> Option<String> {
    let rest = if is_nothing_left {
        "nothing is watched"
    } else {
        "the rest is watched"
    };
    (!unknown.is_empty()).then(|| {
        format!(
            "not known on this machine, or to this version of the agent: {}; {rest}",
            unknown.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use k8s_openapi::jiff::Timestamp;

    use super::*;
    use crate::kube::{ObjectId, Spec};

    fn object(uid: &str, age: u64, names: &[&str]) -> AskingObject {
        let asked = Spec {
            namespace: Some("shop".into()),
            names: names.iter().map(ToString::to_string).collect(),
            ..Spec::default()
        };
        let since = SystemTime::UNIX_EPOCH + Duration::from_hours(1_000) - Duration::from_secs(age);
        AskingObject::new_for_tests(
            ObjectId {
                kind: ObjectKind::SyscallMonitor,
                namespace: Some("shop".into()),
                name: uid.into(),
            },
            uid,
            Timestamp::try_from(since).unwrap(),
            Ok(asked),
        )
    }

    fn is(store: &mut Store, object: AskingObject) -> bool {
        store.take(ObjectKind::SyscallMonitor, ObjectNews::Is(Box::new(object)))
    }

    fn of<'w>(evaluated: &'w [Evaluated], uid: &str) -> &'w Evaluated {
        evaluated.iter().find(|one| one.object.uid == uid).unwrap()
    }

    #[test]
    fn what_only_the_status_says_is_no_news() {
        let mut store = Store::default();
        assert!(is(&mut store, object("a", 1, &["openat"])));
        assert!(!is(&mut store, object("a", 1, &["openat"])));
        let again = vec![object("a", 1, &["openat"])];
        assert!(!store.take(ObjectKind::SyscallMonitor, ObjectNews::All(again)));
        assert!(is(&mut store, object("a", 1, &["close"])));
        let gone = || ObjectNews::Gone("a".into());
        assert!(!store.take(ObjectKind::KubeWard, gone()));
        assert!(store.take(ObjectKind::SyscallMonitor, gone()));
        assert!(!store.take(ObjectKind::SyscallMonitor, gone()));
        // another in the place of one that is gone, while nobody told
        assert!(is(&mut store, object("b", 1, &["openat"])));
        let others = vec![object("c", 1, &["openat"])];
        assert!(store.take(ObjectKind::SyscallMonitor, ObjectNews::All(others)));
        assert_eq!(store.evaluate().len(), 1);
    }

    #[test]
    fn a_call_that_is_not_known_here_is_told_and_the_rest_is_watched() {
        let mut store = Store::default();
        is(&mut store, object("some", 1, &["openat", "open_at"]));
        is(&mut store, object("none", 1, &["open_at"]));
        let evaluated = store.evaluate();
        let attached = Attached::from([("openat", How::Probes), ("close", How::Tracepoints)]);
        let said = of(&evaluated, "some").status("node-1", &attached, None);
        assert_eq!(said.attached, ["openat"]);
        assert_eq!((said.probes, said.tracepoints), (1, 0));
        let error = said.error.unwrap();
        assert!(error.contains("open_at; the rest is watched"), "{error}");
        let said = of(&evaluated, "none").status("node-1", &attached, None);
        assert!(said.attached.is_empty());
        assert!(said.error.unwrap().contains("nothing is watched"));
    }

    #[test]
    fn the_oldest_are_heeded_and_the_others_hear_of_it() {
        let mut store = Store::default();
        for number in 0..MAX_OBJECTS {
            let uid = format!("old-{number}");
            is(&mut store, object(&uid, 100, &["openat"]));
        }
        is(&mut store, object("a-new-one", 1, &["close"]));
        let evaluated = store.evaluate();
        let wrong = |one: &Evaluated| one.wrong.clone();
        let (new, old): (Vec<_>, Vec<_>) = evaluated
            .iter()
            .partition(|one| one.object.uid == "a-new-one");
        assert!(old.iter().all(|one| wrong(one).is_none()));
        assert!(wrong(new[0]).unwrap().contains("more than 100 objects"));
        assert!(new[0].subscription.calls().next().is_none());
        // and takes the place of one that goes
        let gone = ObjectNews::Gone("old-7".into());
        assert!(store.take(ObjectKind::SyscallMonitor, gone));
        assert!(wrong(of(&store.evaluate(), "a-new-one")).is_none());
    }

    #[test]
    fn what_keeps_the_monitor_from_it_is_told() {
        let mut store = Store::default();
        is(&mut store, object("a", 1, &["openat"]));
        let said = store.evaluate()[0].status("node-1", &Attached::new(), Some("no memory"));
        assert_eq!(
            said.error.as_deref(),
            Some("not all of it is in force: no memory")
        );
    }
}
