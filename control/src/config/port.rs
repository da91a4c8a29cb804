//! What a device is connected to.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use super::{schema, value};

/// The least and the most bytes of a source's frame, as it lies in the virtqueue: no frame check sequence.
const FRAME_BYTES: std::ops::RangeInclusive<u64> = 64..=9216;
/// The most lengths that a source goes through in turn.
const IN_TURN_MAX: usize = 64;

/// The kinds of ports, by name; those that need to know more are objects of one key.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Port {
    /// A port of the switch.
    #[default]
    Switch,
    /// What comes goes back.
    Loopback,
    /// What comes is forgotten.
    Sink,
    /// Frames from nowhere.
    Source(Source),
    /// Frames from and to a file.
    Pcap(Pcap),
    /// A netdev.
    Tap(Tap),
}

/// A generator of frames.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// How long they are.
    pub frame_bytes: Sizes,
    /// Frames a second and queue pair; without it, as fast as they are taken.
    #[serde(default, deserialize_with = "value::optional_rate")]
    #[schemars(with = "schema::Rate")]
    pub rate_fps: Option<f64>,
    /// How many, for each queue pair; without it, for ever.
    #[serde(default, deserialize_with = "value::optional_between::<_, _, 1, { u64::MAX }>")]
    #[schemars(with = "schema::Between<1, { u64::MAX }>")]
    pub count: Option<u64>,
}

/// Captures.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pcap {
    /// Played to the guest.
    #[serde(default)]
    pub replay: Option<PathBuf>,
    /// When its frames are due.
    #[serde(default)]
    pub pace: Pace,
    /// Whether it begins again after its last frame.
    #[serde(default)]
    pub repeat: bool,
    /// Written with what the guest sends: as pcap if the name ends so, as pcapng otherwise.
    #[serde(default)]
    pub record: Option<PathBuf>,
}

/// When the frames of a capture are due.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Pace {
    /// As they were captured.
    #[default]
    Captured,
    /// As fast as the guest takes them.
    Fast,
    /// So many a second, over all queue pairs.
    Rate(f64),
}

impl<'de> Deserialize<'de> for Pace {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl Visitor<'_> for Either {
            type Value = Pace;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"captured\", \"fast\", or a number of frames a second above 0")
            }
            fn visit_f64<E: Error>(self, found: f64) -> Result<Pace, E> {
                let fits = found.is_finite() && found > 0.0;
                if fits { Ok(Pace::Rate(found)) } else { Err(E::invalid_value(Unexpected::Float(found), &self)) }
            }
            fn visit_u64<E: Error>(self, found: u64) -> Result<Pace, E> {
                self.visit_f64(found as f64)
            }
            fn visit_str<E: Error>(self, found: &str) -> Result<Pace, E> {
                match found {
                    "captured" => Ok(Pace::Captured),
                    "fast" => Ok(Pace::Fast),
                    _ => Err(E::invalid_value(Unexpected::Str(found), &self)),
                }
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// A netdev of ours.
#[derive(Clone, Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tap {
    /// Its name.
    #[serde(deserialize_with = "value::netdev")]
    #[schemars(with = "schema::Netdev")]
    pub name: String,
    /// Whether checksums and cutting are left to those who take frames there.
    #[serde(default = "value::yes")]
    pub offload: bool,
}

/// Lengths of a source's frames.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All the same.
    Fixed(u16),
    /// These in turn: 1 to 64 of them.
    InTurn(Vec<u16>),
    /// 64, 594 and 1518 bytes, 7 : 4 : 1.
    Imix,
}

impl Sizes {
    /// The lengths of frames sent in turn.
    pub fn cycle(&self) -> Vec<u16> {
        match self {
            Self::Fixed(len_bytes) => vec![*len_bytes],
            Self::InTurn(lens_bytes) => lens_bytes.clone(),
            Self::Imix => vec![64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594],
        }
    }
}

impl<'de> Deserialize<'de> for Sizes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Sizes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let (least, most) = (FRAME_BYTES.start(), FRAME_BYTES.end());
                write!(f, "{least} to {most}, a list of up to {IN_TURN_MAX} of these, or \"imix\"")
            }
            fn visit_u64<E: Error>(self, found: u64) -> Result<Sizes, E> {
                match u16::try_from(found) {
                    Ok(len_bytes) if FRAME_BYTES.contains(&found) => Ok(Sizes::Fixed(len_bytes)),
                    _ => Err(E::invalid_value(Unexpected::Unsigned(found), &self)),
                }
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Sizes, A::Error> {
                let mut lens_bytes = Vec::new();
                while let Some(found) = list.next_element()? {
                    match u16::try_from(found) {
                        Ok(len_bytes) if FRAME_BYTES.contains(&found) => lens_bytes.push(len_bytes),
                        _ => return Err(A::Error::invalid_value(Unexpected::Unsigned(found), &self)),
                    }
                    if lens_bytes.len() > IN_TURN_MAX {
                        return Err(A::Error::invalid_length(lens_bytes.len(), &self));
                    }
                }
                if lens_bytes.is_empty() {
                    Err(A::Error::invalid_length(0, &self))
                } else {
                    Ok(Sizes::InTurn(lens_bytes))
                }
            }
            fn visit_str<E: Error>(self, found: &str) -> Result<Sizes, E> {
                if found == "imix" { Ok(Sizes::Imix) } else { Err(E::invalid_value(Unexpected::Str(found), &self)) }
            }
        }
        deserializer.deserialize_any(Either)
    }
}
