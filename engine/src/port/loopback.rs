//! A wire whose other end is this one: what a pair sends comes back to it. A frame waits in the sender's buffers until there
//! are receive buffers, and a full loop takes no more; only a queue that is disabled or leaves lets frames go.

use super::{Arrival, Copier, Port};
use crate::frame::queue::FrameQueue;
use crate::frame::{Frame, Loans, PlainFrame};
use crate::window::Window;

/// How many frames can be on the loop.
const DEPTH: usize = 256;

/// The loop of one pair.
#[derive(Debug)]
pub struct Loopback {
    frames: FrameQueue<DEPTH>,
    finished: Loans,
}

impl Default for Loopback {
    fn default() -> Self {
        Loopback { frames: FrameQueue::default(), finished: Loans::with_capacity(2 * DEPTH) }
    }
}

impl Loopback {
    /// Settles what is on the loop, because the queue that lent it goes. Returns how many frames that were.
    pub fn recall(&mut self, window: &mut Window) -> usize {
        let count = self.frames.len();
        while let Some(mut frame) = self.frames.pop() {
            window.settle(frame.loan());
        }
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
        self.frames.room()
    }

    #[inline(always)]
    fn send(&mut self, frame: Frame, _window: &mut Window) {
        self.frames.push(frame);
    }

    #[inline(always)]
    fn send_plain(&mut self, frame: PlainFrame, _window: &mut Window) {
        self.frames.push_plain(frame);
    }

    #[inline]
    fn reap(&mut self, window: &mut Window) {
        for loan in self.finished.drain() {
            window.settle(loan);
        }
    }

    #[inline]
    fn arrived(&mut self, _now_ns: u64) -> usize {
        self.frames.len()
    }

    #[inline(always)]
    fn receive(&mut self, _now_ns: u64, copier: &mut impl Copier) -> Arrival {
        let Some(frame) = self.frames.front_mut() else { return Arrival::None };
        if !copier.copy(frame) {
            return self.frames.pop().map_or(Arrival::None, Arrival::Lent);
        }
        self.finished.push(frame.loan());
        self.frames.pass();
        Arrival::Copied
    }

    #[inline(always)]
    fn release(&mut self, frame: &mut Frame) {
        self.finished.push(frame.loan());
    }

    fn patience_ns(&self) -> u64 {
        u64::MAX
    }
}
