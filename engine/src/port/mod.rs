//! A port: the wire's end of a queue pair, the SF's two queues.

#[cfg(feature = "dpdk")]
pub mod dpdk;
pub mod loopback;
pub mod netdev;
pub mod pcap;
pub mod sink;
pub mod slots;
pub mod source;
pub mod switch;
pub mod tap;

use crate::frame::{Frame, PlainFrame};
use crate::window::Window;

/// Whoever wants to have a copy of the next frame. (Not a closure: these are inlined without fail.)
pub trait Copier {
    /// Copies the frame; `false` if it would rather keep it.
    fn copy(&mut self, frame: &Frame) -> bool;
}

/// Copies nothing.
#[derive(Debug)]
pub struct Keep;

impl Copier for Keep {
    fn copy(&mut self, _frame: &Frame) -> bool {
        false
    }
}

/// What became of [`Port::receive`].
#[derive(Debug)]
pub enum Arrival {
    /// There is no frame.
    None,
    /// A frame arrived and was copied.
    Copied,
    /// A frame arrived, and is lent until it is released.
    Lent(Frame),
}

impl Arrival {
    /// The frame that is lent.
    pub fn lent(self) -> Option<Frame> {
        match self {
            Arrival::Lent(frame) => Some(frame),
            Arrival::None | Arrival::Copied => None,
        }
    }
}

/// What a queue pair asks of the wire. Frames are lent, not copied: whoever takes one gives it back.
pub trait Port {
    /// Whether a frame may stay out after [`Self::send`]. A port that copies what it is sent at once says `false`; then
    /// nothing is entered into the window for it, and nothing is to be settled.
    const KEEPS: bool = true;

    /// How many frames [`Self::send`] will take now.
    fn room(&self) -> usize;

    /// Takes a frame; there was room. What a port that keeps frames is finished with at once, it settles in the window; one
    /// that keeps nothing gives its list back there.
    fn send(&mut self, frame: Frame, window: &mut Window);

    /// The same for a plain one.
    #[inline(always)]
    fn send_plain(&mut self, frame: PlainFrame, window: &mut Window) {
        self.send(frame.into(), window);
    }

    /// Settles what the wire has finished with since.
    fn reap(&mut self, window: &mut Window);

    /// How many frames can have arrived by `now_ns`, on the worker's clock; asked before a burst is received.
    fn arrived(&mut self, now_ns: u64) -> usize;

    /// Shows the next frame that has arrived to `copier`. Once that has copied it, the port is done with the frame; else it is
    /// lent.
    fn receive(&mut self, now_ns: u64, copier: &mut impl Copier) -> Arrival;

    /// Takes back a frame that [`Self::receive`] lent.
    fn release(&mut self, frame: &mut Frame);

    /// How long an arrived frame waits for a receive buffer before it is dropped, in nanoseconds. A frame that waits
    /// keeps what its sender lent.
    fn patience_ns(&self) -> u64 {
        50_000
    }
}
