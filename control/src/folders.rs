//! Where the service's socket is, and what survives its restart.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

/// Where the product has its configuration.
const PRODUCT_CONFIG: &str = "/opt/mellanox/mlnx_virtnet/virtnet.conf";

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

    /// The configuration: the product's where it is, otherwise the one of the service's unit.
    ///
    /// # Errors
    /// Neither is known.
    pub fn config(&self) -> Result<PathBuf> {
        let folder = match (self.is_root, self.set("XDG_CONFIG_HOME"), self.set("HOME")) {
            _ if Path::new(PRODUCT_CONFIG).exists() => return Ok(PRODUCT_CONFIG.into()),
            (true, ..) => "/etc".into(),
            (false, Some(folder), _) => folder,
            (false, None, Some(home)) => home.join(".config"),
            _ => bail!("HOME is not set: say where the configuration is with -f"),
        };
        Ok(folder.join("virtnet/virtnet.conf"))
    }

    fn set(&self, name: &str) -> Option<PathBuf> {
        (self.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }
}

/// A folder that is one controller's, as long as this is kept and however its process ends.
#[derive(Debug)]
pub struct Claim {
    _folder: OwnedFd,
}

impl Claim {
    /// Claims a folder.
    ///
    /// # Errors
    /// Another controller has it, or the system's.
    pub fn of(path: &Path) -> Result<Self> {
        let opened = open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let folder = opened.with_context(|| format!("opening the folder {}", path.display()))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _folder: folder }),
            Err(Errno::WOULDBLOCK) => bail!("{}: another controller uses it", path.display()),
            Err(errno) => Err(errno).with_context(|| format!("claiming the folder {}", path.display())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Option<&Path> {
        Some(Path::new(text))
    }

    #[test]
    fn a_folder_is_one_controllers() {
        let folder = tempfile::tempdir().unwrap();
        let claim = Claim::of(folder.path()).unwrap();
        assert!(Claim::of(folder.path()).unwrap_err().to_string().contains("another controller"));
        drop(claim);
        Claim::of(folder.path()).unwrap();
        assert!(Claim::of(&folder.path().join("nowhere")).unwrap_err().to_string().contains("nowhere"));
    }

    #[test]
    fn what_is_given_counts_for_everybody() {
        for is_root in [false, true] {
            let folders = Folders { is_root, variable: |_| Some("/other".into()) };
            assert_eq!(folders.run(path("/a")).unwrap(), Path::new("/a"));
            assert_eq!(folders.state(None, path("/a")).unwrap(), Path::new("/a/state"));
            assert_eq!(folders.state(path("/b"), path("/a")).unwrap(), Path::new("/b"));
        }
    }

    #[test]
    fn root_has_folders_of_the_system() {
        let root = Folders { is_root: true, variable: |_| Some("/other".into()) };
        assert_eq!(root.run(None).unwrap(), Path::new("/run/virtnet"));
        assert_eq!(root.state(None, None).unwrap(), Path::new("/var/lib/virtnet"));
    }

    #[test]
    fn the_configuration_is_the_products_or_the_units() {
        let config = |is_root, variable| Folders { is_root, variable }.config().map_err(|error| error.to_string());
        let at = |path: &str| Ok(if Path::new(PRODUCT_CONFIG).exists() { PRODUCT_CONFIG } else { path }.into());
        assert_eq!(config(true, |_| None), at("/etc/virtnet/virtnet.conf"));
        assert_eq!(config(false, |name| Some(format!("/{name}").into())), at("/XDG_CONFIG_HOME/virtnet/virtnet.conf"));
        let home = |name: &str| (name == "HOME").then(|| "/home/a".into());
        assert_eq!(config(false, home), at("/home/a/.config/virtnet/virtnet.conf"));
    }

    #[test]
    fn others_have_their_own() {
        let xdg = Folders { is_root: false, variable: |name| Some(format!("/{name}").into()) };
        assert_eq!(xdg.run(None).unwrap(), Path::new("/XDG_RUNTIME_DIR/virtnet"));
        assert_eq!(xdg.state(None, None).unwrap(), Path::new("/XDG_STATE_HOME/virtnet"));
        let home = Folders { is_root: false, variable: |name| (name == "HOME").then(|| "/home/a".into()) };
        assert_eq!(home.state(None, None).unwrap(), Path::new("/home/a/.local/state/virtnet"));
        assert!(home.run(None).unwrap_err().to_string().contains("VIRTNET_RUN_DIR"));
        let empty = Folders { is_root: false, variable: |_| Some(OsString::new()) };
        assert!(empty.run(None).unwrap_err().to_string().contains("VIRTNET_RUN_DIR"));
        assert!(empty.state(None, None).unwrap_err().to_string().contains("VIRTNET_STATE_DIR"));
    }
}
