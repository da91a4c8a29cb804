//! Frame sizes: one for all, or a mix.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

use super::{FRAME_BYTES_MAX, FRAME_BYTES_MIN};

/// Seven small, four middling, one large, spread so that no burst of twelve is without any of them.
const IMIX: [usize; 12] = [64, 594, 64, 64, 594, 64, 1518, 64, 594, 64, 64, 594];

/// How long frames are, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    /// All of one size.
    Fixed(usize),
    /// 64, 594 and 1518 bytes, 7 : 4 : 1.
    Imix,
}

impl Sizes {
    /// The size of the frame in slot `index` of a pattern that repeats.
    pub fn at(self, index: usize) -> usize {
        match self {
            Sizes::Fixed(len_bytes) => len_bytes,
            Sizes::Imix => IMIX[index % IMIX.len()],
        }
    }

    /// After how many frames the pattern repeats.
    pub fn period(self) -> usize {
        match self {
            Sizes::Fixed(_) => 1,
            Sizes::Imix => IMIX.len(),
        }
    }

    /// The longest.
    pub fn longest(self) -> usize {
        match self {
            Sizes::Fixed(len_bytes) => len_bytes,
            Sizes::Imix => 1518,
        }
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "imix" {
            return Ok(Sizes::Imix);
        }
        match text.parse() {
            Ok(len_bytes) if (FRAME_BYTES_MIN..=FRAME_BYTES_MAX).contains(&len_bytes) => Ok(Sizes::Fixed(len_bytes)),
            _ => Err(format!("{FRAME_BYTES_MIN} to {FRAME_BYTES_MAX}, or imix")),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(len_bytes) => write!(f, "{len_bytes}"),
            Sizes::Imix => f.write_str("imix"),
        }
    }
}

impl Serialize for Sizes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Sizes::Fixed(len_bytes) => serializer.serialize_u64(*len_bytes as u64),
            Sizes::Imix => serializer.serialize_str("imix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_seven_four_one() {
        let count = |len_bytes| (0..12).filter(|&i| Sizes::Imix.at(i) == len_bytes).count();
        assert_eq!((count(64), count(594), count(1518)), (7, 4, 1));
        assert_eq!(Sizes::Imix.at(6), Sizes::Imix.at(18));
    }

    #[test]
    fn sizes_are_read_or_refused_with_what_is_allowed() {
        assert_eq!("64".parse(), Ok(Sizes::Fixed(64)));
        assert_eq!("imix".parse(), Ok(Sizes::Imix));
        for text in ["63", "9217", "", "-1", "mix"] {
            assert_eq!(text.parse::<Sizes>(), Err("64 to 9216, or imix".to_owned()), "{text}");
        }
    }
}
