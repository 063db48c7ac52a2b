//! What becomes of notices: Kubernetes Events on pods, where this agent may speak to an API. Nobody waits for them, and a call
//! that fails is a line of the log.

use std::{
    future,
    time::{Duration, Instant},
};

use tokio::{sync::mpsc::Receiver, time::sleep};

use super::own_pod;
use crate::{
    kube::{Cluster, Digest, EventPen, Fault, PollPolicy},
    observe::{Journal, Notice, Notices, Topic, node_in_kubernetes},
    process::{Pod, PodRef},
};

/// After a refusal of the API's, before it is tried again.
const AFTER_A_REFUSAL: Duration = Duration::from_mins(10);

/// Has `journal`, and its clones from here on, tell Kubernetes too, if there is somebody to tell. Needs a runtime.
pub(super) fn begin(journal: &mut Journal) {
    if !Cluster::is_named() {
        return;
    }
    let (notices, taken) = Notices::new();
    journal.tell_too(notices.clone());
    tokio::spawn(async move {
        let reporter = Reporter {
            notices,
            taken,
            digest: Digest::default(),
            own: Pod::of_agent().reference(),
            is_sidecar: own_pod().is_some(),
            pen: None,
            last: None,
            not_before: None,
        };
        reporter.run().await;
    });
}

struct Reporter {
    notices: Notices,
    taken: Receiver<Notice>,
    digest: Digest,
    /// The agent's own pod.
    own: Option<PodRef>,
    /// Whether that is the pod of all that we see.
    is_sidecar: bool,
    /// Made when there is something to tell: most agents never have.
    pen: Option<EventPen>,
    /// What the API said last, if it did not take an event.
    last: Option<Fault>,
    /// Nothing is told before.
    not_before: Option<Instant>,
}

impl Reporter {
    async fn run(mut self) {
        loop {
            let wait = self.digest.wait(Instant::now());
            let is_due = async {
                match wait {
                    Some(wait) => sleep(wait).await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                notice = self.taken.recv() => match notice {
                    Some(notice) => self.take(notice),
                    None => return,
                },
                () = is_due => {}
            }
            while let Ok(notice) = self.taken.try_recv() {
                self.take(notice);
            }
            let lost = self.notices.take_lost();
            if lost > 0 {
                tracing::info!(
                    "{lost} refusals were not reported as Kubernetes Events: there were too many"
                );
            }
            // (one at a time: what comes meanwhile is counted with the others)
            if let Some(event) = self.digest.next(Instant::now()) {
                let told = self.tell(&event).await;
                self.note(told);
            }
        }
    }

    fn take(&mut self, notice: Notice) {
        let is_own = self.is_sidecar || notice.topic != Topic::Refused;
        let own = || self.own.clone().filter(|_| is_own);
        // Of a program of no pod there is nothing in Kubernetes to tell it of.
        if let Some(pod) = notice.pod.clone().or_else(own)
            && !self.digest.take(pod, notice, Instant::now())
        {
            tracing::debug!("too many pods have events to be told");
        }
    }

    async fn tell(&mut self, event: &crate::kube::PodEvent) -> Result<(), Fault> {
        if self.not_before.is_some_and(|then| Instant::now() < then) {
            return Ok(());
        }
        let pen = match &self.pen {
            Some(pen) => pen,
            None => self.pen.insert(pen().await?),
        };
        pen.write(event).await
    }

    fn note(&mut self, told: Result<(), Fault>) {
        let fault = told.err();
        if let Some(fault) = &fault {
            if fault.is_final() {
                self.not_before = Some(Instant::now() + AFTER_A_REFUSAL);
            }
            if self.last.as_ref() != Some(fault) {
                tracing::warn!(
                    "no Kubernetes Event was created: {}",
                    fault.tell_of_pod_events()
                );
            }
            self.last = Some(fault.clone());
        } else if self.not_before.is_none_or(|then| then <= Instant::now()) {
            (self.last, self.not_before) = (None, None);
        }
    }
}

async fn pen() -> Result<EventPen, Fault> {
    let credentials = |e: crate::kube::ClusterError| Fault::Credentials(e.to_string());
    let cluster = Cluster::find().await.map_err(credentials)?;
    let cluster = cluster.ok_or_else(|| Fault::Credentials("they are gone".into()))?;
    let client = cluster.client().map_err(credentials)?;
    let node = node_in_kubernetes().unwrap_or_else(|| "kernelseal".into());
    Ok(EventPen::of_node(client, &node, PollPolicy::default()))
}
