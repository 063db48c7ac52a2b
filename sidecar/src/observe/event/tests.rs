use super::*;

#[test]
fn an_event_is_one_flat_object() {
    let container = Container {
        id: "4f".into(),
        pod_name: Some("shop-1".into()),
        pod_namespace: None,
        name: Some("app".into()),
    };
    let origin = Origin {
        executable: Some("/usr/bin/cat".into()),
        parent: Some(Parent {
            pid: 1,
            process: "sh".into(),
        }),
    };
    let event = Event {
        timestamp: "2026-01-02T03:04:05.000006Z".into(),
        node: "n",
        kind: Kind::Blocked,
        who: Who {
            pid: 7,
            process: "cat",
            container: Some(&container),
            pod_uid: None,
        },
        detail: Detail::Access {
            access: "environ",
            target_pid: Some(5),
            target: "psql",
            binding: "shop",
            origin: (&origin).into(),
            uid: 0,
            verdict: "blocked",
        },
    };
    assert_eq!(
        serde_json::to_string(&event).unwrap(),
        r#"{"timestamp":"2026-01-02T03:04:05.000006Z","node":"n","type":"BLOCKED","pid":7,"process":"cat","container":{"container_id":"4f","pod_name":"shop-1","container_name":"app"},"access":"environ","target_pid":5,"target":"psql","binding":"shop","executable":"/usr/bin/cat","parent":{"pid":1,"process":"sh"},"uid":0,"verdict":"blocked"}"#
    );
}
