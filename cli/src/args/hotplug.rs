//! `hotplug` and `unplug`.

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args};

use super::value;
use crate::request::Request;

/// `hotplug`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("queues").required(true))]
pub struct Hotplug {
    /// The RDMA device it is made on: mlx5_0 for port 1, mlx5_1 for port 2, mlx5_bond_0 for both.
    #[arg(short, long = "ib_device", value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    ib_device: String,
    /// Feature bits to offer, hex; some are offered anyway.
    #[arg(short, long, value_name = "HEX", value_parser = value::hex)]
    features: Option<String>,
    /// Its address.
    #[arg(short, long, value_name = "MAC", value_parser = value::mac)]
    mac: String,
    /// Its MTU, less than the uplink's.
    #[arg(short = 't', long, value_name = "N", value_parser = value::number)]
    mtu: u64,
    /// Queues, all of them counted: 3 are a receive, a transmit and a control queue.
    #[arg(short = 'n', long = "max_queues", group = "queues", value_name = "N", value_parser = value::number)]
    max_queues: Option<u64>,
    /// Queue pairs; also -qp.
    #[arg(long = "max_queue_pairs", group = "queues", value_name = "N", value_parser = value::number)]
    max_queue_pairs: Option<u64>,
    /// Buffers a queue has at most: a power of 2 from 4 to 32768.
    #[arg(short = 's', long = "max_queue_size", value_name = "N", value_parser = value::number)]
    max_queue_size: u64,
    /// The number of its SF, 2000 to 2999.
    #[arg(short = 'u', long = "sf_num", value_name = "N", value_parser = value::number)]
    sf_num: Option<u64>,
    /// A transitional device, for legacy drivers, too; where VIRTIO_EMULATION_HOTPLUG_TRANS allows it.
    #[arg(short, long)]
    legacy: bool,
    /// The running guest to plug it into, as virtnet.conf calls it; without it, the only one that there is.
    #[arg(short, long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    guest: Option<String>,
    /// While the host is not up yet †.
    #[arg(long = "host_awareness")]
    host_awareness: bool,
}

/// `unplug`
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("function").required(true))]
pub struct Unplug {
    /// By its id.
    #[arg(short, long, group = "function", value_name = "N", value_parser = value::number)]
    pf: Option<u64>,
    /// By its serial number.
    #[arg(short = 'u', long, group = "function", value_parser = NonEmptyStringValueParser::new())]
    vuid: Option<String>,
    /// While the host is not up yet †.
    #[arg(long = "host_awareness")]
    host_awareness: bool,
}

impl Hotplug {
    pub fn request(&self) -> Request {
        Request::new("hotplug")
            .given("ib_device", Some(self.ib_device.as_str()))
            .given("features", self.features.as_deref())
            .given("mac", Some(self.mac.as_str()))
            .given("mtu", Some(self.mtu))
            .given("max_queues", self.max_queues)
            .given("max_queue_pairs", self.max_queue_pairs)
            .given("max_queue_size", Some(self.max_queue_size))
            .given("sf_num", self.sf_num)
            .flag("legacy", self.legacy)
            .given("guest", self.guest.as_deref())
            .given("host_awareness", self.host_awareness.then_some(true))
    }
}

impl Unplug {
    pub fn request(&self) -> Request {
        let request = Request::new("unplug").given("pf", self.pf).given("vuid", self.vuid.as_deref());
        request.given("host_awareness", self.host_awareness.then_some(true))
    }
}
