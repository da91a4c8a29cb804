//! The configuration file: JSON, every key known, every value in its range, or the file is refused as a whole.
//!
//! What can be said about a value alone is checked while it is read, so that the error has its line and column. What
//! two keys or two devices must not be together is checked afterwards.

mod check;
mod device;
mod error;
mod function;
mod guest;
mod notes;
mod port;
pub mod providers;
mod schema;
mod template;
#[cfg(test)]
mod tests;
mod uplink;
pub(crate) mod value;

use std::fs::File;
use std::io::Read;
use std::path::Path;

use schemars::JsonSchema;
use serde::Deserialize;
use virtnet_engine::IdlePolicy;

pub use device::{Device, Features, Mode, Transport};
pub use error::ConfigError;
pub use function::{ByClass, SfPort, Socket, StaticPf, Vf};
pub use guest::Guest;
pub use port::{Pace, Pcap, Port, Sizes, Source, Tap};
pub use template::Template;
pub use uplink::{Switch, Uplink, Wire};
pub use value::{Hex, Lcores, Mac};

use providers::Provider;

/// The longest file that is read.
const FILE_BYTES_MAX: u64 = 16 << 20;
const IB_DEV_P0: &str = "mlx5_0";
const IB_DEV_P1: &str = "mlx5_1";
const IB_DEV_LAG: &str = "mlx5_bond_0";

/// The whole file.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// One worker on each: "0", "2-5,8"; without it, those that `dpa_core_start` and `dpa_core_end` name, or one that is
    /// not pinned.
    #[serde(default)]
    pub lcores: Lcores,
    /// What workers do when there is nothing to do; see [`Config::idle_policy`].
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Idle")]
    pub idle: Option<Idle>,
    /// Frames a burst, 1 to 256.
    #[serde(default = "burst_default", deserialize_with = "value::between::<_, _, 1, 256>")]
    #[schemars(with = "schema::Between<1, 256>")]
    pub burst: u64,
    /// The switch that devices with port "switch" meet in.
    #[serde(default, deserialize_with = "value::object")]
    pub switch: Switch,
    /// Static PFs described one by one, up to 31.
    #[serde(default, deserialize_with = "value::objects")]
    pub devices: Vec<Device>,

    /// The RDMA device of port 0; without it, mlx5_0.
    #[serde(default, deserialize_with = "value::optional_ib_device")]
    #[schemars(with = "schema::IbDevice")]
    pub ib_dev_p0: Option<String>,
    /// The RDMA device of port 1; without it, mlx5_1.
    #[serde(default, deserialize_with = "value::optional_ib_device")]
    #[schemars(with = "schema::IbDevice")]
    pub ib_dev_p1: Option<String>,
    /// The RDMA device of static PFs' SFs.
    #[serde(default = "ib_dev_for_static_pf_default", deserialize_with = "value::ib_device")]
    #[schemars(with = "schema::IbDevice")]
    pub ib_dev_for_static_pf: String,
    /// The RDMA device of both ports under LAG; without it, mlx5_bond_0.
    #[serde(default, deserialize_with = "value::optional_ib_device")]
    #[schemars(with = "schema::IbDevice")]
    pub ib_dev_lag: Option<String>,
    /// Whether the ports are bonded.
    #[serde(default, deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub is_lag: bool,
    /// Whether there is only port 0.
    #[serde(default, deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub single_port: bool,
    /// Whether functions come up as they were left.
    #[serde(default = "recovery_default", deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub recovery: bool,
    /// Percent of all SFs that are made at the start, 0 to 100.
    #[serde(default, deserialize_with = "value::between::<_, _, 0, 100>")]
    #[schemars(with = "schema::Between<0, 100>")]
    pub sf_pool_percent: u8,
    /// Whether SFs made at the start are destroyed at the end.
    #[serde(default, deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub sf_pool_force_destroy: bool,
    /// Whether packed rings are offered.
    #[serde(default, deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub packed_vq: bool,
    /// Whether mergeable buffers are offered.
    #[serde(default, deserialize_with = "value::flag")]
    #[schemars(with = "schema::Flag")]
    pub mrg_rxbuf: bool,
    /// The first lcore that workers run on, 1 to 10; given with `dpa_core_end`.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 10>")]
    #[schemars(with = "schema::Between<1, 10>")]
    pub dpa_core_start: Option<usize>,
    /// The last of them, above the first, up to 10.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 10>")]
    #[schemars(with = "schema::Between<1, 10>")]
    pub dpa_core_end: Option<usize>,
    /// Who migrates VFs.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "MigrationProvider")]
    pub lm_prov: Option<MigrationProvider>,
    /// Threads for Ethernet queues' operations, 1 to 24.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 24>")]
    #[schemars(with = "schema::Between<1, 24>")]
    pub eth_vq_workers: Option<u8>,
    /// Threads for admin commands, 1 to 16.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 16>")]
    #[schemars(with = "schema::Between<1, 16>")]
    pub admin_cmd_workers: Option<u8>,
    /// What static PFs come up with.
    #[serde(default, deserialize_with = "value::object")]
    pub static_pf: StaticPf,
    /// The older name of `static_pf.mac_base`.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Mac")]
    pf_mac: Option<Mac>,
    /// What VFs come up with.
    #[serde(default, deserialize_with = "value::object")]
    pub vf: Vf,
    /// Where functions' sockets are.
    #[serde(default, deserialize_with = "value::object")]
    pub sockets: ByClass<Socket>,
    /// What functions' SFs are connected to.
    #[serde(default, deserialize_with = "value::object")]
    pub sf_port: ByClass<SfPort>,
    /// Running virtual machines that hotplug PFs are plugged into.
    #[serde(default, deserialize_with = "value::objects")]
    pub guests: Vec<Guest>,
}

/// See [`IdlePolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
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

/// Who migrates VFs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationProvider {
    /// The vhost acceleration on the host.
    Vfe,
    /// The host's kernel.
    Kernel,
}

impl Config {
    /// Reads a file of up to 16 MiB.
    ///
    /// # Errors
    /// [`ConfigError`]; nothing of the file is used then.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let text = read_text(path).map_err(|error| ConfigError::Read { path: path.into(), error })?;
        Self::parse(&text, path)
    }

    /// Reads a text; `path` is for errors.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let object = serde_path_to_error::deserialize::<_, value::Object<Self>>(&mut json)
            .map_err(|error| (error.path().to_string(), error.into_inner()))
            .and_then(|object| json.end().map(|()| object).map_err(|error| (String::new(), error)));
        let value::Object(mut config) =
            object.map_err(|(key, error)| ConfigError::Value { path: path.into(), key, error })?;
        config.settle(path)?;
        config.check_keys(path)?;
        config.check_identities(path)?;
        Ok(config)
    }

    /// The RDMA devices that SFs are made on, by port. The first is the emulation manager.
    pub fn ib_devices(&self) -> Vec<&str> {
        if self.is_lag {
            return vec![self.ib_dev_lag.as_deref().unwrap_or(IB_DEV_LAG)];
        }
        let first = self.ib_dev_p0.as_deref().unwrap_or(IB_DEV_P0);
        if self.single_port { vec![first] } else { vec![first, self.second_ib_device()] }
    }

    /// The RDMA device of port 1, whether there is one or not.
    fn second_ib_device(&self) -> &str {
        self.ib_dev_p1.as_deref().unwrap_or(IB_DEV_P1)
    }

    /// What workers do when there is nothing to do: what the file says, else what the chosen provider stands for, else
    /// [`Idle::Adaptive`].
    pub fn idle_policy(&self, provider: Option<Provider>) -> IdlePolicy {
        self.idle.or(provider.map(Idle::from)).unwrap_or_default().into()
    }

    /// Where the workers are on a machine with the lcores `online`: those of `lcores`, or those of `dpa_core_start` to
    /// `dpa_core_end` that there are; if there are none, one that is not pinned. With a sentence if the machine has fewer.
    pub fn lcores_of(&self, online: &[usize]) -> (Lcores, Option<String>) {
        let (Some(start), Some(end)) = (self.dpa_core_start, self.dpa_core_end) else {
            return (self.lcores.clone(), None);
        };
        let lcores = Lcores((start..=end).filter(|lcore| online.contains(lcore)).collect());
        let (asked, found) = (end - start + 1, lcores.0.len());
        let note = format!(
            "dpa_core_start {start} to dpa_core_end {end} are {asked} lcores, this machine has {found} of them"
        );
        (lcores, (found < asked).then_some(note))
    }
}

fn read_text(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other("over 16 MiB, which is the most allowed"));
    }
    Ok(text)
}

fn burst_default() -> u64 {
    32
}

fn ib_dev_for_static_pf_default() -> String {
    IB_DEV_P0.to_owned()
}

fn recovery_default() -> bool {
    true
}
