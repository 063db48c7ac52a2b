//! Writes what this node says of objects into their status: what is new of it, and again until it is there.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backon::BackoffBuilder as _;
use tokio::{sync::watch, time::sleep};

use crate::{
    kube::{AskingObject, Fault, NodeStatus, StatusPen},
    util::RetryPolicy,
};

/// What is to be said of an object; nothing, if this node does not heed objects any more.
pub(super) struct Report {
    pub(super) object: AskingObject,
    pub(super) said: Option<NodeStatus>,
}

/// What is to be said now.
pub(super) type Reports = Arc<Vec<Report>>;

/// For as long as there may be more to say.
pub(super) async fn write(
    pen: StatusPen,
    node: String,
    retry_policy: RetryPolicy,
    mut reports: watch::Receiver<Reports>,
) {
    let mut written = HashMap::new();
    let mut waits = retry_policy.retries().build();
    let mut trouble = None;
    loop {
        let due = reports.borrow_and_update().clone();
        written.retain(|uid, _| due.iter().any(|report| report.object.uid == *uid));
        let failed = write_all(&pen, &node, &due, &mut written).await;
        let why = failed.map(|fault| fault.tell_of_status());
        if why != trouble {
            if let Some(why) = &why {
                tracing::warn!("the status of SyscallMonitor objects: {why}");
            } else {
                tracing::info!("the status of SyscallMonitor objects is written again");
            }
        }
        if why.is_some() {
            sleep(waits.next().unwrap_or(Duration::from_secs(1))).await;
        } else {
            waits = retry_policy.retries().build();
            if reports.changed().await.is_err() {
                return;
            }
        }
        trouble = why;
    }
}

/// Writes what is not there; what kept one of them from it.
async fn write_all(
    pen: &StatusPen,
    node: &str,
    due: &[Report],
    written: &mut HashMap<String, Option<NodeStatus>>,
) -> Option<Fault> {
    let mut failed = None;
    for Report { object, said } in due {
        let uid = object.uid.clone();
        let there = written.entry(uid).or_insert_with(|| object.status_of(node));
        if there == said {
            continue;
        }
        match pen.write(object, said.as_ref()).await {
            Ok(()) => said.clone_into(there),
            Err(fault) => failed = Some(fault),
        }
    }
    failed
}
