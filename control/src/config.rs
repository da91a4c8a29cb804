//! The configuration file: JSON, every key known, every value in its range, or the file is refused as a whole.
//!
//! What can be said about a value alone is checked while it is read, so that the error has its line and column. What
//! two devices must not share is checked afterwards.

mod port;
#[cfg(test)]
mod tests;
pub(crate) mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use virtnet_engine::IdlePolicy;

pub use port::{Pace, Pcap, Port, Sizes, Source, Tap};
pub use value::{Hex, Lcores, Mac};

/// The whole file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One worker on each: "0", "2-5,8"; without it, one that is not pinned.
    #[serde(default)]
    pub lcores: Lcores,
    /// What workers do when there is nothing to do.
    #[serde(default)]
    pub idle: Idle,
    /// Frames a burst, 1 to 256.
    #[serde(default = "burst_default", deserialize_with = "value::between::<_, _, 1, 256>")]
    pub burst: u64,
    /// The switch that devices with port "switch" meet in.
    #[serde(default)]
    pub switch: Switch,
    /// The devices, by the order of their workers.
    pub devices: Vec<Device>,
}

/// The in-process switch.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Netdevs that are ports of the switch, too.
    #[serde(default)]
    pub uplinks: Vec<Uplink>,
}

/// A way out of the switch.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uplink {
    /// The name of a TAP, made if it is not there.
    #[serde(deserialize_with = "value::netdev")]
    pub tap: String,
}

/// See [`IdlePolicy`].
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Never sleeps.
    Poll,
    /// Sleeps a little, and longer each time.
    #[default]
    Adaptive,
    /// Sleeps until notified.
    Event,
}

impl From<Idle> for IdlePolicy {
    fn from(idle: Idle) -> Self {
        match idle {
            Idle::Poll => Self::Poll,
            Idle::Adaptive => Self::Adaptive,
            Idle::Event => Self::Event,
        }
    }
}

/// Which end of a socket we are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// We listen.
    #[default]
    Server,
    /// We connect, again and again.
    Client,
}

/// One device.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Device {
    /// For people: 1 to 64 characters, no two devices the same.
    #[serde(deserialize_with = "value::name")]
    pub name: String,
    /// Its socket, in the run folder unless it starts with a slash.
    #[serde(deserialize_with = "value::path")]
    pub socket: PathBuf,
    /// Whether we listen there or connect to it.
    #[serde(default)]
    pub mode: Mode,
    /// Who may connect, in server mode, as in chmod: "0600", "0660".
    #[serde(default = "socket_mode_default", deserialize_with = "value::octal")]
    pub socket_mode: u32,
    /// Queue pairs, 1 to 127.
    #[serde(default = "queue_pairs_default", deserialize_with = "value::between::<_, _, 1, 127>")]
    pub queue_pairs: u64,
    /// The largest queue it takes, 2 to 32768.
    #[serde(default = "queue_size_default", deserialize_with = "value::between::<_, _, 2, 32768>")]
    pub queue_size_max: u64,
    /// What it is connected to.
    #[serde(default)]
    pub port: Port,
    /// Its address; without one, it is made from the name.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// The MTU it tells its driver, 68 to 65535.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 68, 65535>")]
    pub mtu: Option<u64>,
    /// What it offers.
    #[serde(default)]
    pub features: Features,
}

/// Feature bits that can be kept from the driver. All are offered by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
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
    /// Checksum and segmentation offloads, both ways. A receiver that lacks what a frame asks for gets it finished.
    pub offload: bool,
}

impl Default for Features {
    fn default() -> Self {
        Self { mrg_rxbuf: true, packed: true, in_order: true, event_idx: true, indirect: true, mq: true, offload: true }
    }
}

impl Device {
    /// Its address: the one given, or one made from its name, locally administered.
    pub fn mac(&self) -> Mac {
        self.mac.unwrap_or_else(|| Mac::of_name(&self.name))
    }
}

/// Why a file was refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A key or a value is not as it should be.
    #[error("{}: {source}", path.display())]
    Value {
        /// The file.
        path: PathBuf,
        /// What, where, and what is allowed.
        source: serde_json::Error,
    },
    /// Two devices are the same in something that must tell them apart.
    #[error("{}: devices {first:?} and {second:?} have the same {key} ({value}); each needs its own", path.display())]
    Twice {
        /// The file.
        path: PathBuf,
        /// Which key.
        key: &'static str,
        /// Its value.
        value: String,
        /// The device that has it first.
        first: String,
        /// The device that has it again.
        second: String,
    },
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing of the file is used then.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| ConfigError::Read { path: path.into(), source })?;
        Self::parse(&text, path)
    }

    /// Reads a text; `path` is for errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let config: Self =
            serde_json::from_str(text).map_err(|source| ConfigError::Value { path: path.into(), source })?;
        config.check_identities(path)?;
        Ok(config)
    }

    fn check_identities(&self, path: &Path) -> Result<(), ConfigError> {
        let mut seen = BTreeMap::new();
        for device in &self.devices {
            let netdev = match &device.port {
                Port::Tap(tap) => Some(tap.name.clone()),
                _ => None,
            };
            let identities = [
                ("name", Some(device.name.clone())),
                ("socket", Some(device.socket.display().to_string())),
                ("mac", Some(device.mac().to_string())),
                ("tap", netdev),
            ];
            for (key, value) in identities {
                let Some(value) = value else { continue };
                if let Some(first) = seen.insert((key, value.clone()), &device.name) {
                    let (first, second) = (first.clone(), device.name.clone());
                    return Err(ConfigError::Twice { path: path.into(), key, value, first, second });
                }
            }
        }
        let uplinks = self.switch.uplinks.iter().map(|uplink| &uplink.tap);
        for tap in uplinks {
            if let Some(first) = seen.insert(("tap", tap.clone()), tap) {
                let (value, first, second) = (tap.clone(), first.clone(), String::from("switch"));
                return Err(ConfigError::Twice { path: path.into(), key: "tap", value, first, second });
            }
        }
        Ok(())
    }
}

fn burst_default() -> u64 {
    32
}

fn socket_mode_default() -> u32 {
    0o600
}

fn queue_pairs_default() -> u64 {
    1
}

fn queue_size_default() -> u64 {
    1024
}
