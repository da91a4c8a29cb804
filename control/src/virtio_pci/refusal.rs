//! What a driver writes in vain.

use std::io;

use virtnet_rings::SetupError;

use super::shadow::{Broken, LocalError};
use crate::pci::sriov::Misfit;

/// Why a write changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// There is no register of this length that can be written.
    #[error("BAR {bar}, offset {offset:#x}: no register of {len_bytes} bytes to be written")]
    Register {
        /// Which BAR.
        bar: usize,
        /// Where in it.
        offset: u64,
        /// Bytes written.
        len_bytes: usize,
    },
    /// The register does not take this value, or not now.
    #[error("{register} is {found:#x}; {allowed}")]
    Value {
        /// The register, as the specification calls it.
        register: &'static str,
        /// What was written.
        found: u64,
        /// What it may be, and when.
        allowed: &'static str,
    },
    /// The queue is not possible.
    #[error("queue {index}: {source}")]
    Queue {
        /// Which one.
        index: usize,
        /// What is wrong with it.
        source: SetupError,
    },
    /// The device does not take the queue.
    #[error("queue {index}: {why}")]
    Device {
        /// Which one.
        index: usize,
        /// Its words.
        why: &'static str,
    },
    /// There can be no shadow of the queue.
    #[error("queue {index}: {source}")]
    Shadow {
        /// Which one.
        index: usize,
        /// What there is not.
        source: LocalError,
    },
    /// The queue, in memory that is reached by messages, cannot go on.
    #[error("queue {index}: {why}")]
    Broken {
        /// Which one.
        index: usize,
        /// What is wrong with it.
        why: Broken,
    },
    /// The system does not give us what the queue takes.
    #[error("queue {index}: {source}")]
    System {
        /// Which one.
        index: usize,
        /// Its answer.
        source: io::Error,
    },
}

impl From<Misfit> for Refusal {
    fn from(Misfit { register, found, allowed }: Misfit) -> Self {
        Self::Value { register, found, allowed }
    }
}

impl Refusal {
    /// The outcome's name, as in its counter and in the documentation.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "register",
            Self::Value { .. } => "value",
            Self::Queue { .. } => "ring",
            Self::Broken { .. } => "broken",
            Self::Device { .. } => "device",
            Self::System { .. } | Self::Shadow { .. } => "system",
        }
    }
}
