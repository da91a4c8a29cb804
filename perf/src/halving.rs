//! The highest rate without loss, by halving the interval that holds it. (RFC 2544, "Throughput")

use serde::Serialize;

/// How to search.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// The highest rate to try, in frames a second.
    pub ceiling_pps: f64,
    /// Stop when the interval is this part of the ceiling.
    pub resolution: f64,
    /// Lost frames per frame sent that still count as none.
    pub tolerance: f64,
    /// How often a rate is tried before it counts as too high: a machine that pauses now and then loses frames by itself.
    pub attempts: u32,
}

/// One trial.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trial {
    /// Frames a second that were to be sent.
    pub offered_pps: f64,
    /// Frames due in the trial.
    pub frames_due: u64,
    /// Of these, those that did not arrive.
    pub frames_lost: u64,
    /// Whether the loss was within the tolerance.
    pub passed: bool,
}

/// What a search found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// The highest rate that passed, in frames a second; 0 if none did.
    pub zero_loss_pps: f64,
    /// Every trial, in order.
    pub trials: Vec<Trial>,
}

/// Searches. `run(rate)` gives frames due and frames lost of one trial, or `None` to end early.
///
/// # Errors
/// The first that `run` gives.
pub fn zero_loss<E>(search: Search, mut run: impl FnMut(f64) -> Result<Option<(u64, u64)>, E>) -> Result<Found, E> {
    let mut found = Found { zero_loss_pps: 0.0, trials: Vec::new() };
    let (mut low, mut high) = (0.0, search.ceiling_pps);
    let mut rate = high;
    while high - low > search.resolution * search.ceiling_pps || found.trials.is_empty() {
        let mut passed = false;
        for _ in 0..search.attempts.max(1) {
            let Some((frames_due, frames_lost)) = run(rate)? else { return Ok(found) };
            passed = frames_due > 0 && frames_lost as f64 <= search.tolerance * frames_due as f64;
            found.trials.push(Trial { offered_pps: rate, frames_due, frames_lost, passed });
            if passed {
                break;
            }
        }
        if passed {
            low = rate;
            found.zero_loss_pps = rate;
        } else {
            high = rate;
        }
        rate = (low + high) / 2.0;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    const SEARCH: Search = Search { ceiling_pps: 10e6, resolution: 0.01, tolerance: 0.0, attempts: 1 };

    fn search_for(limit_pps: f64, search: Search) -> Found {
        let trial = |rate: f64| {
            let lost = ((rate - limit_pps).max(0.0) / 10.0) as u64;
            Ok::<_, Infallible>(Some(((rate / 10.0) as u64, lost)))
        };
        zero_loss(search, trial).unwrap()
    }

    #[test]
    fn the_limit_is_found_to_the_resolution_and_never_passed() {
        for limit in [0.15e6, 1e6, 3.3e6, 7.77e6, 9.99e6] {
            let found = search_for(limit, SEARCH);
            assert!(
                found.zero_loss_pps <= limit + 10.0 && found.zero_loss_pps > limit - 0.1e6 - 1.0,
                "{limit}: {found:?}"
            );
            assert!(found.trials.len() <= 8);
        }
    }

    #[test]
    fn a_path_that_takes_the_ceiling_needs_one_trial() {
        let found = search_for(20e6, SEARCH);
        assert_eq!((found.zero_loss_pps, found.trials.len()), (10e6, 1));
    }

    #[test]
    fn a_path_that_always_loses_has_no_rate() {
        let found = zero_loss(SEARCH, |_| Ok::<_, Infallible>(Some((100, 1)))).unwrap();
        assert_eq!(found.zero_loss_pps, 0.0);
        let nothing_sent = zero_loss(SEARCH, |_| Ok::<_, Infallible>(Some((0, 0)))).unwrap();
        assert_eq!(nothing_sent.zero_loss_pps, 0.0);
    }

    #[test]
    fn tolerance_and_attempts_forgive_as_much_as_they_say() {
        let found = search_for(5e6, Search { tolerance: 0.1, ..SEARCH });
        assert!((found.zero_loss_pps - 5.55e6).abs() < 0.11e6, "{found:?}");
        let mut hiccup = [true, false].into_iter().cycle();
        let run = |_| Ok::<_, Infallible>(Some((1000, u64::from(hiccup.next() == Some(true)))));
        assert_eq!(zero_loss(Search { attempts: 2, ..SEARCH }, run).unwrap().zero_loss_pps, 10e6);
    }

    #[test]
    fn an_end_asked_for_keeps_what_was_found_and_an_error_is_passed_on() {
        let mut left = 3;
        let run = |rate: f64| {
            left -= 1;
            Ok::<_, Infallible>((left > 0).then_some((10, u64::from(rate > 6e6))))
        };
        assert_eq!(zero_loss(SEARCH, run).unwrap().zero_loss_pps, 5e6);
        assert_eq!(zero_loss(SEARCH, |_| Err("gone")).unwrap_err(), "gone");
    }
}
