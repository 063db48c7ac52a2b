//! Connections of a guest to a port of this machine's loopback: for each, QEMU runs [`run`] with the guest's end as its
//! standard input.

use std::io;
use std::net::{Ipv4Addr, Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::thread;

use anyhow::{Context, Result};

/// One between a guest, which is this process's standard input, and that port of this machine's.
pub fn run(port: u16) -> Result<()> {
    // A connection over loopback, as libslirp's `fork_exec` makes it, for both directions.
    let guest = TcpStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let server = TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("connect to this machine's port {port} for a guest"))?;
    pass_on(&guest, &server).context("pass on to the guest")
}

/// Passes on what both say, until the server has said all.
pub fn pass_on(client: &TcpStream, server: &TcpStream) -> Result<()> {
    server.set_nodelay(true)?;
    let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || {
        // A client that is gone has said all; a server that is gone is seen below.
        let _ = io::copy(&mut asking, &mut asked);
        let _ = asked.shutdown(Shutdown::Write);
    });
    io::copy(&mut &*server, &mut &*client)?;
    // (the thread keeps it open; a client that is gone has closed it)
    let _ = client.shutdown(Shutdown::Both);
    Ok(())
}
