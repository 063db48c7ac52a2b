//! What the kubelet mounts into every container: a file for its last words, out of a folder that has the
//! container's name (`…/pods/<uid>/containers/<name>/<random>`).
//!
//! A process can mount what it likes into a namespace of its own, but not another container's such file: it
//! lies on the node, and `mountinfo` tells of each mount which file system it is of and where in that.

/// A container's name, as a mount tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// The file system: `major:minor`, and the path in it of the kubelet's folder of pods.
    folder: (String, String),
    /// Kubernetes' uid of the pod.
    pub(crate) pod: String,
    /// The container's name.
    pub(crate) name: String,
}

impl Mounted {
    /// Those in `/proc/<pid>/mountinfo` (`proc_pid_mountinfo(5)`).
    pub(crate) fn all(mountinfo: &[u8]) -> impl Iterator<Item = Self> {
        mountinfo.split(|byte| *byte == b'\n').filter_map(|line| {
            let mut fields = std::str::from_utf8(line).ok()?.split(' ');
            let file_system = fields.nth(2)?.to_owned();
            // from the end: the folder's own path may have such names, too
            let mut names = fields.next()?.rsplit('/');
            let (_random, name, containers) = (names.next()?, names.next()?, names.next()?);
            let (pod, pods) = (names.next()?, names.next()?);
            let is_kubelets = containers == "containers" && pods == "pods";
            let above: Vec<&str> = names.collect();
            (is_kubelets && !name.is_empty() && !pod.is_empty()).then(|| Self {
                folder: (file_system, above.join("/")),
                pod: pod.to_owned(),
                name: name.to_owned(),
            })
        })
    }

    /// Whether both are of the same kubelet.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        self.folder == other.folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: &str = "/var/lib/kubelet";
    const UID: &str = "0a1b2c3d-1111-2222-3333-444455556666";

    fn line(device: &str, root: &str, name: &str) -> String {
        format!(
            "512 490 {device} {root}/pods/{UID}/containers/{name}/9f1c2ab3 /dev/termination-log rw,relatime - ext4 /dev/sda1 rw\n"
        )
    }

    fn only(text: &str) -> Mounted {
        let mut all = Mounted::all(text.as_bytes());
        let found = all.next().expect("a mount");
        assert_eq!(all.next(), None);
        found
    }

    #[test]
    fn a_container_is_told_by_name() {
        let other = format!(
            "9 1 0:45 / / rw - overlay overlay rw\n10 9 8:1 {ROOT}/pods/{UID}/etc-hosts /etc/hosts rw - ext4 a rw\n"
        );
        let found = only(&format!("{other}{}", line("8:1", ROOT, "app")));
        assert_eq!((found.pod.as_str(), found.name.as_str()), (UID, "app"));
    }

    #[test]
    fn another_file_system_or_folder_is_not_beside() {
        let ours = only(&line("8:1", ROOT, "kernelseal"));
        assert!(ours.is_beside(&only(&line("8:1", ROOT, "app"))));
        // what a container can write to: a file system of its own, a volume on the kubelet's
        assert!(!ours.is_beside(&only(&line("0:77", ROOT, "app"))));
        let volume = format!("{ROOT}/pods/{UID}/volumes/kubernetes.io~empty-dir/tmp");
        assert!(!ours.is_beside(&only(&line("8:1", &volume, "app"))));
        assert!(!ours.is_beside(&only(&line("8:1", "", "app"))));
    }

    #[test]
    fn other_mounts_tell_nothing() {
        for text in [
            "",
            "1 2 8:1",
            "1 2 8:1 /",
            "1 2 8:1 /pods/x/containers/ /a rw - ext4 a rw",
            "1 2 8:1 /a/b/containers/app/9 /a rw - ext4 a rw",
            "1 2 8:1 /pods/x/volumes/app/9 /a rw - ext4 a rw",
        ] {
            assert_eq!(Mounted::all(text.as_bytes()).count(), 0, "{text}");
        }
        assert_eq!(Mounted::all(b"1 2 8:1 \xff\xfe\n").count(), 0);
    }
}
