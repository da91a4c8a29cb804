//! Every broken promise on each layout and kind of queue: its outcome, the counter that shows it, and that the neighbours'
//! traffic on the same worker and over the same switch is neither lost, nor late, nor changed by it.

use virtnet_engine::counters::{DropReason, QueueCounts};
use virtnet_engine::pair::Side;
use virtnet_rings::guest::mischief::{Kind, Mischief, TOKEN, Unable};
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::guest::{Buffer, Completed, Options};
use virtnet_rings::spec::net::{VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6};
use virtnet_rings::{Layout, Violation};
use virtnet_tests::frames::Mac;
use virtnet_tests::{Device, Guest, House};

const SIZE: u16 = 64;
/// Longer than a frame may wait for buffers.
const LONG_TURNS: usize = 60;

/// What comes of it.
#[derive(Clone, Copy, Debug)]
enum Outcome {
    /// The queue is retired, with this violation.
    Retired(fn(&Violation) -> bool),
    /// The chain comes back with nothing written to it, counted by reason.
    Dropped(DropReason),
    /// It was allowed: a frame rides in it.
    Carried,
    /// Two chains that are one: a frame rides in each.
    CarriedTwice,
    /// It is not seen at all, because the descriptor does not say that it is available.
    Unseen,
    /// A small mergeable buffer that is kept until there are others beside it; the frame waits in vain.
    Kept,
}

use Outcome::*;

macro_rules! retired {
    ($violation:pat) => {
        Retired(|violation| matches!(violation, $violation))
    };
}

/// What is played, and what was negotiated.
#[derive(Clone, Copy, Debug)]
struct Case {
    layout: Layout,
    kind: Kind,
    indirect: bool,
    mergeable: bool,
    /// The device may complete checksums and cut segments.
    offloads: bool,
}

/// The table of `docs/outcomes.md`.
fn outcome(mischief: Mischief, case: Case) -> Outcome {
    use Mischief::*;
    let Case { layout, kind, mergeable, offloads, .. } = case;
    match mischief {
        AvailableIndexTooFar | AvailableIndexBackwards => retired!(Violation::AvailableIndexTooFar { .. }),
        HeadPastTable => retired!(Violation::HeadPastTable { head: SIZE, size: SIZE }),
        NextPastTable => retired!(Violation::NextPastTable { next: SIZE, size: SIZE }),
        IndirectNextPastTable => retired!(Violation::NextPastTable { next: 1, size: 1 }),
        ChainLoop | IndirectLoop | ChainLongerThanQueue => retired!(Violation::ChainTooLong { .. }),
        IndirectNotNegotiated => retired!(Violation::IndirectNotNegotiated),
        // A packed table has no flag but WRITE: what it holds is a buffer to read, too short for a frame.
        IndirectInIndirect if layout == Layout::Packed => {
            Dropped(if kind == Kind::Receiveq { DropReason::WrongDirection } else { DropReason::TooShort })
        }
        IndirectInIndirect => retired!(Violation::IndirectNested),
        IndirectWithNext => retired!(Violation::IndirectWithNext),
        IndirectTableRagged => retired!(Violation::IndirectTableLength { len_bytes: 24, .. }),
        IndirectTableEmpty => retired!(Violation::IndirectTableLength { len_bytes: 0, .. }),
        IndirectTableTooLong => retired!(Violation::IndirectTableLength { len_bytes: 1040, limit_bytes: 1024 }),
        IdPastQueue => retired!(Violation::IdPastQueue { id: SIZE, size: SIZE }),
        WrapBitsBreakOff => retired!(Violation::ChainUnfinished { descriptors: 1 }),
        NextWithNothingFollowing => retired!(Violation::ChainUnfinished { descriptors: 1 }),
        WrapBitsInverted | WrapBitsUsed => Unseen,
        IndirectTableOutsideMemory
        | IndirectTableCrossesEnd
        | IndirectElementOutsideMemory
        | OutsideMemory
        | AddressOverflows
        | CrossesEnd
        | LengthHuge => Dropped(DropReason::OutsideMemory),
        WritableBeforeReadable | WrongDirection => Dropped(DropReason::WrongDirection),
        ZeroLengthChain | ShorterThanHeader => Dropped(DropReason::TooShort),
        HeaderOnly | FrameShort if kind == Kind::Receiveq && mergeable => Kept,
        HeaderOnly | FrameShort => Dropped(DropReason::TooShort),
        FrameLong => Dropped(DropReason::TooLong),
        GsoTypeUnknown
        | GsoSizeZero
        | GsoWithoutChecksum
        | HdrLenHuge
        | ChecksumStartPastFrame
        | ChecksumOffsetPastFrame
            if offloads =>
        {
            Dropped(DropReason::MalformedHeader)
        }
        // Nobody looks at the header of a driver that has negotiated nothing to ask for.
        GsoTypeUnknown
        | GsoSizeZero
        | GsoWithoutChecksum
        | HdrLenHuge
        | ChecksumStartPastFrame
        | ChecksumOffsetPastFrame => Carried,
        ChainAsLongAsQueue | ZeroLengthDescriptor | HeaderInThree | HeaderFlagsUnknown => Carried,
        OfferedTwice => CarriedTwice,
        RingLapped => unreachable!("it is played by itself, below"),
    }
}

/// Two honest guests that talk to each other, beside one that will not be honest and one that it talks to.
struct Street {
    house: House,
    neighbours: [Guest; 2],
    devices: Vec<Device>,
    villain: Guest,
    peer: Guest,
    sent: u64,
    /// What had been counted when all addresses were learned.
    base: Vec<[QueueCounts; 2]>,
}

/// A station that is not there: what is sent to it goes to all.
const NOBODY: Mac = [2, 0, 0, 0, 0xba, 0xd0];
const VILLAIN: usize = 0;
const PEER: usize = 1;

impl Street {
    fn new(case: Case) -> Self {
        let Case { layout, indirect, mergeable, offloads, .. } = case;
        let queue = Options { indirect, ..Options::default() };
        let options = NicOptions { layout, size: SIZE, queue, mergeable, ..NicOptions::default() };
        let mut villain = Guest::new(1, NicOptions { receive_buffers: 0, ..options.clone() });
        if offloads {
            villain.features |= 1 << VIRTIO_NET_F_CSUM | 1 << VIRTIO_NET_F_HOST_TSO4 | 1 << VIRTIO_NET_F_HOST_TSO6;
        }
        let honest = |station| Guest::new(station, options.clone());
        let (peer, neighbours) = (honest(2), [honest(3), honest(4)]);
        let mut house = House::new(1);
        let guests = [&villain, &peer, &neighbours[0], &neighbours[1]];
        let devices = guests.map(|guest| house.move_in(0, guest)).into();
        let mut street = Street { house, neighbours, devices, villain, peer, sent: 0, base: vec![] };
        // All addresses are learned, and the rings are not at their start.
        for guest in street.neighbours.iter_mut().chain([&mut street.peer, &mut street.villain]) {
            guest.send(NOBODY, 1, |_| 60);
        }
        street.house.turns(LONG_TURNS);
        for guest in &mut street.neighbours {
            guest.listen();
        }
        let base = |device: &Device| [0, 1].map(|queue| device.counts(queue));
        street.base = street.devices.iter().map(base).collect();
        street.live(5);
        for _ in 0..3 {
            street.villain.send(street.peer.mac, 1, |_| 60);
            street.house.turns(2);
        }
        street.peer.send(street.villain.mac, 1, |_| 60);
        street.house.turns(LONG_TURNS);
        street.peer.listen();
        assert_eq!(street.peer.heard_from(street.villain.mac).count, 3);
        assert_eq!(street.villain.unreaped(), 0);
        street
    }

    /// The neighbours talk, some frames every other turn, and hear everything at once.
    fn live(&mut self, turns: usize) {
        let [one, other] = &mut self.neighbours;
        let macs = [one.mac, other.mac];
        for _ in 0..turns {
            for (from, to) in [(&mut *one, macs[1]), (&mut *other, macs[0])] {
                assert_eq!(from.send(to, 8, |number| 60 + number as usize * 37 % 1400), 8);
            }
            self.sent += 8;
            self.house.turns(2);
            for (to, from) in [(&mut *one, macs[1]), (&mut *other, macs[0])] {
                to.listen();
                assert_eq!((to.heard_from(from).count, to.heard_from(from).missed), (self.sent, 0));
                assert_eq!(to.unreaped(), 0);
            }
        }
    }

    fn counts(&self, device: usize, side: Side) -> QueueCounts {
        let index = usize::from(side == Side::Transmitq);
        self.devices[device].counts(index).since(&self.base[device][index])
    }

    /// Nothing but frames was counted on anybody's account but the villain's, and `strange` of them were the villain's.
    fn assert_untouched(&mut self, strange: u64) {
        for neighbour in [2, 3] {
            for (side, packets) in [(Side::Receiveq, self.sent + strange), (Side::Transmitq, self.sent)] {
                let counts = self.counts(neighbour, side);
                assert_eq!((counts.dropped(), counts.violations, counts.packets), (0, 0, packets));
            }
        }
        self.peer.listen();
        for guest in [&self.peer, &self.neighbours[0], &self.neighbours[1]] {
            assert_eq!(guest.strange.len() as u64, strange);
            assert!(guest.strange.iter().all(|frame| frame.len() == 60 && frame[14..].iter().all(|&byte| byte == 0)));
        }
        assert_eq!(self.counts(PEER, Side::Receiveq).violations + self.counts(PEER, Side::Transmitq).violations, 0);
        assert_eq!(self.peer.unreaped(), 0, "the villain's peer lost what it sent");
    }
}

fn play(mischief: Mischief, case: Case) -> bool {
    let mut street = Street::new(case);
    let kind = case.kind;
    let side = if kind == Kind::Receiveq { Side::Receiveq } else { Side::Transmitq };
    let before = street.counts(VILLAIN, side);
    let ram = street.villain.nic.ram().clone();
    let queue =
        if kind == Kind::Receiveq { &mut street.villain.nic.receiveq } else { &mut street.villain.nic.transmitq };
    match mischief.apply(queue, &ram, kind) {
        Ok(()) => {}
        Err(Unable::NotHere) => return false,
        Err(unable) => panic!("{unable}"),
    }
    if kind == Kind::Receiveq {
        let frames = if mischief == Mischief::OfferedTwice { 2 } else { 1 };
        street.peer.send(street.villain.mac, frames, |_| 60);
    }
    street.live(LONG_TURNS / 2 + 1);

    let counts = street.counts(VILLAIN, side).since(&before);
    let broken = street.house.broken();
    let mut done = [Completed::default(); 4];
    let queue =
        if kind == Kind::Receiveq { &mut street.villain.nic.receiveq } else { &mut street.villain.nic.transmitq };
    let collected = queue.collect(&mut done);
    let empty_again = collected.is_ok_and(|count| count == 1) && done[0].token == TOKEN && done[0].len_bytes == 0;
    let drops_but = |reason: DropReason| counts.dropped() - counts.drops[reason as usize];
    match outcome(mischief, case) {
        Retired(is_it) => {
            let [event] = broken[..] else { panic!("{} events", broken.len()) };
            assert!(is_it(&event.violation), "{}", event.violation);
            assert_eq!((event.side, event.slot), (side, street.devices[VILLAIN].places[0].slot));
            assert_eq!((counts.violations, counts.packets), (1, 0));
            assert_eq!(collected, Ok(0), "a chain of a retired queue came back");
            // Retired is retired: nothing is taken any more, and what is sent to it is dropped and counted.
            street.peer.send(street.villain.mac, 1, |_| 60);
            street.live(2);
            assert_eq!(street.counts(VILLAIN, side).violations, 1);
            if kind == Kind::Receiveq {
                assert!(street.counts(VILLAIN, side).drops[DropReason::QueueDisabled as usize] >= 1);
            }
        }
        Dropped(reason) => {
            assert_eq!(counts.drops[reason as usize], 1, "{counts:?}");
            assert_eq!((counts.packets, counts.completed), (0, 1));
            assert!(empty_again, "{collected:?} {done:?}");
            // The frame for which there was no buffer then is the only other loss.
            let lost = u64::from(kind == Kind::Receiveq);
            assert_eq!((drops_but(reason), counts.drops[DropReason::NoBuffers as usize]), (lost, lost));
        }
        Carried => {
            assert_eq!((counts.packets, counts.completed, counts.dropped()), (1, 1, 0));
            let written = if kind == Kind::Receiveq { 72 } else { 0 };
            assert_eq!((collected, done[0].token, done[0].len_bytes), (Ok(1), TOKEN, written));
        }
        CarriedTwice => {
            assert_eq!((counts.packets, counts.completed, counts.dropped()), (2, 2, 0));
        }
        Unseen => {
            assert_eq!((counts.packets, counts.completed, counts.descriptors), (0, 0, 0));
        }
        Kept => {
            assert_eq!((counts.packets, counts.completed, collected), (0, 0, Ok(0)));
            assert_eq!((counts.dropped(), counts.drops[DropReason::NoBuffers as usize]), (1, 1));
        }
    }
    if !matches!(outcome(mischief, case), Retired(_)) {
        assert!(broken.is_empty(), "{broken:?}");
    }
    // What the mischievous chain carries is for a station that is not there, so it goes to all.
    let strange = match (outcome(mischief, case), kind) {
        (Carried, Kind::Transmitq) => 1,
        (CarriedTwice, Kind::Transmitq) => 2,
        _ => 0,
    };
    street.assert_untouched(strange);
    let place = street.devices[VILLAIN].places[0];
    let villain = street.devices.remove(VILLAIN);
    street.house.remove(villain);
    assert_eq!(street.house.add(&[0]).places[0], place, "the villain's place is free again");
    true
}

const PACKED: Case =
    Case { layout: Layout::Packed, kind: Kind::Transmitq, indirect: false, mergeable: false, offloads: false };

/// Whether it is the net header that asks for too much.
fn is_of_the_header(mischief: Mischief) -> bool {
    use Mischief::*;
    let of_the_header = [
        GsoSizeZero,
        GsoTypeUnknown,
        GsoWithoutChecksum,
        HdrLenHuge,
        ChecksumStartPastFrame,
        ChecksumOffsetPastFrame,
        HeaderFlagsUnknown,
    ];
    of_the_header.contains(&mischief)
}

fn every_mischief(layout: Layout, kind: Kind) {
    for &mischief in Mischief::ALL.iter().filter(|&&mischief| mischief != Mischief::RingLapped) {
        let mut played = 0;
        for choice in 0..8 {
            let [indirect, mergeable, offloads] = [1, 2, 4].map(|bit| choice & bit != 0);
            let case = Case { layout, kind, indirect, mergeable, offloads };
            if offloads && (kind == Kind::Receiveq || !is_of_the_header(mischief)) {
                continue;
            }
            println!("{mischief:?}, {case:?}");
            played += u32::from(play(mischief, case));
        }
        assert_eq!(played > 0, mischief.applies_to(layout, kind), "{mischief:?} was not played");
    }
}

#[test]
fn whatever_a_split_transmitq_does_harms_no_neighbour() {
    every_mischief(Layout::Split, Kind::Transmitq);
}

#[test]
fn whatever_a_split_receiveq_does_harms_no_neighbour() {
    every_mischief(Layout::Split, Kind::Receiveq);
}

#[test]
fn whatever_a_packed_transmitq_does_harms_no_neighbour() {
    every_mischief(Layout::Packed, Kind::Transmitq);
}

#[test]
fn whatever_a_packed_receiveq_does_harms_no_neighbour() {
    every_mischief(Layout::Packed, Kind::Receiveq);
}

#[test]
fn a_packed_transmitq_that_is_offered_again_sends_as_many_frames_as_it_has_descriptors_and_no_more() {
    let mut street = Street::new(PACKED);
    let mute = Guest::new(9, NicOptions { receive_buffers: 0, ..NicOptions::default() });
    let _mute_device = street.house.move_in(0, &mute);
    let before = street.counts(VILLAIN, Side::Transmitq);
    // Of a frame to somebody who offers no buffers the device keeps the chain for a while.
    street.villain.send(mute.mac, 1, |_| 60);
    street.house.turn(0);
    let ram = street.villain.nic.ram().clone();
    Mischief::RingLapped.apply(&mut street.villain.nic.transmitq, &ram, Kind::Transmitq).unwrap();
    street.house.turns(LONG_TURNS);
    let counts = street.counts(VILLAIN, Side::Transmitq).since(&before);
    assert_eq!((counts.violations, counts.packets, counts.completed), (0, 64, 64));
    assert!(street.house.broken().is_empty(), "no more is taken than the queue has");
    for neighbour in &mut street.neighbours {
        neighbour.listen();
        assert_eq!(neighbour.strange.len(), 63);
    }
    street.live(5);
}

#[test]
fn a_packed_receiveq_that_is_offered_again_receives_into_what_it_offered_and_no_more() {
    let mut street = Street::new(PACKED);
    let ram = street.villain.nic.ram().clone();
    let gpa = ram.alloc(2048, 64).unwrap();
    street.villain.nic.receiveq.offer(&[Buffer::writable(gpa, 2048)], 0).unwrap();
    street.villain.nic.receiveq.publish();
    street.house.turn(0);
    Mischief::RingLapped.apply(&mut street.villain.nic.receiveq, &ram, Kind::Receiveq).unwrap();
    for _ in 0..10 {
        street.peer.send(street.villain.mac, 20, |_| 60);
        street.live(1);
    }
    street.live(LONG_TURNS / 2 + 1);
    street.assert_untouched(0);
}
