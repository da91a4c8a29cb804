//! A function: what it is made of, who is connected to it, and how it is reset.

mod access;
mod driver;
mod image;
mod legacy;
mod parts;
mod settle;

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtnet_engine::caller::Line;
use virtnet_rings::memory::{DirtyLog, GuestMemory};
use virtnet_rings::spec::status::{DEVICE_NEEDS_RESET, FAILED};
use virtnet_rings::spec::virtq::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_ADMIN_VQ, VIRTIO_F_NOTIFICATION_DATA};

pub use image::IMAGE_BYTES_MAX;
pub use legacy::Area;
pub use parts::{Part, Unfit};

use super::common::Registers;
use super::layout::{self, MSIX_BAR, VIRTIO_BAR};
use super::queue::VirtQueue;
use super::shadow::dma::Dma;
use crate::firmware::PciIds;
use crate::pci::config_space::COMMAND_INTX_DISABLE;
use crate::pci::{ConfigSpace, Intx, Msix, Sriov, capability, sriov};
use crate::transport::{Backend, Resetter, STATUS_ADDABLE};

/// Interrupt status: a queue was used.
const ISR_QUEUE: u8 = 1;
/// Interrupt status: the configuration, or the device's need for a reset, has changed.
const ISR_CONFIG: u8 = 2;

/// VFs that a function can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vfs {
    /// At most.
    pub total: u16,
    /// From the PF's routing id to the first VF's; each has the next.
    pub first_offset: u16,
    /// Whether they have the legacy interface, too.
    pub are_transitional: bool,
    /// MSI-X vectors of each, to begin with.
    pub msix: u16,
}

/// What a function is to others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Single,
    /// It can have VFs.
    Physical(Vfs),
    /// It is one.
    Virtual,
}

/// What a function shows of itself on PCI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traits {
    /// What it is, if it is not transitional.
    pub ids: PciIds,
    /// Whether it has the legacy interface, too.
    pub is_transitional: bool,
    /// MSI-X vectors.
    pub msix: u16,
    /// What it is to others.
    pub kind: Kind,
}

/// Memory of the guest that whoever carries the registers reads and writes for us.
#[derive(Debug, Default)]
pub struct Remote {
    /// Where it is: first and last addresses.
    stretches: BTreeMap<u64, u64>,
    dma: Dma,
}

impl Remote {
    /// There is some more.
    pub fn add(&mut self, addresses: &RangeInclusive<u64>) {
        self.stretches.insert(*addresses.start(), *addresses.end());
    }

    /// It is gone.
    pub fn remove(&mut self, addresses: &RangeInclusive<u64>) {
        self.stretches.remove(addresses.start());
    }

    /// What is to be read and written.
    pub fn dma(&self) -> &Dma {
        &self.dma
    }

    /// Whether all of these areas, each with its length in bytes, are there.
    fn holds(&self, areas: [(u64, u64); 3]) -> bool {
        areas.into_iter().all(|(address, len_bytes)| {
            let stretch = self.stretches.range(..=address).next_back();
            stretch.is_some_and(|(_, last)| address <= *last && len_bytes - 1 <= last - address)
        })
    }
}

/// Who can stop a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopper {
    /// The driver of the PF that it is a VF of. ("Device parts")
    Owner,
    /// Whoever carries its registers, to take it elsewhere.
    Client,
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
    sriov: Option<Sriov>,
    registers: Registers,
    queues: Vec<VirtQueue>,
    memory: Arc<GuestMemory>,
    remote: Remote,
    /// Where it is logged what rings write, while it is.
    log: Option<Arc<DirtyLog>>,
    needs_reset: bool,
    /// Who has stopped it, each for itself.
    stopped_by: [bool; 2],
    /// The driver was not told of something meanwhile.
    is_owed: bool,
    /// Of its VFs' doorbells here, those that were rung: which VF, and what was written.
    rung: Vec<(u16, u16)>,
    /// Somebody else than the driver has given the device up.
    is_given_up: bool,
    /// Times that the device went on after it had needed a reset.
    recoveries: u64,
}

impl Function {
    /// The function of a device, as it comes out of a reset.
    pub fn new(traits: Traits, device: &impl Backend) -> Self {
        let mut space = ConfigSpace::new(layout::ids(traits.ids, traits.is_transitional));
        let msix = Msix::new(traits.msix);
        let is_owner = matches!(traits.kind, Kind::Physical(_));
        let queues = device.ring_count() + usize::from(is_owner);
        if traits.is_transitional {
            space.add_io_bar(legacy::bar_bytes(device));
        }
        space.add_bar(MSIX_BAR, msix.bar_bytes());
        space.add_bar(VIRTIO_BAR, if is_owner { layout::OWNER_BAR_BYTES } else { layout::VIRTIO_BAR_BYTES });
        let (body, writable) = msix.capability(MSIX_BAR as u8);
        let at_msix = space.add_capability(capability::MSIX, &body, &writable);
        let (body, writable) = capability::power_management();
        let power = space.add_capability(capability::POWER_MANAGEMENT, &body, &writable);
        let (body, writable) = capability::express();
        let express = space.add_capability(capability::EXPRESS, &body, &writable);
        let config_bytes = device.config().len().next_multiple_of(4);
        let access = layout::add_capabilities(&mut space, queues, config_bytes);
        if traits.kind != Kind::Single {
            space.add_extended(capability::ROUTING_ID, &[0; 4], &[]);
            space.add_extended(capability::ACCESS_CONTROL, &[0; 4], &[]);
        }
        let sriov = match traits.kind {
            Kind::Physical(vfs) => Some(Sriov::new(vfs.on(traits.ids), &mut space)),
            Kind::Single | Kind::Virtual => None,
        };
        let size = queue_size(device);
        let mut intx = Intx::default();
        intx.enable(true);
        Self {
            space,
            places: Places { msix: at_msix, power, express, access },
            msix,
            intx,
            sriov,
            registers: Registers::default(),
            queues: (0..queues).map(|_| VirtQueue::new(size)).collect(),
            memory: Arc::default(),
            remote: Remote::default(),
            log: None,
            needs_reset: false,
            stopped_by: [false; 2],
            is_owed: false,
            rung: Vec::new(),
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

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Memory of the guest that is only reached by messages.
    pub fn remote(&mut self) -> &mut Remote {
        &mut self.remote
    }

    /// There is memory at these addresses now: rings that have waited for it start.
    pub fn memory_came(&mut self, addresses: &RangeInclusive<u64>, device: &mut impl Backend) {
        let layout = self.registers.layout();
        let waits = |queue: &VirtQueue| queue.is_enabled && queue.runs.is_none() && queue.is_at(addresses, layout);
        if self.queues.iter().any(waits) {
            self.settle(device);
        }
    }

    /// There will be none: rings that have areas there wait until it has come again.
    pub fn memory_goes(&mut self, addresses: &RangeInclusive<u64>, device: &mut impl Backend) {
        let layout = self.registers.layout();
        for index in 0..self.queues.len() {
            if self.queues[index].is_at(addresses, layout) {
                self.stop(index, device);
            }
        }
    }

    /// The guest's memory is this from now on. Rings that it does not hold wait for a memory that does.
    pub fn set_memory(&mut self, memory: Arc<GuestMemory>, device: &mut impl Backend) {
        self.stop_all(device);
        self.memory = memory;
        self.settle(device);
    }

    /// What rings write is logged there from now on, or nowhere.
    pub fn set_log(&mut self, log: Option<Arc<DirtyLog>>, device: &mut impl Backend) {
        self.stop_all(device);
        self.log = log;
        self.settle(device);
    }

    /// Looks whether the guest's memory was cut short. If so, every ring stops, the memory is let go and the device wants a
    /// reset; `true` once for each such memory.
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
        self.remote = Remote::default();
        self.log = None;
        self.msix.disconnect();
        self.intx.connect(None);
        self.queues.iter_mut().for_each(VirtQueue::unshare);
    }

    /// The whole function is as it was at first, but for whoever it is connected to. ("Function Level Reset")
    pub fn reset(&mut self, by: Resetter, device: &mut impl Backend) {
        self.reset_device(by, device);
        self.space.reset();
        if let Some(sriov) = &mut self.sriov {
            sriov.reset(&mut self.space);
        }
        self.msix.reset();
        self.intx.reset();
        self.stopped_by = [false; 2];
        self.enable_intx();
    }

    /// Stops the device, or lets it go on, if nobody else has stopped it: while it is stopped it touches no queue, and tells its driver
    /// nothing. Doorbells that are rung meanwhile are made up for. ("VIRTIO_ADMIN_CMD_DEV_MODE_SET")
    pub fn set_stopped(&mut self, by: Stopper, stopped: bool, device: &mut impl Backend) {
        self.stopped_by[by as usize] = stopped;
        self.enable_intx();
        self.settle(device);
        if !self.is_stopped() && self.is_owed {
            self.tell(self.registers.config_vector);
        }
    }

    /// Whether it is stopped.
    pub fn is_stopped(&self) -> bool {
        self.stopped_by.contains(&true)
    }

    /// Whether this one has stopped it.
    pub fn is_stopped_by(&self, by: Stopper) -> bool {
        self.stopped_by[by as usize]
    }

    /// How many VFs there are, if it can have any; none, while that changes.
    pub fn members(&self) -> Option<u16> {
        self.sriov.as_ref()?.count()
    }

    /// VFs whose doorbells here were rung since this was last asked, counted from 1, and what was written to them.
    pub fn take_rung(&mut self) -> Vec<(u16, u16)> {
        std::mem::take(&mut self.rung)
    }

    /// How many VFs its driver wants instead of those that there are, if it wants anything.
    pub fn vfs_wanted(&self) -> Option<u16> {
        self.sriov.as_ref()?.wanted()
    }

    /// The same, once.
    pub fn take_vfs_wanted(&mut self) -> Option<u16> {
        self.sriov.as_mut()?.take_wanted()
    }

    /// There are so many VFs now.
    pub fn show_vfs(&mut self, count: u16) {
        if let Some(sriov) = &mut self.sriov {
            sriov.show(count, &mut self.space);
        }
    }

    /// The device was made anew, with as many vectors: its driver finds it as it is now.
    pub fn renew(&mut self, device: &mut impl Backend) {
        self.reset_device(Resetter::Operator, device);
        let queues = device.ring_count() + usize::from(self.is_owner());
        self.queues.resize_with(queues, || VirtQueue::new(queue_size(device)));
        self.config_changed();
    }

    /// The device is as its driver has found it. ("Device Reset")
    fn reset_device(&mut self, by: Resetter, device: &mut impl Backend) {
        self.stop_all(device);
        let size = queue_size(device);
        self.queues.iter_mut().for_each(|queue| queue.reset(size));
        self.registers = Registers { generation: self.registers.generation, ..Registers::default() };
        self.recoveries += u64::from(std::mem::take(&mut self.needs_reset));
        (self.is_given_up, self.is_owed) = (false, false);
        self.rung.clear();
        self.intx.take_reasons();
        device.set_features(0);
        device.reset(by);
    }

    /// Whether its driver uses the legacy interface, which lets rings run before DRIVER_OK.
    pub fn is_legacy(&self) -> bool {
        self.registers.is_legacy
    }

    /// The device status field.
    pub fn status(&self) -> u8 {
        let needs_reset = if self.needs_reset { DEVICE_NEEDS_RESET } else { 0 };
        let failed = if self.is_given_up { FAILED } else { 0 };
        self.registers.status | needs_reset | failed
    }

    /// Does what a device status that somebody else than the driver has chosen stands for, and tells the driver that there is
    /// something to read: 0 resets the device as its driver would, DEVICE_NEEDS_RESET asks the driver for that, FAILED stops all
    /// rings until the device is reset. Other bits are the driver's.
    pub fn put_status(&mut self, status: u8, device: &mut impl Backend) {
        debug_assert!(status & !STATUS_ADDABLE & !self.status() == 0);
        let vector = self.registers.config_vector;
        if status == 0 {
            self.reset_device(Resetter::Operator, device);
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

    /// The vector of a queue, or of the configuration; [`NO_VECTOR`](super::NO_VECTOR) where there is none.
    pub fn vector_of(&self, queue: Option<usize>) -> u16 {
        match queue {
            Some(index) => self.queues.get(index).map_or(super::NO_VECTOR, |queue| queue.vector),
            None => self.registers.config_vector,
        }
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

    /// Interrupts the driver because of its configuration, or of the device status. ("Notification of Device Configuration
    /// Changes")
    fn tell(&mut self, vector: u16) {
        self.intx.note(ISR_CONFIG);
        self.is_owed = self.is_stopped();
        if self.is_stopped() {
            return;
        }
        if self.msix.is_enabled() {
            self.msix.notifier(vector).notify();
        } else {
            self.intx.look();
        }
    }

    fn offered(&self, device: &impl Backend) -> u64 {
        device.features() | self.own_features()
    }

    /// Feature bits that it offers besides the device's.
    pub fn own_features(&self) -> u64 {
        // Addresses are those that the client maps memory at, whatever is between it and its guest. What a doorbell says of a
        // ring is found in the ring, too.
        let own = 1 << VIRTIO_F_ACCESS_PLATFORM | 1 << VIRTIO_F_NOTIFICATION_DATA;
        own | u64::from(self.is_owner()) << VIRTIO_F_ADMIN_VQ
    }

    /// Whether it can have VFs.
    fn is_owner(&self) -> bool {
        self.sriov.is_some()
    }

    /// Queues that there are for its driver: the administration virtqueue is the last, if the driver knows of it.
    fn known_queues(&self) -> &[VirtQueue] {
        let unknown = usize::from(self.is_owner() && !self.registers.administers());
        &self.queues[..self.queues.len() - unknown]
    }

    /// One of them, to be changed.
    fn known_queue(&mut self, index: usize) -> Option<&mut VirtQueue> {
        let count = self.known_queues().len();
        self.queues[..count].get_mut(index)
    }

    /// INTx is raised while the driver uses it, and the device is not stopped.
    fn enable_intx(&mut self) {
        let is_used = !self.msix.is_enabled() && !self.space.has_command(COMMAND_INTX_DISABLE);
        self.intx.enable(is_used && !self.is_stopped());
    }
}

impl Vfs {
    /// As their PF shows them, whose ids these are.
    fn on(self, ids: PciIds) -> sriov::Traits {
        let Self { total, first_offset, are_transitional, msix } = self;
        let bars = [(MSIX_BAR, Msix::new(msix).bar_bytes()), (VIRTIO_BAR, layout::VIRTIO_BAR_BYTES)];
        sriov::Traits { total, first_offset, device: layout::ids(ids, are_transitional).device, bars }
    }
}

/// What `queue_size` is at first: a split queue's is a power of two.
fn queue_size(device: &impl Backend) -> u16 {
    let most = device.queue_size_max();
    1 << most.max(1).ilog2()
}
