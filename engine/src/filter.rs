//! What a device takes of the frames that arrive for it. ("Packet Receive Filtering", "Setting MAC Address Filtering")
//!
//! A filter stands between a port and a receiveq: a frame that it refuses goes back to the port as one that was copied does,
//! and takes no buffer. A device that takes everything has none.

use crate::frame::Frame;
use crate::port::{Arrival, Copier, Port};
use crate::window::Window;

type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];

/// Receive modes: bit n is that of the control queue's receive command n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Modes(u8);

impl Modes {
    /// All frames are taken, whatever the others say.
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

    #[inline]
    fn has(self, mode: u8) -> bool {
        self.0 & mode != 0
    }
}

impl Default for Modes {
    /// Those of a device whose driver chooses none: promiscuous.
    fn default() -> Self {
        Self(Self::PROMISC)
    }
}

/// Modes, and addresses that are taken without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    modes: Modes,
    addresses: Box<[Mac]>,
}

impl Filter {
    /// One that takes frames to `addresses`, of stations and groups, and what the modes add and take away. `None` where nothing is
    /// refused.
    pub fn new(modes: Modes, addresses: impl Into<Box<[Mac]>>) -> Option<Self> {
        (!modes.has(Modes::PROMISC)).then(|| Self { modes, addresses: addresses.into() })
    }

    /// Whether a frame to this address is taken.
    #[inline]
    pub fn takes(&self, to: Mac) -> bool {
        let Self { modes, addresses } = self;
        if to == BROADCAST {
            return !modes.has(Modes::NOBCAST);
        }
        let (all, none) =
            if to[0] & 1 != 0 { (Modes::ALLMULTI, Modes::NOMULTI) } else { (Modes::ALLUNI, Modes::NOUNI) };
        !modes.has(none) && (modes.has(all) || addresses.contains(&to))
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
        let mut to = Mac::default();
        frame.parts.read(&mut to);
        self.refused = !self.filter.takes(to);
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
        let filter = Filter::new(Modes::new(bits.into()).unwrap(), [OWN, JOINED]);
        [OWN, OTHER, JOINED, GROUP, BROADCAST].map(|to| filter.as_ref().is_none_or(|filter| filter.takes(to)))
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
        assert_eq!(Filter::new(Modes::default(), [OWN]), None, "promiscuous is no filter");
    }
}
