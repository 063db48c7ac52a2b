//! Bindings judged together: names given twice, and two values for one name in one program.

use std::{collections::HashMap, path::Path};

use super::{
    binding::{Binding, SecretRef, Selector},
    error::Position,
    fields::{Report, quoted},
    yaml::Mark,
};

/// Notes every conflict between bindings.
pub(super) fn check(report: &mut Report, bindings: &[Binding]) {
    names(report, bindings);
    values(report, bindings);
}

pub(super) fn mark(at: Position) -> Mark {
    Mark {
        at,
        last_line: at.line,
        width: 1,
    }
}

fn names(report: &mut Report, bindings: &[Binding]) {
    let mut seen: HashMap<&str, Position> = HashMap::new();
    for binding in bindings {
        if let Some(first) = seen.insert(&binding.name, binding.at) {
            let message = format!("a second binding is named {}", quoted(&binding.name));
            report.error(
                &mark(binding.at),
                message,
                format!("the first is at {first}"),
            );
        }
    }
}

/// Different sources for one name, where one program can match both bindings.
fn values(report: &mut Report, bindings: &[Binding]) {
    let mut seen: HashMap<(&str, &str), Vec<(&Binding, &SecretRef)>> = HashMap::new();
    for binding in bindings {
        for secret in &binding.secret_refs {
            let others = seen
                .entry((binding.selector.basename(), &secret.name))
                .or_default();
            let known = others.iter().any(|(other, first)| {
                std::ptr::eq(*other, binding) && first.source == secret.source
            });
            if known {
                continue;
            }
            let conflict = others.iter().find(|(other, first)| {
                first.source != secret.source && can_meet(&other.selector, &binding.selector)
            });
            if let Some((other, first)) = conflict {
                let message = format!(
                    "two values for one name: {} also gets another value for {}",
                    quoted(binding.selector.basename()),
                    quoted(&secret.name),
                );
                let hint = format!(
                    "the other is at {}, in binding {}: remove one, rename one, or make the selectors exclude each other",
                    first.at,
                    quoted(&other.name),
                );
                report.error(&mark(secret.at), message, hint);
                if report.is_full() {
                    return;
                }
            } else {
                others.push((binding, secret));
            }
        }
    }
}

/// Whether one program can match both selectors, of which the basenames are equal.
fn can_meet(a: &Selector, b: &Selector) -> bool {
    let paths_differ =
        a.binary.starts_with('/') && b.binary.starts_with('/') && a.binary != b.binary;
    let labels_differ = a
        .labels
        .iter()
        .any(|(name, value)| b.labels.get(name).is_some_and(|other| other != value));
    !(paths_differ
        || labels_differ
        || differ(a.sha256.as_ref(), b.sha256.as_ref())
        || differ(a.container.as_ref(), b.container.as_ref())
        || differ(a.namespace.as_ref(), b.namespace.as_ref())
        || differ(a.uid.as_ref(), b.uid.as_ref())
        || are_apart(a.cgroup_path.as_deref(), b.cgroup_path.as_deref()))
}

fn differ<T: PartialEq>(a: Option<&T>, b: Option<&T>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}

/// Whether neither control group lies below the other.
fn are_apart(a: Option<&Path>, b: Option<&Path>) -> bool {
    a.zip(b)
        .is_some_and(|(a, b)| !a.starts_with(b) && !b.starts_with(a))
}
