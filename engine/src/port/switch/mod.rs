//! The switch: SFs and uplinks meet in it. It learns addresses, knows VLANs, floods what it does not know, and hands frames
//! from sender to receiver as references: the receiver copies them straight out of the sender's memory.
//!
//! A [`Lane`] is one worker's part of it. Within a worker a frame goes into the receiver's inbox; between workers it travels
//! on a single-producer single-consumer ring, and what the receiver has finished with comes back on another. No more
//! frames are out to a worker than its ring holds, so the way back always has room.

pub mod fdb;
mod hold;

use std::sync::Arc;

use rtrb::{Consumer, Producer, RingBuffer};
use virtnet_rings::memory::Span;

use self::fdb::{Fdb, Learned, Mac, PortId, Sighting, TICK_SECONDS};
use self::hold::Hold;
use super::{Arrival, Copier, Port};
use crate::counters::{BurstCounts, DropReason};
use crate::frame::queue::FrameQueue;
use crate::frame::steer::Steering;
use crate::frame::{Frame, Lender, Loan, Loans, PlainFrame};
use crate::window::Window;

/// How many frames wait for one receiver.
const INBOX: usize = 256;
/// How many frames or loans are gathered for another worker before they are sent.
const TRAY: usize = 64;
/// How many frames are on their way from one worker to another.
const LINK: usize = 2048;
/// The most workers there may be: one bit each in a word.
pub const WORKERS_MAX: usize = 64;
/// How much of a frame is looked at to steer it.
const HEAD_BYTES: usize = 128;
/// How many frames that were held go on in one turn; as many as a sender sends.
const LED_PER_TURN: usize = 32;

const NANOS_PER_TICK: u64 = TICK_SECONDS * 1_000_000_000;

/// Where a queue of a port is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which worker.
    pub worker: u16,
    /// Which of its slots.
    pub slot: u16,
}

/// A port as every lane knows it. A new state of it is a new value.
#[derive(Clone)]
pub struct PortMap {
    /// Which port.
    pub id: PortId,
    /// One a queue pair; not empty.
    pub places: Box<[Place]>,
    /// Which pair a frame belongs to.
    pub steering: Steering,
}

impl std::fmt::Debug for PortMap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortMap").field("id", &self.id).field("places", &self.places).finish_non_exhaustive()
    }
}

/// A frame between two workers.
#[derive(Debug)]
struct Envelope {
    slot: u16,
    frame: Frame,
}

/// A loan on its way home.
#[derive(Debug)]
struct Homebound {
    slot: u16,
    loan: Loan,
}

/// One worker's ends of the rings to another.
#[derive(Debug)]
pub struct Link {
    frames_out: Outbox<Envelope>,
    frames_in: Consumer<Envelope>,
    loans_out: Outbox<Homebound>,
    loans_in: Consumer<Homebound>,
    /// Frames that the other worker has of ours.
    lent: usize,
}

impl Link {
    /// Both ends of the rings between two workers.
    pub fn pair() -> (Link, Link) {
        let (frames_ab, frames_from_a) = RingBuffer::new(LINK);
        let (frames_ba, frames_from_b) = RingBuffer::new(LINK);
        let (loans_ab, loans_from_a) = RingBuffer::new(LINK);
        let (loans_ba, loans_from_b) = RingBuffer::new(LINK);
        let end = |frames_out, frames_in, loans_out, loans_in| {
            let (frames_out, loans_out) = (Outbox::new(frames_out), Outbox::new(loans_out));
            Link { frames_out, frames_in, loans_out, loans_in, lent: 0 }
        };
        (end(frames_ab, frames_from_b, loans_ab, loans_from_b), end(frames_ba, frames_from_a, loans_ba, loans_from_a))
    }
}

/// What is sent to another worker: gathered first, so that the other core is disturbed once a turn and not once a frame.
#[derive(Debug)]
struct Outbox<T> {
    ring: Producer<T>,
    tray: Vec<T>,
}

impl<T> Outbox<T> {
    fn new(ring: Producer<T>) -> Self {
        Outbox { ring, tray: Vec::with_capacity(TRAY) }
    }

    /// Adds something. No more frames are out than the rings hold, and no more loans than frames.
    #[inline]
    fn push(&mut self, item: T) {
        if self.tray.len() == TRAY {
            self.flush();
        }
        self.tray.push(item);
    }

    /// Lets the other worker see it.
    fn flush(&mut self) {
        if !self.tray.is_empty() {
            let places = self.ring.write_chunk_uninit(self.tray.len()).expect("no more is out than there is room for");
            places.fill_from_iter(self.tray.drain(..));
        }
    }
}

impl Outbox<Homebound> {
    /// Sends a loan home, with the one before it where it goes on with that.
    #[inline]
    fn send_home(&mut self, slot: u16, loan: Loan) {
        match self.tray.last_mut() {
            Some(last) if last.slot == slot && last.loan.goes_on_with(&loan) => last.loan.count += loan.count,
            _ => self.push(Homebound { slot, loan }),
        }
    }
}

/// Takes all that is in a ring.
#[inline]
fn drain<T>(ring: &mut Consumer<T>) -> impl Iterator<Item = T> {
    let count = ring.slots();
    ring.read_chunk(count).into_iter().flatten()
}

/// Senders are told apart by so many numbers.
const SENDERS: usize = 64;

#[inline]
fn sender(Lender { worker, slot }: Lender) -> usize {
    // Slots of one worker, and the same slots of several, fall apart.
    (usize::from(slot) + 23 * usize::from(worker)) % SENDERS
}

/// What waits for one slot.
#[derive(Debug)]
struct Mailbox {
    open: bool,
    /// Its owner is not in the hot scan, and is to be told of a frame.
    parked: bool,
    inbox: FrameQueue<INBOX>,
    /// How many frames in the inbox each sender has.
    shares: [u16; SENDERS],
    loans: Loans,
    /// Frames that found the inbox full.
    overflows: u64,
    /// Frames from this slot that could not be delivered.
    losses: Losses,
    /// The way of frames from this slot.
    way: Option<Way>,
}

/// The way of the last frame without a tag whose way does not depend on what else is in it. Most bursts have one, and the next
/// has the same: it is good as long as the table says the same of both addresses.
#[derive(Clone, Copy, Debug)]
struct Way {
    addresses: u128,
    source: Sighting,
    destination: Sighting,
    tick: u64,
    place: Place,
}

impl Mailbox {
    const CLOSED: Mailbox = Mailbox {
        open: false,
        parked: false,
        inbox: FrameQueue::CLOSED,
        shares: [0; SENDERS],
        loans: Loans::NONE,
        overflows: 0,
        losses: Losses { port_full: 0, no_destination: 0 },
        way: None,
    };

    /// Whether it would take a frame in.
    fn has_room(&self, frame: &Frame) -> bool {
        usize::from(self.shares[sender(frame.lender)]) < INBOX - self.inbox.len()
    }

    /// How many frames of a sender may come in, one after another.
    fn room_for(&self, lender: Lender) -> usize {
        // Each takes one from what is left, and adds one to what its sender has.
        self.inbox.room().saturating_sub(usize::from(self.shares[sender(lender)])).div_ceil(2)
    }

    /// Whether a frame may come in, which then must: not if its sender has as many here as there is room left. So n senders
    /// that flood get an n-th of it each and leave as much for one that does not.
    #[inline(always)]
    fn admits(&mut self, lender: Lender) -> bool {
        let share = &mut self.shares[sender(lender)];
        let admitted = usize::from(*share) < self.inbox.room();
        *share += u16::from(admitted);
        // One that is closed has no room for anybody.
        self.overflows += u64::from(self.open && !admitted);
        admitted
    }

    #[inline(always)]
    fn take(&mut self) -> Option<Frame> {
        let frame = self.inbox.pop()?;
        self.shares[sender(frame.lender)] -= 1;
        Some(frame)
    }
}

/// Frames of one slot that went no further than the switch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// There was no room: at the receiver, on the way to another worker, or to send it to everybody.
    pub port_full: u64,
    /// There was nowhere to go but where it came from.
    pub no_destination: u64,
}

impl Losses {
    /// Adds them to what a burst counts.
    #[inline]
    pub fn count(self, counts: &mut BurstCounts) {
        counts.drop(DropReason::PortFull, self.port_full);
        counts.drop(DropReason::NoDestination, self.no_destination);
    }
}

/// One worker's part of the switch.
#[derive(Debug)]
pub struct Lane {
    me: u16,
    fdb: Arc<Fdb>,
    ports: Vec<Option<PortMap>>,
    mailboxes: Vec<Mailbox>,
    /// By worker; `None` at our own place.
    links: Vec<Option<Link>>,
    /// Frames for a pair that is on its way to another worker.
    hold: Hold,
    /// Parked slots that were sent something.
    roused: Vec<u16>,
    /// Workers that were sent something in this turn, a bit each.
    sent_to: u64,
    tick: u64,
    /// The last address learned, and where an address was last found: most frames repeat them.
    learned: Option<(Mac, u16, PortId, u64)>,
    /// Addresses that moved from one port to another.
    pub moves: u64,
}

impl Lane {
    /// The lane of worker `me`; `links` has one entry a worker.
    pub fn new(me: u16, fdb: Arc<Fdb>, links: Vec<Option<Link>>) -> Self {
        let (ports, mailboxes, hold, roused) = Default::default();
        Lane { me, fdb, ports, mailboxes, links, hold, roused, sent_to: 0, tick: 0, learned: None, moves: 0 }
    }

    /// Makes a port known, or a new state of it.
    pub fn set_port(&mut self, map: PortMap) {
        let index = usize::from(map.id.0);
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        self.ports[index] = Some(map);
        self.forget_ways();
    }

    /// Forgets a port; nothing is delivered to it from now on.
    pub fn forget_port(&mut self, id: PortId) {
        if let Some(port) = self.ports.get_mut(usize::from(id.0)) {
            *port = None;
        }
        self.learned = None;
        self.forget_ways();
    }

    fn forget_ways(&mut self) {
        self.mailboxes.iter_mut().for_each(|mailbox| mailbox.way = None);
    }

    /// Another worker is there from now on.
    pub fn connect(&mut self, worker: u16, link: Link) {
        let index = usize::from(worker);
        if self.links.len() <= index {
            self.links.resize_with(index + 1, || None);
        }
        self.links[index] = Some(link);
    }

    /// Another worker goes, which has nothing of ours and sends nothing any more. `false` if it has.
    pub fn disconnect(&mut self, worker: u16, now_ns: u64) -> bool {
        self.gather(now_ns);
        let Some(link) = self.links.get_mut(usize::from(worker)) else { return true };
        let is_idle = link.as_ref().is_none_or(|link| link.lent == 0);
        if is_idle {
            *link = None;
        }
        is_idle
    }

    /// Keeps the frames for a place until [`Self::lead`] says where they go. `false` where others are kept already.
    pub fn hold(&mut self, place: Place) -> bool {
        self.hold.begin(place)
    }

    /// Has frames that were held go to where a pair is now.
    pub fn lead(&mut self, map: PortMap, place: Place) {
        self.set_port(map);
        self.hold.end(place);
    }

    /// Whether no frame is held.
    pub fn holds_nothing(&self) -> bool {
        self.hold.is_over()
    }

    /// How many frames from a wire there is room for.
    #[inline]
    pub fn room(&self) -> usize {
        self.hold.room()
    }

    /// Whether nothing waits for a slot.
    pub fn is_empty(&self, slot: u16) -> bool {
        self.mailboxes[usize::from(slot)].inbox.is_empty()
    }

    /// Opens the mailbox of a slot, with all the room it will need.
    pub fn open_mailbox(&mut self, slot: u16) {
        let index = usize::from(slot);
        if self.mailboxes.len() <= index {
            self.mailboxes.resize_with(index + 1, || Mailbox::CLOSED);
        }
        self.roused.reserve(self.mailboxes.len());
        // Nothing that its last owner left is the new one's.
        let (inbox, loans) = (FrameQueue::default(), Loans::with_capacity(4 * INBOX));
        self.mailboxes[index] = Mailbox { open: true, inbox, loans, ..Mailbox::CLOSED };
    }

    /// Closes it and lets go of its frames.
    pub fn close_mailbox(&mut self, slot: u16) {
        let Some(mailbox) = self.mailboxes.get_mut(usize::from(slot)) else { return };
        (mailbox.open, mailbox.parked, mailbox.way) = (false, false, None);
        self.roused.retain(|&roused| roused != slot);
        while let Some(mut frame) = self.mailboxes[usize::from(slot)].inbox.pop() {
            self.release(&mut frame);
        }
        self.mailboxes[usize::from(slot)].inbox = FrameQueue::CLOSED;
    }

    /// A slot leaves the hot scan: [`Self::take_roused`] tells of the next frame for it. `false` if one is there already.
    pub fn park(&mut self, slot: u16) -> bool {
        let mailbox = &mut self.mailboxes[usize::from(slot)];
        mailbox.parked = mailbox.inbox.is_empty();
        mailbox.parked
    }

    /// It is back, for whatever reason.
    pub fn unpark(&mut self, slot: u16) {
        self.mailboxes[usize::from(slot)].parked = false;
    }

    /// A slot that was parked and has been sent something since.
    #[inline]
    pub fn take_roused(&mut self) -> Option<u16> {
        self.roused.pop()
    }

    /// How many frames a slot's full inbox has turned away; counted from the last time this was asked.
    pub fn take_overflows(&mut self, slot: u16) -> u64 {
        std::mem::take(&mut self.mailboxes[usize::from(slot)].overflows)
    }

    /// How many of a slot's own frames could not be delivered; counted from the last time this was asked.
    pub fn take_losses(&mut self, slot: u16) -> Losses {
        std::mem::take(&mut self.mailboxes[usize::from(slot)].losses)
    }

    /// Brings in what other workers have sent, and lets time pass. Returns how many things came.
    pub fn gather(&mut self, now_ns: u64) -> usize {
        self.tick = now_ns / NANOS_PER_TICK;
        // Another worker may have heard the same address since, from somebody else's mouth.
        self.learned = None;
        let mut count = 0;
        let Lane { links, mailboxes, roused, sent_to, .. } = self;
        for (worker, link) in links.iter_mut().enumerate() {
            let Some(Link { frames_in, loans_in, loans_out, lent, .. }) = link else { continue };
            for Homebound { slot, loan } in drain(loans_in) {
                count += 1;
                *lent -= loan.count as usize;
                mailboxes[usize::from(slot)].loans.push(loan);
            }
            for Envelope { slot, mut frame } in drain(frames_in) {
                count += 1;
                frame.prefetch();
                match inbox(mailboxes, roused, slot, frame.lender) {
                    Some(inbox) => inbox.push(frame),
                    None => {
                        loans_out.send_home(frame.lender.slot, frame.loan());
                        *sent_to |= 1 << worker;
                    }
                }
            }
        }
        if self.hold.is_over() { count } else { count + self.lead_on() }
    }

    /// Sends some of the frames that were held on their way. Returns how many they were.
    #[cold]
    fn lead_on(&mut self) -> usize {
        for count in 0..LED_PER_TURN {
            let Some((place, mut frame)) = self.hold.next() else { return count };
            let mailbox = self.mailboxes.get(usize::from(place.slot));
            let is_full = match self.links.get(usize::from(place.worker)) {
                _ if place.worker == self.me => {
                    mailbox.is_some_and(|mailbox| mailbox.open && !mailbox.has_room(&frame))
                }
                link => link.and_then(Option::as_ref).is_some_and(|link| link.lent == LINK),
            };
            if is_full {
                self.hold.put_back(frame);
                return count;
            }
            match self.door(place, frame.lender) {
                Some(door) => door.put(frame),
                None => {
                    self.mailboxes[usize::from(frame.lender.slot)].losses.port_full += 1;
                    self.release(&mut frame);
                }
            }
        }
        LED_PER_TURN
    }

    /// Whether something has come that nobody has looked at.
    pub fn has_mail(&self) -> bool {
        !self.roused.is_empty()
            || !self.hold.is_over()
            || self.links.iter().flatten().any(|link| !link.frames_in.is_empty() || !link.loans_in.is_empty())
    }

    /// Lets the other workers see what was sent to them since this was last asked, and tells which they are.
    #[inline]
    pub fn take_sent_to(&mut self) -> impl Iterator<Item = u16> + use<> {
        let mut left = std::mem::take(&mut self.sent_to);
        if left != 0 {
            for Link { frames_out, loans_out, .. } in self.links.iter_mut().flatten() {
                frames_out.flush();
                loans_out.flush();
            }
        }
        std::iter::from_fn(move || {
            let worker = left.trailing_zeros();
            left &= left.wrapping_sub(1);
            (worker < u64::BITS).then_some(worker as u16)
        })
    }

    /// One slot's end of the switch.
    #[inline]
    pub fn end(&mut self, slot: u16, port: PortId) -> End<'_> {
        End { lane: self, slot, port, way: None, room: 0, left: 0, lender: Lender::default(), returned: Loan::NONE }
    }

    /// Whether frames still go this way, and their sender need not be learned again.
    #[inline]
    fn is_good(&self, way: &Way) -> bool {
        way.tick == self.tick && self.fdb.holds(way.source) && self.fdb.holds(way.destination)
    }

    /// Whether there is such a port.
    #[inline]
    fn knows(&self, port: PortId) -> bool {
        self.ports.get(usize::from(port.0)).is_some_and(Option::is_some)
    }

    /// Whether all frames for a port go to the same place.
    #[inline]
    fn has_one_place(&self, to: PortId) -> bool {
        matches!(self.ports.get(usize::from(to.0)), Some(Some(map)) if map.places.len() == 1)
    }

    /// Whether frames for a port follow those that its pairs send.
    #[inline]
    fn follows(&self, port: PortId) -> bool {
        matches!(self.ports.get(usize::from(port.0)), Some(Some(map)) if map.steering.follows())
    }

    /// Remembers which of a port's pairs sends what a frame is of.
    #[inline(never)]
    fn follow(&self, port: PortId, slot: u16, frame: &Frame) {
        let Some(Some(map)) = self.ports.get(usize::from(port.0)) else { return };
        let here = Place { worker: self.me, slot };
        if let Some(pair) = map.places.iter().position(|place| *place == here) {
            let mut head = [0; HEAD_BYTES];
            let count = frame.parts.read(&mut head);
            map.steering.sent_by(pair as u16, &head[..count]);
        }
    }

    /// Where a frame goes that is for a port.
    #[inline]
    fn place_of(&self, to: PortId, frame: &Frame) -> Option<Place> {
        let map = self.ports.get(usize::from(to.0))?.as_ref()?;
        let queue = if map.places.len() > 1 {
            let mut head = [0; HEAD_BYTES];
            let count = frame.parts.read(&mut head);
            usize::from(map.steering.pair(&head[..count])).min(map.places.len() - 1)
        } else {
            0
        };
        Some(map.places[queue])
    }

    /// The way to a place for a frame of this lender, which must then take it; `None` where there is no room.
    #[inline(always)]
    fn door(&mut self, Place { worker, slot }: Place, lender: Lender) -> Option<Door<'_>> {
        if worker == self.me {
            return inbox(&mut self.mailboxes, &mut self.roused, slot, lender).map(Door::Inbox);
        }
        let link = self.links.get_mut(usize::from(worker))?.as_mut().filter(|link| link.lent < LINK)?;
        link.lent += 1;
        self.sent_to |= 1 << worker;
        Some(Door::Link(&mut link.frames_out, slot))
    }

    /// How many frames of this lender there is room for at a place; what is kept for a pair on its way is another matter.
    fn room_at(&self, place: Place, lender: Lender) -> usize {
        if self.hold.keeps(place) {
            return 0;
        }
        if place.worker == self.me {
            return self.mailboxes.get(usize::from(place.slot)).map_or(0, |mailbox| mailbox.room_for(lender));
        }
        let link = self.links.get(usize::from(place.worker)).and_then(Option::as_ref);
        link.map_or(0, |link| LINK - link.lent)
    }

    /// Sends a plain frame to a place that has room for it; [`Self::charge`] must know.
    #[inline(always)]
    fn put_plain(&mut self, Place { worker, slot }: Place, frame: PlainFrame) {
        if worker == self.me {
            self.mailboxes[usize::from(slot)].inbox.push_plain(frame);
        } else if let Some(Some(link)) = self.links.get_mut(usize::from(worker)) {
            link.frames_out.push(Envelope { slot, frame: frame.into() });
        }
    }

    /// Takes note that so many frames were put there.
    fn charge(&mut self, Place { worker, slot }: Place, lender: Lender, count: usize) {
        if worker == self.me {
            let mailbox = &mut self.mailboxes[usize::from(slot)];
            mailbox.shares[sender(lender)] += count as u16;
            if std::mem::take(&mut mailbox.parked) {
                self.roused.push(slot);
            }
        } else if let Some(Some(link)) = self.links.get_mut(usize::from(worker)) {
            link.lent += count;
            self.sent_to |= 1 << worker;
        }
    }

    /// Gives a frame back to who lent it.
    #[inline]
    fn release(&mut self, frame: &mut Frame) {
        self.send_home(frame.lender, frame.loan());
    }

    #[inline(always)]
    fn send_home(&mut self, Lender { worker, slot }: Lender, loan: Loan) {
        if worker == self.me {
            return self.mailboxes[usize::from(slot)].loans.push(loan);
        }
        let link = self.links[usize::from(worker)].as_mut().expect("a frame comes from another worker over its link");
        link.loans_out.send_home(slot, loan);
        self.sent_to |= 1 << worker;
    }

    #[inline]
    fn learn(&mut self, mac: Mac, vlan: u16, port: PortId) {
        let seen = Some((mac, vlan, port, self.tick));
        if self.learned != seen {
            self.learned = seen;
            if let Learned::Moved(_) = self.fdb.learn(mac, vlan, port, self.tick) {
                self.moves += 1;
            }
        }
    }
}

/// Where a frame goes that was admitted.
enum Door<'l> {
    Inbox(&'l mut FrameQueue<INBOX>),
    Link(&'l mut Outbox<Envelope>, u16),
}

impl Door<'_> {
    #[inline(always)]
    fn put(self, frame: Frame) {
        match self {
            Door::Inbox(inbox) => inbox.push(frame),
            Door::Link(frames_out, slot) => frames_out.push(Envelope { slot, frame }),
        }
    }
}

/// A slot's inbox, if a frame of this lender is admitted there.
#[inline(always)]
fn inbox<'l>(
    mailboxes: &'l mut [Mailbox],
    roused: &mut Vec<u16>,
    slot: u16,
    lender: Lender,
) -> Option<&'l mut FrameQueue<INBOX>> {
    let mailbox = mailboxes.get_mut(usize::from(slot))?;
    if !mailbox.admits(lender) {
        return None;
    }
    if mailbox.parked {
        mailbox.parked = false;
        roused.push(slot);
    }
    Some(&mut mailbox.inbox)
}

/// The first bytes of a frame: both addresses, and the VLAN tag if there is one.
type Head = [u8; 16];

/// What the switch reads of a frame.
struct Addresses {
    destination: Mac,
    source: Mac,
    vlan: u16,
}

impl Addresses {
    #[inline]
    fn of(head: Head) -> Self {
        let mac = |at: usize| head[at..at + 6].try_into().expect("six bytes");
        let vlan = if is_tagged(head) { u16::from_be_bytes([head[14], head[15]]) & 0xfff } else { 0 };
        Addresses { destination: mac(0), source: mac(6), vlan }
    }
}

#[inline(always)]
fn is_tagged(head: Head) -> bool {
    matches!([head[12], head[13]], [0x81, 0x00] | [0x88, 0xa8])
}

/// Both addresses as a number.
#[inline(always)]
fn both(head: Head) -> u128 {
    u128::from_le_bytes(head) & ((1 << 96) - 1)
}

/// One slot's end of the switch, for the time of a burst.
pub struct End<'l> {
    lane: &'l mut Lane,
    slot: u16,
    port: PortId,
    /// Addresses of frames without a tag, and the way they go.
    way: Option<(u128, Place)>,
    /// How many more frames there was room for on that way, and is now. The difference is not on anybody's account yet.
    room: usize,
    left: usize,
    /// Frames that were received, on their way back to this lender.
    lender: Lender,
    returned: Loan,
}

impl Drop for End<'_> {
    #[inline]
    fn drop(&mut self) {
        self.charge();
        self.send_home();
    }
}

impl End<'_> {
    /// Whether a frame from a member of a bond is one that has left by another and came back: whoever sent it was heard at another
    /// port a moment ago, and it is not for a station that is known to be at one.
    pub fn is_echo(&self, frame: &Frame) -> bool {
        let mut head = [0; _];
        frame.parts.read(&mut head);
        let Addresses { destination, source, vlan } = Addresses::of(head);
        let Lane { fdb, tick, .. } = &*self.lane;
        let elsewhere = |port| port != self.port;
        fdb.heard_lately(source, vlan, *tick).is_some_and(elsewhere)
            && !fdb.lookup(destination, vlan).is_some_and(elsewhere)
    }

    /// A plain frame that does not go the way of the one before it, or finds no room there. Its parts come one by one, in
    /// registers: together they would be laid on the stack for every frame, whether it comes here or not.
    #[inline(never)]
    fn send_other(&mut self, bytes: Span, ticket: u32, lender: Lender, window: &mut Window) {
        let frame = PlainFrame { bytes, ticket, lender };
        let known = self.lane.mailboxes[usize::from(self.slot)].way;
        if let (Some(head), Some(way)) = (frame.bytes.read_array(), known)
            && both(head) == way.addresses
            && !is_tagged(head)
            && self.lane.is_good(&way)
        {
            self.charge();
            self.deliver(way.place, frame.into(), window);
            self.open(way.addresses, way.place, frame.lender);
        } else {
            self.send(frame.into(), window);
        }
    }

    /// Has frames with these addresses go this way.
    fn open(&mut self, addresses: u128, place: Place, lender: Lender) {
        self.way = Some((addresses, place));
        self.room = self.lane.room_at(place, lender);
        self.left = self.room;
    }

    /// Puts the frames that went the way on the accounts of those that have them.
    #[inline]
    fn charge(&mut self) {
        let sent = self.room - self.left;
        self.room = self.left;
        if let (Some((_, place)), true) = (self.way, sent > 0) {
            self.lane.charge(place, Lender { worker: self.lane.me, slot: self.slot }, sent);
        }
    }

    #[inline]
    fn send_home(&mut self) {
        let loan = std::mem::replace(&mut self.returned, Loan::NONE);
        if loan.count > 0 {
            self.lane.mailboxes[usize::from(self.slot)].shares[sender(self.lender)] -= loan.count as u16;
            self.lane.send_home(self.lender, loan);
        }
    }

    #[inline(never)]
    fn send_home_apart(&mut self, lender: Lender, loan: Loan) {
        self.send_home();
        (self.lender, self.returned) = (lender, loan);
    }

    fn forward(&mut self, mut frame: Frame, head: Head, window: &mut Window) {
        self.charge();
        self.way = None;
        let Addresses { destination, source, vlan } = Addresses::of(head);
        self.lane.learn(source, vlan, self.port);
        // Every frame of such a port comes here: there is no way for those behind it.
        let follows = self.lane.follows(self.port);
        if follows {
            self.lane.follow(self.port, self.slot, &frame);
        }
        if destination[0] & 1 != 0 {
            return self.flood(frame, window);
        }
        let Some(found) = self.lane.fdb.locate(destination, vlan) else {
            return self.flood(frame, window);
        };
        let to = self.lane.fdb.port(found);
        let Some(place) = self.lane.place_of(to, &frame).filter(|_| to != self.port) else {
            self.losses().no_destination += 1;
            return window.settle(frame.loan());
        };
        let lender = frame.lender;
        self.deliver(place, frame, window);
        if !is_tagged(head) && !follows && self.lane.has_one_place(to) {
            self.open(both(head), place, lender);
            let way =
                |known| Way { addresses: both(head), source: known, destination: found, tick: self.lane.tick, place };
            let known = self.lane.fdb.locate(source, vlan).filter(|&known| self.lane.fdb.port(known) == self.port);
            self.lane.mailboxes[usize::from(self.slot)].way = known.map(way);
        }
    }

    /// To every port but the one it came from. Each copy is a reader of its own; a frame in many parts reaches as many ports
    /// as there are lists for its parts. The last port gets the frame itself.
    #[cold]
    fn flood(&mut self, mut frame: Frame, window: &mut Window) {
        let mut last = None;
        for to in (0..self.lane.ports.len()).map(|index| PortId(index as u16)) {
            if to == self.port || !self.lane.knows(to) {
                continue;
            }
            let Some(before) = last.replace(to) else { continue };
            match frame.parts.duplicate(&mut window.store) {
                Some(parts) => {
                    window.lend_again(frame.ticket);
                    self.send_to(before, Frame { parts, ..frame }, window);
                }
                None => self.losses().port_full += 1,
            }
        }
        match last {
            Some(last) => self.send_to(last, frame, window),
            None => {
                self.losses().no_destination += 1;
                window.settle(frame.loan());
            }
        }
    }

    fn send_to(&mut self, to: PortId, mut frame: Frame, window: &mut Window) {
        match self.lane.place_of(to, &frame) {
            Some(place) => self.deliver(place, frame, window),
            None => window.settle(frame.loan()),
        }
    }

    /// Sends a frame to a place, or keeps it for a pair that is on its way there.
    #[inline(always)]
    fn deliver(&mut self, place: Place, mut frame: Frame, window: &mut Window) {
        if self.lane.hold.keeps(place) {
            return self.keep(frame, window);
        }
        match self.lane.door(place, frame.lender) {
            Some(door) => door.put(frame),
            None => {
                self.losses().port_full += 1;
                window.settle(frame.loan());
            }
        }
    }

    #[cold]
    fn keep(&mut self, mut frame: Frame, window: &mut Window) {
        if !self.lane.hold.put(&mut frame) {
            self.losses().port_full += 1;
            window.settle(frame.loan());
        }
    }

    fn losses(&mut self) -> &mut Losses {
        &mut self.lane.mailboxes[usize::from(self.slot)].losses
    }
}

impl Port for End<'_> {
    #[inline]
    fn room(&self) -> usize {
        self.lane.room()
    }

    fn send(&mut self, frame: Frame, window: &mut Window) {
        let mut head = [0; _];
        frame.parts.read(&mut head);
        self.forward(frame, head, window);
    }

    #[inline(always)]
    fn send_plain(&mut self, frame: PlainFrame, window: &mut Window) {
        if let (Some(head), Some((addresses, place))) = (frame.bytes.read_array(), self.way)
            && self.left > 0
            && both(head) == addresses
            && !is_tagged(head)
        {
            self.left -= 1;
            self.lane.put_plain(place, frame);
        } else {
            self.send_other(frame.bytes, frame.ticket, frame.lender, window);
        }
    }

    #[inline]
    fn reap(&mut self, window: &mut Window) {
        for loan in self.lane.mailboxes[usize::from(self.slot)].loans.drain() {
            window.settle(loan);
        }
    }

    #[inline]
    fn arrived(&mut self, _now_ns: u64) -> usize {
        self.lane.mailboxes[usize::from(self.slot)].inbox.len()
    }

    #[inline(always)]
    fn receive(&mut self, _now_ns: u64, copier: &mut impl Copier) -> Arrival {
        let mailbox = &mut self.lane.mailboxes[usize::from(self.slot)];
        let Some(frame) = mailbox.inbox.front_mut() else { return Arrival::None };
        if !copier.copy(frame) {
            return mailbox.take().map_or(Arrival::None, Arrival::Lent);
        }
        let (lender, loan) = (frame.lender, frame.loan());
        mailbox.inbox.pass();
        if lender == self.lender && self.returned.goes_on_with(&loan) {
            self.returned.count += 1;
        } else {
            self.send_home_apart(lender, loan);
        }
        Arrival::Copied
    }

    #[inline]
    fn release(&mut self, frame: &mut Frame) {
        self.lane.release(frame);
    }
}
