//! A wire that swallows: every frame is copied into the SF's buffers, as a NIC would fetch it, and is gone.

use virtnet_rings::memory::OwnedMemory;

use super::{Arrival, Copier, Port};
use crate::frame::{FRAME_LEN_MAX, Frame};
use crate::window::Window;

/// Buffers of the SF's send queue, used in turn: a burst's, which stay in the cache.
const BUFFERS: usize = 32;
/// An odd number of cache lines: short frames do not all lie in the same few sets of the cache.
const BUFFER_SIZE_BYTES: usize = 33 * 64;

/// The sink of one pair.
#[derive(Debug)]
pub struct Sink {
    buffers: OwnedMemory,
    next: usize,
}

impl Default for Sink {
    fn default() -> Self {
        // Room after the last buffer for the longest frame.
        let len_bytes = BUFFERS * BUFFER_SIZE_BYTES + FRAME_LEN_MAX as usize;
        Sink { buffers: OwnedMemory::new(len_bytes), next: 0 }
    }
}

impl Port for Sink {
    const KEEPS: bool = false;

    #[inline]
    fn room(&self) -> usize {
        usize::MAX
    }

    #[inline(always)]
    fn send(&mut self, frame: Frame, window: &mut Window) {
        let mut to = self.buffers.span(self.next * BUFFER_SIZE_BYTES, frame.len_bytes as usize);
        if let Some(part) = frame.parts.only() {
            to.copy_from(part);
        } else {
            for part in frame.parts.iter() {
                to = to.skip(to.copy_from(part));
            }
        }
        self.next = (self.next + 1) % BUFFERS;
        window.take_list(frame);
    }

    #[inline]
    fn reap(&mut self, _window: &mut Window) {}

    #[inline]
    fn arrived(&mut self, _now_ns: u64) -> usize {
        0
    }

    #[inline]
    fn receive(&mut self, _now_ns: u64, _copier: &mut impl Copier) -> Arrival {
        Arrival::None
    }

    #[inline]
    fn release(&mut self, _frame: &mut Frame) {}
}
