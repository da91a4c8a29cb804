//! The same front end, DPDK's virtio-user, against DPDK's own vhost back end and against our daemon, one core on each side.
//!
//! `scripts/bench-dpdk` prepares the machine and runs it. Both pairs of processes stay up for a cell of the table; all but
//! the pair that is measured are stopped (SIGSTOP), and the two take turns in windows of a fraction of a second. Around each
//! window the round trip of a cache line between the two lcores is taken: only neighbouring windows of the same class make a
//! ratio. What the figures are not: comparable with those of another hour.

mod cell;
#[path = "../../src/environment.rs"]
mod environment;
mod lcore;
#[path = "../../src/probe.rs"]
mod probe;
#[path = "../../../tests/clients/process.rs"]
#[allow(dead_code)] // the tests need more of it
mod process;
mod report;
#[path = "../../src/statistics.rs"]
mod statistics;
mod testpmd;

use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use cell::{Cell, Direction, Frames, Ring};

/// Rates of a virtio-user front end against DPDK's vhost and against our daemon, in alternating windows.
#[derive(Parser)]
struct Arguments {
    /// dpdk-testpmd, or what starts it.
    #[arg(long)]
    testpmd: PathBuf,
    /// Our daemon.
    #[arg(long)]
    controller: PathBuf,
    /// Pairs of windows for each cell.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of a window.
    #[arg(long, default_value_t = 200)]
    window_ms: u64,
    /// Only the cells whose name holds each of these words, for example "packed loopback 64".
    #[arg(long, default_value = "")]
    only: String,
    /// Without huge pages: ordinary memory on all sides.
    #[arg(long)]
    no_huge: bool,
    /// Where to write all figures, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What all cells have in common.
struct Bench {
    testpmd: PathBuf,
    controller: PathBuf,
    huge: bool,
    window: Duration,
    rounds: usize,
    lcores: [usize; 2],
}

fn main() {
    let arguments = Arguments::parse();
    let [device, driver, ..] = lcore::usable()[..] else {
        eprintln!("one core on each side takes two; this process may use one");
        std::process::exit(1);
    };
    let bench = Bench {
        testpmd: arguments.testpmd,
        controller: arguments.controller,
        huge: !arguments.no_huge,
        window: Duration::from_millis(arguments.window_ms.max(20)),
        rounds: arguments.rounds.max(1),
        lcores: [device, driver],
    };
    let words: Vec<&str> = arguments.only.split_whitespace().collect();
    let wanted = |cell: &Cell| {
        let name = cell.to_string();
        words.iter().all(|word| name.split(' ').any(|part| part == *word))
    };
    let mut results = Vec::new();
    for ring in Ring::all() {
        let cells: Vec<Cell> = Direction::ALL
            .into_iter()
            .flat_map(|direction| Frames::ALL.map(|frames| Cell { ring, direction, frames }))
            .filter(wanted)
            .collect();
        if cells.is_empty() {
            continue;
        }
        let mut theirs = testpmd::Pair::dpdk(&bench, ring);
        for cell in cells {
            let mut ours = testpmd::Pair::controller(&bench, cell);
            let result = cell::measure(&bench, cell, &mut theirs, &mut ours);
            println!("{}", report::line(&result));
            results.push(result);
        }
    }
    println!("\n{}", report::table(&results));
    if let Some(path) = arguments.json {
        std::fs::write(&path, report::json(&bench, &results))
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        println!("written {}", path.display());
    }
}
