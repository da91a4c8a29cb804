//! The words of the vhost-user protocol, and nothing else: requests of both directions, the header,
//! what follows it, how many descriptors come with it, feature bits and limits. ("Vhost-user Protocol",
//! QEMU's interoperability documents; numbers are in the machine's own byte order.)
//!
//! A request is looked up once, in the tables below: the shape of its body, of its reply, and the number
//! of descriptors it carries. Everything a peer can get wrong on top of that is a [`ProtocolError`].

mod error;
mod features;
mod payload;
#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::RangeInclusive;

pub use error::{Allowed, Outcome, ProtocolError};
pub use features::{
    ProtocolFeature, ProtocolFeatures, VHOST_F_LOG_ALL, VHOST_USER_F_PROTOCOL_FEATURES, VIRTIO_F_ACCESS_PLATFORM,
    VIRTIO_F_RING_PACKED,
};
pub use payload::{
    Config, DeviceState, Inflight, Iotlb, LogBase, MemoryRegion, MemoryTable, Mmap, VringAddr, VringArea, VringBase,
    VringFd, VringState, u64_from, u64_to,
};

/// Bytes of a message's header.
pub const HEADER_BYTES: usize = 12;
/// The longest body that is read; a header that announces more ends the session.
pub const BODY_BYTES_MAX: usize = 4096;
/// Descriptors in one message, at most: one for each region of a memory table.
pub const DESCRIPTORS_MAX: usize = MEMORY_REGIONS_MAX;
/// Regions in one SET_MEM_TABLE. ("Memory regions description")
pub const MEMORY_REGIONS_MAX: usize = 8;
/// Bytes of configuration space that one GET_CONFIG or SET_CONFIG can carry.
pub const CONFIG_BYTES_MAX: usize = 256;
/// Rings a session can have: their index has eight bits where a descriptor comes with it.
pub const VRINGS_MAX: usize = 256;

/// What a body looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// No body.
    Empty,
    /// A single 64-bit integer.
    U64,
    /// [`VringState`].
    VringState,
    /// [`VringAddr`].
    VringAddr,
    /// [`VringFd`], a 64-bit integer with an index and a flag.
    VringFd,
    /// [`MemoryTable`].
    MemoryTable,
    /// [`MemoryRegion`] behind 64 bits of padding.
    MemoryRegion,
    /// [`LogBase`], or a single 64-bit integer without LOG_SHMFD.
    LogBase,
    /// [`Iotlb`].
    Iotlb,
    /// [`Config`].
    Config,
    /// [`VringArea`].
    VringArea,
    /// [`Inflight`].
    Inflight,
    /// The 16 bytes of a UUID.
    SharedObject,
    /// [`DeviceState`].
    DeviceState,
    /// [`Mmap`].
    Mmap,
    /// Sizes of 256 shared memory regions.
    ShmemConfig,
    /// Something only devices of other kinds exchange: kept as bytes.
    Opaque,
}

impl Shape {
    /// Bytes such a body may have.
    pub const fn len_bytes(self) -> RangeInclusive<usize> {
        match self {
            Self::Empty => 0..=0,
            Self::U64 | Self::VringState | Self::VringFd | Self::DeviceState => 8..=8,
            Self::VringAddr | Self::MemoryRegion | Self::Mmap => 40..=40,
            // Some front ends send their whole array, however few regions are in it.
            Self::MemoryTable => MemoryTable::HEADER_BYTES..=MemoryTable::len_bytes(MEMORY_REGIONS_MAX),
            Self::LogBase => 8..=16,
            // As a C structure these two end in padding, which front ends send or not.
            Self::Iotlb => 26..=32,
            Self::Inflight => 20..=24,
            Self::Config => Config::HEADER_BYTES..=Config::HEADER_BYTES + CONFIG_BYTES_MAX,
            Self::VringArea => 24..=24,
            Self::SharedObject => 16..=16,
            Self::ShmemConfig => 2056..=2056,
            Self::Opaque => 0..=BODY_BYTES_MAX,
        }
    }
}

/// Makes one direction's requests: number, body, reply, descriptors with each.
macro_rules! requests {
    (
        $(#[$about:meta])*
        $name:ident {
            $(
                $(#[$doc:meta])*
                $request:ident = $number:literal: $shape:ident, fds $fds:expr,
                reply $reply:expr, fds $reply_fds:expr;
            )*
        }
    ) => {
        $(#[$about])*
        // The letters are the specification's, so that a search finds both.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $name { $( $(#[$doc])* $request = $number, )* }

        impl $name {
            /// Every request of this direction, by number.
            pub const ALL: &[Self] = &[$(Self::$request,)*];

            /// The request with this number.
            pub const fn from_number(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$request),)* _ => None }
            }

            /// The number on the wire.
            pub const fn number(self) -> u32 { self as u32 }

            /// The specification's name, without VHOST_USER_.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$request => stringify!($request),)* }
            }

            /// What the request's body looks like.
            pub const fn shape(self) -> Shape {
                match self { $(Self::$request => Shape::$shape,)* }
            }

            /// Descriptors that come with the request.
            pub const fn descriptors(self) -> RangeInclusive<usize> {
                match self { $(Self::$request => $fds,)* }
            }

            /// What its own reply looks like; `None` if only REPLY_ACK can ask for an answer.
            pub const fn reply(self) -> Option<Shape> {
                match self { $(Self::$request => $reply,)* }
            }

            /// Descriptors that come with its reply.
            pub const fn reply_descriptors(self) -> RangeInclusive<usize> {
                match self { $(Self::$request => $reply_fds,)* }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.name()) }
        }
    };
}

requests! {
    /// What a front end asks. ("Front-end message types")
    FrontendRequest {
        /// The feature bits the back end offers.
        GET_FEATURES = 1: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// The feature bits acknowledged.
        SET_FEATURES = 2: U64, fds 0..=0, reply None, fds 0..=0;
        /// The start of a session.
        SET_OWNER = 3: Empty, fds 0..=0, reply None, fds 0..=0;
        /// Deprecated: disables all rings.
        RESET_OWNER = 4: Empty, fds 0..=0, reply None, fds 0..=0;
        /// The whole memory table, a descriptor for each region.
        SET_MEM_TABLE = 5: MemoryTable, fds 1..=MEMORY_REGIONS_MAX, reply None, fds 0..=0;
        /// Where dirty pages are marked; replied to only with LOG_SHMFD.
        SET_LOG_BASE = 6: LogBase, fds 0..=1, reply Some(Shape::LogBase), fds 0..=0;
        /// An eventfd told of every change of the log.
        SET_LOG_FD = 7: Empty, fds 1..=1, reply None, fds 0..=0;
        /// A ring's size.
        SET_VRING_NUM = 8: VringState, fds 0..=0, reply None, fds 0..=0;
        /// Where a ring's three areas are.
        SET_VRING_ADDR = 9: VringAddr, fds 0..=0, reply None, fds 0..=0;
        /// Where a ring resumes.
        SET_VRING_BASE = 10: VringState, fds 0..=0, reply None, fds 0..=0;
        /// Stops a ring and asks where it stands.
        GET_VRING_BASE = 11: VringState, fds 0..=0, reply Some(Shape::VringState), fds 0..=0;
        /// The available-buffer notification's descriptor; the ring starts.
        SET_VRING_KICK = 12: VringFd, fds 0..=1, reply None, fds 0..=0;
        /// The used-buffer notification's descriptor.
        SET_VRING_CALL = 13: VringFd, fds 0..=1, reply None, fds 0..=0;
        /// The descriptor told of a ring's failure.
        SET_VRING_ERR = 14: VringFd, fds 0..=1, reply None, fds 0..=0;
        /// The protocol feature bits the back end offers.
        GET_PROTOCOL_FEATURES = 15: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// The protocol feature bits acknowledged.
        SET_PROTOCOL_FEATURES = 16: U64, fds 0..=0, reply None, fds 0..=0;
        /// How many queues there can be.
        GET_QUEUE_NUM = 17: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// Enables or disables a ring.
        SET_VRING_ENABLE = 18: VringState, fds 0..=0, reply None, fds 0..=0;
        /// The guest has moved here: announce its address.
        SEND_RARP = 19: U64, fds 0..=0, reply None, fds 0..=0;
        /// The guest's MTU.
        NET_SET_MTU = 20: U64, fds 0..=0, reply None, fds 0..=0;
        /// The socket for the back end's own requests.
        SET_BACKEND_REQ_FD = 21: Empty, fds 1..=1, reply None, fds 0..=0;
        /// Updates or invalidates translations.
        IOTLB_MSG = 22: Iotlb, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// Byte order of a legacy ring.
        SET_VRING_ENDIAN = 23: VringState, fds 0..=0, reply None, fds 0..=0;
        /// Part of the configuration space.
        GET_CONFIG = 24: Config, fds 0..=0, reply Some(Shape::Config), fds 0..=0;
        /// Writes part of the configuration space.
        SET_CONFIG = 25: Config, fds 0..=0, reply None, fds 0..=0;
        /// Crypto devices only.
        CREATE_CRYPTO_SESSION = 26: Opaque, fds 0..=0, reply Some(Shape::Opaque), fds 0..=0;
        /// Crypto devices only.
        CLOSE_CRYPTO_SESSION = 27: U64, fds 0..=0, reply None, fds 0..=0;
        /// A post-copy migration comes; wants a userfaultfd.
        POSTCOPY_ADVISE = 28: Empty, fds 0..=0, reply Some(Shape::Empty), fds 0..=1;
        /// Post-copy begins.
        POSTCOPY_LISTEN = 29: Empty, fds 0..=0, reply None, fds 0..=0;
        /// Post-copy is over.
        POSTCOPY_END = 30: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// A buffer to track in-flight chains in.
        GET_INFLIGHT_FD = 31: Inflight, fds 0..=0, reply Some(Shape::Inflight), fds 0..=1;
        /// That buffer, given back.
        SET_INFLIGHT_FD = 32: Inflight, fds 1..=1, reply None, fds 0..=0;
        /// GPU devices only.
        GPU_SET_SOCKET = 33: Empty, fds 1..=1, reply None, fds 0..=0;
        /// Back to the initial state.
        RESET_DEVICE = 34: Empty, fds 0..=0, reply None, fds 0..=0;
        /// An available-buffer notification as a message.
        VRING_KICK = 35: VringState, fds 0..=0, reply None, fds 0..=0;
        /// How many memory regions ADD_MEM_REG may add.
        GET_MAX_MEM_SLOTS = 36: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// Adds one memory region.
        ADD_MEM_REG = 37: MemoryRegion, fds 1..=1, reply None, fds 0..=0;
        /// Removes one. Some front ends send a descriptor, which is closed unused.
        REM_MEM_REG = 38: MemoryRegion, fds 0..=1, reply None, fds 0..=0;
        /// The device status field, written.
        SET_STATUS = 39: U64, fds 0..=0, reply None, fds 0..=0;
        /// The device status field, read.
        GET_STATUS = 40: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// A shared object by its UUID.
        GET_SHARED_OBJECT = 41: SharedObject, fds 0..=0, reply Some(Shape::Empty), fds 0..=1;
        /// A pipe to move the device's state through.
        SET_DEVICE_STATE_FD = 42: DeviceState, fds 1..=1, reply Some(Shape::U64), fds 0..=1;
        /// Whether the state got through.
        CHECK_DEVICE_STATE = 43: Empty, fds 0..=0, reply Some(Shape::U64), fds 0..=0;
        /// Sizes of the device's shared memory regions.
        GET_SHMEM_CONFIG = 44: Empty, fds 0..=0, reply Some(Shape::ShmemConfig), fds 0..=0;
        /// GET_VRING_BASE that leaves what is in flight in the in-flight buffer.
        GET_VRING_BASE_SKIP_DRAIN = 45: VringState, fds 0..=0, reply Some(Shape::VringState), fds 0..=0;
    }
}

requests! {
    /// What a back end asks on its own channel. ("Back-end message types")
    BackendRequest {
        /// A translation is missing, or an access failed.
        IOTLB_MSG = 1: Iotlb, fds 0..=0, reply None, fds 0..=0;
        /// The configuration space has changed.
        CONFIG_CHANGE_MSG = 2: Empty, fds 0..=0, reply None, fds 0..=0;
        /// Memory to be mapped as a ring's notification register.
        VRING_HOST_NOTIFIER_MSG = 3: VringArea, fds 0..=1, reply None, fds 0..=0;
        /// A used-buffer notification as a message.
        VRING_CALL = 4: VringState, fds 0..=0, reply None, fds 0..=0;
        /// A ring failed.
        VRING_ERR = 5: VringState, fds 0..=0, reply None, fds 0..=0;
        /// Registers a shared object.
        SHARED_OBJECT_ADD = 6: SharedObject, fds 0..=0, reply None, fds 0..=0;
        /// Removes one.
        SHARED_OBJECT_REMOVE = 7: SharedObject, fds 0..=0, reply None, fds 0..=0;
        /// Looks one up.
        SHARED_OBJECT_LOOKUP = 8: SharedObject, fds 0..=0, reply Some(Shape::U64), fds 0..=1;
        /// Maps a file into a shared memory region.
        SHMEM_MAP = 9: Mmap, fds 1..=1, reply None, fds 0..=0;
        /// Unmaps it.
        SHMEM_UNMAP = 10: Mmap, fds 0..=0, reply None, fds 0..=0;
    }
}

impl FrontendRequest {
    /// The protocol feature without which the request may not be sent.
    pub const fn needs(self) -> Option<ProtocolFeature> {
        use ProtocolFeature as F;
        Some(match self {
            Self::GET_QUEUE_NUM => F::MQ,
            Self::SET_LOG_BASE => F::LOG_SHMFD,
            Self::SEND_RARP => F::RARP,
            Self::NET_SET_MTU => F::NET_MTU,
            Self::SET_BACKEND_REQ_FD => F::BACKEND_REQ,
            Self::SET_VRING_ENDIAN => F::CROSS_ENDIAN,
            Self::CREATE_CRYPTO_SESSION | Self::CLOSE_CRYPTO_SESSION => F::CRYPTO_SESSION,
            Self::POSTCOPY_ADVISE | Self::POSTCOPY_LISTEN | Self::POSTCOPY_END => F::PAGEFAULT,
            Self::GET_CONFIG | Self::SET_CONFIG => F::CONFIG,
            Self::GET_INFLIGHT_FD | Self::SET_INFLIGHT_FD => F::INFLIGHT_SHMFD,
            Self::RESET_DEVICE => F::RESET_DEVICE,
            Self::VRING_KICK => F::INBAND_NOTIFICATIONS,
            Self::GET_MAX_MEM_SLOTS | Self::ADD_MEM_REG | Self::REM_MEM_REG => F::CONFIGURE_MEM_SLOTS,
            Self::SET_STATUS | Self::GET_STATUS => F::STATUS,
            Self::GET_SHARED_OBJECT => F::SHARED_OBJECT,
            Self::SET_DEVICE_STATE_FD | Self::CHECK_DEVICE_STATE => F::DEVICE_STATE,
            Self::GET_SHMEM_CONFIG => F::SHMEM,
            Self::GET_VRING_BASE_SKIP_DRAIN => F::GET_VRING_BASE_SKIP_DRAIN,
            _ => return None,
        })
    }
}

/// A message's first twelve bytes. ("Header")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the request.
    pub request: u32,
    /// Version, reply flag, need_reply flag.
    pub flags: u32,
    /// Bytes that follow.
    pub size_bytes: u32,
}

impl Header {
    /// The version in the two lowest bits of `flags`.
    pub const VERSION: u32 = 0x1;
    /// The bits of `flags` that hold the version.
    pub const VERSION_MASK: u32 = 0x3;
    /// Set in every reply.
    pub const REPLY: u32 = 1 << 2;
    /// The sender wants an answer even where none is due. ("VHOST_USER_PROTOCOL_F_REPLY_ACK")
    pub const NEED_REPLY: u32 = 1 << 3;

    /// A request's header.
    pub const fn request(number: u32, size_bytes: u32, need_reply: bool) -> Self {
        let flags = if need_reply { Self::VERSION | Self::NEED_REPLY } else { Self::VERSION };
        Self { request: number, flags, size_bytes }
    }

    /// A reply's header: nothing but version and reply flag, which some front ends insist on.
    pub const fn reply(number: u32, size_bytes: u32) -> Self {
        Self { request: number, flags: Self::VERSION | Self::REPLY, size_bytes }
    }

    /// Whether the sender asked for an answer.
    pub const fn needs_reply(&self) -> bool {
        self.flags & Self::NEED_REPLY != 0
    }

    /// Whether this is a reply.
    pub const fn is_reply(&self) -> bool {
        self.flags & Self::REPLY != 0
    }

    /// As on the wire.
    pub fn to_bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.request.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.flags.to_ne_bytes());
        bytes[8..].copy_from_slice(&self.size_bytes.to_ne_bytes());
        bytes
    }

    /// From the wire, any bytes. Nothing is checked.
    pub fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Self {
        let word = |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Self { request: word(0), flags: word(4), size_bytes: word(8) }
    }

    /// Refuses what cannot be a header: after it nobody knows where the next message starts.
    pub fn check_framing(&self) -> Result<(), ProtocolError> {
        let version = self.flags & Self::VERSION_MASK;
        if version != Self::VERSION {
            return Err(ProtocolError::Version { request: self.request, found: version });
        }
        if self.size_bytes as usize > BODY_BYTES_MAX {
            return Err(ProtocolError::TooLong { request: self.request, found: self.size_bytes });
        }
        Ok(())
    }

    /// Refuses flags that no request has.
    pub fn check_request_flags(&self) -> Result<(), ProtocolError> {
        if self.flags & !(Self::VERSION_MASK | Self::NEED_REPLY) != 0 {
            return Err(ProtocolError::Flags { request: self.request, found: self.flags });
        }
        Ok(())
    }
}

/// Refuses a body of a length, or a number of descriptors, that a request (or its reply) never has.
pub fn check_shape(
    request: &'static str,
    shape: Shape,
    body_bytes: usize,
    descriptors: RangeInclusive<usize>,
    descriptors_found: usize,
) -> Result<(), ProtocolError> {
    let len_bytes = shape.len_bytes();
    if !len_bytes.contains(&body_bytes) {
        return Err(ProtocolError::Size { request, found: body_bytes, min: *len_bytes.start(), max: *len_bytes.end() });
    }
    check_descriptors(request, descriptors, descriptors_found)
}

/// Refuses a number of descriptors outside `allowed`.
pub fn check_descriptors(
    request: &'static str,
    allowed: RangeInclusive<usize>,
    found: usize,
) -> Result<(), ProtocolError> {
    if allowed.contains(&found) {
        return Ok(());
    }
    Err(ProtocolError::Descriptors { request, found, min: *allowed.start(), max: *allowed.end() })
}
