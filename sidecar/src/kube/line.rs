//! A client for one watch: it notes when the API said anything, and asks it neither too often nor
//! for longer than an answer may take.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use http::{Request, Response};
use http_body_util::{BodyExt as _, Either, Full, Limited};
use kube::{Client, client::Body};
use tokio::{
    sync::Mutex,
    time::{sleep, timeout},
};
use tower::{BoxError, service_fn};

use crate::util::RetryPolicy;

/// Bytes of an answer that is read as a whole. A Secret has 1 MiB at most; base64 and what else the
/// API keeps with it may make a few of that.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// How often, and for how long, the API is asked.
#[derive(Clone, Copy)]
pub(crate) struct PollPolicy {
    /// With an answer's first byte, and with all of a list.
    pub(crate) retry_policy: RetryPolicy,
    /// A watch ends after so long, and is begun anew: a dead connection is noticed by then.
    pub(crate) watch_for: Duration,
    /// From one request to the next. Watches that end at once are no reason to hammer the API.
    pub(crate) apart: Duration,
}

impl Default for PollPolicy {
    fn default() -> Self {
        Self {
            retry_policy: RetryPolicy::default(),
            watch_for: Duration::from_mins(2),
            apart: Duration::from_secs(1),
        }
    }
}

/// A client that calls `heard` whenever the API answers well, and with every piece of a watch.
pub(super) fn open(
    through: Client,
    poll_policy: PollPolicy,
    heard: impl Fn() + Clone + Send + Sync + 'static,
) -> Client {
    let namespace = through.default_namespace().to_owned();
    let last = Arc::new(Mutex::new(None));
    let service = service_fn(move |request: Request<Body>| {
        let (through, heard, last) = (through.clone(), heard.clone(), last.clone());
        async move {
            wait_for_turn(&last, poll_policy.apart).await;
            let answer_within = poll_policy.retry_policy.answer_within;
            let is_watch = request.uri().query().is_some_and(is_watch);
            let answer = timeout(answer_within, async {
                let answer = through.send(request).await?;
                let is_good = answer.status().is_success();
                let (parts, body) = answer.into_parts();
                let body = if is_watch && is_good {
                    let heard = heard.clone();
                    Either::Left(body.map_frame(move |frame| {
                        heard();
                        frame
                    }))
                } else {
                    let whole = Limited::new(body, LONGEST_ANSWER).collect().await?;
                    Either::Right(Full::new(whole.to_bytes()))
                };
                if is_good {
                    heard();
                }
                Ok::<_, BoxError>(Response::from_parts(parts, body))
            });
            answer
                .await
                .map_err(|_| BoxError::from(format!("no answer within {answer_within:?}")))?
        }
    });
    Client::new(service, namespace)
}

async fn wait_for_turn(last: &Mutex<Option<Instant>>, apart: Duration) {
    let mut last = last.lock().await;
    if let Some(last) = *last {
        sleep(apart.saturating_sub(last.elapsed())).await;
    }
    *last = Some(Instant::now());
}

fn is_watch(query: &str) -> bool {
    query.split('&').any(|part| part == "watch=true")
}
