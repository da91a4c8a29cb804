//! The legacy interface: another window on the same registers, for drivers that know nothing of VERSION_1.
//! ("Legacy Interfaces: A Note on PCI Device Layout")

use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, FEATURES_OK};
use virtnet_rings::{Layout, QueueAddresses};

use super::access::copy;
use super::driver::refuse;
use super::{Function, queue_size};
use crate::device::{config_space, features};
use crate::transport::{Backend, Resetter};
use crate::virtio_pci::Refusal;
use crate::virtio_pci::common as register;

/// Offsets of registers.
const DRIVER_FEATURES: u64 = 4;
const QUEUE_ADDRESS: u64 = 8;
const QUEUE_SELECT: u64 = 14;
const QUEUE_NOTIFY: u64 = 16;
const DEVICE_STATUS: u64 = 18;
const ISR: u64 = 19;
const CONFIG_VECTOR: u64 = 20;
const QUEUE_VECTOR: u64 = 22;
/// Where they end, and device configuration begins: vectors are there while MSI-X is enabled.
const END: u64 = 20;
const END_WITH_VECTORS: u64 = 24;
/// Where fields begin.
const FIELDS: [usize; 10] = [0, 4, 8, 12, 14, 16, 18, 19, 20, 22];
/// A queue's address is the number of its page, and its used ring begins a page.
const PAGE_BYTES: u64 = 4096;
/// Bytes of the address, which is what a driver can write of device configuration.
const ADDRESS_BYTES: usize = 6;

/// The two structures of the interface, which an owner's driver tells apart. ("Legacy Interfaces", of group administration
/// commands)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Common configuration.
    Common,
    /// Device configuration.
    Device,
}

/// Bytes of the BAR of such a device.
pub fn bar_bytes(device: &impl Backend) -> u64 {
    (END_WITH_VECTORS + device.config().len() as u64).next_power_of_two()
}

impl Function {
    /// Bytes of one field, for a legacy driver that somebody else shows the interface to: also of a function that does not show it
    /// itself. `None` if they are not of one field.
    pub fn read_for_owner(&mut self, area: Area, offset: u8, len: usize, device: &impl Backend) -> Option<Vec<u8>> {
        let at = self.place(area, offset, len, device)?;
        let mut bytes = vec![0; len];
        self.read_legacy(at, &mut bytes, device);
        Some(bytes)
    }

    /// The same, written.
    ///
    /// # Errors
    /// [`Refusal`] of what they say.
    pub fn write_for_owner(
        &mut self,
        area: Area,
        offset: u8,
        bytes: &[u8],
        device: &mut impl Backend,
    ) -> Option<Result<(), Refusal>> {
        let at = self.place(area, offset, bytes.len(), device)?;
        self.write_legacy(at, bytes, device)
    }

    /// Where bytes of one field are in the BAR.
    fn place(&self, area: Area, offset: u8, len: usize, device: &impl Backend) -> Option<u64> {
        let begin = if self.msix.is_enabled() { END_WITH_VECTORS } else { END };
        let (fields, end, base) = match area {
            Area::Common => (&FIELDS[..], begin as usize, 0),
            Area::Device => (&config_space::FIELDS[..], device.config().len(), begin),
        };
        let first = usize::from(offset);
        let next = fields.iter().copied().find(|field| *field > first).unwrap_or(end).min(end);
        (len > 0 && first.checked_add(len)? <= next).then(|| base + u64::from(offset))
    }

    /// Registers as a legacy driver reads them.
    pub(super) fn read_legacy(&mut self, offset: u64, into: &mut [u8], device: &impl Backend) {
        let queue = self.known_queues().get(usize::from(self.registers.queue_select));
        let (page, size, vector) = queue.map_or((0, 0, register::NO_VECTOR), |queue| {
            let page = if queue.is_enabled { queue.addresses.descriptor_area / PAGE_BYTES } else { 0 };
            (page as u32, queue.size, queue.vector)
        });
        let touches_isr = (offset..offset + into.len() as u64).contains(&ISR);
        let reasons = if touches_isr { self.intx.take_reasons() } else { 0 };
        let mut image = Vec::new();
        image.extend((self.offered(device) as u32).to_le_bytes());
        image.extend((self.registers.driver_features as u32).to_le_bytes());
        image.extend(page.to_le_bytes());
        image.extend(size.to_le_bytes());
        image.extend(self.registers.queue_select.to_le_bytes());
        image.extend([0, 0, self.status(), reasons]);
        if self.msix.is_enabled() {
            image.extend(self.registers.config_vector.to_le_bytes());
            image.extend(vector.to_le_bytes());
        }
        image.extend(device.config());
        copy(&image, offset, into);
    }

    /// One of them is written; `None` if there is none of this length.
    pub(super) fn write_legacy(
        &mut self,
        offset: u64,
        bytes: &[u8],
        device: &mut impl Backend,
    ) -> Option<Result<(), Refusal>> {
        let mut value = [0; 8];
        value.get_mut(..bytes.len())?.copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        let has_vectors = self.msix.is_enabled();
        match (offset, bytes.len()) {
            (DRIVER_FEATURES, 4) => Some(self.write_legacy_features(value as u32, device)),
            (QUEUE_ADDRESS, 4) => Some(self.write_page(value as u32, device)),
            (QUEUE_SELECT, 2) => self.write_common(register::QUEUE_SELECT, 2, value, device),
            (QUEUE_NOTIFY, 2) => Some(self.ring_legacy(value, device)),
            (DEVICE_STATUS, 1) => Some(self.write_legacy_status(value as u8, device)),
            (CONFIG_VECTOR, 2) if has_vectors => self.write_common(register::CONFIG_MSIX_VECTOR, 2, value, device),
            (QUEUE_VECTOR, 2) if has_vectors => self.write_common(register::QUEUE_MSIX_VECTOR, 2, value, device),
            _ => {
                let at = offset.checked_sub(if has_vectors { END_WITH_VECTORS } else { END })?;
                write_address(usize::try_from(at).ok()?, bytes, device)
            }
        }
    }

    /// The driver uses this interface from now on, until the device is reset.
    fn choose_legacy(&mut self, register: &'static str, value: u64) -> Result<(), Refusal> {
        if self.registers.status & FEATURES_OK != 0 {
            return refuse(register, value, "not of a driver that has accepted VERSION_1");
        }
        self.registers.is_legacy = true;
        Ok(())
    }

    /// What is not offered is not accepted: such a driver does not look. It may write its address before this.
    fn write_legacy_features(&mut self, value: u32, device: &mut impl Backend) -> Result<(), Refusal> {
        self.choose_legacy("driver features", value.into())?;
        let features = features::consistent(u64::from(value) & self.offered(device));
        let address = address(device);
        self.stop_all(device);
        self.registers.driver_features = features.into();
        device.set_features(features);
        if address != self::address(device) {
            let _ = device.set_address(address);
        }
        self.settle_all(device)
    }

    /// ("Legacy Interface: A Note on Virtqueue Layout")
    fn write_page(&mut self, page: u32, device: &mut impl Backend) -> Result<(), Refusal> {
        self.choose_legacy("queue address", page.into())?;
        let index = usize::from(self.registers.queue_select);
        if page == 0 && index < self.known_queues().len() {
            self.stop(index, device);
            self.queues[index].reset(queue_size(device));
            return Ok(());
        }
        self.describe("queue address", page.into(), |queue| {
            let [descriptors_bytes, available_bytes, _] = QueueAddresses::area_sizes_bytes(Layout::Split, queue.size);
            let descriptor_area = u64::from(page) * PAGE_BYTES;
            let driver_area = descriptor_area + descriptors_bytes;
            let device_area = (driver_area + available_bytes).next_multiple_of(PAGE_BYTES);
            queue.addresses = QueueAddresses { descriptor_area, driver_area, device_area };
            queue.is_enabled = true;
        })?;
        self.settle_all(device)
    }

    /// Bits are added, and go with a reset; FEATURES_OK is none of them.
    fn write_legacy_status(&mut self, value: u8, device: &mut impl Backend) -> Result<(), Refusal> {
        if value == 0 {
            self.reset_device(Resetter::Driver, device);
            return Ok(());
        }
        self.choose_legacy("device status", value.into())?;
        self.registers.status |= value & !(FEATURES_OK | DEVICE_NEEDS_RESET);
        device.set_status(self.registers.status);
        self.settle_all(device)
    }

    /// The driver rings for a queue, which can be used before DRIVER_OK. ("Legacy Interface: Device Initialization")
    ///
    /// # Errors
    /// There is no such queue, or it does not run.
    pub fn ring_legacy(&mut self, index: u64, device: &mut impl Backend) -> Result<(), Refusal> {
        if self.registers.is_legacy && self.queues.get(index as usize).is_some_and(|queue| queue.is_enabled) {
            self.registers.has_begun = true;
            self.settle_all(device)?;
        }
        self.ring(index)
    }
}

/// Of the device, in its configuration.
fn address(device: &impl Backend) -> [u8; ADDRESS_BYTES] {
    device.config().first_chunk().copied().unwrap_or_default()
}

/// Some bytes of the address are written; `None` if they are others.
fn write_address(at: usize, bytes: &[u8], device: &mut impl Backend) -> Option<Result<(), Refusal>> {
    let mut address = address(device);
    address.get_mut(at..at + bytes.len())?.copy_from_slice(bytes);
    let found = u64::from_le_bytes([&address[..], &[0; 2]].concat().try_into().ok()?);
    Some(device.set_address(address).or_else(|allowed| refuse("mac", found, allowed)))
}
