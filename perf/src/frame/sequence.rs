//! One flow's sequence numbers: what is missing, what came twice, what came late.

/// A number further ahead than this is not one of the flow's.
const AHEAD_MAX: u64 = 1 << 40;
/// Gaps remembered; the oldest are given up as lost beyond that.
const GAPS_MAX: usize = 1024;

/// What a frame's sequence number says about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// The one that was due.
    Due,
    /// Those before it are missing, so far.
    Ahead,
    /// One that was missing.
    Late,
    /// Seen before, or given up.
    Again,
    /// None that this flow can have reached; nothing follows from it.
    Wild,
}

/// Follows the sequence numbers of one flow. Allocates nothing after it is made.
#[derive(Debug)]
pub struct Sequence {
    due: u64,
    missing: u64,
    /// Half-open ranges not seen, ascending.
    gaps: Vec<(u64, u64)>,
}

impl Default for Sequence {
    fn default() -> Self {
        Sequence { due: 0, missing: 0, gaps: Vec::with_capacity(GAPS_MAX) }
    }
}

impl Sequence {
    /// A frame arrived.
    #[inline]
    pub fn arrive(&mut self, sequence: u64) -> Arrival {
        if sequence == self.due {
            self.due += 1;
            return Arrival::Due;
        }
        self.arrive_out_of_turn(sequence)
    }

    #[cold]
    fn arrive_out_of_turn(&mut self, sequence: u64) -> Arrival {
        if sequence > self.due {
            if sequence - self.due > AHEAD_MAX {
                return Arrival::Wild;
            }
            if self.gaps.len() == GAPS_MAX {
                self.gaps.remove(0);
            }
            self.gaps.push((self.due, sequence));
            self.missing += sequence - self.due;
            self.due = sequence + 1;
            return Arrival::Ahead;
        }
        let Some(index) = self.gaps.iter().rposition(|&(start, end)| (start..end).contains(&sequence)) else {
            return Arrival::Again;
        };
        self.missing -= 1;
        let (start, end) = self.gaps[index];
        match (sequence == start, sequence + 1 == end) {
            (true, true) => drop(self.gaps.remove(index)),
            (true, false) => self.gaps[index].0 += 1,
            (false, true) => self.gaps[index].1 -= 1,
            (false, false) => {
                self.gaps[index].1 = sequence;
                if self.gaps.len() < GAPS_MAX {
                    self.gaps.insert(index + 1, (sequence + 1, end));
                }
            }
        }
        Arrival::Late
    }

    /// Sequence numbers below the highest that have not arrived.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// One more than the highest that arrived.
    pub fn due(&self) -> u64 {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Arrival::{Again, Ahead, Due, Late, Wild};

    fn arrivals(sequence: &mut Sequence, numbers: &[u64]) -> Vec<Arrival> {
        numbers.iter().map(|&number| sequence.arrive(number)).collect()
    }

    #[test]
    fn every_number_once_in_turn_is_as_it_should_be() {
        let mut sequence = Sequence::default();
        assert_eq!(arrivals(&mut sequence, &[0, 1, 2]), [Due; 3]);
        assert_eq!((sequence.missing(), sequence.due()), (0, 3));
    }

    #[test]
    fn what_is_missing_may_come_late_but_only_once() {
        let mut sequence = Sequence::default();
        assert_eq!(arrivals(&mut sequence, &[0, 5, 3, 3, 1, 4, 5]), [Due, Ahead, Late, Again, Late, Late, Again]);
        assert_eq!((sequence.missing(), sequence.due()), (1, 6));
        assert_eq!(arrivals(&mut sequence, &[2, 2, 6]), [Late, Again, Due]);
        assert_eq!(sequence.missing(), 0);
    }

    #[test]
    fn wild_numbers_and_endless_gaps_stay_bounded() {
        let mut sequence = Sequence::default();
        for number in (1..10_000).step_by(2) {
            assert_eq!(sequence.arrive(number), Ahead);
        }
        assert_eq!((sequence.missing(), sequence.gaps.len()), (5_000, GAPS_MAX));
        assert_eq!(sequence.arrive(0), Again); // given up long ago
        assert_eq!(arrivals(&mut sequence, &[u64::MAX, u64::MAX, 9_998]), [Wild, Wild, Late]);
    }
}
