//! What two functions that exchange frames feel of a thousand others that are listed, made and taken away; and how long that takes
//! meanwhile. Over a controller of its own, by its sockets. Prints a table; judges nothing.
//!
//!     cargo build --release -p virtnet-control -p virtnet-cli
//!     cargo run --release -p virtnet-perf --example crowd -- [--rate FPS] [--pfs N] [--vfs N] [--rounds N]
//!
//! The first lcore that this process may use is the worker's, the last one the guests'; everything else runs on any of them.

mod guest;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::Table;
use hdrhistogram::Histogram;
use serde_json::json;
use virtnet_control::rpc::Client;

use crate::guest::Exchange;

const PATIENCE: Duration = Duration::from_secs(20);
const LISTS: usize = 10;

#[derive(Parser)]
struct Args {
    /// Frames a second from one function to the other; as many as go without it.
    #[arg(long)]
    rate: Option<f64>,
    /// Static PFs; the first two exchange frames.
    #[arg(long, default_value_t = 31)]
    pfs: u16,
    /// VFs of each.
    #[arg(long, default_value_t = 32)]
    vfs: u16,
    /// How often each thing is done, in turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

/// A controller in a folder of its own.
struct House {
    folder: tempfile::TempDir,
    programs: PathBuf,
    daemon: Child,
    client: Client,
}

impl Drop for House {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

impl House {
    fn new(args: &Args, lcore: usize) -> Result<Self> {
        // Examples are in a folder of the one where programs are.
        let own = std::env::current_exe()?;
        let programs = own.ancestors().nth(2).context("a build folder")?.to_owned();
        let folder = tempfile::Builder::new().prefix("virtnet-").tempdir()?;
        let config = folder.path().join("virtnet.conf");
        std::fs::write(&config, json!({ "lcores": lcore.to_string() }).to_string())?;
        let settings = [
            "VIRTIO_NET_EMULATION_ENABLE=1".to_owned(),
            format!("VIRTIO_NET_EMULATION_NUM_PF={}", args.pfs),
            format!("VIRTIO_NET_EMULATION_NUM_VF={}", args.vfs),
            "VIRTIO_NET_EMULATION_NUM_MSIX=4".to_owned(),
        ];
        let set = virtnet(&programs, folder.path()).args(["mlxconfig", "set"]).args(settings).output();
        let set = set.with_context(|| format!("{}: is virtnet built?", programs.display()))?;
        ensure!(set.status.success(), "virtnet mlxconfig: {}", String::from_utf8_lossy(&set.stderr));
        let mut daemon = Command::new(programs.join("virtio-net-controller"));
        daemon.arg("--config").arg(config).arg("--run-dir").arg(folder.path()).env("RUST_LOG", "error");
        let daemon = daemon.spawn().with_context(|| format!("{}: is it built?", programs.display()))?;
        let (socket, end) = (folder.path().join("virtnet.sock"), Instant::now() + PATIENCE);
        let client = loop {
            match Client::connect(&socket, PATIENCE) {
                Ok(client) => break client,
                Err(error) => ensure!(Instant::now() < end, "the controller does not answer: {error}"),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        Ok(House { folder, programs, daemon, client })
    }

    fn set_vfs(&mut self, args: &Args, vfs: u16) -> Result<()> {
        for pf in 0..args.pfs {
            self.client.call("sriov", json!({ "pf": pf, "num_vfs": vfs }))?;
        }
        Ok(())
    }

    /// As an operator has it: another process each time.
    fn list(&self) -> Result<()> {
        let status = virtnet(&self.programs, self.folder.path()).arg("list").stdout(Stdio::null()).status()?;
        ensure!(status.success(), "virtnet list: {status}");
        Ok(())
    }
}

fn virtnet(programs: &Path, folder: &Path) -> Command {
    let mut command = Command::new(programs.join("virtnet"));
    command.arg("--run-dir").arg(folder);
    command
}

/// What went on, and what the two made of it.
struct Row {
    what: String,
    took: Histogram<u64>,
    latency: Histogram<u64>,
    frames: u64,
    lost: u64,
    /// By window, frames a second.
    rates: Vec<f64>,
}

impl Row {
    fn new(what: String) -> Result<Self> {
        let (took, latency) = (Histogram::new(3)?, Histogram::new(3)?);
        Ok(Row { what, took, latency, frames: 0, lost: 0, rates: Vec::new() })
    }

    /// Does something `times`, while frames go on.
    fn add(&mut self, exchange: &mut Exchange, times: usize, mut act: impl FnMut() -> Result<()>) -> Result<()> {
        let stop = AtomicBool::new(false);
        let acted = std::thread::scope(|scope| {
            let frames = scope.spawn(|| exchange.run(&stop));
            let acted = (0..times).try_for_each(|_| {
                let start = Instant::now();
                act()?;
                self.took.record(start.elapsed().as_micros() as u64)?;
                anyhow::Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            acted.and(frames.join().expect("the guests do not panic"))
        })?;
        self.rates.push(acted.received as f64 / acted.seconds);
        self.frames += acted.received;
        self.lost += acted.lost;
        self.latency.add(acted.latency)?;
        Ok(())
    }

    fn cells(&mut self, calm: f64) -> Vec<String> {
        let rate = median(&mut self.rates);
        let micros = |quantile| format!("{:.1}", self.latency.value_at_quantile(quantile) as f64 / 1000.0);
        let millis = |micros: u64| format!("{:.1}", micros as f64 / 1000.0);
        vec![
            self.what.clone(),
            millis(self.took.value_at_quantile(0.5)),
            millis(self.took.max()),
            format!("{:.3}", rate / 1e6),
            format!("{:.3}", rate / calm),
            self.frames.to_string(),
            self.lost.to_string(),
            micros(0.5),
            micros(0.99),
        ]
    }
}

fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

fn main() -> Result<()> {
    let args = Args::parse();
    ensure!(args.pfs >= 2 && args.vfs >= 1 && args.rounds >= 1, "two PFs, a VF and a round at least");
    let mut lcores: Vec<usize> = core_affinity::get_core_ids().unwrap_or_default().iter().map(|core| core.id).collect();
    lcores.sort_unstable();
    let (Some(&first), Some(&last)) = (lcores.first(), lcores.last()) else { anyhow::bail!("no lcore to run on") };
    if first == last {
        println!("one lcore only: guests and worker take turns on it");
    }
    let mut house = House::new(&args, first)?;
    let sockets = ["pf0.sock", "pf1.sock"].map(|name| house.folder.path().join(name));
    let mut exchange = Exchange::new(&sockets, args.rate, last)?;
    let vfs = args.pfs * args.vfs;
    let functions = args.pfs + vfs;
    let mut nothing = Row::new("nothing".to_owned())?;
    let mut made = Row::new(format!("{vfs} VFs made"))?;
    let mut listed = Row::new(format!("{functions} functions listed"))?;
    let mut gone = Row::new(format!("{vfs} VFs taken away"))?;
    for _ in 0..args.rounds {
        let calm = || {
            std::thread::sleep(Duration::from_millis(500));
            Ok(())
        };
        nothing.add(&mut exchange, 1, calm)?;
        made.add(&mut exchange, 1, || house.set_vfs(&args, args.vfs))?;
        listed.add(&mut exchange, LISTS, || house.list())?;
        gone.add(&mut exchange, 1, || house.set_vfs(&args, 0))?;
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["meanwhile", "ms", "at most", "Mpps", "ratio", "frames", "lost", "p50 µs", "p99 µs"]);
    let calm = median(&mut nothing.rates);
    for mut row in [nothing, made, listed, gone] {
        table.add_row(row.cells(calm));
    }
    println!("{table}");
    Ok(())
}
