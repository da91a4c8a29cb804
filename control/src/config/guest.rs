//! A running virtual machine that functions are plugged into.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{schema, value};

/// A guest of QEMU's.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Guest {
    /// What `hotplug` calls it: 1 to 64 characters, no two guests the same.
    #[serde(deserialize_with = "value::name")]
    #[schemars(with = "schema::Name")]
    pub name: String,
    /// Where its QEMU takes commands (`-qmp unix:…,server=on,wait=off`), in the run folder unless it starts with a slash.
    #[serde(deserialize_with = "value::path")]
    #[schemars(with = "schema::FilePath")]
    pub qmp: PathBuf,
    /// The ids of its PCIe root ports that functions may be plugged into, a function each.
    #[serde(deserialize_with = "value::qemu_ids")]
    #[schemars(with = "Vec<schema::QemuId>")]
    pub root_ports: Vec<String>,
}
