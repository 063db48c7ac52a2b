//! Several who ask: each is told what it would be told if it asked alone, whoever comes and goes beside it.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::process::{Container, NamedPod};

/// What tests ask for and programs do.
const NAMES: [&str; 4] = ["openat", "close", "connect", "getpid"];

fn asked(names: &[&str]) -> Spec {
    Spec {
        names: names.iter().map(ToString::to_string).collect(),
        ..Spec::default()
    }
}

fn subscription(object: &Spec) -> Subscription {
    let (whole, unknown) = Subscription::of_object(object);
    assert!(unknown.is_empty(), "{unknown:?}");
    whole
}

fn made(name: &str, uid: u32, has_failed: bool) -> Made {
    let name = calls::find(name).unwrap().name;
    Made {
        name,
        uid,
        has_failed,
    }
}

/// Where a container of that name lives, in the pod of that uid.
fn place(pod: Option<&str>, name: Option<&str>) -> Place {
    Place {
        container: Some(Container {
            id: "0".repeat(64),
            pod_name: None,
            pod_namespace: None,
            name: name.map(Into::into),
        }),
        pod: pod.map(Into::into),
        ..Place::default()
    }
}

fn pod(namespace: &str, app: &str) -> NamedPod {
    NamedPod {
        namespace: namespace.into(),
        labels: BTreeMap::from([("app".into(), app.into())]),
        ..NamedPod::default()
    }
}

/// Pods `shop` and `bank`, each in the namespace of its name and with that as its label `app`.
fn pods() -> Pods {
    let pods = Pods::default();
    for name in ["shop", "bank"] {
        pods.insert(name.into(), pod(name, name));
    }
    pods
}

#[test]
fn what_is_not_known_is_told_and_the_rest_is_asked_for() {
    let (subscription, unknown) = Subscription::of_object(&Spec {
        categories: vec!["descriptors".into(), "files".into()],
        ..asked(&["openat", "newstat", "signal"])
    });
    assert_eq!(unknown, ["files", "signal"]);
    let names: BTreeSet<&str> = subscription.calls().collect();
    // (by its function's name, too)
    assert!(names.is_superset(&["openat", "dup3"].into()), "{names:?}");
    assert_eq!(names.contains("stat"), calls::find("stat").is_some());
}

#[test]
fn an_object_is_about_pods_of_its_namespace_with_its_labels() {
    let of = |namespace: &str, app: Option<&'static str>| {
        let labels = app.map(|app| ("app", app));
        subscription(&Spec {
            namespace: Some(namespace.into()),
            pods: labels.into_iter().collect(),
            ..asked(&["openat"])
        })
    };
    let pods = pods();
    let told = |subscription: Subscription, place: Option<&Place>| {
        let subscriptions: Subscriptions = [subscription].into_iter().collect();
        let wants = subscriptions.want(&made("openat", 0, false), place, Some(&pods));
        assert_eq!(
            wants,
            subscriptions.verdict(place, Some(&pods)) == Some(true)
        );
        subscriptions.verdict(place, Some(&pods))
    };
    let (shop, bank) = (place(Some("shop"), None), place(Some("bank"), None));
    assert_eq!(told(of("shop", None), Some(&shop)), Some(true));
    assert_eq!(told(of("shop", None), Some(&bank)), Some(false));
    assert_eq!(told(of("shop", Some("shop")), Some(&shop)), Some(true));
    assert_eq!(told(of("shop", Some("web")), Some(&shop)), Some(false));
    // No pod's: of the node itself, or of a container of another's making.
    assert_eq!(told(of("shop", None), Some(&Place::default())), Some(false));
    assert_eq!(
        told(of("shop", None), Some(&place(None, None))),
        Some(false)
    );
    // A pod that nobody has told of yet, and what cannot be looked up.
    let new = place(Some("new"), None);
    assert_eq!(told(of("shop", None), Some(&new)), None);
    assert_eq!(told(of("shop", None), None), None);
    pods.insert("new".into(), pod("shop", "new"));
    assert_eq!(told(of("shop", None), Some(&new)), Some(true));
}

#[test]
fn a_container_whose_name_is_not_known_yet_is_not_judged() {
    let subscriptions: Subscriptions = [subscription(&Spec {
        containers: vec!["app".into(), "web".into()],
        ..asked(&["openat"])
    })]
    .into_iter()
    .collect();
    let verdict = |name| subscriptions.verdict(Some(&place(Some("shop"), name)), None);
    assert_eq!(verdict(Some("web")), Some(true));
    assert_eq!(verdict(Some("db")), Some(false));
    assert_eq!(verdict(None), None);
}

#[test]
fn the_kernel_side_leaves_out_what_nobody_wants() {
    let some = |uids: &[u32], failed| {
        subscription(&Spec {
            namespace: Some("shop".into()),
            uids: uids.to_vec(),
            failed,
            ..asked(&["openat"])
        })
    };
    let request = |subscriptions: &[Subscription]| {
        let subscriptions: Subscriptions = subscriptions.iter().cloned().collect();
        subscriptions.request(20)
    };
    let two = request(&[some(&[1, 2], true), some(&[2, 3], true)]);
    assert_eq!(two.rate, 20);
    assert_eq!(two.uids, [1, 2, 3]);
    assert!(two.only_failed && two.only_groups);
    // one that names no user is about all, as is one that wants more than failures, or is about the whole node
    assert!(
        request(&[some(&[1], true), some(&[], true)])
            .uids
            .is_empty()
    );
    assert!(!request(&[some(&[1], true), some(&[1], false)]).only_failed);
    assert!(!request(&[some(&[1], true), subscription(&asked(&["close"]))]).only_groups);
    // but one that asks for nothing is not
    assert!(request(&[some(&[1], true), Subscription::default()]).only_groups);
    // more users than the kernel side has room for
    let many: Vec<u32> = (0..=u32::try_from(MAX_UIDS).unwrap()).collect();
    assert!(request(&[some(&many, true)]).uids.is_empty());
}

/// Any object.
fn any_asked() -> impl Strategy<Value = Spec> {
    let names = prop::sample::subsequence(&NAMES, 0..=NAMES.len());
    let namespace = prop::option::of(prop::sample::select(vec!["shop", "bank"]));
    let app = prop::option::of(prop::sample::select(vec!["shop", "bank"]));
    let containers = prop::sample::subsequence(&["app", "web"], 0..=2);
    let uids = prop::collection::vec(0_u32..3, 0..3);
    let parts = (names, namespace, app, containers, uids, any::<bool>());
    parts.prop_map(|(names, namespace, app, containers, uids, failed)| Spec {
        namespace: namespace.map(Into::into),
        pods: app.map(|app| ("app", app)).into_iter().collect(),
        containers: containers.into_iter().map(Into::into).collect(),
        uids,
        failed,
        ..asked(&names)
    })
}

/// Any place, or none that is known.
fn any_place() -> impl Strategy<Value = Option<Place>> {
    let pod = prop::option::of(prop::sample::select(vec!["shop", "bank", "new"]));
    let name = prop::option::of(prop::sample::select(vec!["app", "web", "db"]));
    (0..3, pod, name).prop_map(|(known, pod, name)| match known {
        0 => None,
        1 => Some(Place::default()),
        _ => Some(place(pod, name)),
    })
}

/// Whether the kernel side, as it was wished for, lets a call through.
fn passes(request: &SyscallsRequest, call: &Made, verdict: Option<bool>) -> bool {
    request.calls.iter().any(|one| one.name == call.name)
        && (request.uids.is_empty() || request.uids.contains(&call.uid))
        && (call.has_failed || !request.only_failed)
        && !(request.only_groups && verdict == Some(false))
}

proptest! {
    #[test]
    fn together_they_are_told_what_each_would_be_told_alone(
        all in prop::collection::vec(any_asked(), 0..5),
        name in prop::sample::select(&NAMES[..]),
        uid in 0_u32..3,
        has_failed in any::<bool>(),
        place in any_place(),
    ) {
        let (pods, call) = (pods(), made(name, uid, has_failed));
        let (pods, place) = (Some(&pods), place.as_ref());
        let of = |asked: &[Spec]| -> Subscriptions { asked.iter().map(subscription).collect() };
        let alone = all.iter().any(|one| of(std::slice::from_ref(one)).want(&call, place, pods));
        let together = of(&all);
        prop_assert_eq!(together.want(&call, place, pods), alone);
        // and the kernel side keeps nothing of it back
        let verdict = together.verdict(place, pods);
        prop_assert!(!alone || passes(&together.request(0), &call, verdict));
        prop_assert_eq!(together.is_empty(), all.iter().all(|one| one.names.is_empty()));
    }
}
