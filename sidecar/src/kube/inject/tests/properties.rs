//! Whatever is written, however it is written: the text means what the patch says, and a second run adds nothing.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::{
    super::{edit::Edit, plan, workload},
    writer::{Chance, write},
    *,
};

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z]{3,9}",
        1 => Just("a b: c # d".to_owned()),
        1 => Just("line\n# two\n".to_owned()),
        1 => Just("keep\n\n".to_owned()),
        1 => Just("- x\n  y: z".to_owned()),
        1 => Just("é ☃ \"'".to_owned()),
        1 => Just("0644".to_owned()),
    ]
}

fn leaf() -> impl Strategy<Value = Value> {
    prop_oneof![
        word().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
        Just(json!([])),
        Just(json!({})),
    ]
}

/// Something we know nothing of.
fn other() -> impl Strategy<Value = Value> {
    leaf().prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{3,6}", inner, 0..3).prop_map(|map| json!(map)),
        ]
    })
}

fn maybe(strategy: impl Strategy<Value = Value> + 'static) -> impl Strategy<Value = Option<Value>> {
    prop::option::weighted(0.4, strategy)
}

/// Those of the keys that have a value.
fn object(entries: Vec<(&str, Option<Value>)>) -> Value {
    let present = entries
        .into_iter()
        .filter_map(|(key, value)| Some((key.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

fn nothing() -> impl Strategy<Value = Value> {
    prop_oneof![Just(Value::Null), Just(json!([]))]
}

fn container() -> impl Strategy<Value = Value> {
    let mounts = prop_oneof![
        nothing(),
        Just(json!([{"name": "tmp", "mountPath": "/tmp"}]))
    ];
    let security = any::<bool>().prop_map(|it| json!({"readOnlyRootFilesystem": it}));
    ("[a-z]{3,8}", maybe(mounts), maybe(security), maybe(other())).prop_map(
        |(name, mounts, security, args)| {
            object(vec![
                ("name", Some(name.into())),
                ("image", Some("registry.example/app:1".into())),
                ("volumeMounts", mounts),
                ("securityContext", security),
                ("zeal", args),
            ])
        },
    )
}

fn pod() -> impl Strategy<Value = Value> {
    let containers = || prop::collection::vec(container(), 1..3).prop_map(Value::from);
    let volumes = prop_oneof![nothing(), Just(json!([{"name": "tmp", "emptyDir": {}}]))];
    let init = prop_oneof![nothing(), containers()];
    let share = prop_oneof![Just(Value::Null), Just(json!(true))];
    let metadata = prop_oneof![
        Just(json!({})),
        Just(json!({"labels": {"app": "shop"}})),
        Just(json!({"annotations": {"note": "x"}, "name": "shop"})),
        Just(json!({"annotations": null, "name": "shop"})),
    ];
    (
        maybe(metadata),
        containers(),
        maybe(init),
        maybe(volumes),
        maybe(share),
        maybe(other()),
        maybe(other()),
    )
        .prop_map(
            |(metadata, containers, init, volumes, share, early, late)| {
                let spec = object(vec![
                    ("aardvark", early),
                    ("containers", Some(containers)),
                    ("initContainers", init),
                    ("volumes", volumes),
                    ("shareProcessNamespace", share),
                    ("zebra", late),
                ]);
                object(vec![("metadata", metadata), ("spec", Some(spec))])
            },
        )
}

/// A document with a pod, at the end or in the middle of it.
fn document() -> impl Strategy<Value = Value> {
    (pod(), 0..5_u8, maybe(other())).prop_map(|(pod, kind, after)| {
        let template = json!({"replicas": 2, "template": pod});
        match kind {
            0 => json!({"apiVersion": "v1", "kind": "Pod", "metadata": pod["metadata"], "spec": pod["spec"], "status": after}),
            1 => json!({"apiVersion": "apps/v1", "kind": "Deployment", "spec": template, "zone": after}),
            2 => json!({"apiVersion": "batch/v1", "kind": "CronJob", "spec": {"jobTemplate": {"spec": template}, "schedule": "* * * * *"}}),
            3 => json!({"apiVersion": "v1", "kind": "List", "items": [
                {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": template}, {"apiVersion": "v1", "kind": "Service"},
                {"apiVersion": "batch/v1", "kind": "Job", "spec": {"template": pod}}]}),
            _ => json!({"apiVersion": "v1", "kind": "ConfigMap", "data": after}),
        }
    })
}

/// What the document is to mean, by the patch alone.
fn patched(document: &Value, options: &Options) -> Value {
    let mut result = document.clone();
    for object in workload::objects(document, &[]) {
        let Ok(pod) = object.pod else { continue };
        let value = document.pointer(pod.as_str()).unwrap();
        let plan = plan::plan(value, options, &Surroundings::default()).unwrap();
        let edits = plan.edits.into_iter().map(|edit| edit.below(&pod));
        let operations: Vec<_> = edits.flat_map(|edit: Edit| edit.operations()).collect();
        json_patch::patch(&mut result, &operations).unwrap();
    }
    result
}

/// A value without the keys that hold nothing: what a key that was filled was like before is not kept.
fn without_nothing(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let entries = map
                .into_iter()
                .map(|(key, value)| (key, without_nothing(value)));
            Value::Object(
                entries
                    .filter(|(_, value)| {
                        !matches!(value, Value::Null) && *value != json!([]) && *value != json!({})
                    })
                    .collect(),
            )
        }
        Value::Array(items) => items.into_iter().map(without_nothing).collect(),
        other => other,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn text_and_patch_agree(
        values in prop::collection::vec(document(), 1..3),
        chance in prop::collection::vec(any::<u8>(), 0..200),
        older: bool,
        whole: bool,
    ) {
        let mut chance = Chance(&chance);
        let texts: Vec<_> = values.iter().map(|value| write(value, &mut chance)).collect();
        let mut source = texts.join("---\n");
        if !whole {
            source.truncate(source.trim_end_matches(['\n', '\r']).len());
        }
        let more: &[&str] = if older { &["--older-cluster"] } else { &[] };
        let before = documents(&source);

        let after = injected(&source, more).text;

        let options = options(more);
        let wanted: Vec<_> = before.iter().map(|document| patched(document, &options)).collect();
        prop_assert_eq!(documents(&after), wanted, "{}\n=>\n{}", source, after);
        prop_assert_eq!(&injected(&after, more).text, &after, "a second run");
        // And back, as far as it means something: a list of nothing is no list.
        let back = done(&after, more, Task::Remove, Unfit::Fail).unwrap_or_else(|faults| panic!("{faults}\n{after}"));
        let bare = |documents: Vec<Value>| -> Vec<_> { documents.into_iter().map(without_nothing).collect() };
        prop_assert_eq!(bare(documents(&back.text)), bare(before), "{}\n=>\n{}", after, back.text);
        // Every comment is still there.
        prop_assert_eq!(source.matches("# about").count(), after.matches("# about").count());
    }

    #[test]
    fn no_text_makes_it_panic(text in "(\\PC|\n|  |- |: ){0,60}") {
        let source = format!("apiVersion: v1\nkind: Pod\nspec:\n  containers:\n  - {text}");
        let _ = done(&source, &[], Task::Add, Unfit::Fail);
        let _ = done(&text, &[], Task::Add, Unfit::Keep);
        let _ = done(&source, &[], Task::Remove, Unfit::Keep);
    }
}
