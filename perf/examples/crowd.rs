//! What two functions that exchange frames feel of a thousand others that are listed, made and taken away; and how long that takes
//! meanwhile. Over a controller of its own, by its sockets. Prints a table; judges nothing.
//!
//!     cargo build --release -p virtnet-control -p virtnet-cli -p virtnet-perf
//!     cargo run --release -p virtnet-perf --example crowd -- [--rate FPS] [--pfs N] [--vfs N] [--rounds N]
//!
//! The first lcore that this process may use is the worker's, the last one the guests', which are those of `virtnet-perf attach`;
//! everything else runs on any of them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::Table;
use hdrhistogram::Histogram;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use virtnet_control::rpc::Client;

const PATIENCE: Duration = Duration::from_secs(20);
const LISTS: usize = 10;
/// What goes before each thing that is done, and is measured with it.
const CALM: Duration = Duration::from_millis(500);

#[derive(Parser)]
struct Args {
    /// Frames a second from one function to the other.
    #[arg(long, default_value_t = 1_000_000)]
    rate: u32,
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

/// Frames from one function to the other, until they are [`Self::end`]ed.
struct Exchange(Option<Child>);

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(mut attached) = self.0.take() {
            let _ = attached.kill();
            let _ = attached.wait();
        }
    }
}

impl Exchange {
    fn begin(house: &House, rate: u32, lcore: usize) -> Result<Self> {
        let mut attach = Command::new(house.programs.join("virtnet-perf"));
        attach.arg("attach").arg("--socket").arg(house.folder.path().join("pf0.sock"));
        attach.arg("--peer-socket").arg(house.folder.path().join("pf1.sock"));
        attach.args(["--direction", "guest-to-guest", "--ring", "split", "--features", "none", "--allow-loss"]);
        attach.args(["--frame-bytes", "64", "--seconds", "3600", "--json", "-", "--rate", &rate.to_string()]);
        attach.args(["--driver-lcores", &lcore.to_string()]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let attached =
            attach.spawn().with_context(|| format!("{}: is virtnet-perf built?", house.programs.display()))?;
        std::thread::sleep(CALM);
        Ok(Exchange(Some(attached)))
    }

    /// What it reports.
    fn end(mut self) -> Result<Value> {
        let attached = self.0.take().context("it has ended")?;
        kill_process(Pid::from_child(&attached), Signal::INT)?;
        let output = attached.wait_with_output()?;
        let report = output.stdout.split(|&byte| byte == b'\n').next().unwrap_or_default();
        serde_json::from_slice(report)
            .with_context(|| format!("virtnet-perf attach: {}", String::from_utf8_lossy(&output.stderr)))
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
    frames: u64,
    lost: u64,
    /// By round: frames a second, and a percentile of latency in nanoseconds.
    rates: Vec<f64>,
    p50s: Vec<f64>,
    p99s: Vec<f64>,
}

impl Row {
    fn new(what: String) -> Result<Self> {
        let (frames, lost, rates, p50s, p99s) = Default::default();
        Ok(Row { what, took: Histogram::new(3)?, frames, lost, rates, p50s, p99s })
    }

    /// Does something `times`, while frames go on.
    fn add(&mut self, exchange: Exchange, times: usize, mut act: impl FnMut() -> Result<()>) -> Result<()> {
        for _ in 0..times {
            let start = Instant::now();
            act()?;
            self.took.record(start.elapsed().as_micros() as u64)?;
        }
        let report = exchange.end()?;
        let number =
            |at: &str| report.pointer(at).and_then(Value::as_f64).with_context(|| format!("no {at}: {report}"));
        let frames = number("/frames_received")?;
        self.frames += frames as u64;
        self.lost += (number("/integrity/lost")? + number("/drops")?) as u64;
        self.rates.push(frames / number("/seconds")?);
        self.p50s.push(number("/latency_ns/p50")?);
        self.p99s.push(number("/latency_ns/p99")?);
        Ok(())
    }

    fn cells(&mut self, calm: f64) -> Vec<String> {
        let rate = median(&mut self.rates);
        let millis = |micros: u64| format!("{:.1}", micros as f64 / 1000.0);
        vec![
            self.what.clone(),
            millis(self.took.value_at_quantile(0.5)),
            millis(self.took.max()),
            format!("{:.3}", rate / 1e6),
            format!("{:.3}", rate / calm),
            self.frames.to_string(),
            self.lost.to_string(),
            format!("{:.1}", median(&mut self.p50s) / 1000.0),
            format!("{:.1}", median(&mut self.p99s) / 1000.0),
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
    let vfs = args.pfs * args.vfs;
    let functions = args.pfs + vfs;
    let mut nothing = Row::new("nothing".to_owned())?;
    let mut made = Row::new(format!("{vfs} VFs made"))?;
    let mut listed = Row::new(format!("{functions} functions listed"))?;
    let mut gone = Row::new(format!("{vfs} VFs taken away"))?;
    for _ in 0..args.rounds {
        let exchange = |house: &House| Exchange::begin(house, args.rate, last);
        nothing.add(exchange(&house)?, 1, || {
            std::thread::sleep(CALM);
            Ok(())
        })?;
        made.add(exchange(&house)?, 1, || house.set_vfs(&args, args.vfs))?;
        listed.add(exchange(&house)?, LISTS, || house.list())?;
        gone.add(exchange(&house)?, 1, || house.set_vfs(&args, 0))?;
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
