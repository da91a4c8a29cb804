//! A port: the wire's end of a queue pair, the SF's two queues.

pub mod loopback;
pub mod pcap;
pub mod sink;
pub mod source;
pub mod switch;
pub mod tap;

use crate::frame::Frame;
use crate::window::Window;

/// What a queue pair asks of the wire. Frames are lent, not copied: whoever takes one gives it back.
pub trait Port {
    /// Whether a frame may stay out after [`Self::send`]. A port that copies what it is sent at once says `false`; then
    /// nothing is entered into the window for it, and nothing is to be settled.
    const KEEPS: bool = true;

    /// How many frames [`Self::send`] will take now.
    fn room(&self) -> usize;

    /// Takes every frame; there was room. What a port that keeps frames is finished with at once, it settles in the window;
    /// what it leaves in `frames` has not been kept.
    fn send(&mut self, frames: &mut Vec<Frame>, window: &mut Window);

    /// Settles what the wire has finished with since.
    fn reap(&mut self, window: &mut Window);

    /// Appends up to `room` frames that have arrived by `now_ns`, on the worker's clock.
    fn receive(&mut self, now_ns: u64, room: usize, frames: &mut Vec<Frame>);

    /// Takes back a frame that [`Self::receive`] gave.
    fn release(&mut self, frame: &mut Frame);

    /// How long an arrived frame waits for a receive buffer before it is dropped, in nanoseconds. A frame that waits
    /// keeps what its sender lent.
    fn patience_ns(&self) -> u64 {
        50_000
    }
}
