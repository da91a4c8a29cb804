//! The configuration file's JSON Schema, for editors: what can be said about a value alone.

use std::borrow::Cow;

use schemars::generate::SchemaSettings;
use schemars::transform::{RecursiveTransform, Transform};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

use super::value::{Hex, Lcores, Mac};
use super::{Config, Pace, Sizes, Template};

impl Config {
    /// The file's JSON Schema, as text.
    pub fn schema() -> String {
        let mut schema = SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<Self>();
        // Defaults are ours as we hold them, not as they are written; docs/controller.md has them.
        let forget = |schema: &mut Schema| drop(schema.remove("default"));
        RecursiveTransform(forget).transform(&mut schema);
        format!("{:#}", schema.to_value())
    }
}

/// An integer from `MIN` to `MAX`.
pub struct Between<const MIN: u64, const MAX: u64>;

impl<const MIN: u64, const MAX: u64> JsonSchema for Between<MIN, MAX> {
    fn schema_name() -> Cow<'static, str> {
        format!("{MIN} to {MAX}").into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "minimum": MIN, "maximum": MAX})
    }
}

/// 0 or 1.
pub type Flag = Between<0, 1>;
/// The size of a queue.
pub struct QueueSize;
/// The name of an RDMA device.
pub struct IbDevice;
/// The name of a netdev.
pub struct Netdev;
/// A DPDK device and its arguments.
pub struct Devargs;
/// The name of a device.
pub struct Name;
/// The id of an object of QEMU's.
pub struct QemuId;
/// A path.
pub struct FilePath;
/// Permissions of a socket.
pub struct Octal;
/// A number above 0.
pub struct Rate;

macro_rules! schemas {
    ($($name:ident $json:tt)*) => {
        $(
            impl JsonSchema for $name {
                fn schema_name() -> Cow<'static, str> {
                    stringify!($name).into()
                }

                fn inline_schema() -> bool {
                    true
                }

                fn json_schema(_: &mut SchemaGenerator) -> Schema {
                    json_schema!($json)
                }
            }
        )*
    };
}

schemas! {
    Mac {"type": "string", "pattern": "^[0-9A-Fa-f][02468ACEace](:[0-9A-Fa-f]{2}){5}$"}
    Hex {"type": "string", "pattern": "^0[xX][0-9A-Fa-f]+$"}
    Lcores {"type": "string", "pattern": "^ *[0-9]+ *(- *[0-9]+ *)?(, *[0-9]+ *(- *[0-9]+ *)?)*$"}
    Template {"type": "string", "pattern": r"^([^{}]|\{(pf|vf|vuid)\})+$"}
    QueueSize {"enum": [4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768]}
    IbDevice {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,63}$"}
    Netdev {"type": "string", "pattern": "^[!-$&-.0-9;-~]{1,15}$"}
    Devargs {"type": "string", "pattern": "^[!-+--~]{1,63}(,[!-~]*)?$", "maxLength": 1023}
    Name {"type": "string", "minLength": 1, "maxLength": 64}
    QemuId {"type": "string", "pattern": "^[A-Za-z][A-Za-z0-9._-]{0,63}$"}
    FilePath {"type": "string", "minLength": 1}
    Octal {"type": "string", "pattern": "^0*[67][0-7]{2}$"}
    Rate {"type": "number", "exclusiveMinimum": 0}
    Pace {"anyOf": [{"enum": ["captured", "fast"]}, {"type": "number", "exclusiveMinimum": 0}]}
    Sizes {
        "anyOf": [
            {"const": "imix"},
            {"type": "integer", "minimum": 64, "maximum": 9216},
            {"type": "array", "items": {"type": "integer", "minimum": 64, "maximum": 9216}, "minItems": 1, "maxItems": 64}
        ]
    }
}
