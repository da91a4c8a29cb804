//! An uplink: a network interface of the host as a port of the switch, with no guest behind it. What comes from the
//! interface goes into the switch, what the switch sends goes out; one of these serves one queue of the interface.
//!
//! Interfaces that are members of a bond have one port together: the switch spreads frames over those that have a link, by
//! flow, and sees what comes in by any of them as the bond's.

pub mod wire;

use std::os::fd::BorrowedFd;

use virtnet_rings::Used;

use self::wire::Wire;
use crate::announcement::Announcement;
use crate::bench::Bench;
use crate::counters::{BurstCounts, DropReason, QueueCounters};
use crate::frame::Frame;
use crate::port::switch::Lane;
use crate::port::switch::fdb::PortId;
use crate::port::{Arrival, Copier, Port};
use crate::roster::Wait;
use crate::window::Window;

/// One queue of an interface, and its port of the switch.
#[derive(Debug)]
pub struct Uplink {
    wire: Wire,
    port: PortId,
    /// Other interfaces have the same port.
    bonded: bool,
    has_link: bool,
    /// What the switch has of the interface's frames, by slot.
    window: Window,
    from_wire: QueueCounters,
    to_wire: QueueCounters,
    leaving: bool,
}

/// Where frames leave by the interface.
struct Outlet<'u> {
    wire: &'u mut Wire,
    has_link: bool,
    counts: &'u mut BurstCounts,
}

impl Copier for Outlet<'_> {
    fn copy(&mut self, frame: &Frame) -> bool {
        if self.has_link {
            self.wire.transmit(frame, self.counts);
        } else {
            self.counts.drop(DropReason::PortError, 1);
        }
        true
    }
}

impl Uplink {
    /// An uplink that counts what comes in and what goes out; `bonded` says whether other interfaces have this port, too.
    pub fn new(wire: Wire, port: PortId, bonded: bool, from_wire: QueueCounters, to_wire: QueueCounters) -> Self {
        let window = Window::new(Wire::SLOTS);
        Self { wire, port, bonded, has_link: true, window, from_wire, to_wire, leaving: false }
    }

    /// One burst each way.
    #[inline]
    pub fn turn(&mut self, lane: &mut Lane, bench: &mut Bench) -> usize {
        self.turn_from_wire(lane, bench) + self.turn_to_wire(lane, bench)
    }

    fn turn_from_wire(&mut self, lane: &mut Lane, bench: &mut Bench) -> usize {
        let slot = bench.lender.slot;
        let room = if self.leaving { 0 } else { bench.burst.min(self.window.room()).min(lane.room()) };
        let mut end = lane.end(slot, self.port);
        for _ in 0..room {
            let Some(mut frame) = self.wire.take_frame(bench.now_ns, &mut bench.counts) else { break };
            if self.bonded && end.is_echo(&frame) {
                bench.counts.drop(DropReason::Filtered, 1);
                self.wire.take_back(frame.ticket as u16);
                continue;
            }
            frame.ticket =
                self.window.open(std::iter::once(Used { id: frame.ticket as u16, descriptors: 1, len_bytes: 0 }));
            frame.lender = bench.lender;
            bench.counts.frame(frame.len_bytes);
            end.send(frame, &mut self.window);
        }
        end.reap(&mut self.window);
        drop(end);
        self.window.close(&mut bench.used);
        bench.used.drain(..).for_each(|used| self.wire.take_back(used.id));
        lane.take_losses(slot).count(&mut bench.counts);
        self.from_wire.take(&mut bench.counts)
    }

    fn turn_to_wire(&mut self, lane: &mut Lane, bench: &mut Bench) -> usize {
        let slot = bench.lender.slot;
        let mut end = lane.end(slot, self.port);
        for _ in 0..bench.burst {
            let mut outlet = Outlet { wire: &mut self.wire, has_link: self.has_link, counts: &mut bench.counts };
            let Arrival::Copied = end.receive(bench.now_ns, &mut outlet) else { break };
        }
        drop(end);
        self.wire.flush(&mut bench.counts);
        bench.counts.drop(DropReason::NoBuffers, lane.take_overflows(slot));
        self.to_wire.take(&mut bench.counts)
    }

    /// Sends an announcement out of the interface; whether it took it.
    pub fn announce(&mut self, announcement: &Announcement) -> bool {
        self.wire.transmit_bytes(announcement).is_ok()
    }

    /// Whether the interface has a link; without one, what is for it is dropped.
    pub fn set_link(&mut self, has_link: bool) {
        self.has_link = has_link;
    }

    /// What it waits for, since it moves nothing.
    pub fn arm(&self) -> Wait {
        let is_quiet = self.window.is_empty() && !self.wire.has_taken();
        if self.leaving || !is_quiet { Wait::Nothing } else { self.wire.wait() }
    }

    /// The interface's door.
    pub fn door(&self) -> Option<BorrowedFd<'_>> {
        self.wire.door()
    }

    /// Takes no more from the interface; [`Self::is_idle`] tells when nothing of it is out any more.
    pub fn leave(&mut self) {
        self.leaving = true;
    }

    /// Goes on after [`Self::leave`], elsewhere.
    pub fn stay(&mut self) {
        self.leaving = false;
    }

    /// Adds up what it costs its worker.
    pub fn add_busy(&mut self, busy_ns: u64) {
        self.from_wire.add_busy(busy_ns);
    }

    /// Whether the switch has nothing of the interface's.
    pub fn is_idle(&self) -> bool {
        self.window.is_empty()
    }
}
