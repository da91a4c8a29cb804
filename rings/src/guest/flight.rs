//! What a driver remembers of its chains while the device has them.

use super::Fault;

/// A chain in flight; `count` is 0 if there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub token: u32,
    /// Bytes that the device may write.
    pub writable_bytes: u32,
    /// Descriptors it takes in the ring.
    pub count: u16,
}

/// What the device says of a chain.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub id: u32,
    pub len_bytes: u32,
}

/// What is wrong with a used chain, if something is.
#[inline(never)]
pub(super) fn check(id: u16, len_bytes: u32, writable_bytes: u32, descriptors: u16) -> Option<Fault> {
    if descriptors == 0 {
        return Some(Fault::UnknownId { id: u32::from(id) });
    }
    // Old devices put something there for chains that they could not write to; drivers ignore that.
    let beyond = len_bytes > writable_bytes && writable_bytes > 0;
    beyond.then_some(Fault::LengthBeyondChain { id, len_bytes, writable_bytes })
}

/// Free numbers, first in, first out: a device that uses chains in order meets descriptors and ids in order for ever,
/// which is what in-order use asks of the driver, and what caches like.
///
/// Bursts take it out of the driver while they last (`mem::take`), so that it lives in registers.
#[derive(Debug, Default)]
pub(super) struct Free {
    ring: Box<[u16]>,
    first: usize,
    last: usize,
    count: usize,
}

impl Free {
    /// The numbers below `size`.
    pub fn new(size: u16) -> Self {
        Self { ring: (0..size).collect(), first: 0, last: 0, count: usize::from(size) }
    }

    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// The one that `take` would give.
    pub fn first(&self) -> u16 {
        self.ring[self.first]
    }

    /// Takes the one that has been free longest. There must be one.
    #[inline(always)]
    pub fn take(&mut self) -> u16 {
        let number = self.ring[self.first];
        self.first = self.after(self.first);
        self.count -= 1;
        number
    }

    #[inline(always)]
    pub fn put(&mut self, number: u16) {
        self.ring[self.last] = number;
        self.last = self.after(self.last);
        self.count += 1;
    }

    #[inline(always)]
    fn after(&self, position: usize) -> usize {
        if position + 1 == self.ring.len() { 0 } else { position + 1 }
    }
}
