//! Kinds of values: which are allowed, how they are printed and read, on a command line and in the store's file.

use serde_json::Value;

const FLAG: &[&str] = &["False", "True"];

/// What an entry's value can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// False (0) or true (1).
    Flag,
    /// A number from 0.
    Number {
        /// The largest.
        max: u32,
    },
    /// An identity, in hexadecimal.
    Hex {
        /// The smallest.
        min: u32,
        /// The largest.
        max: u32,
    },
    /// One of these names; its number is its place.
    Choice(&'static [&'static str]),
}

impl Kind {
    fn allows(self, value: u32) -> bool {
        match self {
            Self::Number { max } => value <= max,
            Self::Hex { min, max } => (min..=max).contains(&value),
            Self::Flag | Self::Choice(_) => (value as usize) < self.names().len(),
        }
    }

    /// What its numbers are called, if they are.
    fn names(self) -> &'static [&'static str] {
        match self {
            Self::Flag => FLAG,
            Self::Choice(names) => names,
            Self::Number { .. } | Self::Hex { .. } => &[],
        }
    }

    /// As it is printed: `31`, `0x1af4`, `True(1)`.
    pub fn text(self, value: u32) -> String {
        match (self, self.names().get(value as usize)) {
            (_, Some(name)) => format!("{name}({value})"),
            (Self::Hex { max, .. }, None) => format!("{value:#0width$x}", width = format!("{max:#x}").len()),
            (_, None) => value.to_string(),
        }
    }

    /// Reads what [`text`](Self::text) prints, a name alone in any case, and numbers, with `0x` or without.
    pub(super) fn parse(self, text: &str) -> Option<u32> {
        let is_named = |(value, name): &(u32, &&str)| text.eq_ignore_ascii_case(name) || text == self.text(*value);
        let named = (0..).zip(self.names()).find(is_named).map(|(value, _)| value);
        named.or_else(|| number(text)).filter(|value| self.allows(*value))
    }

    /// What a command line can say.
    pub(super) fn allowed(self) -> String {
        match self {
            Self::Flag => "0, 1, false or true".into(),
            Self::Number { max } => format!("0 to {max}"),
            Self::Hex { min, max } => format!("{} to {}", self.text(min), self.text(max)),
            Self::Choice(names) => {
                let texts: Vec<_> = (0..).zip(names).map(|(value, _)| self.text(value)).collect();
                texts.join(" or ")
            }
        }
    }

    /// Reads a value of the store's file: true, 31, "0x1af4", "PRODUCT".
    pub(super) fn parse_json(self, found: &Value) -> Option<u32> {
        let value = match (self, found) {
            (Self::Flag, Value::Bool(flag)) => Some(u32::from(*flag)),
            (Self::Number { .. }, Value::Number(found)) => found.as_u64().and_then(|found| found.try_into().ok()),
            (Self::Hex { .. }, Value::String(text)) if text.starts_with("0x") => number(text),
            (Self::Choice(names), Value::String(text)) => {
                names.iter().position(|name| name == text).map(|at| at as u32)
            }
            _ => None,
        };
        value.filter(|value| self.allows(*value))
    }

    /// A value of the store's file.
    pub(super) fn json(self, value: u32) -> Value {
        match self {
            Self::Flag => (value != 0).into(),
            Self::Number { .. } => value.into(),
            Self::Hex { .. } => self.text(value).into(),
            Self::Choice(names) => names.get(value as usize).copied().into(),
        }
    }

    /// What the store's file can say.
    pub(super) fn allowed_json(self) -> String {
        match self {
            Self::Flag => "false or true".into(),
            Self::Number { .. } => format!("a number, {}", self.allowed()),
            Self::Hex { min, max } => format!("{} to {}", self.json(min), self.json(max)),
            Self::Choice(names) => names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(" or "),
        }
    }
}

fn number(text: &str) -> Option<u32> {
    let (digits, radix) = text.strip_prefix("0x").map_or((text, 10), |digits| (digits, 16));
    let is_plain = digits.chars().all(|digit| digit.is_digit(radix));
    u32::from_str_radix(digits, radix).ok().filter(|_| is_plain)
}
