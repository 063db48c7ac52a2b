//! Snapshots of everything outside that a user may match by: events, metrics, names of log fields. A test fails where one
//! changes; `UPDATE_WIRE=1 cargo test -p kernelseal --bin kernelseal wire::` writes them anew, and CHANGELOG.md says why.

mod log_fields;

use std::{collections::BTreeSet, fmt::Write as _, fs, path::Path};

use super::*;
use crate::{
    config::parse,
    process::{Container, Origin, Parent},
};

/// Asks for the snapshots to be written anew.
const UPDATE: &str = "UPDATE_WIRE";
const NOWHERE: &str = "-";

/// Compares with the snapshot of that name.
fn assert_unchanged(name: &str, found: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/observe/wire");
    let file = folder.join(name);
    if std::env::var_os(UPDATE).is_some() {
        fs::write(&file, found).unwrap();
    }
    let known = fs::read_to_string(&file).unwrap();
    let changed: Vec<_> = found.lines().filter(|line| !known.contains(line)).collect();
    let gone: Vec<_> = known.lines().filter(|line| !found.contains(line)).collect();
    assert!(
        found == known,
        "{name} has changed.\nnew:\n{}\ngone:\n{}\nIf that is meant, set {UPDATE}=1 and say so in CHANGELOG.md",
        changed.join("\n"),
        gone.join("\n")
    );
}

/// The kinds that have such details. Whoever adds a variant comes by here, and then adds it to [`of_sealing`] or [`of_monitors`].
fn kinds_of(detail: &Detail<'_>) -> &'static [Kind] {
    match detail {
        Detail::Exec { .. } => &[Kind::Exec],
        Detail::Sealed { .. } => &[Kind::Sealed],
        Detail::Refused { .. } => &[Kind::Refused],
        Detail::Access { .. } => &[Kind::Blocked, Kind::Audit],
        Detail::Rotated { .. } => &[Kind::Rotated],
        Detail::Exited { .. } => &[Kind::Exited],
        Detail::Connect { .. } => &[Kind::Connect],
        Detail::Accept { .. } => &[Kind::Accept],
        Detail::Close { .. } => &[Kind::Close],
        Detail::Syscall { .. } => &[Kind::Syscall],
        Detail::Agent { .. } => &[Kind::Agent],
        Detail::Dropped { .. } => &[Kind::Dropped],
    }
}

/// How many variants [`kinds_of`] has.
const DETAILS: usize = 12;

fn hosts(dst_name: Option<String>) -> Connection {
    Connection {
        protocol: Protocol::Tcp,
        between: Between::Hosts {
            src_ip: [10, 0, 0, 1].into(),
            src_port: 40_000,
            dst_ip: "2001:db8::1".parse().unwrap(),
            dst_port: 5432,
            dst_name,
        },
        netns: 4_026_531_840,
        direction: "outbound",
    }
}

fn processes(peer_pid: Option<u32>) -> Connection {
    Connection {
        protocol: Protocol::Unix,
        between: Between::Processes {
            path: "/run/db.sock".into(),
            peer_pid,
            inode: 77,
        },
        netns: 4_026_531_840,
        direction: "inbound",
    }
}

/// Each kind of details, with every field that may be left out, and without it: of programs with secrets.
fn of_sealing<'a>(
    origin: &'a Origin,
    unknown: &'a Origin,
    overrode: &'a [String],
) -> Vec<Detail<'a>> {
    vec![
        Detail::Exec { uid: 1000 },
        Detail::Sealed {
            uid: 1000,
            bindings: &["shop"],
            env: &["TOKEN"],
            files: &["TOKEN"],
            overrode,
            note: Some("a note"),
            held_us: 420,
        },
        Detail::Sealed {
            uid: 0,
            bindings: &["shop", "bank"],
            env: &[],
            files: &[],
            overrode: &[],
            note: None,
            held_us: 0,
        },
        Detail::Refused {
            binding: "shop",
            origin: origin.into(),
            reason: "a sentence",
            action: Action::Killed,
        },
        Detail::Refused {
            binding: "",
            origin: unknown.into(),
            reason: "a sentence",
            action: Action::Gone,
        },
        Detail::Access {
            access: "environ",
            target_pid: Some(5),
            target: "psql",
            binding: "shop",
            origin: origin.into(),
            uid: 0,
            verdict: "blocked",
        },
        Detail::Access {
            access: SECRET_FILE,
            target_pid: None,
            target: "TOKEN",
            binding: "",
            origin: unknown.into(),
            uid: 0,
            verdict: "audit",
        },
        Detail::Rotated {
            secrets: &["TOKEN"],
            files: &[],
            action: "signal",
        },
        Detail::Exited {
            code: Some(0),
            signal: None,
        },
        Detail::Exited {
            code: None,
            signal: Some(9),
        },
    ]
}

/// The same of what monitors see, and of the agent itself.
fn of_monitors(args: &Arguments) -> Vec<Detail<'_>> {
    vec![
        Detail::Connect {
            connection: hosts(Some("db.shop".into())),
            outcome: Outcome::Established,
        },
        Detail::Connect {
            connection: hosts(None),
            outcome: Outcome::TimedOut,
        },
        Detail::Accept {
            connection: processes(Some(12)),
        },
        Detail::Accept {
            connection: processes(None),
        },
        Detail::Close {
            connection: hosts(None),
            bytes_sent: Some(1),
            bytes_received: Some(2),
            duration_ns: 3,
            retransmits: Some(4),
        },
        Detail::Close {
            connection: processes(None),
            bytes_sent: None,
            bytes_received: None,
            duration_ns: 3,
            retransmits: None,
        },
        Detail::Syscall {
            syscall: "openat2",
            category: "file",
            abi: Some("i386"),
            args,
            ret: Some(-2),
            error: Some("ENOENT"),
            duration_ns: 7,
            uid: 0,
        },
        Detail::Syscall {
            syscall: "exit_group",
            category: "process",
            abi: None,
            args,
            ret: None,
            error: None,
            duration_ns: 0,
            uid: 0,
        },
        Detail::Agent {
            action: Lifecycle::Started,
            mode: "enforce",
            reason: None,
        },
        Detail::Agent {
            action: Lifecycle::GuardLost,
            mode: "audit",
            reason: Some("a sentence"),
        },
        Detail::Dropped {
            count: 1,
            lost_in: "kernel",
        },
    ]
}

#[test]
fn events_of_every_kind_are_as_they_were() {
    let container = Container {
        id: "4f".into(),
        pod_name: Some("shop-1".into()),
        pod_namespace: Some("shops".into()),
        name: Some("app".into()),
    };
    let origin = Origin {
        executable: Some("/usr/bin/cat".into()),
        parent: Some(Parent {
            pid: 1,
            process: "sh".into(),
        }),
    };
    let overrode = ["TOKEN".to_owned()];
    let fields = Arguments(vec![("flags", Argument::Text("O_RDONLY".into()))]);
    let args = Arguments(vec![
        ("dirfd", Argument::Number(-100)),
        ("pathname", Argument::Text("/etc/hosts".into())),
        ("how", Argument::Fields(fields)),
        ("size", Argument::Size(24)),
    ]);
    let unknown = Origin::default();
    let bare = Container {
        pod_name: None,
        pod_namespace: None,
        name: None,
        ..container.clone()
    };
    let mut containers = [Some(&container), None, Some(&bare)].into_iter().cycle();
    let (mut lines, mut seen) = (String::new(), BTreeSet::new());
    let mut details = of_sealing(&origin, &unknown, &overrode);
    details.extend(of_monitors(&args));
    for detail in details {
        let kinds = kinds_of(&detail);
        seen.insert(format!("{kinds:?}"));
        for kind in kinds {
            let who = Who {
                pid: 7,
                process: "cat",
                container: containers.next().flatten(),
                pod_uid: Some("not told"),
            };
            let event = Event {
                timestamp: "2026-01-02T03:04:05.000006Z".into(),
                node: "n",
                kind: *kind,
                who,
                detail: detail.clone(),
            };
            let line = serde_json::to_string(&event).unwrap();
            writeln!(lines, "{line}").unwrap();
        }
    }
    assert_eq!(seen.len(), DETAILS, "{seen:?}");
    assert_unchanged("events.jsonl", &lines);
}

#[test]
fn words_in_events_are_as_they_were() {
    let mut words = String::new();
    let mut add =
        |set: &str, all: Vec<String>| writeln!(words, "{set}: {}", all.join(" ")).unwrap();
    let names = |all: &[&str]| all.iter().map(|&name| name.to_owned()).collect();
    add(
        "reasons",
        Reason::ALL.iter().map(|r| r.name().into()).collect(),
    );
    add(
        "protocols",
        Protocol::ALL.iter().map(|p| p.name().into()).collect(),
    );
    add(
        "outcomes",
        Outcome::ALL.iter().map(|o| o.name().into()).collect(),
    );
    let mut accesses: Vec<_> = labels::ACCESSES.to_vec();
    accesses.sort_unstable();
    add("accesses", names(&accesses));
    let said = |value| serde_json::to_string(&value).unwrap();
    add(
        "actions",
        vec![
            said(Action::Killed),
            said(Action::Started),
            said(Action::Gone),
            said(Action::GoesOn),
            said(Action::KeptSeal),
        ],
    );
    let said = |value| serde_json::to_string(&value).unwrap();
    add(
        "lifecycle",
        vec![
            said(Lifecycle::Started),
            said(Lifecycle::Stopping),
            said(Lifecycle::ConfigReloaded),
            said(Lifecycle::ConfigRejected),
            said(Lifecycle::ModeChanged),
            said(Lifecycle::GuardLost),
            said(Lifecycle::GuardRestored),
        ],
    );
    assert_unchanged("words.txt", &words);
}

#[test]
fn metrics_with_their_labels_are_as_they_were() {
    let metrics = Metrics::new().unwrap();
    let text = "version: v1\nsecrets: [{name: shop, selector: {binary: shop}, secretRefs: [{name: X, source: {value: x}}]}]\n";
    metrics.add_bindings(&parse(text, Path::new("config.yaml")).unwrap());
    metrics.add_calls(["openat"]);
    metrics.traffic.begin_at_zero(Protocol::ALL.iter().copied());
    let (tcp, out) = (Protocol::Tcp, "outbound");
    let there = Some("db:5432");
    metrics.traffic.begun(tcp, out, Outcome::Established, there);
    metrics.traffic.ended(tcp, out, there, Some((0, 0)), 0);
    let ages = || vec![(["vault".to_owned(), "shop".to_owned()], 0.0)];
    metrics.ages(ages).unwrap();
    let text = metrics.text().unwrap();
    let mut found = String::new();
    for line in text.lines() {
        // (a value, and what this build is, are nobody's to rely on)
        let line = match line.rsplit_once(' ') {
            Some((series, _)) if !line.starts_with('#') => series,
            _ => line,
        };
        let line = line
            .replace(env!("CARGO_PKG_VERSION"), NOWHERE)
            .replace(std::env::consts::ARCH, NOWHERE);
        writeln!(found, "{line}").unwrap();
    }
    assert_unchanged("metrics.txt", &found);
}
