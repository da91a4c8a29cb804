//! How far apart two lcores are at present: the round trip of a cache line between them.
//!
//! Virtual CPUs wander between physical cores, and rates change two- to fourfold with it. A figure without its placement cannot
//! be compared with another.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::lcore;
use crate::statistics::quantile;

/// Round trips in a row between two looks at the clock.
const ROUND_TRIPS: u32 = 50;
/// Batches enough for a figure.
const BATCHES: usize = 40;
/// When to give up: on busy lcores the two may hardly ever run at the same time.
const PATIENCE: Duration = Duration::from_millis(60);

/// On a line of its own, and out of the way of the prefetcher of its neighbour.
#[derive(Default)]
#[repr(align(128))]
struct Line(AtomicU32);

/// Nanoseconds for a cache line to go from one lcore to the other and back, at present; the faster half of what was seen, as the
/// rest was disturbed. `None` if the two never ran at once.
pub fn round_trip_ns(lcore: usize, other: usize) -> Option<f64> {
    let batches = round_trips_ns(lcore, other);
    (!batches.is_empty()).then(|| quantile(&batches, 0.25))
}

/// The same one after another, each the mean of some in a row; none if the two never ran at once.
pub fn round_trips_ns(lcore: usize, other: usize) -> Vec<f64> {
    if lcore == other {
        return Vec::new();
    }
    let (ping, pong) = (Line::default(), Line::default());
    let over = AtomicBool::new(false);
    let over_in_time = |started: Instant| started.elapsed() > PATIENCE || over.load(Ordering::Relaxed);
    thread::scope(|scope| {
        scope.spawn(|| {
            lcore::pin(other);
            let mut seen = 0;
            while !over.load(Ordering::Relaxed) {
                let ball = ping.0.load(Ordering::Acquire);
                if ball != seen {
                    seen = ball;
                    pong.0.store(ball, Ordering::Release);
                } else {
                    std::hint::spin_loop();
                }
            }
        });
        let batches = scope.spawn(|| {
            lcore::pin(lcore);
            let started = Instant::now();
            let mut batches = Vec::with_capacity(BATCHES);
            let mut ball = 0_u32;
            'batches: while batches.len() < BATCHES && !over_in_time(started) {
                let before = Instant::now();
                for _ in 0..ROUND_TRIPS {
                    ball = ball.wrapping_add(1);
                    ping.0.store(ball, Ordering::Release);
                    let mut spins = 0_u32;
                    while pong.0.load(Ordering::Acquire) != ball {
                        std::hint::spin_loop();
                        spins += 1;
                        if spins & 0xfff == 0 && over_in_time(started) {
                            break 'batches;
                        }
                    }
                }
                batches.push(before.elapsed().as_nanos() as f64 / f64::from(ROUND_TRIPS));
            }
            over.store(true, Ordering::Relaxed);
            batches
        });
        batches.join().unwrap_or_default()
    })
}

/// The class of a round trip: which caches the two lcores share is inferred, not known.
pub fn class(round_trip_ns: f64) -> &'static str {
    match round_trip_ns {
        ns if ns < 90.0 => "sibling",
        ns if ns < 400.0 => "near",
        ns if ns < 1000.0 => "far",
        _ => "astray",
    }
}

/// The class of a stretch of time with a probe at either end.
pub fn class_around(before_ns: Option<f64>, after_ns: Option<f64>) -> &'static str {
    match (before_ns.map(class), after_ns.map(class)) {
        (Some(before), Some(after)) if before == after => before,
        (Some(_), Some(_)) => "mixed",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_lcores_are_some_distance_apart_and_one_is_none() {
        let lcores = lcore::usable();
        assert_eq!(round_trip_ns(lcores[0], lcores[0]), None);
        if let [first, second, ..] = lcores[..]
            && let Some(ns) = round_trip_ns(first, second)
        {
            assert!(ns > 5.0 && ns < 60e6, "{ns}");
        }
    }

    #[test]
    fn classes_follow_the_round_trip() {
        assert_eq!([50.0, 125.0, 560.0, 1800.0].map(class), ["sibling", "near", "far", "astray"]);
        assert_eq!(class_around(Some(120.0), Some(130.0)), "near");
        assert_eq!(class_around(Some(120.0), Some(560.0)), "mixed");
        assert_eq!(class_around(None, Some(560.0)), "unknown");
    }
}
