//! The command line of `sweep`.

use clap::Args;

use crate::args::{Direction, Lcores, LoadArgs, QueueArgs, ResultArgs, Ring, rate, seconds};
use crate::frame::Sizes;

/// `sweep`.
#[derive(Clone, Debug, Args)]
pub struct SweepArgs {
    /// Lcores for workers, as in 2-5,8: every range of neighbours in this list is measured [default: those that the guest has
    /// not, from the first on]
    #[arg(long, value_name = "LIST", help_heading = "Engine")]
    pub lcores: Option<Lcores>,
    /// How many workers, with commas [default: 1,2,4 as far as there are lcores; with --lcores: every number]
    #[arg(long, value_name = "N", value_delimiter = ',', help_heading = "Engine",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub workers: Vec<u16>,
    /// Which way frames go; several with commas [default: all four]
    #[arg(long, value_delimiter = ',')]
    pub direction: Vec<Direction>,
    /// Seconds of a round of each cell
    #[arg(long, value_name = "N", default_value = "0.3", value_parser = seconds)]
    pub seconds: f64,
    /// Rounds: all cells are measured once before any is measured again
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Frames a second, as in 250k or 1.5M, instead of as many as go: all queues together
    #[arg(long, value_name = "N", value_parser = rate)]
    pub rate: Option<f64>,
    /// Virtqueue layout; several with commas [default: both]
    #[arg(long, value_name = "LAYOUT", value_delimiter = ',', help_heading = "Load")]
    pub ring: Vec<Ring>,
    /// Bytes of a frame as it lies in the virtqueue (no frame check sequence): 64 to 9216, or imix (64, 594, 1518; 7:4:1);
    /// several with commas
    #[arg(long, value_name = "N|imix", default_value = "64,1518", value_delimiter = ',', help_heading = "Load")]
    pub frame_bytes: Vec<Sizes>,
    /// Queue pairs of a guest; several with commas
    #[arg(long, value_name = "N", default_value = "1,4", value_delimiter = ',', help_heading = "Load",
        value_parser = clap::value_parser!(u16).range(1..=64))]
    pub queues: Vec<u16>,
    /// Queues.
    #[command(flatten)]
    pub queue: QueueArgs,
    /// Lcores of the guest's threads, as in 2-5,8 [default: the last one that workers do not need]
    #[arg(long, value_name = "LIST", help_heading = "Load")]
    pub driver_lcores: Option<Lcores>,
    /// A tiny run, to see that everything works: its figures mean nothing
    #[arg(long, help_heading = "Load")]
    pub smoke: bool,
    /// Results.
    #[command(flatten)]
    pub results: ResultArgs,
}

impl SweepArgs {
    /// The load of a guest with so many queue pairs.
    pub fn load(&self, queues: u16) -> LoadArgs {
        LoadArgs {
            ring: self.ring.clone(),
            frame_bytes: self.frame_bytes.clone(),
            queues,
            queue: self.queue.clone(),
            driver_lcores: self.driver_lcores.clone(),
            smoke: self.smoke,
        }
    }
}
