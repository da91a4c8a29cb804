//! The words of the vfio-user protocol, version 0.0, and nothing else: the header, commands of a client, what follows them, how
//! many descriptors come along, limits. ("vfio-user Protocol Specification", QEMU's interoperability documents; numbers are in
//! the machine's own byte order.)
//!
//! [`Request::new`] checks all that can be known without knowing the device. Everything a client can get wrong is a
//! [`ProtocolError`], and has an errno.

mod error;
mod payload;
mod request;
#[cfg(test)]
mod tests;
mod version;

use std::fmt;
use std::ops::RangeInclusive;

pub use error::ProtocolError;
pub use payload::{
    DeviceFeature, DeviceInfo, DmaAccess, DmaLogging, DmaMap, DmaReport, DmaUnmap, IoEventfd, IrqInfo, IrqSet, MigData,
    MigState, RegionAccess, RegionInfo, RegionIoFds,
};
pub use request::{Action, Chosen, Feature, Irqs, Request};
pub use version::Version;

use crate::transport::connection::{self, Head};

/// One end of a vfio-user connection.
pub type Connection = connection::Connection<Header>;
/// A whole message as it came.
pub type Message = connection::Message<Header>;
/// What a connection has for us.
pub type Received = connection::Received<Header>;
/// Why a message could not be received or sent.
pub type SocketError = connection::SocketError<ProtocolError>;

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 16;
/// Bytes that one REGION_READ or REGION_WRITE can move: a whole configuration space.
pub const DATA_BYTES_MAX: usize = 4096;
/// Writes in one REGION_WRITE_MULTI.
pub const WRITES_MAX: usize = 200;
/// Bytes that each of them can write.
pub const WRITE_BYTES_MAX: usize = 8;
/// The longest body that is read, a full REGION_WRITE_MULTI; a header that announces more ends the session.
pub const BODY_BYTES_MAX: usize = 8 + WRITES_MAX * (RegionAccess::LEN_BYTES + WRITE_BYTES_MAX);
/// Descriptors in one message, at most.
pub const DESCRIPTORS_MAX: usize = 16;

/// Regions of a PCI device: six BARs, ROM, configuration space, VGA.
pub const REGIONS: u32 = 9;
/// The region of configuration space.
pub const CONFIG_REGION: u32 = 7;
/// Kinds of interrupts of a PCI device: INTx, MSI, MSI-X, errors, requests.
pub const IRQS: u32 = 5;
/// INTx among them.
pub const INTX_IRQ: u32 = 0;
/// MSI-X among them.
pub const MSIX_IRQ: u32 = 2;

/// Makes the commands of a client: number, bytes of its body, descriptors.
macro_rules! commands {
    ($( $(#[$doc:meta])* $command:ident = $number:literal: bytes $bytes:expr, fds $fds:expr; )*) => {
        /// What a client asks. ("Commands")
        // The letters are the specification's, so that a search finds both.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum Command { $( $(#[$doc])* $command = $number, )* }

        impl Command {
            /// Every command, by number.
            pub const ALL: &[Self] = &[$(Self::$command,)*];

            /// The command with this number.
            pub const fn from_number(number: u16) -> Option<Self> {
                match number { $($number => Some(Self::$command),)* _ => None }
            }

            /// The specification's name, without VFIO_USER_.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$command => stringify!($command),)* }
            }

            /// Bytes that its body may have.
            pub const fn len_bytes(self) -> RangeInclusive<usize> {
                match self { $(Self::$command => $bytes,)* }
            }

            /// Descriptors that come along.
            pub const fn descriptors(self) -> RangeInclusive<usize> {
                match self { $(Self::$command => $fds,)* }
            }
        }
    };
}

commands! {
    /// The version and the limits of the client; the first of all.
    VERSION = 1: bytes 4..=BODY_BYTES_MAX, fds 0..=0;
    /// Memory of the guest, with a descriptor if it can be mapped.
    DMA_MAP = 2: bytes 32..=32, fds 0..=1;
    /// Memory of the guest that goes.
    DMA_UNMAP = 3: bytes 24..=24, fds 0..=0;
    /// What the device is.
    DEVICE_GET_INFO = 4: bytes 16..=16, fds 0..=0;
    /// What a region is.
    DEVICE_GET_REGION_INFO = 5: bytes 32..=32, fds 0..=0;
    /// Descriptors that stand for writes to parts of a region.
    DEVICE_GET_REGION_IO_FDS = 6: bytes 16..=16, fds 0..=0;
    /// How many interrupts of a kind there are.
    DEVICE_GET_IRQ_INFO = 7: bytes 16..=16, fds 0..=0;
    /// Where interrupts go; masks and triggers them.
    DEVICE_SET_IRQS = 8: bytes 20..=BODY_BYTES_MAX, fds 0..=DESCRIPTORS_MAX;
    /// Reads registers.
    REGION_READ = 9: bytes 16..=16, fds 0..=0;
    /// Writes registers.
    REGION_WRITE = 10: bytes 16..=RegionAccess::LEN_BYTES + DATA_BYTES_MAX, fds 0..=0;
    /// Resets the function.
    DEVICE_RESET = 13: bytes 0..=0, fds 0..=0;
    /// Writes registers, several after each other.
    REGION_WRITE_MULTI = 15: bytes 8..=BODY_BYTES_MAX, fds 0..=0;
    /// Gets, sets or probes what has to do with migration.
    DEVICE_FEATURE = 16: bytes 8..=BODY_BYTES_MAX, fds 0..=0;
    /// Reads what is to be set elsewhere.
    MIG_DATA_READ = 17: bytes 8..=8, fds 0..=0;
    /// Writes what was read elsewhere.
    MIG_DATA_WRITE = 18: bytes 8..=MigData::LEN_BYTES + DATA_BYTES_MAX, fds 0..=0;
}

/// What we ask a client that has not given us a file of its memory.
// As above.
#[allow(non_camel_case_types)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Ask {
    /// To read memory.
    DMA_READ = 11,
    /// To write it.
    DMA_WRITE = 12,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A message's first sixteen bytes. ("Header")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The sender's name for it.
    pub id: u16,
    /// Number of the command.
    pub command: u16,
    /// Bytes of the whole message.
    pub size_bytes: u32,
    /// Type, no_reply, error.
    pub flags: u32,
    /// In a reply with [`Self::ERROR`], an errno.
    pub error: u32,
}

impl Header {
    /// The bits of `flags` that hold the type.
    pub const TYPE_MASK: u32 = 0xf;
    /// The type of a reply; that of a command is 0.
    pub const REPLY: u32 = 1;
    /// The sender wants no answer.
    pub const NO_REPLY: u32 = 1 << 4;
    /// The command was refused.
    pub const ERROR: u32 = 1 << 5;

    /// That of a command.
    pub fn command(id: u16, command: Command, body_bytes: usize) -> Self {
        Self::of(id, command as u16, body_bytes)
    }

    /// That of what we ask.
    pub fn ask(id: u16, ask: Ask, body_bytes: usize) -> Self {
        Self::of(id, ask as u16, body_bytes)
    }

    fn of(id: u16, command: u16, body_bytes: usize) -> Self {
        Self { id, command, size_bytes: (HEADER_BYTES + body_bytes) as u32, flags: 0, error: 0 }
    }

    /// That of the reply to this one.
    pub fn reply(&self, body_bytes: usize) -> Self {
        let size_bytes = (HEADER_BYTES + body_bytes) as u32;
        Self { size_bytes, flags: Self::REPLY, error: 0, ..*self }
    }

    /// That of the refusal of this one.
    pub fn refusal(&self, errno: u32) -> Self {
        Self { flags: Self::REPLY | Self::ERROR, error: errno, ..self.reply(0) }
    }

    /// Whether it is the answer to something.
    pub fn is_reply(&self) -> bool {
        self.flags & Self::TYPE_MASK == Self::REPLY
    }

    /// Whether its sender waits for an answer.
    pub fn wants_reply(&self) -> bool {
        self.flags & (Self::TYPE_MASK | Self::NO_REPLY) == 0
    }
}

impl Head for Header {
    const BYTES: usize = HEADER_BYTES;
    const BODY_BYTES_MAX: usize = BODY_BYTES_MAX;
    const DESCRIPTORS_MAX: usize = DESCRIPTORS_MAX;
    type Error = ProtocolError;

    fn read(bytes: &[u8]) -> Self {
        let half = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { id: half(0), command: half(2), size_bytes: word(4), flags: word(8), error: word(12) }
    }

    fn write(&self, bytes: &mut [u8]) {
        bytes[..2].copy_from_slice(&self.id.to_ne_bytes());
        bytes[2..4].copy_from_slice(&self.command.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.size_bytes.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[12..].copy_from_slice(&self.error.to_ne_bytes());
    }

    fn body_bytes(&self) -> Result<usize, ProtocolError> {
        let body_bytes = (self.size_bytes as usize).checked_sub(HEADER_BYTES);
        let refused = ProtocolError::Length { command: self.command, found: self.size_bytes };
        body_bytes.filter(|bytes| *bytes <= BODY_BYTES_MAX).ok_or(refused)
    }

    fn truncated(found: usize, wanted: usize) -> ProtocolError {
        ProtocolError::Truncated { found, wanted }
    }
}
