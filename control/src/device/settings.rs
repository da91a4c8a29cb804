//! What of a device can change under its driver.

use serde::{Deserialize, Serialize};
use virtnet_engine::filter::Modes;
use virtnet_engine::frame::hash;

/// A driver reads them again when it is told that the configuration space has changed, or need not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether its link is up.
    pub link_up: bool,
    /// The speed that its link says it has.
    pub speed: Speed,
    /// What of the frames that arrive its driver receives.
    pub rx_mode: Modes,
    /// Whose frames, of TCP and UDP over IPv4, the first receiveq gets.
    pub dst_port: Option<u16>,
    /// Whether a flow arrives at the pair that its driver has last sent something of it by.
    pub aarfs: bool,
    /// Which hash types its driver may enable, a bit each of [`hash::TYPES`].
    pub hash_types: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            link_up: true,
            speed: Speed(100_000),
            rx_mode: Modes::default(),
            dst_port: None,
            aarfs: false,
            hash_types: hash::TYPES,
        }
    }
}

/// A link's speed in Mb/s, one of those there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u64")]
pub struct Speed(u32);

impl Speed {
    const ALL: [u32; 10] = [10, 100, 1000, 10_000, 25_000, 40_000, 50_000, 100_000, 200_000, 400_000];

    /// Mb/s.
    pub fn mbps(self) -> u32 {
        self.0
    }
}

impl TryFrom<u64> for Speed {
    type Error = String;

    fn try_from(mbps: u64) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|known| u64::from(*known) == mbps);
        known.map(Self).ok_or_else(|| {
            let allowed = Self::ALL.map(|speed| speed.to_string()).join(", ");
            format!("a speed of {mbps} Mb/s; {allowed} are allowed")
        })
    }
}
