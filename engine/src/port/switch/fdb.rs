//! The forwarding database: which switch port a station was last heard on, by MAC address and VLAN.
//!
//! One table is shared by all workers, and read and written on the packet path without a lock or a read-modify-write.
//! An entry is one 64-bit word, so a reader sees all of it or none. The word has no room for the whole 60-bit key,
//! and needs none: the key goes through a bijective mix, the upper bits of the result name a bucket of four ways, the
//! rest is kept as the tag, and a tag in its bucket is turned back into the key exactly. No two stations are ever
//! confused.
//!
//! ```text
//!   63                                     b+4 b+3          4 3      0
//!  +------------------------------------------+--------------+--------+
//!  | tag: 60 - b bits of the mixed key        | port: b bits | age    |     b = bucket bits; age 0: the way is free
//!  +------------------------------------------+--------------+--------+
//! ```
//!
//! **Two workers at once.** Both may store into the same way: one entry is lost, and learned again from the station's
//! next frame. Both may store the same key into two ways: lookups take the first, and the next `learn` of that key
//! clears the second.
//!
//! **A flood of invented addresses** must not push the others out. A full bucket gives up a way by these rules, in
//! order:
//!
//! 1. the learning port's own oldest entry, if it has one in this bucket;
//! 2. the oldest entry of the port that has most entries in this bucket, if it has at least two;
//! 3. the oldest entry, if it was not refreshed for [`STALE_TICKS`];
//! 4. otherwise nothing: the address stays unknown and its frames are flooded.
//!
//! So whatever one port invents, it takes at most one of the four ways of a bucket from others, never the last fresh
//! entry another port has there; and a newcomer always gets a way from a port that has spread itself over several.
//! The mix is keyed with random numbers at start, so nobody can choose addresses that meet in one bucket.

use crate::sync::{AtomicU64, Ordering};
use std::hash::{BuildHasher, RandomState};

/// Ways of a bucket. Four words are half a cache line.
const WAYS: usize = 4;
const KEY_BITS: u32 = 60;
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
const AGE_BITS: u32 = 4;
const AGE_MASK: u64 = (1 << AGE_BITS) - 1;
/// Ages run through 1 to 15; 0 is a free way.
const AGE_CYCLE: u64 = 15;
/// Two workers may disagree about the tick at its edge; an age this little ahead of ours is a fresh one, not an old
/// one.
const AHEAD_TICKS_MAX: u64 = 2;

/// What a caller should let pass between two ticks, so that entries live 300 seconds as IEEE 802.1Q recommends.
pub const TICK_SECONDS: u64 = 30;
/// An entry not refreshed for so many ticks is forgotten by [`Fdb::expire`].
pub const AGEING_TICKS: u64 = 10;
/// An entry not refreshed for so many ticks may be evicted in favour of another port's.
pub const STALE_TICKS: u64 = 2;

/// A port of the switch: an SF or an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortId(pub u16);

/// A station's address as it stands in a frame.
pub type Mac = [u8; 6];

/// What became of an address that [`Fdb::learn`] was shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    /// It was known at this port; nothing was stored unless the tick had moved on.
    Known,
    /// It was not known, and a way was free.
    New,
    /// It was not known, and took the way of another entry.
    Evicted,
    /// It was known at this other port, and is now known at the new one.
    Moved(PortId),
    /// It was not known, and no way may be taken for it.
    Refused,
    /// A group or zero address is never a station's own.
    NotAStation,
}

/// An entry as [`Fdb::entries`] reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The station.
    pub mac: Mac,
    /// Its VLAN, 0 when untagged.
    pub vlan: u16,
    /// Where it was last heard.
    pub port: PortId,
    /// Ticks since it was last refreshed.
    pub age_ticks: u64,
}

/// The keyed bijection on 60-bit numbers, and its inverse.
#[derive(Debug)]
struct Mix {
    mask: u64,
    odd: [u64; 2],
    inverse: [u64; 2],
}

impl Mix {
    fn new(seed: [u64; 3]) -> Self {
        let odd = [seed[1] | 1, seed[2] | 1];
        Self { mask: seed[0] & KEY_MASK, odd, inverse: odd.map(inverse_of_odd) }
    }

    #[inline]
    fn forward(&self, key: u64) -> u64 {
        // The multiplications carry every bit upwards, the shifts bring the top half down again.
        let x = (key ^ self.mask).wrapping_mul(self.odd[0]) & KEY_MASK;
        let x = (x ^ (x >> (KEY_BITS / 2))).wrapping_mul(self.odd[1]) & KEY_MASK;
        x ^ (x >> (KEY_BITS / 2))
    }

    fn backward(&self, mixed: u64) -> u64 {
        // A shift by half the width is its own inverse.
        let x = (mixed ^ (mixed >> (KEY_BITS / 2))).wrapping_mul(self.inverse[1]) & KEY_MASK;
        let x = (x ^ (x >> (KEY_BITS / 2))).wrapping_mul(self.inverse[0]) & KEY_MASK;
        x ^ self.mask
    }
}

/// The number that multiplies `odd` to 1, modulo 2^64: Newton's iteration doubles the right bits each step, from 3.
fn inverse_of_odd(odd: u64) -> u64 {
    let mut x = odd;
    for _ in 0..5 {
        x = x.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(x)));
    }
    x
}

#[repr(align(32))]
#[derive(Debug)]
struct Bucket([AtomicU64; WAYS]);

/// The table. See the head of this file for its rules.
#[derive(Debug)]
pub struct Fdb {
    buckets: Box<[Bucket]>,
    bucket_bits: u32,
    mix: Mix,
}

/// An entry as it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sighting {
    bucket: usize,
    way: usize,
    word: u64,
}

/// Where a key lives: its bucket, and its tag already in place in an otherwise empty word.
#[derive(Clone, Copy)]
struct Place {
    bucket: usize,
    tag: u64,
}

impl Fdb {
    /// Bucket bits that [`Fdb::new`] takes.
    pub const BUCKET_BITS: std::ops::RangeInclusive<u32> = 2..=16;

    /// A table of `4 << bucket_bits` entries for `1 << bucket_bits` ports; 12 is a good size: 16384 entries in 128 KiB.
    ///
    /// # Panics
    /// If `bucket_bits` is outside [`Fdb::BUCKET_BITS`].
    pub fn new(bucket_bits: u32) -> Self {
        let random = RandomState::new();
        Self::with_seed(bucket_bits, [0, 1, 2].map(|n: u64| random.hash_one(n)))
    }

    /// As [`Fdb::new`], the same every time: for simulations and tests.
    ///
    /// # Panics
    /// If `bucket_bits` is outside [`Fdb::BUCKET_BITS`].
    pub fn with_seed(bucket_bits: u32, seed: [u64; 3]) -> Self {
        assert!(
            Self::BUCKET_BITS.contains(&bucket_bits),
            "bucket_bits is {bucket_bits}, allowed are {:?}",
            Self::BUCKET_BITS
        );
        let bucket = |_| Bucket([0; WAYS].map(AtomicU64::new));
        Self { buckets: (0..1usize << bucket_bits).map(bucket).collect(), bucket_bits, mix: Mix::new(seed) }
    }

    /// How many ports the words have room for: ids below this may be learned.
    pub fn ports_max(&self) -> usize {
        1 << self.bucket_bits
    }

    /// How many entries fit.
    pub fn entries_max(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// The port where the station was last heard. `vlan` is 0 when untagged; only its lower 12 bits count.
    #[inline]
    pub fn lookup(&self, mac: Mac, vlan: u16) -> Option<PortId> {
        self.locate(mac, vlan).map(|found| self.port(found))
    }

    /// The port where the station was heard in this tick or the one before.
    pub fn heard_lately(&self, mac: Mac, vlan: u16, tick: u64) -> Option<PortId> {
        let found = self.locate(mac, vlan)?;
        (age_ticks(found.word, tick) < STALE_TICKS).then(|| self.port(found))
    }

    /// Where the station stands in the table, and what is said of it there.
    #[inline]
    pub fn locate(&self, mac: Mac, vlan: u16) -> Option<Sighting> {
        let place = self.place(mac, vlan);
        let words = self.buckets[place.bucket].0.iter().map(load).enumerate();
        let (way, word) = words.into_iter().find(|&(_, word)| self.is(word, place))?;
        Some(Sighting { bucket: place.bucket, way, word })
    }

    /// Whether it still stands there, and the same is said of it.
    #[inline]
    pub fn holds(&self, Sighting { bucket, way, word }: Sighting) -> bool {
        self.buckets.get(bucket).is_some_and(|bucket| load(&bucket.0[way]) == word)
    }

    /// Takes note that a frame from `mac` came in at `port`. Reads first, and stores only what is different: once a
    /// tick for a station that stays where it is.
    ///
    /// # Panics
    /// If `port` is not below [`Fdb::ports_max`].
    #[inline]
    pub fn learn(&self, mac: Mac, vlan: u16, port: PortId, tick: u64) -> Learned {
        assert!(usize::from(port.0) < self.ports_max(), "port {} of {}", port.0, self.ports_max());
        if mac[0] & 1 != 0 || mac == [0; 6] {
            return Learned::NotAStation;
        }
        let place = self.place(mac, vlan);
        let ways = &self.buckets[place.bucket].0;
        let word = place.tag | u64::from(port.0) << AGE_BITS | age(tick);
        let Some(way) = ways.iter().position(|way| self.is(load(way), place)) else {
            return self.admit(ways, word, tick);
        };
        let known = load(&ways[way]);
        if known == word {
            return Learned::Known;
        }
        ways[way].store(word, Ordering::Relaxed);
        for twin in ways[way + 1..].iter().filter(|other| self.is(load(other), place)) {
            twin.store(0, Ordering::Relaxed);
        }
        // Another worker may have emptied the way since it was found; then there is no port it moved from.
        match self.port_in(known) {
            from if from != port && self.is(known, place) => Learned::Moved(from),
            _ => Learned::Known,
        }
    }

    /// Forgets whatever was learned at `port`. To be called when no worker learns for it any more. Returns how many
    /// entries went.
    pub fn forget_port(&self, port: PortId) -> usize {
        self.clear(|word| self.port_in(word) == port)
    }

    /// Forgets what was not refreshed for [`AGEING_TICKS`]. To be called once each tick. Returns how many entries went.
    pub fn expire(&self, tick: u64) -> usize {
        self.clear(|word| age_ticks(word, tick) >= AGEING_TICKS)
    }

    /// All entries, in no particular order, as they are while the iterator passes.
    pub fn entries(&self, tick: u64) -> impl Iterator<Item = Entry> + '_ {
        let words =
            self.buckets.iter().enumerate().flat_map(|(n, bucket)| bucket.0.iter().map(move |way| (n, load(way))));
        words.filter(|&(_, word)| word != 0).map(move |(bucket, word)| {
            let mixed = (bucket as u64) << (KEY_BITS - self.bucket_bits) | word >> (AGE_BITS + self.bucket_bits);
            let key = self.mix.backward(mixed);
            let [_, _, mac @ ..] = (key >> 12).to_be_bytes();
            Entry { mac, vlan: (key & 0xfff) as u16, port: self.port_in(word), age_ticks: age_ticks(word, tick) }
        })
    }

    #[inline]
    fn place(&self, mac: Mac, vlan: u16) -> Place {
        let [a, b, c, d, e, f] = mac;
        let mac = u64::from_be_bytes([0, 0, a, b, c, d, e, f]);
        let mixed = self.mix.forward(mac << 12 | u64::from(vlan & 0xfff));
        let tag_bits = KEY_BITS - self.bucket_bits;
        // Whatever is above the tag is shifted out of the word: that is the bucket's index.
        Place { bucket: (mixed >> tag_bits) as usize, tag: mixed << (AGE_BITS + self.bucket_bits) }
    }

    /// Whether a word is the entry of this place.
    #[inline]
    fn is(&self, word: u64, place: Place) -> bool {
        let tag_shift = AGE_BITS + self.bucket_bits;
        word != 0 && (word ^ place.tag) >> tag_shift == 0
    }

    /// At which port that was.
    #[inline]
    pub fn port(&self, found: Sighting) -> PortId {
        self.port_in(found.word)
    }

    #[inline]
    fn port_in(&self, word: u64) -> PortId {
        PortId((word >> AGE_BITS & ((1 << self.bucket_bits) - 1)) as u16)
    }

    /// Finds a way for a key that has none, by the rules at the head of this file.
    #[cold]
    fn admit(&self, ways: &[AtomicU64; WAYS], word: u64, tick: u64) -> Learned {
        let words: [u64; WAYS] = std::array::from_fn(|way| load(&ways[way]));
        if let Some(free) = words.iter().position(|&word| word == 0) {
            ways[free].store(word, Ordering::Relaxed);
            return Learned::New;
        }
        let held = |port| words.iter().filter(|&&word| self.port_in(word) == port).count();
        let oldest = |allowed: &dyn Fn(u64) -> bool| {
            (0..WAYS).filter(|&way| allowed(words[way])).max_by_key(|&way| age_ticks(words[way], tick))
        };
        let own = self.port_in(word);
        let most = words.iter().map(|&word| held(self.port_in(word))).max().unwrap_or(0);
        let victim = oldest(&|other| self.port_in(other) == own)
            .or_else(|| oldest(&|other| most >= 2 && held(self.port_in(other)) == most))
            .or_else(|| oldest(&|other| age_ticks(other, tick) >= STALE_TICKS));
        match victim {
            Some(way) => {
                ways[way].store(word, Ordering::Relaxed);
                Learned::Evicted
            }
            None => Learned::Refused,
        }
    }

    /// Clears the ways that `unwanted` names, unless they change meanwhile. Off the packet path, so an exchange may
    /// be used.
    fn clear(&self, unwanted: impl Fn(u64) -> bool) -> usize {
        let mut cleared = 0;
        for way in self.buckets.iter().flat_map(|bucket| &bucket.0) {
            let word = load(way);
            if word != 0 && unwanted(word) {
                cleared += usize::from(way.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok());
            }
        }
        cleared
    }
}

// Relaxed everywhere in this file: a word says all there is to say, and leads to no other memory.
#[inline]
fn load(way: &AtomicU64) -> u64 {
    way.load(Ordering::Relaxed)
}

#[inline]
fn age(tick: u64) -> u64 {
    tick % AGE_CYCLE + 1
}

/// Ticks since the word was stored, as far as four bits can tell.
fn age_ticks(word: u64, tick: u64) -> u64 {
    match (age(tick) + AGE_CYCLE - (word & AGE_MASK)) % AGE_CYCLE {
        ahead if ahead >= AGE_CYCLE - AHEAD_TICKS_MAX => 0,
        ticks => ticks,
    }
}

#[cfg(test)]
mod tests;
