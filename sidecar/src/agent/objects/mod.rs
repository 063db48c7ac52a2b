//! Objects of the cluster that ask for system calls, for an agent that answers for a node: heard of, heeded beside the
//! configuration, and told in their status what came of it.

mod report;
mod store;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ::kube::Client;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use self::{
    report::{Report, Reports},
    store::{Evaluated, Store},
};
use super::{neighbours::Neighbours, own_cgroup};
use crate::{
    config::{Config, Syscalls},
    kube::{Fault, ObjectKind, ObjectNews, PollPolicy, StatusPen, watch_objects},
    monitor::{Attached, Monitors, Subscription},
    util::RetryPolicy,
};

/// From one request to the next: lists come in pages.
const APART: Duration = Duration::from_millis(250);
/// A definition that is not there is looked for again after so long, at most: every node does.
const LOOK_AGAIN: Duration = Duration::from_secs(45);
/// What could not be attached is tried again after so long.
const TRY_AGAIN: Duration = Duration::from_secs(15);

/// See the module.
pub(super) struct SyscallMonitorController {
    /// Whom to ask, and for which node.
    asked: Option<(Client, String)>,
    heard: Heard,
    news: watch::Receiver<()>,
    /// Those who listen, while objects are heeded.
    listening: Option<JoinSet<()>>,
    reports: watch::Sender<Reports>,
    /// What was logged of each object that something is wrong with, by its uid.
    told: HashMap<String, String>,
    /// What keeps the monitor from all of it.
    trouble: Option<String>,
    try_again: Option<Instant>,
}

/// What was heard. Clones hear the same.
#[derive(Clone, Default)]
struct Heard {
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<()>,
    trouble: Arc<Mutex<HashMap<ObjectKind, String>>>,
}

impl SyscallMonitorController {
    /// Those that the node's agent can ask for. Asks nobody yet.
    pub(super) fn of(neighbours: Option<&Neighbours>) -> Self {
        let heard = Heard::default();
        Self {
            asked: neighbours.map(Neighbours::line),
            news: heard.changed.subscribe(),
            heard,
            listening: None,
            reports: watch::Sender::default(),
            told: HashMap::new(),
            trouble: None,
            try_again: None,
        }
    }

    /// Listens from here on, or no longer, as the configuration says.
    fn listen(&mut self, config: &Syscalls) {
        let Some((client, node)) = &self.asked else {
            return;
        };
        if !config.objects {
            if self.listening.take().is_some() {
                self.heard = Heard::default();
                self.news = self.heard.changed.subscribe();
                self.say_nothing();
            }
            return;
        }
        if self.listening.is_some() {
            return;
        }
        let retry_policy = RetryPolicy {
            retry_after_many: LOOK_AGAIN,
            ..RetryPolicy::default()
        };
        let poll_policy = PollPolicy {
            retry_policy,
            apart: APART,
            ..PollPolicy::default()
        };
        let mut listening = JoinSet::new();
        for kind in ObjectKind::ALL {
            listening.spawn(listen(
                client.clone(),
                kind,
                poll_policy,
                self.heard.clone(),
            ));
        }
        self.listening = Some(listening);
        if self.reports.receiver_count() == 0 {
            let pen = StatusPen::of_node(client.clone(), node, poll_policy);
            let reports = self.reports.subscribe();
            tokio::spawn(report::write(pen, node.clone(), retry_policy, reports));
        }
    }

    /// Waits until others are there than were heeded, or what failed is to be tried again.
    pub(super) async fn change(&mut self) {
        let again = async {
            match self.try_again {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = self.news.changed() => {}
            () = again => {}
        }
    }

    /// Has the monitor do what they ask for, beside the configuration. What it cannot do is told, and tried again.
    pub(super) async fn heed(&mut self, monitors: &mut Monitors, config: &Syscalls) {
        let evaluated = self.evaluate(config);
        let subscriptions = subscriptions(&evaluated);
        let done = monitors
            .heed_syscalls(config, &subscriptions, own_cgroup)
            .await;
        self.tell(&evaluated, done);
    }

    /// Has the monitors do what another configuration asks for, beside the objects. That these cannot be heeded is no reason
    /// to refuse it.
    pub(super) async fn heed_edit(
        &mut self,
        monitors: &mut Monitors,
        config: &Config,
    ) -> anyhow::Result<()> {
        let config = &config.monitoring;
        let evaluated = self.evaluate(&config.syscalls);
        let subscriptions = subscriptions(&evaluated);
        let done = match monitors.heed(config, &subscriptions, own_cgroup).await {
            Err(e) if !subscriptions.is_empty() => {
                // (should that fail, too, what objects ask for may not be in force as it was)
                self.try_again = Some(Instant::now() + TRY_AGAIN);
                monitors.heed(config, &[], own_cgroup).await?;
                Err(e)
            }
            done => Ok(done?),
        };
        self.listen(&config.syscalls);
        self.tell(&evaluated, done);
        Ok(())
    }

    fn evaluate(&mut self, config: &Syscalls) -> Vec<Evaluated> {
        self.news.mark_unchanged();
        if config.objects {
            self.heard.store().evaluate()
        } else {
            Vec::new()
        }
    }

    /// Says what came of it.
    fn tell(&mut self, evaluated: &[Evaluated], done: anyhow::Result<Attached>) {
        let trouble = done.as_ref().err().map(|e| format!("{e:#}"));
        self.try_again = trouble.is_some().then(|| Instant::now() + TRY_AGAIN);
        if let Some(why) = trouble.as_ref().filter(|_| trouble != self.trouble) {
            tracing::error!(
                "the system calls that SyscallMonitor objects ask for are not watched: {why}. The agent tries again"
            );
        }
        self.trouble.clone_from(&trouble);
        self.log(evaluated);
        let Some((_, node)) = self.asked.as_ref().filter(|_| self.listening.is_some()) else {
            return;
        };
        let attached = done.unwrap_or_default();
        let ours = evaluated
            .iter()
            .filter(|one| one.object.id.kind == ObjectKind::SyscallMonitor);
        let reports = ours.map(|one| Report {
            object: one.object.clone(),
            said: Some(one.status(node, &attached, trouble.as_deref())),
        });
        self.reports.send_replace(Arc::new(reports.collect()));
    }

    /// Logs what is wrong with them, once.
    fn log(&mut self, evaluated: &[Evaluated]) {
        let wrong: HashMap<String, String> = evaluated
            .iter()
            .filter_map(|one| Some((one.object.uid.clone(), one.wrong.clone()?)))
            .collect();
        for one in evaluated {
            let uid = &one.object.uid;
            if let Some(why) = wrong.get(uid).filter(|why| self.told.get(uid) != Some(why)) {
                tracing::warn!("{}: {why}", one.object.id);
            }
        }
        self.told = wrong;
    }

    /// Takes back what was said of all.
    fn say_nothing(&self) {
        let before = self.reports.borrow().clone();
        let reports = before.iter().map(|report| Report {
            object: report.object.clone(),
            said: None,
        });
        let reports = Arc::new(reports.collect());
        self.reports.send_replace(reports);
    }
}

fn subscriptions(evaluated: &[Evaluated]) -> Vec<Subscription> {
    evaluated
        .iter()
        .map(|one| one.subscription.clone())
        .collect()
}

async fn listen(client: Client, kind: ObjectKind, poll_policy: PollPolicy, heard: Heard) {
    let well = {
        let heard = heard.clone();
        move || heard.is_well(kind)
    };
    watch_objects(client, kind, poll_policy, well, |news| match news {
        Ok(news) => heard.take(kind, news),
        Err(fault) => heard.fails(kind, &fault),
    })
    .await;
}

impl Heard {
    fn take(&self, kind: ObjectKind, news: ObjectNews) {
        let mut store = self.store();
        if store.take(kind, news) {
            let (kind, count) = (kind.name(), store.count(kind));
            tracing::info!("{count} objects of the kind {kind} ask for system calls");
            drop(store);
            self.changed.send_replace(());
        }
    }

    fn fails(&self, kind: ObjectKind, fault: &Fault) {
        let is_unknown = fault.is_unknown();
        let why = if is_unknown {
            "the cluster has no such kind, as long as nobody applies its definition".to_owned()
        } else {
            fault.tell_of_objects(kind)
        };
        let before = self.trouble().insert(kind, why.clone());
        if before.as_ref() != Some(&why) {
            let kind = kind.name();
            if is_unknown {
                tracing::info!("objects of the kind {kind}: {why}");
            } else {
                tracing::warn!("objects of the kind {kind}: {why}. Those known last stay in force");
            }
        }
        // Without the kind, there is none of it.
        if is_unknown {
            self.take(kind, ObjectNews::All(Vec::new()));
        }
    }

    fn is_well(&self, kind: ObjectKind) {
        if self.trouble().remove(&kind).is_some() {
            tracing::info!("the API tells of objects of the kind {} again", kind.name());
        }
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        // What is in there is whole at every moment.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn trouble(&self) -> MutexGuard<'_, HashMap<ObjectKind, String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
