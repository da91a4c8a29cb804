//! What goes wrong in DPDK, and what DPDK has to say about it.

use std::ffi::{NulError, c_int};
use std::io;

/// Why DPDK did not do it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It starts once in a process, and cannot be started again, even if it failed.
    #[error("DPDK has been started in this process before; it can be only once")]
    Started,
    /// It did not start, and cannot be started again.
    #[error("DPDK did not start before, and starts only once in a process")]
    Failed,
    /// A name or an argument holds a zero.
    #[error("a text for DPDK with a zero in it: {0}")]
    Text(#[from] NulError),
    /// It refused.
    #[error("{doing}: {source}{}", said(.log))]
    Refused {
        /// What was tried.
        doing: String,
        /// Its error number.
        source: io::Error,
        /// What it has logged since it was last asked.
        log: String,
    },
}

impl Error {
    /// `code` is the negative errno of a function of the shim.
    pub(crate) fn refused(doing: impl Into<String>, code: c_int) -> Self {
        let source = io::Error::from_raw_os_error(code.checked_neg().unwrap_or_default());
        Error::Refused { doing: doing.into(), source, log: crate::eal::take_log() }
    }
}

fn said(log: &str) -> String {
    if log.trim().is_empty() { String::new() } else { format!("; DPDK said:\n{}", log.trim_end()) }
}
