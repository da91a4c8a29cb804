//! A device that keeps to what a session may ask of it, and what peers give with their messages.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use virtnet_control::device::controlq::Said;
use virtnet_control::device::orders::Orders;
use virtnet_control::transport::{Backend, Resetter};
use virtnet_engine::caller::{Caller, Line};
use virtnet_engine::frame::hash;
use virtnet_rings::{Notifier, PartStore, Queue, Used, Virtqueue};

/// Rings that it has.
pub const RINGS: usize = 4;
/// Bytes of a memory file that is as long as it says.
pub const MEMORY_BYTES: u64 = 1 << 20;

/// A device that serves rings as a worker would, and insists on being asked in order.
#[derive(Debug)]
pub struct Device {
    /// The last is an administration virtqueue.
    rings: [Option<Queue>; RINGS + 1],
    store: PartStore,
    caller: Caller,
    /// Descriptors that the session is to be served for.
    watched: usize,
    orders: Orders,
}

impl Default for Device {
    fn default() -> Self {
        let (rings, caller, watched, orders) = Default::default();
        Device { rings, store: PartStore::new(32), caller, watched, orders }
    }
}

impl Device {
    /// One burst of each ring, returned at once; a ring that breaks a rule is told to `failed`.
    pub fn turn(&mut self, mut failed: impl FnMut(usize)) {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let Some(queue) = ring else { continue };
            queue.begin_turn();
            let (chains, violation) = queue.take_list(32, &mut self.store);
            let used: Vec<Used> = chains.iter().map(|chain| chain.used(0)).collect();
            chains.into_iter().for_each(|mut chain| self.store.give_back(chain.parts.take_list()));
            queue.return_used(&used);
            queue.end_turn();
            if queue.wants_notification() {
                queue.call().notify();
            }
            if violation.is_some() {
                failed(index);
            }
        }
    }

    /// Whether there is a ring.
    pub fn has_rings(&self) -> bool {
        self.rings.iter().any(Option::is_some)
    }

    /// Whether something is watched for its session.
    pub fn is_watched(&self) -> bool {
        self.watched > 0
    }
}

impl Backend for Device {
    fn features(&self) -> u64 {
        // Version 1, addresses of an IOMMU, packed rings, event indices, indirect tables, merged buffers, in order, queues reset one
        // by one.
        1 << 32 | 1 << 33 | 1 << 34 | 1 << 29 | 1 << 28 | 1 << 15 | 1 << 35 | 1 << 40
    }
    fn ring_count(&self) -> usize {
        RINGS
    }
    fn queue_size_max(&self) -> u16 {
        256
    }
    fn config(&self) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 9, 1, 0, 2, 0, 0xdc, 5]
    }
    fn restore_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        if offset + bytes.len() <= 6 { Ok(()) } else { Err("only the address") }
    }
    fn set_features(&mut self, features: u64) {
        assert!(self.rings.iter().all(Option::is_none), "features {features:#x} change under a ring");
    }
    fn said(&self) -> Vec<Said> {
        self.orders.said()
    }
    fn go_on(&mut self, features: u64, said: &[Said]) -> Result<(), &'static str> {
        self.set_features(features);
        self.orders = self.orders.clone().hear(said, u64::MAX, 2, hash::TYPES).ok_or("what a driver may say")?;
        Ok(())
    }
    fn start_ring(&mut self, index: usize, queue: Queue, _enabled: bool) -> Result<(), &'static str> {
        assert!(self.rings[index].replace(queue).is_none(), "ring {index} is started twice");
        Ok(())
    }
    fn look_again(&mut self) {}
    fn stop_ring(&mut self, index: usize) -> u32 {
        self.rings[index].take().expect("only a ring that was started is stopped").base()
    }
    fn line(&mut self, descriptor: OwnedFd) -> std::io::Result<Arc<Line>> {
        self.caller.line(descriptor)
    }
    fn watch(&mut self, _: BorrowedFd<'_>) -> std::io::Result<()> {
        self.watched += 1;
        Ok(())
    }
    fn unwatch(&mut self, _: BorrowedFd<'_>) {
        self.watched -= 1;
    }
    fn set_call(&mut self, index: usize, call: Notifier) {
        *self.rings[index].as_mut().expect("only a ring that was started is called").call() = call;
    }
    fn enable_ring(&mut self, index: usize, _enabled: bool) {
        assert!(self.rings[index].is_some(), "only a ring that was started is enabled");
    }
    fn reset_ring(&mut self, index: usize) {
        assert!(self.rings[index].is_none(), "a ring that runs is reset");
    }
    fn set_status(&mut self, _status: u8) {}
    fn set_address(&mut self, _mac: [u8; 6]) -> Result<(), &'static str> {
        Ok(())
    }
    fn reset(&mut self, _by: Resetter) {
        assert!(!self.has_rings(), "a device whose rings run is reset");
    }
    fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str> {
        if mtu <= 9216 { Ok(()) } else { Err("9216 at most") }
    }
    fn announce(&mut self, _mac: [u8; 6]) {}
}

/// A descriptor of one kind or another.
pub fn descriptor(kind: u8) -> OwnedFd {
    let file = |len_bytes| {
        let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, len_bytes).expect("its length");
        file
    };
    match kind % 8 {
        0 => file(0),
        1 => file(4096),
        2 => rustix::pipe::pipe().expect("a pipe").0,
        3 => rustix::pipe::pipe().expect("a pipe").1,
        4 | 5 => eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
        _ => file(MEMORY_BYTES),
    }
}
