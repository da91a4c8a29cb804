//! What is written on the command line, read.

use std::time::Duration;

use clap::ValueEnum;
use serde_json::{Map, Value};

/// A number, decimal or 0x hex.
pub fn number(text: &str) -> Result<u64, String> {
    let parsed = match hex_digits(text) {
        Some(digits) => parse(digits, 16),
        None => parse(text, 10),
    };
    parsed.ok_or_else(|| "a number is needed, decimal or 0x hex, of at most 64 bits".into())
}

/// A hex number, with or without 0x, as it is sent.
pub fn hex(text: &str) -> Result<String, String> {
    let number = parse(hex_digits(text).unwrap_or(text), 16);
    number.map(|number| format!("{number:#x}")).ok_or_else(|| "a hex number of at most 64 bits is needed".into())
}

fn hex_digits(text: &str) -> Option<&str> {
    text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))
}

/// Digits only: `from_str_radix` takes signs.
fn parse(digits: &str, radix: u32) -> Option<u64> {
    let only_digits = digits.chars().all(|digit| digit.is_digit(radix));
    if only_digits { u64::from_str_radix(digits, radix).ok() } else { None }
}

/// A time in seconds.
pub fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds are needed, 0.1 to 3600".into())
}

/// A link: down or up.
pub fn link(text: &str) -> Result<u64, String> {
    number(text).ok().filter(|link| *link <= 1).ok_or_else(|| "0 (down) or 1 (up) is needed".into())
}

/// The shape of an Ethernet address; which of them is good is for the service to say.
pub fn mac(text: &str) -> Result<String, String> {
    let is_byte = |part: &str| part.len() == 2 && part.bytes().all(|digit| digit.is_ascii_hexdigit());
    if text.split(':').count() == 6 && text.split(':').all(is_byte) {
        Ok(text.into())
    } else {
        Err("six pairs of hex digits are needed, as in 0C:C4:7A:FF:22:93".into())
    }
}

/// A JSON object.
pub fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|error| format!("a JSON object is needed: {error}"))
}

/// The word for a value that has words.
pub fn name_of(value: &impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// What is on or off.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Toggle {
    Enable,
    Disable,
}

impl From<Toggle> for Value {
    fn from(toggle: Toggle) -> Self {
        name_of(&toggle).into()
    }
}
