//! Where the service's socket is, and what survives its restart.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

/// Who asks, and with which environment.
pub struct Folders {
    is_root: bool,
    variable: fn(&str) -> Option<OsString>,
}

impl Folders {
    /// As this process is.
    pub fn of_process() -> Self {
        Self { is_root: rustix::process::geteuid().is_root(), variable: |name| std::env::var_os(name) }
    }

    /// The run folder: the one given, or the one that the service uses without being told.
    ///
    /// # Errors
    /// Neither is known.
    pub fn run(&self, given: Option<&Path>) -> Result<PathBuf> {
        match (given, self.is_root, self.set("XDG_RUNTIME_DIR")) {
            (Some(given), ..) => Ok(given.into()),
            (None, true, _) => Ok("/run/virtnet".into()),
            (None, false, Some(folder)) => Ok(folder.join("virtnet")),
            _ => bail!("XDG_RUNTIME_DIR is not set: say where sockets are with --run-dir or VIRTNET_RUN_DIR"),
        }
    }

    /// The state folder: the one given, the one in a run folder that was given, or the one that the service uses without
    /// being told.
    ///
    /// # Errors
    /// None is known.
    pub fn state(&self, given: Option<&Path>, run_dir: Option<&Path>) -> Result<PathBuf> {
        match (given, run_dir) {
            (Some(given), _) => return Ok(given.into()),
            (None, Some(run_dir)) => return Ok(run_dir.join("state")),
            (None, None) if self.is_root => return Ok("/var/lib/virtnet".into()),
            _ => {}
        }
        match (self.set("XDG_STATE_HOME"), self.set("HOME")) {
            (Some(folder), _) => Ok(folder.join("virtnet")),
            (None, Some(home)) => Ok(home.join(".local/state/virtnet")),
            _ => bail!("HOME is not set: say where the service's state is with --state-dir or VIRTNET_STATE_DIR"),
        }
    }

    fn set(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}
