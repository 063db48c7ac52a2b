//! The node's way to the control plane, which is not in the guest: what pods send to the API's address goes to the machine
//! that emulates the node.

use std::env;
use std::fs;
use std::net::{SocketAddrV4, TcpListener, TcpStream};
use std::thread;

use anyhow::{Context, Result};
use kernelseal_integration::guest::{protocol::HOST, relay};

/// The file with the certificate that the server's clients trust.
const AUTHORITY: &str = "KERNELSEAL_API_AUTHORITY";
/// The port of [`HOST`] where the server is.
const PORT: &str = "KERNELSEAL_API_PORT";

/// Leads from an address of this node's to the API server, and gives the certificate to trust.
pub fn lead_to(address: SocketAddrV4) -> Result<String> {
    let given = |name: &str| {
        env::var(name).with_context(|| {
            format!("{name} is not set: run `make guest-kubelet`, which starts an API server and tells the guest of it")
        })
    };
    let port: u16 = given(PORT)?.parse().context(PORT)?;
    let path = given(AUTHORITY)?;
    let authority = fs::read_to_string(&path).with_context(|| path)?;
    let listener = TcpListener::bind(address).with_context(|| address.to_string())?;
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // (whoever fails has closed it, which the other sees)
            thread::spawn(move || relay::pass_on(&connection, &TcpStream::connect((HOST, port))?));
        }
    });
    Ok(authority)
}
