//! The command line of `tune`.

use std::path::PathBuf;

use clap::Args;

use super::goal::Goal;
use crate::args::{Direction, Lcores, LoadArgs, QueueArgs, Ring, rate, seconds};
use crate::frame::Sizes;

/// `tune`.
#[derive(Clone, Debug, Args)]
pub struct TuneArgs {
    /// What is to be reached: max-throughput; p99=TIME (each device, at the load's rate, nothing lost, fewest lcores); rate=FRAMES
    /// (a second, all devices together, nothing lost, fewest lcores)
    #[arg(long, value_name = "GOAL", default_value = "max-throughput")]
    pub goal: Goal,
    /// Lcores that workers may have, as in 2-5,8 [default: all but the guests']
    #[arg(long, value_name = "LIST", help_heading = "Engine")]
    pub lcores: Option<Lcores>,
    /// Ranges tried of each width, the best placed first
    #[arg(long, value_name = "N", default_value_t = 2, help_heading = "Engine",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub ranges: u16,
    /// Seconds of a round of each range [default: 0.5; of a capture at its own pace as long as it is, 60 at most]
    #[arg(long, value_name = "N", value_parser = seconds)]
    pub seconds: Option<f64>,
    /// Rounds, and as many again of the choice and its runner-up
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Devices, all with the same load
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub devices: u16,
    /// Queue pairs of each device
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Load",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: u16,
    /// Virtqueue layout
    #[arg(long, value_name = "LAYOUT", default_value = "packed", help_heading = "Load")]
    pub ring: Ring,
    /// Bytes of a frame as it lies in the virtqueue (no frame check sequence): 64 to 9216, or imix (64, 594, 1518; 7:4:1)
    #[arg(long, value_name = "N|imix", default_value = "64", help_heading = "Load")]
    pub frame_bytes: Sizes,
    /// Which way frames go; guest-to-guest takes two devices each
    #[arg(long, default_value = "loopback", help_heading = "Load")]
    pub direction: Direction,
    /// Frames a second, as in 250k or 1.5M, all devices together [default: as many as go; of a recorded load its own]
    #[arg(long, value_name = "N", value_parser = rate, help_heading = "Load")]
    pub rate: Option<f64>,
    /// Devices that differ, from a file: a JSON list; docs/perf.md has the keys
    #[arg(long, value_name = "FILE", help_heading = "Load",
        conflicts_with_all = ["devices", "queues", "ring", "frame_bytes", "direction", "rate", "recorded"])]
    pub load: Option<PathBuf>,
    /// Each device sends, or is sent, the frames of a capture (pcap or pcapng): p99= as they were captured, unless --rate says
    /// another pace
    #[arg(long, value_name = "FILE", conflicts_with = "frame_bytes", help_heading = "Load")]
    pub recorded: Option<PathBuf>,
    /// Queues.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Lcores of the guests' threads, as in 2-5,8 [default: the last one, or the last that --lcores has not]
    #[arg(long, value_name = "LIST", help_heading = "Load")]
    pub driver_lcores: Option<Lcores>,
    /// How long a frame may wait for room in the ring before it counts as lost, in milliseconds (rate=)
    #[arg(long, value_name = "MS", default_value_t = 2.0, value_parser = patience_ms)]
    pub patience_ms: f64,
    /// A tiny run, to see that everything works: its figures mean nothing
    #[arg(long, help_heading = "Load")]
    pub smoke: bool,
    /// One JSON object, to a file or (-) to standard output; docs/perf.md names the keys
    #[arg(long, value_name = "FILE|-", help_heading = "Results")]
    pub json: Option<PathBuf>,
}

fn patience_ms(text: &str) -> Result<f64, String> {
    let ms = text.parse().unwrap_or(f64::NAN);
    if (0.0..=1000.0).contains(&ms) { Ok(ms) } else { Err("0 to 1000 milliseconds".to_owned()) }
}

impl TuneArgs {
    /// The load of one device's guest.
    pub fn guest_load(&self, queues: u16, ring: Ring, frame_bytes: Sizes) -> LoadArgs {
        LoadArgs {
            ring: vec![ring],
            frame_bytes: vec![frame_bytes],
            queues,
            queue: self.queue.clone(),
            driver_lcores: self.driver_lcores.clone(),
            smoke: self.smoke,
        }
    }
}
