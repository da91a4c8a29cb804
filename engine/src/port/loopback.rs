//! A wire whose other end is this one: what a pair sends comes back to it. A frame waits in the sender's buffers until there
//! are receive buffers, and a full loop takes no more; only a queue that is disabled or leaves lets frames go.

use std::collections::VecDeque;

use super::Port;
use crate::frame::{Frame, Loan};
use crate::window::Window;

/// How many frames can be on the loop.
const DEPTH: usize = 256;

/// The loop of one pair.
#[derive(Debug)]
pub struct Loopback {
    frames: VecDeque<Frame>,
    finished: Vec<Loan>,
}

impl Default for Loopback {
    fn default() -> Self {
        Loopback { frames: VecDeque::with_capacity(DEPTH), finished: Vec::with_capacity(2 * DEPTH) }
    }
}

impl Loopback {
    /// Settles what is on the loop, because the queue that lent it goes. Returns how many frames that were.
    pub fn recall(&mut self, window: &mut Window) -> usize {
        let count = self.frames.len();
        self.frames.drain(..).for_each(|mut frame| window.settle(frame.loan()));
        count
    }

    /// Whether nothing is on it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }
}

impl Port for Loopback {
    #[inline]
    fn room(&self) -> usize {
        DEPTH - self.frames.len()
    }

    #[inline]
    fn send(&mut self, frames: &mut Vec<Frame>, _window: &mut Window) {
        self.frames.extend(frames.drain(..));
    }

    #[inline]
    fn reap(&mut self, window: &mut Window) {
        for loan in self.finished.drain(..) {
            window.settle(loan);
        }
    }

    #[inline]
    fn receive(&mut self, _now_ns: u64, room: usize, frames: &mut Vec<Frame>) {
        let count = room.min(self.frames.len());
        frames.extend(self.frames.drain(..count));
    }

    #[inline]
    fn release(&mut self, frame: &mut Frame) {
        self.finished.push(frame.loan());
    }

    fn patience_ns(&self) -> u64 {
        u64::MAX
    }
}
