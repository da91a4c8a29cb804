//! What survives the controller's end, and what does not.

use std::collections::BTreeSet;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::service::{BOARD, Service, loopback, text};

const ENDS: [Signal; 2] = [Signal::TERM, Signal::KILL];

/// The settings of all functions: what `list` shows, without what a driver does.
fn settings(service: &Service) -> Vec<Value> {
    service.list()
}

#[test]
fn functions_and_their_settings_come_back() {
    let mut service = Service::with(&format!("{BOARD} VIRTIO_EMULATION_HOTPLUG_TRANS=1"), &loopback());
    service.hotplug(1);
    service.ok("hotplug -i mlx5_1 -m 0C:C4:7A:FF:22:02 -t 9000 -qp 2 -s 1024 -u 2700 -f 0x90821 -l");
    service.ok("sriov -p 1 -n 2");
    for line in [
        "-p 0 device -m 0C:C4:7A:FF:22:10 -t 4000 -q 512 -qp 4",
        "-p 0 device -pkt_cnt enable -dc enable",
        "-p 2 device -l 0 -e 10",
        "-p 2 device -mrg_rxbuf enable",
        "-p 1 -v 0 device -n 4",
        "-p 1 -v 1 device -n 48",
        "-p 1 -v 1 device -m 0C:C4:7A:FF:22:11 -t 2000 -f 0x20",
    ] {
        service.ok(&format!("modify {line}"));
    }
    let (before, features) = (settings(&service), service.query("-p 3")["device_feature"].clone());
    assert_eq!(before.len(), 6);
    for signal in ENDS {
        service.start_again_after(signal);
        assert_eq!(settings(&service), before, "after {signal:?}");
        assert_eq!(service.log().matches("device is ready").count(), before.len(), "each is made once");
        assert_eq!(service.query("-p 3")["device_feature"], features);
        assert_eq!(service.query("-p 0")["num_desc_drop_pkts"], "0", "drops are counted still");
        assert!(!service.log().contains("ERROR"), "{}", service.log());
        for socket in ["pf0.sock", "pf3.sock", "pf1vf1.sock"] {
            let (mut guest, _frontend) = service.guest(socket);
            guest.loop_frames(10);
        }
    }
}

#[test]
fn what_was_taken_away_stays_away() {
    for signal in ENDS {
        let mut service = Service::board();
        let static_pfs = service.vuids();
        service.hotplug(1);
        let kept = text(&service.hotplug(2), "vuid").to_owned();
        service.ok("sriov -p 0 -n 2");
        service.ok("unplug -p 2");
        service.ok("sriov -p 0 -n 0");
        service.start_again_after(signal);
        assert_eq!(service.vuids(), [&static_pfs[..], std::slice::from_ref(&kept)].concat());
        assert_eq!(service.recovery_files(), BTreeSet::from([format!("{kept}.json")]));
        service.ok("sriov -p 0 -n 1");
    }
}

#[test]
fn without_recovery_all_functions_are_new() {
    let mut config = loopback();
    config["recovery"] = json!(0);
    for signal in ENDS {
        let mut service = Service::with(BOARD, &config);
        let before = settings(&service);
        service.hotplug(1);
        service.ok("sriov -p 0 -n 2");
        service.ok("modify -p 1 device -t 9000");
        service.start_again_after(signal);
        assert_eq!(settings(&service), before);
        assert_eq!(service.recovery_files(), BTreeSet::new());
        assert_eq!(service.sockets(), ["pf0.sock", "pf1.sock", "virtnet.sock"].map(String::from).into());
    }
}

/// What is done to a recovery file, and what the log says of it.
const DAMAGES: [(&str, &str); 8] = [
    ("empty", "EOF"),
    ("truncated", "EOF"),
    ("garbage", "expected value"),
    ("null", "null"),
    ("unknown key", "surprise"),
    ("out of range", "0 to 127"),
    ("contradicting", "vf_id"),
    ("long", "at most"),
];

/// A file's text, damaged.
fn damaged(how: &str, text: &str) -> Vec<u8> {
    let with = |key: &str, value: Value| {
        let mut record: Value = serde_json::from_str(text).expect("a record");
        record[key] = value;
        record.to_string().into_bytes()
    };
    match how {
        "empty" => Vec::new(),
        "truncated" => text.split_inclusive("\"ma").next().expect("a piece").into(),
        "garbage" => vec![0xff; 100],
        "null" => with("mac", Value::Null),
        "unknown key" => with("surprise", json!(1)),
        "out of range" => with("mq", json!(128)),
        "contradicting" => with("vf_id", json!(0)),
        "long" => [text.as_bytes(), &vec![b' '; 1 << 20]].concat(),
        _ => unreachable!(),
    }
}

#[test]
fn a_damaged_file_costs_its_own_function_only() {
    for (how, said) in DAMAGES {
        let mut service = Service::board();
        let others = [&service.vuids()[..], &[text(&service.hotplug(1), "vuid").to_owned()]].concat();
        let lost = text(&service.hotplug(2), "vuid").to_owned();
        service.ok("modify -p 2 device -t 9000");
        service.kill();
        let file = service.recovery(&format!("{lost}.json"));
        let whole = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, damaged(how, &whole)).unwrap();
        service.start();
        assert_eq!(service.vuids(), others, "{how}");
        assert_eq!(text(&service.query("-p 2"), "mtu"), "9000", "{how}");
        service.wait_error(&[&lost, said]);
        assert!(!service.sockets().contains("pf3.sock"), "{how}");
        // The slot is free, and what is plugged there has a good file.
        assert_eq!(text(&service.hotplug(3), "vuid"), lost, "{how}");
        let before = settings(&service);
        service.start_again_after(Signal::KILL);
        assert_eq!(settings(&service), before, "{how}");
    }
}

#[test]
fn files_that_are_not_ours_are_named_and_left_alone() {
    let mut service = Service::board();
    let vuid = text(&service.hotplug(1), "vuid").to_owned();
    let before = settings(&service);
    service.kill();
    std::fs::write(service.recovery("notes.txt"), "mine").unwrap();
    std::fs::write(service.recovery(".new-half.json"), "{").unwrap();
    std::fs::create_dir(service.recovery("folder.json")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", service.recovery("link.json")).unwrap();
    // The same function again, under the name of one that cannot be.
    std::fs::copy(service.recovery(&format!("{vuid}.json")), service.recovery("XVNETS1D0F0.json")).unwrap();
    service.start();
    assert_eq!(settings(&service), before);
    for name in ["notes.txt", "folder.json", "link.json", "XVNETS1D0F0.json"] {
        service.wait_error(&[name]);
    }
    let left = service.recovery_files();
    assert!(left.contains("notes.txt") && left.contains("folder.json") && left.contains("link.json"), "{left:?}");
    assert!(!left.contains(".new-half.json"), "what a crash has left is removed");
}

#[test]
fn a_file_of_a_function_that_cannot_be_any_more_costs_nothing_else() {
    let mut service = Service::board();
    service.hotplug(1);
    let kept = text(&service.hotplug(2), "vuid").to_owned();
    let before = service.vuids();
    service.end();
    // One more static PF, described in the configuration, has the id that the first plugged one had.
    let mut config = loopback();
    let device = |name: &str| json!({ "name": name, "socket": format!("{name}.sock"), "port": "loopback" });
    config["devices"] = json!([device("one"), device("two"), device("three")]);
    service.configure(&config);
    service.start();
    let ids: Vec<_> = service.list().iter().map(|device| device["pf_id"].as_u64()).collect();
    assert_eq!(ids, [0, 1, 2, 3].map(Some));
    let vuids = service.vuids();
    assert_eq!(vuids.last(), Some(&kept));
    service.wait_error(&[&before[2], "pf2 is a static PF now"]);
    // It is back as soon as the id is free.
    service.end();
    service.configure(&loopback());
    service.start();
    assert_eq!(service.vuids(), before);
}

#[test]
fn firmware_settings_come_into_effect_at_a_start_and_end_what_was_kept() {
    let mut service = Service::board();
    let before = service.vuids();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 2");
    service.ok("modify -p 1 device -t 9000");
    service.ok("mlxconfig set VIRTIO_NET_EMULATION_NUM_PF=3");
    let entry = |service: &Service| service.ok("mlxconfig query VIRTIO_NET_EMULATION_NUM_PF")["entries"][0].clone();
    let shown = |value: &Value| ["default", "current", "next_boot"].map(|key| text(value, key).to_owned());
    assert_eq!(shown(&entry(&service)), ["0", "2", "3"]);
    assert_eq!(service.list().len(), 5, "not before");
    service.start_again_after(Signal::KILL);
    assert_eq!(shown(&entry(&service)), ["0", "3", "3"]);
    let now = service.vuids();
    assert_eq!((&now[..2], now.len()), (&before[..], 3), "hotplug PFs and VFs are gone");
    assert_eq!(text(&service.query("-p 1"), "mtu"), "1500");
    assert_eq!(service.recovery_files(), BTreeSet::new());
    assert_eq!(service.sockets(), ["pf0.sock", "pf1.sock", "pf2.sock", "virtnet.sock"].map(String::from).into());

    // A start that changes nothing keeps what there is.
    service.hotplug(1);
    service.ok("mlxconfig set VIRTIO_NET_EMULATION_NUM_PF=3");
    service.start_again_after(Signal::TERM);
    assert_eq!(service.list().len(), 4);
    // Wrong settings are not set.
    for wrong in ["VIRTIO_NET_EMULATION_NUM_PF=32", "NO_SUCH_ENTRY=1", "VIRTIO_NET_EMULATION_NUM_PF"] {
        assert_eq!(service.refused(&format!("mlxconfig set {wrong}")), -22, "{wrong}");
    }
    assert_eq!(shown(&entry(&service)), ["0", "3", "3"]);
}

/// The columns of the documented matrix that are done on the board, and what is done for each.
#[test]
fn the_matrix_is_kept_by_what_is_done_on_the_board() {
    const CHANGE: &str = "device -t 9000";
    let rows = [("-p 0", "static PF"), ("-p 2", "hotplug PF"), ("-p 0 -v 0", "VF")];
    let mut service = Service::board();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 1");
    for (selector, class) in rows {
        service.ok(&format!("modify {selector} {CHANGE}"));
        assert_eq!(text(&service.query(selector), "function_type"), class);
    }
    let mtus = |service: &Service| rows.map(|(selector, _)| text(&service.query(selector), "mtu").to_owned());
    // Restart of the controller: recovered, all of them. A driver that leaves changes nothing either.
    for signal in ENDS {
        let (_, frontend) = service.guest("pf2.sock");
        drop(frontend);
        service.start_again_after(signal);
        assert_eq!(mtus(&service), ["9000"; 3]);
    }
    // The fast one: the same.
    assert_eq!(service.virtnet("restart").status, 0);
    assert_eq!(mtus(&service), ["9000"; 3]);
    // Hot unplug: not recovered when it is plugged again.
    let files = service.recovery_files().len();
    service.ok("unplug -p 2");
    assert_eq!(service.recovery_files().len(), files - 1);
    service.hotplug(1);
    // VFs destroyed: their files are deleted.
    service.ok("sriov -p 0 -n 0");
    assert_eq!(service.recovery_files().len(), files - 1);
    service.ok("sriov -p 0 -n 1");
    assert_eq!(mtus(&service), ["9000", "1500", "1500"]);
    service.start_again_after(Signal::KILL);
    assert_eq!(mtus(&service), ["9000", "1500", "1500"]);
}
