//! The service as `virtnet` finds it: commands in, replies out, over an engine of one worker.

mod whole;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustix::event::epoll;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::command::{self, Reload};
use crate::config::Config;
use crate::firmware::Store;
use crate::transport::Backend;
use crate::transport::listener::connect_to;
use crate::vhost_user::message::{FrontendRequest, Header};
use crate::vhost_user::socket::{Connection, Received};

/// Room for everything, eight vectors each.
const ROOMY: &[(&str, &str)] = &[
    ("VIRTIO_NET_EMULATION_ENABLE", "1"),
    ("VIRTIO_NET_EMULATION_NUM_PF", "1"),
    ("VIRTIO_NET_EMULATION_NUM_VF", "4"),
    ("VIRTIO_NET_EMULATION_NUM_MSIX", "8"),
    ("PCI_SWITCH_EMULATION_ENABLE", "1"),
    ("PCI_SWITCH_EMULATION_NUM_PORT", "4"),
];

/// A service, and the folder of its sockets and state.
struct House {
    service: Service,
    reload: Reload,
    dir: TempDir,
}

impl House {
    fn new(firmware: &[(&str, &str)], config: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), firmware, config)
    }

    fn at(dir: TempDir, firmware: &[(&str, &str)], config: &str) -> Self {
        let mut store = Store::load(dir.path()).unwrap();
        store.set(firmware).unwrap();
        store.apply().unwrap();
        let config = Config::parse(config, Path::new("virtnet.conf")).unwrap();
        let (serial, limits) = ("VN0123456789".into(), store.limits());
        let host = Host { serial, limits, state_dir: dir.path().into(), ..Host::new(config, dir.path()) };
        let folder = Folder::open(dir.path()).unwrap();
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let service = Service::start(host, Some(folder), epoll).unwrap();
        Self { service, reload: Box::new(|_| Ok(())), dir }
    }

    /// Ends, and starts again with another configuration.
    fn again(self, firmware: &[(&str, &str)], config: &str) -> Self {
        let Self { service, dir, .. } = self;
        service.end().unwrap();
        Self::at(dir, firmware, config)
    }

    fn ask(&mut self, method: &str, params: Value) -> Result<Value, String> {
        let Value::Object(params) = params else { panic!("{params} is no object") };
        command::run(&mut self.service, &self.reload, method, params).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn done(&mut self, method: &str, params: Value) -> Value {
        self.ask(method, params).unwrap()
    }

    #[track_caller]
    fn refused(&mut self, method: &str, params: Value, says: &str) {
        let why = self.ask(method, params).unwrap_err();
        assert!(why.contains(says), "{why}");
    }

    fn plug(&mut self, mac: &str) -> Result<Value, String> {
        self.ask("hotplug", plugged(mac))
    }

    fn one(&mut self, pf: u16) -> Value {
        self.done("query", json!({ "pf": pf }))["devices"][0].clone()
    }

    fn health(&mut self, pf: u16) -> Value {
        self.done("health", json!({ "pf": pf }))["health_status"].clone()
    }

    fn faults(&mut self, pf: u16) -> Value {
        self.done("health", json!({ "pf": pf }))["dev_health_details"]["control_plane_errors"].clone()
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("recovery")).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn plugged(mac: &str) -> Value {
    json!({ "ib_device": "mlx5_0", "mac": mac, "mtu": 1500, "max_queue_pairs": 1, "max_queue_size": 256 })
}

/// A hook of the recovery folder: it makes so many changes more, as if the process were killed then.
fn killed_after(house: &House, changes: usize) {
    let folder = house.service.recovery.as_ref().unwrap();
    folder.changes_left.store(changes, std::sync::atomic::Ordering::Relaxed);
}

fn ids(house: &House) -> Vec<String> {
    house.service.functions().iter().map(|(_, one)| one.identity.id.to_string()).collect()
}

/// So many static PFs, described one by one.
fn described(count: usize) -> String {
    let devices = (0..count).map(|n| json!({ "name": format!("vm{n}"), "socket": format!("vm{n}.sock") }));
    json!({ "devices": devices.collect::<Vec<_>>() }).to_string()
}

#[test]
fn vfs_are_as_many_as_there_are_numbers_for() {
    let firmware = [("VIRTIO_NET_EMULATION_NUM_VF", "1008"), ("VIRTIO_NET_EMULATION_ENABLE", "1")];
    let mut house = House::new(&firmware, &described(2));
    assert_eq!(house.done("list", json!({}))["controller"]["max_virt_net_devices"], "1010");
    // Without vectors they are cheap: they have no device.
    house.done("sriov", json!({ "pf": 1, "num_vfs": 1000 }));
    house.refused("sriov", json!({ "pf": 0, "num_vfs": 9 }), "1008");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 8 }));
    assert_eq!(house.service.functions().len(), 1010);
}

#[test]
fn a_plugged_function_does_not_take_the_place_of_one_that_was_described_since() {
    let mut house = House::new(ROOMY, "{}");
    assert_eq!(house.plug("02:00:00:00:00:01").unwrap()["id"], 1);
    let mut house = house.again(ROOMY, &described(2));
    let listed = house.done("list", json!({}));
    let ids: Vec<_> = listed["devices"].as_array().unwrap().iter().map(|one| one["pf_id"].clone()).collect();
    assert_eq!(ids, [0, 1], "each id once");
    assert_eq!(house.one(1)["function_type"], "static PF");
}

#[test]
fn files_do_not_say_what_no_command_could() {
    let mut house = House::new(ROOMY, "{}");
    for mac in ["02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"] {
        house.plug(mac).unwrap();
    }
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let change = |vuid: &str, from: &str, to: &str| {
        let path = house.dir.path().join("recovery").join(format!("VN0123456789{vuid}.json"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        fs::write(path, text.replace(from, to)).unwrap();
    };
    change("VNETS1D0F1", "02:00:00:00:00:02", "02:00:00:00:00:01");
    let features = format!("\"features\": \"{:#x}\"", house.service.host.features_default());
    change("VNETS1D0F2", &features, "\"features\": \"0xffffffffffffffff\"");
    // A VF of a PF that was plugged.
    let vf = house.dir.path().join("recovery/VN0123456789VNETS0D0F0VF1.json");
    let text = fs::read_to_string(&vf).unwrap().replace("\"pf_id\": 0", "\"pf_id\": 1");
    fs::write(house.dir.path().join("recovery/VN0123456789VNETS0D0F1VF1.json"), text).unwrap();
    fs::remove_file(vf).unwrap();
    let mut house = house.again(ROOMY, "{}");
    let functions: Vec<String> = house.service.functions().iter().map(|(_, one)| one.identity.id.to_string()).collect();
    assert_eq!(functions, ["pf0", "pf1", "pf3"], "not the one with another's address, not the VF of a hotplug PF");
    let offered = house.one(3)["device_feature"]["value"].as_str().unwrap()[2..].to_owned();
    let unknown = u64::from_str_radix(&offered, 16).unwrap() & !crate::device::features::SUPPORTED;
    assert_eq!(unknown, 0);
}

#[test]
fn addresses_that_changed_hands_come_back() {
    let mut house = House::new(ROOMY, "{}");
    house.plug("02:00:00:00:00:01").unwrap();
    let first = house.one(0)["mac"].clone();
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "mac": "02:00:00:00:00:09" }));
    house.done("modify", json!({ "pf": 1, "subcmd": "device", "mac": first }));
    let mut house = house.again(ROOMY, "{}");
    assert_eq!((&house.one(0)["mac"], &house.one(1)["mac"]), (&json!("02:00:00:00:00:09"), &first));
}

#[test]
fn all_are_changed_or_none() {
    let mut house = House::new(ROOMY, "{}");
    house.plug("02:00:00:00:00:01").unwrap();
    let before = house.done("list", json!({}));
    let all = |changes: Value| {
        let mut params = json!({ "all": true, "subcmd": "device" });
        params.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        params
    };
    house.refused("modify", all(json!({ "mac": "02:00:00:00:00:05" })), "MAC is invalid");
    assert_eq!(house.done("list", json!({})), before);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 2 }));
    let before = house.done("list", json!({}));
    house.done("modify", json!({ "pf": 0, "vf": 1, "subcmd": "device", "max_queue_pairs": 2 }));
    house.refused("modify", all(json!({ "max_queue_pairs": 3, "mtu": 20 })), "MTU is invalid");
    house.done("modify", json!({ "pf": 0, "vf": 1, "subcmd": "device", "max_queue_pairs": 3 }));
    assert_eq!(house.done("list", json!({})), before);
    house.done("modify", all(json!({ "mtu": 1400, "link": 0 })));
    for (_, function) in house.service.functions() {
        assert_eq!((function.spec.mtu, function.spec.settings.link_up), (Some(1400), false));
    }
    assert_eq!(house.files().len(), 4);
}

#[test]
fn all_together_take_no_more_from_the_pool_than_there_is() {
    let mut house = House::new(ROOMY, r#"{"vf": {"max_queue_pairs": 2}}"#);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 4 }));
    for (vf, pairs) in [(0, 0), (1, 1)] {
        let _ = house.ask("modify", json!({ "pf": 0, "vf": vf, "subcmd": "device", "max_queue_pairs": pairs }));
    }
    let before = house.done("list", json!({}));
    // Each could have one more; not all of them.
    house.refused("modify", json!({ "all": true, "subcmd": "device", "max_queue_pairs": 3 }), "the pool");
    assert_eq!(house.done("list", json!({})), before);
}

#[test]
fn what_is_described_with_any_size_of_queue_is_kept() {
    let config = r#"{"devices": [{"name": "vm1", "socket": "vm1.sock", "queue_size_max": 1000}]}"#;
    let mut house = House::new(&[], config);
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "link": 0 }));
    let mut house = house.again(&[], config);
    let one = house.one(0);
    assert_eq!((&one["link_status"], &one["max_queue_size"]), (&json!("0"), &json!("1000")));
}

#[test]
fn only_what_can_be_done_is_offered() {
    let config = r#"{"static_pf": {"features": "0xffffffffffffffff"}, "vf": {"features": "0x400020"}}"#;
    let mut house = House::new(ROOMY, config);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let offered =
        |one: &Value| u64::from_str_radix(&one["device_feature"]["value"].as_str().unwrap()[2..], 16).unwrap();
    assert_eq!(offered(&house.one(0)), crate::device::features::SUPPORTED);
    let vf = house.done("query", json!({ "pf": 0, "vf": 0 }))["devices"][0].clone();
    assert_eq!(offered(&vf) & (1 << 22 | 1 << 17), 1 << 22 | 1 << 17, "a control queue always");
    house.refused("modify", json!({ "pf": 0, "subcmd": "device", "features": "0x4000000000000000" }), "Feature bits");
}

#[test]
fn an_mtu_is_offered_when_there_is_one() {
    let mut house = House::new(ROOMY, &described(1));
    let has_mtu = |house: &mut House| house.one(0)["device_feature"]["    3"] == "VIRTIO_NET_F_MTU";
    let all = format!("{:#x}", crate::device::features::SUPPORTED);
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "features": all }));
    assert!(!has_mtu(&mut house), "none is configured");
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "mtu": 1400 }));
    assert!(has_mtu(&mut house));
}

#[test]
fn sfs_are_made_on_ports_that_there_are() {
    let mut house = House::new(ROOMY, "{}");
    let mut params = plugged("02:00:00:00:00:01");
    params["ib_device"] = json!("mlx5_7");
    house.refused("hotplug", params, "mlx5_0, mlx5_1 are allowed");
}

#[test]
fn a_transitional_function_names_what_it_needs() {
    let mut params = plugged("02:00:00:00:00:01");
    params["legacy"] = json!(true);
    House::new(ROOMY, "{}").refused("hotplug", params.clone(), "VIRTIO_EMULATION_HOTPLUG_TRANS=1");
    let allowed = [ROOMY, &[("VIRTIO_EMULATION_HOTPLUG_TRANS", "1")]].concat();
    let mut house = House::new(&allowed, "{}");
    assert_eq!(house.done("hotplug", params)["transitional"], 1);
    house.plug("02:00:00:00:00:02").unwrap();
    let mut house = house.again(&[], "{}");
    for (pf, transitional, ids) in
        [(0, 0, ["0x1041", "0x1041", "1"]), (1, 1, ["0x1000", "0x1", "0"]), (2, 0, ["0x1041", "0x1041", "1"])]
    {
        let one = house.one(pf);
        assert_eq!(one["transitional"], transitional);
        assert_eq!(["pci_dev_id", "pci_subsys_id", "pci_revision_id"].map(|key| one[key].as_str().unwrap()), ids);
        assert_eq!(one["device_feature"].get("   27").is_some(), transitional == 1, "ANY_LAYOUT");
    }
    let mut house = house.again(&[("VIRTIO_EMULATION_HOTPLUG_TRANS", "0")], "{}");
    let listed = house.done("list", json!({}));
    let ids: Vec<_> = listed["devices"].as_array().unwrap().iter().map(|one| one["pf_id"].clone()).collect();
    assert_eq!(ids, [0, 2], "a file does not say what no command could");
}

#[test]
fn the_firmware_says_which_static_pfs_and_vfs_are_transitional() {
    let layouts = [("VIRTIO_NET_EMULATION_PF_PCI_LAYOUT", "1"), ("VIRTIO_NET_EMULATION_VF_PCI_LAYOUT", "0")];
    let mut house = House::new(&[ROOMY, &layouts].concat(), "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let vf = |house: &mut House| house.done("query", json!({ "pf": 0, "vf": 0 }))["devices"][0]["transitional"].clone();
    assert_eq!((house.one(0)["transitional"].clone(), vf(&mut house)), (json!(1), json!(0)));
    let mut house = house.again(&[("VIRTIO_NET_EMULATION_VF_PCI_LAYOUT", "1")], "{}");
    assert_eq!(vf(&mut house), 1);
}

#[test]
fn a_refusal_repeats_what_was_asked_for() {
    let mut house = House::new(ROOMY, "{}");
    let mut params = plugged("02:00:00:00:00:01");
    params["max_queue_pairs"] = json!(3000);
    house.refused("hotplug", params, "3000 queue pairs");
}

#[test]
fn health_is_a_list_when_all_are_asked_for() {
    let mut house = House::new(&[], "{}");
    assert_eq!(house.done("health", json!({ "all": true })), json!([]));
    let mut house = House::new(&[], &described(1));
    assert!(house.done("health", json!({ "pf": 0, "all": false })).is_object());
}

#[test]
fn a_socket_that_somebody_has_costs_its_function_and_nothing_else() {
    let mut house = House::new(ROOMY, "{}");
    let somebody = std::os::unix::net::UnixListener::bind(house.dir.path().join("pf1.sock")).unwrap();
    let why = house.plug("02:00:00:00:00:01").unwrap_err();
    assert!(why.contains("listening there"), "{why}");
    assert_eq!((house.service.functions().len(), house.files().len()), (1, 0));
    connect_to(&house.dir.path().join("pf1.sock")).unwrap();
    drop(somebody);
}

#[test]
fn events_of_a_function_that_has_gone_do_not_hurt_the_next_one() {
    let mut house = House::new(ROOMY, "{}");
    house.plug("02:00:00:00:00:01").unwrap();
    let key = house.service.key_of(Id::Pf(1)).unwrap();
    let front_end = connect_to(&house.dir.path().join("pf1.sock")).unwrap();
    house.service.turn(endpoint_token(key));
    house.done("unplug", json!({ "pf": 1 }));
    house.service.turn(endpoint_token(key));
    house.plug("02:00:00:00:00:02").unwrap();
    assert_eq!(house.service.key_of(Id::Pf(1)), Some(key), "the same place");
    for token in [endpoint_token(key), controlq_token(key)] {
        house.service.turn(token);
    }
    assert_eq!(house.one(1)["status"]["value"], "0x0");
    drop(front_end);
    connect_to(&house.dir.path().join("pf1.sock")).unwrap();
}

#[test]
fn what_cannot_be_made_anew_is_as_it_was() {
    let mut house = House::new(ROOMY, "{}");
    let path = house.dir.path().join("pf0.sock");
    let before = house.done("list", json!({}));
    // Its socket has gone, and something else is there.
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    house.refused("modify", json!({ "pf": 0, "subcmd": "device", "mtu": 1400 }), "no socket");
    assert_eq!(house.done("list", json!({})), before);
    assert_eq!((&house.one(0)["enabled"], house.health(0)), (&json!("0"), json!("Fatal")), "and it is told");
    assert_eq!(house.faults(0)["steer_rx_table_err"], 1);
    fs::remove_dir(&path).unwrap();
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "mtu": 1400 }));
    connect_to(&path).unwrap();
    assert_eq!((&house.one(0)["enabled"], house.health(0)), (&json!("1"), json!("Good")));
    let health = house.done("health", json!({ "pf": 0 }));
    assert_eq!(health["health_recover_counter"], 1);
    assert_eq!(health["dev_health_details"]["control_plane_errors"]["steer_rx_table_err"], 1, "it stays");
}

#[test]
fn what_had_no_device_is_left_without_one() {
    let mut house = House::new(ROOMY, "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let change = |pairs: u16| json!({ "pf": 0, "vf": 0, "subcmd": "device", "max_queue_pairs": pairs });
    house.refused("modify", change(0), "not be functional");
    let path = house.dir.path().join("pf0vf0.sock");
    let somebody = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let why = house.ask("modify", change(1)).unwrap_err();
    assert!(why.contains("pf0vf0.sock") && !why.contains("as it was"), "{why}");
    let query = house.done("query", json!({ "pf": 0, "vf": 0 }));
    assert_eq!(query["devices"][0]["max_queue_pairs"], "0");
    drop(somebody);
    fs::remove_file(path).unwrap();
    house.done("modify", change(1));
}

#[test]
fn whenever_the_controller_is_killed_there_are_all_vfs_or_none() {
    for (before, after) in [(0, 4), (4, 0)] {
        let (mut changes, mut outcomes) = (0, Vec::new());
        loop {
            let mut house = House::new(ROOMY, "{}");
            house.done("sriov", json!({ "pf": 0, "num_vfs": before }));
            killed_after(&house, changes);
            let _ = house.ask("sriov", json!({ "pf": 0, "num_vfs": after }));
            let is_over =
                house.service.recovery.as_ref().unwrap().changes_left.load(std::sync::atomic::Ordering::Relaxed) > 0;
            let house = house.again(ROOMY, "{}");
            let vfs = house.service.vfs();
            assert!(vfs == before || vfs == after, "{before} to {after}, killed after {changes} changes: {vfs}");
            assert_eq!(house.files().len(), vfs, "{before} to {after}, killed after {changes} changes");
            outcomes.push(vfs);
            if is_over {
                break;
            }
            changes += 1;
        }
        assert!(changes > 4 && outcomes.is_sorted_by(|a, b| a == b || *b == after), "{outcomes:?}");
        assert_eq!(outcomes.last(), Some(&after));
    }
}

#[test]
fn a_vf_whose_file_is_lost_is_as_new_and_the_number_stays() {
    let mut house = House::new(ROOMY, "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 3 }));
    house.done("modify", json!({ "pf": 0, "vf": 2, "subcmd": "device", "mtu": 1400 }));
    let file = |house: &House, vf: u16| house.dir.path().join(format!("recovery/VN0123456789VNETS0D0F0VF{vf}.json"));
    fs::remove_file(file(&house, 2)).unwrap();
    let house = house.again(ROOMY, "{}");
    assert_eq!(ids(&house), ["pf0", "pf0vf0", "pf0vf1", "pf0vf2"]);
    fs::write(file(&house, 1), "{").unwrap();
    let mut house = house.again(ROOMY, "{}");
    assert_eq!(ids(&house), ["pf0", "pf0vf0", "pf0vf1", "pf0vf2"]);
    assert_eq!(house.done("query", json!({ "pf": 0, "vf": 2 }))["devices"][0]["mtu"], "1400");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 0 }));
    assert_eq!(house.files(), Vec::<String>::new());
}

#[test]
fn files_that_say_more_than_there_is_now_cost_their_own_function() {
    let mut firmware = ROOMY.to_vec();
    firmware.push(("VIRTIO_NET_EMULATION_NUM_VF_MSIX", "16"));
    firmware[3].1 = "32";
    let mut house = House::new(&firmware, "{}");
    for (mac, pairs) in [("02:00:00:00:00:01", 1), ("02:00:00:00:00:02", 15)] {
        let mut params = plugged(mac);
        params["max_queue_pairs"] = json!(pairs);
        house.done("hotplug", params);
    }
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "mtu": 1400 }));
    house.done("sriov", json!({ "pf": 0, "num_vfs": 3 }));
    house.done("modify", json!({ "pf": 0, "vf": 0, "subcmd": "device", "max_queue_pairs": 1 }));
    house.done("modify", json!({ "pf": 0, "vf": 1, "subcmd": "device", "max_queue_pairs": 12 }));
    let files = house.files().len();
    // The firmware's file of another board, say.
    firmware.last_mut().unwrap().1 = "8";
    firmware[3].1 = "8";
    let mut house = house.again(&firmware, "{}");
    assert_eq!(ids(&house), ["pf0", "pf1", "pf0vf0", "pf0vf1", "pf0vf2"]);
    let pairs = |house: &mut House, vf: u16| {
        house.done("query", json!({ "pf": 0, "vf": vf }))["devices"][0]["max_queue_pairs"].clone()
    };
    assert_eq!([0, 1, 2].map(|vf| pairs(&mut house, vf)), ["1", "3", "3"], "small ones as they were, others as new");
    assert_eq!((&house.one(0)["max_queue_pairs"], &house.one(0)["mtu"]), (&json!("3"), &json!("1500")));
    assert_eq!(house.files().len(), files, "no file is lost");
}

#[test]
fn no_two_functions_come_up_with_one_address() {
    let mac = "02:00:00:00:00:01";
    let with_mac = |mac: &str| json!({ "devices": [{ "name": "vm", "socket": "vm.sock", "mac": mac }] }).to_string();
    // A file, and then the configuration, gives one's address to another.
    let mut house = House::new(ROOMY, &with_mac("02:00:00:00:00:08"));
    house.plug(mac).unwrap();
    let mut house = house.again(ROOMY, &with_mac(mac));
    assert_eq!((ids(&house), &house.one(0)["mac"]), (vec!["pf0".to_owned()], &json!(mac)));
    assert_eq!(house.files().len(), 1, "it comes back when the address is free");
    let two = |first: &str| {
        let device = |name: &str, mac: &str| json!({ "name": name, "socket": format!("{name}.sock"), "mac": mac });
        json!({ "devices": [device("a", first), device("b", "02:00:00:00:00:02")] }).to_string()
    };
    let mut house = House::new(&[], &two("02:00:00:00:00:03"));
    house.done("modify", json!({ "pf": 1, "subcmd": "device", "mac": mac }));
    let mut house = house.again(&[], &two(mac));
    assert_eq!((&house.one(0)["mac"], &house.one(1)["mac"]), (&json!(mac), &json!("02:00:00:00:00:02")));
    // Addresses that are counted, and one that is given.
    let config =
        json!({ "vf": { "mac_base": mac, "vfs_per_pf": 2 }, "static_pf": { "mac_base": "02:00:00:00:00:02" } });
    let mut house = House::new(ROOMY, &config.to_string());
    house.refused("sriov", json!({ "pf": 0, "num_vfs": 2 }), "02:00:00:00:00:02 is pf0's");
    assert_eq!(ids(&house), ["pf0"]);
    // Those that are planned to come again do.
    let mut house = House::new(ROOMY, r#"{"vf": {"mac_base": "02:00:00:00:00:01", "vfs_per_pf": 2}}"#);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 4 }));
    let house = house.again(ROOMY, r#"{"vf": {"mac_base": "02:00:00:00:00:01", "vfs_per_pf": 2}}"#);
    assert_eq!(house.service.vfs(), 4);
}

#[test]
fn no_two_functions_have_one_socket() {
    for mode in ["client", "server"] {
        let config = json!({
            "sockets": { "static_pf": { "path": "a{pf}vf1.sock", "mode": mode }, "vf": { "path": "a{pf}vf{vf}.sock", "mode": mode } },
        });
        let mut house = House::new(ROOMY, &config.to_string());
        house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
        house.done("sriov", json!({ "pf": 0, "num_vfs": 0 }));
        house.refused("sriov", json!({ "pf": 0, "num_vfs": 2 }), "a0vf1.sock is the socket of pf0");
        assert_eq!(ids(&house), ["pf0"]);
    }
}

/// What `modify` is asked, of one function or of all.
fn change(mut selector: Value, changes: Value) -> Value {
    let params = selector.as_object_mut().unwrap();
    params.insert("subcmd".into(), json!("device"));
    params.extend(changes.as_object().unwrap().clone());
    selector
}

#[test]
fn a_link_has_one_of_the_speeds_there_are() {
    let mut house = House::new(ROOMY, "{}");
    house.plug("02:00:00:00:00:01").unwrap();
    assert_eq!(house.one(0)["speed"], "100000");
    for speed in [0, 1, 2500, 100_001, 400_001, u64::from(u32::MAX) + 11, u64::MAX] {
        house.refused(
            "modify",
            change(json!({ "all": true }), json!({ "speed": speed })),
            "Link speed is not supported",
        );
    }
    house.refused("modify", change(json!({ "all": true }), json!({ "speed": 10, "mtu": 1 })), "MTU is invalid");
    assert_eq!((&house.one(0)["speed"], &house.one(1)["speed"]), (&json!("100000"), &json!("100000")));
    house.done("modify", change(json!({ "all": true }), json!({ "speed": 400_000, "mtu": 1400 })));
    house.done("modify", change(json!({ "pf": 1 }), json!({ "speed": 10 })));
    let mut house = house.again(ROOMY, "{}");
    assert_eq!((&house.one(0)["speed"], &house.one(1)["speed"]), (&json!("400000"), &json!("10")));
}

#[test]
fn a_function_without_a_driver_has_no_status_but_0() {
    let mut house = House::new(ROOMY, "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    // It is done, and told that the VF cannot be used. What has nothing to do with that is not.
    let vf = json!({ "pf": 0, "vf": 0 });
    house.refused("modify", change(vf.clone(), json!({ "max_queue_pairs": 0 })), "not be functional");
    house.refused("modify", change(vf.clone(), json!({ "msix_num": 0, "mtu": 1400 })), "not be functional");
    house.done("modify", change(vf.clone(), json!({ "mtu": 1400 })));
    house.done("modify", change(json!({ "all": true }), json!({ "state": 0 })));
    house.refused("modify", change(vf, json!({ "state": 64 })), "0 is allowed");
    for state in [1, 8, 15, 64, 128] {
        house.refused("modify", change(json!({ "all": true }), json!({ "state": state })), "0 is allowed");
    }
    house.refused("modify", change(json!({ "pf": 0 }), json!({ "state": 256 })), "u8");
}

#[test]
fn hashes_are_of_functions_that_offer_them() {
    let mut house = House::new(ROOMY, "{}");
    house.done("modify", change(json!({ "pf": 0 }), json!({ "max_queue_pairs": 1 })));
    let neither = "offers neither VIRTIO_NET_F_RSS nor VIRTIO_NET_F_HASH_REPORT";
    for (changes, says) in [
        (json!({ "supported_hash_types": "0x3" }), "Hash types are not supported"),
        (json!({ "rss_max_key_size": 40 }), "RSS max key size is invalid"),
    ] {
        house.refused("modify", change(json!({ "pf": 0 }), changes.clone()), says);
        house.refused("modify", change(json!({ "pf": 0 }), changes), neither);
    }
    let one = house.one(0);
    assert!(one["rss_max_key_size"].is_null() && one["supported_hash_types"].is_null(), "one pair");
    house.done("modify", change(json!({ "pf": 0 }), json!({ "max_queue_pairs": 2 })));
    assert_eq!(
        (&house.one(0)["rss_max_key_size"], &house.one(0)["supported_hash_types"]),
        (&json!("40"), &json!("0x3f"))
    );
    house.refused("modify", change(json!({ "pf": 0 }), json!({ "supported_hash_types": "0x40" })), "0x0 to 0x3f");
    house.refused("modify", change(json!({ "pf": 0 }), json!({ "rss_max_key_size": 52 })), "40 is allowed");
    house.done("modify", change(json!({ "pf": 0 }), json!({ "supported_hash_types": "0x9", "rss_max_key_size": 40 })));
    let mut house = house.again(ROOMY, "{}");
    assert_eq!(house.one(0)["supported_hash_types"], "0x9");
    let mut house = house.again(ROOMY, r#"{"sf_port": {"static_pf": "sink"}}"#);
    assert!(house.one(0)["supported_hash_types"].is_null(), "nobody steers");
    house.done("modify", change(json!({ "pf": 0 }), json!({ "features": "0x200000000000000" })));
    assert_eq!(house.one(0)["supported_hash_types"], "0x9", "reported");
}

#[test]
fn what_arrives_is_filtered_with_a_driver_and_without() {
    let mut house = House::new(ROOMY, "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let modes = |house: &House| {
        let functions = house.service.functions();
        functions.iter().map(|(_, function)| function.spec.settings.rx_mode.bits()).collect::<Vec<_>>()
    };
    assert_eq!(modes(&house), [1, 1], "promiscuous");
    // One without queues has them, too.
    let vf = json!({ "pf": 0, "vf": 0 });
    house.refused("modify", change(vf, json!({ "max_queue_pairs": 0 })), "not be functional");
    house.done("modify", change(json!({ "all": true }), json!({ "rx_mode": "0x3e" })));
    for mode in ["0x40", "0x100", "ffffffffffffffff"] {
        house.refused("modify", change(json!({ "all": true }), json!({ "rx_mode": mode })), "0x0 to 0x3f are allowed");
    }
    house.refused("modify", change(json!({ "all": true }), json!({ "rx_mode": "0", "mtu": 1 })), "MTU is invalid");
    assert_eq!(modes(&house), [0x3e, 0x3e]);
    house.done("modify", change(json!({ "pf": 0 }), json!({ "rx_mode": "0", "mtu": 1400 })));
    house.service.restart(Config::parse("{}", Path::new("virtnet.conf")).unwrap()).unwrap();
    let mut house = house.again(ROOMY, "{}");
    assert_eq!(modes(&house), [0, 0x3e]);
    house.done("modify", change(json!({ "pf": 0, "vf": 0 }), json!({ "max_queue_pairs": 1 })));
    assert_eq!(modes(&house), [0, 0x3e]);
}

#[test]
fn steering_is_of_pfs_on_the_switch() {
    let mut house = House::new(ROOMY, "{}");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    let steering = |house: &House| {
        let functions = house.service.functions();
        let settings = functions.iter().map(|(_, function)| function.spec.settings);
        settings.map(|settings| (settings.dst_port, settings.aarfs)).collect::<Vec<_>>()
    };
    house.refused("modify", change(json!({ "all": true }), json!({ "aarfs_config": "enable" })), "only for PFs");
    house.refused("modify", change(json!({ "all": true }), json!({ "dst_port": "0x10000" })), "0xffff are allowed");
    assert_eq!(steering(&house), [(None, false); 2]);
    house.done("modify", change(json!({ "all": true }), json!({ "dst_port": "0x50" })));
    house.done("modify", change(json!({ "pf": 0 }), json!({ "aarfs_config": "enable" })));
    assert_eq!(house.one(0)["aarfs"], "enabled");
    let mut house = house.again(ROOMY, "{}");
    assert_eq!(steering(&house), [(Some(0x50), true), (Some(0x50), false)]);
    house.done("modify", change(json!({ "all": true }), json!({ "dst_port": "0", "aarfs_config": "disable" })));
    assert_eq!(steering(&house), [(None, false); 2]);
    house.done("modify", change(json!({ "pf": 0 }), json!({ "dst_port": "0x50", "aarfs_config": "enable" })));
    let mut house = house.again(ROOMY, r#"{"sf_port": {"static_pf": "sink"}}"#);
    assert_eq!(steering(&house)[0], (None, false), "what its port cannot do");
    house.refused("modify", change(json!({ "pf": 0 }), json!({ "dst_port": "0x50" })), "Destination port");
    house.refused("modify", change(json!({ "pf": 0 }), json!({ "aarfs_config": "enable" })), "the switch steers");
    house.done("modify", change(json!({ "pf": 0 }), json!({ "dst_port": "0", "aarfs_config": "disable" })));
}

/// What a front end asks first.
fn ask_features(path: &Path) -> Connection {
    let peer = Connection::new(connect_to(path).unwrap());
    peer.send(Header::request(FrontendRequest::GET_FEATURES.number(), 0, false), &[], &[]).unwrap();
    peer
}

#[test]
fn front_ends_are_served_while_a_command_takes_its_time() {
    let mut house = House::new(ROOMY, "{}");
    let path = house.dir.path().join("pf0.sock");
    for (method, params) in [
        ("sriov", json!({ "pf": 0, "num_vfs": 4 })),
        ("modify", json!({ "pf": 0, "vf": 1, "subcmd": "device", "mtu": 1400 })),
        ("sriov", json!({ "pf": 0, "num_vfs": 0 })),
    ] {
        let mut peer = ask_features(&path);
        let key = house.service.key_of(Id::Pf(0)).unwrap();
        house.service.turn(endpoint_token(key));
        // Nobody turns the loop but the command itself.
        house.done(method, params);
        let answered = matches!(peer.receive(), Ok(Received::Message(_)));
        assert!(answered, "{method}");
        drop(peer);
        house.service.turn(endpoint_token(key));
    }
}

#[test]
fn a_function_that_is_being_changed_lets_its_front_end_wait() {
    let mut house = House::new(ROOMY, "{}");
    let key = house.service.key_of(Id::Pf(0)).unwrap();
    house.service.entries[key].is_held = true;
    let mut peer = ask_features(&house.dir.path().join("pf0.sock"));
    for _ in 0..3 {
        house.service.breathe(Duration::ZERO);
    }
    assert!(matches!(peer.receive(), Ok(Received::NotYet)));
    house.service.entries[key].is_held = false;
    for _ in 0..3 {
        house.service.breathe(Duration::ZERO);
    }
    assert!(matches!(peer.receive(), Ok(Received::Message(_))));
}

#[test]
fn idle_functions_cost_few_waits_for_workers() {
    let firmware = [("VIRTIO_NET_EMULATION_NUM_VF", "100"), ("VIRTIO_NET_EMULATION_NUM_MSIX", "64")];
    let mut house = House::new(&[&ROOMY[..2], &firmware].concat(), "{}");
    let mut cost = |method: &str, params: Value| {
        let before = house.service.engine.rounds();
        house.done(method, params);
        house.service.engine.rounds() - before
    };
    assert_eq!(cost("sriov", json!({ "pf": 0, "num_vfs": 100 })), 200, "31 pairs each at once, and a port");
    assert_eq!(cost("modify", json!({ "all": true, "subcmd": "device", "link": 0 })), 0);
    assert_eq!(cost("modify", json!({ "all": true, "subcmd": "device", "mtu": 1400 })), 4 * 101);
    assert_eq!(cost("sriov", json!({ "pf": 0, "num_vfs": 0 })), 200);
}

#[test]
fn what_the_engine_refuses_is_counted_and_stays() {
    let mut house = House::new(ROOMY, "{}");
    let Entry { live: Some(Live { device, .. }), .. } = &mut house.service.entries[0] else {
        panic!("it has a device")
    };
    // An engine that does not know the function.
    let (mut engine, _workers) =
        Engine::by_hand(&EngineConfig { lcores: vec![None], idle: virtnet_engine::IdlePolicy::Event, burst: 32 })
            .unwrap();
    let mut served = served(device, &mut engine, &house.service.epoll, 0);
    served.announce([2, 0, 0, 0, 0, 1]);
    served.enable_ring(0, true);
    served.set(crate::device::settings::Settings { link_up: false, ..Default::default() });
    assert_eq!(served.stop_ring(0), 0);
    let pairs = u64::from(house.service.entries[0].function.spec.queue_pairs);
    let expected = json!({
        "sf_rqt_update_err": 1,
        "sf_drop_create_err": 2 * pairs,
        "sf_tir_create_err": 1,
        "steer_rx_domain_err": 0,
        "steer_rx_table_err": 0,
        "sf_flows_apply_err": 2,
        "aarfs_flow_init_err": 0,
        "vlan_flow_init_err": 0,
        "drop_cnt_config_err": 0,
    });
    assert_eq!(house.faults(0), expected);
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "mtu": 1400 }));
    assert_eq!(house.faults(0), expected, "also on another device");
}

#[test]
fn what_cannot_be_kept_of_counters_is_counted() {
    let mut house = House::new(ROOMY, "{}");
    killed_after(&house, 0);
    house.refused("modify", json!({ "pf": 0, "subcmd": "device", "drop_count": "enable" }), "Recovery file");
    house.refused("modify", json!({ "pf": 0, "subcmd": "device", "link": 0 }), "Recovery file");
    assert_eq!(house.faults(0)["drop_cnt_config_err"], 1);
}

#[test]
fn of_all_functions_those_without_the_queue_show_none() {
    let mut house = House::new(ROOMY, "{}");
    let all = house.done("query", json!({ "all": true, "queue_id": 0 }));
    assert_eq!(all["devices"][0]["enabled-queues-info"], json!([]));
    house.refused("query", json!({ "pf": 0, "queue_id": 0 }), "Queue index");
}

#[test]
fn a_recording_outlives_what_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("guest.pcapng");
    let devices = json!([{ "name": "web", "socket": "web.sock", "port": { "pcap": { "record": file } } }]);
    let config = json!({ "idle": "event", "devices": devices }).to_string();
    // A section without frames each time, when its device goes.
    let sections = || {
        let bytes = fs::read(&file).unwrap();
        bytes.chunks(4).filter(|word| *word == [0x0a, 0x0d, 0x0d, 0x0a]).count()
    };
    let mut house = House::at(dir, ROOMY, &config);
    house.service.restart(house.service.host.config.clone()).unwrap();
    assert_eq!(sections(), 1);
    house.done("modify", json!({ "subcmd": "device", "pf": 0, "mtu": 1400 }));
    assert_eq!(sections(), 2);
    let house = house.again(ROOMY, &config);
    assert_eq!(sections(), 3);
    let House { service, dir: _dir, .. } = house;
    service.end().unwrap();
    assert_eq!(sections(), 4);
}
