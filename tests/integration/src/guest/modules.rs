//! Finds kernel modules and the modules they need, in the order in which to load them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The modules of one kernel.
#[derive(Debug)]
pub struct Modules {
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl Modules {
    /// Reads what there is in a modules' tree.
    pub fn open(tree: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        let mut folders = vec![tree.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .with_context(|| format!("cannot list {}", folder.display()))?;
            for entry in entries {
                let entry = entry?;
                let path = entry.path();
                if entry.file_type()?.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko") {
                    files.insert(module_name(&path), path);
                }
            }
        }
        let list = tree.join("modules.builtin");
        let builtin =
            fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
        Ok(Self {
            files,
            builtin: builtin
                .lines()
                .map(|line| module_name(Path::new(line)))
                .collect(),
        })
    }

    /// The files to load for the modules asked, dependencies first. Built-in ones need none.
    pub fn closure(&self, wanted: &[String]) -> Result<Vec<PathBuf>> {
        let mut order = Vec::new();
        for name in wanted {
            self.visit(&name.replace('-', "_"), &mut order)?;
        }
        Ok(order)
    }

    fn visit(&self, name: &str, order: &mut Vec<PathBuf>) -> Result<()> {
        let Some(path) = self.files.get(name) else {
            if self.builtin.contains(name) {
                return Ok(());
            }
            bail!(
                "this kernel has no module {name}; take it out of the list, or choose another kernel"
            );
        };
        if order.contains(path) {
            return Ok(());
        }
        let content = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        for needed in dependencies(&content) {
            self.visit(&needed, order)?;
        }
        order.push(path.clone());
        Ok(())
    }
}

/// The name by which modules know each other.
fn module_name(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .replace('-', "_")
}

/// The modules that a module's `.modinfo` section names in its `depends=` entry.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[start + KEY.len()..];
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{dependencies, module_name};
    use std::path::Path;

    #[test]
    fn dependencies_come_from_modinfo() {
        assert_eq!(
            dependencies(b"\x7fELF\0license=GPL\0depends=virtio,virtio-ring\0name=x\0"),
            ["virtio", "virtio_ring"]
        );
        assert!(dependencies(b"\0depends=\0name=x").is_empty());
        assert!(dependencies(b"").is_empty());
    }

    #[test]
    fn dashes_and_underscores_are_one() {
        assert_eq!(
            module_name(Path::new("kernel/a/virtio-rng.ko")),
            "virtio_rng"
        );
    }
}
