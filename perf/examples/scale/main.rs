//! What becomes of the rate when there are more workers, more queues, more devices: those that are busy, and those that are not; what
//! a trickle waits for beside a flood; what a move to another worker takes. Prints tables; judges nothing.
//!
//!     cargo run --release -p virtnet-perf --example scale -- [--seconds S] [--layout split|packed] [TABLE…]
//!
//! Tables: idle, queues, devices, workers, trickle, moves, calls; all of them if none is named. The last lcore that this process may use
//! drives the guests, the others are the workers'. With more workers than lcores for them the figures show that threads take
//! turns, and little else.

mod calls;
mod station;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Parser, ValueEnum};
use comfy_table::Table;
use hdrhistogram::Histogram;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use virtnet_engine::{DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;

use crate::station::{Kind, Station};

const NOBODY: [u8; 6] = [2, 0, 0, 0xff, 0, 0];
const ROUNDS: usize = 5;
const WARM_UP: Duration = Duration::from_millis(50);
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Part {
    Idle,
    Queues,
    Devices,
    Workers,
    Trickle,
    Moves,
    Calls,
}

#[derive(Clone, Copy, ValueEnum)]
enum Ring {
    Split,
    Packed,
}

#[derive(Parser)]
struct Args {
    /// Seconds of each window.
    #[arg(long, default_value_t = 0.3)]
    seconds: f64,
    /// Ring layout.
    #[arg(long, default_value = "packed")]
    layout: Ring,
    /// Which tables.
    tables: Vec<Part>,
}

/// Where things run, and for how long.
struct Scene {
    driver: usize,
    lcores: Vec<usize>,
    anywhere: CpuSet,
    window: Duration,
    kind: Kind,
}

fn main() -> Result<()> {
    let args = Args::parse();
    // A thousand guests have a few descriptors each.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
    let mut lcores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    lcores.sort_unstable();
    let Some(driver) = lcores.pop() else { bail!("no lcore to run on") };
    if lcores.is_empty() {
        println!("one lcore only: driver and workers take turns on it");
        lcores.push(driver);
    }
    let layout = match args.layout {
        Ring::Split => Layout::Split,
        Ring::Packed => Layout::Packed,
    };
    let kind = Kind { layout, pairs: 1, queue_size: 256, kicks: true };
    let scene = Scene {
        driver,
        lcores,
        anywhere: sched_getaffinity(None)?,
        window: Duration::from_secs_f64(args.seconds),
        kind,
    };
    let wanted = |part| args.tables.is_empty() || args.tables.contains(part);
    for part in Part::value_variants().iter().filter(|part| wanted(part)) {
        println!("\n{}", part.to_possible_value().map_or(String::new(), |name| name.get_name().to_owned()));
        let table = match part {
            Part::Idle => idle(&scene)?,
            Part::Queues => queues(&scene)?,
            Part::Devices => devices(&scene)?,
            Part::Workers => workers(&scene)?,
            Part::Trickle => trickle(&scene)?,
            Part::Moves => moves(&scene)?,
            Part::Calls => calls::measure((scene.window.as_secs_f64() * 1e6) as u64)?,
        };
        println!("{table}");
    }
    Ok(())
}

impl Scene {
    fn engine(&self, workers: usize, idle: IdlePolicy) -> Result<Engine> {
        let lcores = (0..workers).map(|worker| Some(self.lcores[worker % self.lcores.len()])).collect();
        // An engine is given lcores out of those that this thread may run on.
        sched_setaffinity(None, &self.anywhere)?;
        let engine = Engine::start(EngineConfig { lcores, idle, burst: 32 })?;
        core_affinity::set_for_current(core_affinity::CoreId { id: self.driver });
        Ok(engine)
    }

    /// Frames a second from these guests into their ports.
    fn rate(&self, engine: &mut Engine, stations: &mut [Station]) -> Result<f64> {
        let devices: Vec<DeviceId> = stations.iter().map(|station| station.device).collect();
        self.drive(stations, WARM_UP)?;
        let (start, before) = (Instant::now(), sent(engine, &devices)?);
        self.drive(stations, self.window)?;
        let frames = sent(engine, &devices)? - before;
        Ok(frames as f64 / start.elapsed().as_secs_f64())
    }

    fn drive(&self, stations: &mut [Station], length: Duration) -> Result<()> {
        let start = Instant::now();
        while start.elapsed() < length {
            for _ in 0..64usize.div_ceil(stations.len()) {
                stations.iter_mut().try_for_each(Station::flood)?;
            }
        }
        Ok(())
    }

    fn active(&self, engine: &mut Engine, count: u16, kind: Kind, workers: usize) -> Result<Vec<Station>> {
        let place = |at: u16| (0..workers).map(|worker| (usize::from(at) + worker) % workers).collect();
        (0..count).map(|at| Station::new(engine, at, kind, PortConfig::Sink, place(at))).collect()
    }
}

fn sent(engine: &mut Engine, devices: &[DeviceId]) -> Result<u64> {
    let mut frames = 0;
    for &device in devices {
        let queues = engine.counters(device)?;
        frames +=
            queues.iter().filter(|queue| queue.queue_index % 2 == 1).map(|queue| queue.counts.packets).sum::<u64>();
    }
    Ok(frames)
}

fn remove(engine: &mut Engine, stations: Vec<Station>) -> Result<()> {
    stations.iter().try_for_each(|station| engine.remove_device(station.device).map(drop).map_err(Into::into))
}

fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY).set_header(titles);
    table
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn mpps(rate: f64) -> String {
    format!("{:.2}", rate / 1e6)
}

/// One guest that sends all it can, beside guests that once said something; each row against windows without them, in turn.
fn idle(scene: &Scene) -> Result<Table> {
    let mut table = table(&["idle devices", "they kick", "alone Mpps", "beside them Mpps", "ratio"]);
    let mut engine = scene.engine(1, IdlePolicy::Poll)?;
    let mut active = scene.active(&mut engine, 1, scene.kind, 1)?;
    for (count, kicks) in [(10, true), (100, true), (1000, true), (10, false), (100, false), (1000, false)] {
        let kind = Kind { queue_size: 64, kicks, ..scene.kind };
        let (mut alone, mut beside, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let without = scene.rate(&mut engine, &mut active)?;
            let mut idle = (0..count)
                .map(|at| Station::new(&mut engine, 1000 + at, kind, PortConfig::Switch, vec![]))
                .collect::<Result<Vec<_>>>()?;
            for station in &mut idle {
                station.send(NOBODY, 1)?;
            }
            std::thread::sleep(Duration::from_millis(100));
            let with = scene.rate(&mut engine, &mut active)?;
            remove(&mut engine, idle)?;
            alone.push(without);
            beside.push(with);
            ratios.push(2.0 * with / (without + scene.rate(&mut engine, &mut active)?));
        }
        let kicks = if kicks { "yes" } else { "no" };
        let ratio = format!("{:.3}", median(ratios));
        table.add_row([&count.to_string(), kicks, &mpps(median(alone)), &mpps(median(beside)), &ratio]);
    }
    Ok(table)
}

fn queues(scene: &Scene) -> Result<Table> {
    let mut table = table(&["queue pairs of one device", "Mpps"]);
    for pairs in [1, 2, 4, 8, 16, 32, 64, 128] {
        let mut engine = scene.engine(1, IdlePolicy::Poll)?;
        let mut active = scene.active(&mut engine, 1, Kind { pairs, ..scene.kind }, 1)?;
        let rates = (0..ROUNDS).map(|_| scene.rate(&mut engine, &mut active)).collect::<Result<Vec<_>>>()?;
        table.add_row([pairs.to_string(), mpps(median(rates))]);
    }
    Ok(table)
}

fn devices(scene: &Scene) -> Result<Table> {
    let mut table = table(&["devices, all busy", "Mpps"]);
    for count in [1, 10, 100, 1000] {
        let mut engine = scene.engine(1, IdlePolicy::Poll)?;
        let mut active = scene.active(&mut engine, count, Kind { queue_size: 64, ..scene.kind }, 1)?;
        let rates = (0..ROUNDS).map(|_| scene.rate(&mut engine, &mut active)).collect::<Result<Vec<_>>>()?;
        table.add_row([count.to_string(), mpps(median(rates))]);
    }
    Ok(table)
}

fn workers(scene: &Scene) -> Result<Table> {
    let mut table = table(&["workers", "lcores for them", "devices", "Mpps", "busy"]);
    for count in [1, 2, 4] {
        for devices in [1, 8] {
            let mut engine = scene.engine(count, IdlePolicy::Poll)?;
            let kind = Kind { pairs: 8 / devices, ..scene.kind };
            let mut active = scene.active(&mut engine, devices, kind, count)?;
            let rates = (0..ROUNDS).map(|_| scene.rate(&mut engine, &mut active)).collect::<Result<Vec<_>>>()?;
            let busy: Vec<_> =
                engine.lcores().lcores.iter().map(|load| format!("{:.0} %", load.busy * 100.0)).collect();
            let lcores = count.min(scene.lcores.len());
            let cells =
                [count.to_string(), lcores.to_string(), devices.to_string(), mpps(median(rates)), busy.join(" ")];
            table.add_row(cells);
        }
    }
    Ok(table)
}

/// How long a frame takes from guest to guest, one at a time, while another guest sends all it can.
fn trickle(scene: &Scene) -> Result<Table> {
    let mut table = table(&["the flood goes to", "frames", "lost", "p50 µs", "p99 µs", "p99.9 µs", "flood Mpps"]);
    for flooded in [None, Some(1), Some(0)] {
        let mut engine = scene.engine(1, IdlePolicy::Poll)?;
        let mut station = |number| Station::new(&mut engine, number, scene.kind, PortConfig::Switch, vec![]);
        let (mut from, mut flooder) = (station(1)?, station(2)?);
        let mut receivers = [station(3)?, station(4)?];
        // Everybody says where they are.
        let deadline = Instant::now() + PATIENCE;
        for at in 0..2 {
            receivers[at].send(NOBODY, 1)?;
            while receivers[1 - at].received == 0 {
                anyhow::ensure!(Instant::now() < deadline, "a greeting did not arrive");
                receivers[1 - at].listen(NOBODY)?;
            }
        }
        let (mut taken, mut lost, mut flood) = (Histogram::<u64>::new(3)?, 0, 0);
        let start = Instant::now();
        while start.elapsed() < scene.window * ROUNDS as u32 {
            let (sent_at, mut arrived) = (Instant::now(), 0);
            from.send(receivers[0].mac, 1)?;
            while arrived == 0 && sent_at.elapsed() < Duration::from_millis(20) {
                if let Some(to) = flooded {
                    flooder.send(receivers[to].mac, 32)?;
                }
                arrived = receivers[0].listen(from.mac)?;
                if arrived > 0 {
                    taken.record(sent_at.elapsed().as_nanos() as u64)?;
                }
                flood += receivers[1].listen(NOBODY)?;
            }
            lost += u64::from(arrived == 0);
        }
        flood += receivers.iter().map(|receiver| receiver.received).sum::<u64>() - taken.len();
        let micros = |quantile| format!("{:.1}", taken.value_at_quantile(quantile) as f64 / 1000.0);
        let whom = match flooded {
            None => "nobody",
            Some(1) => "another",
            _ => "the same",
        };
        let rate = mpps(flood as f64 / start.elapsed().as_secs_f64());
        let (frames, lost) = (taken.len().to_string(), lost.to_string());
        table.add_row([whom, &frames, &lost, &micros(0.5), &micros(0.99), &micros(0.999), &rate]);
    }
    Ok(table)
}

/// A guest sends to another, never more under way than there are buffers for, while one of them is moved to and fro.
fn moves(scene: &Scene) -> Result<Table> {
    let mut table = table(&["moved", "moves", "frames", "lost", "p50 µs a move", "p99 µs a move"]);
    for who in ["sender", "receiver"] {
        let mut engine = scene.engine(2, IdlePolicy::Event)?;
        let mut one = Station::new(&mut engine, 1, scene.kind, PortConfig::Switch, vec![0])?;
        let mut other = Station::new(&mut engine, 2, scene.kind, PortConfig::Switch, vec![0])?;
        let deadline = Instant::now() + PATIENCE;
        other.send(NOBODY, 1)?;
        while one.received == 0 {
            anyhow::ensure!(Instant::now() < deadline, "a greeting did not arrive");
            one.listen(NOBODY)?;
        }
        let device = if who == "sender" { one.device } else { other.device };
        let (mut took, mut sent, start) = (Histogram::<u64>::new(3)?, 0, Instant::now());
        let mut moved_at = Instant::now();
        while start.elapsed() < scene.window * ROUNDS as u32 {
            if sent - other.received < 64 {
                sent += one.send(other.mac, 32)? as u64;
            }
            other.listen(NOBODY)?;
            if moved_at.elapsed() > Duration::from_millis(2) {
                let begin = Instant::now();
                engine.relocate(device, 0, (took.len() as usize + 1) % 2)?;
                took.record(begin.elapsed().as_nanos() as u64)?;
                moved_at = Instant::now();
            }
        }
        let deadline = Instant::now() + Duration::from_millis(200);
        while other.received < sent && Instant::now() < deadline {
            other.listen(NOBODY)?;
        }
        let micros = |quantile| format!("{:.0}", took.value_at_quantile(quantile) as f64 / 1000.0);
        let lost = sent - other.received;
        let counts = [took.len(), sent, lost].map(|count| count.to_string());
        table.add_row([who, &counts[0], &counts[1], &counts[2], &micros(0.5), &micros(0.99)]);
    }
    Ok(table)
}
