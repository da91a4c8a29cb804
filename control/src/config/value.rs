//! Values with a form or a range of their own, refused where they stand.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest a netdev's name can be. (IFNAMSIZ, less its zero)
const NETDEV_CHARS_MAX: usize = 15;
/// The same of an RDMA device. (IB_DEVICE_NAME_MAX, less its zero)
const IB_DEVICE_CHARS_MAX: usize = 63;
const NAME_CHARS_MAX: usize = 64;
/// The same of a DPDK device. (RTE_DEV_NAME_MAX_LEN, less its zero)
const DPDK_DEVICE_CHARS_MAX: usize = 63;
const DEVARGS_CHARS_MAX: usize = 1023;
/// No machine has more.
const LCORE_MAX: usize = 4095;

/// An integer from `MIN` to `MAX`.
pub fn between<'de, D: Deserializer<'de>, T: TryFrom<u64>, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<T, D::Error> {
    let found = u64::deserialize(deserializer)?;
    let fits = (MIN..=MAX).contains(&found).then(|| T::try_from(found).ok()).flatten();
    let allowed = || match MAX - MIN {
        0 => MIN.to_string(),
        1 => format!("{MIN} or {MAX}"),
        _ => format!("{MIN} to {MAX}"),
    };
    fits.ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(found), &allowed().as_str()))
}

/// The same for a key that may be left out.
pub fn optional_between<'de, D: Deserializer<'de>, T: TryFrom<u64>, const MIN: u64, const MAX: u64>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    between::<D, T, MIN, MAX>(deserializer).map(Some)
}

/// A key that may be left out, but is not null.
pub fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// 0 or 1.
pub fn flag<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    between::<D, u8, 0, 1>(deserializer).map(|found| found == 1)
}

/// An object, and not a list of its values, which serde would take for a struct as well.
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Entries<T> {
            type Value = T;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData)).map(Self)
    }
}

/// The same as a value.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Object::deserialize(deserializer).map(|Object(value)| value)
}

/// A list of objects.
pub fn objects<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let list = Vec::<Object<T>>::deserialize(deserializer)?;
    Ok(list.into_iter().map(|Object(value)| value).collect())
}

/// The size of a queue, for a key that may be left out.
pub fn optional_queue_size<'de, D: Deserializer<'de>, T: TryFrom<u64>>(deserializer: D) -> Result<Option<T>, D::Error> {
    let found = u64::deserialize(deserializer)?;
    let is_size = (4..=32768).contains(&found) && found.is_power_of_two();
    let size = is_size.then(|| T::try_from(found).ok()).flatten();
    size.map(Some).ok_or_else(|| D::Error::invalid_value(Unexpected::Unsigned(found), &"a power of 2 from 4 to 32768"))
}

/// A finite number above 0, for a key that may be left out.
pub fn optional_rate<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    let found = f64::deserialize(deserializer)?;
    if found.is_finite() && found > 0.0 {
        return Ok(Some(found));
    }
    Err(D::Error::invalid_value(Unexpected::Float(found), &"a number above 0"))
}

/// A device's name.
pub fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    let count = found.chars().count();
    if (1..=NAME_CHARS_MAX).contains(&count) && !found.chars().any(char::is_control) {
        return Ok(found);
    }
    Err(D::Error::invalid_value(Unexpected::Str(&found), &"1 to 64 characters that can be printed"))
}

/// Ids of objects of QEMU's, one at least.
pub fn qemu_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let found = Vec::<String>::deserialize(deserializer)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    let is_id = |id: &str| {
        id.starts_with(|c: char| c.is_ascii_alphabetic()) && id.len() <= NAME_CHARS_MAX && id.chars().all(is_plain)
    };
    if found.is_empty() {
        return Err(D::Error::invalid_length(0, &"one id at least"));
    }
    match found.iter().find(|id| !is_id(id)) {
        Some(id) => {
            let allowed = "an id: a letter, then up to 63 letters, digits, '-', '.', '_'";
            Err(D::Error::invalid_value(Unexpected::Str(id), &allowed))
        }
        None => Ok(found),
    }
}

/// A path that is not empty.
pub fn path<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
    let found = String::deserialize(deserializer)?;
    if !found.is_empty() && !found.contains('\0') {
        return Ok(found.into());
    }
    Err(D::Error::invalid_value(Unexpected::Str(&found), &"a path"))
}

/// A netdev's name.
pub fn netdev<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    let is_plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':' && c != '%';
    if (1..=NETDEV_CHARS_MAX).contains(&found.len()) && found.chars().all(is_plain) && found != "." && found != ".." {
        return Ok(found);
    }
    Err(D::Error::invalid_value(Unexpected::Str(&found), &"a netdev's name: 1 to 15 letters, digits, '-', '_', '.'"))
}

/// The same, for a key that may be left out.
pub fn optional_netdev<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    netdev(deserializer).map(Some)
}

/// A DPDK device, and its arguments behind a comma, for a key that may be left out.
pub fn optional_devargs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let found = String::deserialize(deserializer)?;
    let device = found.split(',').next().unwrap_or_default();
    let fits = (1..=DPDK_DEVICE_CHARS_MAX).contains(&device.len()) && found.len() <= DEVARGS_CHARS_MAX;
    if fits && found.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Some(found));
    }
    let allowed = "a DPDK device and its arguments, such as \"0000:08:00.0\" or \"net_tap0,iface=tap0\"";
    Err(D::Error::invalid_value(Unexpected::Str(&found), &allowed))
}

/// The name of an RDMA device.
pub fn ib_device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let found = String::deserialize(deserializer)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if (1..=IB_DEVICE_CHARS_MAX).contains(&found.len()) && found.chars().all(is_plain) {
        return Ok(found);
    }
    Err(D::Error::invalid_value(Unexpected::Str(&found), &"an RDMA device's name: 1 to 63 letters, digits, '_', '-'"))
}

/// The same for a key that may be left out.
pub fn optional_ib_device<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    ib_device(deserializer).map(Some)
}

/// What is done unless somebody says no.
pub fn yes() -> bool {
    true
}

/// Only the owner may connect.
pub fn socket_mode_default() -> u32 {
    0o600
}

/// Permissions of a socket, as in chmod.
pub fn octal<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    let found = String::deserialize(deserializer)?;
    let mode = u32::from_str_radix(&found, 8).ok().filter(|mode| *mode <= 0o777 && mode & 0o600 == 0o600);
    mode.ok_or_else(|| {
        D::Error::invalid_value(Unexpected::Str(&found), &"an octal mode that lets the owner in, \"0600\" to \"0777\"")
    })
}

/// A device's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// An address of a name: always the same, locally administered, not a group's.
    pub fn of_name(name: &str) -> Self {
        // FNV-1a, 64 bits.
        let fold = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let [_, _, rest @ ..] = name.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325, fold).to_be_bytes();
        let mut mac = rest;
        mac[0] = mac[0] & !0x01 | 0x02;
        Self(mac)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()))?;
            *byte = u8::from_str_radix(part, 16).ok()?;
        }
        let is_one_devices = mac[0] & 1 == 0 && mac != [0; 6];
        (parts.next().is_none() && is_one_devices).then_some(Self(mac))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl<'de> Deserialize<'de> for Mac {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        Self::parse(&found).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Str(&found), &"one device's address, such as \"02:00:00:00:00:01\"")
        })
    }
}

impl Serialize for Mac {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Bits, written as "0x" and up to 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hex(pub u64);

impl Hex {
    fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?;
        let is_hex = digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(digits, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for Hex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl<'de> Deserialize<'de> for Hex {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        Self::parse(&found).ok_or_else(|| {
            let allowed = "bits in hexadecimal, up to 64, such as \"0x230047082b\"";
            D::Error::invalid_value(Unexpected::Str(&found), &allowed)
        })
    }
}

impl Serialize for Hex {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Lcores, each once, in the order given; none is one worker that is not pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lcores(pub Vec<usize>);

impl Lcores {
    /// The workers: where each is pinned.
    pub fn workers(&self) -> Vec<Option<usize>> {
        if self.0.is_empty() { vec![None] } else { self.0.iter().copied().map(Some).collect() }
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lcores = Vec::new();
        for part in text.split(',') {
            let number = |text: &str| text.trim().parse::<usize>().ok().filter(|lcore| *lcore <= LCORE_MAX);
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return None;
            }
            for lcore in first..=last {
                if lcores.contains(&lcore) {
                    return None;
                }
                lcores.push(lcore);
            }
        }
        Some(Self(lcores))
    }
}

impl<'de> Deserialize<'de> for Lcores {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = String::deserialize(deserializer)?;
        Self::parse(&found).ok_or_else(|| {
            D::Error::invalid_value(Unexpected::Str(&found), &"lcores, each once, such as \"0\" or \"2-5,8\"")
        })
    }
}
