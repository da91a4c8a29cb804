//! What a driver writes to common configuration and to doorbells.

use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK, FEATURES_OK};
use virtnet_rings::spec::virtq::VIRTIO_F_NOTIFICATION_DATA;

use super::{Function, queue_size};
use crate::transport::{Backend, Resetter};
use crate::virtio_pci::Refusal;
use crate::virtio_pci::common::{self as register, NO_VECTOR};
use crate::virtio_pci::layout::NOTIFY_STRIDE;
use crate::virtio_pci::queue::VirtQueue;

impl Function {
    /// A register of common configuration is written; `None` if there is none of this length.
    pub(super) fn write_common(
        &mut self,
        offset: u64,
        len_bytes: usize,
        value: u64,
        device: &mut impl Backend,
    ) -> Option<Result<(), Refusal>> {
        let half = value as u16;
        let index = usize::from(self.registers.queue_select);
        match (offset, len_bytes) {
            (register::DEVICE_FEATURE_SELECT, 4) => self.registers.device_feature_select = value as u32,
            (register::DRIVER_FEATURE_SELECT, 4) => self.registers.driver_feature_select = value as u32,
            (register::DRIVER_FEATURE, 4) => return Some(self.write_features(value as u32)),
            (register::CONFIG_MSIX_VECTOR, 2) => self.registers.config_vector = self.vector(half),
            (register::DEVICE_STATUS, 1) => return Some(self.write_status(value as u8, device)),
            (register::QUEUE_SELECT, 2) => self.registers.queue_select = half,
            (register::QUEUE_MSIX_VECTOR, 2) => {
                let vector = self.vector(half);
                if let Some(queue) = self.known_queue(index) {
                    queue.vector = vector;
                    self.settle(device);
                }
            }
            (register::QUEUE_ENABLE, 2) => return Some(self.write_enable(index, half, device)),
            (register::QUEUE_RESET, 2) => return Some(self.write_queue_reset(index, half, device)),
            (register::QUEUE_SIZE, 2) => {
                if !self.registers.allows_size(half, device.queue_size_max()) {
                    let allowed = "up to the device's, and of a split queue a power of two";
                    return Some(refuse("queue_size", value, allowed));
                }
                return Some(self.describe("queue_size", value, |queue| queue.size = half));
            }
            (register::QUEUE_DESC..register::QUEUE_DEVICE_END, 4 | 8) if offset.is_multiple_of(len_bytes as u64) => {
                let place = (offset - register::QUEUE_DESC) / 8;
                let shift = offset % 8 * 8;
                let mask = if len_bytes == 8 { u64::MAX } else { u64::from(u32::MAX) << shift };
                return Some(self.describe("queue address", value, |queue| {
                    let addresses = &mut queue.addresses;
                    let areas =
                        [&mut addresses.descriptor_area, &mut addresses.driver_area, &mut addresses.device_area];
                    if let Some(area) = areas.into_iter().nth(place as usize) {
                        *area = *area & !mask | value << shift;
                    }
                }));
            }
            _ => return None,
        }
        Some(Ok(()))
    }

    fn write_features(&mut self, value: u32) -> Result<(), Refusal> {
        if self.registers.is_legacy || self.registers.status & FEATURES_OK != 0 {
            return refuse("driver_feature", value.into(), "not after FEATURES_OK, nor of a legacy driver");
        }
        self.registers.accept(value);
        Ok(())
    }

    /// Bits are added one by one or together, in their order, and go with a reset. ("Device Initialization")
    fn write_status(&mut self, value: u8, device: &mut impl Backend) -> Result<(), Refusal> {
        if value == 0 {
            self.reset_device(Resetter::Driver, device);
            return Ok(());
        }
        if self.registers.is_legacy {
            return refuse("device_status", value.into(), "0, of a legacy driver");
        }
        let added = value & !self.registers.status & !DEVICE_NEEDS_RESET;
        self.registers.status |= added & !(FEATURES_OK | DRIVER_OK);
        if added & FEATURES_OK != 0 {
            let offered = self.offered(device);
            let features = self.registers.features(offered).filter(|_| self.registers.has_driver());
            let Some(features) = features else {
                let found = self.registers.driver_features as u64;
                return refuse(
                    "driver_feature",
                    found,
                    "VERSION_1, what is offered, and what that needs, from DRIVER on",
                );
            };
            device.set_features(features);
            self.registers.status |= FEATURES_OK;
        }
        if added & DRIVER_OK != 0 {
            if self.registers.status & FEATURES_OK == 0 {
                return refuse("device_status", value.into(), "DRIVER_OK after FEATURES_OK");
            }
            self.registers.status |= DRIVER_OK;
        }
        device.set_status(self.registers.status);
        self.settle_all(device)
    }

    fn write_enable(&mut self, index: usize, value: u16, device: &mut impl Backend) -> Result<(), Refusal> {
        let is_ready = self.registers.status & FEATURES_OK != 0;
        match self.known_queue(index).filter(|_| is_ready && value == 1) {
            Some(queue) => queue.is_enabled = true,
            None => return refuse("queue_enable", value.into(), "1, after FEATURES_OK, of a queue that there is"),
        }
        self.settle_all(device)
    }

    /// ("Virtqueue Reset")
    fn write_queue_reset(&mut self, index: usize, value: u16, device: &mut impl Backend) -> Result<(), Refusal> {
        let is_ready = self.registers.resets_queues() && self.registers.status & FEATURES_OK != 0;
        if value != 1 || !is_ready || index >= self.known_queues().len() {
            return refuse("queue_reset", value.into(), "1, with RING_RESET, of a queue that there is");
        }
        self.stop(index, device);
        self.queues[index].reset(queue_size(device));
        device.reset_ring(index);
        Ok(())
    }

    /// Changes what the selected queue is described as, which must not be enabled.
    pub(super) fn describe(
        &mut self,
        register: &'static str,
        value: u64,
        change: impl FnOnce(&mut VirtQueue),
    ) -> Result<(), Refusal> {
        let queue = self.known_queue(usize::from(self.registers.queue_select));
        match queue.filter(|queue| !queue.is_enabled) {
            Some(queue) => change(queue),
            None => return refuse(register, value, "not of a queue that is enabled, or that there is not"),
        }
        Ok(())
    }

    /// A doorbell is written: with its queue's number, and where the driver stands behind it if it has accepted to say so; `None` if
    /// there is none of this length. ("Available Buffer Notifications")
    pub(super) fn write_doorbell(&mut self, offset: u64, len_bytes: usize, value: u64) -> Option<Result<(), Refusal>> {
        let expected = if self.registers.has(VIRTIO_F_NOTIFICATION_DATA) { 4 } else { 2 };
        let index = offset / u64::from(NOTIFY_STRIDE);
        let is_one = len_bytes == expected && offset.is_multiple_of(NOTIFY_STRIDE.into());
        is_one.then(|| match value & 0xffff == index {
            true => self.ring(index),
            false => refuse("doorbell", value, "its queue's number"),
        })
    }

    pub(super) fn ring(&mut self, index: u64) -> Result<(), Refusal> {
        let queue = usize::try_from(index).ok().and_then(|index| self.queues.get(index));
        match queue.filter(|queue| queue.runs.is_some() || queue.is_enabled && self.is_stopped()) {
            // One that is stopped is looked at when it goes on.
            Some(queue) => queue.ring(),
            None => return refuse("doorbell", index, "of a queue that runs"),
        }
        Ok(())
    }

    /// The doorbell of a VF of a legacy driver is rung, to be taken there; `None` if there is none of this length.
    pub(super) fn ring_member(&mut self, offset: u64, bytes: &[u8]) -> Option<()> {
        let queue = u16::from_le_bytes(bytes.try_into().ok()?);
        let stride = u64::from(NOTIFY_STRIDE);
        let member = (offset / stride) as u16 + 1;
        let is_one = offset.is_multiple_of(stride) && self.members().is_some_and(|members| member <= members);
        is_one.then(|| self.rung.push((member, queue)))
    }

    /// A vector as it is read back: none, where there is no such.
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.msix.count() { vector } else { NO_VECTOR }
    }
}

pub(super) fn refuse(register: &'static str, found: u64, allowed: &'static str) -> Result<(), Refusal> {
    Err(Refusal::Value { register, found, allowed })
}
