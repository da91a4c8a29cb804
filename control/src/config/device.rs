//! A device described one by one.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::port::Port;
use super::schema;
use super::value::{self, Mac};

/// Which end of a socket we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// We listen.
    #[default]
    Server,
    /// We connect, again and again.
    Client,
}

/// What a device is served as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Rings, for a front end that shows the device to its guest.
    #[default]
    VhostUser,
    /// A whole PCI function. We listen.
    VfioUser,
}

/// One device.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// For people: 1 to 64 characters, no two devices the same.
    #[serde(deserialize_with = "value::name")]
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Its socket, in the run folder unless it starts with a slash.
    #[serde(deserialize_with = "value::path")]
    #[schemars(with = "schema::FilePath")]
    pub socket: PathBuf,
    /// What it is served as there.
    #[serde(default)]
    pub transport: Transport,
    /// Whether we listen there or connect to it.
    #[serde(default)]
    pub mode: Mode,
    /// Who may connect, in server mode, as in chmod: "0600", "0660".
    #[serde(default = "value::socket_mode_default", deserialize_with = "value::octal")]
    #[schemars(with = "schema::Octal")]
    pub socket_mode: u32,
    /// Queue pairs, 1 to 127.
    #[serde(default = "queue_pairs_default", deserialize_with = "value::between::<_, _, 1, 127>")]
    #[schemars(with = "schema::Between<1, 127>")]
    pub queue_pairs: u64,
    /// The largest queue it takes, 2 to 32768.
    #[serde(default = "queue_size_default", deserialize_with = "value::between::<_, _, 2, 32768>")]
    #[schemars(with = "schema::Between<2, 32768>")]
    pub queue_size_max: u64,
    /// What it is connected to.
    #[serde(default)]
    pub port: Port,
    /// Its address; without one, it is made from the name.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The MTU it tells its driver, 68 to 65535.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 68, 65535>")]
    #[schemars(with = "schema::Between<68, 65535>")]
    pub mtu: Option<u64>,
    /// What it offers.
    #[serde(default)]
    pub features: Features,
}

/// Feature bits that can be kept from the driver. All but `hash_report` and `iommu` are offered by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Features {
    /// VIRTIO_NET_F_MRG_RXBUF.
    pub mrg_rxbuf: bool,
    /// VIRTIO_F_RING_PACKED.
    pub packed: bool,
    /// VIRTIO_F_IN_ORDER.
    pub in_order: bool,
    /// VIRTIO_F_EVENT_IDX.
    pub event_idx: bool,
    /// VIRTIO_F_INDIRECT_DESC.
    pub indirect: bool,
    /// VIRTIO_NET_F_MQ, with more than one queue pair.
    pub mq: bool,
    /// VIRTIO_NET_F_RSS, with more than one queue pair, on a port of the switch.
    pub rss: bool,
    /// VIRTIO_NET_F_HASH_REPORT. A driver that takes it has each frame hashed, and longer headers, which are served slower.
    pub hash_report: bool,
    /// VIRTIO_F_ACCESS_PLATFORM: addresses are those of an IOMMU, which a vhost-user front end is asked for. Over vfio-user always.
    pub iommu: bool,
    /// Checksum and segmentation offloads, both ways. A receiver that lacks what a frame asks for gets it finished.
    pub offload: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self {
            mrg_rxbuf: true,
            packed: true,
            in_order: true,
            event_idx: true,
            indirect: true,
            mq: true,
            rss: true,
            hash_report: false,
            iommu: false,
            offload: true,
        }
    }
}

impl Device {
    /// Its address: the one given, or one made from its name, locally administered.
    pub fn mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| Mac::of_name(&self.name))
    }
}

fn queue_pairs_default() -> u64 {
    1
}

fn queue_size_default() -> u64 {
    1024
}
