//! A wire that is a Linux network interface: a TAP device with one queue a pair, named as the representor, so that
//! bridges, Open vSwitch and sockets of the host meet the guest there.
//!
//! Frames travel with their `virtio_net_hdr`: a frame of 64 KiB that waits to be cut, or has a partial checksum, goes
//! through whole, either way. The kernel's own network takes them so; who reads frames at the interface with a packet
//! socket, without that header, sees them unfinished. For such readers they are finished here first.
//!
//! There is a system call a frame, so this is not the way for millions of them.

mod interface;
pub(super) mod sys;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use interface::{Interface, Probe, index_of};
use rustix::io::Errno;
use thiserror::Error;
use virtnet_rings::spec::net::*;

use super::slots::Slots;
use super::{Arrival, Copier, Port};
use crate::counters::{BurstCounts, DropReason};
use crate::frame::offload::{Refusal, Work, Workshop};
use crate::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use crate::window::Window;

const HEADER: usize = NET_HEADER_SIZE_BYTES;
/// An interface that had nothing is not asked again for so long: asking is a system call.
const LOOK_AGAIN_NS: u64 = 5_000;

/// How an interface is used.
#[derive(Clone, Debug)]
pub struct TapConfig {
    /// Which.
    pub interface: Arc<Interface>,
    /// Feature bits the device offers: by `VIRTIO_NET_F_GUEST_*` the kernel may leave checksums and cutting undone.
    pub features: u64,
    /// `VIRTIO_NET_F_GUEST_*` of those who read frames at the interface: what they do not take unfinished is finished.
    pub takes: u64,
    /// Its MTU in bytes; `None` leaves what is there, 1500 in a new one.
    pub mtu: Option<u16>,
    /// Whether to bring it up. Bridges and switches do so themselves.
    pub up: bool,
}

/// Why there is no interface.
#[derive(Debug, Error)]
pub enum TapError {
    /// Not a name for an interface.
    #[error(
        "{name:?} cannot be an interface's name; allowed are 1 to 15 printable characters without '/', ':' and '%'"
    )]
    Name {
        /// As found.
        name: String,
    },
    /// The system has no TAP devices, or not for us.
    #[error("/dev/net/tun: {0}")]
    Open(io::Error),
    /// The interface could not be had.
    #[error("interface {name}: {step}: {source}{}", hint(.source))]
    Setup {
        /// Which.
        name: String,
        /// What was tried.
        step: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            " (it takes CAP_NET_ADMIN, or a multi-queue TAP of this user's that is up and has its MTU)"
        }
        io::ErrorKind::InvalidInput => " (is there another kind of interface of that name?)",
        io::ErrorKind::ResourceBusy => " (there is one of that name that is not ours, or another process has it)",
        _ => "",
    }
}

/// One queue of an interface.
#[derive(Debug)]
pub struct Tap {
    queue: OwnedFd,
    /// One frame with its header, on its way to or from the kernel.
    buffer: Box<[u8]>,
    slots: Slots,
    quiet_until_ns: u64,
    takes: u64,
    workshop: Workshop,
    /// Somebody has deleted the interface.
    gone: bool,
    drops: TapDrops,
}

/// Frames that the kernel did not take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TapDrops {
    /// It had no room.
    pub full: u64,
    /// It refused them, or the interface is down.
    pub refused: u64,
}

impl TapDrops {
    /// Adds them to what a burst counts.
    #[inline]
    pub fn count(self, counts: &mut BurstCounts) {
        counts.drop(DropReason::PortFull, self.full);
        counts.drop(DropReason::PortError, self.refused);
    }
}

impl Tap {
    /// A queue of the interface for each of `pairs` queue pairs, and the interface as it is to be.
    ///
    /// # Errors
    /// [`TapError`].
    pub fn open(config: &TapConfig, pairs: u16) -> Result<Vec<Self>, TapError> {
        let queues = config.interface.queues(pairs, config.features)?;
        config.interface.set(config.mtu, config.up)?;
        Ok(queues.into_iter().map(|queue| Self::on(queue, config.takes)).collect())
    }

    fn on(queue: OwnedFd, takes: u64) -> Self {
        Self {
            queue,
            buffer: vec![0; HEADER + FRAME_LEN_MAX as usize].into(),
            slots: Slots::default(),
            quiet_until_ns: 0,
            takes,
            workshop: Workshop::default(),
            gone: false,
            drops: TapDrops::default(),
        }
    }

    /// What [`Port::send`] could not send since this was last asked.
    #[inline]
    pub fn take_drops(&mut self) -> TapDrops {
        std::mem::take(&mut self.drops)
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// Why the kernel did not take it, or not all of its pieces; or why there are none.
    #[inline]
    pub fn transmit(&mut self, frame: &Frame) -> Result<(), DropReason> {
        let work = frame.work_for(self.takes);
        if work != Work::Nothing {
            return self.transmit_finished(frame, work);
        }
        let (header, bytes) = self.buffer.split_at_mut(HEADER);
        header.fill(0);
        if !frame.is_plain() {
            // `num_buffers` has no meaning here.
            header[..HEADER - 2].copy_from_slice(&frame.header[..HEADER - 2]);
        }
        let len_bytes = frame.parts.read(&mut bytes[..frame.len_bytes as usize]);
        write(&self.queue, &self.buffer[..HEADER + len_bytes])
    }

    fn transmit_finished(&mut self, frame: &Frame, work: Work) -> Result<(), DropReason> {
        let mut finished = self.workshop.start(frame, work, 0).map_err(Refusal::reason)?;
        while let Some(piece) = finished.next_piece(HEADER) {
            write(&self.queue, piece)?;
        }
        Ok(())
    }

    /// Sends a frame that asks for nothing and is no longer than frames are.
    ///
    /// # Errors
    /// Why the kernel did not take it.
    pub fn transmit_bytes(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let (header, bytes) = self.buffer.split_at_mut(HEADER);
        header.fill(0);
        bytes[..frame.len()].copy_from_slice(frame);
        write(&self.queue, &self.buffer[..HEADER + frame.len()])
    }

    /// How many frames can be taken: what the interface has is known when it is read.
    #[inline]
    pub fn waiting(&self, now_ns: u64) -> usize {
        if now_ns < self.quiet_until_ns || self.gone { 0 } else { self.slots.free() }
    }

    /// The next frame that waits at the interface, with its slot as its ticket.
    #[inline]
    pub fn take_frame(&mut self, now_ns: u64) -> Option<Frame> {
        for _ in 0..self.waiting(now_ns) {
            let count = match rustix::io::retry_on_intr(|| rustix::io::read(&self.queue, &mut self.buffer[..])) {
                Ok(count) => count,
                Err(error) => {
                    // An interface that is down has nothing; one that was deleted has an error, for ever.
                    self.gone = error != Errno::AGAIN;
                    self.quiet_until_ns = now_ns + LOOK_AGAIN_NS;
                    return None;
                }
            };
            let Some((header, bytes)) = self.buffer[..count].split_first_chunk::<HEADER>() else { continue };
            if bytes.len() < FRAME_LEN_MIN as usize {
                continue;
            }
            return self.slots.lay(*header, &[bytes]);
        }
        None
    }

    /// Readable when frames wait; `None` when none will come any more.
    pub fn door(&self) -> Option<BorrowedFd<'_>> {
        (!self.gone).then(|| self.queue.as_fd())
    }

    /// Takes back a slot that [`Tap::take_frame`] lent.
    #[inline]
    pub fn take_back(&mut self, slot: u16) {
        self.slots.take_back(slot);
    }
}

/// Gives the kernel a frame behind its header.
#[inline]
fn write(queue: &OwnedFd, bytes: &[u8]) -> Result<(), DropReason> {
    match rustix::io::retry_on_intr(|| rustix::io::write(queue, bytes)) {
        Ok(_) => Ok(()),
        Err(Errno::AGAIN | Errno::NOBUFS) => Err(DropReason::PortFull),
        // It makes no sense of the frame, or the interface is down.
        Err(_) => Err(DropReason::PortError),
    }
}

impl Port for Tap {
    const KEEPS: bool = false;

    #[inline]
    fn room(&self) -> usize {
        usize::MAX
    }

    #[inline]
    fn send(&mut self, frame: Frame, window: &mut Window) {
        match self.transmit(&frame) {
            Ok(()) => {}
            Err(DropReason::PortFull) => self.drops.full += 1,
            Err(_) => self.drops.refused += 1,
        }
        window.take_list(frame);
    }

    #[inline]
    fn reap(&mut self, _window: &mut Window) {}

    #[inline]
    fn arrived(&mut self, now_ns: u64) -> usize {
        self.waiting(now_ns)
    }

    #[inline]
    fn receive(&mut self, now_ns: u64, copier: &mut impl Copier) -> Arrival {
        let Some(mut frame) = self.take_frame(now_ns) else { return Arrival::None };
        if !copier.copy(&frame) {
            return Arrival::Lent(frame);
        }
        self.release(&mut frame);
        Arrival::Copied
    }

    #[inline]
    fn release(&mut self, frame: &mut Frame) {
        self.take_back(frame.ticket as u16);
    }

    /// The kernel has a queue of its own and slows its senders; a burst that waits here makes it do so.
    fn patience_ns(&self) -> u64 {
        1_000_000_000
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use virtnet_rings::Parts;
    use virtnet_rings::memory::OwnedMemory;

    use super::*;
    use crate::frame::offload::TO_GUEST;

    /// What comes out, by length without net header, of a frame of three UDP segments for those who take `takes`; and the first
    /// header.
    fn sent(takes: u64) -> (Vec<usize>, NetHeader) {
        let (queue, reader) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::NONBLOCK, None).unwrap();
        let mut bytes = vec![0; 14 + 20 + 8 + 250];
        bytes[12..14].copy_from_slice(&[8, 0]);
        bytes[14..34].copy_from_slice(&[0x45, 0, 1, 22, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let header = NetHeader {
            flags: VIRTIO_NET_HDR_F_NEEDS_CSUM,
            gso_type: VIRTIO_NET_HDR_GSO_UDP_L4,
            hdr_len: 42,
            gso_size: 100,
            csum_start: 34,
            csum_offset: 6,
            ..NetHeader::default()
        };
        let memory = OwnedMemory::new(bytes.len());
        let span = memory.span(0, bytes.len());
        span.write(&bytes);
        let len_bytes = bytes.len() as u32;
        let frame = Frame { parts: Parts::one(span), len_bytes, header: header.to_bytes(), ..Frame::default() };
        Tap::on(queue, takes).transmit(&frame).unwrap();
        let mut came = Vec::new();
        let mut first = None;
        let mut buffer = [0; 1000];
        while let Ok(count @ HEADER..) = rustix::io::read(&reader, &mut buffer[..]) {
            first = first.or(buffer.first_chunk().map(|header| NetHeader::from_bytes(*header)));
            came.push(count - HEADER);
        }
        (came, first.unwrap())
    }

    #[test]
    fn frames_are_finished_for_those_who_do_not_take_them_unfinished() {
        let (whole, header) = sent(TO_GUEST);
        assert_eq!((whole, header.gso_size), (vec![292], 100));
        assert_eq!(sent(0), (vec![142, 142, 92], NetHeader::default()));
    }
}
