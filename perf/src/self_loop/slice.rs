//! A few milliseconds of one device, and what a frame cost in them.

use anyhow::Result;

use super::bench::{Bench, Round};
use super::clock::Clock;

/// Rounds after a change of devices that are not measured: caches fill.
const WARM_UP_ROUNDS: usize = 64;
/// Rounds between two looks at the time.
const ROUNDS_PER_LOOK: usize = 16;
/// The most rounds of a slice.
const ROUNDS_MAX: usize = 1 << 20;
/// A round in which either side took so many times its median was interrupted, and does not count.
const INTERRUPTED: u64 = 16;

/// What a frame cost.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Slice {
    /// The device, in nanoseconds a frame.
    pub device_ns: f64,
    /// The driver.
    pub driver_ns: f64,
    /// Frames that were counted.
    pub frames: u64,
    /// Rounds in all.
    pub rounds: u64,
    /// Those that were interrupted, and left out.
    pub interrupted: u64,
}

/// Measures a bench for so long. `rounds` is room, and keeps what it held.
///
/// # Errors
/// Frames are lost, or not as they were sent.
pub fn measure(bench: &mut Bench, clock: &Clock<'_>, slice_ms: f64, rounds: &mut Vec<Round>) -> Result<Slice> {
    rounds.clear();
    for _ in 0..WARM_UP_ROUNDS {
        bench.round(clock, true)?;
    }
    let end = clock.now() + clock.cycles(slice_ms * 1e6);
    while clock.now() < end && rounds.len() < ROUNDS_MAX {
        for _ in 0..ROUNDS_PER_LOOK {
            rounds.push(bench.round(clock, true)?);
        }
    }
    bench.settle(clock)?;
    Ok(summary(rounds, |cycles| clock.ns(cycles)))
}

fn summary(rounds: &[Round], ns: impl Fn(f64) -> f64) -> Slice {
    let limit = |cycles: fn(&Round) -> u64| {
        let mut all: Vec<u64> = rounds.iter().map(cycles).collect();
        let middle = all.len() / 2;
        INTERRUPTED * (*all.select_nth_unstable(middle).1).max(1)
    };
    let (device_max, driver_max) = (limit(|round| round.device_cycles), limit(|round| round.driver_cycles));
    let mut slice = Slice { device_ns: 0.0, driver_ns: 0.0, frames: 0, rounds: rounds.len() as u64, interrupted: 0 };
    let (mut device, mut driver) = (0, 0);
    for round in rounds {
        if round.device_cycles > device_max || round.driver_cycles > driver_max {
            slice.interrupted += 1;
        } else {
            device += round.device_cycles;
            driver += round.driver_cycles;
            slice.frames += round.frames as u64;
        }
    }
    slice.device_ns = ns(device as f64) / slice.frames as f64;
    slice.driver_ns = ns(driver as f64) / slice.frames as f64;
    slice
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_that_was_interrupted_does_not_count() {
        let round = |device_cycles, driver_cycles| Round { device_cycles, driver_cycles, frames: 32 };
        let mut rounds = vec![round(320, 160); 100];
        let even = summary(&rounds, |cycles| cycles);
        assert_eq!((even.device_ns, even.driver_ns, even.frames, even.interrupted), (10.0, 5.0, 3200, 0));
        rounds.push(round(320 * 20, 160));
        rounds.push(round(320, 160 * 20));
        let disturbed = summary(&rounds, |cycles| cycles);
        assert_eq!(disturbed, Slice { rounds: 102, interrupted: 2, ..even });
        // Now and then a driver takes much longer, and that is its own doing.
        rounds.truncate(100);
        rounds[7] = round(320, 160 * 10);
        assert_eq!(summary(&rounds, |cycles| cycles).driver_ns, 5.0 + 160.0 * 9.0 / 3200.0);
    }
}
