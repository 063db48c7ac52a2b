//! From the tree to the model: `monitoring.syscalls`.

use super::{
    calls::{self, Category},
    decode_network::list,
    fields::{Fields, Report},
    keys,
    syscalls::Syscalls,
    yaml::Node,
};

/// Users that may be listed.
const MAX_UIDS: usize = sidecar_common::syscall::MAX_UIDS;
/// Events a second that may be asked for. More is no limit.
const MAX_RATE: u32 = 1_000_000;

pub(super) fn syscalls(report: &mut Report, node: &Node) -> Option<Syscalls> {
    let fields = Fields::open(report, node, &keys::SYSCALLS)?;
    let flag = |report: &mut Report, key: &'static str| {
        fields
            .get(key)
            .map_or(Some(false), |node| report.boolean(node, key))
    };
    let enabled = flag(report, "enabled");
    let failed = flag(report, "failed");
    let objects = flag(report, "objects");
    let categories = list(report, &fields, "categories", |report, node, what| {
        report.choice(node, what, &Category::ALL)
    });
    let names = list(report, &fields, "names", |report, node, what| {
        let names: Vec<(&str, &str)> = calls::all().map(|call| (call.name, call.name)).collect();
        report.choice(node, what, &names).map(str::to_owned)
    });
    let containers = list(report, &fields, "containers", |report, node, what| {
        report.text(node, what).map(str::to_owned)
    });
    let uids = list(report, &fields, "uids", |report, node, what| {
        report.number(node, what, u32::MAX)
    });
    if let (Some(uids), Some(node)) = (&uids, fields.get("uids"))
        && uids.len() > MAX_UIDS
    {
        let message = format!("more than {MAX_UIDS} users");
        report.error(
            &node.mark,
            message,
            "remove the key: then the calls of all users are reported",
        );
    }
    let rate_per_second = match fields.get("ratePerSecond") {
        Some(node) => Some(rate(report, node)?),
        None => None,
    };
    let syscalls = Syscalls {
        enabled: enabled?,
        categories: categories?,
        names: names?,
        containers: containers?,
        uids: uids?,
        failed: failed?,
        rate_per_second,
        objects: objects?,
        objects_at: fields.get("objects").map(|node| node.mark.at),
    };
    if syscalls.enabled && syscalls.categories.is_empty() && syscalls.names.is_empty() {
        let words: Vec<&str> = Category::ALL.iter().map(|(name, _)| *name).collect();
        let hint = format!(
            "name system calls (`names: [openat]`) or categories of them: {}",
            words.join(", ")
        );
        report.error(&node.mark, "syscalls asks for no system call", hint);
        return None;
    }
    Some(syscalls)
}

fn rate(report: &mut Report, node: &Node) -> Option<u32> {
    let rate = report.number(node, "ratePerSecond", MAX_RATE)?;
    if rate == 0 {
        let hint = "set enabled to false to report none; remove ratePerSecond to report all";
        report.error(&node.mark, "ratePerSecond is 0", hint);
        return None;
    }
    Some(rate)
}
