//! `query`, `stats` and `health`.

use clap::Args;

use super::selector::{Device, Devices};
use super::value;
use crate::request::Request;

/// `query`
#[derive(Debug, Args)]
pub struct Query {
    #[command(flatten)]
    devices: Devices,
    /// One queue only, by its index.
    #[arg(short, long = "queue_id", value_name = "N", value_parser = value::number)]
    queue_id: Option<u64>,
    /// Without queues.
    #[arg(short, long)]
    brief: bool,
    /// With counters for debugging.
    #[arg(long = "dbg_stats")]
    dbg_stats: bool,
    /// With how long each queue has had chains or frames in hand, in nanoseconds.
    #[arg(long = "latency_stats")]
    latency_stats: bool,
    /// Begin the counters for debugging, and latencies, of all queues again at 0 after this reply.
    #[arg(long = "stats_clear")]
    stats_clear: bool,
}

/// `stats`
#[derive(Debug, Args)]
pub struct Stats {
    #[command(flatten)]
    device: Device,
    /// One queue only, by its index.
    #[arg(short, long = "queue_id", value_name = "N", value_parser = value::number)]
    queue_id: Option<u64>,
}

/// `health`
#[derive(Debug, Args)]
pub struct Health {
    #[command(flatten)]
    devices: Devices,
    /// What is done with or without this word.
    #[arg(value_parser = ["show"])]
    show: Option<String>,
}

impl Query {
    /// The echo begins with what is last in other commands' echoes.
    pub fn request(&self) -> Request {
        let Devices { one, all } = &self.devices;
        Request::new("query")
            .flag("all", *all)
            .given("vf", one.vf)
            .given("pf", one.pf)
            .given("vuid", one.vuid.as_deref())
            .given("queue_id", self.queue_id)
            .flag("dbg_stats", self.dbg_stats)
            .flag("brief", self.brief)
            .flag("latency_stats", self.latency_stats)
            .flag("stats_clear", self.stats_clear)
    }
}

impl Stats {
    pub fn request(&self) -> Request {
        self.device.add_to(Request::new("stats")).given("queue_id", self.queue_id)
    }
}

impl Health {
    pub fn request(&self) -> Request {
        self.devices.add_to(Request::new("health")).echoed("subcmd", 0)
    }
}
