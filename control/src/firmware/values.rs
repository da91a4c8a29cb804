//! A value for every entry, each of its entry's kind. In the store's file, entries at their default are left out.

use std::fmt;

use serde::de::{DeserializeSeed, Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::entry::{Entry, EntryError};

/// In the order of [`Entry::ALL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values([u32; Entry::ALL.len()]);

impl Default for Values {
    fn default() -> Self {
        let mut values = [0; Entry::ALL.len()];
        for entry in Entry::ALL {
            values[*entry as usize] = entry.default_value();
        }
        Self(values)
    }
}

impl Values {
    pub fn of(&self, entry: Entry) -> u32 {
        self.0[entry as usize]
    }

    pub fn is_set(&self, entry: Entry) -> bool {
        self.of(entry) != 0
    }

    /// These values with changes, each `(name, value)`.
    pub fn with(&self, changes: &[(&str, &str)]) -> Result<Self, EntryError> {
        let mut changed = self.clone();
        let mut seen = [false; Entry::ALL.len()];
        for (name, value) in changes {
            let entry: Entry = name.parse()?;
            if std::mem::replace(&mut seen[entry as usize], true) {
                return Err(EntryError::Twice(entry));
            }
            changed.0[entry as usize] = entry.parse(value)?;
        }
        Ok(changed)
    }
}

impl Serialize for Values {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let changed = Entry::ALL.iter().filter(|entry| self.of(**entry) != entry.default_value());
        serializer.collect_map(changed.map(|entry| (entry, entry.kind().json(self.of(*entry)))))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Entries)
    }
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Values;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of entries")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Values, A::Error> {
        let mut values = Values::default();
        let mut seen = [false; Entry::ALL.len()];
        while let Some(entry) = map.next_key::<Entry>()? {
            if std::mem::replace(&mut seen[entry as usize], true) {
                return Err(A::Error::custom(EntryError::Twice(entry)));
            }
            values.0[entry as usize] = map.next_value_seed(entry)?;
        }
        Ok(values)
    }
}

impl<'de> DeserializeSeed<'de> for Entry {
    type Value = u32;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u32, D::Error> {
        let found = serde_json::Value::deserialize(deserializer)?;
        self.parse_json(&found).map_err(D::Error::custom)
    }
}
