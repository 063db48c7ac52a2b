//! A folder for a test's files, gone with the test.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::probe;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder that everybody may look into.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new and empty one.
    pub fn new() -> Result<Self> {
        Self::within(&env::temp_dir())
    }

    /// The same in a folder of the test's choice.
    pub fn within(folder: &Path) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = folder.join(format!("kernelseal-test-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(Self(path))
    }

    /// Its own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file.
    pub fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Writes a file that can be executed, such as a script.
    pub fn program(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.file(name, content)?;
        fs::set_permissions(&path, Permissions::from_mode(0o755))?;
        Ok(path)
    }

    /// Copies a probe under a name of the test's choice.
    pub fn probe(&self, probe: &str, name: impl AsRef<Path>) -> Result<PathBuf> {
        self.program(name, fs::read(probe::path(probe)?)?)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A test that failed has said more than this could.
        let _ = fs::remove_dir_all(&self.0);
    }
}
