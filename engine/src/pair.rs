//! A queue pair: receiveq, transmitq, the port between them and the wire, and one burst each way.

use std::os::fd::BorrowedFd;
use std::sync::Arc;

use virtnet_rings::spec::net::net_header_size_bytes;
use virtnet_rings::{Notifier, Queue, Violation, Virtqueue, with_queue};

use crate::announcement::Announcement;
use crate::bench::Bench;
use crate::counters::{BurstCounts, DropReason, QueueCounters};
use crate::filter::{Filter, Filtered};
use crate::frame::hash::Hasher;
use crate::frame::{self, offload};
use crate::hand::Hand;
use crate::journey::{self, FromGuest, ToGuest};
use crate::moderation::{Moderator, Setting};
use crate::port::loopback::Loopback;
use crate::port::pcap::Pcap;
use crate::port::sink::Sink;
use crate::port::source::Source;
use crate::port::switch::Lane;
use crate::port::switch::fdb::PortId;
use crate::port::tap::Tap;
use crate::port::{Arrival, Keep, Port};
use crate::roster::Wait;
use crate::window::Window;

/// The most chains of a transmitq that can be out at once.
const WINDOW_CHAINS_MAX: usize = 1024;

/// Which of a pair's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// To the guest.
    Receiveq,
    /// From the guest.
    Transmitq,
}

/// The wire's end of a pair, of whichever kind.
#[derive(Debug)]
pub enum AnyPort {
    /// [`crate::port::loopback`].
    Loopback(Loopback),
    /// [`crate::port::pcap`].
    Pcap(Pcap),
    /// [`crate::port::sink`].
    Sink(Sink),
    /// [`crate::port::source`].
    Source(Source),
    /// [`crate::port::switch`]: this port of it.
    Switch(PortId),
    /// [`crate::port::tap`].
    Tap(Tap),
}

/// Runs one expression with the port of whichever kind.
macro_rules! with_port {
    ($pair:expr, $lane:expr, $slot:expr, $port:ident => $body:expr) => {
        match $pair {
            AnyPort::Loopback($port) => $body,
            AnyPort::Pcap($port) => $body,
            AnyPort::Sink($port) => $body,
            AnyPort::Source($port) => $body,
            AnyPort::Tap($port) => $body,
            AnyPort::Switch(id) => {
                let $port = &mut $lane.end($slot, *id);
                $body
            }
        }
    };
}

/// A queue while it is attached, with room for what is out or on hand. Made by control, moved to the worker and back.
#[derive(Debug)]
pub struct Attached<T> {
    queue: Queue,
    /// Negotiated feature bits; of offloads to the guest, those it takes at present.
    features: u64,
    enabled: bool,
    /// It broke a rule, and is served no more.
    broken: bool,
    /// It is to go as soon as nothing of it is out.
    leaving: bool,
    held: T,
}

impl<T> Attached<T> {
    fn new(queue: Queue, features: u64, enabled: bool, held: T) -> Box<Self> {
        Box::new(Attached { queue, features, enabled, broken: false, leaving: false, held })
    }

    /// Whether more may be taken from it.
    fn is_served(&self) -> bool {
        !self.broken && !self.leaving
    }
}

impl Attached<Hand> {
    /// One burst from a port.
    #[inline(always)]
    fn receive(&mut self, port: &mut AnyPort, lane: &mut Lane, bench: &mut Bench) -> Result<(), Violation> {
        let Attached { queue, features, held, .. } = self;
        let (features, slot) = (*features, bench.lender.slot);
        with_queue!(queue, queue => with_port!(port, lane, slot, port => {
            bench.level.run(ToGuest { receiveq: queue, hand: held, port, bench, features })
        }))
    }

    /// The same through a filter.
    #[inline(never)]
    fn receive_some(
        &mut self,
        port: &mut AnyPort,
        filter: &Filter,
        lane: &mut Lane,
        bench: &mut Bench,
    ) -> Result<(), Violation> {
        let Attached { queue, features, held, .. } = self;
        let (features, slot, burst) = (*features, bench.lender.slot, bench.burst);
        with_queue!(queue, queue => with_port!(port, lane, slot, port => {
            let mut port = Filtered::new(port, filter, burst);
            let result = bench.level.run(ToGuest { receiveq: queue, hand: held, port: &mut port, bench, features });
            bench.counts.drop(DropReason::Filtered, port.refused());
            result
        }))
    }
}

/// A queue on its way to or from a pair.
#[derive(Debug)]
pub enum Attachment {
    /// To the guest.
    Receiveq(Box<Attached<Hand>>),
    /// From the guest.
    Transmitq(Box<Attached<Window>>),
}

impl Attachment {
    /// Makes the room that a queue needs.
    pub fn new(side: Side, mut queue: Queue, features: u64, enabled: bool) -> Self {
        let size = queue.size();
        match side {
            Side::Receiveq => {
                let hand = Hand::new(size, queue.memory().is_on_demand());
                Self::Receiveq(Attached::new(queue, features, enabled, hand))
            }
            Side::Transmitq => {
                queue.only_reads(if frame::reads_header(features) {
                    0
                } else {
                    net_header_size_bytes(features) as u32
                });
                let window = Window::new(usize::from(size).min(WINDOW_CHAINS_MAX));
                Self::Transmitq(Attached::new(queue, features, enabled, window))
            }
        }
    }

    /// Where its driver kicks.
    pub fn kick(&self) -> &Notifier {
        match self {
            Self::Receiveq(attached) => attached.queue.kick(),
            Self::Transmitq(attached) => attached.queue.kick(),
        }
    }

    /// The queue, which goes on where it is.
    pub fn into_queue(self) -> Queue {
        match self {
            Self::Receiveq(attached) => attached.queue,
            Self::Transmitq(attached) => attached.queue,
        }
    }
}

/// One queue pair of a device. A worker owns it outright.
#[derive(Debug)]
pub struct Pair {
    port: AnyPort,
    receiveq: Option<Box<Attached<Hand>>>,
    transmitq: Option<Box<Attached<Window>>>,
    /// What its guest does not want to receive.
    filter: Option<Arc<Filter>>,
    /// What is hashed for its guest.
    hasher: Option<Hasher>,
    receive_counters: QueueCounters,
    transmit_counters: QueueCounters,
    receive_moderator: Moderator,
    transmit_moderator: Moderator,
    /// It is to go to another worker, as soon as nothing of it is out.
    departing: bool,
}

/// What a turn has to tell.
#[derive(Debug, Default)]
pub struct Turned {
    /// Frames and chains that moved.
    pub moved: usize,
    /// A queue that broke a rule in this turn.
    pub violation: Option<(Side, Violation)>,
}

impl Pair {
    /// A pair without queues.
    pub fn new(port: AnyPort, receive_counters: QueueCounters, transmit_counters: QueueCounters) -> Self {
        let (receiveq, transmitq, filter, hasher) = Default::default();
        let (receive_moderator, transmit_moderator) = Default::default();
        Pair {
            port,
            receiveq,
            transmitq,
            filter,
            hasher,
            receive_counters,
            transmit_counters,
            receive_moderator,
            transmit_moderator,
            departing: false,
        }
    }

    /// Takes nothing more from its guest until [`Self::stay`], so that [`Self::has_settled`].
    pub fn depart(&mut self) {
        self.departing = true;
    }

    /// Goes on, here or elsewhere.
    pub fn stay(&mut self) {
        self.departing = false;
    }

    /// Whether the switch has nothing of it, and it nothing of the switch's. What other ports have goes where the pair goes.
    pub fn has_settled(&self) -> bool {
        let lends = self.transmitq.as_ref().is_some_and(|attached| !attached.held.is_empty());
        let borrows = self.receiveq.as_ref().is_some_and(|attached| attached.held.borrows());
        !matches!(self.port, AnyPort::Switch(_)) || !lends && !borrows
    }

    /// Adds up what it costs its worker.
    pub fn add_busy(&mut self, busy_ns: u64) {
        self.transmit_counters.add_busy(busy_ns);
    }

    /// Starts serving a queue; given back if there is one already.
    pub fn attach(&mut self, attachment: Attachment) -> Result<(), Attachment> {
        match attachment {
            Attachment::Receiveq(mut attached) if self.receiveq.is_none() => {
                self.receive_moderator.fit(attached.queue.size());
                attached.held.set_hasher(self.hasher.clone());
                self.receiveq = Some(attached);
            }
            Attachment::Transmitq(attached) if self.transmitq.is_none() => {
                self.transmit_moderator.fit(attached.queue.size());
                self.transmitq = Some(attached);
            }
            taken => return Err(taken),
        }
        Ok(())
    }

    /// Asks a queue to leave; [`Self::take_left`] gives it back when nothing of it is out any more.
    pub fn detach(&mut self, side: Side) {
        match (side, &mut self.receiveq, &mut self.transmitq) {
            (Side::Receiveq, Some(attached), _) => attached.leaving = true,
            (Side::Transmitq, _, Some(attached)) => attached.leaving = true,
            _ => {}
        }
    }

    /// The queue that was asked to leave: `Err` while it cannot yet, `None` if there is none.
    pub fn take_left(&mut self, side: Side) -> Result<Option<Attachment>, StillOut> {
        match (side, &self.receiveq, &self.transmitq) {
            (Side::Receiveq, Some(attached), _) if !attached.leaving || !attached.held.is_empty() => Err(StillOut),
            (Side::Transmitq, _, Some(attached)) if !attached.leaving || !attached.held.is_empty() => Err(StillOut),
            _ => {
                self.tell(side);
                Ok(match side {
                    Side::Receiveq => self.receiveq.take().map(Attachment::Receiveq),
                    Side::Transmitq => self.transmitq.take().map(Attachment::Transmitq),
                })
            }
        }
    }

    /// Whether neither side has a queue.
    pub fn is_bare(&self) -> bool {
        self.receiveq.is_none() && self.transmitq.is_none()
    }

    /// Enables or disables a queue (vhost-user, "Ring states").
    pub fn set_enabled(&mut self, side: Side, enabled: bool) {
        match (side, &mut self.receiveq, &mut self.transmitq) {
            (Side::Receiveq, Some(attached), _) => attached.enabled = enabled,
            (Side::Transmitq, _, Some(attached)) => attached.enabled = enabled,
            _ => {}
        }
        self.tell(side);
    }

    /// Changes how used buffer notifications are held back, of whichever queue is attached.
    pub fn moderate(&mut self, side: Side, setting: Setting) {
        self.tell(side);
        let (_, moderator, counters) = self.parts(side);
        moderator.set(setting);
        counters.set_moderation(moderator.moderation());
    }

    /// Tells a driver now what was held back.
    pub fn tell(&mut self, side: Side) {
        let (queue, moderator, counters) = self.parts(side);
        if let (true, Some(queue)) = (moderator.let_go(), queue) {
            let mut counts = BurstCounts::without_frames();
            journey::notify(queue, &mut counts);
            counters.take(&mut counts);
        }
    }

    /// A window is over: the moderation that follows the load is set by what was moved in it. Whether there is any.
    pub fn measure(&mut self, now_ns: u64) -> bool {
        let mut is_dynamic = false;
        for side in [Side::Receiveq, Side::Transmitq] {
            let (_, moderator, counters) = self.parts(side);
            if moderator.measure(|| counters.counts(), now_ns) {
                counters.set_moderation(moderator.moderation());
            }
            is_dynamic |= moderator.is_dynamic();
        }
        is_dynamic
    }

    /// Whether some moderation follows the load.
    pub fn is_dynamic(&self) -> bool {
        self.receive_moderator.is_dynamic() || self.transmit_moderator.is_dynamic()
    }

    /// Changes what arrives for its guest.
    pub fn set_filter(&mut self, filter: Option<Arc<Filter>>) {
        self.filter = filter;
    }

    /// Changes which offloads frames for its guest may come with.
    pub fn set_offloads(&mut self, offloads: u64) {
        if let Some(attached) = &mut self.receiveq {
            attached.features = attached.features & !offload::TO_GUEST | offloads & offload::TO_GUEST;
        }
    }

    /// Changes what hash its guest hears of, if it has it reported.
    pub fn set_hasher(&mut self, hasher: Option<Hasher>) {
        if let Some(attached) = &mut self.receiveq {
            attached.held.set_hasher(hasher.clone());
        }
        self.hasher = hasher;
    }

    /// Changes where used buffer notifications go, and sends one there: what was used while nobody could be told is told now.
    pub fn set_call(&mut self, side: Side, call: Notifier) {
        if let Some(queue) = self.queue(side) {
            *queue.call() = call;
            queue.call().notify();
        }
    }

    /// Sends an announcement out of the interface that is its port; whether it took it.
    pub fn announce(&mut self, announcement: &Announcement) -> bool {
        match &mut self.port {
            AnyPort::Tap(tap) => tap.transmit_bytes(announcement).is_ok(),
            _ => false,
        }
    }

    fn queue(&mut self, side: Side) -> Option<&mut Queue> {
        self.parts(side).0
    }

    fn parts(&mut self, side: Side) -> (Option<&mut Queue>, &mut Moderator, &mut QueueCounters) {
        match side {
            Side::Receiveq => {
                let queue = self.receiveq.as_mut().map(|attached| &mut attached.queue);
                (queue, &mut self.receive_moderator, &mut self.receive_counters)
            }
            Side::Transmitq => {
                let queue = self.transmitq.as_mut().map(|attached| &mut attached.queue);
                (queue, &mut self.transmit_moderator, &mut self.transmit_counters)
            }
        }
    }

    /// One burst each way.
    #[inline]
    pub fn turn(&mut self, lane: &mut Lane, bench: &mut Bench) -> Turned {
        let mut turned = Turned::default();
        if self.transmitq.is_some() {
            self.turn_transmitq(lane, bench, &mut turned);
        }
        self.turn_receiveq(lane, bench, &mut turned);
        turned
    }

    #[inline]
    fn turn_transmitq(&mut self, lane: &mut Lane, bench: &mut Bench, turned: &mut Turned) {
        let Some(attached) = &mut self.transmitq else { return };
        let stopped = !attached.is_served() || self.departing;
        let Attached { queue, features, enabled, broken, leaving, held, .. } = &mut **attached;
        let features = *features;
        let slot = bench.lender.slot;
        let burst = bench.burst;
        let first = held.next();
        if let (AnyPort::Loopback(port), true) = (&mut self.port, *leaving) {
            // The loop waits for buffers as long as it takes; a queue that goes does not.
            bench.counts.drop(DropReason::QueueDisabled, port.recall(held) as u64);
        }
        if stopped {
            // Nothing more is taken, what is out comes home.
            bench.burst = 0;
        }
        queue.begin_turn();
        let result = if *enabled || stopped {
            with_queue!(queue, queue => with_port!(&mut self.port, lane, slot, port => {
                bench.level.run(FromGuest { transmitq: queue, window: held, port, bench, features })
            }))
        } else {
            with_port!(&mut self.port, lane, slot, port => journey::discard(queue, held, port, bench))
        };
        queue.end_turn();
        if self.transmit_moderator.decides(bench) {
            with_queue!(queue, queue => journey::notify(queue, &mut bench.counts));
        }
        bench.burst = burst;
        let counts = &mut bench.counts;
        match &mut self.port {
            AnyPort::Switch(_) => lane.take_losses(slot).count(counts),
            AnyPort::Pcap(pcap) => counts.drop(DropReason::PortFull, pcap.take_drops()),
            AnyPort::Tap(tap) => tap.take_drops().count(counts),
            _ => {}
        }
        if let Err(violation) = result {
            *broken = true;
            bench.counts.violation();
            turned.violation = Some((Side::Transmitq, violation));
        }
        if bench.sampled_at.is_some() || held.follows() {
            let taken_at = bench.sampled_at.filter(|_| bench.counts.has_taken());
            held.follow(first, taken_at).into_iter().for_each(|latency| self.transmit_counters.add_latency(latency));
        }
        turned.moved += self.transmit_counters.take(&mut bench.counts);
    }

    #[inline]
    fn turn_receiveq(&mut self, lane: &mut Lane, bench: &mut Bench, turned: &mut Turned) {
        let slot = bench.lender.slot;
        let recalled = matches!(self.port, AnyPort::Loopback(_))
            && self.transmitq.as_ref().is_some_and(|transmitq| transmitq.leaving);
        let port = &mut self.port;
        if let Some(attached) = &mut self.receiveq
            && !recalled
            && attached.enabled
            && attached.is_served()
        {
            if attached.queue.begin_turn() {
                attached.held.put_back(&mut attached.queue);
            }
            let result = match &self.filter {
                None => attached.receive(port, lane, bench),
                Some(filter) => attached.receive_some(port, filter, lane, bench),
            };
            attached.queue.end_turn();
            if self.receive_moderator.decides(bench) {
                with_queue!(&mut attached.queue, queue => journey::notify(queue, &mut bench.counts));
            }
            if let Err(violation) = result {
                attached.broken = true;
                bench.counts.violation();
                turned.violation = Some((Side::Receiveq, violation));
            }
            if bench.sampled_at.is_some() || attached.held.follows() {
                let latency = attached.held.follow(bench.sampled_at, bench.counts.has_moved());
                latency.into_iter().for_each(|latency| self.receive_counters.add_latency(latency));
            }
        } else {
            with_port!(port, lane, slot, port => {
                match &mut self.receiveq {
                    Some(attached) if attached.is_served() => attached.held.forsake(port, bench),
                    Some(attached) => attached.held.abandon(&mut attached.queue, port, bench),
                    None => {}
                }
                // Nobody is there to receive: what arrives goes back to its sender at once.
                if port.patience_ns() < u64::MAX {
                    for _ in 0..port.arrived(bench.now_ns).min(bench.burst) {
                        let Arrival::Lent(mut frame) = port.receive(bench.now_ns, &mut Keep) else { break };
                        bench.counts.drop(DropReason::QueueDisabled, 1);
                        port.release(&mut frame);
                    }
                }
            });
            self.tell(Side::Receiveq);
        }
        if let AnyPort::Switch(_) = self.port {
            bench.counts.drop(DropReason::NoBuffers, lane.take_overflows(slot));
        }
        turned.moved += self.receive_counters.take(&mut bench.counts);
    }

    /// What it waits for, since it moves nothing; notifications of that are asked for.
    pub fn arm(&mut self) -> Wait {
        let sends = match &self.port {
            AnyPort::Source(source) => !source.is_over(),
            AnyPort::Pcap(pcap) => pcap.is_replaying(),
            AnyPort::Loopback(port) => !port.is_empty(),
            _ => false,
        };
        // Their frames wait for buffers as long as it takes; all others not for long.
        let keeps = matches!(&self.port, AnyPort::Source(_) | AnyPort::Pcap(_) | AnyPort::Loopback(_));
        let mut wait = Wait::Call;
        if self.departing || self.receive_moderator.holds() || self.transmit_moderator.holds() {
            return Wait::Nothing;
        }
        if let Some(attached) = self.transmitq.as_mut() {
            let out = !attached.held.is_empty() && !matches!(self.port, AnyPort::Loopback(_));
            // Who has told of a miss is not called when it is over.
            let misses = attached.queue.misses();
            if attached.leaving || out || attached.is_served() && attached.queue.arm() && !misses {
                return Wait::Nothing;
            }
            // A driver without a kick is not heard, only seen.
            if attached.is_served() && (misses || !attached.queue.kick().is_connected()) {
                wait = Wait::Look;
            }
        }
        if let Some(attached) = self.receiveq.as_mut() {
            let (waits, misses) = (attached.held.is_waiting(), attached.queue.misses());
            if attached.leaving || attached.held.borrows() && !keeps {
                return Wait::Nothing;
            }
            // Buffers matter only to frames that wait for them.
            if (sends || waits) && attached.enabled && attached.is_served() {
                let works = !matches!(self.port, AnyPort::Loopback(_)) && attached.held.has_buffers();
                if (works || attached.queue.arm()) && !misses {
                    return Wait::Nothing;
                }
                if misses || !attached.queue.kick().is_connected() {
                    wait = Wait::Look;
                }
            }
        }
        self.begin_anew();
        wait
    }

    fn begin_anew(&mut self) {
        for side in [Side::Receiveq, Side::Transmitq] {
            let (_, moderator, counters) = self.parts(side);
            if moderator.begin_anew() {
                counters.set_moderation(moderator.moderation());
            }
        }
    }

    /// Asks for no notifications.
    pub fn disarm(&mut self) {
        for side in [Side::Receiveq, Side::Transmitq] {
            if let Some(queue) = self.queue(side) {
                queue.disarm();
            }
        }
    }

    /// A driver has kicked.
    pub fn count_kick(&mut self, side: Side) {
        self.parts(side).2.add_kick();
    }

    /// The wire's door, where it has one.
    pub fn door(&self) -> Option<BorrowedFd<'_>> {
        match &self.port {
            AnyPort::Tap(tap) => tap.door(),
            _ => None,
        }
    }

    /// Where the drivers of its queues kick.
    pub fn kicks(&self) -> impl Iterator<Item = (Side, &Notifier)> {
        let receiveq = self.receiveq.as_ref().map(|attached| (Side::Receiveq, attached.queue.kick()));
        let transmitq = self.transmitq.as_ref().map(|attached| (Side::Transmitq, attached.queue.kick()));
        receiveq.into_iter().chain(transmitq)
    }
}

/// Something of a queue is still out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StillOut;
