//! Why a recovery file is not used, or not written.

use std::path::PathBuf;

use super::folder::{FILE_BYTES_MAX, FILES_MAX, FOREIGN_MAX, VUID_CHARS_MAX};

/// A file, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{file:?}: {fault}")]
pub struct RecoveryError {
    /// The file, or the folder.
    pub file: PathBuf,
    /// What is wrong.
    pub fault: Fault,
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The system said no.
    #[error("{what}: {error}")]
    System {
        /// What was being done.
        what: &'static str,
        /// What it said.
        error: std::io::Error,
    },
    /// It would be named by something that is not a VUID.
    #[error("{vuid:?} is no VUID: 1 to {VUID_CHARS_MAX} letters, digits, '-' and '_' are allowed")]
    Vuid {
        /// What was given.
        vuid: String,
    },
    /// It is not one of ours. It was neither opened nor followed.
    #[error("{what}, left alone: only regular files named <VUID>.json belong here")]
    Foreign {
        /// What it is.
        what: &'static str,
    },
    /// It is too long to be one of ours. It was not read.
    #[error("{len_bytes} bytes, at most {FILE_BYTES_MAX} are allowed")]
    Long {
        /// Its length.
        len_bytes: u64,
    },
    /// Its JSON is broken, or a key or value is not as it should be.
    #[error("{0}")]
    Value(serde_json::Error),
    /// Values that do not go together.
    #[error("{0}")]
    Contradiction(String),
    /// Another file says the same of its function.
    #[error("{key} {value} is that of {first} already; this file is not used")]
    Twice {
        /// Which key, or keys.
        key: &'static str,
        /// Its value.
        value: String,
        /// The VUID of the file that is used.
        first: String,
    },
    /// There is too much in the folder.
    #[error("{count} entries are not looked at, behind {FILES_MAX} files and {FOREIGN_MAX} entries that are not ours")]
    Crowded {
        /// How many.
        count: usize,
    },
}
