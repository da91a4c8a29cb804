//! A path of a frame through the device: which way, over what ring, how long.

use std::fmt;

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    FromGuest,
    ToGuest,
    Loopback,
    GuestToGuest,
}

impl Direction {
    const ALL: [Direction; 4] =
        [Direction::FromGuest, Direction::ToGuest, Direction::Loopback, Direction::GuestToGuest];

    /// Whether frames come from a guest, and whether one gets them.
    pub fn ends(self) -> [bool; 2] {
        [self != Direction::ToGuest, self != Direction::FromGuest]
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ring {
    Split,
    Packed,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Path {
    pub direction: Direction,
    pub ring: Ring,
    pub mergeable: bool,
    pub in_order: bool,
    pub frame_bytes: u32,
}

impl Path {
    /// Every one, in the order of the table.
    pub fn all() -> Vec<Path> {
        let mut paths = Vec::new();
        for direction in Direction::ALL {
            for frame_bytes in [64, 1518] {
                for ring in [Ring::Split, Ring::Packed] {
                    for (mergeable, in_order) in [(false, false), (false, true), (true, false), (true, true)] {
                        paths.push(Path { direction, ring, mergeable, in_order, frame_bytes });
                    }
                }
            }
        }
        paths
    }

    /// Whether its name has each of these words.
    pub fn has(&self, words: &[String]) -> bool {
        let name = self.to_string();
        words.iter().all(|word| name.split(' ').any(|part| part == word))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let direction = match self.direction {
            Direction::FromGuest => "from-guest",
            Direction::ToGuest => "to-guest",
            Direction::Loopback => "loopback",
            Direction::GuestToGuest => "guest-to-guest",
        };
        let ring = match self.ring {
            Ring::Split => "split",
            Ring::Packed => "packed",
        };
        let mergeable = if self.mergeable { "mergeable" } else { "single" };
        let order = if self.in_order { "in-order" } else { "any-order" };
        write!(f, "{direction} {} {ring} {mergeable} {order}", self.frame_bytes)
    }
}
