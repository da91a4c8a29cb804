//! Why a message was refused.

use std::io;

use rustix::io::Errno;
use virtnet_rings::memory::{MapError, MemoryError, REGIONS_MAX};

use super::super::message::{ProtocolError, RegionAccess};
use crate::transport::line;
use crate::virtio_pci;

/// Why a message was refused. The session goes on, unless [`ProtocolError::ends_the_session`].
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It breaks the protocol.
    #[error(transparent)]
    Protocol(#[from] ProtocolError),
    /// The memory it describes cannot be mapped.
    #[error("DMA_MAP: {0}")]
    Memory(#[from] MemoryError),
    /// Some of it is mapped already.
    #[error("DMA_MAP: {len_bytes:#x} bytes at {address:#x}, and {:#x} at {:#x} are mapped already", other.1, other.0)]
    Mapped {
        /// First address.
        address: u64,
        /// Bytes.
        len_bytes: u64,
        /// Address and bytes of what is mapped.
        other: (u64, u64),
    },
    /// As much is mapped as can be.
    #[error("DMA_MAP: {REGIONS_MAX} are mapped, and no more can be")]
    Maps,
    /// Only a part of what was mapped is to go.
    #[error("DMA_UNMAP: {len_bytes:#x} bytes at {address:#x}; {:#x} at {:#x} go together", map.1, map.0)]
    Cut {
        /// First address.
        address: u64,
        /// Bytes.
        len_bytes: u64,
        /// Address and bytes of what was mapped.
        map: (u64, u64),
    },
    /// There are no such registers.
    #[error("region {}, offset {:#x}: {:#x} bytes; it has {len_bytes:#x}", access.region, access.offset, access.count)]
    Bounds {
        /// Which registers.
        access: RegionAccess,
        /// Bytes of the region.
        len_bytes: u64,
    },
    /// There are no such interrupts.
    #[error("SET_IRQS: {count:#x} interrupts of kind {index} from {start:#x} on; there are {there:#x}")]
    Irqs {
        /// Which kind.
        index: u32,
        /// The first of them.
        start: u32,
        /// How many.
        count: u32,
        /// How many there are.
        there: u32,
    },
    /// Interrupts cannot go there.
    #[error("SET_IRQS: the descriptor's file mode is {mode:#o}; allowed is {}", line::ALLOWED)]
    Descriptor {
        /// What it is.
        mode: u32,
    },
    /// What a driver writes makes no sense. The client is not told.
    #[error("{source}")]
    Register {
        /// Where.
        access: RegionAccess,
        /// What is wrong with it.
        source: virtio_pci::Refusal,
    },
    /// That is not possible on the way elsewhere.
    #[error("migration: {0}")]
    Migration(&'static str),
    /// A ring cannot go on. The client has asked for nothing.
    #[error("{0}")]
    Ring(virtio_pci::Refusal),
    /// The system does not give us what it takes.
    #[error("{0}")]
    System(#[from] io::Error),
}

impl Refusal {
    /// The outcome's name, as in its counter and in the documentation.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Protocol(error) => error.name(),
            Self::Memory(_) => "memory",
            Self::Mapped { .. } => "mapped",
            Self::Maps => "maps",
            Self::Cut { .. } => "cut",
            Self::Bounds { .. } => "bounds",
            Self::Irqs { .. } => "irqs",
            Self::Descriptor { .. } => "descriptor",
            Self::Register { source, .. } | Self::Ring(source) => source.name(),
            Self::Migration(_) => "migration",
            Self::System(_) => "system",
        }
    }

    /// What the client is told.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Protocol(error) => error.errno(),
            Self::Memory(MemoryError::Map { source: MapError::System { source, .. }, .. }) => *source,
            Self::Memory(MemoryError::Map { source: MapError::Guards { .. }, .. }) => Errno::NOMEM,
            Self::Memory(MemoryError::TooMany { .. }) | Self::Maps => Errno::NOSPC,
            Self::Mapped { .. } => Errno::EXIST,
            Self::System(error) => Errno::from_io_error(error).unwrap_or(Errno::IO),
            Self::Memory(_)
            | Self::Cut { .. }
            | Self::Bounds { .. }
            | Self::Irqs { .. }
            | Self::Descriptor { .. }
            | Self::Register { .. }
            | Self::Migration(_)
            | Self::Ring(_) => Errno::INVAL,
        }
    }
}
