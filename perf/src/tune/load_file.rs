//! Devices that differ, from a file: a JSON list of objects, each checked key by key.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Map, Value};

use crate::args::{Direction, Ring};
use crate::frame::{FRAME_BYTES_MAX, FRAME_BYTES_MIN, Sizes};

/// The most devices of a load.
pub const DEVICES_MAX: usize = 1024;
const QUEUE_PAIRS_MAX: u64 = 64;
const RATE_PPS_MAX: f64 = 1e9;
/// No list of so many devices is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Characters of what was found that are repeated.
const FOUND_CHARS_MAX: usize = 60;

/// What a device has to carry.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DeviceLoad {
    /// For people.
    pub name: String,
    /// Queue pairs.
    pub queue_pairs: u16,
    /// Layout of its queues.
    pub ring: Ring,
    /// Frame sizes; `null` with a capture.
    pub frame_bytes: Option<Sizes>,
    /// Which way its frames go.
    pub direction: Direction,
    /// Frames a second; `null` for as many as go.
    pub rate_pps: Option<f64>,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or something in it is not as it should be: which key, what was found, what is allowed.
pub fn read(path: &Path) -> Result<Vec<DeviceLoad>> {
    let place = || path.display().to_string();
    let mut text = String::new();
    // Of a pipe or device nobody knows the length.
    File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)).with_context(place)?;
    ensure!(text.len() as u64 <= FILE_BYTES_MAX, "{}: a load has up to {FILE_BYTES_MAX} bytes, this has more", place());
    parse(&text).with_context(place)
}

fn parse(text: &str) -> Result<Vec<DeviceLoad>> {
    let value: Value = serde_json::from_str(text).context("no JSON")?;
    let Value::Array(list) = &value else { bail!("found {}: a list of devices is needed", found(&value)) };
    let mut devices = Vec::new();
    let mut names = HashSet::new();
    for (at, value) in list.iter().enumerate() {
        let number = at + 1;
        let Value::Object(map) = value else { bail!("device {number} is {}: an object is needed", found(value)) };
        let (device, count) = Keys(map).device(devices.len()).with_context(|| format!("device {number}"))?;
        ensure!(devices.len() + count <= DEVICES_MAX, "device {number}: there are more than {DEVICES_MAX} in all");
        for copy in 0..count {
            let name = if count > 1 { format!("{}-{}", device.name, copy + 1) } else { device.name.clone() };
            ensure!(names.insert(name.clone()), "device {number}: another one is named {name}, too");
            devices.push(DeviceLoad { name, ..device.clone() });
        }
    }
    ensure!(!devices.is_empty(), "an empty list: one device at least is needed");
    Ok(devices)
}

/// The keys of one device.
struct Keys<'a>(&'a Map<String, Value>);

impl Keys<'_> {
    /// The device, and how many of the kind.
    fn device(&self, before: usize) -> Result<(DeviceLoad, usize)> {
        const KNOWN: [&str; 7] = ["name", "count", "queue_pairs", "ring", "frame_bytes", "direction", "rate_pps"];
        if let Some(key) = self.0.keys().find(|key| !KNOWN.contains(&key.as_str())) {
            bail!("`{}` is no key: {} are", shorten(key), KNOWN.join(", "));
        }
        let whole = |max: u64| move |value: &Value| value.as_u64().filter(|count| (1..=max).contains(count));
        let sizes = |value: &Value| match value {
            Value::String(name) => Sizes::from_str(name).ok().filter(|_| name == "imix"),
            value => Sizes::from_str(&value.as_u64()?.to_string()).ok(),
        };
        let name = |value: &Value| {
            let fits = |name: &&str| (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control);
            value.as_str().filter(fits).map(str::to_owned)
        };
        let rate = |value: &Value| value.as_f64().filter(|rate| (1.0..=RATE_PPS_MAX).contains(rate));
        let device = DeviceLoad {
            name: self
                .get("name", "1 to 64 characters that can be printed", name)?
                .unwrap_or(format!("device{before}")),
            queue_pairs: self.get("queue_pairs", "1 to 64", whole(QUEUE_PAIRS_MAX))?.unwrap_or(1) as u16,
            ring: self.get("ring", "\"split\" or \"packed\"", named)?.unwrap_or(Ring::Packed),
            frame_bytes: Some(
                self.get("frame_bytes", &format!("{FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}, or \"imix\""), sizes)?
                    .unwrap_or(Sizes::Fixed(FRAME_BYTES_MIN)),
            ),
            direction: self
                .get("direction", "\"from-guest\", \"to-guest\", \"loopback\" or \"guest-to-guest\"", named)?
                .unwrap_or(Direction::Loopback),
            rate_pps: self.get("rate_pps", "1 to 1000000000 frames a second, or null", rate)?,
        };
        let count = self.get("count", "1 to 1024", whole(DEVICES_MAX as u64))?.unwrap_or(1);
        Ok((device, count as usize))
    }

    /// A value, if it is there and not `null`.
    fn get<T>(&self, key: &str, allowed: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.0.get(key).filter(|value| !value.is_null()) else { return Ok(None) };
        read(value).map(Some).with_context(|| format!("`{key}` is {}: {allowed} is allowed", found(value)))
    }
}

fn named<T: ValueEnum>(value: &Value) -> Option<T> {
    T::from_str(value.as_str()?, false).ok()
}

fn found(value: &Value) -> String {
    shorten(&value.to_string())
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(FOUND_CHARS_MAX).collect();
    if short.len() < text.len() { short + "..." } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_devices_is_read_and_what_is_left_out_has_a_default() {
        let text = r#"[{"name": "web", "queue_pairs": 4, "ring": "split", "frame_bytes": "imix",
                         "direction": "guest-to-guest", "rate_pps": 2.5e5, "count": 2},
                        {"frame_bytes": 1518, "rate_pps": null}]"#;
        let devices = parse(text).unwrap();
        let web = |name: &str| DeviceLoad {
            name: name.to_owned(),
            queue_pairs: 4,
            ring: Ring::Split,
            frame_bytes: Some(Sizes::Imix),
            direction: Direction::GuestToGuest,
            rate_pps: Some(250e3),
        };
        let plain = DeviceLoad {
            name: "device2".to_owned(),
            queue_pairs: 1,
            ring: Ring::Packed,
            frame_bytes: Some(Sizes::Fixed(1518)),
            direction: Direction::Loopback,
            rate_pps: None,
        };
        assert_eq!(devices, [web("web-1"), web("web-2"), plain]);
    }

    #[test]
    fn a_file_without_end_is_refused() {
        let error = read(Path::new("/dev/zero")).unwrap_err().to_string();
        assert!(error.contains("up to 1048576 bytes"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named_with_what_was_found_and_what_is_allowed() {
        for (text, said) in [
            ("", "no JSON"),
            ("{}", "found {}: a list"),
            ("[]", "empty list"),
            ("[7]", "device 1 is 7: an object"),
            (r#"[{}, {"queues": 2}]"#, "device 2: `queues` is no key: name, count, queue_pairs"),
            (r#"[{"queue_pairs": 0}]"#, "device 1: `queue_pairs` is 0: 1 to 64 is allowed"),
            (r#"[{"queue_pairs": 65}]"#, "`queue_pairs` is 65"),
            (r#"[{"queue_pairs": "2"}]"#, r#"`queue_pairs` is "2""#),
            (r#"[{"queue_pairs": -1}]"#, "`queue_pairs` is -1"),
            (r#"[{"ring": "round"}]"#, r#"`ring` is "round": "split" or "packed""#),
            (r#"[{"frame_bytes": 63}]"#, "`frame_bytes` is 63: 64 to 9216, or \"imix\""),
            (r#"[{"frame_bytes": "64"}]"#, "`frame_bytes` is \"64\""),
            (r#"[{"direction": "up"}]"#, "\"from-guest\", \"to-guest\""),
            (r#"[{"rate_pps": 0}]"#, "`rate_pps` is 0: 1 to 1000000000"),
            (r#"[{"rate_pps": 1e300}]"#, "`rate_pps` is 1e+300"),
            (r#"[{"count": 1025}]"#, "`count` is 1025"),
            (r#"[{"count": 1024}, {}]"#, "device 2: there are more than 1024"),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "device 2: another one is named a"),
            (r#"[{"name": "a-2"}, {"name": "a", "count": 2}]"#, "device 2: another one is named a-2"),
            (r#"[{"name": ""}]"#, "`name` is \"\""),
            (r#"[{"name": ["a", "very long list that is repeated only in part, which is enough of it"]}]"#, "...:"),
        ] {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
