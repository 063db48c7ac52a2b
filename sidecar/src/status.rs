//! `kernelseal status`: what this node's kernel side is doing, for whom, and whether anybody is guarded.

use std::{collections::BTreeSet, fs, path::Path, process::ExitCode};

use anyhow::Context as _;
use sidecar_common::policy::{Scope, ScopeFlags, ScopeId};

use crate::{
    agent::is_started_from_outside,
    config::Mode,
    kernel::{self, Maps, pins},
    privileges,
    process::{Place, Process, Whereabouts},
};

/// Where a kubelet keeps its pods' logs: a folder for each, called `<namespace>_<name>_<uid>`.
const POD_LOGS: &str = "/var/log/pods";
/// Digits of a container's id by which people name it.
const SHORT_ID: usize = 12;

/// Prints it; 0 where an agent guards, 1 where none does or that cannot be said.
pub(crate) fn run() -> ExitCode {
    match tell() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("kernelseal: {e:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether an agent guards.
fn tell() -> anyhow::Result<bool> {
    privileges::ensure_root()?;
    pins::bpf_fs()?;
    let versions = pins::all()?;
    if versions.is_empty() {
        println!(
            "not loaded: no agent has run on this node since it booted, or `cleanup` removed it"
        );
        return Ok(false);
    }
    // (a place that cannot be looked up is left out)
    let mut whereabouts = Whereabouts::new(Path::new("/"), None, None).ok();
    let mut is_guarded = false;
    for dir in versions {
        is_guarded |= tell_of(&dir, &mut whereabouts)?;
    }
    if let Err(e) = kernel::ensure_fires() {
        println!("{e}");
        return Ok(false);
    }
    Ok(is_guarded)
}

fn tell_of(dir: &Path, whereabouts: &mut Option<Whereabouts>) -> anyhow::Result<bool> {
    let maps = Maps::open_at(dir).with_context(|| {
        let place = dir.display();
        if is_started_from_outside() {
            format!("{place} does not answer; in a pod it answers its agent alone. Ask on the node, or read the agent's /metrics and /ready")
        } else {
            format!("{place} does not answer")
        }
    })?;
    println!("kernel side at {}", dir.display());
    println!(
        "{:<14} {:<10} {:<9} {:>6} {:>6} {:>8}  where",
        "scope", "agent", "mode", "sealed", "held", "dropped"
    );
    let mut is_guarded = false;
    for (id, scope) in maps.scopes() {
        let agent = if scope.agent == 0 {
            "none".into()
        } else {
            scope.agent_pid.to_string()
        };
        let mode = mode_of(&scope);
        is_guarded |= scope.agent != 0 && mode != Mode::Disabled;
        let (sealed, held) = counts(&maps, id);
        let place = whereabouts.as_mut().and_then(|all| place_of(&scope, all));
        let line = format!(
            "pid:[{id}] {agent:<8} {:<9} {sealed:>6} {held:>6} {:>8}  {}",
            mode.name(),
            maps.counters(id).dropped,
            place.unwrap_or_default(),
        );
        println!("{}", line.trim_end());
    }
    Ok(is_guarded)
}

/// The mode that the kernel side has for a scope, which is the one in force.
fn mode_of(scope: &Scope) -> Mode {
    if scope.flags.contains(ScopeFlags::DISABLED) {
        Mode::Disabled
    } else if scope.flags.contains(ScopeFlags::ENFORCE) {
        Mode::Enforce
    } else {
        Mode::Audit
    }
}

/// Programs that were sealed and run, and those that are held, as `kernelseal_sealed_processes` and `kernelseal_held_programs`
/// count them: without children, and without what is held to be sealed.
fn counts(maps: &Maps, scope: ScopeId) -> (usize, usize) {
    let held: BTreeSet<u64> = maps
        .all_held(scope)
        .into_iter()
        .map(|(_, held)| held.seal)
        .collect();
    let trees = maps.trees(scope).into_iter();
    let sealed = trees.filter(|(seal, has_root)| *has_root && !held.contains(seal));
    (sealed.count(), held.len())
}

/// The pod and container of a scope's agent, or of its first process where that is away; nothing of one that is in none. Their
/// numbers are the kernel's own: in another PID namespace than the node's they say nothing.
fn place_of(scope: &Scope, whereabouts: &mut Whereabouts) -> Option<String> {
    let (pid, start_ns) = if scope.agent == 0 {
        (scope.init, scope.init_start_ns)
    } else {
        (scope.agent, scope.agent_start_ns)
    };
    let process = Process::new(pid);
    let is_it = || process.started_at(start_ns).unwrap_or(false);
    if !is_it() {
        return None;
    }
    let place = whereabouts.of(process, 0).ok()?;
    // (its number was its own all the while)
    is_it().then(|| describe(&place, Path::new(POD_LOGS)))?
}

fn describe(place: &Place, pod_logs: &Path) -> Option<String> {
    let container = place.container.as_ref()?;
    let id = container.id.get(..SHORT_ID).unwrap_or(&container.id);
    let name = container
        .name
        .as_deref()
        .map_or_else(|| id.to_owned(), |name| format!("{name} ({id})"));
    let Some(uid) = &place.pod else {
        return Some(format!("container {name}"));
    };
    let pod = pod_of(uid, pod_logs).unwrap_or_else(|| format!("of uid {uid}"));
    Some(format!("pod {pod} container {name}"))
}

/// Namespace and name of a pod, as its node's kubelet keeps its logs.
fn pod_of(uid: &str, pod_logs: &Path) -> Option<String> {
    let mut entries = fs::read_dir(pod_logs).ok()?.flatten();
    entries.find_map(|entry| {
        let folder = entry.file_name().into_string().ok()?;
        let mut parts = folder.split('_');
        let (namespace, name, found) = (parts.next()?, parts.next()?, parts.next()?);
        (found == uid).then(|| format!("{namespace}/{name}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Container;

    #[test]
    fn place_of_a_pod_is_told_by_name_where_the_kubelets_logs_have_it() {
        let logs = tempfile::tempdir().unwrap();
        fs::create_dir(logs.path().join("shop_web-1_u-1")).unwrap();
        let place = |uid: Option<&str>, name: Option<&str>| Place {
            container: Some(Container {
                id: "4f53cda18c2baa0c".repeat(4),
                pod_name: None,
                pod_namespace: None,
                name: name.map(str::to_owned),
            }),
            pod: uid.map(str::to_owned),
            ..Place::default()
        };
        let told = |uid, name| describe(&place(uid, name), logs.path()).unwrap();
        assert_eq!(
            told(Some("u-1"), Some("app")),
            "pod shop/web-1 container app (4f53cda18c2b)"
        );
        assert_eq!(
            told(Some("u-2"), None),
            "pod of uid u-2 container 4f53cda18c2b"
        );
        assert_eq!(told(None, None), "container 4f53cda18c2b");
        assert_eq!(describe(&Place::default(), logs.path()), None);
    }

    #[test]
    fn mode_of_a_scope_is_the_one_of_its_flags() {
        let with = |flags| Scope {
            flags,
            ..bytemuck::Zeroable::zeroed()
        };
        assert_eq!(mode_of(&with(ScopeFlags::empty())), Mode::Audit);
        assert_eq!(mode_of(&with(ScopeFlags::ENFORCE)), Mode::Enforce);
        assert_eq!(mode_of(&with(ScopeFlags::DISABLED)), Mode::Disabled);
    }
}
