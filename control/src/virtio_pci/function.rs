//! The registers of a function, and what they do.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtnet_engine::caller::Line;
use virtnet_rings::memory::GuestMemory;
use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, DRIVER_OK, FAILED, FEATURES_OK};
use virtnet_rings::spec::virtq::VIRTIO_F_ACCESS_PLATFORM;
use virtnet_rings::{Layout, Notifier, QueueSetup};

use super::Refusal;
use super::common::{self as register, NO_VECTOR, Registers};
use super::layout::{self, MSIX_BAR, VIRTIO_BAR};
use super::queue::{Aim, VirtQueue};
use crate::firmware::PciIds;
use crate::pci::config_space::{BARS, COMMAND_INTX_DISABLE, COMMAND_MASTER, Ids};
use crate::pci::{ConfigSpace, Intx, Msix, capability, msix};
use crate::transport::{Backend, STATUS_ADDABLE};

/// The revision of all functions.
const REVISION: u8 = 1;
/// Interrupt status: a queue was used.
const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration, or the device's need for a reset, has changed.
const ISR_CONFIG: u8 = 2;

/// What a function shows of itself on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// What it is.
    pub ids: PciIds,
    /// MSI-X vectors.
    pub msix: u16,
}

/// Where capabilities are that do something.
#[derive(Clone, Copy, Debug)]
struct Places {
    msix: usize,
    power: usize,
    express: usize,
    access: usize,
}

/// A virtio device as a PCI function. It outlives those who carry its registers.
#[derive(Debug)]
pub struct Function {
    space: ConfigSpace,
    places: Places,
    msix: Msix,
    intx: Intx,
    registers: Registers,
    queues: Vec<VirtQueue>,
    memory: Arc<GuestMemory>,
    needs_reset: bool,
    /// Somebody else than the driver has given the device up.
    is_given_up: bool,
    /// Times that the device went on after it had needed a reset.
    recoveries: u64,
}

impl Function {
    /// The function of a device, as it comes out of a reset.
    pub fn new(traits: Traits, device: &impl Backend) -> Self {
        let PciIds { vendor, device: id, class } = traits.ids;
        let mut space = ConfigSpace::new(Ids { vendor, device: id, class, revision: REVISION });
        let msix = Msix::new(traits.msix);
        let queues = device.ring_count();
        space.add_bar(MSIX_BAR, msix.bar_bytes());
        space.add_bar(VIRTIO_BAR, layout::VIRTIO_BAR_BYTES);
        let (body, writable) = msix.capability(MSIX_BAR as u8);
        let at_msix = space.add_capability(capability::MSIX, &body, &writable);
        let (body, writable) = capability::power_management();
        let power = space.add_capability(capability::POWER_MANAGEMENT, &body, &writable);
        let (body, writable) = capability::express();
        let express = space.add_capability(capability::EXPRESS, &body, &writable);
        let config_bytes = device.config().len().next_multiple_of(4);
        let access = layout::add_capabilities(&mut space, queues, config_bytes);
        let size = queue_size(device);
        let mut intx = Intx::default();
        intx.enable(true);
        Self {
            space,
            places: Places { msix: at_msix, power, express, access },
            msix,
            intx,
            registers: Registers::default(),
            queues: (0..queues).map(|_| VirtQueue::new(size)).collect(),
            memory: Arc::default(),
            needs_reset: false,
            is_given_up: false,
            recoveries: 0,
        }
    }

    /// Bytes of a BAR; 0 where there is none.
    pub fn bar_bytes(&self, bar: usize) -> u64 {
        self.space.bar_bytes(bar)
    }

    /// How many MSI-X vectors it has.
    pub fn vectors(&self) -> u16 {
        self.msix.count()
    }

    /// Configuration space as the host reads it: bytes that lie inside.
    pub fn read_config(&mut self, offset: usize, into: &mut [u8], device: &impl Backend) {
        self.space.show_intx(self.intx.is_wanted() && !self.msix.is_enabled());
        if self.touches(layout::ACCESS_DATA, 4, offset, into.len())
            && let Some((bar, at, len_bytes)) = self.window()
        {
            let mut data = [0; 4];
            self.read_bar(bar, at, &mut data[..len_bytes], device);
            self.space.write(self.places.access + layout::ACCESS_DATA, &data);
        }
        self.space.read(offset, into);
    }

    /// The same, written.
    ///
    /// # Errors
    /// [`Refusal`] of what is written through it to a BAR.
    pub fn write_config(&mut self, offset: usize, bytes: &[u8], device: &mut impl Backend) -> Result<(), Refusal> {
        let control = self.places.express + capability::DEVICE_CONTROL + 1;
        let [_, reset] = capability::DEVICE_CONTROL_FLR.to_le_bytes();
        if control.checked_sub(offset).and_then(|at| bytes.get(at)).is_some_and(|byte| byte & reset != 0) {
            self.reset(device);
            return Ok(());
        }
        self.space.write(offset, bytes);
        self.msix.control(self.space.half(self.places.msix + msix::CONTROL));
        self.intx.enable(!self.msix.is_enabled() && !self.space.has_command(COMMAND_INTX_DISABLE));
        self.settle(device);
        if self.touches(layout::ACCESS_DATA, 4, offset, bytes.len())
            && let Some((bar, at, len_bytes)) = self.window()
        {
            let data = self.space.word(self.places.access + layout::ACCESS_DATA).to_le_bytes();
            return self.write_bar(bar, at, &data[..len_bytes], device);
        }
        Ok(())
    }

    /// Registers of a BAR as the host reads them: bytes that lie inside.
    pub fn read_bar(&mut self, bar: usize, offset: u64, into: &mut [u8], device: &impl Backend) {
        into.fill(0);
        if bar == MSIX_BAR {
            return self.msix.read(offset, into);
        }
        if bar != VIRTIO_BAR {
            return;
        }
        match offset {
            layout::NOTIFY.. => {}
            layout::DEVICE.. => copy(&device.config(), offset - layout::DEVICE, into),
            layout::ISR.. => {
                if let (layout::ISR, [reasons, ..]) = (offset, into) {
                    *reasons = self.intx.take_reasons();
                }
            }
            _ => {
                let image = self.registers.image(self.offered(device), self.status(), &self.queues);
                copy(&image, offset, into);
            }
        }
    }

    /// The same, written.
    ///
    /// # Errors
    /// [`Refusal`]: what is written makes no sense, or a queue cannot be as it says.
    pub fn write_bar(
        &mut self,
        bar: usize,
        offset: u64,
        bytes: &[u8],
        device: &mut impl Backend,
    ) -> Result<(), Refusal> {
        if bar == MSIX_BAR {
            self.msix.write(offset, bytes);
            self.settle(device);
            return Ok(());
        }
        let refused = Refusal::Register { bar, offset, len_bytes: bytes.len() };
        let mut value = [0; 8];
        let Some(low) = value.get_mut(..bytes.len()) else { return Err(refused) };
        low.copy_from_slice(bytes);
        let value = u64::from_le_bytes(value);
        match offset {
            _ if bar != VIRTIO_BAR => Err(refused),
            layout::NOTIFY.. => self.ring((offset - layout::NOTIFY) / u64::from(layout::NOTIFY_STRIDE)),
            ..layout::ISR => self.write_common(offset, bytes.len(), value, device).unwrap_or(Err(refused)),
            _ => Err(refused),
        }
    }

    /// A register of common configuration is written; `None` if there is none of this length.
    fn write_common(
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
                if let Some(queue) = self.queues.get_mut(index) {
                    queue.vector = vector;
                    self.settle(device);
                }
            }
            (register::QUEUE_ENABLE, 2) => return Some(self.write_enable(index, half, device)),
            (register::QUEUE_RESET, 2) => return Some(self.write_queue_reset(index, half, device)),
            (register::QUEUE_SIZE, 2) => {
                let is_good = half > 0
                    && half <= device.queue_size_max()
                    && (half.is_power_of_two() || self.registers.is_packed());
                if !is_good {
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
        if self.registers.status & FEATURES_OK != 0 {
            return refuse("driver_feature", value.into(), "not after FEATURES_OK");
        }
        self.registers.accept(value);
        Ok(())
    }

    /// Bits are added one by one or together, in their order, and go with a reset. ("Device Initialization")
    fn write_status(&mut self, value: u8, device: &mut impl Backend) -> Result<(), Refusal> {
        if value == 0 {
            self.reset_device(device);
            return Ok(());
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
        match self.queues.get_mut(index).filter(|_| is_ready && value == 1) {
            Some(queue) => queue.is_enabled = true,
            None => return refuse("queue_enable", value.into(), "1, after FEATURES_OK, of a queue that there is"),
        }
        self.settle_all(device)
    }

    /// ("Virtqueue Reset")
    fn write_queue_reset(&mut self, index: usize, value: u16, device: &mut impl Backend) -> Result<(), Refusal> {
        let is_ready = self.registers.resets_queues() && self.registers.status & FEATURES_OK != 0;
        if value != 1 || !is_ready || index >= self.queues.len() {
            return refuse("queue_reset", value.into(), "1, with RING_RESET, of a queue that there is");
        }
        self.stop(index, device);
        self.queues[index].reset(queue_size(device));
        Ok(())
    }

    /// Changes what the selected queue is described as, which must not be enabled.
    fn describe(
        &mut self,
        register: &'static str,
        value: u64,
        change: impl FnOnce(&mut VirtQueue),
    ) -> Result<(), Refusal> {
        let queue = self.queues.get_mut(usize::from(self.registers.queue_select));
        match queue.filter(|queue| !queue.is_enabled) {
            Some(queue) => change(queue),
            None => return refuse(register, value, "not of a queue that is enabled, or that there is not"),
        }
        Ok(())
    }

    fn ring(&mut self, index: u64) -> Result<(), Refusal> {
        let queue = usize::try_from(index).ok().and_then(|index| self.queues.get(index));
        match queue.filter(|queue| queue.runs.is_some()) {
            Some(queue) => queue.ring(),
            None => return refuse("doorbell", index, "of a queue that runs"),
        }
        Ok(())
    }

    /// Doorbells in [`VIRTIO_BAR`]: their offsets, and what rings them for whoever is told; the first of them, as many as `most`.
    ///
    /// # Errors
    /// The system's.
    pub fn share_doorbells(
        &mut self,
        most: usize,
        device: &mut impl Backend,
    ) -> std::io::Result<Vec<(u64, BorrowedFd<'_>)>> {
        let offset = |index: usize| layout::NOTIFY + index as u64 * u64::from(layout::NOTIFY_STRIDE);
        let queues = self.queues.iter_mut().take(most).enumerate();
        queues.map(|(index, queue)| Ok((offset(index), queue.share(device)?))).collect()
    }

    /// The guest's memory is this from now on. Rings that it does not hold wait for a memory that does.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>, device: &mut impl Backend) {
        self.stop_all(device);
        self.memory = memory;
        self.settle(device);
    }

    /// Looks whether the guest's memory was cut short. If so, every ring stops, the memory is let go and the device wants a reset;
    /// `true` once for each such memory.
    pub fn check_memory(&mut self, device: &mut impl Backend) -> bool {
        let is_broken = self.memory.is_broken();
        if is_broken {
            self.stop_all(device);
            self.memory = Arc::default();
            self.want_reset();
        }
        is_broken
    }

    /// INTx goes to `line` from now on, or nowhere.
    pub fn connect_intx(&mut self, line: Option<Arc<Line>>, device: &mut impl Backend) {
        self.intx.connect(line);
        self.settle(device);
    }

    /// The interrupt pin.
    pub fn intx(&self) -> &Intx {
        &self.intx
    }

    /// Changes where vectors go, or who is masked.
    pub fn change_msix(&mut self, change: impl FnOnce(&mut Msix), device: &mut impl Backend) {
        change(&mut self.msix);
        self.settle(device);
    }

    /// Tells a vector's owner, as if it had been used.
    pub fn trigger(&self, vector: u16) {
        self.msix.notifier(vector).notify();
    }

    /// Whoever has carried the registers is gone, with the memory and the eventfds. All else stays as it is.
    pub fn leave(&mut self, device: &mut impl Backend) {
        self.stop_all(device);
        self.memory = Arc::default();
        self.msix.disconnect();
        self.intx.connect(None);
        self.queues.iter_mut().for_each(VirtQueue::unshare);
    }

    /// The whole function is as it was at first, but for whoever it is connected to. ("Function Level Reset")
    pub fn reset(&mut self, device: &mut impl Backend) {
        self.reset_device(device);
        self.space.reset();
        self.msix.reset();
        self.intx.reset();
        self.intx.enable(true);
    }

    /// The device was made anew, with as many vectors: its driver finds it as it is now.
    pub fn renew(&mut self, device: &mut impl Backend) {
        self.reset_device(device);
        self.queues.resize_with(device.ring_count(), || VirtQueue::new(queue_size(device)));
        self.config_changed();
    }

    /// The device is as its driver has found it. ("Device Reset")
    fn reset_device(&mut self, device: &mut impl Backend) {
        self.stop_all(device);
        let size = queue_size(device);
        self.queues.iter_mut().for_each(|queue| queue.reset(size));
        self.registers = Registers { generation: self.registers.generation, ..Registers::default() };
        self.recoveries += u64::from(std::mem::take(&mut self.needs_reset));
        self.is_given_up = false;
        self.intx.take_reasons();
        device.set_features(0);
        device.set_status(0);
    }

    /// The device status field.
    pub fn status(&self) -> u8 {
        let needs_reset = if self.needs_reset { DEVICE_NEEDS_RESET } else { 0 };
        let failed = if self.is_given_up { FAILED } else { 0 };
        self.registers.status | needs_reset | failed
    }

    /// Does what a device status that somebody else than the driver has chosen stands for, and tells the driver that there is something
    /// to read: 0 resets the device as its driver would, DEVICE_NEEDS_RESET asks the driver for that, FAILED stops all rings until the
    /// device is reset. Other bits are the driver's.
    pub fn put_status(&mut self, status: u8, device: &mut impl Backend) {
        debug_assert!(status & !STATUS_ADDABLE & !self.status() == 0);
        let vector = self.registers.config_vector;
        if status == 0 {
            self.reset_device(device);
        }
        self.is_given_up |= status & FAILED != 0;
        self.needs_reset |= status & DEVICE_NEEDS_RESET != 0;
        self.settle(device);
        self.tell(vector);
    }

    /// Whether the driver has to reset the device before it can go on.
    pub fn needs_reset(&self) -> bool {
        self.needs_reset
    }

    /// Times that the device went on after it had needed a reset, since this was last asked.
    pub fn take_recoveries(&mut self) -> u64 {
        std::mem::take(&mut self.recoveries)
    }

    /// Whether a ring runs.
    pub fn has_rings(&self) -> bool {
        self.queues.iter().any(|queue| queue.runs.is_some())
    }

    /// The rings that run: index, size, whether it is enabled, and where its descriptor, driver and device areas are.
    pub fn rings(&self) -> impl Iterator<Item = (usize, u16, bool, [u64; 3])> {
        self.queues.iter().enumerate().filter(|(_, queue)| queue.runs.is_some()).map(|(index, queue)| {
            let addresses = &queue.addresses;
            (index, queue.size, true, [addresses.descriptor_area, addresses.driver_area, addresses.device_area])
        })
    }

    /// Configuration has changed.
    pub fn config_changed(&mut self) {
        self.registers.generation = self.registers.generation.wrapping_add(1);
        self.tell(self.registers.config_vector);
    }

    /// The driver has broken a ring, and it was retired: the device wants a reset.
    pub fn ring_failed(&mut self) {
        self.want_reset();
    }

    fn want_reset(&mut self) {
        self.needs_reset = true;
        self.tell(self.registers.config_vector);
    }

    /// Interrupts the driver because of its configuration, or of the device status. ("Notification of Device Configuration Changes")
    fn tell(&self, vector: u16) {
        self.intx.note(ISR_CONFIG);
        if self.msix.is_enabled() {
            self.msix.notifier(vector).notify();
        } else {
            self.intx.look();
        }
    }

    fn offered(&self, device: &impl Backend) -> u64 {
        // Addresses are those that the client maps memory at, whatever is between it and its guest.
        device.features() | 1 << VIRTIO_F_ACCESS_PLATFORM
    }

    /// A vector as it is read back: none, where there is no such.
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.msix.count() { vector } else { NO_VECTOR }
    }

    /// Whether the function may read and write memory, and its driver wants it to.
    fn is_on(&self) -> bool {
        let power = self.space.half(self.places.power + capability::POWER_CONTROL);
        self.registers.status & DRIVER_OK != 0
            && self.status() & FAILED == 0
            && self.space.has_command(COMMAND_MASTER)
            && power & capability::POWER_STATE_MASK == 0
    }

    /// Starts and stops rings, and points their notifications, as the registers say. A ring that cannot be as they say wants a reset.
    ///
    /// # Errors
    /// The first such ring's.
    fn settle_all(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let settled = self.try_settle(device);
        if settled.is_err() {
            self.want_reset();
        }
        settled
    }

    /// The same. A ring that cannot be as they say goes on when that is possible.
    fn settle(&mut self, device: &mut impl Backend) {
        if let Err(refusal) = self.try_settle(device) {
            tracing::debug!("a ring waits: {refusal}");
        }
    }

    fn try_settle(&mut self, device: &mut impl Backend) -> Result<(), Refusal> {
        let is_on = self.is_on();
        let mut settled = Ok(());
        for index in 0..self.queues.len() {
            let queue = &self.queues[index];
            let aim = self.aim(queue.vector);
            match (is_on && queue.is_enabled, queue.runs) {
                (true, None) => settled = settled.and(self.start(index, aim, device)),
                (false, Some(_)) => self.stop(index, device),
                (true, Some(before)) if before != aim => {
                    device.set_call(index, self.call(queue.vector));
                    self.queues[index].runs = Some(aim);
                }
                _ => {}
            }
        }
        // What was held back before notifications were pointed elsewhere.
        self.msix.flush();
        self.intx.look();
        settled
    }

    fn start(&mut self, index: usize, aim: Aim, device: &mut impl Backend) -> Result<(), Refusal> {
        let layout = if self.registers.is_packed() { Layout::Packed } else { Layout::Split };
        let queue = &mut self.queues[index];
        let kick = queue.kick().map_err(|source| Refusal::System { index, source })?;
        let resumes = queue.base.is_some();
        let queue = &self.queues[index];
        let setup = QueueSetup {
            layout,
            size: queue.size,
            addresses: queue.addresses,
            base: queue.base.unwrap_or(layout.base()),
            features: self.registers.driver_features as u64,
            call: self.call(queue.vector),
            kick,
            log: None,
        };
        let ring = setup.activate(self.memory.clone()).map_err(|source| Refusal::Queue { index, source })?;
        device.start_ring(index, ring, true).map_err(|why| Refusal::Device { index, why })?;
        self.queues[index].runs = Some(aim);
        if resumes {
            // One too many does no harm.
            self.call(self.queues[index].vector).notify();
        }
        Ok(())
    }

    fn stop(&mut self, index: usize, device: &mut impl Backend) {
        if self.queues[index].runs.take().is_some() {
            self.queues[index].base = Some(device.stop_ring(index));
        }
    }

    fn stop_all(&mut self, device: &mut impl Backend) {
        (0..self.queues.len()).for_each(|index| self.stop(index, device));
    }

    /// Where notifications of a queue with this vector go.
    fn aim(&self, vector: u16) -> Aim {
        if !self.msix.is_enabled() {
            return Aim::Intx(self.intx.epoch());
        }
        self.msix.route(vector).map_or(Aim::Nowhere, |route| Aim::Vector(vector, route))
    }

    /// What brings them there.
    fn call(&self, vector: u16) -> Notifier {
        if self.msix.is_enabled() { self.msix.notifier(vector) } else { self.intx.cause(ISR_QUEUE) }
    }

    /// Whether an access to configuration space touches a field of the capability that gives access to BARs.
    fn touches(&self, field: usize, field_bytes: usize, offset: usize, len_bytes: usize) -> bool {
        let field = self.places.access + field;
        offset < field + field_bytes && field < offset + len_bytes
    }

    /// What the capability for access to BARs points at, if that is inside one. ("PCI configuration access capability")
    fn window(&self) -> Option<(usize, u64, usize)> {
        let at = self.places.access;
        let bar = usize::from(self.space.half(at + layout::ACCESS_BAR) as u8);
        let offset = u64::from(self.space.word(at + layout::ACCESS_OFFSET));
        let len_bytes = self.space.word(at + layout::ACCESS_LENGTH) as usize;
        let is_good = bar < BARS
            && matches!(len_bytes, 1 | 2 | 4)
            && offset % len_bytes as u64 == 0
            && offset + len_bytes as u64 <= self.bar_bytes(bar);
        is_good.then_some((bar, offset, len_bytes))
    }
}

/// What `queue_size` is at first: a split queue's is a power of two.
fn queue_size(device: &impl Backend) -> u16 {
    let most = device.queue_size_max();
    1 << most.max(1).ilog2()
}

fn refuse(register: &'static str, found: u64, allowed: &'static str) -> Result<(), Refusal> {
    Err(Refusal::Value { register, found, allowed })
}

/// The bytes of a structure from `offset` on; none behind its end.
fn copy(from: &[u8], offset: u64, into: &mut [u8]) {
    let from = usize::try_from(offset).ok().and_then(|offset| from.get(offset..)).unwrap_or_default();
    let len = from.len().min(into.len());
    into[..len].copy_from_slice(&from[..len]);
}
