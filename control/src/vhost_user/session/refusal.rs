//! Why a message was refused, and how often.

use std::io;

use virtnet_rings::SetupError;
use virtnet_rings::memory::{MapError, MemoryError};

use super::super::message::{Outcome, ProtocolError};

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
        OUTCOMES[self.index()]
    }

    const fn index(&self) -> usize {
        let own = Outcome::ALL.len();
        match self {
            Self::Protocol(error) => error.outcome() as usize,
            Self::Memory { .. } => own,
            Self::Map { .. } => own + 1,
            Self::Ring { .. } => own + 2,
            Self::Device { .. } => own + 3,
            Self::System { .. } => own + 4,
        }
    }
}

const OUTCOME_COUNT: usize = Outcome::ALL.len() + 5;

/// Every way a message can be refused, by name.
pub const OUTCOMES: [&str; OUTCOME_COUNT] = {
    let mut names = [""; OUTCOME_COUNT];
    let mut at = 0;
    while at < Outcome::ALL.len() {
        names[at] = Outcome::ALL[at].name();
        at += 1;
    }
    names[at] = "memory";
    names[at + 1] = "map";
    names[at + 2] = "ring";
    names[at + 3] = "device";
    names[at + 4] = "system";
    names
};

/// What came over a device's sockets, counted over all its sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages taken, good or bad.
    pub messages: u64,
    /// Times that a device went on after it had needed a reset.
    pub recoveries: u64,
    refused: [u64; OUTCOME_COUNT],
}

impl Counters {
    /// Counts one refusal.
    pub fn count(&mut self, refusal: &Refusal) {
        self.refused[refusal.index()] += 1;
    }

    /// Adds what was counted elsewhere.
    pub fn add(&mut self, other: &Self) {
        self.messages += other.messages;
        self.recoveries += other.recoveries;
        for (total, count) in self.refused.iter_mut().zip(other.refused) {
            *total += count;
        }
    }

    /// Messages refused, for whatever reason.
    pub fn refused(&self) -> u64 {
        self.refused.iter().sum()
    }

    /// Messages refused by outcome, those that did occur.
    pub fn by_outcome(&self) -> impl Iterator<Item = (&'static str, u64)> {
        OUTCOMES.into_iter().zip(self.refused).filter(|(_, count)| *count != 0)
    }
}
