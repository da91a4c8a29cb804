//! Translations that come and go while queues run: behind an IOMMU, a driver maps and unmaps memory for each buffer.
//!
//! Control writes, workers read, without a lock. A translation is entered once for each aligned block of a power of two bytes
//! that it is made of, in a hash table: to find one takes a probe or two for each size of blocks that there is, however many
//! there are; to enter or remove one as many for each of its blocks. A sequence number tells who reads that the table was
//! written meanwhile. Neither how the table is made nor who knows its keys makes a lookup longer than [`PROBES_MAX`].

use std::hash::{BuildHasher, RandomState};

use super::misses::Misses;
use super::turns::Turns;
use super::{Absent, Access, Found, Region, Window};
use crate::sync::{Arc, AtomicU64, Mutex, Ordering, fence};

/// What translations start and end at multiples of, in bytes.
pub const TRANSLATION_ALIGN_BYTES: u64 = 4096;
/// The most blocks there can be: every translation that is a power of two bytes is one.
pub(super) const BLOCKS_MAX: usize = 65536;
/// The fewest there is room for.
const BLOCKS_MIN: usize = 256;
/// How far from its place an entry may be.
const PROBES_MAX: usize = 64;
/// How often a lookup is made before it gives way to whoever writes.
const LOOKUPS_MAX: usize = 64;
/// How much of a buffer is asked for at once, in bytes: what most are no longer than.
const ASKED_BYTES_MAX: u32 = 65536;

/// What a device may do with memory: 1 is to read it, 2 to write it, 3 both, as in all protocols.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(u8);

impl Permissions {
    /// To read and to write.
    pub const BOTH: Self = Self(3);

    /// `None` for anything but 1 to 3.
    pub fn from_bits(bits: u64) -> Option<Self> {
        (1..=3).contains(&bits).then_some(Self(bits as u8))
    }

    pub(super) fn allow(self, access: Access) -> bool {
        self.0 & Self::of(access).0 != 0
    }

    /// What `access` needs.
    pub fn of(access: Access) -> Self {
        Self(if access == Access::Read { 1 } else { 2 })
    }

    /// As a number.
    pub fn bits(self) -> u8 {
        self.0
    }
}

/// An entry: its block (0: none), then its translation: first address and permissions, length, where it is here.
type Entry = [AtomicU64; 4];

/// All translations of a device.
#[derive(Debug)]
pub(super) struct Iotlb {
    /// Odd while the table is being written.
    sequence: AtomicU64,
    /// The sizes of blocks that there are: a bit for each, by its logarithm.
    orders: AtomicU64,
    /// Twice as many as blocks, a power of two.
    entries: Box<[Entry]>,
    seed: u64,
    blocks: Mutex<Blocks>,
    pub turns: Turns,
    /// Where translations are asked for that are not there. Without it, there will be none.
    misses: Option<Arc<Misses>>,
}

/// How many blocks there are.
#[derive(Debug)]
struct Blocks {
    all: usize,
    of_order: [u32; 64],
}

/// The aligned blocks of a power of two bytes that a stretch is made of: each one's start, and the logarithm of its size in the
/// bits below.
fn blocks(start: u64, len_bytes: u64) -> impl Iterator<Item = u64> {
    let (mut at, mut left) = (start, len_bytes);
    std::iter::from_fn(move || {
        let order = at.trailing_zeros().min(left.checked_ilog2()?);
        let block = at | u64::from(order);
        at = at.wrapping_add(1 << order);
        left -= 1 << order;
        Some(block)
    })
}

fn order(block: u64) -> usize {
    (block & 63) as usize
}

/// How many blocks a region is made of.
pub(super) fn block_count(region: &Region) -> usize {
    blocks(region.gpa, region.len_bytes).count()
}

impl Iotlb {
    /// Room for so many blocks, at most [`BLOCKS_MAX`].
    pub fn new(room: usize, misses: Option<Arc<Misses>>) -> Self {
        let room = room.clamp(BLOCKS_MIN, BLOCKS_MAX).next_power_of_two();
        Self {
            sequence: AtomicU64::new(0),
            orders: AtomicU64::new(0),
            entries: (0..2 * room).map(|_| Entry::default()).collect(),
            // Who names the blocks must not know where they will be.
            seed: RandomState::new().hash_one(room) | 1,
            blocks: Mutex::new(Blocks { all: 0, of_order: [0; 64] }),
            turns: Turns::new(),
            misses,
        }
    }

    /// Whether translations are asked for that are not there.
    pub fn is_on_demand(&self) -> bool {
        self.misses.is_some()
    }

    /// Room for blocks.
    pub fn room(&self) -> usize {
        self.entries.len() / 2
    }

    #[inline]
    fn place(&self, block: u64) -> usize {
        // Once is not enough: blocks at even distances would be at even distances here, with some seeds side by side.
        let once = block.wrapping_mul(self.seed);
        ((once ^ once >> 32).wrapping_mul(self.seed) >> (64 - self.entries.len().ilog2())) as usize
    }

    /// Where an entry is, or the free one behind its place; `None` where neither is near enough.
    #[inline]
    fn probe(&self, block: u64) -> Option<(usize, bool)> {
        let (first, mask) = (self.place(block), self.entries.len() - 1);
        (first..first + PROBES_MAX).find_map(|at| match self.entries[at & mask][0].load(Ordering::Relaxed) {
            0 => Some((at & mask, false)),
            found => (found == block).then_some((at & mask, true)),
        })
    }

    /// The translation of the first of some bytes that are to be used like this.
    pub fn find(&self, gpa: u64, len_bytes: u32, access: Access) -> Result<Found, Absent> {
        for _ in 0..LOOKUPS_MAX {
            let sequence = self.sequence.load(Ordering::Acquire);
            let found = self.look(gpa);
            // What was read is older than the number that is read now.
            fence(Ordering::Acquire);
            if sequence.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == sequence {
                if found.is_none() && self.is_on_demand() {
                    // It may have come by now: then it is found the next time.
                    self.awaits(gpa, len_bytes.min(ASKED_BYTES_MAX).into(), access);
                    return Err(Absent::NotYet);
                }
                return found.filter(|found| found.permissions.allow(access)).ok_or(Absent::Outside);
            }
            std::hint::spin_loop();
        }
        Err(Absent::NotYet)
    }

    /// Whether some of these bytes have no translation, where it can be asked for; it is, as far as there is room for that.
    #[cold]
    pub fn awaits(&self, gpa: u64, len_bytes: u64, access: Access) -> bool {
        let Some(misses) = &self.misses else { return false };
        let last = gpa.saturating_add(len_bytes.saturating_sub(1));
        let pages = gpa / TRANSLATION_ALIGN_BYTES..=last / TRANSLATION_ALIGN_BYTES;
        let mut missing = pages.map(|page| page * TRANSLATION_ALIGN_BYTES).filter(|page| self.look(*page).is_none());
        let Some(first) = missing.next() else { return false };
        let _has_room = misses.add(first, access) && missing.all(|page| misses.add(page, access));
        true
    }

    #[inline]
    fn look(&self, gpa: u64) -> Option<Found> {
        let mut orders = self.orders.load(Ordering::Relaxed);
        while orders != 0 {
            let order = orders.trailing_zeros();
            orders &= orders - 1;
            if let Some((at, true)) = self.probe(gpa >> order << order | u64::from(order)) {
                let [_, start, len_bytes, host] = &self.entries[at];
                let start = start.load(Ordering::Relaxed);
                let window = Window {
                    gpa: start & !(TRANSLATION_ALIGN_BYTES - 1),
                    len_bytes: len_bytes.load(Ordering::Relaxed),
                    host: host.load(Ordering::Relaxed) as usize,
                };
                return Some(Found { window, permissions: Permissions(start as u8 & 3) });
            }
        }
        None
    }

    /// Whether an address has a translation; for control, which alone changes that.
    pub fn has(&self, gpa: u64) -> bool {
        self.look(gpa).is_some()
    }

    /// How many entries are looked at to find a translation of a page.
    #[cfg(all(test, not(loom)))]
    pub fn steps(&self, gpa: u64) -> usize {
        let orders = self.orders.load(Ordering::Relaxed);
        let found = |order: u32| {
            let block = gpa >> order << order | u64::from(order);
            let (at, is_there) = self.probe(block)?;
            is_there.then(|| 1 + (at.wrapping_sub(self.place(block)) & (self.entries.len() - 1)))
        };
        (0..64).filter(|order| orders & 1 << order != 0).find_map(found).expect("it is there")
    }

    /// Enters a translation, none of whose addresses has one. `false` where there is no room.
    pub fn insert(&self, region: &Region, permissions: Permissions) -> bool {
        let mut counts = self.blocks.lock().expect("nobody panics with it");
        if counts.all + block_count(region) > self.room() {
            return false;
        }
        self.write(|| {
            for (done, block) in blocks(region.gpa, region.len_bytes).enumerate() {
                let Some((at, false)) = self.probe(block) else {
                    blocks(region.gpa, region.len_bytes).take(done).for_each(|block| self.erase(block, &mut counts));
                    return false;
                };
                let words = [block, region.gpa | u64::from(permissions.0), region.len_bytes, region.start as u64];
                self.entries[at].iter().zip(words).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
                counts.all += 1;
                counts.of_order[order(block)] += 1;
                self.orders.fetch_or(1 << order(block), Ordering::Relaxed);
            }
            true
        })
    }

    /// Removes a translation that was entered. Who has found it before may use it, until its turn is over.
    pub fn remove(&self, region: &Region) {
        let mut counts = self.blocks.lock().expect("nobody panics with it");
        self.write(|| blocks(region.gpa, region.len_bytes).for_each(|block| self.erase(block, &mut counts)));
    }

    fn erase(&self, block: u64, counts: &mut Blocks) {
        let Some((mut hole, true)) = self.probe(block) else { return };
        // What follows up to the next hole moves up, as far as its place.
        let mask = self.entries.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let follower = self.entries[at][0].load(Ordering::Relaxed);
            if follower == 0 {
                break;
            }
            if at.wrapping_sub(self.place(follower)) & mask >= at.wrapping_sub(hole) & mask {
                let words = self.entries[at].iter().zip(&self.entries[hole]);
                words.for_each(|(from, to)| to.store(from.load(Ordering::Relaxed), Ordering::Relaxed));
                hole = at;
            }
        }
        self.entries[hole][0].store(0, Ordering::Relaxed);
        counts.all -= 1;
        counts.of_order[order(block)] -= 1;
        if counts.of_order[order(block)] == 0 {
            self.orders.fetch_and(!(1 << order(block)), Ordering::Relaxed);
        }
    }

    fn write<T>(&self, change: impl FnOnce() -> T) -> T {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Whoever sees something of the change sees the odd number, or a later one.
        fence(Ordering::Release);
        let result = change();
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
        result
    }
}
