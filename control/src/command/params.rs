//! Parameters of requests: every key known, every value in its range.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::config::Mac;
use crate::function::Id;
use crate::refusal::{Code, Refusal};
use crate::rpc::Params;
use crate::service::Service;

/// Options of the product's that mean nothing here, and why.
const MEANINGLESS: [(&str, &str); 2] = [
    ("rx_dma_q_num", "there are no DMA queues, the worker of a queue pair copies its frames"),
    ("host_awareness", "no host enumerates PCI, a front end is there or is not"),
];

/// Reads parameters.
///
/// # Errors
/// [`Code::NotSupported`] for a key that is not known, [`Code::InvalidArgument`] for a value: what was found, what is allowed.
pub fn read<T: DeserializeOwned>(params: Params) -> Result<T, Refusal> {
    if let Some((key, why)) = MEANINGLESS.iter().find(|(key, _)| params.contains_key(*key)) {
        return Err(Code::NotSupported.because(format!("{key}: {why}")));
    }
    serde_json::from_value(Value::Object(params)).map_err(|error| {
        let text = error.to_string();
        let code = if text.starts_with("unknown field") { Code::NotSupported } else { Code::InvalidArgument };
        code.because(text)
    })
}

/// No parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Which functions a request is about.
#[derive(Debug, Default, Deserialize)]
pub struct Selector {
    pf: Option<u16>,
    vf: Option<u16>,
    vuid: Option<String>,
    #[serde(default)]
    all: bool,
}

impl Selector {
    /// Takes what selects functions out of parameters.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`].
    pub fn take(params: &mut Params) -> Result<Self, Refusal> {
        let keys = ["pf", "vf", "vuid", "all"];
        read(keys.into_iter().filter_map(|key| params.remove_entry(key)).collect())
    }

    /// Whether all functions are meant.
    pub fn is_all(&self) -> bool {
        self.all
    }

    /// The keys of what was selected, in the order of their ids.
    ///
    /// # Errors
    /// It selects nothing, or two things.
    pub fn keys(&self, service: &Service) -> Result<Vec<usize>, Refusal> {
        if let (true, None, None, None) = (self.all, self.pf, self.vf, &self.vuid) {
            return Ok(service.functions().into_iter().map(|(key, _)| key).collect());
        }
        self.key(service).map(|key| vec![key])
    }

    /// The key of the one that was selected.
    ///
    /// # Errors
    /// It selects nothing, or several.
    pub fn key(&self, service: &Service) -> Result<usize, Refusal> {
        let id = match (self.pf, self.vf, &self.vuid, self.all) {
            (Some(pf), None, None, false) => Id::Pf(pf),
            (Some(pf), Some(vf), None, false) => Id::Vf { pf, vf },
            (None, None, Some(vuid), false) => {
                return service.key_of_vuid(vuid).ok_or_else(|| Code::NotFound.because(format!("no VUID {vuid:?}")));
            }
            _ => return Err(Code::InvalidArgument.because("one of pf, pf with vf, and vuid selects a function")),
        };
        service.key_of(id).ok_or_else(|| Code::NotFound.because(format!("there is no {id}")))
    }
}

/// A hexadecimal number in a string.
pub fn hex<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let found = String::deserialize(deserializer)?;
    let digits = found.strip_prefix("0x").unwrap_or(&found);
    let value = u64::from_str_radix(digits, 16).ok();
    value.map(Some).ok_or_else(|| invalid(&found, "a hexadecimal number of up to 64 bits"))
}

/// A switch.
pub fn switch<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    match &*String::deserialize(deserializer)? {
        "enable" => Ok(Some(true)),
        "disable" => Ok(Some(false)),
        found => Err(invalid(found, "\"enable\" or \"disable\"")),
    }
}

/// A link's state.
pub fn link<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    match u64::deserialize(deserializer)? {
        0 => Ok(Some(false)),
        1 => Ok(Some(true)),
        found => Err(invalid(&found.to_string(), "0 or 1")),
    }
}

/// An address, for a key that may be left out.
pub fn mac<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Mac>, D::Error> {
    Mac::deserialize(deserializer).map(Some)
}

fn invalid<E: serde::de::Error>(found: &str, allowed: &str) -> E {
    E::invalid_value(serde::de::Unexpected::Str(found), &allowed)
}
