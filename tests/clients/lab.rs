//! What `scripts/lab` made, and how a test says that it cannot run.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use virtnet_tests::aloud;
use virtnet_tests::programs::profile_folder;
pub use virtnet_tests::programs::{controller, virtnet};

/// One client's test at a time: they share two cores with guests under emulation.
static MACHINE: Mutex<()> = Mutex::new(());

/// The lab's manifest, and the right to use the machine alone.
pub struct Lab {
    manifest: Value,
    _alone: MutexGuard<'static, ()>,
}

/// A guest kernel and its first programs.
pub struct Kernel {
    pub release: String,
    pub image: PathBuf,
    pub initramfs: PathBuf,
    /// The image as a boot loader takes it.
    pub installed: PathBuf,
}

impl Lab {
    /// The lab, if it holds every one of `clients`. Otherwise says aloud why the test is skipped;
    /// with `VIRTNET_REQUIRE_LAB=1` that is a failure.
    pub fn with(clients: &[&str]) -> Option<Lab> {
        let alone = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
        let path = folder().join("lab.json");
        let Ok(text) = std::fs::read_to_string(&path) else {
            skip(&format!("no lab at {} (scripts/lab makes it)", path.display()));
            return None;
        };
        let manifest: Value = serde_json::from_str(&text).expect("lab.json is JSON");
        for client in clients {
            let entry = &manifest["clients"][*client];
            if entry["available"] != Value::Bool(true) {
                let reason = entry["reason"].as_str().unwrap_or("not in the lab");
                skip(&format!("{client}: {reason}"));
                return None;
            }
        }
        Some(Lab { manifest, _alone: alone })
    }

    /// The command that starts `client`.
    pub fn command(&self, client: &str) -> PathBuf {
        self.manifest["clients"][client]["command"].as_str().expect("an available client has a command").into()
    }

    /// Busybox, for what a test does on this side.
    pub fn busybox(&self) -> &Path {
        Path::new(self.manifest["busybox"].as_str().expect("lab.json names busybox"))
    }

    /// Guest kernels, oldest first.
    pub fn kernels(&self) -> Vec<Kernel> {
        let field = |kernel: &Value, key: &str| kernel[key].as_str().expect("lab.json: a kernel's field").to_owned();
        let list = self.manifest["kernels"].as_array().expect("lab.json lists kernels");
        list.iter()
            .map(|kernel| Kernel {
                release: field(kernel, "release"),
                image: field(kernel, "image").into(),
                initramfs: field(kernel, "initramfs").into(),
                installed: field(kernel, "installed").into(),
            })
            .collect()
    }
}

/// Where the lab is: `VIRTNET_LAB`, or beside cargo's profiles.
pub fn folder() -> PathBuf {
    match std::env::var_os("VIRTNET_LAB") {
        Some(folder) => folder.into(),
        None => profile_folder().parent().expect("a profile is in the target folder").join("lab"),
    }
}

/// Says that this test is skipped; with `VIRTNET_REQUIRE_LAB=1` that is a failure.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("VIRTNET_REQUIRE_LAB").is_none_or(|v| v != "1"), "VIRTNET_REQUIRE_LAB=1, but {reason}");
    aloud::skip(reason);
}
