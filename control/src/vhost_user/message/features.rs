//! Feature bits that belong to the protocol and not to the device. ("Protocol features")

use std::fmt;

/// The dirty log is on: every write to guest memory is marked in it.
pub const VHOST_F_LOG_ALL: u64 = 1 << 26;
/// Protocol features can be negotiated; once acknowledged, rings start disabled.
pub const VHOST_USER_F_PROTOCOL_FEATURES: u64 = 1 << 30;
/// Addresses are those of an IOMMU, which the front end has translations of. ("IOMMU support")
pub const VIRTIO_F_ACCESS_PLATFORM: u64 = 1 << 33;
/// The rings are packed: it decides what a vring base means. ("Reserved Feature Bits")
pub const VIRTIO_F_RING_PACKED: u64 = 1 << 34;

macro_rules! protocol_features {
    ($( $(#[$doc:meta])* $name:ident = $bit:literal; )*) => {
        /// One protocol feature, by the specification's name and bit.
        // The letters are the specification's, so that a search finds both.
        #[allow(non_camel_case_types)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ProtocolFeature { $( $(#[$doc])* $name = $bit, )* }

        impl ProtocolFeature {
            /// Every protocol feature, by bit.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The specification's name, without VHOST_USER_PROTOCOL_F_.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }
        }
    };
}

protocol_features! {
    /// The back end says how many queues it has.
    MQ = 0;
    /// The dirty log comes as a descriptor.
    LOG_SHMFD = 1;
    /// The back end announces a guest that moved.
    RARP = 2;
    /// Any request can ask for an answer.
    REPLY_ACK = 3;
    /// The front end tells the MTU.
    NET_MTU = 4;
    /// The back end has a channel for requests of its own.
    BACKEND_REQ = 5;
    /// Legacy rings of the other byte order.
    CROSS_ENDIAN = 6;
    /// Crypto sessions.
    CRYPTO_SESSION = 7;
    /// Post-copy migration.
    PAGEFAULT = 8;
    /// The back end holds the configuration space.
    CONFIG = 9;
    /// Descriptors go along with the back end's requests.
    BACKEND_SEND_FD = 10;
    /// A ring's notification register can be mapped.
    HOST_NOTIFIER = 11;
    /// In-flight chains are tracked in shared memory.
    INFLIGHT_SHMFD = 12;
    /// RESET_DEVICE is understood.
    RESET_DEVICE = 13;
    /// Notifications as messages.
    INBAND_NOTIFICATIONS = 14;
    /// Memory regions come and go one by one.
    CONFIGURE_MEM_SLOTS = 15;
    /// The device status field is exchanged.
    STATUS = 16;
    /// Memory is mapped the way Xen wants.
    XEN_MMAP = 17;
    /// Shared objects.
    SHARED_OBJECT = 18;
    /// The device's state moves through a pipe.
    DEVICE_STATE = 19;
    /// GET_VRING_BASE leaves chains in flight.
    GET_VRING_BASE_INFLIGHT = 20;
    /// Ring addresses are guest addresses.
    GPA_ADDRESSES = 21;
    /// Shared memory regions.
    SHMEM = 22;
    /// GET_VRING_BASE_SKIP_DRAIN is understood.
    GET_VRING_BASE_SKIP_DRAIN = 23;
}

impl fmt::Display for ProtocolFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of protocol features.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProtocolFeatures(pub u64);

impl ProtocolFeatures {
    /// The set of these features.
    pub const fn of(features: &[ProtocolFeature]) -> Self {
        let mut bits = 0;
        let mut at = 0;
        while at < features.len() {
            bits |= 1 << features[at] as u8;
            at += 1;
        }
        Self(bits)
    }

    /// Whether `feature` is in the set.
    pub const fn has(self, feature: ProtocolFeature) -> bool {
        self.0 & (1 << feature as u8) != 0
    }

    /// What both sets hold.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This set with `feature` taken out.
    pub const fn without(self, feature: ProtocolFeature) -> Self {
        Self(self.0 & !(1 << feature as u8))
    }
}

impl fmt::Display for ProtocolFeatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for feature in ProtocolFeature::ALL.iter().filter(|feature| self.has(**feature)) {
            write!(f, "{separator}{feature}")?;
            separator = " ";
        }
        let unknown = self.0 & !Self::of(ProtocolFeature::ALL).0;
        if unknown != 0 { write!(f, "{separator}{unknown:#x}") } else { Ok(()) }
    }
}
