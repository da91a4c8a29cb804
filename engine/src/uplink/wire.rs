//! What an uplink is made of: a queue of an interface of the host, of whichever kind, and what tells control about its link.

use std::os::fd::BorrowedFd;

use crate::counters::{BurstCounts, DropReason};
use crate::engine::EngineError;
use crate::frame::Frame;
#[cfg(feature = "dpdk")]
use crate::port::dpdk::{self, Dpdk};
use crate::port::netdev::{self, Netdev};
use crate::port::slots::Slots;
use crate::port::tap::{self, Tap, TapConfig};
use crate::roster::Wait;

/// An interface to be opened.
#[derive(Clone, Debug)]
pub enum WireConfig {
    /// [`crate::port::tap`].
    Tap(TapConfig),
    /// [`crate::port::netdev`]: one of this name that is there already. It has one queue.
    Netdev(String),
    /// [`crate::port::dpdk`]: the port of the device with these devargs. It has one queue.
    #[cfg(feature = "dpdk")]
    Dpdk(String),
}

/// One queue of an interface.
#[derive(Debug)]
pub enum Wire {
    /// [`crate::port::tap`].
    Tap(Tap),
    /// [`crate::port::netdev`].
    Netdev(Box<Netdev>),
    /// [`crate::port::dpdk`].
    #[cfg(feature = "dpdk")]
    Dpdk(Box<Dpdk>),
}

/// What tells about an interface's link.
#[derive(Debug)]
pub enum Probe {
    /// [`crate::port::tap`].
    Tap(tap::Probe),
    /// [`crate::port::netdev`].
    Netdev(netdev::Probe),
    /// [`crate::port::dpdk`].
    #[cfg(feature = "dpdk")]
    Dpdk(dpdk::Probe),
}

/// What an interface is good for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkState {
    /// What is sent leaves.
    Up,
    /// It is set down, or has no carrier.
    Down,
    /// Somebody has deleted it.
    Gone,
}

impl WireConfig {
    /// Its queues, and what tells about its link.
    ///
    /// # Errors
    /// What the system objects to.
    pub fn open(&self, queues: u16) -> Result<(Vec<Wire>, Probe), EngineError> {
        Ok(match self {
            Self::Tap(config) => {
                let taps = Tap::open(config, queues)?.into_iter().map(Wire::Tap).collect();
                (taps, Probe::Tap(config.interface.probe()?))
            }
            _ if queues != 1 => return Err(EngineError::Queues { found: queues }),
            Self::Netdev(name) => {
                let (netdev, probe) = Netdev::open(name)?;
                (vec![Wire::Netdev(netdev.into())], Probe::Netdev(probe))
            }
            #[cfg(feature = "dpdk")]
            Self::Dpdk(devargs) => {
                let (dpdk, probe) = Dpdk::open(devargs)?;
                (vec![Wire::Dpdk(dpdk.into())], Probe::Dpdk(probe))
            }
        })
    }
}

impl Wire {
    /// How many frames from the interface can be lent at once.
    pub const SLOTS: usize = Slots::COUNT;

    /// The next frame that waits at the interface, with its slot as its ticket.
    #[inline]
    pub fn take_frame(&mut self, now_ns: u64, counts: &mut BurstCounts) -> Option<Frame> {
        match self {
            Self::Tap(tap) => tap.take_frame(now_ns),
            Self::Netdev(netdev) => netdev.take_frame(now_ns, counts),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.take_frame(counts),
        }
    }

    /// Whether frames that nobody will call for wait to be taken.
    pub fn has_taken(&self) -> bool {
        match self {
            Self::Tap(_) => false,
            Self::Netdev(netdev) => netdev.has_taken(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.has_taken(),
        }
    }

    /// Takes back a slot that [`Self::take_frame`] lent.
    #[inline]
    pub fn take_back(&mut self, slot: u16) {
        match self {
            Self::Tap(tap) => tap.take_back(slot),
            Self::Netdev(netdev) => netdev.take_back(slot),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.take_back(slot),
        }
    }

    /// Sends a frame, at the latest with [`Self::flush`], and counts what becomes of it.
    #[inline]
    pub fn transmit(&mut self, frame: &Frame, counts: &mut BurstCounts) {
        match self {
            Self::Tap(tap) => match tap.transmit(frame) {
                Ok(()) => counts.frame(frame.len_bytes),
                Err(reason) => counts.drop(reason, 1),
            },
            Self::Netdev(netdev) => netdev.transmit(frame, counts),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.transmit(frame, counts),
        }
    }

    /// The end of a burst.
    #[inline]
    pub fn flush(&mut self, counts: &mut BurstCounts) {
        match self {
            Self::Tap(_) => {}
            Self::Netdev(netdev) => netdev.flush(counts),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.flush(counts),
        }
    }

    /// Sends a frame that asks for nothing and is no longer than frames are, at once and uncounted.
    ///
    /// # Errors
    /// Why it was not taken.
    pub fn transmit_bytes(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        match self {
            Self::Tap(tap) => tap.transmit_bytes(frame),
            Self::Netdev(netdev) => netdev.transmit_bytes(frame),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(dpdk) => dpdk.transmit_bytes(frame),
        }
    }

    /// What tells that frames wait.
    pub fn wait(&self) -> Wait {
        match self {
            Self::Tap(_) | Self::Netdev(_) => Wait::Call,
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => Wait::Look,
        }
    }

    /// Readable when frames wait; `None` when nobody calls for them, or none will come any more.
    pub fn door(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Tap(tap) => tap.door(),
            Self::Netdev(netdev) => Some(netdev.door()),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(_) => None,
        }
    }
}

impl Probe {
    /// How it is now: a few system calls.
    pub fn look(&mut self) -> LinkState {
        match self {
            Self::Tap(probe) => probe.look(),
            Self::Netdev(probe) => probe.look(),
            #[cfg(feature = "dpdk")]
            Self::Dpdk(probe) => probe.look(),
        }
    }
}
