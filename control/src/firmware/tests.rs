use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn load(dir: &TempDir) -> Store {
    Store::load(dir.path()).unwrap()
}

/// A store with these words set for the next boot.
fn set(dir: &TempDir, words: &str) -> Result<Store, String> {
    let mut store = load(dir);
    let words: Vec<_> = words.split_whitespace().collect();
    let changes = assignments(&words).map_err(|error| error.to_string())?;
    store.set(&changes).map(|()| store).map_err(|error| error.to_string())
}

fn refusal(words: &str) -> String {
    set(&folder(), words).map(|_| ()).unwrap_err()
}

/// What is wrong with a store's file, without its path.
fn damage(text: impl AsRef<[u8]>) -> String {
    let dir = folder();
    fs::write(dir.path().join("firmware.json"), text).unwrap();
    let error = Store::load(dir.path()).unwrap_err().to_string();
    let path = dir.path().join("firmware.json").display().to_string();
    assert!(error.starts_with(&path), "{error}");
    error[path.len()..].into()
}

fn current(entries: &str) -> String {
    damage(format!("{{\"next_boot\": {{}},\n \"current\": {{{entries}}}}}"))
}

#[test]
fn every_entry_is_documented_with_its_values_and_default() {
    let page = include_str!("../../../docs/firmware.md");
    let rows: Vec<_> = page.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(rows.len(), Entry::ALL.len());
    for (row, entry) in rows.into_iter().zip(Entry::ALL) {
        let kind = entry.kind();
        let begins = format!("| `{entry}` | {} | {} | ", kind.allowed(), kind.text(entry.default_value()));
        assert!(row.starts_with(&begins), "{row}: {begins}");
    }
}

#[test]
fn every_entry_has_its_place_and_default() {
    let expected = [
        ("VIRTIO_NET_EMULATION_ENABLE", "False(0)"),
        ("VIRTIO_NET_EMULATION_NUM_PF", "0"),
        ("VIRTIO_NET_EMULATION_NUM_VF", "0"),
        ("VIRTIO_NET_EMULATION_NUM_MSIX", "2"),
        ("VIRTIO_NET_EMULATION_NUM_VF_MSIX", "0"),
        ("PCI_SWITCH_EMULATION_ENABLE", "False(0)"),
        ("PCI_SWITCH_EMULATION_NUM_PORT", "0"),
        ("PER_PF_NUM_SF", "False(0)"),
        ("PF_TOTAL_SF", "0"),
        ("PF_SF_BAR_SIZE", "0"),
        ("PF_BAR2_ENABLE", "True(1)"),
        ("SRIOV_EN", "True(1)"),
        ("EXP_ROM_VIRTIO_NET_PXE_ENABLE", "True(1)"),
        ("EXP_ROM_VIRTIO_NET_UEFI_ARM_ENABLE", "True(1)"),
        ("EXP_ROM_VIRTIO_NET_UEFI_x86_ENABLE", "True(1)"),
        ("VIRTIO_NET_EMULATION_PF_PCI_LAYOUT", "VIRTIO_1_X(0)"),
        ("VIRTIO_NET_EMULATION_VF_PCI_LAYOUT", "VIRTIO_1_X(0)"),
        ("VIRTIO_EMULATION_HOTPLUG_TRANS", "False(0)"),
        ("VIRTIO_NET_EMULATION_VENDOR_ID", "0x1af4"),
        ("VIRTIO_NET_EMULATION_DEVICE_ID", "0x1041"),
        ("VIRTIO_NET_EMULATION_CLASS_CODE", "0x028000"),
        ("NUM_OF_VFS", "16"),
        ("NUM_VF_MSIX", "0"),
        ("INTERNAL_CPU_MODEL", "EMBEDDED_CPU(1)"),
        ("INTERNAL_CPU_OFFLOAD_ENGINE", "ENABLED(0)"),
        ("VIRTNET_LIMITS", "OURS(0)"),
    ];
    let dir = folder();
    let store = load(&dir);
    let found = Entry::ALL.iter().map(|entry| {
        assert_eq!(store.current(*entry), entry.default_value());
        assert_eq!(store.next(*entry), entry.default_value());
        assert_eq!(entry.name().parse(), Ok(*entry));
        (entry.name(), entry.kind().text(entry.default_value()))
    });
    assert_eq!(found.collect::<Vec<_>>(), expected.map(|(name, text)| (name, text.into())));
    assert!(!store.is_pending());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "reading leaves nothing behind");
}

#[test]
fn a_range_ends_where_it_should() {
    let number = |max: u64| (max, format!("0 to {max}"));
    let ranges = [
        ("VIRTIO_NET_EMULATION_NUM_PF", number(31)),
        ("VIRTIO_NET_EMULATION_NUM_VF", number(1008)),
        ("VIRTIO_NET_EMULATION_NUM_MSIX", number(2048)),
        ("VIRTIO_NET_EMULATION_NUM_VF_MSIX", number(2048)),
        ("PCI_SWITCH_EMULATION_NUM_PORT", number(31)),
        ("PF_TOTAL_SF", number(65535)),
        ("PF_SF_BAR_SIZE", number(20)),
        ("NUM_OF_VFS", number(1008)),
        ("NUM_VF_MSIX", number(2048)),
        ("VIRTIO_NET_EMULATION_VENDOR_ID", (0xfffe, "0x0001 to 0xfffe".into())),
        ("VIRTIO_NET_EMULATION_DEVICE_ID", (0xffff, "0x0000 to 0xffff".into())),
        ("VIRTIO_NET_EMULATION_CLASS_CODE", (0xff_ffff, "0x000000 to 0xffffff".into())),
        ("VIRTIO_NET_EMULATION_PF_PCI_LAYOUT", (1, "VIRTIO_1_X(0) or TRANSITIONAL(1)".into())),
        ("VIRTIO_NET_EMULATION_VF_PCI_LAYOUT", (1, "VIRTIO_1_X(0) or TRANSITIONAL(1)".into())),
        ("INTERNAL_CPU_MODEL", (1, "SEPARATED_HOST(0) or EMBEDDED_CPU(1)".into())),
        ("INTERNAL_CPU_OFFLOAD_ENGINE", (1, "ENABLED(0) or DISABLED(1)".into())),
        ("VIRTNET_LIMITS", (1, "OURS(0) or PRODUCT(1)".into())),
    ];
    let flags = Entry::ALL.iter().filter(|entry| entry.kind() == Kind::Flag);
    let flags = flags.map(|entry| (entry.name(), (1, String::from("0, 1, false or true"))));
    let ranges: Vec<_> = ranges.into_iter().chain(flags).collect();
    assert_eq!(ranges.len(), Entry::ALL.len());
    for (name, (max, allowed)) in ranges {
        let entry: Entry = name.parse().unwrap();
        assert_eq!(entry.parse(&max.to_string()), Ok(max as u32), "{name}");
        for found in [(max + 1).to_string(), format!("{:#x}", max + 1), "4294967296".into(), "-1".into(), "on".into()] {
            let error = entry.parse(&found).unwrap_err().to_string();
            assert_eq!(error, format!("{name} is {found:?}; allowed is {allowed}"));
        }
    }
    assert!(refusal("VIRTIO_NET_EMULATION_VENDOR_ID=0").ends_with("allowed is 0x0001 to 0xfffe"));
}

#[test]
fn values_have_several_spellings() {
    for (text, value) in [("0", 0), ("false", 0), ("False", 0), ("FALSE", 0), ("False(0)", 0), ("1", 1), ("true", 1)] {
        assert_eq!(Entry::Emulation.parse(text), Ok(value), "{text}");
    }
    for text in ["31", "0x1f", "0x1F", "031"] {
        assert_eq!(Entry::StaticPfs.parse(text), Ok(31), "{text}");
    }
    for text in ["product", "PRODUCT", "1", "PRODUCT(1)", "0x1"] {
        assert_eq!(Entry::Profile.parse(text), Ok(1), "{text}");
    }
    for text in ["", " 1", "+1", "0x", "0x+1", "1.0", "1f", "yes", "True(0)", "true\0", "2"] {
        assert!(Entry::Emulation.parse(text).is_err(), "{text}");
    }
}

#[test]
fn an_unknown_name_is_told_the_nearest() {
    let nearest = |name: &str| match name.parse::<Entry>() {
        Err(EntryError::Unknown { nearest, .. }) => nearest,
        found => panic!("{found:?}"),
    };
    assert_eq!(nearest("VIRTIO_NET_EMULATION_NUM_PFS"), "VIRTIO_NET_EMULATION_NUM_PF");
    assert_eq!(nearest("sriov_en"), "SRIOV_EN");
    assert_eq!(nearest("PF_TOTAL_SFS"), "PF_TOTAL_SF");
    let error = refusal("SRIOV=1");
    assert_eq!(error, "\"SRIOV\" is not an entry; the nearest is SRIOV_EN");
    let error = "\u{1b}é".repeat(100_000).parse::<Entry>().unwrap_err().to_string();
    assert!(error.len() < 1000 && !error.contains('\u{1b}'), "{error}");
}

#[test]
fn a_set_is_all_or_nothing() {
    let dir = folder();
    set(&dir, "VIRTIO_NET_EMULATION_NUM_PF=2 SRIOV_EN=0").unwrap();
    let file = || fs::read(dir.path().join("firmware.json")).unwrap();
    let before = file();
    for words in [
        "VIRTIO_NET_EMULATION_NUM_PF=3 SRIOV_EN=2",
        "VIRTIO_NET_EMULATION_NUM_PF=3 SRIOV=1",
        "VIRTIO_NET_EMULATION_NUM_PF=3 VIRTIO_NET_EMULATION_NUM_PF=3",
        "VIRTIO_NET_EMULATION_NUM_PF=3 VIRTIO_NET_EMULATION_NUM_VF=337 SRIOV_EN=1",
        "VIRTIO_NET_EMULATION_NUM_PF=3 SRIOV_EN",
        "VIRTIO_NET_EMULATION_NUM_PF=3 SRIOV_EN=",
    ] {
        set(&dir, words).unwrap_err();
        assert_eq!(file(), before, "{words}");
    }
    let mut store = load(&dir);
    store.set(&[("VIRTIO_NET_EMULATION_NUM_PF", "3"), ("SRIOV_EN", "2")]).unwrap_err();
    assert_eq!(store.next(Entry::StaticPfs), 2);
    assert_eq!(refusal("SRIOV_EN=0 SRIOV_EN=0"), "SRIOV_EN is given twice");
    assert_eq!(refusal("=1"), "\"=1\" sets nothing; allowed is NAME=VALUE");
}

#[test]
fn what_is_set_takes_effect_with_a_start() {
    let dir = folder();
    let mut store = set(&dir, "VIRTIO_NET_EMULATION_ENABLE=1 VIRTIO_NET_EMULATION_NUM_PF=4").unwrap();
    assert_eq!((store.current(Entry::StaticPfs), store.next(Entry::StaticPfs)), (0, 4));
    assert_eq!((store.limits().static_pfs, store.next_limits().static_pfs), (0, 4));
    assert!(store.is_pending());
    assert!(store.apply().unwrap());
    assert!(!store.is_pending());
    for mut store in [store, load(&dir)] {
        assert_eq!((store.current(Entry::StaticPfs), store.next(Entry::StaticPfs)), (4, 4));
        assert!(!store.apply().unwrap(), "nothing is new to the second start");
    }
    let mut store = load(&dir);
    store.reset().unwrap();
    assert_eq!((store.current(Entry::StaticPfs), store.next(Entry::StaticPfs)), (4, 0));
    assert!(store.apply().unwrap());
    assert_eq!(load(&dir).limits(), load(&folder()).limits());
}

#[test]
fn a_start_takes_what_others_have_set_since() {
    let dir = folder();
    let mut daemon = load(&dir);
    set(&dir, "VIRTIO_NET_EMULATION_NUM_PF=1").unwrap();
    assert!(!daemon.is_pending());
    assert!(daemon.apply().unwrap());
    assert_eq!(daemon.current(Entry::StaticPfs), 1);
}

#[test]
fn a_start_without_changes_writes_nothing() {
    let dir = folder();
    assert!(!load(&dir).apply().unwrap());
    assert!(!dir.path().join("firmware.json").exists());
}

#[test]
fn the_folder_is_made_by_the_first_change() {
    let dir = folder();
    let deep = dir.path().join("a/b");
    Store::load(&deep).unwrap().set(&[("SRIOV_EN", "0")]).unwrap();
    assert_eq!(Store::load(&deep).unwrap().next(Entry::Sriov), 0);
    let mut names: Vec<_> = fs::read_dir(&deep).unwrap().map(|file| file.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["firmware.json", "firmware.lock"]);
}

#[test]
fn writers_at_the_same_time_lose_nothing() {
    let dir = folder();
    let numbers = ["VIRTIO_NET_EMULATION_NUM_MSIX", "PF_TOTAL_SF", "NUM_VF_MSIX", "NUM_OF_VFS"];
    std::thread::scope(|scope| {
        for name in numbers {
            // Each has read the file before any of them changes it.
            let mut store = load(&dir);
            scope.spawn(move || {
                for value in 105..110 {
                    store.set(&[(name, &value.to_string())]).unwrap();
                }
            });
        }
    });
    let store = load(&dir);
    for name in numbers {
        assert_eq!(store.next(name.parse().unwrap()), 109, "{name}");
    }
}

#[test]
fn a_writer_that_does_not_finish_is_named() {
    let dir = folder();
    let held = file::lock(dir.path(), Duration::ZERO).unwrap();
    let error = file::lock(dir.path(), Duration::ZERO).unwrap_err();
    assert!(matches!(&error, StoreError::Busy { path, .. } if path == &dir.path().join("firmware.lock")), "{error}");
    assert!(Store::load(dir.path()).is_ok(), "who reads does not wait");
    drop(held);
    file::lock(dir.path(), Duration::ZERO).unwrap();
}

#[test]
fn a_damaged_file_is_refused_where_it_is_damaged() {
    let cases = [
        ("\"NUM_OF_VF\": 1", ": \"NUM_OF_VF\" is not an entry; the nearest is NUM_OF_VFS at line 2 column 24"),
        ("\"NUM_OF_VFS\": 1009", ": NUM_OF_VFS is 1009; allowed is a number, 0 to 1008 at line 2 column 32"),
        ("\"NUM_OF_VFS\": \"16\"", ": NUM_OF_VFS is \"16\"; allowed is a number, 0 to 1008 at line 2 column 32"),
        ("\"NUM_OF_VFS\": -1", ": NUM_OF_VFS is -1; allowed is a number, 0 to 1008 at line 2 column 30"),
        ("\"NUM_OF_VFS\": 1.0", ": NUM_OF_VFS is 1.0; allowed is a number, 0 to 1008 at line 2 column 31"),
        ("\"SRIOV_EN\": 1", ": SRIOV_EN is 1; allowed is false or true at line 2 column 27"),
        ("\"SRIOV_EN\": true, \"SRIOV_EN\": true", ": SRIOV_EN is given twice at line 2 column 41"),
        (
            "\"VIRTNET_LIMITS\": \"product\"",
            ": VIRTNET_LIMITS is \"product\"; allowed is \"OURS\" or \"PRODUCT\" at line 2 column 41",
        ),
        (
            "\"VIRTIO_NET_EMULATION_VENDOR_ID\": 6900",
            ": VIRTIO_NET_EMULATION_VENDOR_ID is 6900; allowed is \"0x0001\" to \"0xfffe\" at line 2 column 52",
        ),
        (
            "\"VIRTIO_NET_EMULATION_NUM_PF\": 31, \"VIRTIO_NET_EMULATION_NUM_VF\": 33",
            ": current: 31 static PFs with 33 VFs each have 1023 VFs; allowed are 1008 in all",
        ),
    ];
    for (entries, expected) in cases {
        assert_eq!(current(entries), expected);
    }
    assert!(current("\"SRIOV_EN\": [1, {\"a\": null}]").starts_with(": SRIOV_EN is [1,{\"a\":null}]; allowed"));
    let long = current(&format!("\"SRIOV_EN\": {:?}", "x".repeat(60_000)));
    assert!(long.len() < 1000, "{long}");
}

#[test]
fn a_file_of_another_kind_is_refused() {
    assert!(
        damage("{\"devices\": []}")
            .starts_with(": unknown field `devices`, expected `current` or `next_boot` at line 1")
    );
    for text in
        ["", "null", "[]", "{}", "{\"current\": {}}", "{\"current\": {}, \"next_boot\": []}", "\u{0}", "\u{feff}{}"]
    {
        assert!(damage(text).contains(" at line 1 column "), "{text:?}");
    }
    for text in ["{\"current\": {}, \"next_boot\": {}} x", "{\"current\": {}, \"current\": {}, \"next_boot\": {}}"] {
        assert!(damage(text).contains(" at line 1 column "), "{text:?}");
    }
    assert!(damage(b"{\"\xff\": {}}").contains("line 1"));
    assert!(damage("{\"current\": {\"SRIOV_EN\":".to_owned() + &"[".repeat(60_000)).contains("recursion limit"));
    assert_eq!(damage(vec![b' '; 65537]), " is longer than 65536 bytes");
}

#[test]
fn what_is_no_file_is_refused() {
    let dir = folder();
    let path = dir.path().join("firmware.json");
    fs::create_dir(&path).unwrap();
    assert!(matches!(Store::load(dir.path()), Err(StoreError::NotAFile { path: found }) if found == path));
    fs::remove_dir(&path).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RUSR).unwrap();
    assert!(matches!(Store::load(dir.path()), Err(StoreError::NotAFile { path: found }) if found == path));
    fs::remove_file(&path).unwrap();
    let not_a_folder = path.with_file_name("file");
    fs::write(&not_a_folder, "").unwrap();
    assert!(matches!(Store::load(&not_a_folder), Err(StoreError::Read { .. })));
}

#[test]
fn a_file_cut_short_is_refused_and_not_replaced() {
    let dir = folder();
    let words = "VIRTIO_NET_EMULATION_NUM_PF=4 VIRTIO_NET_EMULATION_CLASS_CODE=0x020000 VIRTNET_LIMITS=1";
    let mut store = set(&dir, words).unwrap();
    let whole = fs::read(store.path()).unwrap();
    assert_eq!(whole.last_chunk(), Some(b"}\n"));
    for len in 0..whole.len() - 1 {
        let cut = &whole[..len];
        fs::write(store.path(), cut).unwrap();
        assert!(matches!(Store::load(dir.path()), Err(StoreError::Value { .. })), "{len} bytes");
        store.set(&[("SRIOV_EN", "0")]).unwrap_err();
        store.reset().unwrap_err();
        store.apply().unwrap_err();
        assert_eq!(fs::read(store.path()).unwrap(), cut);
    }
    assert_eq!((store.current(Entry::StaticPfs), store.next(Entry::StaticPfs)), (0, 4));
}

#[test]
fn the_file_holds_what_is_not_default() {
    let dir = folder();
    let words = "SRIOV_EN=0 VIRTIO_NET_EMULATION_NUM_PF=0x4 VIRTIO_NET_EMULATION_CLASS_CODE=131072
                 VIRTNET_LIMITS=1 PF_TOTAL_SF=0";
    let store = set(&dir, words).unwrap();
    let found: serde_json::Value = serde_json::from_slice(&fs::read(store.path()).unwrap()).unwrap();
    let next_boot = serde_json::json!({
        "VIRTIO_NET_EMULATION_NUM_PF": 4,
        "SRIOV_EN": false,
        "VIRTIO_NET_EMULATION_CLASS_CODE": "0x020000",
        "VIRTNET_LIMITS": "PRODUCT",
    });
    assert_eq!(found, serde_json::json!({"current": {}, "next_boot": next_boot}));
}

/// A word that an entry takes.
fn word() -> impl Strategy<Value = (&'static str, String)> {
    (proptest::sample::select(Entry::ALL), any::<u32>()).prop_map(|(entry, seed)| {
        let (min, max) = match entry.kind() {
            Kind::Flag => (0, 1),
            Kind::Number { max } => (0, max),
            Kind::Hex { min, max } => (min, max),
            Kind::Choice(names) => (0, names.len() as u32 - 1),
        };
        (entry.name(), entry.kind().text(min + seed % (max - min + 1)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Sets and starts, against a model that is two lists of texts.
    #[test]
    fn what_is_set_is_what_is_loaded(steps in proptest::collection::vec(proptest::collection::vec(word(), 0..6), 1..12)) {
        let dir = folder();
        let texts = |value: &dyn Fn(Entry) -> u32| -> Vec<_> {
            Entry::ALL.iter().map(|entry| entry.kind().text(value(*entry))).collect()
        };
        let mut current = texts(&Entry::default_value);
        let mut next = current.clone();
        for step in steps {
            let mut store = load(&dir);
            if step.is_empty() {
                prop_assert_eq!(store.apply().unwrap(), current != next);
                current = next.clone();
            } else {
                let mut wanted = next.clone();
                let mut names = HashSet::new();
                for (name, value) in &step {
                    names.insert(name);
                    wanted[Entry::ALL.iter().position(|entry| entry.name() == *name).unwrap()] = value.clone();
                }
                let number = |entry: Entry| wanted[entry as usize].parse::<u32>().unwrap();
                let is_too_much = number(Entry::StaticPfs) * number(Entry::VfsPerPf) > 1008;
                let may_be_refused = names.len() < step.len() || is_too_much || wanted.contains(&"PRODUCT(1)".into());
                let changes: Vec<_> = step.iter().map(|(name, value)| (*name, value.as_str())).collect();
                match store.set(&changes) {
                    Ok(()) => next = wanted,
                    Err(error) => prop_assert!(may_be_refused, "{}", error),
                }
            }
            for store in [store, load(&dir)] {
                prop_assert_eq!(&texts(&|entry| store.current(entry)), &current);
                prop_assert_eq!(&texts(&|entry| store.next(entry)), &next);
            }
        }
    }

    /// A file with some bytes changed is read, or refused; what is read is within limits.
    #[test]
    fn a_file_may_hold_anything(
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let dir = folder();
        let words = "VIRTIO_NET_EMULATION_NUM_PF=4 SRIOV_EN=0 VIRTIO_NET_EMULATION_CLASS_CODE=0x020000";
        let path = set(&dir, words).unwrap().path();
        let mut text = fs::read(&path).unwrap();
        for (at, byte) in changes {
            let at = at.index(text.len());
            text[at] = byte;
        }
        fs::write(&path, text).unwrap();
        if let Ok(mut store) = Store::load(dir.path()) {
            for entry in Entry::ALL {
                prop_assert_eq!(entry.parse(&entry.kind().text(store.next(*entry))), Ok(store.next(*entry)));
            }
            store.apply().unwrap();
        }
    }
}
