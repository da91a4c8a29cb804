//! Why a message was refused.

use std::io;

use virtnet_rings::SetupError;
use virtnet_rings::memory::{MapError, MemoryError};

use super::super::message::ProtocolError;

/// Why a message was refused. The session goes on, unless [`ProtocolError::ends_the_session`].
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It breaks the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The memory it describes cannot be mapped.
    #[error("{request}: {source}")]
    Memory {
        /// The request.
        request: &'static str,
        /// What is wrong with it.
        source: MemoryError,
    },
    /// A translation to what is not shared.
    #[error(
        "IOTLB_MSG: {len_bytes:#x} bytes at user address {user_addr:#x} do not lie in one region of the memory table"
    )]
    Outside {
        /// First user address.
        user_addr: u64,
        /// Bytes.
        len_bytes: u64,
    },
    /// The dirty log or the in-flight buffer cannot be mapped.
    #[error("{request}: {source}")]
    Map {
        /// The request.
        request: &'static str,
        /// What is wrong with it.
        source: MapError,
    },
    /// The ring it completes is not possible.
    #[error("{request}: ring {index}: {source}")]
    Ring {
        /// The request that completed or changed the ring.
        request: &'static str,
        /// Which ring.
        index: usize,
        /// What is wrong with it.
        source: SetupError,
    },
    /// The device does not take it.
    #[error("{request}: {why}")]
    Device {
        /// The request.
        request: &'static str,
        /// Its words.
        why: &'static str,
    },
    /// The system does not give us what it takes.
    #[error("{request}: {source}")]
    System {
        /// The request.
        request: &'static str,
        /// Its answer.
        source: io::Error,
    },
}

impl Refusal {
    /// The outcome's name, as in its counter and in the documentation.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Protocol(error) => error.outcome().name(),
            Self::Memory { .. } => "memory",
            Self::Outside { .. } => "outside",
            Self::Map { .. } => "map",
            Self::Ring { .. } => "ring",
            Self::Device { .. } => "device",
            Self::System { .. } => "system",
        }
    }
}
