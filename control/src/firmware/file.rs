//! The store's file: read as a whole or not at all, replaced in one step, by one writer at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::limits;
use super::store::StoreError;
use super::values::Values;

const NAME: &str = "firmware.json";
/// The lock has a file of its own: the other one is replaced.
const LOCK: &str = "firmware.lock";
/// Ten times what all entries take.
const BYTES_MAX: u64 = 65536;
/// How long a writer waits between two looks at the lock.
const LOCK_LOOK: Duration = Duration::from_millis(10);

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    pub current: Values,
    pub next_boot: Values,
}

pub fn path(dir: &Path) -> PathBuf {
    dir.join(NAME)
}

/// Reads the file of a folder; all defaults without one.
pub fn read(dir: &Path) -> Result<Contents, StoreError> {
    let path = path(dir);
    // A pipe of that name must not hold us up.
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Contents::default()),
        file => file,
    };
    let contain = |source| StoreError::Read { path: path.clone(), source };
    let file = file.map_err(contain)?;
    if !file.metadata().map_err(contain)?.is_file() {
        return Err(StoreError::NotAFile { path });
    }
    let mut text = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut text).map_err(contain)?;
    if text.len() as u64 > BYTES_MAX {
        return Err(StoreError::Long { path, allowed: BYTES_MAX });
    }
    let contents: Contents =
        serde_json::from_slice(&text).map_err(|source| StoreError::Value { path: path.clone(), source })?;
    for (column, values) in [("current", &contents.current), ("next_boot", &contents.next_boot)] {
        limits::check(values).map_err(|source| StoreError::Limits { path: path.clone(), column, source })?;
    }
    Ok(contents)
}

/// Replaces the file of a folder. After a crash there is the old one or the new one.
pub fn write(dir: &Path, contents: &Contents) -> Result<(), StoreError> {
    let replace = || {
        let mut text = serde_json::to_vec_pretty(contents)?;
        text.push(b'\n');
        let mut file = tempfile::Builder::new().prefix(&format!(".{NAME}.")).tempfile_in(dir)?;
        file.write_all(&text)?;
        file.as_file().sync_all()?;
        file.persist(path(dir))?;
        File::open(dir)?.sync_all()
    };
    replace().map_err(|source| StoreError::Write { path: path(dir), source })
}

/// Makes the folder where it is missing, and keeps other writers out until the lock is dropped.
pub fn lock(dir: &Path, patience: Duration) -> Result<File, StoreError> {
    let path = dir.join(LOCK);
    let contain = |source| StoreError::Write { path: path.clone(), source };
    DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(contain)?;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NONBLOCK);
    let lock = options.open(&path).map_err(contain)?;
    let since = Instant::now();
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) if since.elapsed() < patience => std::thread::sleep(LOCK_LOOK),
            Err(Errno::WOULDBLOCK) => return Err(StoreError::Busy { path, patience }),
            Err(errno) => return Err(contain(errno.into())),
        }
    }
}
