//! What a command line asks for, and the table it is shown.

use std::fmt::Write;

use super::entry::{Entry, EntryError, cut};
use super::store::Store;

/// How wide columns are, as in mlxconfig's table; the first with the star's.
const NAME_CHARS: usize = 53;
const VALUE_CHARS: usize = 16;

/// The entries that were named; all, when none was.
///
/// # Errors
/// There is no such entry.
pub fn entries<S: AsRef<str>>(names: &[S]) -> Result<Vec<Entry>, EntryError> {
    if names.is_empty() { Ok(Entry::ALL.into()) } else { names.iter().map(|name| name.as_ref().parse()).collect() }
}

/// Words `NAME=VALUE` as [`Store::set`] takes them.
///
/// # Errors
/// A word has no `=`, nothing before it or nothing after it. Names and values are not looked at.
pub fn assignments<S: AsRef<str>>(words: &[S]) -> Result<Vec<(&str, &str)>, EntryError> {
    words.iter().map(|word| assignment(word.as_ref())).collect()
}

fn assignment(word: &str) -> Result<(&str, &str), EntryError> {
    let split = word.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty());
    split.ok_or_else(|| EntryError::Word(cut(word)))
}

/// Default, current and next boot's value of entries, a row each. A star is before a row whose next value is not its
/// default or not its current one.
pub fn table(store: &Store, entries: &[Entry]) -> String {
    let mut table = String::new();
    let mut row = |name: String, [default, current, next]: [&str; 3]| {
        // Writing to a string cannot fail.
        let _ = writeln!(table, "{name:NAME_CHARS$}{default:VALUE_CHARS$}{current:VALUE_CHARS$}{next}");
    };
    row("Configurations:".into(), ["Default", "Current", "Next Boot"]);
    for entry in entries {
        let (default, current, next) = (entry.default_value(), store.current(*entry), store.next(*entry));
        let mark = if next != default || next != current { '*' } else { ' ' };
        let [default, current, next] = [default, current, next].map(|value| entry.kind().text(value));
        row(format!("{mark}        {entry}"), [&default, &current, &next]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_before_what_is_not_default_or_will_change() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::load(dir.path()).unwrap();
        store.set(&[("VIRTIO_NET_EMULATION_NUM_VF", "126"), ("NUM_OF_VFS", "0")]).unwrap();
        store.apply().unwrap();
        store.set(&[("PER_PF_NUM_SF", "1"), ("NUM_OF_VFS", "16")]).unwrap();
        let names = ["PER_PF_NUM_SF", "NUM_OF_VFS", "PF_BAR2_ENABLE", "VIRTIO_NET_EMULATION_NUM_VF"];
        let found = table(&store, &entries(&names).unwrap());
        let expected = "\
Configurations:                                      Default         Current         Next Boot
*        PER_PF_NUM_SF                               False(0)        False(0)        True(1)
*        NUM_OF_VFS                                  16              0               16
         PF_BAR2_ENABLE                              True(1)         True(1)         True(1)
*        VIRTIO_NET_EMULATION_NUM_VF                 0               126             126
";
        assert_eq!(found, expected);
    }

    #[test]
    fn columns_are_wide_enough_for_everything() {
        let dir = tempfile::tempdir().unwrap();
        let table = table(&Store::load(dir.path()).unwrap(), Entry::ALL);
        assert_eq!(table.lines().count(), 1 + Entry::ALL.len());
        for (line, entry) in table.lines().skip(1).zip(Entry::ALL) {
            let columns: Vec<_> = line.split_whitespace().collect();
            let default = entry.kind().text(entry.default_value());
            assert_eq!(columns, [entry.name(), &default, &default, &default]);
        }
    }

    #[test]
    fn without_names_all_entries_are_meant() {
        assert_eq!(entries::<&str>(&[]).unwrap(), Entry::ALL);
        assert_eq!(entries(&["SRIOV_EN", "NUM_OF_VFS"]).unwrap(), [Entry::Sriov, Entry::NativeVfs]);
        assert!(matches!(entries(&["SRIOV_EN", "all"]), Err(EntryError::Unknown { .. })));
    }

    #[test]
    fn a_word_is_split_at_its_first_sign() {
        assert_eq!(assignments(&["A=1", "B=x=y"]).unwrap(), [("A", "1"), ("B", "x=y")]);
        for word in ["", "A", "=", "=1", "A="] {
            assert_eq!(assignments(&["A=1", word]), Err(EntryError::Word(word.into())));
        }
    }
}
