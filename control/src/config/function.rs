//! What functions that are not described one by one come up with.

use schemars::JsonSchema;
use serde::Deserialize;

use super::device::{Mode, Transport};
use super::schema;
use super::template::Template;
use super::value::{self, Hex, Mac};
use crate::class::Class;

/// What all static PFs have.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticPf {
    /// The address of the first; the others count on from it.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Mac")]
    pub mac_base: Option<Mac>,
    /// What they offer; without it, all that this version can.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Hex")]
    pub features: Option<Hex>,
}

/// What all VFs have.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vf {
    /// The address of the first VF of the first PF; the others count on from it.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Mac")]
    pub mac_base: Option<Mac>,
    /// What they offer; without it, all that this version can.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Hex")]
    pub features: Option<Hex>,
    /// How many addresses are kept for each PF's, 1 to 1008. Given with `mac_base`.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 1008>")]
    #[schemars(with = "schema::Between<1, 1008>")]
    pub vfs_per_pf: Option<u16>,
    /// Queue pairs, 1 to 127; without it, what their MSI-X vectors allow.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 127>")]
    #[schemars(with = "schema::Between<1, 127>")]
    pub max_queue_pairs: Option<u16>,
    /// The older name of `max_queue_pairs`.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, 127>")]
    #[schemars(with = "schema::Between<1, 127>")]
    pub(super) qp_num: Option<u16>,
    /// Entries, a power of 2 from 4 to 32768; without it, 256.
    #[serde(default, deserialize_with = "value::optional_queue_size")]
    #[schemars(with = "schema::QueueSize")]
    pub max_queue_size: Option<u16>,
}

/// Something for each kind of function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ByClass<T: Default> {
    /// For static PFs.
    pub static_pf: T,
    /// For hotplug PFs.
    pub hotplug_pf: T,
    /// For VFs.
    pub vf: T,
}

impl<T: Default> ByClass<T> {
    /// What there is for a class.
    pub fn of(&self, class: Class) -> &T {
        match class {
            Class::StaticPf => &self.static_pf,
            Class::HotplugPf => &self.hotplug_pf,
            Class::Vf => &self.vf,
        }
    }
}

/// The sockets of a class.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Socket {
    /// Where they are, in the run folder unless it starts with a slash; without it, [`Template::of`] the class.
    #[serde(default, deserialize_with = "value::given")]
    #[schemars(with = "Template")]
    pub path: Option<Template>,
    /// What functions are served as there.
    #[serde(default)]
    pub transport: Transport,
    /// Whether we listen there or connect to them.
    #[serde(default)]
    pub mode: Mode,
    /// Who may connect, in server mode.
    #[serde(default = "value::socket_mode_default", deserialize_with = "value::octal")]
    #[schemars(with = "schema::Octal")]
    pub socket_mode: u32,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: None,
            transport: Transport::default(),
            mode: Mode::default(),
            socket_mode: value::socket_mode_default(),
        }
    }
}

/// What the SFs of a class are connected to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SfPort {
    /// A port of the switch.
    #[default]
    Switch,
    /// A TAP netdev with the representor's name, where frames are finished, as they are at a representor.
    Tap,
    /// The same, but checksums and cutting are left to those who take frames there.
    TapOffload,
    /// What comes goes back.
    Loopback,
    /// What comes is forgotten.
    Sink,
}
