//! A pod's volumes, as the kubelet makes them on the node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::manifest::{Files, Manifest};
use crate::node::Node;

static WRITES: AtomicU32 = AtomicU32::new(0);

/// All volumes of a pod; unmounted and removed when dropped.
#[derive(Debug)]
pub struct Volumes {
    /// The pod's folder, as the tests see it.
    folder: PathBuf,
    places: BTreeMap<String, PathBuf>,
    mounts: Vec<PathBuf>,
}

impl Volumes {
    pub fn make(node: &Node, uid: &str, manifest: &Manifest) -> Result<Self> {
        let mut volumes = Self {
            folder: node.path(format!("/var/lib/kubelet/pods/{uid}")),
            places: BTreeMap::new(),
            mounts: Vec::new(),
        };
        for volume in manifest.pod["spec"]["volumes"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let name = volume["name"].as_str().context("a volume without a name")?;
            let place = volumes
                .volume(node, name, volume, manifest)
                .with_context(|| format!("volume {name}"))?;
            volumes.places.insert(name.to_owned(), place);
        }
        Ok(volumes)
    }

    /// Where a volume is.
    pub fn place(&self, name: &str) -> Result<&Path> {
        let place = self.places.get(name);
        Ok(place.with_context(|| format!("no volume {name}"))?)
    }

    /// Replaces all files of a `ConfigMap`'s or Secret's volume at once, as the kubelet does when it changed.
    pub fn update(&self, name: &str, files: &Files) -> Result<()> {
        replace(self.place(name)?, files)
    }

    fn volume(
        &mut self,
        node: &Node,
        name: &str,
        volume: &Value,
        manifest: &Manifest,
    ) -> Result<PathBuf> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let empty = Files::new();
        if !volume["configMap"].is_null() {
            let place = self.folder("configmap", name)?;
            let files = manifest
                .config_maps
                .get(&text(&volume["configMap"]["name"]));
            replace(&place, files.context("no such ConfigMap")?)?;
            return Ok(place);
        }
        if !volume["secret"].is_null() {
            let place = self.folder("secret", name)?;
            self.memory(&place, None)?;
            let files = manifest.secrets.get(&text(&volume["secret"]["secretName"]));
            replace(&place, files.context("no such Secret")?)?;
            return Ok(place);
        }
        if !volume["emptyDir"].is_null() {
            let place = self.folder("empty-dir", name)?;
            if volume["emptyDir"]["medium"] == "Memory" {
                self.memory(&place, volume["emptyDir"]["sizeLimit"].as_str())?;
            }
            fs::set_permissions(&place, Permissions::from_mode(0o777))?;
            return Ok(place);
        }
        if !volume["downwardAPI"].is_null() {
            let place = self.folder("downward-api", name)?;
            let mut files = empty;
            for item in volume["downwardAPI"]["items"]
                .as_array()
                .into_iter()
                .flatten()
            {
                let field = text(&item["fieldRef"]["fieldPath"]);
                let value = match field.as_str() {
                    "metadata.labels" => listed(&manifest.pod["metadata"]["labels"]),
                    other => bail!("a field that this node does not know: {other}"),
                };
                files.insert(text(&item["path"]), value);
            }
            replace(&place, &files)?;
            return Ok(place);
        }
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            return Ok(node.path(path));
        }
        bail!("of a kind that this node does not know: {volume}")
    }

    fn folder(&self, plugin: &str, name: &str) -> Result<PathBuf> {
        let place = self
            .folder
            .join(format!("volumes/kubernetes.io~{plugin}/{name}"));
        fs::create_dir_all(&place)?;
        Ok(place)
    }

    fn memory(&mut self, place: &Path, limit: Option<&str>) -> Result<()> {
        // `1Mi` is `1M` to tmpfs.
        let options = limit.map(|limit| format!("size={}", limit.trim_end_matches('i')));
        let kind = Some("tmpfs");
        mount(kind, place, kind, MsFlags::empty(), options.as_deref())?;
        self.mounts.push(place.to_owned());
        Ok(())
    }
}

impl Drop for Volumes {
    fn drop(&mut self) {
        for place in self.mounts.iter().rev() {
            let _ = umount2(place, MntFlags::MNT_DETACH);
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Labels as the downward API writes them.
fn listed(labels: &Value) -> String {
    let mut text = String::new();
    for (name, value) in labels.as_object().into_iter().flatten() {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// A new folder with the files, and one rename of the link `..data` that leads to it.
fn replace(place: &Path, files: &Files) -> Result<()> {
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let data = place.join("..data");
    let before = fs::read_link(&data).ok();
    let name = format!("..2026_11_21_{number}");
    let new = place.join(&name);
    fs::create_dir(&new)?;
    for (file, text) in files {
        fs::write(new.join(file), text)?;
        fs::set_permissions(new.join(file), Permissions::from_mode(0o644))?;
        let link = place.join(file);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(file), link)?;
        }
    }
    let next = place.join("..data_tmp");
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    if let Some(before) = before {
        fs::remove_dir_all(place.join(before))?;
    }
    Ok(())
}
