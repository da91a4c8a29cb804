//! The same front end, DPDK's virtio-user, against DPDK's own vhost back end, against our daemon, and against a back end that does
//! nothing, one core on each side.
//!
//! `scripts/bench-dpdk` prepares the machine and runs it. All pairs of processes stay up for a cell of the table; all but
//! the pair that is measured are stopped (SIGSTOP), and they take turns in windows of a fraction of a second. Around each
//! window the round trip of a cache line between the two lcores is taken: only neighbouring windows of the same class make a
//! ratio. What the figures are not: comparable with those of another hour.

mod cell;
#[path = "../../src/environment.rs"]
mod environment;
mod floor;
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
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use cell::{Cell, Contest, Ring};
use testpmd::Pair;

/// Rates of a virtio-user front end against DPDK's vhost, our daemon and a back end that does nothing, in alternating windows.
#[derive(Parser)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true, max_term_width = 100)]
struct Arguments {
    /// dpdk-testpmd, or what starts it
    #[arg(long, required = true)]
    testpmd: Option<PathBuf>,
    /// Our daemon
    #[arg(long, required = true)]
    controller: Option<PathBuf>,
    /// Windows of each back end for each cell
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Length of a window
    #[arg(long, default_value_t = 200)]
    window_ms: u64,
    /// Only the cells whose name holds each of these words, for example "packed loopback 64"
    #[arg(long, default_value = "")]
    only: String,
    /// What the back end that does nothing does after all with a frame
    #[arg(long, value_name = "DEED", default_value = "returns")]
    floor: floor::Deed,
    /// Without that back end: a third of the time is saved
    #[arg(long, conflicts_with = "floor")]
    no_floor: bool,
    /// Without huge pages: ordinary memory on all sides
    #[arg(long)]
    no_huge: bool,
    /// Where to write all figures, as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    role: Option<Role>,
}

#[derive(Subcommand)]
enum Role {
    /// Be the back end that does nothing
    #[command(hide = true)]
    Floor(floor::Floor),
}

/// What all cells have in common.
struct Bench {
    testpmd: PathBuf,
    controller: PathBuf,
    huge: bool,
    window: Duration,
    rounds: usize,
    lcores: Vec<usize>,
}

impl Bench {
    /// Lcores of a device of so many workers, and as many of its driver.
    fn lcores(&self, workers: usize) -> (Vec<usize>, Vec<usize>) {
        self.lcores.chunks_exact(2).take(workers).map(|pair| (pair[0], pair[1])).unzip()
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Role::Floor(floor)) = arguments.role {
        if let Err(error) = floor.run() {
            eprintln!("floor: {error:#}");
        }
        return ExitCode::FAILURE;
    }
    let (Some(testpmd), Some(controller)) = (arguments.testpmd, arguments.controller) else {
        unreachable!("clap asks for both")
    };
    let bench = Bench {
        testpmd,
        controller,
        huge: !arguments.no_huge,
        window: Duration::from_millis(arguments.window_ms.max(20)),
        rounds: arguments.rounds.max(1),
        lcores: lcore::usable(),
    };
    if bench.lcores.len() < 2 {
        eprintln!("one core on each side takes two lcores; this process may use {}", bench.lcores.len());
        return ExitCode::FAILURE;
    }
    let words: Vec<&str> = arguments.only.split_whitespace().collect();
    let wanted = |cell: &Cell| cell.has(&words);
    let asked: Vec<Cell> = Ring::all().into_iter().flat_map(Cell::all).filter(wanted).collect();
    if asked.is_empty() {
        eprintln!("no cell's name holds all of \"{}\"; one is \"{}\"", arguments.only, Cell::all(Ring::all()[0])[0]);
        return ExitCode::FAILURE;
    }
    let (cells, skipped): (Vec<Cell>, Vec<Cell>) =
        asked.into_iter().partition(|cell| 2 * cell.workers <= bench.lcores.len());
    if !skipped.is_empty() {
        println!(
            "SKIPPED: {} cells with two workers, which take four lcores; this process may use {}",
            skipped.len(),
            bench.lcores.len()
        );
    }
    let mut results = Vec::new();
    // DPDK's back end serves all cells that differ only in what goes through it.
    let alike = |one: &Cell, other: &Cell| {
        one.ring == other.ring && one.direction.guests() == other.direction.guests() && one.workers == other.workers
    };
    for cells in cells.chunk_by(alike) {
        let mut dpdk = Pair::dpdk(&bench, cells[0]);
        for &cell in cells {
            // It has one thread, which is not to be compared with two.
            let floor = (!arguments.no_floor && cell.workers == 1).then(|| Pair::floor(&bench, cell, arguments.floor));
            let contest = Contest { dpdk: &mut dpdk, ours: Pair::controller(&bench, cell), floor };
            let result = cell::measure(&bench, cell, contest);
            println!("{}", report::line(&result));
            results.push(result);
        }
    }
    println!("\n{}", report::table(&results, arguments.floor));
    if let Some(path) = arguments.json {
        if let Err(error) = std::fs::write(&path, report::json(&bench, &results, arguments.floor)) {
            eprintln!("{}: {error}", path.display());
            return ExitCode::FAILURE;
        }
        println!("written {}", path.display());
    }
    ExitCode::SUCCESS
}
