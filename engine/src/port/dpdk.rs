//! A wire that is an Ethernet port of DPDK's: hardware that it drives from user space, or one of its virtual devices. Frames are copied
//! between its buffers and ours, a burst a call; nothing is left to the device, so what is to be finished is finished here.
//!
//! Nobody calls for what comes in: the port is looked at.

use dpdk_sys::{Burst, Error, Interface, Link};
use virtnet_rings::spec::net::NET_HEADER_SIZE_BYTES;

use super::slots::Slots;
use crate::counters::{BurstCounts, DropReason};
use crate::frame::offload::{Refusal, Work, Workshop};
use crate::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use crate::uplink::wire::LinkState;

/// Frames of one call.
const BATCH: usize = 32;

/// The port's one queue. (Buffers go back before the port goes.)
#[derive(Debug)]
pub struct Dpdk {
    /// Frames as they came, of which those from `next` on have not been taken yet.
    incoming: Burst,
    next: usize,
    /// Where one is put together that came in several buffers.
    whole: Box<[u8]>,
    outgoing: Outgoing,
    interface: Interface,
    slots: Slots,
    workshop: Workshop,
}

/// Frames on their way out, then buffers for more.
#[derive(Debug)]
struct Outgoing {
    burst: Burst,
    lens_bytes: [u32; BATCH],
    count: usize,
}

impl Dpdk {
    /// The port of the device with these devargs, and what tells about it.
    ///
    /// # Errors
    /// What DPDK objects to.
    pub fn open(devargs: &str) -> Result<(Self, Probe), Error> {
        let (interface, link) = Interface::open(devargs)?;
        let dpdk = Self {
            incoming: Burst::new(BATCH),
            next: 0,
            whole: vec![0; FRAME_LEN_MAX as usize].into(),
            outgoing: Outgoing { burst: Burst::new(BATCH), lens_bytes: [0; BATCH], count: 0 },
            interface,
            slots: Slots::default(),
            workshop: Workshop::default(),
        };
        Ok((dpdk, Probe { link }))
    }

    /// The next frame that waits at the port, with its slot as its ticket.
    #[inline]
    pub fn take_frame(&mut self, counts: &mut BurstCounts) -> Option<Frame> {
        while self.slots.free() > 0 && (self.has_taken() || self.receive()) {
            let bytes = self.incoming.bytes(self.next, &mut self.whole);
            self.next += 1;
            match bytes {
                None => counts.drop(DropReason::TooLong, 1),
                Some(bytes) if bytes.len() < FRAME_LEN_MIN as usize => {}
                Some(bytes) => return self.slots.lay([0; NET_HEADER_SIZE_BYTES], &[bytes]),
            }
        }
        None
    }

    /// Whether frames have left the port that [`Self::take_frame`] has not given yet.
    pub fn has_taken(&self) -> bool {
        self.next < self.incoming.len()
    }

    /// Whether more frames have come.
    fn receive(&mut self) -> bool {
        self.incoming.free();
        self.next = 0;
        self.interface.receive(&mut self.incoming) > 0
    }

    /// Takes back a slot that [`Self::take_frame`] lent.
    #[inline]
    pub fn take_back(&mut self, slot: u16) {
        self.slots.take_back(slot);
    }

    /// Puts a frame among those that [`Self::flush`] sends.
    #[inline]
    pub fn transmit(&mut self, frame: &Frame, counts: &mut BurstCounts) {
        let work = frame.work_for(0);
        if work != Work::Nothing {
            return self.transmit_finished(frame, work, counts);
        }
        let Self { outgoing, interface, .. } = self;
        outgoing.put(interface, counts, frame.len_bytes as usize, |room| frame.parts.read(room));
    }

    fn transmit_finished(&mut self, frame: &Frame, work: Work, counts: &mut BurstCounts) {
        let Self { outgoing, interface, workshop, .. } = self;
        let mut finished = match workshop.start(frame, work, 0) {
            Ok(finished) => finished,
            Err(refusal) => return counts.drop(Refusal::reason(refusal), 1),
        };
        while let Some(piece) = finished.next_piece(0) {
            outgoing.put_bytes(interface, counts, piece);
        }
    }

    /// Sends a frame that asks for nothing and is no longer than frames are, at once.
    ///
    /// # Errors
    /// The port did not take it.
    pub fn transmit_bytes(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let mut counts = BurstCounts::default();
        self.outgoing.put_bytes(&mut self.interface, &mut counts, frame);
        let is_sent = self.outgoing.count > 0 && self.outgoing.flush(&mut self.interface, &mut counts) > 0;
        if is_sent { Ok(()) } else { Err(DropReason::PortFull) }
    }

    /// Sends what [`Self::transmit`] was given.
    #[inline]
    pub fn flush(&mut self, counts: &mut BurstCounts) {
        if self.outgoing.count > 0 {
            self.outgoing.flush(&mut self.interface, counts);
        }
    }
}

impl Outgoing {
    /// Adds a frame of up to so many bytes, of which `write` says how many it has written.
    #[inline]
    fn put(
        &mut self,
        interface: &mut Interface,
        counts: &mut BurstCounts,
        len_bytes: usize,
        write: impl FnOnce(&mut [u8]) -> usize,
    ) {
        if self.count == self.burst.len() && !interface.fill(&mut self.burst, BATCH - self.count) {
            return counts.drop(DropReason::PortFull, 1);
        }
        let Some(room) = self.burst.lay(self.count, len_bytes) else { return counts.drop(DropReason::TooLong, 1) };
        let written = write(room);
        if written < len_bytes {
            // What was there before is nobody's business.
            room[written..].fill(0);
        }
        self.lens_bytes[self.count] = len_bytes as u32;
        self.count += 1;
        if self.count == BATCH {
            self.flush(interface, counts);
        }
    }

    fn put_bytes(&mut self, interface: &mut Interface, counts: &mut BurstCounts, bytes: &[u8]) {
        self.put(interface, counts, bytes.len(), |room| {
            room.copy_from_slice(bytes);
            bytes.len()
        });
    }

    /// Returns how many went. The buffers of those that did not are for others.
    fn flush(&mut self, interface: &mut Interface, counts: &mut BurstCounts) -> usize {
        let sent = interface.transmit(&mut self.burst, self.count);
        self.lens_bytes[..sent].iter().for_each(|&len_bytes| counts.frame(len_bytes));
        counts.drop(DropReason::PortFull, (self.count - sent) as u64);
        self.count = 0;
        sent
    }
}

/// Tells about a port's link.
#[derive(Debug)]
pub struct Probe {
    link: Link,
}

impl Probe {
    /// How it is now. A device that was taken out stays gone.
    pub fn look(&self) -> LinkState {
        match self.link.is_up() {
            Some(true) => LinkState::Up,
            Some(false) => LinkState::Down,
            None => LinkState::Gone,
        }
    }
}
