use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use proptest::option;
use proptest::prelude::*;
use rustix::fs::{FileType, Mode};

use super::*;
use crate::class::Class;
use crate::config::{Hex, Mac};
use crate::device::settings::Speed;
use crate::function::{PeriodMode, pools};

const HOTPLUG: &str = r#"{
  "port_ib_dev": "mlx5_0",
  "pf_id": 0,
  "function_type": "pf",
  "bdf_raw": 57611,
  "device_type": "hotplug",
  "mac": "0c:c4:7a:ff:22:93",
  "pf_num": 0,
  "sf_num": 2000,
  "mq": 3
}
"#;

struct House {
    dir: tempfile::TempDir,
    folder: Folder,
}

impl House {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::open(dir.path()).unwrap();
        Self { dir, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("recovery").join(name)
    }

    fn lay(&self, name: &str, text: impl AsRef<[u8]>) {
        fs::write(self.path(name), text).unwrap();
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("")).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// The VUIDs that come up, and the errors, without the folder.
    fn load(&self) -> (Vec<String>, Vec<String>) {
        let (records, errors) = self.folder.load();
        let base = format!("{:?}", self.path(""));
        let base = base.trim_matches('"').to_owned();
        let errors = errors.iter().map(|error| error.to_string().replace(&base, ""));
        (records.into_iter().map(|record| record.vuid).collect(), errors.collect())
    }
}

fn record(vuid: &str) -> Record {
    Record::parse(vuid, HOTPLUG.as_bytes()).unwrap()
}

/// The documented example with one line replaced.
fn with(line: &str, new: &str) -> String {
    assert!(HOTPLUG.contains(line), "{line}");
    HOTPLUG.replacen(line, new, 1)
}

#[test]
fn the_documented_file_is_read_and_written_as_it_is() {
    let house = House::new();
    let hotplug = record("MT2151X03152VNETS1D0F0");
    assert_eq!(hotplug.class().unwrap(), Class::HotplugPf);
    assert_eq!((hotplug.bdf_raw, hotplug.sf_num, hotplug.mq), (0xe10b, 2000, 3));
    assert_eq!(hotplug.mac, Mac([0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x93]));
    house.folder.save(std::slice::from_ref(&hotplug)).unwrap();
    let path = house.path("MT2151X03152VNETS1D0F0.json");
    assert_eq!(fs::read_to_string(&path).unwrap(), HOTPLUG);
    assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    let (records, errors) = house.folder.load();
    assert!(errors.is_empty(), "{errors:?}");
    assert_eq!(records, [hotplug]);
}

#[test]
fn a_file_is_replaced_and_removed() {
    let house = House::new();
    let mut one = record("A");
    house.folder.save(std::slice::from_ref(&one)).unwrap();
    (one.mtu, one.link, one.features) = (Some(9000), Some(false), Some(Hex(0x23_0047_082b)));
    house.folder.save(std::slice::from_ref(&one)).unwrap();
    assert_eq!(house.folder.load().0, [one]);
    let text = fs::read_to_string(house.path("A.json")).unwrap();
    assert!(text.contains(r#""features": "0x230047082b""#), "{text}");
    house.folder.remove(["A"]).unwrap();
    house.folder.remove(["A"]).unwrap();
    assert_eq!(house.names(), [""; 0]);
}

#[test]
fn clearing_takes_our_files_and_nothing_else() {
    let house = House::new();
    for name in ["A.json", "B.json", ".new-A.json", "notes.txt", "a b.json"] {
        house.lay(name, "x");
    }
    fs::create_dir(house.path("F.json")).unwrap();
    symlink("/etc/hostname", house.path("L.json")).unwrap();
    house.folder.clear().unwrap();
    assert_eq!(house.names(), ["F.json", "L.json", "a b.json", "notes.txt"]);
    assert!(Path::new("/etc/hostname").exists());
}

#[test]
fn a_crash_leaves_the_old_file_or_the_new_one() {
    let house = House::new();
    let old = record("A");
    house.folder.save(std::slice::from_ref(&old)).unwrap();
    // Killed before the rename: at any length.
    for len_bytes in [0, 1, 100, HOTPLUG.len()] {
        house.lay(".new-A.json", &HOTPLUG[..len_bytes]);
        assert_eq!(house.folder.load().0, std::slice::from_ref(&old));
        assert_eq!(house.names(), ["A.json"], "what was left is gone");
    }
    // What was left does not keep the next one from being written.
    house.lay(".new-A.json", "half");
    let new = Record { mq: 7, ..old };
    house.folder.save(std::slice::from_ref(&new)).unwrap();
    assert_eq!((house.folder.load().0, house.names()), (vec![new], vec!["A.json".to_owned()]));
}

#[test]
fn a_file_cut_short_anywhere_costs_only_its_own_function() {
    let house = House::new();
    house.folder.save(&[Record { sf_num: 2001, bdf_raw: 1, pf_id: 1, ..record("B") }]).unwrap();
    let whole = HOTPLUG.trim_end().len();
    for len_bytes in 0..whole {
        house.lay("A.json", &HOTPLUG[..len_bytes]);
        let (vuids, errors) = house.load();
        assert_eq!(vuids, ["B"], "{len_bytes} bytes");
        assert!(errors.len() == 1 && errors[0].starts_with("\"A.json\": "), "{errors:?}");
        assert!(errors[0].contains(" at line "), "{errors:?}");
    }
    house.lay("A.json", &HOTPLUG[..whole]);
    assert_eq!(house.load(), (vec!["A".to_owned(), "B".to_owned()], vec![]));
}

#[test]
fn a_record_that_could_not_be_read_back_is_not_written() {
    let house = House::new();
    house.folder.save(&[record("A")]).unwrap();
    let wrong = [
        (Record { sf_num: 1000, ..record("A") }, "sf_num 1000 is not a hotplug PF's: 2000 to 2999 are allowed"),
        (Record { mq: 128, ..record("A") }, "invalid value: integer `128`, expected 0 to 127 at line"),
        (Record { vf_id: Some(0), ..record("A") }, "vf_id is given, function_type is \"pf\""),
        (Record { mac: Mac([1; 6]), ..record("A") }, "one device's address"),
    ];
    for (wrong, error) in wrong {
        let found = house.folder.save(std::slice::from_ref(&wrong)).unwrap_err().to_string();
        assert!(found.contains(error), "{found}");
        assert_eq!((house.folder.load().0, house.names()), (vec![record("A")], vec!["A.json".to_owned()]));
    }
}

#[test]
fn what_cannot_be_a_vuid_never_becomes_a_path() {
    let house = House::new();
    let long = "A".repeat(65);
    for vuid in ["", ".", "..", "../A", "/etc/passwd", "A/B", "A.json", ".new-A", "A\0", "A\n", "A B", "Ä", &long] {
        let error = house.folder.save(&[Record { vuid: vuid.to_owned(), ..record("A") }]).unwrap_err();
        assert!(matches!(&error.fault, Fault::Vuid { vuid: found } if found == vuid), "{error}");
        let error = house.folder.remove([vuid]).unwrap_err();
        assert!(matches!(error.fault, Fault::Vuid { .. }), "{error}");
    }
    assert_eq!(house.names(), [""; 0]);
    house.folder.save(&[record(&long[1..])]).unwrap();
}

#[test]
fn every_value_is_checked_where_it_stands() {
    for (text, error) in [
        (with("57611", "65536"), "invalid value: integer `65536`, expected 0 to 65535 at line 5 column 18"),
        (with("57611", "-1"), "expected u64"),
        (with("57611", "1.5"), "expected u64"),
        (with("57611", "\"e1:01.3\""), "expected u64 at line 5"),
        (with("57611", "null"), "invalid type: null"),
        (with("mlx5_0", "../mlx5_0"), "an RDMA device's name"),
        (with("mlx5_0", ""), "an RDMA device's name"),
        (with("\"pf_id\": 0", "\"pf_id\": 62"), "expected 0 to 61 at line 3"),
        (with("\"pf\"", "\"PF\""), "unknown variant `PF`, expected `pf` or `vf`"),
        (with("hotplug", "cold"), "unknown variant `cold`, expected `static` or `hotplug`"),
        (with("\"hotplug\"", "null"), "expected"),
        (with("0c:c4", "01:c4"), "one device's address"),
        (with("\"pf_num\": 0", "\"pf_num\": 256"), "expected 0 to 255"),
        (with("2000", "999"), "expected 1000 to 99999"),
        (with("2000", "3000"), "sf_num 3000 is not a hotplug PF's: 2000 to 2999 are allowed"),
        (with("2000", "1999"), "sf_num 1999 is not a hotplug PF's"),
        (with("hotplug", "static"), "sf_num 2000 is not a static PF's: 1000 to 1999 are allowed"),
        (with("\"mq\": 3", "\"mq\": 3, \"vf_id\": 1"), "vf_id is given, function_type is \"pf\""),
        (with("\"pf\"", "\"vf\""), "device_type is given, function_type is \"vf\""),
        (with("  \"device_type\": \"hotplug\",\n", ""), "device_type is missing"),
        (with("\"mq\": 3", "\"mq\": 3, \"vuid\": \"B\""), "unknown field `vuid`"),
        (with("\"mq\": 3", "\"mq\": 3, \"mq\": 4"), "duplicate field `mq`"),
        (with("\"mq\": 3", "\"mtu\": 1500"), "missing field `mq`"),
        (with("\"mq\": 3", "\"mq\": 3, \"features\": 7"), "integer `7`, expected a string"),
        (with("\"mq\": 3", "\"mq\": 3, \"features\": \"0x\""), "bits in hexadecimal"),
        (with("\"mq\": 3", "\"mq\": 3, \"features\": \"0x10000000000000000\""), "bits in hexadecimal"),
        (with("\"mq\": 3", "\"mq\": 3, \"max_queue_size\": 1"), "expected 2 to 32768"),
        (with("\"mq\": 3", "\"mq\": 3, \"max_queue_size\": 65536"), "expected 2 to 32768"),
        (with("\"mq\": 3", "\"mq\": 3, \"link\": 1"), "expected a boolean"),
        (with("\"mq\": 3", "\"mq\": 3, \"link\": null"), "expected a boolean"),
        (with("\"mq\": 3", "\"mq\": 3, \"speed\": 2500"), "a speed of 2500 Mb/s; 10, 100,"),
        (with("}\n", "} {}"), "trailing characters"),
        (String::from("[["), "invalid type: sequence, expected an object"),
        (String::from("\u{feff}{}"), "expected value at line 1 column 1"),
    ] {
        let found = Record::parse("A", text.as_bytes()).unwrap_err().to_string();
        assert!(found.contains(error), "{text}: {found}");
    }
    let vf = with("\"pf\"", "\"vf\"").replace("  \"device_type\": \"hotplug\",\n", "").replace("2000", "3000");
    let error = Record::parse("A", vf.as_bytes()).unwrap_err().to_string();
    assert!(error.contains("vf_id is missing"), "{error}");
    let vf = vf.replace("\"mq\"", "\"vf_id\": 0, \"mq\"");
    assert_eq!(Record::parse("A", vf.as_bytes()).unwrap().class().unwrap(), Class::Vf);
    assert!(Record::parse("A", vf.replace("3000", "2999").as_bytes()).is_err());
}

#[test]
fn nothing_but_our_files_is_opened() {
    let house = House::new();
    house.folder.save(&[record("A")]).unwrap();
    fs::create_dir(house.path("B.json")).unwrap();
    let outside = house.dir.path().join("outside");
    fs::write(&outside, with("2000", "2001")).unwrap();
    symlink(&outside, house.path("C.json")).unwrap();
    symlink(&outside, house.path(".new-C.json")).unwrap();
    symlink("D.json", house.path("D.json")).unwrap();
    // Opening a FIFO that nobody writes to would never end.
    let fifo = house.path("E.json");
    rustix::fs::mknodat(rustix::fs::CWD, &fifo, FileType::Fifo, Mode::RWXU, 0).unwrap();
    let _socket = UnixListener::bind(house.path("G.json")).unwrap();
    house.lay("README", "");
    house.lay(".hidden.json", HOTPLUG);
    house.lay("a\u{1b}[31m.json", HOTPLUG);
    let (vuids, mut errors) = house.load();
    errors.sort();
    assert_eq!(vuids, ["A"]);
    let left = "left alone: only regular files named <VUID>.json belong here";
    let expected = [
        ("\".hidden.json\"", "another file"),
        ("\".new-C.json\"", "a symbolic link"),
        ("\"B.json\"", "a folder"),
        ("\"C.json\"", "a symbolic link"),
        ("\"D.json\"", "a symbolic link"),
        ("\"E.json\"", "a FIFO"),
        ("\"G.json\"", "a socket"),
        ("\"README\"", "another file"),
        ("\"a\\u{1b}[31m.json\"", "another file"),
    ];
    assert_eq!(errors, expected.map(|(file, what)| format!("{file}: {what}, {left}")));
    assert_eq!(house.names().len(), 10, "everything is still there");
    assert!(outside.exists());
}

#[test]
fn a_long_file_is_not_read() {
    let house = House::new();
    let file = fs::File::create(house.path("A.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    let mut padded = HOTPLUG.to_owned();
    padded.push_str(&" ".repeat((64 << 10) - HOTPLUG.len()));
    house.lay("B.json", &padded);
    let (vuids, errors) = house.load();
    assert_eq!(vuids, ["B"]);
    assert_eq!(errors, ["\"A.json\": 1099511627776 bytes, at most 65536 are allowed"]);
    padded.push(' ');
    house.lay("B.json", &padded);
    assert!(house.load().1[1].contains("65537 bytes"));
}

#[test]
fn of_two_files_for_one_function_the_first_is_used() {
    let vf = |vuid: &str, pf_id, vf_id, number| Record {
        vuid: vuid.to_owned(),
        pf_id,
        vf_id: Some(vf_id),
        function_type: FunctionType::Vf,
        device_type: None,
        bdf_raw: number,
        sf_num: 3000 + u32::from(number),
        ..record(vuid)
    };
    let house = House::new();
    for one in [
        vf("A", 0, 0, 0),
        Record { sf_num: 3000, ..vf("B", 0, 1, 1) },
        Record { bdf_raw: 0, ..vf("C", 0, 2, 2) },
        vf("D", 0, 0, 3),
        vf("E", 1, 0, 4),
        // Another's SF, but of a file that is not used itself.
        Record { sf_num: 3002, ..vf("F", 1, 1, 5) },
        Record { pf_id: 1, bdf_raw: 100, ..record("G") },
        Record { pf_id: 1, bdf_raw: 101, sf_num: 2001, ..record("H") },
    ] {
        house.folder.save(std::slice::from_ref(&one)).unwrap();
    }
    let (vuids, errors) = house.load();
    assert_eq!(vuids, ["A", "E", "F", "G"]);
    let expected = [
        "\"B.json\": sf_num 3000 is that of A already; this file is not used",
        "\"C.json\": bdf_raw 0 is that of A already; this file is not used",
        "\"D.json\": pf_id, vf_id 0, 0 is that of A already; this file is not used",
        "\"H.json\": pf_id 1 is that of G already; this file is not used",
    ];
    assert_eq!(errors, expected);
}

#[test]
fn a_crowded_folder_is_looked_at_so_far() {
    let house = House::new();
    for n in 0..FOREIGN_ENTRIES {
        house.lay(&format!("{n}.txt"), "");
    }
    house.folder.save(&[record("A")]).unwrap();
    let (vuids, errors) = house.load();
    assert_eq!((vuids.len(), errors.len()), (1, 65));
    assert!(errors[64].ends_with("6 entries are not looked at, behind 4096 files and 64 entries that are not ours"));
}

const FOREIGN_ENTRIES: usize = 70;

#[test]
fn the_folder_is_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("a/b");
    Folder::open(&deep).unwrap();
    Folder::open(&deep).unwrap();
    for lay in [
        (|path: &Path| fs::write(path, "").unwrap()) as fn(&Path),
        |path| symlink("/tmp", path).unwrap(),
        |path| symlink("nowhere", path).unwrap(),
        |path| rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::RWXU, 0).unwrap(),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("recovery");
        lay(&path);
        let error = Folder::open(dir.path()).unwrap_err();
        assert_eq!(error.file, path);
        assert!(error.to_string().contains("opening it as a folder"), "{error}");
    }
}

#[test]
fn the_folder_may_go_away() {
    let house = House::new();
    fs::remove_dir(house.path("")).unwrap();
    let error = house.folder.save(&[record("A")]).unwrap_err();
    assert!(matches!(error.fault, Fault::System { what: "making its new file", .. }), "{error}");
    assert!(house.folder.load().0.is_empty());
}

fn hex() -> impl Strategy<Value = Option<Hex>> {
    option::of(any::<u64>().prop_map(Hex))
}

fn switch() -> impl Strategy<Value = Option<bool>> {
    any::<Option<bool>>()
}

prop_compose! {
    fn identity()(
        class in prop::sample::select(Class::ALL.to_vec()),
        pf_id in 0..=61u16,
        vf_id in 0..=1007u16,
        sf in any::<prop::sample::Index>(),
        bdf_raw: u16,
        pf_num in 0..=255u16,
        mq in 0..=127u16,
        port_ib_dev in "[a-z0-9_-]{1,63}",
        vuid in "[A-Za-z0-9_-]{1,64}",
        mac: [u8; 6],
    ) -> Record {
        let sf_nums = class.sf_nums();
        let count = (sf_nums.end() - sf_nums.start() + 1) as usize;
        let [first, rest @ ..] = mac;
        Record {
            vuid,
            port_ib_dev,
            pf_id,
            vf_id: (class == Class::Vf).then_some(vf_id),
            function_type: class.into(),
            bdf_raw,
            device_type: DeviceType::of(class),
            mac: Mac([first & 0xfe | 2, rest[0], rest[1], rest[2], rest[3], rest[4]]),
            pf_num,
            sf_num: sf_nums.start() + sf.index(count) as u32,
            mq,
            ..record("A")
        }
    }
}

prop_compose! {
    fn any_record()(
        identity in identity(),
        mtu in option::of(68..=65535u16),
        features in hex(),
        size_bits in option::of(2..=15u32),
        spare_msix in option::of(0..=1792u16),
        num_vfs in option::of(1..=1008u16),
        (link, drop_count, packet_counter, dim) in (switch(), switch(), switch(), switch()),
        period_mode in option::of(prop::sample::select(vec![PeriodMode::Event, PeriodMode::Cqe])),
        (period, max_count) in option::of(any::<(u16, u16)>()).prop_map(Option::unzip),
        (rx_mode, dst_port, aarfs) in (option::of(0..=63u8), option::of(1..=65535u16), switch()),
        supported_hash_types in option::of(0..=63u32),
        speed in prop::sample::select(vec![None, Speed::try_from(10).ok(), Speed::try_from(400_000).ok()]),
    ) -> Record {
        Record {
            mtu,
            features,
            max_queue_size: size_bits.map(|bits| 1 << bits),
            // Enough for its queue pairs.
            num_msix: spare_msix.map(|spare| pools::msix_of(identity.mq) + spare),
            num_vfs: num_vfs.filter(|_| identity.vf_id == Some(0)),
            link,
            speed,
            rx_mode,
            dst_port,
            aarfs,
            supported_hash_types,
            drop_count,
            packet_counter,
            period_mode,
            period,
            max_count,
            dim,
            ..identity
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_was_saved_is_loaded(one in any_record()) {
        let house = House::new();
        house.folder.save(std::slice::from_ref(&one)).unwrap();
        let (records, errors) = house.folder.load();
        prop_assert!(errors.is_empty(), "{:?}", errors);
        prop_assert_eq!(records, [one]);
    }

    #[test]
    fn no_text_is_too_odd(at in 0..HOTPLUG.len(), bytes in prop::collection::vec(any::<u8>(), 0..8)) {
        let mut text = HOTPLUG.as_bytes().to_vec();
        let end = (at + bytes.len()).min(text.len());
        text.splice(at..end, bytes);
        if let Ok(record) = Record::parse("A", &text) {
            // What is believed can be written, and is then the same.
            let house = House::new();
            house.folder.save(std::slice::from_ref(&record)).unwrap();
            prop_assert_eq!(house.folder.load().0, [record]);
        }
    }
}
