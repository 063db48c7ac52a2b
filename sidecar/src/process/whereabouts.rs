//! Where a process lives: its control group, its container, its pod.
//!
//! Asked of the kernel and of the kubelet's mounts, not over the network: a container's first program must not
//! wait until the API server has heard of the container. What an agent in another pod cannot know by these, the pod's
//! name, namespace and labels, somebody has asked the API before ([`Pods`]).

mod first;

use std::{
    collections::HashMap,
    hash::Hash,
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

pub(crate) use self::first::First;
use super::{
    Process, TICK_NS,
    cgroup::{self, Cgroup, Id},
    container::Container,
    kubelet::Mounted,
    own_pod::Pod,
    pods::Pods,
    seen::Seen,
    text,
};

/// Places that are remembered; a node has fewer control groups that live.
const REMEMBERED: usize = 4096;
/// Between two looks at all processes for one that tells a container's name.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a process lives.
#[derive(Debug, Default)]
pub(crate) struct Place {
    /// Its control group, from the machine's root.
    pub(crate) cgroup: PathBuf,
    /// Its container, if it lives in one.
    pub(crate) container: Option<Container>,
    /// The uid of its container's pod, where its control group tells one.
    pub(crate) pod: Option<String>,
    /// Why it is not known.
    pub(crate) trouble: Option<io::Error>,
}

impl Place {
    /// It could not be looked up.
    pub(crate) fn unknown(why: io::Error) -> Self {
        Self {
            trouble: Some(why),
            ..Self::default()
        }
    }

    /// Whether it was found.
    pub(crate) fn is_known(&self) -> bool {
        !self.cgroup.as_os_str().is_empty()
    }
}

/// Looks places up, and remembers them.
pub(crate) struct Whereabouts {
    /// The root of our control group namespace, from the machine's.
    root: PathBuf,
    /// Our own control group.
    own: PathBuf,
    /// What the kubelet mounted for the agent.
    ours: Option<Mounted>,
    /// `None` for an agent that answers for a node.
    pod: Option<Pod>,
    /// The node's, for such an agent, if it can know them.
    pods: Option<Pods>,
    /// Whether a control group's number tells its processes from others'. (In version 1 it is one for all: it is of the
    /// unified hierarchy.)
    is_unified: bool,
    /// By the control group's number, which the kernel gives out once.
    places: HashMap<u64, Found>,
    /// Where control groups are, as the kernel told.
    paths: HashMap<u64, PathBuf>,
    /// Of processes whose control group tells nothing: by number and start.
    processes: HashMap<(u32, u64), Found>,
}

/// The same, for several threads: what one has found out all know. Clones share.
#[derive(Clone)]
pub(crate) struct SharedWhereabouts {
    found: Arc<Mutex<Whereabouts>>,
    pods: Option<Pods>,
}

impl SharedWhereabouts {
    pub(crate) fn new(whereabouts: Whereabouts) -> Self {
        Self {
            pods: whereabouts.pods.clone(),
            found: Arc::new(Mutex::new(whereabouts)),
        }
    }

    /// Not to be kept: others wait.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Whereabouts> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// [`Whereabouts::pods`]
    pub(crate) fn pods(&self) -> Option<&Pods> {
        self.pods.as_ref()
    }
}

/// A place that was looked up.
struct Found {
    place: Arc<Place>,
    /// When to look again, where there may be more to find out.
    until: Option<Instant>,
}

impl Found {
    fn new(place: &Arc<Place>, is_certain: bool) -> Self {
        Self {
            place: place.clone(),
            until: (!is_certain).then(|| Instant::now() + LOOK_AGAIN),
        }
    }

    /// Unless it is time to look again.
    fn for_now(&self) -> Option<Arc<Place>> {
        let is_valid = self.until.is_none_or(|until| Instant::now() < until);
        is_valid.then(|| self.place.clone())
    }
}

/// One more; all others are looked up again when they are too many.
fn remember<K: Eq + Hash, V>(places: &mut HashMap<K, V>, key: K, value: V) {
    if places.len() >= REMEMBERED {
        places.clear();
    }
    places.insert(key, value);
}

impl Whereabouts {
    /// `own_cgroup` is the agent's, from the machine's root; `pod` the one that all it sees belongs to, and if there is
    /// none, `pods` those of the node.
    pub(crate) fn new(own_cgroup: &Path, pod: Option<Pod>, pods: Option<Pods>) -> io::Result<Self> {
        let ourselves = Seen::open(std::process::id())?;
        let own = ourselves.cgroup()?.unwrap_or_default();
        let root = if own.is_unified {
            cgroup::root_of_namespace(own_cgroup, &own.path)
        } else {
            None
        };
        let root = root.unwrap_or_else(|| "/".into());
        Ok(Self {
            is_unified: own.is_unified,
            own: own.absolute(&root).path,
            root,
            ours: ourselves.find_mounted(|_| true)?,
            pods: pods.filter(|_| pod.is_none()),
            pod,
            places: HashMap::new(),
            paths: HashMap::new(),
            processes: HashMap::new(),
        })
    }

    /// Where a process lives that is held, and was in the control group of that number at its exec.
    pub(crate) fn of(&mut self, process: Process, cgroup: u64) -> io::Result<Arc<Place>> {
        if let Some(place) = self.known(cgroup) {
            return Ok(place);
        }
        let (place, is_certain) = self.look_up(process)?;
        let place = Arc::new(place);
        if is_certain && self.tells_apart(cgroup) {
            remember(&mut self.places, cgroup, Found::new(&place, true));
        }
        Ok(place)
    }

    /// The kernel told where a control group is.
    pub(crate) fn learn(&mut self, cgroup: u64, path: PathBuf) {
        if self.tells_apart(cgroup) {
            remember(&mut self.paths, cgroup, path);
        }
    }

    /// Where a process lives or lived that nobody holds, and that started at that moment (boot clock, in
    /// nanoseconds). `None` where it is gone and nothing is known of its control group.
    pub(crate) fn of_seen(&mut self, pid: u32, started_ns: u64, cgroup: u64) -> Option<Arc<Place>> {
        match self.paths.get(&cgroup) {
            Some(path) => {
                let path = path.clone();
                Some(self.of_path(path, Process::new(pid), cgroup))
            }
            // (version 1; in the root, or too deep)
            None => self.of_process(pid, started_ns),
        }
    }

    fn of_path(&mut self, path: PathBuf, process: Process, cgroup: u64) -> Arc<Place> {
        if let Some(place) = self.places.get(&cgroup).and_then(Found::for_now) {
            return place;
        }
        // A name that could not be looked up takes no container from an event; it is asked for again.
        let name = |id: &Id| self.name_of(process, id).unwrap_or_default();
        let (place, is_certain) = self.place(Cgroup::unified(path), name);
        let place = Arc::new(place);
        remember(&mut self.places, cgroup, Found::new(&place, is_certain));
        place
    }

    fn of_process(&mut self, pid: u32, started_ns: u64) -> Option<Arc<Place>> {
        let known = self.processes.get(&(pid, started_ns));
        if let Some(place) = known.and_then(Found::for_now) {
            return Some(place);
        }
        let Some(found) = self.look_up_seen(pid, started_ns) else {
            // it is gone
            return known.map(|found| found.place.clone());
        };
        let place = found.place.clone();
        remember(&mut self.processes, (pid, started_ns), found);
        Some(place)
    }

    fn look_up_seen(&self, pid: u32, started_ns: u64) -> Option<Found> {
        let (place, is_certain) = self.look_up(Process::new(pid)).ok()?;
        // The number was its own all the while, if it is now.
        let stat = Seen::open(pid).ok()?.read("stat").ok()?;
        let is_its = text::started(&stat)? == started_ns / TICK_NS;
        is_its.then(|| Found::new(&Arc::new(place), is_certain))
    }

    /// Whether control groups are of the unified hierarchy.
    pub(crate) fn is_unified(&self) -> bool {
        self.is_unified
    }

    /// Whether what is so of one process of a control group is of all of it, and of no other.
    pub(crate) fn tells_apart(&self, cgroup: u64) -> bool {
        self.is_unified && cgroup != 0
    }

    /// What is known of a control group, and will not change.
    pub(crate) fn known(&self, cgroup: u64) -> Option<Arc<Place>> {
        let found = self.places.get(&cgroup)?;
        found.until.is_none().then(|| found.place.clone())
    }

    /// The pods of the node, for an agent that answers for one and knows of them.
    pub(crate) fn pods(&self) -> Option<&Pods> {
        self.pods.as_ref()
    }

    /// With whether there is nothing more to find out.
    fn look_up(&self, process: Process) -> io::Result<(Place, bool)> {
        let found = process.cgroup()?.absolute(&self.root);
        let mut trouble = None;
        let place = self.place(found, |id| {
            self.name_of(process, id).unwrap_or_else(|e| {
                trouble = Some(e);
                None
            })
        });
        trouble.map_or(Ok(place), Err)
    }

    /// The same of that control group, whose container's name is asked for if there may be one.
    fn place(&self, found: Cgroup, name: impl FnOnce(&Id) -> Option<String>) -> (Place, bool) {
        let Some(id) = found.container(&self.own) else {
            let place = Place {
                cgroup: found.path,
                ..Place::default()
            };
            return (place, true);
        };
        let is_strange = self.is_strange(&id);
        let name = if is_strange { None } else { name(&id) };
        let is_named = name.is_some() || is_strange || self.ours.is_none();
        let (pod, is_known) = self.pod_of(&id, is_strange);
        let is_certain = is_named && is_known;
        let container = Container {
            id: id.container,
            pod_name: pod.name,
            pod_namespace: pod.namespace,
            name,
        };
        let place = Place {
            cgroup: found.path,
            container: Some(container),
            pod: id.pod,
            trouble: None,
        };
        (place, is_certain)
    }

    /// The pod of a container, and whether there is no more to know of it.
    fn pod_of(&self, id: &Id, is_strange: bool) -> (Pod, bool) {
        let Some((pods, uid)) = self.pods.as_ref().zip(id.pod.as_ref()) else {
            let own = self.pod.clone().filter(|_| !is_strange);
            return (own.unwrap_or_default(), true);
        };
        let known = pods.find(uid);
        let pod = known.as_ref().map(|pod| Pod {
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
        });
        (pod.unwrap_or_default(), known.is_some())
    }

    /// Whether it is of another pod, whatever brought it into our PID namespace.
    fn is_strange(&self, id: &Id) -> bool {
        match (&self.pod, &self.ours, &id.pod) {
            (Some(_), Some(ours), Some(pod)) => ours.pod != *pod,
            _ => false,
        }
    }

    /// A container's name, from a process of it that its runtime started. What such a process begot may have
    /// entered a mount namespace of another container.
    fn name_of(&self, process: Process, id: &Id) -> io::Result<Option<String>> {
        let Some(ours) = self.ours.as_ref() else {
            return Ok(None);
        };
        let told = |pid: u32| -> io::Result<Option<String>> {
            let seen = Seen::open(pid)?;
            let is_first = self.container_of(&seen)?.as_ref() == Some(id)
                && self.is_started_from_outside(&seen)?;
            if !is_first {
                return Ok(None);
            }
            let mounted = seen.find_mounted(|mounted| {
                let is_its = match (&id.pod, &self.pod) {
                    (Some(pod), None) => *pod == mounted.pod,
                    (None, None) => true,
                    (_, Some(_)) => mounted.pod == ours.pod,
                };
                mounted.is_beside(ours) && is_its
            })?;
            Ok(mounted.map(|mounted| mounted.name))
        };
        if let Some(name) = of_living(told(process.number()))? {
            return Ok(Some(name));
        }
        for pid in super::all()? {
            if let Some(name) = of_living(told(pid))? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }
}

/// Nothing of a process that is gone; an error that says nothing about it stays one.
fn of_living<T>(found: io::Result<Option<T>>) -> io::Result<Option<T>> {
    match found {
        Err(e) if super::is_gone(&e) => Ok(None),
        found => found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_live_somewhere() {
        let mut whereabouts = Whereabouts::new(Path::new("/"), None, None).unwrap();
        whereabouts.is_unified = true;
        let ourselves = Process::new(std::process::id());
        let place = whereabouts.of(ourselves, 7).unwrap();
        assert!(place.cgroup.is_absolute());
        assert!(Arc::ptr_eq(&whereabouts.known(7).unwrap(), &place));
        // no number: nothing that could be remembered
        whereabouts.of(ourselves, 0).unwrap();
        assert!(whereabouts.known(0).is_none());
        // version 1: one number for all
        whereabouts.is_unified = false;
        whereabouts.of(ourselves, 8).unwrap();
        assert!(whereabouts.known(8).is_none());
        whereabouts.learn(8, "/docker".into());
        assert!(whereabouts.paths.is_empty());
    }
}
