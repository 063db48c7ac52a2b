//! The process that serves: a listener is its standard input, the agent its standard output. It knows nothing but what the
//! agent says, and may do nothing but answer.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::{IpAddr, TcpListener as Plain},
    os::{fd::AsFd as _, unix::net::UnixStream as Socket},
    sync::{Arc, Mutex as StdMutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::{AbortHandle, Abortable};
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{
    body::{Bytes, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{LONGEST, QUESTIONS, Question};

/// The text format's media type.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";
/// Nobody's number, as every Linux has it.
const NOBODY: u32 = 65_534;

/// What one who asks may take.
#[derive(Clone, Copy)]
struct Limits {
    /// Connections at a time.
    connections: usize,
    /// The same from one address.
    of_a_peer: usize,
    /// Bytes of a request's head.
    head: usize,
    /// Fields in it.
    fields: usize,
    /// For a whole head, from the connection's beginning.
    head_within: Duration,
    /// For a connection in all. (There is one request in each.)
    connection_within: Duration,
    /// For the agent to answer.
    answer_within: Duration,
    /// From one question of a kind to the next: who asks meanwhile has the same answer.
    apart: Duration,
}

const LIMITS: Limits = Limits {
    connections: 64,
    of_a_peer: 16,
    head: 8 * 1024,
    fields: 64,
    head_within: Duration::from_secs(5),
    connection_within: Duration::from_secs(20),
    answer_within: Duration::from_secs(8),
    apart: Duration::from_millis(100),
};

/// `kernelseal http`: until the agent is gone.
pub(crate) fn run() -> anyhow::Result<()> {
    let owned = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned();
    let listener = Plain::from(owned(io::stdin().as_fd())?);
    let agent = Socket::from(owned(io::stdout().as_fd())?);
    give_up_privileges().context("give up what is not needed")?;
    listener.set_nonblocking(true)?;
    agent.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(async {
            let listener = TcpListener::from_std(listener)?;
            let (agent, gone) = Agent::new(UnixStream::from_std(agent)?, LIMITS);
            tokio::select! {
                () = serve(listener, agent) => Ok(()),
                gone = gone => Ok(gone?),
            }
        })
}

/// Another user, where we may be one; no capability in any case.
fn give_up_privileges() -> io::Result<()> {
    set_no_new_privs(true)?;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    // (a sidecar has no CAP_SETUID)
    let _ = setgroups(&[])
        .and_then(|()| setgid(group))
        .and_then(|()| setuid(user));
    let none = CapabilitySet::empty();
    let none = CapabilitySets {
        effective: none,
        permitted: none,
        inheritable: none,
    };
    Ok(set_capabilities(None, none)?)
}

/// What the agent says.
type Answer = (StatusCode, Bytes);
/// A question on its way, and who waits for the answer.
type Asked = (Question, oneshot::Sender<Answer>);

/// The agent, as we see it.
struct Agent {
    questions: mpsc::Sender<Asked>,
    /// What it said last to each, and when it was asked.
    said: [Mutex<Option<(Instant, Answer)>>; QUESTIONS],
    limits: Limits,
}

impl Agent {
    /// The future ends when the agent is gone.
    fn new(
        socket: UnixStream,
        limits: Limits,
    ) -> (Arc<Self>, impl Future<Output = io::Result<()>>) {
        let (questions, asked) = mpsc::channel(QUESTIONS);
        let agent = Self {
            questions,
            said: Default::default(),
            limits,
        };
        (Arc::new(agent), hand_on(socket, asked))
    }

    /// Answers a question. Requests that wait at the same time share one answer, if it was asked for after they came.
    async fn answer(&self, question: Question) -> Option<Answer> {
        let came = Instant::now();
        let mut said = self.said.get(question.index())?.lock().await;
        if let Some((asked, answer)) = said.as_ref() {
            if *asked >= came {
                return Some(answer.clone());
            }
            sleep_until(*asked + self.limits.apart).await;
        }
        let asked = Instant::now();
        let (told, hears) = oneshot::channel();
        self.questions.send((question, told)).await.ok()?;
        let answer = hears.await.ok()?;
        *said = Some((asked, answer.clone()));
        Some(answer)
    }
}

/// Hands on one question after the other, to their ends: an asker who does not wait any more leaves nothing half-read.
async fn hand_on(socket: UnixStream, mut asked: mpsc::Receiver<Asked>) -> io::Result<()> {
    let (mut hears, mut says) = socket.into_split();
    loop {
        let mut nothing = [0];
        let (question, told) = tokio::select! {
            Some(asked) = asked.recv() => asked,
            read = hears.read(&mut nothing) => return read.map(drop),
        };
        says.write_u8(question as u8).await?;
        let status = StatusCode::from_u16(hears.read_u16().await?).map_err(io::Error::other)?;
        let length = hears.read_u32().await? as usize;
        if length > LONGEST {
            return Err(io::Error::other("an answer is too long"));
        }
        let mut text = vec![0; length];
        hears.read_exact(&mut text).await?;
        // (nobody may wait for it any more)
        let _ = told.send((status, text.into()));
    }
}

/// Connections that are open.
#[derive(Default)]
struct Open {
    last: u64,
    connections: BTreeMap<u64, Connection>,
}

struct Connection {
    peer: IpAddr,
    /// Its request is whole, and is being answered.
    is_asked: bool,
    end: AbortHandle,
}

impl Open {
    /// Makes room for one of that peer: where there are too many, the oldest goes that has not asked for anything. False where
    /// all have.
    fn make_room(&mut self, peer: IpAddr, limits: Limits) -> bool {
        let all = self.connections.values();
        let of_peer = all.filter(|connection| connection.peer == peer).count();
        let is_full = self.connections.len() >= limits.connections;
        if !is_full && of_peer < limits.of_a_peer {
            return true;
        }
        let is_its = of_peer >= limits.of_a_peer;
        let mut old = self.connections.iter();
        let idle = old.find(|(_, one)| !one.is_asked && (!is_its || one.peer == peer));
        let Some(idle) = idle.map(|(number, _)| *number) else {
            return false;
        };
        if let Some(gone) = self.connections.remove(&idle) {
            gone.end.abort();
        }
        true
    }
}

fn locked(open: &StdMutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes connections for ever.
async fn serve(listener: TcpListener, agent: Arc<Agent>) {
    /// Where there are no descriptors, for one.
    const PAUSE: Duration = Duration::from_millis(100);
    let open: Arc<StdMutex<Open>> = Arc::default();
    loop {
        let Ok((stream, from)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        let peer = from.ip().to_canonical();
        let (end, aborted) = AbortHandle::new_pair();
        let number = {
            let mut open = locked(&open);
            if !open.make_room(peer, agent.limits) {
                continue;
            }
            open.last += 1;
            let connection = Connection {
                peer,
                is_asked: false,
                end,
            };
            let number = open.last;
            open.connections.insert(number, connection);
            number
        };
        let (open, agent) = (open.clone(), agent.clone());
        let within = agent.limits.connection_within;
        let conversation = converse(stream, number, open.clone(), agent);
        tokio::spawn(async move {
            let _ = timeout(within, Abortable::new(conversation, aborted)).await;
            locked(&open).connections.remove(&number);
        });
    }
}

/// One request, one answer.
async fn converse(stream: TcpStream, number: u64, open: Arc<StdMutex<Open>>, agent: Arc<Agent>) {
    let limits = agent.limits;
    let service = service_fn(|request| {
        if let Some(connection) = locked(&open).connections.get_mut(&number) {
            connection.is_asked = true;
        }
        let agent = agent.clone();
        async move { Ok::<_, Infallible>(respond(&request, &agent).await) }
    });
    // (who sends no whole head hears nothing, or 431 or 408)
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_within)
        .max_buf_size(limits.head)
        .max_headers(limits.fields)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn respond(request: &Request<Incoming>, agent: &Agent) -> Response<Full<Bytes>> {
    let question = match request.uri().path() {
        "/metrics" => Question::Metrics,
        "/healthz" => Question::Health,
        "/ready" => Question::Ready,
        _ => return response(StatusCode::NOT_FOUND, PLAIN, Bytes::new()),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, Bytes::new());
        let allowed = HeaderValue::from_static("GET,HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let answer = timeout(agent.limits.answer_within, agent.answer(question)).await;
    let Ok(Some((status, text))) = answer else {
        let silent = Bytes::from_static(b"the agent does not answer\n");
        return response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, silent);
    };
    let kind = match question {
        Question::Metrics => TEXT_FORMAT,
        Question::Health | Question::Ready => PLAIN,
    };
    response(status, kind, text)
}

fn response(status: StatusCode, kind: &'static str, text: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text));
    *response.status_mut() = status;
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests;
