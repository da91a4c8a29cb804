//! A device that writes down what it is asked to do. For tests.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use virtnet_engine::caller::{Caller, Line};
use virtnet_rings::{Notifier, Queue, Virtqueue};

use super::connection::wait_any;
use super::{Backend, Resetter};
use crate::device::controlq::Said;
use crate::vhost_user::message::{VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_RING_PACKED};

pub const VERSION_1: u64 = 1 << 32;
pub const RING_RESET: u64 = 1 << 40;

/// What a device was asked to do.
#[derive(Debug, PartialEq)]
pub enum Deed {
    Features(u64),
    GoOn(u64, usize),
    Start { index: usize, enabled: bool, base: u32 },
    LookAgain,
    Stop(usize),
    Enable(usize, bool),
    Status(u8),
    ResetRing(usize),
    Reset(Resetter),
    Mtu(u16),
    Announce([u8; 6]),
    Address([u8; 6]),
    Restore(usize, Vec<u8>),
}

/// Waits until a line is rung, and tells how often it was.
pub fn rung(line: &OwnedFd) -> u64 {
    let soon = Instant::now() + Duration::from_secs(5);
    assert_eq!(wait_any(&mut [PollFd::new(line, PollFlags::IN)], soon), Ok(true), "it is not rung");
    let mut bytes = [0; 8];
    rustix::io::read(line, &mut bytes).expect("an eventfd that was written");
    u64::from_ne_bytes(bytes)
}

#[derive(Default)]
pub struct Diary {
    deeds: Vec<Deed>,
    /// By a control queue.
    pub said: Vec<Said>,
    /// The last is an administration virtqueue, of a function that has one.
    pub queues: [Option<Queue>; 5],
    caller: Caller,
}

impl Diary {
    pub fn read(&mut self) -> Vec<Deed> {
        std::mem::take(&mut self.deeds)
    }

    pub fn running(&self) -> Vec<usize> {
        (0..self.queues.len()).filter(|index| self.queues[*index].is_some()).collect()
    }
}

impl Backend for Diary {
    fn features(&self) -> u64 {
        VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | VIRTIO_F_RING_PACKED | RING_RESET | 1 << 15
    }
    fn ring_count(&self) -> usize {
        self.queues.len() - 1
    }
    fn queue_size_max(&self) -> u16 {
        1024
    }
    fn config(&self) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 9, 1, 0]
    }
    fn restore_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        self.deeds.push(Deed::Restore(offset, bytes.to_vec()));
        if offset == 0 { Ok(()) } else { Err("only the address") }
    }
    fn set_features(&mut self, features: u64) {
        assert_eq!(self.running(), [0; 0], "features change under a ring");
        self.deeds.push(Deed::Features(features));
    }
    fn said(&self) -> Vec<Said> {
        self.said.clone()
    }
    fn go_on(&mut self, features: u64, said: &[Said]) -> Result<(), &'static str> {
        if said.iter().any(|said| said.class > 8) {
            return Err("classes that there are");
        }
        assert_eq!(self.running(), [0; 0], "features change under a ring");
        self.deeds.push(Deed::GoOn(features, said.len()));
        self.said = said.to_vec();
        Ok(())
    }
    fn start_ring(&mut self, index: usize, queue: Queue, enabled: bool) -> Result<(), &'static str> {
        self.deeds.push(Deed::Start { index, enabled, base: queue.base() });
        assert!(self.queues[index].replace(queue).is_none(), "started twice");
        Ok(())
    }
    fn look_again(&mut self) {
        self.deeds.push(Deed::LookAgain);
    }
    fn stop_ring(&mut self, index: usize) -> u32 {
        self.deeds.push(Deed::Stop(index));
        self.queues[index].take().expect("stopped and not started").base()
    }
    fn line(&mut self, descriptor: OwnedFd) -> std::io::Result<Arc<Line>> {
        self.caller.line(descriptor)
    }
    fn watch(&mut self, _: BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }
    fn unwatch(&mut self, _: BorrowedFd<'_>) {}
    fn set_call(&mut self, index: usize, call: Notifier) {
        *self.queues[index].as_mut().expect("called and not started").call() = call;
    }
    fn enable_ring(&mut self, index: usize, enabled: bool) {
        assert!(self.queues[index].is_some());
        self.deeds.push(Deed::Enable(index, enabled));
    }
    fn reset_ring(&mut self, index: usize) {
        self.deeds.push(Deed::ResetRing(index));
    }
    fn set_status(&mut self, status: u8) {
        self.deeds.push(Deed::Status(status));
    }
    fn set_address(&mut self, mac: [u8; 6]) -> Result<(), &'static str> {
        self.deeds.push(Deed::Address(mac));
        if mac[0] & 1 == 0 { Ok(()) } else { Err("one device's") }
    }
    fn reset(&mut self, by: Resetter) {
        self.deeds.push(Deed::Reset(by));
    }
    fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str> {
        self.deeds.push(Deed::Mtu(mtu));
        if mtu <= 9216 { Ok(()) } else { Err("9216 at most") }
    }
    fn announce(&mut self, mac: [u8; 6]) {
        self.deeds.push(Deed::Announce(mac));
    }
}
