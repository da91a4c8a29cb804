//! MSI-X: the table, who is masked, and what is pending meanwhile.
//!
//! A client sets each vector's eventfd, and may keep the table for itself. So an entry's mask counts from the first time that it
//! is written; until then it reads as masked, as after a reset, and does not mask.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use virtnet_engine::caller::Line;
use virtnet_rings::{Bell, Notifier};

/// The most vectors of a function.
pub const VECTORS_MAX: u16 = 2048;
/// Bytes of an entry of the table.
const ENTRY_BYTES: usize = 16;
/// In an entry: vector control, of which bit 0 masks.
const VECTOR_CONTROL: usize = 12;
/// Where the table and the pending bits are apart, so that each has pages of its own.
const PAGE_BYTES: u64 = 4096;
/// Where the capability has its control register.
pub const CONTROL: usize = 2;
/// In it: MSI-X is used, and INTx is not.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// In it: all vectors are masked.
pub const CONTROL_MASK: u16 = 1 << 14;

/// A vector's pending bit.
#[derive(Debug, Default)]
struct Pending(AtomicBool);

impl Bell for Pending {
    fn ring(&self) {
        self.0.store(true, Ordering::Release);
    }
}

#[derive(Clone, Debug, Default)]
struct Vector {
    entry: [u8; ENTRY_BYTES],
    /// By the table, once that was written.
    is_masked: bool,
    /// By the client, without the table.
    is_held: bool,
    line: Option<Arc<Line>>,
    /// How often its line was set.
    epoch: u32,
    pending: Arc<Pending>,
}

impl Vector {
    fn fresh() -> Self {
        let mut vector = Self::default();
        vector.reset();
        vector
    }

    fn reset(&mut self) {
        self.entry = [0; ENTRY_BYTES];
        self.entry[VECTOR_CONTROL] = 1;
        self.is_masked = false;
        self.pending.0.store(false, Ordering::Release);
    }
}

/// Where a message of a vector goes at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the client; how often that was set.
    Client(u32),
    /// To its pending bit.
    Pending,
}

/// A function's vectors.
#[derive(Debug)]
pub struct Msix {
    vectors: Box<[Vector]>,
    is_enabled: bool,
    is_masked: bool,
}

impl Msix {
    /// So many vectors, [`VECTORS_MAX`] at most.
    pub fn new(count: u16) -> Self {
        let vectors = (0..count.min(VECTORS_MAX)).map(|_| Vector::fresh()).collect();
        Self { vectors, is_enabled: false, is_masked: false }
    }

    /// How many there are.
    pub fn count(&self) -> u16 {
        self.vectors.len() as u16
    }

    /// The capability's body, with table and pending bits in `bar`, and its writable bits.
    pub fn capability(&self, bar: u8) -> ([u8; 10], [u8; 10]) {
        let size = self.count().saturating_sub(1).to_le_bytes();
        let table = u32::from(bar).to_le_bytes();
        let pending = (self.pending_offset() as u32 | u32::from(bar)).to_le_bytes();
        let mut body = [0; 10];
        body[..2].copy_from_slice(&size);
        body[2..6].copy_from_slice(&table);
        body[6..].copy_from_slice(&pending);
        let mut writable = [0; 10];
        writable[..2].copy_from_slice(&(CONTROL_ENABLE | CONTROL_MASK).to_le_bytes());
        (body, writable)
    }

    /// Bytes of a BAR for the table and the pending bits behind it.
    pub fn bar_bytes(&self) -> u64 {
        let pending = u64::from(self.count()).div_ceil(64) * 8;
        (self.pending_offset() + pending).next_multiple_of(PAGE_BYTES).next_power_of_two()
    }

    fn pending_offset(&self) -> u64 {
        (ENTRY_BYTES as u64 * self.vectors.len() as u64).next_multiple_of(PAGE_BYTES).max(PAGE_BYTES)
    }

    /// Bytes of the BAR, which lie inside it.
    pub fn read(&self, offset: u64, into: &mut [u8]) {
        let pending = self.pending_offset();
        for (at, byte) in (offset..).zip(into) {
            let bits = |at: u64| self.vectors.iter().skip(8 * at as usize).take(8);
            *byte = match at.checked_sub(pending) {
                None => {
                    let vector = self.vectors.get(at as usize / ENTRY_BYTES);
                    vector.map_or(0, |vector| vector.entry[at as usize % ENTRY_BYTES])
                }
                Some(at) => bits(at)
                    .enumerate()
                    .fold(0, |byte, (bit, vector)| byte | u8::from(vector.pending.0.load(Ordering::Acquire)) << bit),
            };
        }
    }

    /// The same, written. Pending bits cannot be.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let (vector, at) = (at as usize / ENTRY_BYTES, at as usize % ENTRY_BYTES);
            let Some(vector) = self.vectors.get_mut(vector) else { return };
            vector.entry[at] = match at {
                0 => byte & !3,
                1..VECTOR_CONTROL => *byte,
                VECTOR_CONTROL => byte & 1,
                _ => 0,
            };
            if at == VECTOR_CONTROL {
                vector.is_masked = byte & 1 != 0;
            }
        }
    }

    /// The table.
    pub fn table(&self) -> Vec<u8> {
        self.vectors.iter().flat_map(|vector| vector.entry).collect()
    }

    /// Pending bits, a byte each.
    pub fn pending(&self) -> Vec<u8> {
        self.vectors.iter().map(|vector| vector.pending.0.load(Ordering::Acquire).into()).collect()
    }

    /// The same, set.
    pub fn set_pending(&mut self, pending: &[u8]) {
        for (vector, byte) in self.vectors.iter().zip(pending) {
            vector.pending.0.store(*byte != 0, Ordering::Release);
        }
    }

    /// What the control register says now.
    pub fn control(&mut self, control: u16) {
        self.is_enabled = control & CONTROL_ENABLE != 0;
        self.is_masked = control & CONTROL_MASK != 0;
    }

    /// Whether MSI-X is used, and INTx is not.
    pub fn is_enabled(&self) -> bool {
        self.is_enabled
    }

    /// A vector goes to `line` from now on, or nowhere. There is such a vector.
    pub fn connect(&mut self, vector: u16, line: Option<Arc<Line>>) {
        let vector = &mut self.vectors[usize::from(vector)];
        vector.line = line;
        vector.epoch = vector.epoch.wrapping_add(1);
    }

    /// The client masks a vector, without the table, or does not any more. There is such a vector.
    pub fn hold(&mut self, vector: u16, held: bool) {
        self.vectors[usize::from(vector)].is_held = held;
    }

    /// All vectors go nowhere, and the client masks none: it has left.
    pub fn disconnect(&mut self) {
        for vector in 0..self.count() {
            self.connect(vector, None);
            self.hold(vector, false);
        }
    }

    /// Nothing is pending, and the table is as at first.
    pub fn reset(&mut self) {
        self.vectors.iter_mut().for_each(Vector::reset);
        (self.is_enabled, self.is_masked) = (false, false);
    }

    /// Where messages of a vector go; `None` where there is no such vector.
    pub fn route(&self, vector: u16) -> Option<Route> {
        let vector = self.vectors.get(usize::from(vector))?;
        let is_masked = self.is_masked || vector.is_masked || vector.is_held || vector.line.is_none();
        Some(if is_masked { Route::Pending } else { Route::Client(vector.epoch) })
    }

    /// What sends a message of a vector where it goes at present.
    pub fn notifier(&self, vector: u16) -> Notifier {
        let Some(found) = self.vectors.get(usize::from(vector)) else { return Notifier::default() };
        match (self.route(vector), &found.line) {
            (Some(Route::Client(_)), Some(line)) => Notifier::through(line.clone()),
            _ => Notifier::through(found.pending.clone()),
        }
    }

    /// Sends what has become pending and is not masked any more.
    pub fn flush(&self) {
        for (index, vector) in self.vectors.iter().enumerate() {
            if let (Some(Route::Client(_)), Some(line)) = (self.route(index as u16), &vector.line)
                && vector.pending.0.swap(false, Ordering::AcqRel)
            {
                line.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use rustix::event::{EventfdFlags, eventfd};
    use virtnet_engine::caller::Caller;

    use super::*;
    use crate::transport::diary::rung;

    struct Bench {
        msix: Msix,
        caller: Caller,
    }

    impl Bench {
        fn new(count: u16) -> Self {
            Self { msix: Msix::new(count), caller: Caller::default() }
        }

        fn connect(&mut self, vector: u16) -> OwnedFd {
            let fd = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
            let line = self.caller.line(fd.try_clone().unwrap()).unwrap();
            self.msix.connect(vector, Some(line));
            fd
        }

        fn pending(&self, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.msix.read(self.msix.pending_offset(), &mut bytes);
            bytes
        }
    }

    #[test]
    fn table_and_pending_bits_fit_their_bar() {
        for (count, pending, bar) in
            [(4, 0x1000, 0x2000), (256, 0x1000, 0x2000), (257, 0x2000, 0x4000), (2048, 0x8000, 0x1_0000)]
        {
            let msix = Msix::new(count);
            assert_eq!((msix.pending_offset(), msix.bar_bytes()), (pending, bar), "{count}");
            let (body, _) = msix.capability(2);
            assert_eq!(u16::from_le_bytes([body[0], body[1]]), count - 1);
            assert_eq!(body[6..], (pending as u32 | 2).to_le_bytes());
        }
    }

    #[test]
    fn a_vector_goes_to_its_client_without_the_table() {
        let mut bench = Bench::new(3);
        bench.msix.notifier(1).notify();
        assert_eq!(bench.pending(1), [2], "nobody is connected");
        let fd = bench.connect(1);
        bench.msix.flush();
        assert_eq!((rung(&fd), bench.pending(1)), (1, vec![0]));
        bench.msix.notifier(1).notify();
        assert_eq!(rung(&fd), 1);
        assert!(!bench.msix.notifier(3).is_connected(), "there is no such vector");
    }

    #[test]
    fn whoever_masks_makes_it_pending() {
        let mut bench = Bench::new(12);
        let fd = bench.connect(9);
        for mask in 0..3 {
            let set = |msix: &mut Msix, masked: bool| match mask {
                0 => msix.control(CONTROL_ENABLE | if masked { CONTROL_MASK } else { 0 }),
                1 => msix.hold(9, masked),
                _ => msix.write(9 * 16 + 12, &u32::from(masked).to_le_bytes()),
            };
            set(&mut bench.msix, true);
            assert_eq!(bench.msix.route(9), Some(Route::Pending));
            bench.msix.notifier(9).notify();
            bench.msix.flush();
            assert_eq!(bench.pending(2), [0, 2], "mask {mask}");
            set(&mut bench.msix, false);
            bench.msix.flush();
            assert_eq!((rung(&fd), bench.pending(2)), (1, vec![0, 0]), "mask {mask}");
        }
    }

    #[test]
    fn the_table_keeps_what_is_written_and_a_reset_masks_it() {
        let mut bench = Bench::new(2);
        let mut entry = [0; 16];
        bench.msix.read(0, &mut entry);
        assert_eq!(entry[12..], [1, 0, 0, 0], "masked, as it reads");
        bench.msix.write(16, &[0xff; 16]);
        bench.msix.read(16, &mut entry);
        assert_eq!(entry, [0xfc, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0]);
        bench.msix.write(32, &[0xff; 64]);
        bench.msix.write(bench.msix.pending_offset(), &[0xff; 8]);
        assert_eq!(bench.pending(8), [0; 8]);
        bench.msix.reset();
        bench.msix.read(16, &mut entry);
        assert_eq!(entry, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    }
}
