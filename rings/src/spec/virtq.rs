//! Virtqueues: descriptor flags, areas and their alignment, ring feature bits.

/// The chain goes on at `next` (split), or in the next slot (packed).
pub const VIRTQ_DESC_F_NEXT: u16 = 1;
/// The device may write this buffer, and not read it.
pub const VIRTQ_DESC_F_WRITE: u16 = 2;
/// The buffer is a table of descriptors.
pub const VIRTQ_DESC_F_INDIRECT: u16 = 4;
/// Packed: set by the driver to its wrap counter.
pub const VIRTQ_DESC_F_AVAIL: u16 = 1 << 7;
/// Packed: set by the device to its wrap counter.
pub const VIRTQ_DESC_F_USED: u16 = 1 << 15;

/// Split, available ring flags: the driver wants no used buffer notifications.
pub const VIRTQ_AVAIL_F_NO_INTERRUPT: u16 = 1;
/// Split, used ring flags: the device wants no available buffer notifications.
pub const VIRTQ_USED_F_NO_NOTIFY: u16 = 1;

/// Packed, event suppression: notify always.
pub const RING_EVENT_FLAGS_ENABLE: u16 = 0;
/// Packed, event suppression: never notify.
pub const RING_EVENT_FLAGS_DISABLE: u16 = 1;
/// Packed, event suppression: notify at one descriptor.
pub const RING_EVENT_FLAGS_DESC: u16 = 2;

/// One descriptor, either layout.
pub const DESCRIPTOR_SIZE_BYTES: u32 = 16;
/// The largest queue, either layout ("Virtqueues").
pub const QUEUE_SIZE_MAX: u16 = 32768;

/// The device takes a frame and its header in descriptors of any number and length, from legacy drivers, too.
pub const VIRTIO_F_ANY_LAYOUT: u32 = 27;
/// Indirect descriptors.
pub const VIRTIO_F_INDIRECT_DESC: u32 = 28;
/// `used_event` and `avail_event`.
pub const VIRTIO_F_EVENT_IDX: u32 = 29;
/// Not a legacy device.
pub const VIRTIO_F_VERSION_1: u32 = 32;
/// Addresses pass through an IOMMU.
pub const VIRTIO_F_ACCESS_PLATFORM: u32 = 33;
/// The packed layout.
pub const VIRTIO_F_RING_PACKED: u32 = 34;
/// Buffers are used in the order in which they were made available.
pub const VIRTIO_F_IN_ORDER: u32 = 35;
/// Memory is ordered as the platform orders it.
pub const VIRTIO_F_ORDER_PLATFORM: u32 = 36;
/// A notification carries the next available index.
pub const VIRTIO_F_NOTIFICATION_DATA: u32 = 38;
/// A single queue can be reset.
pub const VIRTIO_F_RING_RESET: u32 = 40;
/// There is an administration virtqueue.
pub const VIRTIO_F_ADMIN_VQ: u32 = 41;
