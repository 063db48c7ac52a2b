//! Unix sockets: who connects to which name, and who accepts there.

use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::idle::{Hook, Idle};
use kernelseal_integration::process;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
use serde_json::{Value, json};

use super::{READY, SOON, about_what, change, config, has, netns, one, watching};

pub(super) fn register(registry: Registry) -> Registry {
    registry
        .test("network::unix_sockets", beginning_to_end)
        .test("network::unix_sockets_that_are_refused", refused)
        .test("network::unix_sockets_by_another_name", by_another_name)
        .test(
            "network::unix_sockets_only_when_asked_for",
            only_when_asked_for,
        )
}

/// The events about a name, as they come: so many, and no more.
fn about(agent: &mut Agent, name: &str, count: usize) -> Result<Vec<Value>> {
    about_what(agent, name, count, |event| event["path"] == name)
}

/// Connects to ourselves, and closes both ends.
fn converse(listener: &UnixListener, to: &SocketAddr) -> Result<(u64, u64)> {
    let client = UnixStream::connect_addr(to)?;
    let (server, _) = listener.accept()?;
    Ok((inode(&client)?, inode(&server)?))
}

/// A socket's, as its descriptor shows it.
fn inode(stream: &UnixStream) -> Result<u64> {
    Ok(nix::sys::stat::fstat(stream)?.st_ino)
}

fn beginning_to_end() -> Result<()> {
    let folder = Scratch::new()?;
    let mut agent = watching(&json!({"protocols": ["unix"]}))?;
    let path = folder.path().join("socket");
    let text = path.to_string_lossy().into_owned();
    let names = [
        (SocketAddr::from_pathname(&path)?, text),
        (
            SocketAddr::from_abstract_name("kernelseal")?,
            "@kernelseal".into(),
        ),
    ];
    for (address, name) in names {
        let listener = UnixListener::bind_addr(&address)?;
        let (client, server) = converse(&listener, &address)?;
        let events = about(&mut agent, &name, 4)?;
        let who = json!({
            "protocol": "UNIX", "path": name, "netns": netns()?, "pid": std::process::id(),
            "process": "suite", "peer_pid": std::process::id(),
        });
        for event in &events {
            has(event, &who)?;
        }
        let outbound = json!({"inode": client});
        let connected = one(&events, "CONNECT", "outbound")?;
        has(connected, &outbound)?;
        has(connected, &json!({"outcome": "established"}))?;
        has(
            one(&events, "ACCEPT", "inbound")?,
            &json!({"inode": server}),
        )?;
        for (direction, inode) in [("outbound", client), ("inbound", server)] {
            let closed = one(&events, "CLOSE", direction)?;
            has(closed, &json!({"inode": inode}))?;
            ensure!(closed["duration_ns"].as_u64() > Some(0), "{closed}");
            ensure!(closed.get("bytes_sent").is_none(), "{closed}");
        }
    }
    // by another program, whose listener we are
    let listener = UnixListener::bind(folder.path().join("ours"))?;
    let name = folder.path().join("ours").to_string_lossy().into_owned();
    let script = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])";
    let mut python = process::spawn(Command::new("python3").args(["-c", script, &name]))?;
    let accepted = listener.accept()?;
    let pid = python.pid();
    python.wait(SOON)?;
    drop(accepted);
    let events = about(&mut agent, &name, 4)?;
    let ours = json!({"pid": std::process::id(), "peer_pid": pid});
    has(one(&events, "ACCEPT", "inbound")?, &ours)?;
    has(one(&events, "CLOSE", "inbound")?, &ours)?;
    let its = json!({"pid": pid, "process": "python3", "peer_pid": std::process::id()});
    has(one(&events, "CONNECT", "outbound")?, &its)?;
    has(one(&events, "CLOSE", "outbound")?, &its)
}

/// What a security module refuses is told of, and nothing after it; what does not come so far is not.
fn refused() -> Result<()> {
    let folder = Scratch::new()?;
    let mut agent = watching(&json!({"protocols": ["unix"]}))?;
    let at = |name: &str| folder.path().join(name);
    drop(UnixListener::bind(at("left"))?);
    ensure!(UnixStream::connect(at("left")).is_err());
    let _listener = UnixListener::bind(at("guarded"))?;
    let module = Idle::refusing(&[Hook::Lsm("unix_stream_connect")])?;
    let answer = UnixStream::connect(at("guarded"));
    drop(module);
    let refused = answer.is_err_and(|e| e.kind() == ErrorKind::PermissionDenied);
    ensure!(refused, "the module does not refuse it");
    let events = about(&mut agent, &at("guarded").to_string_lossy(), 1)?;
    let expected = json!({"type": "CONNECT", "direction": "outbound", "outcome": "denied"});
    has(&events[0], &expected)?;
    about(&mut agent, &at("left").to_string_lossy(), 0)?;
    Ok(())
}

/// By whatever name the listener is found, it is told by its own; sockets that keep messages apart connect like others.
fn by_another_name() -> Result<()> {
    let folder = Scratch::new()?;
    let mut agent = watching(&json!({"protocols": ["unix"]}))?;
    let path = folder.path().join("socket");
    let link = folder.path().join("link");
    symlink(&path, &link)?;
    let new = || socket(AddressFamily::UNIX, SocketType::SEQPACKET, None);
    let listener = new()?;
    bind(&listener, &SocketAddrUnix::new(&path)?)?;
    listen(&listener, 1)?;
    let client = new()?;
    connect(&client, &SocketAddrUnix::new(&link)?)?;
    // there is one already: an attempt that is none
    ensure!(connect(&client, &SocketAddrUnix::new(&path)?).is_err());
    drop(client);
    let events = about(&mut agent, &path.to_string_lossy(), 2)?;
    one(&events, "CONNECT", "outbound")?;
    one(&events, "CLOSE", "outbound")?;
    about(&mut agent, &link.to_string_lossy(), 0)?;
    Ok(())
}

/// Whether all is attached that is so for Unix sockets; by halves it must not be.
fn is_attached() -> Result<bool> {
    let probes = fs::read_to_string("/sys/kernel/debug/kprobes/list")?;
    let functions = [
        "unix_release",
        "security_sock_graft",
        "security_unix_stream_connect",
    ];
    let is_probed = functions.map(|function| probes.contains(function));
    ensure!(
        is_probed == [is_probed[0]; 3],
        "it is attached by halves: {probes}"
    );
    Ok(is_probed[0])
}

/// Connects there, and tells how it is named.
fn connect_to(listener: &UnixListener, path: &Path) -> Result<String> {
    converse(listener, &SocketAddr::from_pathname(path)?)?;
    Ok(path.to_string_lossy().into_owned())
}

fn only_when_asked_for() -> Result<()> {
    let folder = Scratch::new()?;
    let file = folder.file("config.yaml", config(&json!({})).to_string())?;
    let mut agent = Agent::start_with(Agent::command(&[]), &file)?.readied()?;
    agent.wait_for_log("the network monitor is on", READY)?;
    let path = folder.path().join("socket");
    let listener = UnixListener::bind(&path)?;
    let name = connect_to(&listener, &path)?;
    ensure!(!is_attached()?, "nobody asks for it");
    // twice: what was taken off is attached anew
    for round in 1..=2 {
        change(
            &mut agent,
            &file,
            &json!({"protocols": ["tcp", "unix"], "direction": "inbound", "ports": [443]}),
        )?;
        ensure!(is_attached()?);
        connect_to(&listener, &path)?;
        let events = about(&mut agent, &name, 2 * round)?;
        one(&events[2 * round - 2..], "ACCEPT", "inbound")?;
        one(&events[2 * round - 2..], "CLOSE", "inbound")?;
        change(&mut agent, &file, &json!({"protocols": ["tcp"]}))?;
        ensure!(!is_attached()?, "it stays attached");
        connect_to(&listener, &path)?;
    }
    about(&mut agent, &name, 4)?;
    Ok(())
}
