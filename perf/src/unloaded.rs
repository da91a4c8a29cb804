//! `latency --unloaded`: the round trip of a frame by itself, beside what the machine needs at least for it. In turns of a few
//! milliseconds: frames, one at a time; a cache line to and fro between the same two lcores; a bare copy. Each turn has its own
//! ratio, so that the machine's moods hit both sides of it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::Ring;
use crate::bed::Bed;
use crate::frame::Sizes;
use crate::judge::{self, Account, Label, Whereabouts};
use crate::load::{Measured, Watch};
use crate::plan::Plan;
use crate::probe;
use crate::process::Activity;
use crate::progress::Progress;
use crate::report::{LatencyOf, Placement, Report, Unloaded};
use crate::statistics::{median, median_interval};
use crate::steal::Steal;

/// Frames are sent for so long before it is the others' turn.
const SLICE: Duration = Duration::from_millis(20);
/// The least number of slices: of fewer there is no interval.
const SLICES_MIN: u32 = 5;
/// A slice with fewer frames had its lcores taken away: its median is that of the pauses.
const SLICE_FRAMES_MIN: u64 = 100;
/// Readings behind what reading the clock costs.
const READINGS: usize = 1001;
/// Buffers that are copied in turn, as those of a queue are; still in the cache.
const COPY_BUFFERS: usize = 64;
/// Times that all of them are.
const COPIES: usize = 15;
/// Behind the net header, which is copied with the frame.
const HEADER_BYTES: usize = 12;

/// Cache lines that go from one lcore to the other on a frame's way there and back, one after the other as each says where the
/// next is, if both sides poll and neither writes more than it must. Whatever can travel beside these is not counted.
fn line_transfers(ring: Ring) -> u32 {
    match ring {
        // Available index and entry (in one line at best), descriptor, frame; used index and element (at best), frame.
        Ring::Split => 5,
        // Descriptor, frame; used descriptor, frame.
        Ring::Packed => 4,
    }
}

/// What each slice said.
#[derive(Default)]
struct Slices {
    /// All frames together.
    measured: Option<Measured>,
    ping_pongs_ns: Vec<f64>,
    copies_ns: Vec<f64>,
    limits_ns: Vec<f64>,
    ratios: Vec<f64>,
    /// The part of the time in which one side waited for its lcore.
    waited: Vec<f64>,
}

impl Slices {
    /// Whatever could not be measured beside a slice leaves it without ratio.
    fn add(&mut self, plan: &Plan, measured: Measured, ping_pongs_ns: &[f64], copy_ns: f64) -> Result<()> {
        let trip_ns = measured.histogram.value_at_quantile(0.5) as f64;
        let frames_min = if plan.smoke { 1 } else { SLICE_FRAMES_MIN };
        if !ping_pongs_ns.is_empty() && measured.moved >= frames_min {
            let ping_pong_ns = median(ping_pongs_ns);
            // There and back are two.
            let limit_ns = f64::from(line_transfers(plan.ring)) * ping_pong_ns / 2.0 + copy_ns;
            self.ping_pongs_ns.push(ping_pong_ns);
            self.copies_ns.push(copy_ns);
            self.limits_ns.push(limit_ns);
            self.ratios.push(trip_ns / limit_ns);
        }
        match &mut self.measured {
            None => self.measured = Some(measured),
            Some(sum) => {
                sum.seconds += measured.seconds;
                sum.sent += measured.sent;
                sum.moved += measured.moved;
                sum.moved_bytes += measured.moved_bytes;
                sum.intervals.extend(measured.intervals);
                sum.histogram.add(&measured.histogram)?;
                sum.interrupted |= measured.interrupted;
            }
        }
        Ok(())
    }

    fn placement(&self, stolen: f64) -> Placement {
        let (before_ns, after_ns) = (self.ping_pongs_ns.first().copied(), self.ping_pongs_ns.last().copied());
        let waited = self.waited.iter().sum::<f64>() / self.waited.len().max(1) as f64;
        Placement { before_ns, after_ns, class: probe::class_around(before_ns, after_ns), waited, stolen }
    }
}

/// Measures on a bed with a loop, and takes it down.
///
/// # Errors
/// The device broke the ring or lost a frame, or one of the two lcores is not known or not its own.
pub fn measure(
    mut bed: Box<dyn Bed>,
    plan: &Plan,
    label: Label,
    whereabouts: &Whereabouts,
    watch: &Watch,
    progress: &Progress,
) -> Result<Report> {
    let mut account = Account::default();
    account.findings.checked_before = bed.load().check(plan.smoke, watch).context("the check before measuring")?;
    let clock_ns = clock_ns();
    bed.load().measure_alone(plan.warm_up, clock_ns, watch)?;
    let driver = plan.division.drivers[0];
    // One queue pair is on one of them, and which is not told.
    let [device] = whereabouts.lcores()[..] else {
        bail!("--unloaded takes one lcore of the device, and that one to be known: {:?}", whereabouts.lcores());
    };
    ensure!(device != driver, "--unloaded takes an lcore for each side, and both are on lcore {driver}");
    let sizes = plan.sizes().context("--unloaded sends frames of its own")?;
    let count = ((plan.length.as_secs_f64() / SLICE.as_secs_f64()) as u32).max(SLICES_MIN);
    let steal = Steal::from(vec![driver, device]);
    let mut slices = Slices::default();
    progress.during(&plan.title(), plan.length, watch, || {
        for _ in 0..count {
            if watch.stopped() {
                break;
            }
            let activity = Activity::of(bed.process());
            let measured = bed.load().measure_alone(SLICE.min(plan.length), clock_ns, watch)?;
            let device_waited = activity.busiest().map_or(0.0, |busiest| busiest.waited);
            slices.waited.push(measured.waited.max(device_waited));
            slices.add(plan, measured, &probe::round_trips_ns(driver, device), copy_ns(sizes))?;
        }
        anyhow::Ok(())
    })?;
    account.close(bed, plan.direction, label.allow_loss)?;
    let placement = slices.placement(steal.part());
    let Slices { measured, ping_pongs_ns, copies_ns, limits_ns, ratios, .. } = slices;
    let mut report =
        judge::report(plan, label, measured.context("interrupted before the first slice")?, placement, &account);
    ensure!(!ratios.is_empty(), "the lcores {driver} and {device} hardly ever ran at once: others have them");
    report.latency_of = Some(LatencyOf::SendToArrival);
    report.unloaded = Some(Unloaded {
        ping_pong_ns: median_interval(&ping_pongs_ns),
        copy_ns: median_interval(&copies_ns),
        line_transfers: line_transfers(plan.ring),
        limit_ns: median_interval(&limits_ns),
        ratio: median_interval(&ratios),
    });
    Ok(report)
}

/// What reading the clock costs, in nanoseconds: the median of many readings with nothing between them.
fn clock_ns() -> u64 {
    let gaps: Vec<f64> = (0..READINGS).map(|_| Instant::now().elapsed().as_nanos() as f64).collect();
    median(&gaps) as u64
}

/// What it costs to copy a frame with its header, in nanoseconds, where nothing else happens.
fn copy_ns(sizes: Sizes) -> f64 {
    let lengths: Vec<usize> = (0..COPY_BUFFERS).map(|index| HEADER_BYTES + sizes.at(index)).collect();
    let longest = HEADER_BYTES + sizes.longest();
    let from = vec![1_u8; COPY_BUFFERS * longest];
    let mut into = vec![0_u8; COPY_BUFFERS * longest];
    let rounds: Vec<f64> = (0..COPIES)
        .map(|_| {
            let begun = Instant::now();
            for ((from, into), &length) in from.chunks(longest).zip(into.chunks_mut(longest)).zip(&lengths) {
                black_box(&mut into[..length]).copy_from_slice(black_box(&from[..length]));
            }
            begun.elapsed().as_nanos() as f64 / COPY_BUFFERS as f64
        })
        .collect();
    median(&rounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Direction;
    use crate::load::histogram;
    use crate::sweep::tests::plan;

    fn slice(trip_ns: u64, frames: u64) -> Measured {
        let mut histogram = histogram();
        histogram.record_n(trip_ns, frames).unwrap();
        Measured {
            started_at_s: 0.0,
            seconds: 0.5,
            sent: frames,
            moved: frames,
            moved_bytes: frames * 64,
            due: 0,
            given_up: 0,
            intervals: vec![frames],
            interval: SLICE,
            histogram,
            waited: 0.0,
            split: None,
            interrupted: false,
        }
    }

    #[test]
    fn each_slice_is_held_against_what_its_own_time_allowed() {
        let plan = Plan { ring: Ring::Packed, ..plan(Direction::Loopback, &[0], &[1]) };
        let mut slices = Slices::default();
        slices.add(&plan, slice(408, 100), &[100.0, 90.0, 110.0], 4.0).unwrap();
        slices.add(&plan, slice(1612, 100), &[400.0], 6.0).unwrap();
        // These have no ratio: the line went not once to and fro, or the frames had no time.
        slices.add(&plan, slice(99, 100), &[], 6.0).unwrap();
        slices.add(&plan, slice(8_000_000, 2), &[100.0], 6.0).unwrap();
        assert_eq!(slices.limits_ns, [204.0, 806.0]);
        assert_eq!(slices.ratios, [2.0, 2.0]);
        let measured = slices.measured.as_ref().unwrap();
        assert_eq!((measured.moved, measured.seconds, measured.histogram.len()), (302, 2.0, 302));
        assert_eq!(slices.placement(0.0).class, "mixed");
    }

    #[test]
    fn longer_frames_cost_more_to_copy_and_the_clock_costs_something_sensible() {
        let [short, long] = [64, 9216].map(|len_bytes| copy_ns(Sizes::Fixed(len_bytes)));
        assert!(short > 0.0 && long > short, "{short} {long}");
        assert!(clock_ns() < 100_000);
    }
}
