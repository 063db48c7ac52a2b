//! The image that the Dockerfile gives, as `build-image` left it: what is in it, and that containerd runs it.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use kernelseal_integration::probe::ensure_both;
use kernelseal_integration::process::run;
use kernelseal_integration::registry::Registry;
use kernelseal_integration::scratch::Scratch;
use serde_json::{Value, json};

use crate::delivery::{LIMIT, SIDECAR, shop};
use crate::image::import;
use crate::manifests::ensure_narrow;
use crate::node::Lent;
use crate::pod::Pod;

/// The name that `build-image` gave it.
const BUILT: &str = "localhost/kernelseal:built";
/// What the image may take on a node.
const LARGEST: u64 = 25_000_000;

/// Adds this module's tests.
pub fn register(registry: Registry) -> Registry {
    registry
        .slow_test("image::holds_one_static_program", LIMIT, one_program)
        .slow_test("image::runs_as_a_sidecar", LIMIT, a_sidecar)
}

fn archive() -> Result<PathBuf> {
    let path = env::var_os("KERNELSEAL_IMAGE")
        .map_or_else(|| "/usr/share/kernelseal/image.tar".into(), PathBuf::from);
    if !path.is_file() {
        bail!(
            "{} is missing; run `make guest-image`, which builds it",
            path.display()
        );
    }
    Ok(path)
}

fn read(layout: &Path, blob: &Value) -> Result<Value> {
    Ok(serde_json::from_slice(&fs::read(blob_path(
        layout, blob,
    )?)?)?)
}

fn blob_path(layout: &Path, blob: &Value) -> Result<PathBuf> {
    let digest = blob["digest"].as_str().context("no digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

fn one_program() -> Result<()> {
    let scratch = Scratch::new()?;
    let (layout, files) = (scratch.join("layout"), scratch.join("files"));
    fs::create_dir(&layout)?;
    fs::create_dir(&files)?;
    run(Command::new("tar")
        .arg("-xf")
        .arg(archive()?)
        .arg("-C")
        .arg(&layout))?;
    let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
    let manifest = read(&layout, &index["manifests"][0])?;
    let config = read(&layout, &manifest["config"])?["config"].clone();
    ensure!(config["Entrypoint"] == json!(["/kernelseal"]), "{config}");
    ensure!(config["Cmd"] == json!(["run"]), "{config}");
    ensure!(
        config["ExposedPorts"] == json!({"9090/tcp": {}}),
        "{config}"
    );
    // Root: it attaches to programs of any user.
    ensure!(
        config["User"]
            .as_str()
            .is_none_or(|user| user.is_empty() || user == "0"),
        "{config}"
    );
    for layer in manifest["layers"].as_array().context("no layers")? {
        let blob = blob_path(&layout, layer)?;
        let packed = layer["mediaType"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("gzip"));
        let how = if packed { "-xzf" } else { "-xf" };
        run(Command::new("tar").arg(how).arg(blob).arg("-C").arg(&files))?;
    }
    let mut names = BTreeSet::new();
    let mut size = 0;
    for entry in fs::read_dir(&files)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        let name = entry.file_name().to_string_lossy().into_owned();
        ensure!(metadata.is_file(), "{name} is no file");
        ensure!(
            metadata.uid() == 0 && metadata.permissions().mode() & 0o7022 == 0,
            "{name}: {metadata:?}"
        );
        size += metadata.len();
        names.insert(name);
    }
    let wanted = ["LICENSE", "LICENSE-GPL-2.0", "kernelseal"].map(str::to_owned);
    ensure!(names == BTreeSet::from(wanted), "{names:?}");
    ensure!(size < LARGEST, "{size} bytes");
    // By itself in an empty root, so nothing but the kernel is needed.
    let told = run(Command::new("chroot")
        .arg(&files)
        .args(["/kernelseal", "--version"]))?;
    ensure!(told.starts_with("kernelseal "), "{told}");
    println!("{size} bytes");
    Ok(())
}

fn a_sidecar() -> Result<()> {
    let node = Lent::new()?;
    let on_node = node.path("/tmp/kernelseal-image.tar");
    fs::copy(archive()?, &on_node)?;
    let imported = import(&node.root, &on_node);
    fs::remove_file(&on_node)?;
    imported?;
    let pod = Pod::run(&node, shop()?.with_images(&[(SIDECAR, BUILT)]))?;
    ensure_both(&pod.wait_for("checkout", |_| true)?, "hunter2")?;
    let image = pod.image(SIDECAR)?;
    ensure!(image == BUILT, "it runs {image}");
    ensure_narrow(&pod)
}
