//! The store: what is in effect, and what will be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::entry::{Entry, EntryError};
use super::file::{self, Contents};
use super::limits::{self, Combination, Limits};
use super::values::Values;

/// How long a change waits for another writer to finish.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a store could not be read or changed. Nothing of a change was done then, unless its file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// What was asked for is wrong.
    #[error(transparent)]
    Entry(#[from] EntryError),
    /// The file cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It is a folder, a pipe, a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// It is longer than any store.
    #[error("{} is longer than {allowed} bytes", path.display())]
    Long {
        /// The file.
        path: PathBuf,
        /// Bytes it may have.
        allowed: u64,
    },
    /// An entry or a value in it is not as it should be.
    #[error("{}: {source}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What, where, and what is allowed.
        source: serde_json::Error,
    },
    /// Its values are not good together.
    #[error("{}: {column}: {source}", path.display())]
    Limits {
        /// The file.
        path: PathBuf,
        /// Which values: `current`, `next_boot`.
        column: &'static str,
        /// What is too much.
        source: Combination,
    },
    /// Another writer does not finish.
    #[error("{} has been locked by another writer for {patience:?}", path.display())]
    Busy {
        /// The lock's file.
        path: PathBuf,
        /// How long we waited.
        patience: Duration,
    },
    /// It cannot be written. When it was replaced and its folder not synced, the change may be lost with the machine's power.
    #[error("writing {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

/// The entries' values, and the folder they are kept in. A store shows what its file held when it was loaded or last changed.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    contents: Contents,
}

impl Store {
    /// Reads `firmware.json` in a state folder; without one every entry has its default.
    ///
    /// # Errors
    /// The file cannot be read, or something in it is wrong. Nothing of it is used then.
    pub fn load(state_dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { dir: state_dir.into(), contents: file::read(state_dir)? })
    }

    /// The file.
    pub fn path(&self) -> PathBuf {
        file::path(&self.dir)
    }

    /// A value in effect since the last start; [`Kind::text`](super::Kind::text) prints it.
    pub fn current(&self, entry: Entry) -> u32 {
        self.contents.current.of(entry)
    }

    /// A value that the next start brings into effect.
    pub fn next(&self, entry: Entry) -> u32 {
        self.contents.next_boot.of(entry)
    }

    /// What the values in effect come to.
    pub fn limits(&self) -> Limits {
        Limits::of(&self.contents.current)
    }

    /// What the next start's values come to.
    pub fn next_limits(&self) -> Limits {
        Limits::of(&self.contents.next_boot)
    }

    /// Whether the next start changes anything.
    pub fn is_pending(&self) -> bool {
        self.contents.current != self.contents.next_boot
    }

    /// Sets values for the next boot, each `(name, value)`: all of them, or none.
    ///
    /// # Errors
    /// A name, a value or what they come to is wrong, or the file cannot be changed.
    pub fn set(&mut self, changes: &[(&str, &str)]) -> Result<(), StoreError> {
        self.change(|contents| {
            contents.next_boot = contents.next_boot.with(changes)?;
            Ok(limits::check(&contents.next_boot).map_err(EntryError::from)?)
        })
    }

    /// Sets every entry to its default for the next boot.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn reset(&mut self) -> Result<(), StoreError> {
        self.change(|contents| {
            contents.next_boot = Values::default();
            Ok(())
        })
    }

    /// What a start does: the next boot's values come into effect. Returns whether any is another than before; what was
    /// kept for functions of the old values is worth nothing then. Who must not forget that in a crash throws it away
    /// when [`is_pending`](Self::is_pending), before, and looks at the answer here for what was set meanwhile.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn apply(&mut self) -> Result<bool, StoreError> {
        let mut changed = false;
        self.change(|contents| {
            changed = contents.current != contents.next_boot;
            contents.current = contents.next_boot.clone();
            Ok(())
        })?;
        Ok(changed)
    }

    /// Changes what the file holds now, which others may have changed since we read it.
    fn change(&mut self, change: impl FnOnce(&mut Contents) -> Result<(), StoreError>) -> Result<(), StoreError> {
        let _lock = file::lock(&self.dir, PATIENCE)?;
        let old = file::read(&self.dir)?;
        let mut new = old.clone();
        change(&mut new)?;
        if new != old {
            file::write(&self.dir, &new)?;
        }
        self.contents = new;
        Ok(())
    }
}
