//! Manifests: read, given their sidecar by `kernelseal inject`, and taken apart.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, bail};
use kernelseal_integration::agent::Agent;
use kernelseal_integration::process::run;
use kernelseal_integration::scratch::Scratch;
use serde_json::Value;

use crate::node::KERNELSEAL;

/// The files of a `ConfigMap` or a Secret.
pub type Files = BTreeMap<String, String>;

/// A pod, and what its volumes are made of.
#[derive(Clone, Debug)]
pub struct Manifest {
    pub pod: Value,
    pub config_maps: BTreeMap<String, Files>,
    pub secrets: BTreeMap<String, Files>,
}

impl Manifest {
    /// Adds the sidecar with these options besides the image, and reads the result.
    pub fn injected(text: &str, options: &[&str]) -> Result<Self> {
        let scratch = Scratch::new()?;
        let file = scratch.file("pod.yaml", text)?;
        let mut inject = Agent::command(&["inject", "--image", KERNELSEAL, "-f"]);
        Self::read(&run(inject.arg(file).args(options))?)
    }

    /// Reads documents of YAML.
    pub fn read(text: &str) -> Result<Self> {
        let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
        let mut pod = None;
        let mut manifest = Self {
            pod: Value::Null,
            config_maps: BTreeMap::new(),
            secrets: BTreeMap::new(),
        };
        for document in documents {
            let name = document["metadata"]["name"].as_str().context("no name")?;
            match document["kind"].as_str() {
                Some("ConfigMap") => {
                    let files = files(&document["data"])?;
                    manifest.config_maps.insert(name.to_owned(), files);
                }
                Some("Secret") => {
                    let files = files(&document["stringData"])?;
                    manifest.secrets.insert(name.to_owned(), files);
                }
                Some("Pod") => pod = Some(document),
                kind => bail!("{kind:?} is nothing that this node knows"),
            }
        }
        manifest.pod = pod.context("no pod in the manifest")?;
        Ok(manifest)
    }

    /// The same with other images for its containers, by their names.
    pub fn with_images(mut self, images: &[(&str, &str)]) -> Self {
        for list in ["initContainers", "containers"] {
            for container in self.pod["spec"][list].as_array_mut().into_iter().flatten() {
                for (name, image) in images {
                    if container["name"] == *name {
                        container["image"] = (*image).into();
                    }
                }
            }
        }
        self
    }
}

fn files(data: &Value) -> Result<Files> {
    let entries = data.as_object().context("no data")?.iter();
    entries
        .map(|(name, text)| {
            let text = text.as_str().context("data that is no text")?;
            Ok((name.clone(), text.to_owned()))
        })
        .collect()
}

/// A manifest of the repository's, which the guest has in a folder.
pub fn shipped(name: &str) -> Result<String> {
    let folder = std::env::var_os("KERNELSEAL_DEPLOY").map_or_else(
        || "/usr/share/kernelseal/deploy".into(),
        std::path::PathBuf::from,
    );
    let file = folder.join(name);
    fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
}
