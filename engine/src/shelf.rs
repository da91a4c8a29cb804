//! Frames that wait for their receiver's translations, which may take long or for ever: copies in memory of ours, so that their
//! senders have them back. As many as there is room for; they go in the order they came.

use std::collections::VecDeque;

use virtnet_rings::Parts;
use virtnet_rings::memory::OwnedMemory;

use crate::bench::BURST_MAX;
use crate::frame::Frame;

/// How many bytes there is room for: some of the longest frames, or as many of common length as there may be.
const BYTES: usize = 256 << 10;
/// How many frames there is room for: a hand has as many arrivals again beside them.
const FRAMES_MAX: usize = BURST_MAX / 2;

/// Copies of one receiveq's frames.
#[derive(Debug)]
pub struct Shelf {
    memory: OwnedMemory,
    /// Where they start, and how long they are. They go round, each in one piece.
    copies: VecDeque<(usize, usize)>,
}

impl Default for Shelf {
    fn default() -> Self {
        Shelf { memory: OwnedMemory::new(BYTES), copies: VecDeque::with_capacity(FRAMES_MAX) }
    }
}

impl Shelf {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.copies.len()
    }

    /// The bytes of a frame, copied; `None` where there is no room.
    pub fn copy(&mut self, frame: &Frame) -> Option<Parts> {
        let len_bytes = frame.len_bytes as usize;
        let at = self.place(len_bytes).filter(|_| self.count() < FRAMES_MAX)?;
        let copy = self.memory.span(at, len_bytes);
        frame.parts.iter().fold(copy, |room, part| room.skip(room.copy_from(part)));
        self.copies.push_back((at, len_bytes));
        Some(Parts::one(copy))
    }

    /// The oldest is done with. `false` where there is none.
    pub fn let_go(&mut self) -> bool {
        self.copies.pop_front().is_some()
    }

    fn place(&self, len_bytes: usize) -> Option<usize> {
        let (Some(&(first, _)), Some(&(last, last_bytes))) = (self.copies.front(), self.copies.back()) else {
            return (len_bytes <= BYTES).then_some(0);
        };
        let free = last + last_bytes;
        if last < first {
            return (free + len_bytes <= first).then_some(free);
        }
        let fits = if free + len_bytes <= BYTES { Some(free) } else { None };
        fits.or((len_bytes <= first).then_some(0))
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn copies_are_whole_and_go_in_order() {
        let source = OwnedMemory::new(70_000);
        let mut shelf = Shelf::default();
        let mut kept: VecDeque<(u8, Parts)> = VecDeque::new();
        let (mut refused, mut number) = (0, 0_u32);
        for step in 0..5000_u32 {
            let len_bytes = 14 + step.wrapping_mul(7919) % if step % 5 == 0 { 65_000 } else { 1500 };
            let fill = vec![number as u8; len_bytes as usize];
            let bytes = source.span(0, len_bytes as usize);
            bytes.write(&fill);
            let frame = Frame { parts: Parts::one(bytes), len_bytes, ..Frame::default() };
            match shelf.copy(&frame) {
                Some(copy) => {
                    kept.push_back((number as u8, copy));
                    number += 1;
                }
                None => refused += 1,
            }
            // More come than go, then fewer.
            for _ in 0..[0, 1, 1, 2, 3][(step / 100 % 5) as usize] {
                let Some((byte, copy)) = kept.pop_front() else { break };
                let mut found = vec![0; copy.len_bytes() as usize];
                copy.read(&mut found);
                assert!(found.iter().all(|found| *found == byte), "frame {byte} in step {step}");
                assert!(shelf.let_go());
            }
            assert_eq!(shelf.count(), kept.len());
        }
        assert!(refused > 0 && number > 2000, "{refused} refused, {number} kept");
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let source = OwnedMemory::new(64);
        let frame = || Frame { parts: Parts::one(source.span(0, 60)), len_bytes: 60, ..Frame::default() };
        let mut shelf = Shelf::default();
        assert_eq!((0..1000).filter(|_| shelf.copy(&frame()).is_some()).count(), FRAMES_MAX);
        assert!(shelf.let_go() && shelf.copy(&frame()).is_some());
    }
}
