//! `modify`: of a device, or of how its queues notify.

use clap::{Args, Subcommand, ValueEnum};

use super::selector::Devices;
use super::value::{self, Toggle};
use crate::request::Request;

/// `modify`
#[derive(Debug, Args)]
pub struct Modify {
    #[command(flatten)]
    devices: Devices,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Properties of the device. Those with * need its driver unbound; those with † are not in this version.
    Device(Box<Properties>),
    /// How long all its queues hold notifications back.
    Queue(Moderation),
}

/// `modify device`
#[derive(Debug, Args)]
struct Properties {
    /// Address *.
    #[arg(short, long, value_name = "MAC", value_parser = value::mac)]
    mac: Option<String>,
    /// MTU *.
    #[arg(short = 't', long, value_name = "N", value_parser = value::number)]
    mtu: Option<u64>,
    /// Speed of the link in Mb/s: 10, 100, 1000, 10000, 25000, 40000, 50000, 100000, 200000 or 400000.
    #[arg(short = 'e', long, value_name = "N", value_parser = value::number)]
    speed: Option<u64>,
    /// The link: 0 down, 1 up.
    #[arg(short, long, value_name = "N", value_parser = value::link)]
    link: Option<u64>,
    /// Device status: 0 resets; 0x40 asks the driver for a reset, 0x80 ends it, alone or with the driver's bits.
    #[arg(short, long, value_name = "N", value_parser = value::number)]
    state: Option<u64>,
    /// Feature bits to offer, hex *.
    #[arg(short, long, value_name = "HEX", value_parser = value::hex)]
    features: Option<String>,
    /// Hash types that the driver may enable, hex: bits 0 to 2 IPv4, TCPv4, UDPv4, 3 to 5 the same of IPv6; of functions that offer hashes.
    #[arg(short = 'o', long = "supported_hash_types", value_name = "HEX", value_parser = value::hex)]
    supported_hash_types: Option<String>,
    /// Length of the hash key in bytes, 40, of functions that offer hashes.
    #[arg(short = 'k', long = "rss_max_key_size", value_name = "N", value_parser = value::number)]
    rss_max_key_size: Option<u64>,
    /// Receive mode, hex: bits 0 promisc, 1 allmulti, 2 alluni, 3 nomulti, 4 nouni, 5 nobcast.
    #[arg(short, long = "rx_mode", value_name = "HEX", value_parser = value::hex)]
    rx_mode: Option<String>,
    /// MSI-X vectors *.
    #[arg(short = 'n', long = "msix_num", conflicts_with = "max_queue_pairs", value_name = "N", value_parser = value::number)]
    msix_num: Option<u64>,
    /// Buffers a queue has at most: a power of 2 up to 32768 *.
    #[arg(short = 'q', long = "max_queue_size", value_name = "N", value_parser = value::number)]
    max_queue_size: Option<u64>,
    /// Queue pairs; also -qp *.
    #[arg(long = "max_queue_pairs", value_name = "N", value_parser = value::number)]
    max_queue_pairs: Option<u64>,
    /// TCP and UDP over IPv4 to this port go to the first queue, hex; 0 for none.
    #[arg(short, long = "dst_port", value_name = "HEX", value_parser = value::hex)]
    dst_port: Option<String>,
    /// Receive DMA queues, which are not here †.
    #[arg(short = 'b', long = "rx_dma_q_num", value_name = "N", value_parser = value::number)]
    rx_dma_q_num: Option<u64>,
    /// Counter of dropped packets; also -dc.
    #[arg(long = "drop_count")]
    drop_count: Option<Toggle>,
    /// Counters of packets by their size; also -pkt_cnt.
    #[arg(long = "packet_counter")]
    packet_counter: Option<Toggle>,
    /// Accelerated receive flow steering, of PFs; also -aarfs.
    #[arg(long = "aarfs_config")]
    aarfs_config: Option<Toggle>,
    /// Dynamic interrupt moderation; also -dim.
    #[arg(long = "dim_config")]
    dim_config: Option<Toggle>,
    /// The same by its other name; also -netdim.
    #[arg(long = "net_dim_config")]
    net_dim_config: Option<Toggle>,
    /// Packed virtqueues; also -packed_vq.
    #[arg(long = "packed_vq")]
    packed_vq: Option<Toggle>,
    /// Mergeable receive buffers; also -mrg_rxbuf.
    #[arg(long = "mrg_rxbuf")]
    mrg_rxbuf: Option<Toggle>,
}

/// `modify queue`
#[derive(Debug, Args)]
struct Moderation {
    /// From which moment the period counts.
    #[arg(short = 'e', long = "period_mode")]
    period_mode: PeriodMode,
    /// How long a notification may wait, in µs, 0 to 65535; with 0 none does.
    #[arg(short = 'n', long, value_name = "N", value_parser = value::number)]
    period: u64,
    /// Used buffers that end a wait, 0 to 65535; with 0 only the period does.
    #[arg(short = 'c', long = "max_count", value_name = "N", value_parser = value::number)]
    max_count: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum PeriodMode {
    /// The first used buffer that was not told
    Event,
    /// The last used buffers
    Cqe,
}

impl Modify {
    /// Whether nothing is to be changed.
    pub fn is_empty(&self) -> bool {
        match &self.what {
            What::Device(properties) => properties.add_to(Request::new("modify")).params.is_empty(),
            What::Queue(_) => false,
        }
    }

    pub fn request(&self) -> Request {
        let request = self.devices.add_to(Request::new("modify"));
        match &self.what {
            What::Device(properties) => properties.add_to(request.sent("subcmd", "device").echoed("subcmd", 0)),
            What::Queue(moderation) => moderation.add_to(request.sent("subcmd", "queue").echoed("subcmd", 1)),
        }
    }
}

impl Properties {
    fn add_to(&self, request: Request) -> Request {
        request
            .given("mac", self.mac.as_deref())
            .given("mtu", self.mtu)
            .given("speed", self.speed)
            .given("link", self.link)
            .given("state", self.state)
            .given("features", self.features.as_deref())
            .given("supported_hash_types", self.supported_hash_types.as_deref())
            .given("rss_max_key_size", self.rss_max_key_size)
            .given("rx_mode", self.rx_mode.as_deref())
            .given("msix_num", self.msix_num)
            .given("max_queue_size", self.max_queue_size)
            .given("max_queue_pairs", self.max_queue_pairs)
            .given("dst_port", self.dst_port.as_deref())
            .given("rx_dma_q_num", self.rx_dma_q_num)
            .given("drop_count", self.drop_count)
            .given("packet_counter", self.packet_counter)
            .given("aarfs_config", self.aarfs_config)
            .given("dim_config", self.dim_config)
            .given("net_dim_config", self.net_dim_config)
            .given("packed_vq", self.packed_vq)
            .given("mrg_rxbuf", self.mrg_rxbuf)
    }
}

impl Moderation {
    fn add_to(&self, request: Request) -> Request {
        request
            .given("period_mode", Some(value::name_of(&self.period_mode)))
            .given("period", Some(self.period))
            .given("max_count", Some(self.max_count))
    }
}
