//! What a file says of its function.

use serde::{Deserialize, Serialize};

use super::error::Fault;
use crate::class::Class;
use crate::config::value;
use crate::config::{Hex, Mac};
use crate::device::settings::Speed;
use crate::function::{PeriodMode, pools};

/// A function's state. The first ten keys are the product's; the others are there when they differ from what the function
/// would come up with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its unique name: the file's name, not a key.
    #[serde(skip)]
    pub vuid: String,
    /// The RDMA device it is on.
    #[serde(deserialize_with = "value::ib_device")]
    pub port_ib_dev: String,
    /// Its PF, 0 to 61.
    #[serde(deserialize_with = "value::between::<_, _, 0, 61>")]
    pub pf_id: u16,
    /// Which VF of that PF, 0 to 1007; VFs only.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 1007>",
        skip_serializing_if = "Option::is_none"
    )]
    pub vf_id: Option<u16>,
    /// PF or VF.
    pub function_type: FunctionType,
    /// Bus, device and function number: 8, 5 and 3 bits.
    #[serde(deserialize_with = "value::between::<_, _, 0, 65535>")]
    pub bdf_raw: u16,
    /// How it came; PFs only.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub device_type: Option<DeviceType>,
    /// Its address.
    pub mac: Mac,
    /// Its PCIe function number, 0 to 255.
    #[serde(deserialize_with = "value::between::<_, _, 0, 255>")]
    pub pf_num: u16,
    /// The SF behind it, in its class's range.
    #[serde(deserialize_with = "value::between::<_, _, 1000, 99_999>")]
    pub sf_num: u32,
    /// Queue pairs made, 0 to 127.
    #[serde(deserialize_with = "value::between::<_, _, 0, 127>")]
    pub mq: u16,

    /// Bytes, 68 to 65535.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 68, 65535>",
        skip_serializing_if = "Option::is_none"
    )]
    pub mtu: Option<u16>,
    /// Feature bits offered.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub features: Option<Hex>,
    /// Whether it is a transitional device; hotplug PFs only, of others the firmware says so.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub transitional: Option<bool>,
    /// Entries, 2 to 32768: of a PF that is described one by one, any number.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 2, 32768>",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_queue_size: Option<u16>,
    /// MSI-X vectors, 0 to 2048.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 2048>",
        skip_serializing_if = "Option::is_none"
    )]
    pub num_msix: Option<u16>,
    /// Of a PF's VF 0: how many VFs the PF has, 1 to 1008. That file is written last and removed first, so all of them are there or none.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 1, 1008>",
        skip_serializing_if = "Option::is_none"
    )]
    pub num_vfs: Option<u16>,
    /// Whether the link is up.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub link: Option<bool>,
    /// The speed that the link says it has, in Mb/s.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub speed: Option<Speed>,
    /// Receive modes, a bit each.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 63>",
        skip_serializing_if = "Option::is_none"
    )]
    pub rx_mode: Option<u8>,
    /// The IPv4 destination port that is steered.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 1, 65535>",
        skip_serializing_if = "Option::is_none"
    )]
    pub dst_port: Option<u16>,
    /// Whether flows follow their senders.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub aarfs: Option<bool>,
    /// Hash types that its driver may enable, a bit each.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 63>",
        skip_serializing_if = "Option::is_none"
    )]
    pub supported_hash_types: Option<u32>,
    /// Whether dropped frames are counted.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub drop_count: Option<bool>,
    /// Whether frames are counted by length.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub packet_counter: Option<bool>,
    /// From which moment `period` counts.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub period_mode: Option<PeriodMode>,
    /// How long notifications are held back, in µs, 0 to 65535.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 65535>",
        skip_serializing_if = "Option::is_none"
    )]
    pub period: Option<u16>,
    /// Used buffers that end a period early, 0 to 65535.
    #[serde(
        default,
        deserialize_with = "value::optional_between::<_, _, 0, 65535>",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_count: Option<u16>,
    /// Whether moderation follows the load.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub dim: Option<bool>,
    /// The guest that it is plugged into; hotplug PFs only.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub guest: Option<String>,
    /// The root port there.
    #[serde(default, deserialize_with = "value::given", skip_serializing_if = "Option::is_none")]
    pub root_port: Option<String>,
}

/// PF or VF.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FunctionType {
    /// Physical.
    Pf,
    /// Virtual.
    Vf,
}

/// How a PF came to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceType {
    /// It was there from the start.
    Static,
    /// It was plugged.
    Hotplug,
}

impl From<Class> for FunctionType {
    fn from(class: Class) -> Self {
        if class == Class::Vf { Self::Vf } else { Self::Pf }
    }
}

impl DeviceType {
    /// What files say of a class.
    pub fn of(class: Class) -> Option<Self> {
        match class {
            Class::StaticPf => Some(Self::Static),
            Class::HotplugPf => Some(Self::Hotplug),
            Class::Vf => None,
        }
    }
}

impl Record {
    /// Reads a file's text.
    ///
    /// # Errors
    /// Its JSON is broken, a key is unknown, a value out of range (all with line and column), or values contradict each other.
    pub fn parse(vuid: &str, text: &[u8]) -> Result<Self, Fault> {
        let value::Object(record) = serde_json::from_slice::<value::Object<Self>>(text).map_err(Fault::Value)?;
        let record = Self { vuid: vuid.to_owned(), ..record };
        let class = record.class()?;
        let allowed = class.sf_nums();
        if !allowed.contains(&record.sf_num) {
            let (found, name, least, most) = (record.sf_num, class.name(), allowed.start(), allowed.end());
            let text = format!("sf_num {found} is not a {name}'s: {least} to {most} are allowed");
            return Err(Fault::Contradiction(text));
        }
        if let Some(msix) = record.num_msix.filter(|msix| record.mq > pools::pairs_of(*msix)) {
            let text =
                format!("mq {} needs {} MSI-X vectors, num_msix is {msix}", record.mq, pools::msix_of(record.mq));
            return Err(Fault::Contradiction(text));
        }
        if record.transitional.is_some() && class != Class::HotplugPf {
            return Err(Fault::Contradiction("transitional is given: only hotplug PFs have it".into()));
        }
        if record.num_vfs.is_some() && record.vf_id != Some(0) {
            return Err(Fault::Contradiction("num_vfs is given: only a PF's VF 0 has it".into()));
        }
        Ok(record)
    }

    /// What the function is.
    ///
    /// # Errors
    /// `function_type`, `device_type` and `vf_id` contradict each other.
    pub fn class(&self) -> Result<Class, Fault> {
        let contradiction = |text: &str| Err(Fault::Contradiction(text.to_owned()));
        match (self.function_type, self.device_type, self.vf_id) {
            (FunctionType::Pf, _, Some(_)) => {
                contradiction("vf_id is given, function_type is \"pf\": only VFs have one")
            }
            (FunctionType::Pf, None, _) => contradiction("device_type is missing: a PF's is \"static\" or \"hotplug\""),
            (FunctionType::Pf, Some(DeviceType::Static), None) => Ok(Class::StaticPf),
            (FunctionType::Pf, Some(DeviceType::Hotplug), None) => Ok(Class::HotplugPf),
            (FunctionType::Vf, Some(_), _) => {
                contradiction("device_type is given, function_type is \"vf\": only PFs have one")
            }
            (FunctionType::Vf, None, None) => contradiction("vf_id is missing: function_type is \"vf\""),
            (FunctionType::Vf, None, Some(_)) => Ok(Class::Vf),
        }
    }

    /// The file's text: every entry a line, behind the last one a newline.
    pub(super) fn text(&self) -> Result<Vec<u8>, Fault> {
        let mut text = serde_json::to_vec_pretty(self).map_err(Fault::Value)?;
        text.push(b'\n');
        Ok(text)
    }
}
