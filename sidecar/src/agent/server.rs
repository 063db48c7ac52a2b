//! What the agent answers over HTTP, wired together.

use super::readiness::Readiness;
use crate::{
    config::{Config, Mode, Monitoring},
    kernel,
    observe::{
        Metrics,
        http::{Answers, Server},
    },
    process::Pods,
    secrets::Known,
};

/// What answers over HTTP, if the configuration asks for it. It begins when this process is guarded, if it is to be.
pub(super) fn wire(
    config: &Config,
    metrics: &Metrics,
    ready: &Readiness,
    known: Known,
    pods: &Pods,
) -> anyhow::Result<Option<Server>> {
    let Monitoring {
        enabled,
        metrics_port,
        ..
    } = config.monitoring;
    if !enabled || metrics_port == 0 {
        return Ok(None);
    }
    metrics.ages({
        let known = known.clone();
        move || known.ages()
    })?;
    let pods = pods.clone();
    let notes = move || {
        let weaker = kernel::version::weaker().map(str::to_owned);
        weaker
            .chain(known.notes())
            .chain(pods.describe_trouble())
            .collect()
    };
    let answers = Answers {
        metrics: metrics.clone(),
        ready: ready.published(),
        notes: Box::new(notes),
    };
    let mut server = Server::new(metrics_port, answers);
    if config.policy.mode == Mode::Disabled {
        server.begin();
    }
    Ok(Some(server))
}
