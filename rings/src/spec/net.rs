//! The network device: feature bits, the header before every frame, configuration space.

use super::virtq::VIRTIO_F_VERSION_1;

/// The device completes partial checksums.
pub const VIRTIO_NET_F_CSUM: u32 = 0;
/// The driver takes frames with partial checksums.
pub const VIRTIO_NET_F_GUEST_CSUM: u32 = 1;
/// The driver says which offloads it takes at present, of those it has accepted.
pub const VIRTIO_NET_F_CTRL_GUEST_OFFLOADS: u32 = 2;
/// The device gives a maximum MTU.
pub const VIRTIO_NET_F_MTU: u32 = 3;
/// The device gives a MAC address.
pub const VIRTIO_NET_F_MAC: u32 = 5;
/// The driver takes TSOv4.
pub const VIRTIO_NET_F_GUEST_TSO4: u32 = 7;
/// The driver takes TSOv6.
pub const VIRTIO_NET_F_GUEST_TSO6: u32 = 8;
/// The driver takes TSO with ECN.
pub const VIRTIO_NET_F_GUEST_ECN: u32 = 9;
/// The driver takes UFO.
pub const VIRTIO_NET_F_GUEST_UFO: u32 = 10;
/// The device takes TSOv4.
pub const VIRTIO_NET_F_HOST_TSO4: u32 = 11;
/// The device takes TSOv6.
pub const VIRTIO_NET_F_HOST_TSO6: u32 = 12;
/// The device takes TSO with ECN.
pub const VIRTIO_NET_F_HOST_ECN: u32 = 13;
/// The device takes UFO.
pub const VIRTIO_NET_F_HOST_UFO: u32 = 14;
/// The driver merges receive buffers.
pub const VIRTIO_NET_F_MRG_RXBUF: u32 = 15;
/// Configuration has `status`.
pub const VIRTIO_NET_F_STATUS: u32 = 16;
/// There is a control queue.
pub const VIRTIO_NET_F_CTRL_VQ: u32 = 17;
/// The driver says which frames it receives.
pub const VIRTIO_NET_F_CTRL_RX: u32 = 18;
/// The driver says which VLANs it is in.
pub const VIRTIO_NET_F_CTRL_VLAN: u32 = 19;
/// The driver says so more closely.
pub const VIRTIO_NET_F_CTRL_RX_EXTRA: u32 = 20;
/// The guest can be asked to announce itself.
pub const VIRTIO_NET_F_GUEST_ANNOUNCE: u32 = 21;
/// Several queue pairs.
pub const VIRTIO_NET_F_MQ: u32 = 22;
/// The driver gives the device another address.
pub const VIRTIO_NET_F_CTRL_MAC_ADDR: u32 = 23;
/// The device counts, and the driver reads it.
pub const VIRTIO_NET_F_DEVICE_STATS: u32 = 50;
/// The driver says how used buffer notifications of single queues are held back.
pub const VIRTIO_NET_F_VQ_NOTF_COAL: u32 = 52;
/// The driver says how used buffer notifications are held back.
pub const VIRTIO_NET_F_NOTF_COAL: u32 = 53;
/// The driver takes USOv4.
pub const VIRTIO_NET_F_GUEST_USO4: u32 = 54;
/// The driver takes USOv6.
pub const VIRTIO_NET_F_GUEST_USO6: u32 = 55;
/// The device takes USO.
pub const VIRTIO_NET_F_HOST_USO: u32 = 56;
/// The device says by which hash a frame came.
pub const VIRTIO_NET_F_HASH_REPORT: u32 = 57;
/// The driver says by which hash and table frames come to queues.
pub const VIRTIO_NET_F_RSS: u32 = 60;
/// Configuration has `speed` and `duplex`.
pub const VIRTIO_NET_F_SPEED_DUPLEX: u32 = 63;

/// `status`: the link is up.
pub const VIRTIO_NET_S_LINK_UP: u16 = 1;
/// `status`: the guest is to announce itself.
pub const VIRTIO_NET_S_ANNOUNCE: u16 = 2;
/// `duplex`: full.
pub const VIRTIO_NET_DUPLEX_FULL: u8 = 1;

/// Header flags: checksum from `csum_start`, store at `csum_offset`.
pub const VIRTIO_NET_HDR_F_NEEDS_CSUM: u8 = 1;
/// Header flags: the checksum has been checked.
pub const VIRTIO_NET_HDR_F_DATA_VALID: u8 = 2;
/// No segmentation.
pub const VIRTIO_NET_HDR_GSO_NONE: u8 = 0;
/// TCP over IPv4.
pub const VIRTIO_NET_HDR_GSO_TCPV4: u8 = 1;
/// UDP fragmentation.
pub const VIRTIO_NET_HDR_GSO_UDP: u8 = 3;
/// TCP over IPv6.
pub const VIRTIO_NET_HDR_GSO_TCPV6: u8 = 4;
/// UDP segmentation.
pub const VIRTIO_NET_HDR_GSO_UDP_L4: u8 = 5;
/// A hash report: there is none. What there may be is numbered from 1.
pub const VIRTIO_NET_HASH_REPORT_NONE: u16 = 0;
/// A bit beside the type: the segment has ECN set.
pub const VIRTIO_NET_HDR_GSO_ECN: u8 = 0x80;

/// `struct virtio_net_hdr` with `num_buffers` ("Packet Transmission").
pub const NET_HEADER_SIZE_BYTES: usize = 12;
/// The same with a hash behind it. ("Hash reporting for incoming packets")
pub const NET_HEADER_HASH_SIZE_BYTES: usize = 20;
/// The same without `num_buffers` ("Legacy Interface: Device Operation" of the network device).
pub const NET_HEADER_LEGACY_SIZE_BYTES: usize = 10;

/// Bytes of the header that goes before the frames of a driver which has accepted `features`.
#[inline]
pub fn net_header_size_bytes(features: u64) -> usize {
    match features & (1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF) {
        _ if features & 1 << VIRTIO_NET_F_HASH_REPORT != 0 => NET_HEADER_HASH_SIZE_BYTES,
        0 => NET_HEADER_LEGACY_SIZE_BYTES,
        _ => NET_HEADER_SIZE_BYTES,
    }
}

/// `struct virtio_net_hdr`, copied out of guest memory once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetHeader {
    /// `VIRTIO_NET_HDR_F_*`.
    pub flags: u8,
    /// `VIRTIO_NET_HDR_GSO_*`.
    pub gso_type: u8,
    /// Length of the headers before the first segment's payload, a hint.
    pub hdr_len: u16,
    /// Payload of one segment, in bytes.
    pub gso_size: u16,
    /// Where the checksum starts, from the frame's first byte.
    pub csum_start: u16,
    /// Where the checksum is stored, from `csum_start`.
    pub csum_offset: u16,
    /// Receive only: how many buffers the frame fills.
    pub num_buffers: u16,
}

impl NetHeader {
    /// From the bytes in front of a frame.
    #[inline]
    pub fn from_bytes(b: [u8; NET_HEADER_SIZE_BYTES]) -> Self {
        let u16_at = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        NetHeader {
            flags: b[0],
            gso_type: b[1],
            hdr_len: u16_at(2),
            gso_size: u16_at(4),
            csum_start: u16_at(6),
            csum_offset: u16_at(8),
            num_buffers: u16_at(10),
        }
    }

    /// To the bytes in front of a frame.
    #[inline]
    pub fn to_bytes(self) -> [u8; NET_HEADER_SIZE_BYTES] {
        let mut b = [self.flags, self.gso_type, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        b[2..4].copy_from_slice(&self.hdr_len.to_le_bytes());
        b[4..6].copy_from_slice(&self.gso_size.to_le_bytes());
        b[6..8].copy_from_slice(&self.csum_start.to_le_bytes());
        b[8..10].copy_from_slice(&self.csum_offset.to_le_bytes());
        b[10..12].copy_from_slice(&self.num_buffers.to_le_bytes());
        b
    }

    /// Whether the frame asks for anything at all: most do not.
    #[inline]
    pub fn is_plain(&self) -> bool {
        self.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM == 0 && self.gso_type == VIRTIO_NET_HDR_GSO_NONE
    }
}
