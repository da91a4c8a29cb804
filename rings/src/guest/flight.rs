//! What a driver remembers of its chains while the device has them.

/// A chain in flight; `count` is 0 if there is none.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chain {
    pub token: u32,
    /// Bytes that the device may write.
    pub writable_bytes: u32,
    /// Descriptors it takes in the ring.
    pub count: u16,
}

/// The used entry that ends an in-order batch, while the chains before its own are collected.
#[derive(Clone, Copy, Debug)]
pub(super) struct Batch {
    pub id: u16,
    pub len_bytes: u32,
}

/// Free numbers, first in, first out: a device that uses chains in order meets descriptors and ids in order for ever,
/// which is what in-order use asks of the driver, and what caches like.
#[derive(Debug)]
pub(super) struct Free {
    ring: Box<[u16]>,
    first: usize,
    count: usize,
}

impl Free {
    /// The numbers below `size`.
    pub fn new(size: u16) -> Self {
        Self { ring: (0..size).collect(), first: 0, count: usize::from(size) }
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// The one that `take` would give.
    pub fn first(&self) -> u16 {
        self.ring[self.first]
    }

    /// Takes the one that has been free longest. There must be one.
    #[inline]
    pub fn take(&mut self) -> u16 {
        let number = self.ring[self.first];
        self.first = self.wrap(self.first + 1);
        self.count -= 1;
        number
    }

    #[inline]
    pub fn put(&mut self, number: u16) {
        let last = self.wrap(self.first + self.count);
        self.ring[last] = number;
        self.count += 1;
    }

    #[inline]
    fn wrap(&self, position: usize) -> usize {
        if position >= self.ring.len() { position - self.ring.len() } else { position }
    }
}
