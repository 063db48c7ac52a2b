//! `/metrics`, `/healthz` and `/ready`, served by a process of its own that holds no secret: whoever reaches the port reaches
//! that one. It asks the agent for each answer by a letter, over a socket that only the two have, and is started again when it
//! is gone.

mod server;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{net::UnixStream as Socket, process::CommandExt as _},
    },
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpSocket, UnixStream},
    task::JoinHandle,
    time::{Instant, sleep},
};

pub(crate) use self::server::run;
use super::Metrics;
use crate::limits;

/// The hidden command by which the agent starts it.
pub(crate) const COMMAND: &str = "http";
/// How soon a port that is taken is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// How soon one that ended is started again, at first and after many.
const START_AGAIN: Duration = Duration::from_millis(500);
const START_AGAIN_LATER: Duration = Duration::from_secs(30);
/// One that lived as long was no failure.
const LIVED: Duration = Duration::from_mins(1);
/// The longest answer, in bytes.
const LONGEST: usize = 16 * 1024 * 1024;

/// What is asked, as a letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Question {
    Metrics = b'm',
    Health = b'h',
    Ready = b'r',
}

/// How many of them there are.
const QUESTIONS: usize = 3;

impl Question {
    fn index(self) -> usize {
        match self {
            Self::Metrics => 0,
            Self::Health => 1,
            Self::Ready => 2,
        }
    }

    fn of(letter: u8) -> Option<Self> {
        [Self::Metrics, Self::Health, Self::Ready]
            .into_iter()
            .find(|question| *question as u8 == letter)
    }
}

/// What the agent says to that: an HTTP status and a text.
type Answer = (u16, String);

/// What answers are made of. The notes, as they are then, follow on lines of their own where all is ready.
pub(crate) struct Answers {
    pub(crate) metrics: Metrics,
    pub(crate) ready: Arc<AtomicBool>,
    pub(crate) notes: Box<dyn Fn() -> Vec<String> + Send + Sync>,
}

impl Answers {
    fn answer(&self, question: Question) -> Answer {
        match question {
            Question::Health => (200, "ok\n".into()),
            Question::Metrics => match self.metrics.text() {
                Ok(text) if text.len() > LONGEST => (500, "too many metrics\n".into()),
                Ok(text) => (200, text),
                Err(e) => (500, e.to_string()),
            },
            Question::Ready if self.ready.load(Ordering::Relaxed) => {
                let lines = [vec!["ready".into()], (self.notes)()].concat();
                (200, lines.join("\n") + "\n")
            }
            Question::Ready => (
                503,
                "not everything the policy asks for is attached\n".into(),
            ),
        }
    }
}

/// Serves from when it is begun until it is dropped.
pub(crate) struct Server {
    port: u16,
    listener: Option<TcpListener>,
    answers: Arc<Answers>,
    task: Option<JoinHandle<()>>,
}

impl Server {
    /// Takes the port, if it is free: whoever asks waits from here on. One that is taken is no reason not to seal.
    pub(crate) fn new(port: u16, answers: Answers) -> Self {
        let listener = listen_in_little_room(port);
        if let Err(e) = &listener {
            tell_of_port(port, e);
        }
        Self {
            port,
            listener: listener.ok(),
            answers: Arc::new(answers),
            task: None,
        }
    }

    /// Starts the process that serves. As a child of the scope's agent it is guarded like one.
    pub(crate) fn begin(&mut self) {
        if self.task.is_none() {
            let served = serve(self.port, self.listener.take(), self.answers.clone());
            self.task = Some(tokio::spawn(served));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

fn tell_of_port(port: u16, e: &io::Error) {
    tracing::warn!(
        "monitoring.metricsPort {port}: {e}. Nothing answers there until it is free; it is tried again and again"
    );
}

async fn serve(port: u16, listener: Option<TcpListener>, answers: Arc<Answers>) {
    let listener = match listener {
        Some(listener) => listener,
        None => take_port(port).await,
    };
    let mut pause = START_AGAIN;
    loop {
        let begun = Instant::now();
        let ended = match Helper::start(&listener) {
            Ok((_helper, socket)) => attend(socket, &answers).await,
            Err(e) => Err(e),
        };
        if begun.elapsed() > LIVED {
            pause = START_AGAIN;
        }
        let why = ended.err().map_or("it ended".into(), |e| e.to_string());
        tracing::warn!("what serves /metrics and /ready is started again in {pause:?}: {why}");
        sleep(pause).await;
        pause = (pause * 2).min(START_AGAIN_LATER);
    }
}

async fn take_port(port: u16) -> TcpListener {
    loop {
        sleep(TRY_AGAIN).await;
        if let Ok(listener) = listen_in_little_room(port) {
            tracing::info!("monitoring.metricsPort {port} is free by now");
            return listener;
        }
    }
}

/// Answers until the other side is gone.
async fn attend(socket: UnixStream, answers: &Answers) -> io::Result<()> {
    let (mut asked, mut told) = socket.into_split();
    loop {
        let letter = match asked.read_u8().await {
            Ok(letter) => letter,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(e) => return Err(e),
        };
        let question =
            Question::of(letter).ok_or_else(|| io::Error::other("it asks for nothing we know"))?;
        let (status, text) = answers.answer(question);
        let length = u32::try_from(text.len()).map_err(io::Error::other)?;
        told.write_u16(status).await?;
        told.write_u32(length).await?;
        told.write_all(text.as_bytes()).await?;
    }
}

/// The process that serves, ended when this is dropped.
struct Helper(Child);

impl Helper {
    fn start(listener: &TcpListener) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = Socket::pair()?;
        ours.set_nonblocking(true)?;
        let ours = UnixStream::from_std(ours)?;
        let listener: OwnedFd = listener.as_fd().try_clone_to_owned()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(COMMAND)
            // the agent's variables may hold secrets
            .env_clear()
            // what is typed at a terminal is for the agent
            .process_group(0)
            .stdin(Stdio::from(listener))
            .stdout(Stdio::from(OwnedFd::from(theirs)));
        // It ends when its agent does. What is meant for all of a service's processes would end it too early. (A child inherits
        // what is blocked.)
        let blocked = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM];
        let blocked: SigSet = blocked.into_iter().collect();
        let before = blocked.thread_swap_mask(SigmaskHow::SIG_BLOCK)?;
        let child = command.spawn();
        before.thread_set_mask()?;
        let helper = Self(child?);
        limits::restore(&helper.0);
        Ok((helper, ours))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// On every address. A pod may have none but IPv6, a machine none but IPv4.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await
        }
        both => both,
    }
}

/// The same, with little room in the kernel for what is sent and not read: it counts as our memory.
fn listen_in_little_room(port: u16) -> io::Result<TcpListener> {
    const SENT: u32 = 64 * 1024;
    const RECEIVED: u32 = 8 * 1024;
    const WAITING: u32 = 128;
    let bound = |socket: io::Result<TcpSocket>, address: IpAddr| {
        let socket = socket?;
        socket.set_reuseaddr(true)?;
        socket.set_send_buffer_size(SENT)?;
        socket.set_recv_buffer_size(RECEIVED)?;
        socket.bind((address, port).into())?;
        socket.listen(WAITING)
    };
    match bound(TcpSocket::new_v6(), Ipv6Addr::UNSPECIFIED.into()) {
        Err(e) if e.kind() != io::ErrorKind::AddrInUse => {
            bound(TcpSocket::new_v4(), Ipv4Addr::UNSPECIFIED.into())
        }
        both => both,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener as Plain, TcpStream};

    use super::*;

    fn listening(port: u16) -> io::Result<TcpListener> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(listen(port))
    }

    #[test]
    fn every_family_the_machine_has_is_answered() {
        both_families(&listening(0).unwrap());
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let _within = runtime.enter();
        both_families(&listen_in_little_room(0).unwrap());
    }

    fn both_families(listener: &TcpListener) {
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        if Plain::bind((Ipv6Addr::LOCALHOST, 0)).is_ok() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        }
    }

    #[test]
    fn a_port_that_one_family_has_taken_is_taken() {
        let taken = Plain::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = listening(port).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
