//! Bodies of messages, to and from bytes. Lengths are checked here and nothing else.

use super::{Command, ProtocolError};

/// Makes a body of a fixed layout: its fields in order, without padding.
macro_rules! body {
    ($(#[$about:meta])* $name:ident { $( $(#[$doc:meta])* $field:ident: $kind:ty, )* }) => {
        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name { $( $(#[$doc])* pub $field: $kind, )* }

        impl $name {
            /// Bytes on the wire.
            pub const LEN_BYTES: usize = 0 $( + size_of::<$kind>() )*;

            /// As on the wire.
            pub fn to_bytes(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(Self::LEN_BYTES);
                $( bytes.extend_from_slice(&self.$field.to_ne_bytes()); )*
                bytes
            }

            /// From the front of a body, and what is behind it.
            ///
            /// # Errors
            /// [`ProtocolError::Size`].
            pub fn split(command: Command, bytes: &[u8]) -> Result<(Self, &[u8]), ProtocolError> {
                let too_short = || {
                    let len_bytes = command.len_bytes();
                    let (min, max) = (*len_bytes.start(), *len_bytes.end());
                    ProtocolError::Size { command, found: bytes.len(), min, max }
                };
                let rest = bytes;
                $( let ($field, rest) = rest.split_first_chunk().ok_or_else(too_short)?; )*
                Ok((Self { $( $field: <$kind>::from_ne_bytes(*$field), )* }, rest))
            }
        }
    };
}

body! {
    /// Memory of the guest. ("VFIO_USER_DMA_MAP")
    DmaMap {
        /// Bytes of this.
        argsz: u32,
        /// [`Self::READ`] and [`Self::WRITE`].
        flags: u32,
        /// Where it is in the file.
        offset: u64,
        /// Where it is for the device.
        address: u64,
        /// Its length in bytes.
        size: u64,
    }
}

body! {
    /// Memory of the guest that goes. ("VFIO_USER_DMA_UNMAP")
    DmaUnmap {
        /// Bytes that the client has room for.
        argsz: u32,
        /// 0, or [`Self::ALL`].
        flags: u32,
        /// Where it was for the device.
        address: u64,
        /// Its length in bytes.
        size: u64,
    }
}

body! {
    /// Memory of the guest, without its contents. ("VFIO_USER_DMA_READ")
    DmaAccess {
        /// Where it is for the device.
        address: u64,
        /// How many bytes.
        count: u64,
    }
}

body! {
    /// What the device is. ("VFIO_USER_DEVICE_GET_INFO")
    DeviceInfo {
        /// Bytes of this.
        argsz: u32,
        /// [`Self::RESET`] and [`Self::PCI`].
        flags: u32,
        /// Regions it has.
        num_regions: u32,
        /// Kinds of interrupts it has.
        num_irqs: u32,
    }
}

body! {
    /// What a region is. ("VFIO_USER_DEVICE_GET_REGION_INFO")
    RegionInfo {
        /// Bytes of this.
        argsz: u32,
        /// [`Self::READ`] and [`Self::WRITE`].
        flags: u32,
        /// Which one.
        index: u32,
        /// Where its capabilities are.
        cap_offset: u32,
        /// Its length in bytes; none, and there is no such region.
        size: u64,
        /// Where it is in the file to map.
        offset: u64,
    }
}

body! {
    /// Descriptors for parts of a region. ("VFIO_USER_DEVICE_GET_REGION_IO_FDS")
    RegionIoFds {
        /// Bytes of this and all that follows it.
        argsz: u32,
        /// 0.
        flags: u32,
        /// Which region.
        index: u32,
        /// How many parts follow.
        count: u32,
    }
}

body! {
    /// A part of a region that an eventfd stands for. ("Sub-Region IO FD info format (ioeventfd)")
    IoEventfd {
        /// Where it is in the region.
        offset: u64,
        /// Bytes of a write that counts; 0: any.
        size: u64,
        /// Which of the descriptors that come along.
        fd_index: u32,
        /// 0: an eventfd.
        kind: u32,
        /// 0: whatever is written.
        flags: u32,
        /// 0.
        padding: u32,
        /// 0.
        datamatch: u64,
    }
}

body! {
    /// How many interrupts of a kind there are. ("VFIO_USER_DEVICE_GET_IRQ_INFO")
    IrqInfo {
        /// Bytes of this.
        argsz: u32,
        /// [`Self::EVENTFD`], [`Self::MASKABLE`] and [`Self::AUTOMASKED`].
        flags: u32,
        /// Which kind.
        index: u32,
        /// How many.
        count: u32,
    }
}

body! {
    /// Where interrupts go, without what follows. ("VFIO_USER_DEVICE_SET_IRQS")
    IrqSet {
        /// Bytes of this and its data.
        argsz: u32,
        /// What the data are, and what is to be done.
        flags: u32,
        /// Which kind.
        index: u32,
        /// The first of them.
        start: u32,
        /// How many.
        count: u32,
    }
}

body! {
    /// What is to be done with a feature, without what follows. ("VFIO_USER_DEVICE_FEATURE")
    DeviceFeature {
        /// Bytes that the client has room for.
        argsz: u32,
        /// Which feature, and [`Self::GET`], [`Self::SET`] and [`Self::PROBE`].
        flags: u32,
    }
}

body! {
    /// Where a device is on its way elsewhere. ("VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE")
    MigState {
        /// Its state.
        device_state: u32,
        /// Not used.
        data_fd: u32,
    }
}

body! {
    /// What is to be logged, without the ranges. ("VFIO_DEVICE_FEATURE_DMA_LOGGING_START")
    DmaLogging {
        /// Bytes that a bit is to stand for.
        page_size: u64,
        /// Ranges that follow; none stand for all.
        num_ranges: u32,
        /// 0.
        reserved: u32,
    }
}

body! {
    /// What was logged, without the bits. ("VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT")
    DmaReport {
        /// First address.
        iova: u64,
        /// How many bytes.
        length: u64,
        /// Bytes that a bit stands for.
        page_size: u64,
    }
}

body! {
    /// Bytes of a device's state, without themselves. ("VFIO_USER_MIG_DATA_READ")
    MigData {
        /// Bytes that the client has room for; of what it writes, bytes of this and all that follows it.
        argsz: u32,
        /// How many bytes.
        size: u32,
    }
}

body! {
    /// Which registers, without their contents. ("VFIO_USER_REGION_READ")
    RegionAccess {
        /// Where in the region.
        offset: u64,
        /// Which region.
        region: u32,
        /// How many bytes.
        count: u32,
    }
}

impl DeviceFeature {
    /// Bits that say which feature.
    pub const INDEX_MASK: u32 = 0xffff;
    /// What it is.
    pub const GET: u32 = 1 << 16;
    /// It is to be that.
    pub const SET: u32 = 1 << 17;
    /// Whether that is possible.
    pub const PROBE: u32 = 1 << 18;
}

impl DmaMap {
    /// The device may read it.
    pub const READ: u32 = 1;
    /// The device may write it.
    pub const WRITE: u32 = 2;
}

impl DmaUnmap {
    /// All there is, wherever.
    pub const ALL: u32 = 2;
}

impl DeviceInfo {
    /// It can be reset by a message.
    pub const RESET: u32 = 1;
    /// It is a PCI device.
    pub const PCI: u32 = 2;
}

impl RegionInfo {
    /// It can be read.
    pub const READ: u32 = 1;
    /// It can be written.
    pub const WRITE: u32 = 2;
}

impl IrqInfo {
    /// They go to eventfds.
    pub const EVENTFD: u32 = 1;
    /// They can be masked by SET_IRQS.
    pub const MASKABLE: u32 = 2;
    /// Each masks itself.
    pub const AUTOMASKED: u32 = 4;
}
