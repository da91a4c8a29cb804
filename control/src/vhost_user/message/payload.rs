//! Bodies of messages, to and from bytes. Lengths are checked here and nothing else: what the numbers
//! mean, and whether they may be so, is for the session to say.

use super::{Allowed, MEMORY_REGIONS_MAX, ProtocolError, Shape};

/// Makes a body of a fixed layout: its fields in order, then padding that may be left out on the way in
/// and is sent as zeros on the way out.
macro_rules! body {
    ($(#[$about:meta])* $name:ident, $shape:ident, padding $padding:literal, {
        $( $(#[$doc:meta])* $field:ident: $kind:ty, )*
    }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $( $(#[$doc])* pub $field: $kind, )* }

        impl $name {
            /// Bytes sent.
            pub const LEN_BYTES: usize = 0 $( + size_of::<$kind>() )* + $padding;

            /// As on the wire.
            pub fn to_bytes(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(Self::LEN_BYTES);
                $( bytes.extend_from_slice(&self.$field.to_ne_bytes()); )*
                bytes.resize(Self::LEN_BYTES, 0);
                bytes
            }

            /// From a body of `request`.
            pub fn from_bytes(request: &'static str, bytes: &[u8]) -> Result<Self, ProtocolError> {
                let len_bytes = Shape::$shape.len_bytes();
                let min = Self::LEN_BYTES - $padding;
                let mut rest = bytes;
                if bytes.len() < min || bytes.len() > Self::LEN_BYTES {
                    return Err(ProtocolError::Size {
                        request,
                        found: bytes.len(),
                        min: *len_bytes.start(),
                        max: *len_bytes.end(),
                    });
                }
                Ok(Self { $( $field: <$kind>::from_ne_bytes(take(&mut rest)), )* })
            }
        }
    };
}

/// The first `N` bytes of `rest`, which the caller has measured.
fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (first, behind) = rest.split_first_chunk::<N>().expect("the length was checked");
    *rest = behind;
    *first
}

/// A single 64-bit integer, from a body of `request`.
pub fn u64_from(request: &'static str, bytes: &[u8]) -> Result<u64, ProtocolError> {
    let value = bytes.try_into().map_err(|_| ProtocolError::Size { request, found: bytes.len(), min: 8, max: 8 })?;
    Ok(u64::from_ne_bytes(value))
}

/// A single 64-bit integer, as on the wire.
pub fn u64_to(value: u64) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

body! {
    /// A ring's index and a number. ("A vring state description")
    VringState, VringState, padding 0, {
        /// Which ring.
        index: u32,
        /// Its size, its base, or a switch.
        num: u32,
    }
}

body! {
    /// Where a ring's areas are, as user addresses. ("A vring address description")
    VringAddr, VringAddr, padding 0, {
        /// Which ring.
        index: u32,
        /// [`VringAddr::LOG`] or nothing.
        flags: u32,
        /// Descriptor area.
        descriptor: u64,
        /// Device area.
        used: u64,
        /// Driver area.
        available: u64,
        /// Guest address of the device area for the dirty log, if `flags` says so.
        log: u64,
    }
}

impl VringAddr {
    /// VHOST_VRING_F_LOG: writes to the device area are marked in the dirty log.
    pub const LOG: u32 = 1 << 0;
}

body! {
    /// One region of a memory table. ("Memory regions description")
    MemoryRegion, MemoryTable, padding 0, {
        /// Where the guest sees it.
        guest_addr: u64,
        /// How long it is.
        size_bytes: u64,
        /// Where the front end sees it.
        user_addr: u64,
        /// Where it starts in the descriptor's file.
        mmap_offset: u64,
    }
}

impl MemoryRegion {
    /// As the body of ADD_MEM_REG and REM_MEM_REG. ("Single memory region description")
    pub fn to_single_bytes(&self) -> Vec<u8> {
        [0; 8].into_iter().chain(self.to_bytes()).collect()
    }

    /// From the body of ADD_MEM_REG or REM_MEM_REG.
    pub fn from_single_bytes(request: &'static str, bytes: &[u8]) -> Result<Self, ProtocolError> {
        match bytes.split_first_chunk::<8>() {
            Some((_padding, region)) if region.len() == Self::LEN_BYTES => Self::from_bytes(request, region),
            _ => Err(ProtocolError::Size { request, found: bytes.len(), min: 40, max: 40 }),
        }
    }
}

/// The whole memory table. ("Memory regions description")
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTable {
    /// At most [`MEMORY_REGIONS_MAX`].
    pub regions: Vec<MemoryRegion>,
}

impl MemoryTable {
    /// Bytes before the first region.
    pub const HEADER_BYTES: usize = 8;

    /// Bytes of a table of `regions`.
    pub const fn len_bytes(regions: usize) -> usize {
        Self::HEADER_BYTES + regions * MemoryRegion::LEN_BYTES
    }

    /// As on the wire: as many regions as there are.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = VringState { index: self.regions.len() as u32, num: 0 }.to_bytes();
        for region in &self.regions {
            bytes.extend_from_slice(&region.to_bytes());
        }
        bytes
    }

    /// From a body of `request`. What lies behind the last region is not looked at.
    pub fn from_bytes(request: &'static str, bytes: &[u8]) -> Result<Self, ProtocolError> {
        let size = |min: usize| ProtocolError::Size {
            request,
            found: bytes.len(),
            min,
            max: Self::len_bytes(MEMORY_REGIONS_MAX),
        };
        let (count, mut rest) = bytes.split_first_chunk::<4>().ok_or(size(Self::HEADER_BYTES))?;
        let count = u32::from_ne_bytes(*count) as usize;
        if count > MEMORY_REGIONS_MAX {
            return Err(ProtocolError::Field {
                request,
                field: "num regions",
                found: count as u64,
                allowed: Allowed::Between(0, MEMORY_REGIONS_MAX as u64),
            });
        }
        if !(Self::len_bytes(count)..=Self::len_bytes(MEMORY_REGIONS_MAX)).contains(&bytes.len()) {
            return Err(size(Self::len_bytes(count)));
        }
        let _padding = take::<4>(&mut rest);
        let regions = rest.chunks_exact(MemoryRegion::LEN_BYTES).take(count);
        let regions = regions.map(|region| MemoryRegion::from_bytes(request, region));
        Ok(Self { regions: regions.collect::<Result<_, _>>()? })
    }
}

body! {
    /// Where the dirty log is. ("Log description")
    LogBase, LogBase, padding 0, {
        /// Bytes of the log.
        size_bytes: u64,
        /// Where it starts in the descriptor's file.
        mmap_offset: u64,
    }
}

body! {
    /// A translation. ("An IOTLB message")
    Iotlb, Iotlb, padding 6, {
        /// Address as the device uses it.
        iova: u64,
        /// Bytes.
        size_bytes: u64,
        /// Address as the front end sees it.
        user_addr: u64,
        /// 0 to 3: bit 0 read, bit 1 write.
        permissions: u8,
        /// 1 miss, 2 update, 3 invalidate, 4 access fail.
        kind: u8,
    }
}

impl Iotlb {
    /// The back end has no translation.
    pub const MISS: u8 = 1;
    /// Here is one.
    pub const UPDATE: u8 = 2;
    /// There are none any more.
    pub const INVALIDATE: u8 = 3;
}

body! {
    /// Memory for a ring's notifications. ("Vring area description")
    VringArea, VringArea, padding 0, {
        /// Ring index and flags.
        index: u64,
        /// Bytes.
        size_bytes: u64,
        /// Where it starts in the descriptor's file.
        offset: u64,
    }
}

body! {
    /// The in-flight buffer. ("Inflight description")
    Inflight, Inflight, padding 4, {
        /// Bytes of the whole buffer; of a request for one: 0.
        mmap_size: u64,
        /// Where it starts in the descriptor's file.
        mmap_offset: u64,
        /// How many rings it tracks.
        num_queues: u16,
        /// How large each is.
        queue_size: u16,
    }
}

body! {
    /// A transfer of device state. ("Device state transfer parameters")
    DeviceState, DeviceState, padding 0, {
        /// 0 save, 1 load.
        direction: u32,
        /// 0 stopped.
        phase: u32,
    }
}

body! {
    /// A mapping into a shared memory region. ("MMAP request")
    Mmap, Mmap, padding 0, {
        /// Which shared memory region: its lowest byte.
        shmid: u64,
        /// Where it starts in the descriptor's file.
        fd_offset: u64,
        /// Where it goes in the region.
        shm_offset: u64,
        /// Bytes.
        len_bytes: u64,
        /// Bit 0: writable.
        flags: u64,
    }
}

/// A ring's index, and whether a descriptor comes along. ("VHOST_USER_SET_VRING_KICK")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VringFd {
    /// Which ring.
    pub index: u8,
    /// There is no descriptor: the ring is to be polled, or nobody is to be called.
    pub no_fd: bool,
}

impl VringFd {
    const NO_FD: u64 = 1 << 8;

    /// As on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        u64_to(u64::from(self.index) | if self.no_fd { Self::NO_FD } else { 0 })
    }

    /// From a body of `request`.
    pub fn from_bytes(request: &'static str, bytes: &[u8]) -> Result<Self, ProtocolError> {
        let found = u64_from(request, bytes)?;
        if found & !(0xff | Self::NO_FD) != 0 {
            return Err(ProtocolError::Field {
                request,
                field: "u64",
                found,
                allowed: Allowed::Such("an index in bits 0 to 7 and the invalid-FD flag in bit 8"),
            });
        }
        Ok(Self { index: (found & 0xff) as u8, no_fd: found & Self::NO_FD != 0 })
    }
}

/// Part of the configuration space. ("Virtio device config space")
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Where the part starts.
    pub offset: u32,
    /// 0: the guest writes a writable field; 1: a live migration restores any.
    pub flags: u32,
    /// The bytes; their number is the message's size field.
    pub bytes: Vec<u8>,
}

impl Config {
    /// Bytes before the configuration space's own.
    pub const HEADER_BYTES: usize = 12;

    /// As on the wire.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(Self::HEADER_BYTES + self.bytes.len());
        bytes.extend_from_slice(&self.offset.to_ne_bytes());
        bytes.extend_from_slice(&(self.bytes.len() as u32).to_ne_bytes());
        bytes.extend_from_slice(&self.flags.to_ne_bytes());
        bytes.extend_from_slice(&self.bytes);
        bytes
    }

    /// From a body of `request`.
    pub fn from_bytes(request: &'static str, bytes: &[u8]) -> Result<Self, ProtocolError> {
        let len_bytes = Shape::Config.len_bytes();
        let size = ProtocolError::Size { request, found: bytes.len(), min: *len_bytes.start(), max: *len_bytes.end() };
        if !len_bytes.contains(&bytes.len()) {
            return Err(size);
        }
        let mut rest = bytes;
        let offset = u32::from_ne_bytes(take(&mut rest));
        let size_bytes = u32::from_ne_bytes(take(&mut rest));
        let flags = u32::from_ne_bytes(take(&mut rest));
        if size_bytes as usize != rest.len() {
            return Err(ProtocolError::Field {
                request,
                field: "size",
                found: size_bytes.into(),
                allowed: Allowed::Only(rest.len() as u64),
            });
        }
        Ok(Self { offset, flags, bytes: rest.to_vec() })
    }
}

/// Where a ring stands. ("A vring descriptor index for split virtqueues", "Vring descriptor indices for
/// packed virtqueues")
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VringBase {
    /// The next entry of the available ring, free-running.
    Split(u16),
    /// Both positions of a packed ring with their wrap counters.
    Packed {
        /// Next descriptor to take, 0 to 32767.
        avail: u16,
        /// Wrap counter that goes with `avail`.
        avail_wrap: bool,
        /// Next descriptor to return, 0 to 32767.
        used: u16,
        /// Wrap counter that goes with `used`.
        used_wrap: bool,
    },
}

impl VringBase {
    /// Where a ring nobody has used yet stands.
    pub const fn start(packed: bool) -> Self {
        if packed { Self::Packed { avail: 0, avail_wrap: true, used: 0, used_wrap: true } } else { Self::Split(0) }
    }

    /// The `num` of SET_VRING_BASE and of GET_VRING_BASE's reply.
    pub const fn to_num(self) -> u32 {
        match self {
            Self::Split(avail) => avail as u32,
            Self::Packed { avail, avail_wrap, used, used_wrap } => {
                (avail & 0x7fff) as u32
                    | (avail_wrap as u32) << 15
                    | ((used & 0x7fff) as u32) << 16
                    | (used_wrap as u32) << 31
            }
        }
    }

    /// From a `num` of `request`.
    ///
    /// Older front ends and back ends know the lower half of a packed ring's base only and leave the upper
    /// one zero; they stop a ring with nothing in flight, so the upper half is then the same as the lower.
    pub fn from_num(request: &'static str, num: u32, packed: bool) -> Result<Self, ProtocolError> {
        let (low, high) = (num as u16, (num >> 16) as u16);
        if packed {
            let high = if high == 0 { low } else { high };
            return Ok(Self::Packed {
                avail: low & 0x7fff,
                avail_wrap: low & 0x8000 != 0,
                used: high & 0x7fff,
                used_wrap: high & 0x8000 != 0,
            });
        }
        if high != 0 {
            return Err(ProtocolError::Field {
                request,
                field: "num",
                found: num.into(),
                allowed: Allowed::Between(0, 0xffff),
            });
        }
        Ok(Self::Split(low))
    }
}
