//! One request to Vault, on a connection of its own: nothing of an answer stays in a connection's buffers,
//! and neither its time nor its size is the server's choice.

use std::{fmt::Write as _, pin::pin};

use http::{HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use secrecy::zeroize::Zeroizing;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{
    PollPolicy,
    fault::Fault,
    trust::{Trust, TrustError},
};
use crate::config::{Address, Vault};

/// Bytes of an answer. Vault's own limit for an entry is 1 MiB; JSON may make a few of that.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// Where requests go.
pub(super) struct HttpTransport {
    address: Address,
    /// `None`: to this machine, without TLS.
    trust: Option<Trust>,
    namespace: Option<HeaderValue>,
    poll_policy: PollPolicy,
}

/// What came back. Has no `Debug`: it may hold a secret.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Zeroizing<Vec<u8>>,
}

impl HttpTransport {
    pub(super) fn new(config: &Vault, poll_policy: PollPolicy) -> Result<Self, TrustError> {
        let Vault {
            address, ca_file, ..
        } = config;
        let trust = address
            .is_tls
            .then(|| Trust::new(ca_file.clone(), &address.host))
            .transpose()?;
        let namespace = config
            .namespace
            .as_deref()
            .map(|name| HeaderValue::from_bytes(name.as_bytes()))
            .transpose()
            .map_err(|_| TrustError::Namespace)?;
        Ok(Self {
            address: address.clone(),
            trust,
            namespace,
            poll_policy,
        })
    }

    pub(super) async fn get(&self, path: &str, token: &HeaderValue) -> Result<Answer, Fault> {
        self.send(Method::GET, path, Some(token), Bytes::new())
            .await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        token: Option<&HeaderValue>,
        body: Zeroizing<Vec<u8>>,
    ) -> Result<Answer, Fault> {
        let body = Bytes::from_owner(body);
        self.send(Method::POST, path, token, body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&HeaderValue>,
        body: Bytes,
    ) -> Result<Answer, Fault> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("/v1/{}", escaped(path)))
            .header(header::HOST, self.address.authority())
            .header(header::CONNECTION, "close")
            // What Vault's agent and proxies may ask for, against requests that a browser was made to send.
            .header("X-Vault-Request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("X-Vault-Namespace", namespace);
        }
        if let Some(token) = token {
            request = request.header("X-Vault-Token", token);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|_| Fault::Unreachable("the address or a path is not one of HTTP".into()))?;
        let longest = self.poll_policy.retry_policy.answer_within;
        timeout(longest, self.exchange(request))
            .await
            .map_err(|_| Fault::Unreachable(format!("no answer within {longest:?}")))?
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Answer, Fault> {
        let Address { host, port, .. } = &self.address;
        let tcp = TcpStream::connect((host.as_str(), *port)).await;
        let tcp = tcp.map_err(|e| Fault::Unreachable(e.to_string()))?;
        let Some(trust) = &self.trust else {
            let is_near = tcp.peer_addr().is_ok_and(|peer| peer.ip().is_loopback());
            if !is_near {
                let why = format!("{} is not this machine; write https://", self.address.host);
                return Err(Fault::Unreachable(why));
            }
            return over(tcp, request).await;
        };
        let connector = TlsConnector::from(trust.config());
        match connector.connect(trust.name(), tcp).await {
            Ok(stream) => over(stream, request).await,
            Err(e) => {
                trust.read_again();
                Err(Fault::Unreachable(e.to_string()))
            }
        }
    }
}

/// One request and its answer.
async fn over(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Full<Bytes>>,
) -> Result<Answer, Fault> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(of)?;
    let exchange = async move {
        let answer = sender.send_request(request).await.map_err(of)?;
        Ok(Answer {
            status: answer.status().as_u16(),
            body: whole(answer.into_body()).await?,
        })
    };
    let mut exchange = pin!(exchange);
    tokio::select! {
        answer = &mut exchange => answer,
        // (what has come before its end is still to be read, and why it ended is told there)
        _ = connection => exchange.await,
    }
}

async fn whole(mut body: Incoming) -> Result<Zeroizing<Vec<u8>>, Fault> {
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(of)?.into_data() {
            if bytes.len() + data.len() > LONGEST_ANSWER {
                return Err(Fault::TooLong(LONGEST_ANSWER));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// What HTTP says of itself names no byte of an answer.
#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn of(error: hyper::Error) -> Fault {
    if error.is_parse() {
        Fault::Malformed
    } else {
        Fault::Unreachable(error.to_string())
    }
}

/// A path as a URL has it. What would be taken for something else is refused in a configuration.
fn escaped(path: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/!$&'()*+,;=:@".contains(&byte);
    let mut text = String::with_capacity(path.len());
    for byte in path.bytes() {
        if is_plain(byte) {
            text.push(char::from(byte));
        } else {
            // (writing to text does not fail)
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_of_a_url() {
        assert_eq!(escaped("secret/data/a b/ü"), "secret/data/a%20b/%C3%BC");
        assert_eq!(escaped("a-b_c.d~/0@x:y"), "a-b_c.d~/0@x:y");
    }
}
