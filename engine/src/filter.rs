//! What a device takes of the frames that arrive for it. ("Packet Receive Filtering", "Setting MAC Address Filtering", "VLAN
//! Filtering")
//!
//! A filter stands between a port and a receiveq: a frame that it refuses goes back to the port as one that was copied does,
//! and takes no buffer. A device that takes everything has none.

use bitvec::BitArr;

use crate::frame::Frame;
use crate::port::{Arrival, Copier, Port};
use crate::window::Window;

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
/// How far a frame is looked at: addresses and, where it has one, an IEEE 802.1Q tag.
const HEAD_BYTES: usize = 16;
/// The EtherType of such a tag.
const VLAN_TAG: u16 = 0x8100;
/// The bits of a tag's second word that are the VLAN's number; 0 is none.
const VLAN_ID: u16 = 0xfff;

/// Some of the VLANs that there are, by number.
pub type Vlans = BitArr!(for VLAN_ID as usize + 1, in u64);

/// Receive modes: bit n is that of the control queue's receive command n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes(u8);

impl Modes {
    /// Frames to all addresses are taken, whatever the others say.
    pub const PROMISC: u8 = 1 << 0;
    /// All frames to groups.
    pub const ALLMULTI: u8 = 1 << 1;
    /// All frames to single stations.
    pub const ALLUNI: u8 = 1 << 2;
    /// No frames to groups, [`Self::ALLMULTI`] or not; broadcasts are another matter.
    pub const NOMULTI: u8 = 1 << 3;
    /// No frames to single stations, [`Self::ALLUNI`] or not.
    pub const NOUNI: u8 = 1 << 4;
    /// No broadcasts.
    pub const NOBCAST: u8 = 1 << 5;
    /// All that there are.
    pub const ALL: u8 = 0x3f;

    /// Those of some bits, if there are no others among them.
    pub fn new(bits: u64) -> Option<Self> {
        u8::try_from(bits).ok().filter(|bits| bits & !Self::ALL == 0).map(Self)
    }

    /// As bits.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// These, with or without some of them.
    #[must_use]
    pub fn with(self, modes: u8, are_on: bool) -> Self {
        Self(if are_on { self.0 | modes & Self::ALL } else { self.0 & !modes })
    }

    /// Whether one is among them.
    #[inline]
    pub fn has(self, mode: u8) -> bool {
        self.0 & mode != 0
    }
}

impl Default for Modes {
    /// Those of a device whose driver chooses none: promiscuous.
    fn default() -> Self {
        Self(Self::PROMISC)
    }
}

/// Modes, addresses that are taken without one, and the VLANs of which anything is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    modes: Modes,
    /// Sorted.
    addresses: Box<[Mac]>,
    /// None: all.
    vlans: Option<Box<Vlans>>,
}

impl Filter {
    /// One that takes frames to `addresses`, of stations and groups, and what the modes add and take away; of what has a VLAN's tag,
    /// where `vlans` are given, only what is in one of them. `None` where nothing is refused.
    pub fn new(modes: Modes, addresses: impl Into<Box<[Mac]>>, vlans: Option<Vlans>) -> Option<Self> {
        let refuses = vlans.is_some() || !modes.has(Modes::PROMISC);
        refuses.then(|| {
            let mut addresses = addresses.into();
            addresses.sort_unstable();
            Self { modes, addresses, vlans: vlans.map(Box::new) }
        })
    }

    /// Whether a frame that begins like this is taken.
    #[inline]
    fn takes(&self, head: [u8; HEAD_BYTES]) -> bool {
        let [a, b, c, d, e, f, .., tag_high, tag_low, high, low] = head;
        let tag = (u16::from_be_bytes([tag_high, tag_low]) == VLAN_TAG).then_some(u16::from_be_bytes([high, low]));
        self.takes_address([a, b, c, d, e, f]) && self.takes_vlan(tag.map_or(0, |tag| tag & VLAN_ID))
    }

    fn takes_vlan(&self, vlan: u16) -> bool {
        vlan == 0 || self.vlans.as_ref().is_none_or(|vlans| vlans[usize::from(vlan)])
    }

    fn takes_address(&self, to: Mac) -> bool {
        let Self { modes, addresses, .. } = self;
        if modes.has(Modes::PROMISC) {
            return true;
        }
        if to == BROADCAST {
            return !modes.has(Modes::NOBCAST);
        }
        let (all, none) =
            if to[0] & 1 != 0 { (Modes::ALLMULTI, Modes::NOMULTI) } else { (Modes::ALLUNI, Modes::NOUNI) };
        !modes.has(none) && (modes.has(all) || addresses.binary_search(&to).is_ok())
    }
}

/// A port behind a filter, for the time of a burst to the guest.
#[derive(Debug)]
pub struct Filtered<'b, P> {
    port: &'b mut P,
    filter: &'b Filter,
    /// How many frames a burst looks at.
    burst: usize,
    /// How many more this one does.
    left: usize,
    refused: u64,
}

impl<'b, P: Port> Filtered<'b, P> {
    /// A port from which a burst of so many frames is received.
    pub fn new(port: &'b mut P, filter: &'b Filter, burst: usize) -> Self {
        Self { port, filter, burst, left: 0, refused: 0 }
    }

    /// How many frames it has refused.
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

/// Shows a copier what the filter takes.
struct Gate<'b, C> {
    filter: &'b Filter,
    copier: &'b mut C,
    refused: bool,
}

impl<C: Copier> Copier for Gate<'_, C> {
    #[inline(always)]
    fn copy(&mut self, frame: &Frame) -> bool {
        let mut head = [0; HEAD_BYTES];
        frame.parts.read(&mut head);
        self.refused = !self.filter.takes(head);
        self.refused || self.copier.copy(frame)
    }
}

impl<P: Port> Port for Filtered<'_, P> {
    const KEEPS: bool = P::KEEPS;

    fn room(&self) -> usize {
        self.port.room()
    }

    fn send(&mut self, frame: Frame, window: &mut Window) {
        self.port.send(frame, window);
    }

    fn reap(&mut self, window: &mut Window) {
        self.port.reap(window);
    }

    #[inline(always)]
    fn arrived(&mut self, now_ns: u64) -> usize {
        self.left = self.port.arrived(now_ns).min(self.burst);
        self.left
    }

    #[inline(always)]
    fn receive(&mut self, now_ns: u64, copier: &mut impl Copier) -> Arrival {
        while self.left > 0 {
            self.left -= 1;
            let mut gate = Gate { filter: self.filter, copier: &mut *copier, refused: false };
            let arrival = self.port.receive(now_ns, &mut gate);
            if !gate.refused {
                return arrival;
            }
            self.refused += 1;
        }
        Arrival::None
    }

    fn release(&mut self, frame: &mut Frame) {
        self.port.release(frame);
    }

    #[inline(always)]
    fn patience_ns(&self) -> u64 {
        self.port.patience_ns()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const OTHER: Mac = [2, 0, 0, 0, 0, 2];
    const JOINED: Mac = [1, 0, 0x5e, 0, 0, 1];
    const GROUP: Mac = [1, 0, 0x5e, 0, 0, 2];

    /// What is taken of: its own, another's, a group's that it is in, another group's, everybody's.
    fn taken(bits: u8) -> [bool; 5] {
        let filter = Filter::new(Modes::new(bits.into()).unwrap(), [OWN, JOINED], None);
        [OWN, OTHER, JOINED, GROUP, BROADCAST].map(|to| filter.as_ref().is_none_or(|filter| filter.takes_address(to)))
    }

    #[test]
    fn modes_add_and_take_away() {
        for (bits, expected) in [
            (0, [true, false, true, false, true]),
            (Modes::PROMISC, [true; 5]),
            (Modes::ALL, [true; 5]),
            (Modes::ALLMULTI, [true, false, true, true, true]),
            (Modes::ALLUNI, [true, true, true, false, true]),
            (Modes::ALLUNI | Modes::ALLMULTI, [true; 5]),
            (Modes::NOMULTI | Modes::ALLMULTI, [true, false, false, false, true]),
            (Modes::NOUNI | Modes::ALLUNI, [false, false, true, false, true]),
            (Modes::NOBCAST | Modes::ALLMULTI, [true, false, true, true, false]),
            (Modes::ALL & !Modes::PROMISC, [false; 5]),
        ] {
            assert_eq!(taken(bits), expected, "{bits:#x}");
        }
    }

    #[test]
    fn there_are_no_other_modes() {
        assert_eq!(Modes::new(0x3f).map(Modes::bits), Some(0x3f));
        assert!([0x40, 0x80, 0x100, 0x101, u64::MAX].into_iter().all(|bits| Modes::new(bits).is_none()));
        assert_eq!(Filter::new(Modes::default(), [OWN], None), None, "promiscuous is no filter");
    }

    #[test]
    fn of_vlans_those_that_were_joined_are_taken() {
        let mut vlans = Vlans::ZERO;
        vlans.set(5, true);
        vlans.set(4095, true);
        let to = |to: Mac, rest: [u8; 4]| {
            let mut head = [0; HEAD_BYTES];
            head[..6].copy_from_slice(&to);
            head[12..].copy_from_slice(&rest);
            head
        };
        let all = Filter::new(Modes::default(), [], Some(vlans)).unwrap();
        let own = Filter::new(Modes::new(0).unwrap(), [OWN], Some(vlans)).unwrap();
        for (rest, is_taken) in [
            ([0x81, 0, 0, 5], true),
            ([0x81, 0, 0xf0, 5], true), // priority and drop eligibility are not its number
            ([0x81, 0, 0xff, 0xff], true),
            ([0x81, 0, 0, 6], false),
            ([0x81, 0, 0x10, 5], true),
            ([0x81, 0, 0x01, 5], false),
            ([0x81, 0, 0xe0, 0], true), // a priority only
            ([0x08, 0, 0, 6], true),
            ([0x88, 0xa8, 0, 6], true), // a provider's tag
        ] {
            assert_eq!(all.takes(to(OTHER, rest)), is_taken, "{rest:x?}");
            assert_eq!(own.takes(to(OWN, rest)), is_taken, "{rest:x?}");
            assert!(!own.takes(to(OTHER, rest)), "{rest:x?}");
        }
    }
}
