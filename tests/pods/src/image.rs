//! Makes images and hands them to containerd; no registry is asked.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use kernelseal_integration::process::run;
use kernelseal_integration::scratch::Scratch;
use kernelseal_integration::system;
use serde_json::{Value, json};

/// An image with one layer.
#[derive(Debug)]
pub struct Image {
    name: &'static str,
    files: Vec<(PathBuf, &'static str)>,
    config: Value,
}

impl Image {
    /// An empty one, with the configuration of OCI's specification.
    pub fn new(name: &'static str, config: Value) -> Self {
        Self {
            name,
            files: Vec::new(),
            config,
        }
    }

    /// The same with a program of this machine's.
    pub fn with(mut self, host: impl Into<PathBuf>, place: &'static str) -> Self {
        self.files.push((host.into(), place));
        self
    }

    /// Makes it an archive (an OCI layout as tar) and imports it on the node with this root.
    pub fn import(&self, root: &Path) -> Result<()> {
        let scratch = Scratch::within(&root.join("tmp"))?;
        let layer = scratch.join("layer");
        for (host, place) in &self.files {
            let target = layer.join(place.trim_start_matches('/'));
            fs::create_dir_all(target.parent().context("no folder")?)?;
            fs::copy(host, &target).with_context(|| format!("cannot copy {}", host.display()))?;
        }
        for folder in ["proc", "sys", "dev", "etc", "tmp", "run"] {
            fs::create_dir_all(layer.join(folder))?;
        }
        if layer.join("bin/busybox").exists() {
            // Links, as busybox's own installer makes them.
            let applets = run(Command::new("/usr/bin/busybox").arg("--list"))?;
            for applet in applets.lines() {
                let link = layer.join("bin").join(applet);
                if !link.exists() {
                    symlink("busybox", link)?;
                }
            }
        }
        let layout = scratch.join("layout");
        let blobs = layout.join("blobs/sha256");
        fs::create_dir_all(&blobs)?;
        let packed = scratch.join("layer.tar");
        pack(&layer, &packed)?;
        let layer = Blob::take(&packed, &blobs)?;
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": [layer.digest()]},
        });
        let config = Blob::write(&config, &scratch, &blobs)?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config.described("application/vnd.oci.image.config.v1+json"),
            "layers": [layer.described("application/vnd.oci.image.layer.v1.tar")],
        });
        let manifest = Blob::write(&manifest, &scratch, &blobs)?;
        let mut entry = manifest.described("application/vnd.oci.image.manifest.v1+json");
        entry["annotations"] = json!({"io.containerd.image.name": self.name});
        entry["platform"] = json!({"architecture": "amd64", "os": "linux"});
        let index = json!({"schemaVersion": 2, "manifests": [entry]});
        fs::write(layout.join("index.json"), index.to_string())?;
        fs::write(
            layout.join("oci-layout"),
            r#"{"imageLayoutVersion":"1.0.0"}"#,
        )?;
        let archive = scratch.join("image.tar");
        pack(&layout, &archive)?;
        import(root, &archive)
    }
}

/// Imports an archive that lies on the node.
pub fn import(root: &Path, archive: &Path) -> Result<()> {
    let inside = Path::new("/").join(archive.strip_prefix(root)?);
    let mut command = system::command(root, "/usr/bin/ctr")?;
    run(command
        .args(["-n", "k8s.io", "images", "import"])
        .arg(inside))?;
    Ok(())
}

fn pack(folder: &Path, archive: &Path) -> Result<()> {
    run(Command::new("tar")
        .arg("-cf")
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .arg("."))?;
    Ok(())
}

/// A file by its digest.
struct Blob {
    sha256: String,
    size: u64,
}

impl Blob {
    fn take(file: &Path, blobs: &Path) -> Result<Self> {
        let text = run(Command::new("sha256sum").arg(file))?;
        let sha256 = text
            .split_whitespace()
            .next()
            .context("no digest")?
            .to_owned();
        let size = fs::metadata(file)?.len();
        fs::rename(file, blobs.join(&sha256))?;
        Ok(Self { sha256, size })
    }

    fn write(value: &Value, scratch: &Scratch, blobs: &Path) -> Result<Self> {
        Self::take(&scratch.file("blob", value.to_string())?, blobs)
    }

    fn digest(&self) -> String {
        format!("sha256:{}", self.sha256)
    }

    fn described(&self, media_type: &str) -> Value {
        json!({"mediaType": media_type, "digest": self.digest(), "size": self.size})
    }
}
