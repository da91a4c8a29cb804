//! The command line of `self-loop`, the same whether DPDK is built in or not.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::{Direction, Features, Ring, seconds};
use crate::frame::Sizes;

/// Which of its paths DPDK's driver takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// The ordinary one.
    Scalar,
    /// The one with vector instructions: split, single buffers, any order; or packed, single buffers, in order, with AVX-512.
    Vectorised,
}

/// `self-loop`.
#[derive(Clone, Debug, Args)]
pub struct SelfLoopArgs {
    /// Which way frames go; several with commas [default: all four]
    #[arg(long, value_delimiter = ',')]
    pub direction: Vec<Direction>,
    /// Virtqueue layout; several with commas [default: both]
    #[arg(long, value_name = "LAYOUT", value_delimiter = ',')]
    pub ring: Vec<Ring>,
    /// Features negotiated, with commas: mrg_rxbuf, in_order; or none. Give it again for another mix [default: all four mixes]
    #[arg(long, value_name = "LIST")]
    pub features: Vec<Features>,
    /// The driver's path; several with commas [default: both, the vectorised one where the driver has it]
    #[arg(long, value_name = "PATH", value_delimiter = ',')]
    pub driver: Vec<Path>,
    /// Bytes of a frame as it lies in the virtqueue (no frame check sequence): 64 to 1518, or imix (64, 594, 1518; 7:4:1);
    /// several with commas
    #[arg(long, value_name = "N|imix", default_value = "64,1518,imix", value_delimiter = ',')]
    pub frame_bytes: Vec<Sizes>,
    /// Descriptors of a queue: 64 to 4096, a power of two
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(64..=4096))]
    pub queue_size: u16,
    /// Frames that either side takes at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub burst: u16,
    /// Milliseconds that a device is measured before it is the other's turn
    #[arg(long, value_name = "MS", default_value_t = 4.0, value_parser = slice_ms)]
    pub slice_ms: f64,
    /// Seconds for each line of the table, both devices together
    #[arg(long, value_name = "N", default_value = "1", value_parser = seconds)]
    pub seconds: f64,
    /// The lcore of the one thread that is both driver and device [default: the last]
    #[arg(long, value_name = "N")]
    pub lcore: Option<usize>,
    /// Ordinary memory, even where there are huge pages
    #[arg(long)]
    pub no_huge: bool,
    /// A tiny run, to see that everything works: its figures mean nothing
    #[arg(long)]
    pub smoke: bool,
    /// One JSON object a line of the table, to a file or (-) to standard output; docs/perf.md names the keys
    #[arg(long, value_name = "FILE|-", help_heading = "Results")]
    pub json: Option<PathBuf>,
}

fn slice_ms(text: &str) -> Result<f64, String> {
    let ms = text.parse().unwrap_or(f64::NAN);
    if (0.2..=1000.0).contains(&ms) { Ok(ms) } else { Err("0.2 to 1000 milliseconds".to_owned()) }
}
