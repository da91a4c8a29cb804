//! Common configuration: what of it is the device's as a whole. ("Common configuration structure layout")

use virtnet_rings::Layout;
use virtnet_rings::spec::status::{ACKNOWLEDGE, DRIVER, FEATURES_OK};
use virtnet_rings::spec::virtq::{VIRTIO_F_ADMIN_VQ, VIRTIO_F_RING_PACKED, VIRTIO_F_RING_RESET, VIRTIO_F_VERSION_1};

use super::layout::COMMON_BYTES;
use super::queue::VirtQueue;
use crate::device::features;

/// No vector, and what is read where one that was written does not exist.
pub const NO_VECTOR: u16 = 0xffff;

/// Offsets of registers.
pub const DEVICE_FEATURE_SELECT: u64 = 0;
const DEVICE_FEATURE: usize = 4;
pub const DRIVER_FEATURE_SELECT: u64 = 8;
pub const DRIVER_FEATURE: u64 = 12;
pub const CONFIG_MSIX_VECTOR: u64 = 16;
pub const NUM_QUEUES: u64 = 18;
pub const DEVICE_STATUS: u64 = 20;
const CONFIG_GENERATION: usize = 21;
pub const QUEUE_SELECT: u64 = 22;
pub const QUEUE_SIZE: u64 = 24;
pub const QUEUE_MSIX_VECTOR: u64 = 26;
pub const QUEUE_ENABLE: u64 = 28;
const QUEUE_NOTIFY_OFF: usize = 30;
pub const QUEUE_DESC: u64 = 32;
pub const QUEUE_DRIVER: u64 = 40;
pub const QUEUE_DEVICE: u64 = 48;
/// Where the addresses end.
pub const QUEUE_DEVICE_END: u64 = 56;
pub const QUEUE_RESET: u64 = 58;
const ADMIN_QUEUE_INDEX: usize = 60;
const ADMIN_QUEUE_NUM: usize = 62;

/// The registers that are not a queue's.
#[derive(Clone, Debug)]
pub struct Registers {
    pub device_feature_select: u32,
    pub driver_feature_select: u32,
    /// What the driver has written so far, all 128 bits.
    pub driver_features: u128,
    pub config_vector: u16,
    pub status: u8,
    pub generation: u8,
    pub queue_select: u16,
    /// The driver uses the legacy interface.
    pub is_legacy: bool,
    /// It has rung before DRIVER_OK, which only a legacy driver does.
    pub has_begun: bool,
}

impl Default for Registers {
    fn default() -> Self {
        Self {
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            config_vector: NO_VECTOR,
            status: 0,
            generation: 0,
            queue_select: 0,
            is_legacy: false,
            has_begun: false,
        }
    }
}

impl Registers {
    /// All of them as the driver reads them, of a device that offers these features and has this status, with so many queues before
    /// its administration virtqueue.
    pub fn image(&self, offered: u64, status: u8, num_queues: usize, queues: &[VirtQueue]) -> [u8; COMMON_BYTES] {
        let mut image = [0; COMMON_BYTES];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        put(DEVICE_FEATURE_SELECT as usize, &self.device_feature_select.to_le_bytes());
        put(DEVICE_FEATURE, &window(offered.into(), self.device_feature_select).to_le_bytes());
        put(DRIVER_FEATURE_SELECT as usize, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE as usize, &window(self.driver_features, self.driver_feature_select).to_le_bytes());
        put(CONFIG_MSIX_VECTOR as usize, &self.config_vector.to_le_bytes());
        put(NUM_QUEUES as usize, &(num_queues as u16).to_le_bytes());
        put(DEVICE_STATUS as usize, &[status]);
        put(CONFIG_GENERATION, &[self.generation]);
        put(QUEUE_SELECT as usize, &self.queue_select.to_le_bytes());
        if offered & 1 << VIRTIO_F_ADMIN_VQ != 0 {
            put(ADMIN_QUEUE_INDEX, &(num_queues as u16).to_le_bytes());
            put(ADMIN_QUEUE_NUM, &1u16.to_le_bytes());
        }
        // A queue that does not exist has a size of 0.
        let Some(queue) = queues.get(usize::from(self.queue_select)) else { return image };
        put(QUEUE_SIZE as usize, &queue.size.to_le_bytes());
        put(QUEUE_MSIX_VECTOR as usize, &queue.vector.to_le_bytes());
        put(QUEUE_ENABLE as usize, &u16::from(queue.is_enabled).to_le_bytes());
        put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
        put(QUEUE_DESC as usize, &queue.addresses.descriptor_area.to_le_bytes());
        put(QUEUE_DRIVER as usize, &queue.addresses.driver_area.to_le_bytes());
        put(QUEUE_DEVICE as usize, &queue.addresses.device_area.to_le_bytes());
        image
    }

    /// The driver writes 32 of its features. Bits that nobody could offer are ignored.
    pub fn accept(&mut self, value: u32) {
        let Some(shift) = self.driver_feature_select.checked_mul(32).filter(|shift| *shift < u128::BITS) else {
            return;
        };
        self.driver_features = self.driver_features & !(u128::from(u32::MAX) << shift) | u128::from(value) << shift;
    }

    /// The features that a driver may have: those it has written, if they are offered, go together, and are a modern driver's.
    pub fn features(&self, offered: u64) -> Option<u64> {
        let found = u64::try_from(self.driver_features).ok()?;
        let is_good =
            found & !offered == 0 && found & 1 << VIRTIO_F_VERSION_1 != 0 && features::consistent(found) == found;
        is_good.then_some(found)
    }

    /// The features that the driver has got, in whichever way; `None`, where it cannot have got there.
    pub fn accepted(&self, offered: u64) -> Option<u64> {
        if self.status & FEATURES_OK != 0 {
            return self.features(offered).filter(|_| !self.is_legacy);
        }
        let found = self.driver_features as u32;
        let is_good = u128::from(found) == self.driver_features
            && u64::from(found) & !offered == 0
            && features::consistent(found.into()) == u64::from(found);
        if self.is_legacy { is_good.then_some(found.into()) } else { Some(0) }
    }

    /// Whether a queue may have this size.
    pub fn allows_size(&self, size: u16, most: u16) -> bool {
        size > 0 && size <= most && (size.is_power_of_two() || self.is_packed())
    }

    /// Whether the driver has accepted it.
    pub fn has(&self, feature: u32) -> bool {
        self.driver_features & 1 << feature != 0
    }

    /// Which layout rings have.
    pub fn layout(&self) -> Layout {
        if self.is_packed() { Layout::Packed } else { Layout::Split }
    }

    /// Whether that is the packed one.
    pub fn is_packed(&self) -> bool {
        self.has(VIRTIO_F_RING_PACKED)
    }

    /// Whether the driver knows of the administration virtqueue.
    pub fn administers(&self) -> bool {
        self.has(VIRTIO_F_ADMIN_VQ)
    }

    /// Whether queues can be reset one by one.
    pub fn resets_queues(&self) -> bool {
        self.has(VIRTIO_F_RING_RESET)
    }

    /// Whether the driver has come as far as to negotiate features.
    pub fn has_driver(&self) -> bool {
        const MET: u8 = ACKNOWLEDGE | DRIVER;
        self.status & MET == MET
    }
}

fn window(bits: u128, select: u32) -> u32 {
    let shift = select.checked_mul(32).filter(|shift| *shift < u128::BITS);
    shift.map_or(0, |shift| (bits >> shift) as u32)
}
