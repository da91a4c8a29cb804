//! Addresses that are waited for: whoever knows what they are translated to is asked by control.
//!
//! Who looks for one enters it, without a lock, and rings a bell where control may not have heard yet. There are so many places
//! and no more: what finds none is entered when it is looked for again, which it is as long as it is waited for.

use std::ops::RangeInclusive;

use super::{Access, Permissions, TRANSLATION_ALIGN_BYTES};
use crate::notify::Notifier;
use crate::sync::{AtomicU64, Ordering};

/// How many pages can be waited for at once.
const PLACES: usize = 64;
/// Set once control has taken note; beside it are [`Permissions`].
const TAKEN: u64 = 1 << 2;
/// Set besides where that is long ago.
const OLD: u64 = 1 << 3;
const STATE: u64 = TAKEN | OLD;
const PAGE_MASK: u64 = !(TRANSLATION_ALIGN_BYTES - 1);

/// What is shared between those who look addresses up and control.
#[derive(Debug)]
pub struct Misses {
    /// A page each and what is to be done with it; 0 is a free place. Who looks fills them, control frees them.
    places: [AtomicU64; PLACES],
    /// 1 from the first one that is entered until control looks.
    is_told: AtomicU64,
    bell: Notifier,
}

impl Misses {
    /// None. An eventfd of our own for `bell`, or nothing where control looks by itself.
    pub fn new(bell: Notifier) -> Self {
        Self { places: std::array::from_fn(|_| AtomicU64::new(0)), is_told: AtomicU64::new(0), bell }
    }

    /// What tells control to look.
    pub fn bell(&self) -> &Notifier {
        &self.bell
    }

    /// Somebody waits for a page. `false` where there is no room for it.
    pub(super) fn add(&self, page: u64, access: Access) -> bool {
        let word = page & PAGE_MASK | u64::from(Permissions::of(access).bits());
        let places = || self.places.iter();
        if places().any(|place| place.load(Ordering::Relaxed) & !STATE == word) {
            return true;
        }
        let enter = |place: &AtomicU64| place.compare_exchange(0, word, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if !places().any(enter) {
            return false;
        }
        // Whoever makes it 0 again sees what was entered before.
        if self.is_told.swap(1, Ordering::AcqRel) == 0 {
            self.bell.notify();
        }
        true
    }

    /// Pages that nobody has taken note of yet, and what is to be done with them.
    pub fn take(&self) -> Vec<(u64, Permissions)> {
        if self.is_told.load(Ordering::Relaxed) == 0 {
            return Vec::new();
        }
        // In this order: who finds it 0 rings once more, and that is not drained.
        self.bell.drain();
        self.is_told.swap(0, Ordering::AcqRel);
        let taken = self.places.iter().filter_map(|place| {
            let word = place.load(Ordering::Relaxed);
            let permissions = Permissions::from_bits(word & !PAGE_MASK)?;
            place.store(word | TAKEN, Ordering::Relaxed);
            Some((word & PAGE_MASK, permissions))
        });
        taken.collect()
    }

    /// There are translations of these addresses now.
    pub fn end(&self, addresses: &RangeInclusive<u64>) {
        self.free(|word| addresses.contains(&(word & PAGE_MASK)));
    }

    /// Forgets those that were taken note of before this was called last: who still waits for one enters it anew.
    pub fn forget_old(&self) {
        self.free(|word| word & OLD != 0);
        for place in &self.places {
            let word = place.load(Ordering::Relaxed);
            if word & TAKEN != 0 {
                place.store(word | OLD, Ordering::Relaxed);
            }
        }
    }

    fn free(&self, is_meant: impl Fn(u64) -> bool) {
        for place in &self.places {
            // One that is filled is control's; one that is free may be filled in the next moment.
            let word = place.load(Ordering::Relaxed);
            if word != 0 && is_meant(word) {
                place.store(0, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

    use super::*;

    const PAGE: u64 = 4096;

    fn rung(misses: &Misses) -> bool {
        let mut count = [0; 8];
        rustix::io::read(misses.bell.eventfd().unwrap(), &mut count[..]).is_ok()
    }

    #[test]
    fn a_page_is_told_of_once_until_it_is_there_or_forgotten() {
        let misses = Misses::new(Notifier::new(Some(eventfd(0, EventfdFlags::NONBLOCK).unwrap())));
        let (read, write) = (Permissions::of(Access::Read), Permissions::of(Access::Write));
        misses.add(5 * PAGE + 7, Access::Read);
        misses.add(0, Access::Write);
        misses.add(5 * PAGE + 8, Access::Read);
        assert_eq!(misses.take(), [(5 * PAGE, read), (0, write)]);
        assert!(!rung(&misses), "it was drained");
        misses.add(5 * PAGE, Access::Read);
        assert!(!rung(&misses) && misses.take().is_empty(), "it was told");
        misses.add(5 * PAGE, Access::Write);
        assert!(rung(&misses), "to write is another thing");
        misses.add(6 * PAGE, Access::Write);
        assert!(!rung(&misses), "one ring is enough");
        assert_eq!(misses.take(), [(5 * PAGE, write), (6 * PAGE, write)]);
        misses.end(&(5 * PAGE..=6 * PAGE - 1));
        misses.add(5 * PAGE, Access::Read);
        misses.add(6 * PAGE, Access::Write);
        assert_eq!(misses.take(), [(5 * PAGE, read)]);
        misses.forget_old();
        misses.add(6 * PAGE, Access::Write);
        assert!(misses.take().is_empty(), "there was little time");
        misses.forget_old();
        misses.add(6 * PAGE, Access::Write);
        assert_eq!(misses.take(), [(6 * PAGE, write)]);
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let misses = Misses::new(Notifier::default());
        let all = || (0..100).filter(|page| misses.add(page * PAGE, Access::Read)).count();
        assert_eq!((all(), misses.take().len()), (PLACES, PLACES));
        assert_eq!((all(), misses.take().len()), (PLACES, 0));
        misses.end(&(0..=10 * PAGE - 1));
        assert_eq!((all(), misses.take().len()), (PLACES, 10));
        misses.end(&(0..=u64::MAX));
        assert_eq!((all(), misses.take().len()), (PLACES, PLACES));
    }

    #[test]
    fn nothing_is_lost_that_is_entered_while_control_looks() {
        let misses = Misses::new(Notifier::new(Some(eventfd(0, EventfdFlags::NONBLOCK).unwrap())));
        const PAGES: u64 = 20_000;
        let (over, mut seen) = (AtomicU64::new(0), 0);
        std::thread::scope(|scope| {
            for worker in 0..2 {
                let (misses, over) = (&misses, &over);
                scope.spawn(move || {
                    for page in (worker..PAGES).step_by(2) {
                        misses.add(page * PAGE, Access::Read);
                        // It stays there until control has freed it.
                        let word = (page * PAGE) | 1;
                        let waits = |place: &AtomicU64| place.load(Ordering::Relaxed) & !STATE == word;
                        while misses.places.iter().any(waits) && over.load(Ordering::Relaxed) == 0 {
                            std::thread::yield_now();
                        }
                    }
                });
            }
            let soon = Timespec { tv_sec: 5, tv_nsec: 0 };
            let bell = || PollFd::new(misses.bell.eventfd().unwrap(), PollFlags::IN);
            while seen < PAGES && poll(&mut [bell()], Some(&soon)) == Ok(1) {
                for (page, _) in misses.take() {
                    seen += 1;
                    misses.end(&(page..=page + PAGE - 1));
                }
            }
            over.store(1, Ordering::Relaxed);
        });
        assert_eq!(seen, PAGES, "the bell was not rung");
    }
}
