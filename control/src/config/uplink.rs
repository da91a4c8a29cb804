//! The switch, and its ways out.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::json;

use super::{schema, value};

/// The in-process switch.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Switch {
    /// Interfaces that are ports of the switch, too.
    #[serde(default, deserialize_with = "value::objects")]
    pub uplinks: Vec<Uplink>,
}

/// A way out of the switch.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Keys")]
pub struct Uplink {
    /// What it is.
    pub wire: Wire,
    /// The RDMA device whose port it is; empty until the configuration is settled.
    pub ib_dev: String,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    /// A TAP netdev of ours.
    Tap {
        /// Its name.
        name: String,
        /// Whether checksums and cutting are left to those who take frames there.
        offload: bool,
    },
    /// A netdev that is there.
    Netdev(String),
    /// A port of DPDK's, by the devargs of its device.
    Dpdk(String),
}

impl Wire {
    /// What is to be said where there is one of DPDK's, and no DPDK.
    pub const WITHOUT_DPDK: &str =
        "this build is without DPDK: build with `--features dpdk`, which needs libdpdk 22.11 or later (libdpdk-dev)";

    /// What it is called.
    pub fn name(&self) -> &str {
        match self {
            Self::Tap { name, .. } | Self::Netdev(name) => name,
            // Then its arguments.
            Self::Dpdk(devargs) => devargs.split_once(',').map_or(devargs, |(device, _)| device),
        }
    }
}

/// A way out of the switch, as it is written: one of `tap`, `netdev` and `dpdk`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Keys {
    /// The name of a TAP, made if it is not there.
    #[serde(default, deserialize_with = "value::optional_netdev")]
    #[schemars(with = "schema::Netdev")]
    tap: Option<String>,
    /// The name of a netdev that is there.
    #[serde(default, deserialize_with = "value::optional_netdev")]
    #[schemars(with = "schema::Netdev")]
    netdev: Option<String>,
    /// The devargs of a device that DPDK has a driver for. Needs a controller built with the feature `dpdk`.
    #[serde(default, deserialize_with = "value::optional_devargs")]
    #[schemars(with = "schema::Devargs")]
    dpdk: Option<String>,
    /// Whether checksums and cutting are left to those who take frames at the TAP.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "bool")]
    offload: Option<bool>,
    /// The RDMA device whose port it is; without it, the first uplink is the first port's and so on, under LAG the first two are
    /// both ports'.
    #[serde(default, deserialize_with = "value::ib_device")]
    #[schemars(with = "schema::IbDevice")]
    ib_dev: String,
}

impl JsonSchema for Uplink {
    fn schema_name() -> Cow<'static, str> {
        "Uplink".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Keys::json_schema(generator);
        schema.insert("oneOf".into(), json!(["tap", "netdev", "dpdk"].map(|kind| json!({ "required": [kind] }))));
        schema
    }
}

impl TryFrom<Keys> for Uplink {
    type Error = String;

    fn try_from(Keys { tap, netdev, dpdk, offload, ib_dev }: Keys) -> Result<Self, String> {
        let tap = tap.map(|name| Wire::Tap { name, offload: offload.unwrap_or(true) });
        let kinds = [("tap", tap), ("netdev", netdev.map(Wire::Netdev)), ("dpdk", dpdk.map(Wire::Dpdk))];
        let mut given = kinds.into_iter().filter_map(|(kind, wire)| wire.map(|wire| (kind, wire)));
        let Some((kind, wire)) = given.next() else {
            return Err("an uplink without an interface: one of tap, netdev, dpdk is needed".into());
        };
        let name = wire.name();
        if let Some((other, another)) = given.next() {
            let another = another.name();
            return Err(format!("{kind} {name:?} and {other} {another:?} are one uplink: one of them is allowed"));
        }
        if kind != "tap" && offload.is_some() {
            return Err(format!("offload is given for {kind} {name:?}: it is for a tap"));
        }
        Ok(Self { wire, ib_dev })
    }
}
