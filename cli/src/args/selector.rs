//! Which device a command is about.

use clap::builder::NonEmptyStringValueParser;
use clap::{ArgGroup, Args};

use super::value;
use crate::request::Request;

/// One device.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("selector").required(true))]
pub struct Device {
    /// A PF, by its id.
    #[arg(short, long, group = "selector", value_name = "N", value_parser = value::number)]
    pub pf: Option<u64>,
    /// A VF of that PF, by its id.
    #[arg(short, long, requires = "pf", conflicts_with = "vuid", value_name = "N", value_parser = value::number)]
    pub vf: Option<u64>,
    /// A PF or VF, by its serial number.
    #[arg(short = 'u', long, group = "selector", value_parser = NonEmptyStringValueParser::new())]
    pub vuid: Option<String>,
}

/// One device, or all.
#[derive(Debug, Args)]
pub struct Devices {
    #[command(flatten)]
    pub one: Device,
    /// All devices.
    #[arg(short, long, group = "selector", conflicts_with = "vf")]
    pub all: bool,
}

impl Device {
    pub fn add_to(&self, request: Request) -> Request {
        request.given("pf", self.pf).given("vf", self.vf).given("vuid", self.vuid.as_deref())
    }
}

impl Devices {
    pub fn add_to(&self, request: Request) -> Request {
        self.one.add_to(request).flag("all", self.all)
    }
}
