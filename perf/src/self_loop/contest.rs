//! All lines of the table, one after another: two benches each, in turns.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use dpdk_sys::Eal;

use super::args::{Path, SelfLoopArgs};
use super::bench::Bench;
use super::cell::Cell;
use super::clock::Clock;
use super::copy::BareCopy;
use super::report::{self, Figures, Line, Pair, Setting};
use super::setup::{Pools, Setup, memory_mib};
use super::slice;
use super::theirs::Listening;
use crate::args::Direction;
use crate::environment::Environment;
use crate::lcore;
use crate::load::Watch;
use crate::progress::Progress;

/// Frames that are looked at byte by byte before anything is measured.
const CHECK_FRAMES: usize = 2048;
/// Times that all buffers are copied after each pair of slices.
const COPIES: usize = 15;
/// Bytes of a huge page, in MiB.
const HUGE_PAGE_MIB: u64 = 2;
/// What DPDK's driver says of the path it takes, where it is the vectorised one.
const VECTORISED: &str = "vectorized";

/// Measures every line, and shows it.
///
/// # Errors
/// What cannot be, does not work, or is not as it was sent.
pub fn run(args: &SelfLoopArgs, watch: &Watch) -> Result<()> {
    let cells = Cell::all(args)?;
    let usable = lcore::usable();
    let lcore = args.lcore.or(usable.last().copied()).context("no lcore to run on")?;
    ensure!(usable.contains(&lcore), "--lcore {lcore} is not one of those this process may use: {usable:?}");
    let environment = Environment::look(&[lcore], &[lcore]);
    let memory_mib = memory_mib(args.queue_size);
    let pages_free = environment.hugepages_free.unwrap_or(0);
    let huge = !args.no_huge && pages_free * HUGE_PAGE_MIB >= u64::from(memory_mib);
    let pairs = if args.smoke { 2 } else { ((args.seconds * 1e3 / (2.0 * args.slice_ms)) as usize).max(2) };
    let slice_ms = if args.smoke { 0.2 } else { args.slice_ms };
    let length = Duration::from_secs_f64(2.0 * slice_ms * pairs as f64 / 1e3);
    let progress = Progress::new(length * cells.len() as u32);
    if !huge && !args.no_huge {
        let needed = u64::from(memory_mib).div_ceil(HUGE_PAGE_MIB);
        progress.say(&format!("WITHOUT HUGE PAGES: {needed} of 2 MiB are needed, {pages_free} are free"));
    }
    // Before DPDK pins this thread, and with it all that come of it.
    let elsewhere = usable.into_iter().find(|&other| other != lcore);
    let eal = Eal::start(&eal_arguments(lcore, huge, memory_mib))?;
    let pools = Pools::new(&eal, args.queue_size)?;
    let mut listening = Listening::new(&eal, args.queue_size, &pools)?;
    let contest = Contest { args, eal: &eal, clock: Clock::new(&eal), pools, elsewhere, pairs, slice_ms, watch };
    let setting = Setting {
        command: "self-loop",
        queue_size: args.queue_size,
        burst: args.burst,
        lcore,
        slice_ms,
        clock_ns: contest.clock.overhead_ns(),
        huge_pages: huge,
        dpdk_version: eal.version(),
        environment,
    };
    let (mut lines, mut failed) = (Vec::new(), 0);
    for (number, cell) in (0..).zip(&cells) {
        if watch.stopped() {
            break;
        }
        let title = cell.to_string();
        let started_at_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
        let measured = progress.during(&title, length, watch, || contest.measure(&mut listening, 2 * number, cell));
        let Measured { pairs, checksummed } = match measured {
            Ok(Some(measured)) => measured,
            Ok(None) => {
                progress.say(&format!("{title}: skipped, DPDK's driver has no vectorised path for it here"));
                continue;
            }
            Err(error) => {
                progress.say(&format!("FAILED: {title}: {error:#}"));
                failed += 1;
                continue;
            }
        };
        let Some(figures) = Figures::of(&pairs) else { break };
        lines.push(Line {
            kind: "self-loop",
            ring: cell.ring,
            features: cell.features.clone(),
            driver: cell.path,
            direction: cell.direction,
            frame_bytes: cell.sizes,
            pairs: pairs.len(),
            figures,
            checksummed,
            partial: watch.stopped(),
            started_at_s,
            setting: setting.clone(),
        });
    }
    drop(progress);
    ensure!(!lines.is_empty() || !watch.stopped(), "interrupted before anything was measured");
    report::publish(&lines, args.json.as_deref())?;
    ensure!(failed == 0, "{failed} of {} lines could not be measured", cells.len());
    Ok(())
}

fn eal_arguments(lcore: usize, huge: bool, memory_mib: u32) -> Vec<String> {
    let lcores = format!("0@{lcore}");
    let memory = memory_mib.to_string();
    let mut arguments = vec!["--lcores", &lcores, "-m", &memory, "--no-pci", "--no-telemetry"];
    // One region each, as few as a back end must take.
    arguments.extend(if huge { ["--in-memory", "--single-file-segments"] } else { ["--no-huge", "--no-shconf"] });
    // The vectorised paths want more than half of what the processor has.
    arguments.extend(["--force-max-simd-bitwidth=512", "--log-level=pmd.net.virtio.*:debug"]);
    arguments.into_iter().map(str::to_owned).collect()
}

/// Pairs of slices of one line.
struct Measured {
    pairs: Vec<Pair>,
    /// Frames that were looked at byte by byte.
    checksummed: u64,
}

/// What holds for all lines.
struct Contest<'a> {
    args: &'a SelfLoopArgs,
    eal: &'a Eal,
    clock: Clock<'a>,
    pools: Pools,
    elsewhere: Option<usize>,
    pairs: usize,
    slice_ms: f64,
    watch: &'a Watch,
}

impl Contest<'_> {
    /// `None` where the driver does not take the path that is asked for. `number` and the next are nobody else's.
    fn measure(&self, listening: &mut Listening, number: u32, cell: &Cell) -> Result<Option<Measured>> {
        let setup = Setup::new(number, cell, self.args.queue_size, self.args.burst.into());
        let mut checksummed = 0;
        // What a sink swallows cannot be looked at: the same rings with the same frames are checked on a loop first.
        if setup.direction == Direction::FromGuest {
            let setup = Setup { direction: Direction::Loopback, ..setup.clone() };
            for mut bench in self.benches(listening, &setup)? {
                checksummed += bench.check(&self.clock, CHECK_FRAMES)?;
                bench.close()?;
            }
        }
        self.eal.take_log();
        let [mut theirs, mut ours] = self.benches(listening, &setup)?;
        if cell.path == Path::Vectorised && !self.eal.take_log().contains(VECTORISED) {
            return Ok(None);
        }
        theirs.check(&self.clock, CHECK_FRAMES).context("with DPDK's device")?;
        ours.check(&self.clock, CHECK_FRAMES).context("with our device")?;
        let mut copy = BareCopy::new(&setup, &self.pools)?;
        let mut rounds = Vec::new();
        let mut pairs = Vec::with_capacity(self.pairs);
        for pair in 0..self.pairs {
            if self.watch.stopped() {
                break;
            }
            let mut slice = |bench: &mut Bench<'_>| slice::measure(bench, &self.clock, self.slice_ms, &mut rounds);
            // Who comes first changes from pair to pair: a drift favours neither.
            let (of_theirs, of_ours) = if pair % 2 == 0 {
                let first = slice(&mut theirs).context("with DPDK's device")?;
                (first, slice(&mut ours).context("with our device")?)
            } else {
                let first = slice(&mut ours).context("with our device")?;
                (slice(&mut theirs).context("with DPDK's device")?, first)
            };
            pairs.push((of_theirs, of_ours, copy.measure(&self.clock, COPIES)));
        }
        for mut bench in [theirs, ours] {
            checksummed += bench.checksummed();
            bench.close()?;
        }
        Ok(Some(Measured { pairs, checksummed }))
    }

    fn benches<'a>(&self, listening: &'a mut Listening, setup: &Setup) -> Result<[Bench<'a>; 2]> {
        let theirs = Bench::theirs(self.eal, listening, setup, &self.pools).context("DPDK's device")?;
        // No two ports of a process have the same name.
        let setup = Setup { number: setup.number + 1, ..setup.clone() };
        Ok([theirs, Bench::ours(self.eal, &setup, &self.pools, self.elsewhere).context("our device")?])
    }
}
