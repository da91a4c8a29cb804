//! The command line.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use virtnet_rings::spec::{net, virtq};

use crate::diff::DiffArgs;
use crate::frame::Sizes;
use crate::self_loop::args::SelfLoopArgs;
use crate::sweep::args::SweepArgs;
use crate::tune::args::TuneArgs;

/// Load generator and judge for virtio-net data paths.
///
/// A simulated guest drives virtqueues as fast as they go (or at a rate), checks that every frame that arrives is one that was
/// sent (sequence and length of each, checksum of a sample), and says how fast and how evenly they went.
///
/// Exit codes: 0 all is well; 1 it could not run, or what was asked for cannot be; 2 the command line makes no sense; 3 frames were silently lost, corrupted,
/// reordered or duplicated; 4 (diff) something became slower, (tune) no range of lcores reaches the
/// goal.
#[derive(Debug, Parser)]
#[command(name = "virtnet-perf", version, propagate_version = true, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Simulated guest, engine and port in one process: both ring layouts and all directions unless told otherwise.
    Run(RunArgs),
    /// The same load against any vhost-user back end, as its front end.
    Attach(AttachArgs),
    /// Round trips at a fixed rate or at shares of the capacity, each measured from the moment it was due: coordinated omission
    /// cannot hide a pause. Or of one frame at a time.
    Latency(LatencyArgs),
    /// Two back ends in alternating rounds, and the ratio of their rates with its spread.
    Versus(VersusArgs),
    /// The highest rate without loss, by halving. (RFC 2544, "Throughput")
    Search(SearchArgs),
    /// Rates over ranges of lcores, queues, layouts, frame sizes and directions, in one process, in interleaved rounds.
    Sweep(SweepArgs),
    /// For given devices and load, the range of lcores that reaches a goal, why, and the lines for virtnet.conf.
    Tune(TuneArgs),
    /// DPDK's virtio driver on one thread with DPDK's vhost device and ours in turns, and the ratio of what these cost
    SelfLoop(SelfLoopArgs),
    /// Two files of reports: what became faster or slower, and how sure that is
    Diff(DiffArgs),
}

impl Command {
    /// Where results are to be written.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let (results, json) = match self {
            Command::Run(args) => (Some(&args.results), None),
            Command::Attach(args) => (Some(&args.results), None),
            Command::Latency(args) => (Some(&args.results), None),
            Command::Versus(args) => (Some(&args.results), None),
            Command::Search(args) => (Some(&args.results), None),
            Command::Sweep(args) => (Some(&args.results), None),
            Command::Tune(args) => (None, args.json.as_deref()),
            Command::SelfLoop(args) => (None, args.json.as_deref()),
            Command::Diff(args) => (None, args.json.as_deref()),
        };
        let json = json.or(results.and_then(|results| results.json.as_deref())).filter(|path| *path != "-");
        let others = results.into_iter().flat_map(|results| [results.hdr.as_deref(), results.html.as_deref()]);
        json.into_iter().chain(others.flatten())
    }
}

/// Which way frames go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Out of a guest's transmitq, to a port that discards.
    FromGuest,
    /// Into a guest's receiveq, from a port that generates.
    ToGuest,
    /// Out of a guest and back into it.
    Loopback,
    /// Out of one guest, through the switch, into another.
    GuestToGuest,
}

impl Direction {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Direction::FromGuest => "from-guest",
            Direction::ToGuest => "to-guest",
            Direction::Loopback => "loopback",
            Direction::GuestToGuest => "guest-to-guest",
        }
    }

    /// All four.
    pub const ALL: [Direction; 4] =
        [Direction::FromGuest, Direction::ToGuest, Direction::Loopback, Direction::GuestToGuest];
}

/// The two virtqueue layouts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    /// "Split Virtqueues".
    Split,
    /// "Packed Virtqueues".
    Packed,
}

impl Ring {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Ring::Split => "split",
            Ring::Packed => "packed",
        }
    }
}

/// Features that change how frames lie in the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Feature {
    /// A frame may fill several receive buffers.
    MrgRxbuf,
    /// Chains are used in the order in which they were offered.
    InOrder,
    /// Notifications are asked for by position.
    EventIdx,
    /// The guest sends through indirect tables.
    Indirect,
}

impl Feature {
    /// The feature's bit.
    pub fn bit(self) -> u64 {
        1 << match self {
            Feature::MrgRxbuf => net::VIRTIO_NET_F_MRG_RXBUF,
            Feature::InOrder => virtq::VIRTIO_F_IN_ORDER,
            Feature::EventIdx => virtq::VIRTIO_F_EVENT_IDX,
            Feature::Indirect => virtq::VIRTIO_F_INDIRECT_DESC,
        }
    }
}

/// A list of features; `none` for an empty one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Features(pub Vec<Feature>);

impl Features {
    /// Whether `feature` is among them.
    pub fn has(&self, feature: Feature) -> bool {
        self.0.contains(&feature)
    }
}

impl FromStr for Features {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Features(Vec::new()));
        }
        let mut features = Vec::new();
        for name in text.split(',') {
            let feature = Feature::from_str(name, false)
                .map_err(|_| format!("'{name}': mrg_rxbuf, in_order, event_idx and indirect are known, or none"))?;
            if !features.contains(&feature) {
                features.push(feature);
            }
        }
        Ok(Features(features))
    }
}

/// Lcores as in "2-5,8".
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Lcores(pub Vec<usize>);

impl FromStr for Lcores {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const LCORE_MAX: usize = 4095;
        let wrong = |part: &str| format!("'{part}': lcores are numbers up to {LCORE_MAX} or ranges, as in 2-5,8");
        let mut lcores = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let number = |text: &str| text.parse::<usize>().ok().filter(|&lcore| lcore <= LCORE_MAX);
            let (Some(first), Some(last)) = (number(first), number(last)) else { return Err(wrong(part)) };
            if first > last {
                return Err(wrong(part));
            }
            lcores.extend(first..=last);
        }
        lcores.sort_unstable();
        lcores.dedup();
        Ok(Lcores(lcores))
    }
}

/// Frames a second, as in 250000, 250k or 1.5M.
pub fn rate(text: &str) -> Result<f64, String> {
    let (digits, scale) = match text.char_indices().last() {
        Some((at, 'k')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        _ => (text, 1.0),
    };
    let rate = digits.parse::<f64>().map(|value| value * scale).unwrap_or(f64::NAN);
    if (1.0..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err("1 to 1000M frames a second, as in 250k or 1.5M".to_owned())
    }
}

/// Seconds, as in 2 or 0.5.
pub fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.parse().unwrap_or(f64::NAN);
    if (0.01..=86_400.0).contains(&seconds) { Ok(seconds) } else { Err("0.01 to 86400 seconds".to_owned()) }
}

/// Percent of a capacity.
fn share(text: &str) -> Result<f64, String> {
    let percent = text.parse().unwrap_or(f64::NAN);
    if percent > 0.0 && percent <= 100.0 { Ok(percent) } else { Err("above 0, up to 100 percent".to_owned()) }
}

/// A part of 1, but not all of it.
pub fn part_of_one(text: &str) -> Result<f64, String> {
    let part = text.parse().unwrap_or(f64::NAN);
    if (0.0..1.0).contains(&part) { Ok(part) } else { Err("0 or more, below 1".to_owned()) }
}

/// What all queues have in common.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct QueueArgs {
    /// Descriptors of a queue: up to 32768; split: a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(8..=32768))]
    pub queue_size: u16,
    /// Frames the guest sends, and chains a worker takes, at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub burst: u16,
    /// Features negotiated, with commas: mrg_rxbuf, in_order, event_idx, indirect; or none
    #[arg(long, value_name = "LIST", default_value = "mrg_rxbuf")]
    pub features: Features,
}

/// What the simulated guest does.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Virtqueue layout; several with commas [default: both]
    #[arg(long, value_name = "LAYOUT", value_delimiter = ',')]
    pub ring: Vec<Ring>,
    /// Bytes of a frame as it lies in the virtqueue (no frame check sequence): 64 to 9216, or imix (64, 594, 1518; 7:4:1);
    /// several with commas
    #[arg(long, value_name = "N|imix", default_value = "64", value_delimiter = ',')]
    pub frame_bytes: Vec<Sizes>,
    /// Queue pairs of a guest
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Queues.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Lcores of the guest's threads, as in 2-5,8 [default: the last ones, one thread]
    #[arg(long, value_name = "LIST")]
    pub driver_lcores: Option<Lcores>,
    /// A tiny run, to see that everything works: its figures mean nothing
    #[arg(long)]
    pub smoke: bool,
}

/// Where results go.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Results")]
pub struct ResultArgs {
    /// One JSON object a run, one a line, to a file or (-) to standard output; docs/perf.md names the keys
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
    /// Latency histogram: HdrHistogram's percentile text, or its interval log (V2) if FILE ends in .hlog
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// A page with table and plots that needs nothing else
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// What a worker in this process runs on.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct EngineArgs {
    /// Lcores of the engine's workers, as in 2-5,8 [default: the first that is free]
    #[arg(long, value_name = "LIST")]
    pub lcores: Option<Lcores>,
}

/// `run`'s own.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Engine")]
pub struct OneCoreArgs {
    /// Turn the engine by hand on the guest's thread: no cache line travels, placement and neighbours matter little, and what a
    /// frame costs either side is told
    #[arg(long, conflicts_with = "lcores")]
    pub one_core: bool,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// Which way frames go; several with commas [default: all four]
    #[arg(long, value_delimiter = ',')]
    pub direction: Vec<Direction>,
    /// Seconds measured for each line of the table
    #[arg(long, value_name = "N", default_value = "2", value_parser = seconds)]
    pub seconds: f64,
    /// Frames a second, as in 250k or 1.5M, instead of as many as go: all queues together
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Send the frames of a capture (pcap or pcapng) instead of our own
    #[arg(long, value_name = "FILE", conflicts_with = "frame_bytes")]
    pub pcap: Option<PathBuf>,
    /// Load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// One core.
    #[command(flatten)]
    pub one_core: OneCoreArgs,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
    /// Break every so many frames on their way, to see that it is noticed.
    #[arg(long, hide = true, value_name = "corrupt|lose|repeat|swap:N")]
    pub inject: Option<Injection>,
}

/// How a back end is reached.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Back end")]
pub struct SocketArgs {
    /// The vhost-user socket
    #[arg(long, value_name = "PATH")]
    pub socket: PathBuf,
    /// Listen at the socket and let the back end connect to it
    #[arg(long)]
    pub server: bool,
    /// Socket of a second device, which gets what the first one's guest sends (guest-to-guest)
    #[arg(long, value_name = "PATH")]
    pub peer_socket: Option<PathBuf>,
    /// Loss of frames is no failure: the back end counts its drops where we cannot see them
    #[arg(long)]
    pub allow_loss: bool,
}

/// `attach`.
#[derive(Clone, Debug, Args)]
pub struct AttachArgs {
    /// Back end.
    #[command(flatten)]
    pub socket: SocketArgs,
    /// Which way frames go: what the back end does with them decides; several with commas [default: loopback, or
    /// guest-to-guest with --peer-socket]
    #[arg(long, value_delimiter = ',')]
    pub direction: Vec<Direction>,
    /// Seconds measured for each line of the table
    #[arg(long, value_name = "N", default_value = "2", value_parser = seconds)]
    pub seconds: f64,
    /// Frames a second, as in 250k or 1.5M, instead of as many as go: all queues together
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// `latency`.
#[derive(Clone, Debug, Args)]
pub struct LatencyArgs {
    /// Measure this vhost-user back end instead of the engine in this process
    #[arg(long, value_name = "PATH", conflicts_with = "lcores")]
    pub socket: Option<PathBuf>,
    /// Listen at the socket and let the back end connect to it
    #[arg(long, requires = "socket")]
    pub server: bool,
    /// Which way frames go: all but to-guest, of whose frames nobody here knows when they were sent; several with commas
    #[arg(long, value_delimiter = ',', default_value = "loopback")]
    pub direction: Vec<Direction>,
    /// Seconds measured for each line of the table
    #[arg(long, value_name = "N", default_value = "5", value_parser = seconds)]
    pub seconds: f64,
    /// Frames a second, as in 250k or 1.5M: all queues together
    #[arg(long, value_name = "N", default_value = "100k", value_parser = rate, conflicts_with_all = ["capacity_percent", "unloaded"])]
    pub rate: f64,
    /// Find the highest rate without loss first, and measure at these shares of it; several with commas, as in 10,50,80
    #[arg(long, value_name = "N", value_delimiter = ',', value_parser = share, conflicts_with = "unloaded")]
    pub capacity_percent: Vec<f64>,
    /// One frame at a time on a loop, beside what the machine needs for it at least: line transfers and a copy
    #[arg(long)]
    pub unloaded: bool,
    /// Load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// `versus`.
#[derive(Clone, Debug, Args)]
pub struct VersusArgs {
    /// Socket of a back end that runs; give it twice, or once with one --command
    #[arg(long, value_name = "PATH")]
    pub socket: Vec<PathBuf>,
    /// Command that starts a back end, run by the shell, {socket} standing for the socket it is to listen at; it is stopped
    /// (SIGSTOP) while the other is measured
    #[arg(long, value_name = "COMMAND")]
    pub command: Vec<String>,
    /// Stop (SIGSTOP) the process at a --socket, too, while the other is measured
    #[arg(long)]
    pub pause: bool,
    /// Compare only rounds in which neither side waited for its lcore for more than this part of the time
    #[arg(long, value_name = "PART", default_value = "0.05", value_parser = part_of_one)]
    pub waited_max: f64,
    /// Rounds of each
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub rounds: u32,
    /// Seconds measured in a round
    #[arg(long, value_name = "N", default_value = "0.3", value_parser = seconds)]
    pub seconds: f64,
    /// Which way frames go: what the back ends do with them decides
    #[arg(long, default_value = "loopback")]
    pub direction: Direction,
    /// The lcore the back ends poll on, for the placement probe [default: found by looking]
    #[arg(long, value_name = "N")]
    pub backend_lcore: Option<usize>,
    /// Loss of frames is no failure: the back ends count their drops where we cannot see them
    #[arg(long)]
    pub allow_loss: bool,
    /// Load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// `search`.
#[derive(Clone, Debug, Args)]
pub struct SearchArgs {
    /// Search with this vhost-user back end instead of the engine in this process
    #[arg(long, value_name = "PATH", conflicts_with = "lcores")]
    pub socket: Option<PathBuf>,
    /// Listen at the socket and let the back end connect to it
    #[arg(long, requires = "socket")]
    pub server: bool,
    /// Which way frames go; several with commas [default: all four, or loopback with --socket]
    #[arg(long, value_delimiter = ',')]
    pub direction: Vec<Direction>,
    /// Seconds of a trial
    #[arg(long, value_name = "N", default_value = "0.5", value_parser = seconds)]
    pub seconds: f64,
    /// Highest rate to try, in frames a second [default: what goes through without a rate]
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate_max: Option<f64>,
    /// Stop when the rate is known to this part of the highest
    #[arg(long, value_name = "PART", default_value = "0.02", value_parser = part_of_one)]
    pub resolution: f64,
    /// Frames that may be lost, as a part of those sent
    #[arg(long, value_name = "PART", default_value = "0", value_parser = part_of_one)]
    pub loss_tolerance: f64,
    /// How long a frame may wait for room in the ring before it counts as lost, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2.0)]
    pub patience_ms: f64,
    /// Trials of a rate before it counts as too high
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub attempts: u32,
    /// Load.
    #[command(flatten)]
    pub load: LoadArgs,
    /// Engine.
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
}

/// A fault put into the path, for tests of the judge itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Injection {
    /// What is done to the frame.
    pub fault: InjectedFault,
    /// To one frame in how many.
    pub every: u64,
}

/// What an [`Injection`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum InjectedFault {
    /// A bit of the content is wrong.
    Corrupt,
    /// The frame is gone.
    Lose,
    /// The frame comes twice.
    Repeat,
    /// The frame and the next change places.
    Swap,
}

impl FromStr for Injection {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once(':').and_then(|(fault, every)| {
            let every = every.parse().ok().filter(|&every| every > 0)?;
            Some(Injection { fault: InjectedFault::from_str(fault, false).ok()?, every })
        });
        parsed.ok_or_else(|| "corrupt, lose, repeat or swap, a colon, one frame in how many".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn lcores_are_read_as_lists_and_ranges() {
        assert_eq!("2-5,8,3".parse(), Ok(Lcores(vec![2, 3, 4, 5, 8])));
        for text in ["", "5-2", "a", "1,,2", "-1", "1-", "4096", "0-99999999999"] {
            assert!(text.parse::<Lcores>().is_err(), "{text}");
        }
    }

    #[test]
    fn rates_have_suffixes_and_bounds() {
        assert_eq!(rate("250k"), Ok(250e3));
        assert_eq!(rate("1.5M"), Ok(1.5e6));
        assert_eq!(rate("7"), Ok(7.0));
        for text in ["", "k", "0", "-1", "inf", "nan", "2000M", "1µ"] {
            assert!(rate(text).is_err(), "{text}");
        }
    }

    #[test]
    fn features_are_a_list_without_repetition() {
        assert_eq!("none".parse(), Ok(Features(vec![])));
        assert_eq!("in_order,mrg_rxbuf,in_order".parse(), Ok(Features(vec![Feature::InOrder, Feature::MrgRxbuf])));
        assert!("in-order".parse::<Features>().unwrap_err().contains("event_idx"));
    }

    #[test]
    fn an_injection_names_a_fault_and_how_often() {
        assert_eq!("lose:10".parse(), Ok(Injection { fault: InjectedFault::Lose, every: 10 }));
        for text in ["lose", "lose:0", "eat:1", ":"] {
            assert!(text.parse::<Injection>().is_err(), "{text}");
        }
    }
}
