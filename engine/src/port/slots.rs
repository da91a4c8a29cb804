//! Where frames that came from the host lie until they are released.

use virtnet_rings::Parts;
use virtnet_rings::memory::OwnedMemory;
use virtnet_rings::spec::net::NET_HEADER_SIZE_BYTES;

use crate::frame::{FRAME_LEN_MAX, Frame};

const SLOT_SIZE_BYTES: usize = (FRAME_LEN_MAX as usize).next_multiple_of(64);

/// Room for [`Slots::COUNT`] frames.
#[derive(Debug)]
pub struct Slots {
    memory: OwnedMemory,
    free: Vec<u16>,
}

impl Default for Slots {
    fn default() -> Self {
        // The slot used last is the next to be used again: its lines are warm, and those never needed stay untouched.
        Self { memory: OwnedMemory::new(Self::COUNT * SLOT_SIZE_BYTES), free: (0..Self::COUNT as u16).rev().collect() }
    }
}

impl Slots {
    /// How many frames can be lent at once.
    pub const COUNT: usize = 64;

    /// How many are free.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// A frame of these pieces, with its slot as its ticket; `None` where no slot is free.
    ///
    /// # Panics
    /// If it is longer than [`FRAME_LEN_MAX`].
    #[inline]
    pub fn lay(&mut self, header: [u8; NET_HEADER_SIZE_BYTES], pieces: &[&[u8]]) -> Option<Frame> {
        let len_bytes = pieces.iter().map(|piece| piece.len()).sum();
        assert!(len_bytes <= FRAME_LEN_MAX as usize, "a frame of {len_bytes} bytes");
        let slot = self.free.pop()?;
        let span = self.memory.span(usize::from(slot) * SLOT_SIZE_BYTES, len_bytes);
        let mut room = span;
        for piece in pieces {
            let count = room.write(piece);
            room = room.skip(count as u32);
        }
        let (parts, ticket) = (Parts::one(span), u32::from(slot));
        Some(Frame { parts, len_bytes: len_bytes as u32, header, ticket, ..Frame::default() })
    }

    /// Takes back a slot that [`Self::lay`] gave.
    #[inline]
    pub fn take_back(&mut self, slot: u16) {
        debug_assert!(!self.free.contains(&slot));
        self.free.push(slot);
    }
}
