use std::{collections::BTreeMap, path::Path};

use super::{
    super::{Commands, digests::Counting},
    *,
};
use crate::{
    config::parse,
    process::{Container, NamedPod},
};

const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

/// In a container, of the pod of that uid or of none.
fn place(pod: Option<&str>) -> Place {
    Place {
        cgroup: "/kubepods/x".into(),
        container: Some(Container {
            id: "4f53cda18c2baa0c".repeat(4),
            pod_name: None,
            pod_namespace: None,
            name: Some("app".into()),
        }),
        pod: pod.map(Into::into),
        trouble: None,
    }
}

#[test]
fn labels_that_are_not_kept_are_no_mismatch() {
    let pods = Pods::default();
    let crowded = NamedPod {
        has_too_many_labels: true,
        labels: BTreeMap::new(),
        ..pod("shop")
    };
    pods.insert(UID.into(), crowded);
    let place = place(Some(UID));
    let by_labels = judged(&["labels: {app: shop}"], &place, &pods, false);
    assert!(by_labels.contains("more labels than"), "{by_labels}");
    assert_eq!(judged(&["namespace: shop"], &place, &pods, false), "b0");
    let elsewhere = "namespace: other, labels: {app: shop}";
    assert_eq!(judged(&[elsewhere], &place, &pods, false), "is not");
}

fn pod(app: &str) -> NamedPod {
    NamedPod {
        name: "shop-1".into(),
        namespace: "shop".into(),
        labels: BTreeMap::from([("app".into(), app.into()), ("tier".into(), "web".into())]),
        has_too_many_labels: false,
        mirrors: None,
    }
}

/// What comes of a program named `a`, for an agent of a node that knows these pods.
fn judged(selectors: &[&str], place: &Place, pods: &Pods, may_wait: bool) -> String {
    let bindings: Vec<String> = selectors
            .iter()
            .enumerate()
            .map(|(at, selector)| {
                format!("  - {{name: b{at}, selector: {{binary: a, provenance: any, {selector}}}, secretRefs: [{{name: X{at}, source: {{value: x}}}}]}}\n")
            })
            .collect();
    let text = format!("version: v1\nsecrets:\n{}", bindings.concat());
    let config = parse(&text, Path::new("config.yaml")).unwrap();
    let mut held: Held = bytemuck::Zeroable::zeroed();
    (held.name[0], held.name_len) = (b'a', 1);
    let evidence = Evidence {
        held: &held,
        process: Process::new(std::process::id()),
        place,
        pods: Some(pods),
        may_wait,
        stack: None,
        is_executed: &|_| Ok(false),
        ask: &|_, _| Err(io::ErrorKind::Unsupported.into()),
        may_count: false,
        digests: &Digests::new(Counting::new().into(), Commands::new().unwrap()).into(),
    };
    match verify(&evidence, config.secrets.iter()) {
        Verdict::Is(meant) => meant.iter().map(|binding| binding.name.as_str()).collect(),
        Verdict::IsNot => "is not".into(),
        Verdict::NotYet(why) => format!("not yet: {why}"),
        Verdict::Refused(why) => format!("refused: {why}"),
    }
}

#[test]
fn an_agent_of_a_node_goes_by_the_pod_of_the_uid() {
    let pods = Pods::default();
    pods.insert(UID.into(), pod("checkout"));
    let here = place(Some(UID));
    let ask = |selector| judged(&[selector], &here, &pods, true);
    assert_eq!(ask("namespace: shop"), "b0");
    assert_eq!(ask("namespace: other"), "is not");
    assert_eq!(ask("labels: {app: checkout, tier: web}"), "b0");
    assert_eq!(ask("labels: {app: checkout, tier: db}"), "is not");
    assert_eq!(
        ask("namespace: shop, labels: {app: checkout}, container: app"),
        "b0"
    );
    assert_eq!(ask("namespace: shop, container: other"), "is not");
    // as somebody changes them
    pods.insert(UID.into(), pod("other"));
    assert_eq!(ask("labels: {app: checkout}"), "is not");
    // a container of no pod is in no namespace, and whoever is not in a container neither
    assert_eq!(
        judged(&["namespace: shop"], &place(None), &pods, true),
        "is not"
    );
    let outside = Place {
        container: None,
        ..place(None)
    };
    assert_eq!(
        judged(&["namespace: shop"], &outside, &pods, true),
        "is not"
    );
}

#[test]
fn a_pod_that_is_not_known_is_waited_for_and_then_refused() {
    let pods = Pods::default();
    let here = place(Some(UID));
    let waiting = judged(&["namespace: shop"], &here, &pods, true);
    assert!(waiting.starts_with("not yet: "), "{waiting}");
    let refused = judged(&["namespace: shop"], &here, &pods, false);
    assert_eq!(
        refused,
        format!(
            "refused: the pod of its container, {UID}, is not known: the API has not told of it"
        )
    );
    pods.set_trouble("it is away".into());
    let refused = judged(&["labels: {app: a}"], &here, &pods, false);
    assert!(refused.ends_with("is not known: it is away"), "{refused}");
    // What it gets is not a matter of a moment: no binding goes ahead of another.
    let both = ["container: app", "namespace: shop"];
    assert!(judged(&both, &here, &pods, true).starts_with("not yet"));
    pods.insert(UID.into(), pod("checkout"));
    assert_eq!(judged(&both, &here, &pods, true), "b0b1");
    // Who asks for no pod waits for none, and who is another user's neither.
    pods.remove(UID);
    assert_eq!(judged(&["container: app"], &here, &pods, true), "b0");
    assert_eq!(
        judged(&["namespace: shop, uid: 7"], &here, &pods, true),
        "is not"
    );
}
