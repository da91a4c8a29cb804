//! The kinds of functions.

use std::ops::RangeInclusive;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// There from the start.
    StaticPf,
    /// Plugged while the controller runs.
    HotplugPf,
    /// Virtual, of a PF.
    Vf,
}

impl Class {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::StaticPf, Self::HotplugPf, Self::Vf];

    /// As replies name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::StaticPf => "static PF",
            Self::HotplugPf => "hotplug PF",
            Self::Vf => "VF",
        }
    }

    /// The numbers its SFs can have. The last is the longest that a representor's name, `en3f0pf0sf`, has room for.
    pub fn sf_nums(self) -> RangeInclusive<u32> {
        match self {
            Self::StaticPf => 1000..=1999,
            Self::HotplugPf => 2000..=2999,
            Self::Vf => 3000..=99_999,
        }
    }
}
