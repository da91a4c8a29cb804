//! A controller that is killed at any moment of what it does leaves nothing that the next one stumbles over.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use virtnet_tests::draw::Draw;

use crate::service::{Service, text};

const ROUNDS: u64 = 60;
/// Longer than most of what is done takes.
const DELAY_US_MAX: usize = 12_000;

/// What is done when the controller is killed, in turn.
fn act(service: &Service, round: u64) -> Option<Value> {
    let mac = format!("0C:C4:7A:FF:22:{:02X}", round % 4);
    match round % 6 {
        0 => service.try_call("sriov", json!({"pf": 0, "num_vfs": 2})),
        1 | 4 => service.try_call(
            "hotplug",
            json!({"ib_device": "mlx5_0", "mac": mac, "mtu": 1500, "max_queue_pairs": 2, "max_queue_size": 256}),
        ),
        2 => service.try_call("modify", json!({"subcmd": "device", "all": true, "mtu": 1500 + round})),
        3 => service.try_call("sriov", json!({"pf": 0, "num_vfs": 0})),
        _ => {
            let id = service.try_call("list", json!({}))?["devices"]
                .as_array()?
                .iter()
                .find_map(|device| (device["function_type"] == "hotplug PF").then(|| device["pf_id"].clone()));
            service.try_call("unplug", json!({"pf": id?}))
        }
    }
}

/// Checks that what there is belongs to what is listed: sockets, recovery files, processes.
#[track_caller]
fn check(service: &mut Service, what: &str) {
    let list = service.list();
    let mut sockets = BTreeSet::from(["virtnet.sock".to_owned()]);
    let mut files = BTreeSet::new();
    let mut may_be = BTreeSet::new();
    let vfs = list.iter().filter(|device| device["function_type"] == "VF").count();
    assert!(vfs == 0 || vfs == 2, "{what}: {vfs} VFs");
    for device in &list {
        sockets.insert(match (&device["pf_id"], &device["parent_pf_id"], &device["vf_id"]) {
            (Value::Null, pf, vf) => format!("pf{pf}vf{vf}.sock"),
            (pf, ..) => format!("pf{pf}.sock"),
        });
        let file = format!("{}.json", text(device, "vuid"));
        may_be.insert(file.clone());
        if device["function_type"] != "static PF" {
            files.insert(file);
        }
    }
    let found = service.recovery_files();
    assert!(files.is_subset(&found) && found.is_subset(&may_be), "{what}: {found:?}, listed: {may_be:?}");
    for name in &found {
        let written = std::fs::read(service.recovery(name)).unwrap();
        let record: Value = serde_json::from_slice(&written).unwrap_or_else(|error| panic!("{what}: {name}: {error}"));
        let device = list.iter().find(|device| name.starts_with(&format!("{}.", device["vuid"].as_str().unwrap())));
        let device = device.expect("a listed function's");
        assert_eq!(record["mtu"].to_string(), text(device, "mtu"), "{what}: {name}");
        assert_eq!(record["sf_num"], device["sf_num"], "{what}: {name}");
    }
    assert_eq!(service.sockets(), sockets, "{what}");
    let state: BTreeSet<_> =
        std::fs::read_dir(service.path("state")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let strange: Vec<_> = state
        .iter()
        .filter(|name| !["firmware.json", "firmware.lock", "recovery"].iter().any(|known| name == known))
        .collect();
    assert!(strange.is_empty(), "{what}: {strange:?}");
    let own = service.daemon().id();
    assert_eq!(processes(service.path("").to_str().unwrap()), [own], "{what}");
    assert!(!service.log().contains("ERROR"), "{what}: {}", service.log());
}

/// Controllers with this run folder.
fn processes(folder: &str) -> Vec<u32> {
    let folder = folder.trim_end_matches('/');
    let all = std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_its = |id: &u32| {
        let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == folder.as_bytes())
    };
    all.filter(is_its).collect()
}

#[test]
fn whenever_the_controller_is_killed_the_next_one_finds_everything_in_order() {
    let mut service = Service::board();
    let mut draw = Draw::new(0x5eed);
    for round in 0..ROUNDS {
        let delay = Duration::from_micros(draw.below(DELAY_US_MAX) as u64);
        let what = format!("round {round}, killed after {delay:?}");
        let (folder, kill) = service.split();
        thread::scope(|scope| {
            scope.spawn(|| act(folder, round));
            thread::sleep(delay);
            kill();
        });
        service.kill();
        assert!(processes(service.path("").to_str().unwrap()).is_empty(), "{what}");
        service.start();
        check(&mut service, &what);
    }
    service.end();
}
