use super::*;

fn state(lines: &[&str]) -> State {
    let mut state = State::default();
    for line in lines {
        state.take(Event::parse(line.as_bytes()).expect(line));
    }
    state
}

fn event(rest: &str) -> String {
    format!(r#"{{"timestamp":"2026-11-21T06:51:55.806172Z","node":"guest",{rest}}}"#)
}

const CONNECTION: &str = r#""pid":90,"process":"curl","protocol":"TCP","src_ip":"::1","src_port":34956,"dst_ip":"::2","dst_port":443,"direction":"outbound""#;

#[test]
fn a_program_is_there_until_it_exits() {
    let sealed = event(
        r#""type":"SEALED","pid":117,"process":"app","bindings":["shop"],"env":["A","B"],"files":["B"],"held_us":1"#,
    );
    let both = state(&[&sealed]);
    let [program] = both.programs()[..] else {
        panic!("{both:?}");
    };
    assert_eq!((program.secrets, program.bindings.as_str()), (2, "shop"));
    assert_eq!(program.since, "06:51:55");
    let exited = event(r#""type":"EXITED","pid":117,"process":"app","code":0"#);
    assert!(state(&[&sealed, &exited]).programs().is_empty());
    // another's of that number
    let other = event(
        r#""type":"EXITED","pid":117,"process":"app","container":{"container_id":"a","pod_name":"other"}"#,
    );
    assert_eq!(state(&[&sealed, &other]).programs().len(), 1);
}

#[test]
fn connections_of_unix_sockets_are_told_apart() {
    let told = |kind: &str, inode: u32| {
        event(&format!(
            r#""type":"{kind}","pid":90,"process":"docker","protocol":"UNIX","path":"/run/docker.sock","inode":{inode},"direction":"outbound","outcome":"established""#
        ))
    };
    let open = state(&[&told("CONNECT", 1), &told("CONNECT", 2), &told("CLOSE", 1)]);
    let [flow] = open.flows()[..] else {
        panic!("{open:?}");
    };
    assert_eq!((&*flow.protocol, &*flow.peer), ("UNIX", "/run/docker.sock"));
    let (with, traffic) = open.traffic()[0];
    assert_eq!((with, traffic.connections), ("UNIX /run/docker.sock", 2));
}

#[test]
fn a_connection_is_there_until_it_is_closed() {
    let connect = event(&format!(
        r#""type":"CONNECT",{CONNECTION},"outcome":"established""#
    ));
    let open = state(&[&connect]);
    assert_eq!(open.flows()[0].peer, "[::2]:443");
    let close = event(&format!(
        r#""type":"CLOSE",{CONNECTION},"bytes_sent":8,"bytes_received":6"#
    ));
    let closed = state(&[&connect, &close]);
    assert!(closed.flows().is_empty());
    let (with, traffic) = closed.traffic()[0];
    assert_eq!(with, "TCP [::2]:443");
    assert_eq!(
        (traffic.sent, traffic.received, traffic.connections),
        (8, 6, 1)
    );
}

#[test]
fn what_failed_is_counted_and_is_no_connection() {
    let failed = event(&format!(
        r#""type":"CONNECT",{CONNECTION},"dst_name":"db","outcome":"refused""#
    ));
    let state = state(&[&failed]);
    assert!(state.flows().is_empty());
    let (with, traffic) = state.traffic()[0];
    assert_eq!((with, traffic.failed), ("TCP db:443", 1));
}

#[test]
fn refusals_are_kept_the_latest_first_and_not_without_end() {
    let line = |pid: usize| {
        event(&format!(
            r#""type":"BLOCKED","pid":{pid},"process":"cat","access":"environ","target_pid":5,"target":"psql""#
        ))
    };
    let lines: Vec<String> = (1..=REFUSALS + 1).map(line).collect();
    let state = state(&lines.iter().map(String::as_str).collect::<Vec<_>>());
    let refusals = state.refusals();
    assert_eq!(refusals.len(), REFUSALS);
    assert_eq!(refusals[0].pid as usize, REFUSALS + 1);
    assert_eq!(refusals[0].what, "environ of psql (5)");
}

#[test]
fn calls_and_losses_are_counted() {
    let call =
        event(r#""type":"SYSCALL","pid":1,"process":"cat","syscall":"openat","error":"ENOENT""#);
    let lost = event(r#""type":"DROPPED","pid":1,"process":"k","count":816,"lost_in":"kernel""#);
    let state = state(&[&call, &call, &lost]);
    let (name, process, calls) = state.calls()[0];
    assert_eq!(
        (name, process, calls.count, calls.failed),
        ("openat", "cat", 2, 2)
    );
    assert_eq!(state.lost["kernel"], 816);
}

#[test]
fn other_lines_are_no_events() {
    for line in ["", "{}", "INFO watching", r#"{"level":"INFO"}"#, "[1]"] {
        assert!(Event::parse(line.as_bytes()).is_none(), "{line}");
    }
}
