//! Who asks for system calls: the configuration, and objects of the cluster. A call is told of if one of them wants it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kube_core::{Selector, SelectorExt as _};
use sidecar_common::syscall::{MAX_UIDS, Syscall};

use crate::{
    config::{
        self,
        calls::{self, Call, Category},
    },
    kernel::SyscallsRequest,
    kube::Spec,
    process::{Place, Pods},
};

/// One who asks.
#[derive(Clone, Default)]
pub(crate) struct Subscription {
    /// By their names.
    calls: BTreeMap<&'static str, &'static Call>,
    whose: Whose,
    /// Only of these users; empty for all.
    uids: BTreeSet<u32>,
    only_failed: bool,
}

/// Whose calls.
#[derive(Clone, Debug, Default, PartialEq)]
struct Whose {
    /// Only those of pods of this namespace, with labels that this selects.
    pods: Option<(String, Selector)>,
    /// Names or ids; empty for all programs, in containers or not.
    containers: Vec<String>,
}

impl Subscription {
    /// The configuration, if it asks.
    pub(crate) fn of_config(config: &config::Syscalls) -> Option<Self> {
        config.enabled.then(|| Self {
            calls: named(config.calls()),
            whose: Whose {
                pods: None,
                containers: config.containers.clone(),
            },
            uids: config.uids.iter().copied().collect(),
            only_failed: config.failed,
        })
    }

    /// An object, and what of it this machine, or this version, does not know. The rest is asked for.
    pub(crate) fn of_object(object: &Spec) -> (Self, Vec<String>) {
        let mut unknown = Vec::new();
        let mut wanted = Vec::new();
        for word in &object.categories {
            match Category::ALL.iter().find(|(name, _)| name == word) {
                Some((_, category)) => {
                    wanted.extend(calls::all().filter(|call| call.category == *category));
                }
                None => unknown.push(word.clone()),
            }
        }
        for name in &object.names {
            match calls::all().find(|call| call.is_called(name)) {
                Some(call) => wanted.push(call),
                None => unknown.push(name.clone()),
            }
        }
        let pods = object.namespace.clone();
        let subscription = Self {
            calls: named(wanted),
            whose: Whose {
                pods: pods.map(|namespace| (namespace, object.pods.clone())),
                containers: object.containers.clone(),
            },
            uids: object.uids.iter().copied().collect(),
            only_failed: object.failed,
        };
        (subscription, unknown)
    }

    /// What it asks for, by name.
    pub(crate) fn calls(&self) -> impl Iterator<Item = &'static str> {
        self.calls.values().map(|call| call.name)
    }

    /// Whether it wants a call, wherever that was made.
    fn wants(&self, call: &Made) -> bool {
        self.calls.contains_key(call.name)
            && (self.uids.is_empty() || self.uids.contains(&call.uid))
            && (call.has_failed || !self.only_failed)
    }
}

fn named(calls: impl IntoIterator<Item = &'static Call>) -> BTreeMap<&'static str, &'static Call> {
    calls.into_iter().map(|call| (call.name, call)).collect()
}

impl Whose {
    fn is_everybodys(&self) -> bool {
        self.pods.is_none() && self.containers.is_empty()
    }

    /// Whether what lives there is meant; `None` if that cannot be said yet.
    fn means(&self, place: Option<&Place>, pods: Option<&Pods>) -> Option<bool> {
        if self.is_everybodys() {
            return Some(true);
        }
        let Some(container) = &place?.container else {
            return Some(false);
        };
        let is_of_pods = match &self.pods {
            Some((namespace, labels)) => is_of(namespace, labels, place?.pod.as_deref(), pods),
            None => Some(true),
        };
        let mut answers = self.containers.iter().map(|name| container.is_called(name));
        let is_of_containers = if self.containers.is_empty() {
            Some(true)
        } else {
            one_of(&mut answers)
        };
        match (is_of_pods, is_of_containers) {
            (Some(false), _) | (_, Some(false)) => Some(false),
            (Some(true), Some(true)) => Some(true),
            // (a name or a pod that is not known yet may be one of these)
            _ => None,
        }
    }
}

/// Whether the pod of that uid is of a namespace and has such labels.
fn is_of(
    namespace: &str,
    labels: &Selector,
    uid: Option<&str>,
    pods: Option<&Pods>,
) -> Option<bool> {
    let Some(uid) = uid else {
        return Some(false);
    };
    let pod = pods?.find(uid)?;
    Some(pod.namespace == namespace && labels.matches(&pod.labels))
}

/// Whether one of them is so: surely, surely not, or it cannot be said.
fn one_of(answers: &mut dyn Iterator<Item = Option<bool>>) -> Option<bool> {
    let mut is_known = true;
    for answer in answers {
        match answer {
            Some(true) => return Some(true),
            Some(false) => {}
            None => is_known = false,
        }
    }
    is_known.then_some(false)
}

/// A call that was made, as far as it matters to who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Made {
    pub(super) name: &'static str,
    pub(super) uid: u32,
    pub(super) has_failed: bool,
}

impl Made {
    pub(super) fn of(call: &'static Call, record: &Syscall, has_failed: bool) -> Self {
        Self {
            name: call.name,
            uid: record.uid,
            has_failed,
        }
    }
}

/// All who ask for something.
#[derive(Clone, Default)]
pub(super) struct Subscriptions {
    all: Vec<Subscription>,
    /// Who asks for a call of that name, as places in `all`.
    by_call: HashMap<&'static str, Vec<usize>>,
}

impl FromIterator<Subscription> for Subscriptions {
    fn from_iter<T: IntoIterator<Item = Subscription>>(subscriptions: T) -> Self {
        let asking = subscriptions
            .into_iter()
            .filter(|subscription| !subscription.calls.is_empty());
        let all: Vec<Subscription> = asking.collect();
        let mut by_call: HashMap<&'static str, Vec<usize>> = HashMap::new();
        for (at, subscription) in all.iter().enumerate() {
            for name in subscription.calls.keys() {
                by_call.entry(*name).or_default().push(at);
            }
        }
        Self { all, by_call }
    }
}

impl Subscriptions {
    /// Whether nobody asks for anything.
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// The filter for the kernel side: it lets through what any subscription wants, and as little else as one filter can.
    pub(super) fn request(&self, rate: u32) -> SyscallsRequest {
        let all = &self.all;
        let calls = all
            .iter()
            .flat_map(|subscription| subscription.calls.clone());
        let calls: BTreeMap<&'static str, &'static Call> = calls.collect();
        let uids = all
            .iter()
            .flat_map(|subscription| subscription.uids.clone());
        let uids: BTreeSet<u32> = uids.collect();
        let all_name_users = all.iter().all(|subscription| !subscription.uids.is_empty());
        SyscallsRequest {
            calls: calls.into_values().collect(),
            uids: if all_name_users && uids.len() <= MAX_UIDS {
                uids.into_iter().collect()
            } else {
                Vec::new()
            },
            only_failed: all.iter().all(|subscription| subscription.only_failed),
            only_groups: all
                .iter()
                .all(|subscription| !subscription.whose.is_everybodys()),
            rate,
        }
    }

    /// Whether a subscription may want calls that are made in a place: the kernel side is told this of each cgroup. `None` while not
    /// enough is known of the place's pod.
    pub(super) fn verdict(&self, place: Option<&Place>, pods: Option<&Pods>) -> Option<bool> {
        let mut answers = self
            .all
            .iter()
            .map(|subscription| subscription.whose.means(place, pods));
        one_of(&mut answers)
    }

    /// Whether a subscription wants a call. A subscription for certain pods does not want one from a pod that is not known yet.
    pub(super) fn want(&self, call: &Made, place: Option<&Place>, pods: Option<&Pods>) -> bool {
        let asking = self.by_call.get(call.name);
        asking.into_iter().flatten().any(|at| {
            let subscription = &self.all[*at];
            subscription.wants(call) && subscription.whose.means(place, pods) == Some(true)
        })
    }

    /// Whether these judge places as those do.
    pub(super) fn judge_like(&self, others: &Self) -> bool {
        let whose = |subscriptions: &Self| -> Vec<Whose> {
            let all = subscriptions.all.iter();
            all.map(|subscription| subscription.whose.clone()).collect()
        };
        whose(self) == whose(others)
    }

    /// Whether it matters which labels a pod has.
    pub(super) fn go_by_labels(&self) -> bool {
        let mut selectors = self
            .all
            .iter()
            .filter_map(|subscription| subscription.whose.pods.as_ref());
        selectors.any(|(_, labels)| !labels.selects_all())
    }
}

#[cfg(test)]
mod tests;
