//! `/proc/<pid>/cgroup`: the control group of a process, and the container whose it is.
//!
//! Runtimes name a container's control group by its id. Where, is the business of their drivers:
//!
//! | | cgroupfs | systemd |
//! |---|---|---|
//! | kubelet | `kubepods/burstable/pod<uid>/<id>` | `kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/cri-containerd-<id>.scope` |
//! | Docker | `docker/<id>` | `system.slice/docker-<id>.scope` |
//! | podman | `libpod_parent/libpod-<id>` | `machine.slice/libpod-<id>.scope` |
//!
//! From within a control group namespace a neighbour is `/../<id>`.

use std::{
    ffi::OsStr,
    os::unix::ffi::OsStrExt as _,
    path::{Component, Path, PathBuf},
};

/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;
/// Of those that are not containers: CRI-O's and podman's monitors, outside of what they watch.
const MONITORS: [&str; 2] = ["crio-conmon", "libpod-conmon"];
/// Hierarchies of version 1 by which a path is told, first choice first.
const VERSION_1: [&[u8]; 3] = [b"name=systemd", b"pids", b"memory"];
/// The first of them that a machine of version 1 is known by. A hierarchy without a controller can be mounted at any
/// time, with paths as one likes.
const FIRST_CONTROLLER: usize = 1;

/// Where a process is among control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cgroup {
    /// Its path in the unified hierarchy; on a machine of version 1, in systemd's.
    pub(crate) path: PathBuf,
    /// Whether that is the unified hierarchy.
    pub(crate) is_unified: bool,
    /// Its paths in the others of version 1, where those count.
    others: Vec<PathBuf>,
    /// There, its path in the unified hierarchy, which runtimes may not use.
    beside: Option<PathBuf>,
}

/// A container, as its control group tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Id {
    /// 64 hexadecimal digits.
    pub(crate) container: String,
    /// Kubernetes' uid of its pod, where the path shows it.
    pub(crate) pod: Option<String>,
}

impl Cgroup {
    /// One of the unified hierarchy, by its path from the machine's root.
    pub(crate) fn unified(path: PathBuf) -> Self {
        Self {
            path,
            is_unified: true,
            ..Self::default()
        }
    }

    /// Of the lines `hierarchy:controllers:path`. `None` where they tell no path.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let mut unified = None;
        let mut version_1: [Option<PathBuf>; VERSION_1.len()] = Default::default();
        for line in text.split(|byte| *byte == b'\n') {
            let mut fields = line.splitn(3, |byte| *byte == b':');
            let (Some(hierarchy), Some(controllers), Some(path)) =
                (fields.next(), fields.next(), fields.next())
            else {
                continue;
            };
            let path = Path::new(OsStr::from_bytes(path));
            if hierarchy == b"0" {
                unified = Some(path.to_owned());
            }
            for (place, name) in version_1.iter_mut().zip(VERSION_1) {
                if controllers
                    .split(|byte| *byte == b',')
                    .any(|one| one == name)
                {
                    *place = Some(path.to_owned());
                }
            }
        }
        if version_1.iter().skip(FIRST_CONTROLLER).all(Option::is_none) {
            return Some(Self::unified(unified?));
        }
        let mut others = version_1.into_iter().flatten();
        Some(Self {
            path: others.next()?,
            is_unified: false,
            others: others.collect(),
            beside: unified,
        })
    }

    /// The same with its path from the root of the cgroup hierarchy, where `/proc` gave it relative to `root`, the root of our
    /// cgroup namespace.
    pub(crate) fn absolute(mut self, root: &Path) -> Self {
        if self.is_unified {
            self.path = join(root, &self.path);
        }
        self
    }

    /// The container that it belongs to, for an agent whose own cgroup is `own`. `None` where two hierarchies name different
    /// containers: a process that may write to one of them must not choose its container by that.
    pub(crate) fn container(&self, own: &Path) -> Option<Id> {
        let id = Id::of(&self.path, own);
        let mut others = self.others.iter().map(|path| Id::of(path, own));
        let is_one = others.all(|other| match (&other, &id) {
            (Some(other), Some(id)) => other.container == id.container,
            (other, id) => other.is_none() && id.is_none(),
        });
        let beside = self.beside.as_ref().and_then(|path| Id::of(path, own));
        id.filter(|id| is_one && beside.is_none_or(|other| other.container == id.container))
    }
}

/// Appends a path of `/proc/<pid>/cgroup` to another. It may begin with `..`: a cgroup above the root of our namespace is shown so.
pub(crate) fn join(root: &Path, path: &Path) -> PathBuf {
    let mut whole = root.to_owned();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(whole.pop()),
            Component::Normal(name) => whole.push(name),
            _ => {}
        }
    }
    whole
}

/// The path of our cgroup namespace's root. `from_machine` is our cgroup's path from the hierarchy's root, and `in_namespace` the same
/// cgroup's path in our namespace.
pub(crate) fn root_of_namespace(from_machine: &Path, in_namespace: &Path) -> Option<PathBuf> {
    let below = in_namespace.strip_prefix("/").ok()?;
    let mut root = from_machine.to_owned();
    for name in below.components().rev() {
        if root.file_name() != Some(name.as_os_str()) {
            return None;
        }
        root.pop();
    }
    Some(root)
}

impl Id {
    /// The outermost container in `path`: what runs inside of a container may name cgroups below it as it likes. Containers that
    /// `path` and our own cgroup have in common do not count: the node itself may be a container.
    fn of(path: &Path, own: &Path) -> Option<Self> {
        let (names, own) = (names(path), names(own));
        let ours = own.iter().rposition(|name| container(name).is_some());
        let shared = names.iter().zip(&own[..ours.unwrap_or(own.len())]);
        let begin = shared.take_while(|(name, own)| name == own).count();
        let is_id = |at: &usize| {
            let is_podmans_pod =
                names[*at].len() == ID_DIGITS && *at > 0 && names[at - 1] == "libpod_parent";
            !is_podmans_pod && container(names[*at]).is_some()
        };
        let at = (begin..names.len()).find(is_id)?;
        Some(Self {
            container: container(names[at])?.to_owned(),
            pod: names[..=at].iter().rev().find_map(|name| pod(name)),
        })
    }
}

fn names(path: &Path) -> Vec<&str> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

/// `<id>`, `<prefix>-<id>`, `<prefix>-<id>.scope`; `<slice>:<prefix>:<id>`, as runc names what it was
/// given in systemd's way without systemd.
fn container(name: &str) -> Option<&str> {
    let name = name.strip_suffix(".scope").unwrap_or(name);
    let start = name.len().checked_sub(ID_DIGITS)?;
    let (prefix, id) = (name.get(..start)?, name.get(start..)?);
    let is_id = id
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let prefix = prefix
        .strip_suffix(['-', ':'])
        .or(prefix.is_empty().then_some(prefix))?;
    (is_id && !MONITORS.contains(&prefix)).then_some(id)
}

/// `pod<uid>`, or `kubepods-…-pod<uid>.slice` with underlines for the uid's dashes, or that before a `:`.
fn pod(name: &str) -> Option<String> {
    let uid = if let Some((slice, _)) = name.split_once(".slice") {
        let (kubepods, uid) = slice.rsplit_once("-pod")?;
        kubepods.contains("kubepods").then_some(uid)?
    } else {
        name.strip_prefix("pod")?
    };
    let uid = uid.replace('_', "-");
    let is_uid =
        matches!(uid.len(), 32 | 36) && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";
    const OTHER: &str = "7f53cda18c2baa0c0354bb5f9a3ecbe5ed12ab4d8e11ba873c2f11161202b945";
    const POD: &str = "0a1b2c3d-1111-2222-3333-444455556666";
    const UNDERLINED: &str = "0a1b2c3d_1111_2222_3333_444455556666";

    fn parse(text: &str) -> Cgroup {
        Cgroup::parse(text.as_bytes()).expect(text)
    }

    #[track_caller]
    fn is(path: &str, pod: Option<&str>) {
        is_from("/", path, pod);
    }

    #[track_caller]
    fn is_from(own: &str, path: &str, pod: Option<&str>) {
        let found = parse(&format!("0::{path}\n"));
        assert_eq!(found.path, Path::new(path));
        assert!(found.is_unified);
        let expected = Id {
            container: ID.into(),
            pod: pod.map(Into::into),
        };
        assert_eq!(found.container(Path::new(own)), Some(expected), "{path}");
    }

    #[test]
    fn kubelets_drivers_and_classes() {
        let pod = Some(POD);
        is(&format!("/kubepods/besteffort/pod{POD}/{ID}"), pod);
        is(&format!("/kubepods/burstable/pod{POD}/{ID}"), pod);
        is(&format!("/kubepods/pod{POD}/{ID}"), pod); // guaranteed
        is(&format!("/kubepods/pod{POD}/crio-{ID}"), pod);
        let slice = format!("/kubepods.slice/kubepods-pod{UNDERLINED}.slice");
        is(&format!("{slice}/cri-containerd-{ID}.scope"), pod);
        is(&format!("{slice}/crio-{ID}.scope/container"), pod);
        let slice = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable";
        is(
            &format!("{slice}-pod{UNDERLINED}.slice/docker-{ID}.scope"),
            pod,
        );
        is(
            &format!("/kubepods-besteffort-pod{UNDERLINED}.slice:cri-containerd:{ID}"),
            pod,
        );
        // a static pod's uid is a digest
        let uid = "3a0d7a3f1f7e4dc5a2d6a3f1f7e4dc5a";
        is(&format!("/kubepods/burstable/pod{uid}/{ID}"), Some(uid));
    }

    #[test]
    fn docker_podman_and_neighbours_in_a_namespace() {
        is(&format!("/docker/{ID}"), None);
        is(&format!("/system.slice/docker-{ID}.scope"), None);
        is(&format!("/machine.slice/libpod-{ID}.scope/container"), None);
        is(&format!("/libpod_parent/libpod-{ID}"), None);
        is(&format!("/libpod_parent/{OTHER}/libpod-{ID}"), None);
        is(&format!("/../{ID}"), None);
        is(&format!("/../cri-containerd-{ID}.scope/init.scope"), None);
        is(&format!("/../../pod{POD}/{ID}"), Some(POD));
    }

    #[test]
    fn what_is_nested_belongs_to_the_outer_container() {
        let inner = format!(
            "docker/{OTHER}/kubelet/kubepods/pod11111111-1111-2222-3333-444455556666/{OTHER}"
        );
        is(&format!("/kubepods/pod{POD}/{ID}/{inner}"), Some(POD));
        // a node that is a container itself (kind): its pods are what counts
        let node = format!("/docker/{OTHER}/kubelet/kubepods");
        is_from(
            &format!("{node}/besteffort/pod{POD}/{OTHER}"),
            &format!("{node}/burstable/pod{POD}/{ID}"),
            Some(POD),
        );
    }

    #[test]
    fn who_names_his_own_control_groups_names_no_other_container() {
        let inner = format!("kubelet/kubepods/pod{POD}/{OTHER}");
        let pod = format!("/kubepods/burstable/pod{POD}");
        is_from(
            &format!("{pod}/{OTHER}"),
            &format!("{pod}/{ID}/{inner}"),
            Some(POD),
        );
        is_from(
            &format!("{pod}/{OTHER}"),
            &format!("{pod}/{ID}/pod{POD}/{OTHER}"),
            Some(POD),
        );
        is(&format!("/docker/{ID}/{inner}"), None);
        is(&format!("/../{ID}/{inner}"), None);
        is(&format!("/../{ID}/docker-{OTHER}.scope"), None);
        // the agent's own container
        is_from(
            &format!("{pod}/{ID}"),
            &format!("{pod}/{ID}/below"),
            Some(POD),
        );
    }

    #[test]
    fn no_container() {
        for path in [
            "/",
            "/user.slice/user-1000.slice/session-3.scope",
            "/system.slice/containerd.service",
            &format!("/kubepods/pod{POD}"),
            &format!("/kubepods/pod{POD}/crio-conmon-{ID}.scope"),
            &format!("/system.slice/{}.service", &ID[1..]),
            &format!("/docker/{}", ID.to_uppercase()),
            &format!("/docker/x{ID}"),
        ] {
            let found = parse(&format!("0::{path}\n"));
            assert_eq!(found.container(Path::new("/")), None, "{path}");
        }
    }

    #[test]
    fn version_1_and_both_together() {
        let path = format!("/kubepods/burstable/pod{POD}/{ID}");
        let text = format!("12:pids:{path}\n4:cpu,cpuacct:{path}\n1:name=systemd:{path}\n0::/\n");
        let found = parse(&text);
        assert_eq!(found.path, Path::new(&path));
        assert!(!found.is_unified);
        assert_eq!(found.container(Path::new("/")).unwrap().container, ID);
        let text = format!("12:pids:/docker/{ID}\n1:name=systemd:/system.slice\n");
        assert_eq!(parse(&text).path, Path::new("/system.slice"));
    }

    /// One without a controller can be mounted at any time.
    #[test]
    fn a_hierarchy_that_somebody_mounted_is_not_asked() {
        let text = format!("1:name=systemd:/docker/{OTHER}\n0::/docker/{ID}\n");
        let found = parse(&text);
        assert!(found.is_unified);
        assert_eq!(found.path, Path::new(&format!("/docker/{ID}")));
        assert_eq!(found.container(Path::new("/")).unwrap().container, ID);
    }

    #[test]
    fn two_containers_are_none() {
        for other in [format!("/docker/{OTHER}"), "/".into()] {
            let text = format!("12:pids:/docker/{ID}\n1:name=systemd:{other}\n");
            assert_eq!(parse(&text).container(Path::new("/")), None);
        }
        // in the one that runtimes use, somebody who runs elsewhere
        let text = format!("12:pids:/docker/{ID}\n1:name=systemd:/docker/{ID}\n0::/../{OTHER}\n");
        assert_eq!(parse(&text).container(Path::new("/")), None);
        assert_eq!(Cgroup::parse(b""), None);
        assert_eq!(Cgroup::parse(b"12:cpu\n"), None);
    }

    #[test]
    fn a_path_in_a_namespace_is_one_on_the_machine() {
        let ours = format!("/kubepods/pod{POD}/{OTHER}");
        let root = root_of_namespace(Path::new(&ours), Path::new("/")).unwrap();
        assert_eq!(
            parse(&format!("0::/../{ID}\n")).absolute(&root).path,
            Path::new(&format!("/kubepods/pod{POD}/{ID}"))
        );
        let below = format!("{ours}/a/b");
        assert_eq!(
            root_of_namespace(Path::new(&below), Path::new("/a/b")).unwrap(),
            root
        );
        assert_eq!(
            root_of_namespace(Path::new(&below), Path::new("/x/b")),
            None
        );
        assert_eq!(
            root_of_namespace(Path::new("/a"), Path::new("/a")).unwrap(),
            Path::new("/")
        );
        assert_eq!(
            join(Path::new("/a"), Path::new("/../../../b")),
            Path::new("/b")
        );
    }
}
