//! What the VFs of a PF share: MSI-X vectors and queue pairs. All of it is theirs, evenly, from the start; what one gives up,
//! another can have.

use crate::refusal::{Code, Refusal};

/// The most vectors a VF can have.
pub const MSIX_MAX: u16 = 256;
/// The most queue pairs a function can have.
pub const QUEUE_PAIRS_MAX: u16 = 127;

/// Vectors besides those of queue pairs: the configuration's and the control queue's.
const MSIX_BESIDE_PAIRS: u16 = 2;

/// Queue pairs that so many vectors are enough for.
pub fn pairs_of(msix: u16) -> u16 {
    (msix.saturating_sub(MSIX_BESIDE_PAIRS) / 2).min(QUEUE_PAIRS_MAX)
}

/// Vectors that so many queue pairs need; none, if there are none.
pub fn msix_of(pairs: u16) -> u16 {
    if pairs == 0 { 0 } else { 2 * pairs + MSIX_BESIDE_PAIRS }
}

/// What one VF has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// MSI-X vectors.
    pub msix: u16,
    /// Queue pairs.
    pub pairs: u16,
}

impl Share {
    /// Whether a driver can use it.
    pub fn is_usable(self) -> bool {
        self.pairs > 0 && self.msix >= msix_of(1)
    }

    /// With so many vectors, and the pairs that these are enough for.
    ///
    /// # Errors
    /// Neither 0 nor an even number from 4 to [`MSIX_MAX`].
    pub fn with_msix(msix: u16) -> Result<Self, Refusal> {
        if msix == 0 || (msix.is_multiple_of(2) && (msix_of(1)..=MSIX_MAX).contains(&msix)) {
            return Ok(Share { msix, pairs: pairs_of(msix) });
        }
        Err(Code::Msix.because(format!("{msix}; 0, or an even number from {} to {MSIX_MAX}, is allowed", msix_of(1))))
    }

    /// With so many queue pairs, and the vectors they need.
    ///
    /// # Errors
    /// More than [`QUEUE_PAIRS_MAX`].
    pub fn with_pairs(pairs: u16) -> Result<Self, Refusal> {
        if pairs <= QUEUE_PAIRS_MAX {
            return Ok(Share { msix: msix_of(pairs), pairs });
        }
        Err(Code::Queues.because(format!("{pairs} queue pairs; 0 to {QUEUE_PAIRS_MAX} are allowed")))
    }
}

/// What is free of a PF's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pool {
    /// MSI-X vectors.
    pub msix: u32,
    /// Queue pairs.
    pub pairs: u32,
}

impl Pool {
    /// What is left where each VF that is there was meant to have `even`, and they have `taken`.
    pub fn of(even: Share, taken: impl Iterator<Item = Share>) -> Self {
        let (count, msix, pairs) = taken.fold((0, 0, 0), |(count, msix, pairs), share| {
            (count + 1, msix + u32::from(share.msix), pairs + u32::from(share.pairs))
        });
        let left = |each: u16, taken: u32| (u32::from(each) * count).saturating_sub(taken);
        Pool { msix: left(even.msix, msix), pairs: left(even.pairs, pairs) }
    }

    /// Whether a VF can have `wanted` instead of `now`.
    ///
    /// # Errors
    /// Not enough of one or the other; how much there is.
    pub fn allows(self, now: Share, wanted: Share) -> Result<(), Refusal> {
        let (msix, pairs) = (u32::from(now.msix) + self.msix, u32::from(now.pairs) + self.pairs);
        if u32::from(wanted.msix) > msix {
            return Err(Code::Msix.because(format!("{}; the pool has enough for {msix}", wanted.msix)));
        }
        if u32::from(wanted.pairs) > pairs {
            return Err(Code::Queues.because(format!("{} queue pairs; the pool has enough for {pairs}", wanted.pairs)));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EVEN: Share = Share { msix: 32, pairs: 15 };

    #[test]
    fn vectors_and_pairs_follow_each_other() {
        for (msix, pairs) in [(0, 0), (4, 1), (10, 4), (32, 15), (64, 31), (256, 127)] {
            assert_eq!(pairs_of(msix), pairs);
            assert_eq!(Share::with_msix(msix), Ok(Share { msix, pairs }));
            assert_eq!(Share::with_pairs(pairs), Ok(Share { msix, pairs }));
            assert_eq!(Share { msix, pairs }.is_usable(), pairs > 0);
        }
        for msix in [1, 2, 3, 5, 258] {
            assert_eq!(Share::with_msix(msix).unwrap_err().code, Code::Msix);
        }
        assert_eq!(Share::with_pairs(128).unwrap_err().code, Code::Queues);
    }

    #[test]
    fn what_one_gives_up_another_can_have() {
        let pool = |shares: [Share; 2]| Pool::of(EVEN, shares.into_iter());
        assert_eq!(pool([EVEN, EVEN]), Pool { msix: 0, pairs: 0 });
        let larger = Share::with_msix(48).unwrap();
        assert!(pool([EVEN, EVEN]).allows(EVEN, larger).is_err());
        let small = Share::with_msix(4).unwrap();
        assert_eq!(pool([EVEN, small]), Pool { msix: 28, pairs: 14 });
        assert_eq!(pool([EVEN, small]).allows(EVEN, larger), Ok(()));
        let error = pool([EVEN, small]).allows(EVEN, Share::with_msix(62).unwrap()).unwrap_err();
        assert!(error.to_string().contains("enough for 60"), "{error}");
    }

    proptest! {
        #[test]
        fn no_more_is_given_than_there_is(wishes in prop::collection::vec((0usize..8, 0u16..=127), 0..100)) {
            let mut shares = [EVEN; 8];
            for (vf, pairs) in wishes {
                let wanted = Share::with_pairs(pairs).unwrap();
                let pool = Pool::of(EVEN, shares.into_iter());
                if pool.allows(shares[vf], wanted).is_ok() {
                    shares[vf] = wanted;
                }
                let sum = |of: fn(&Share) -> u16| shares.iter().map(of).map(u32::from).sum::<u32>();
                prop_assert!(sum(|share| share.msix) <= 8 * 32 && sum(|share| share.pairs) <= 8 * 15);
            }
        }
    }
}
