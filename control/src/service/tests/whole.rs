//! Functions served over vfio-user, by clients that write their registers.

use super::*;
use crate::transport::connection;
use crate::vfio_user::message::{CONFIG_REGION, Command, Header, RegionAccess};
use crate::virtio_pci::layout::{DEVICE, LEGACY_BAR, VIRTIO_BAR};

/// All functions are served so.
const WHOLE: &str = r#"{"sockets": {"static_pf": {"transport": "vfio-user"}, "hotplug_pf": {"transport": "vfio-user"}, "vf": {"transport": "vfio-user"}}}"#;

/// One function's client.
struct Client {
    connection: connection::Connection<Header>,
    key: usize,
}

impl Client {
    fn new(house: &mut House, id: Id) -> Self {
        let key = house.service.key_of(id).unwrap();
        let path = house.service.function(key).socket.path.clone();
        let mut client = Self { connection: connection::Connection::new(connect_to(&path).unwrap()), key };
        // The first turn lets it in.
        house.service.turn(endpoint_token(key));
        client.ask(house, Command::VERSION, &[0; 4]).unwrap();
        client
    }

    /// What comes back; none, if it has been left.
    fn ask(&mut self, house: &mut House, command: Command, body: &[u8]) -> Option<Vec<u8>> {
        self.connection.send(Header::command(1, command, body.len()), body, &[]).ok()?;
        house.service.turn(endpoint_token(self.key));
        match self.connection.receive() {
            Ok(connection::Received::Message(answer)) => Some(answer.body),
            _ => None,
        }
    }

    fn read(&mut self, house: &mut House, region: usize, offset: u64, count: u32) -> Option<Vec<u8>> {
        let access = RegionAccess { offset, region: region as u32, count };
        let answer = self.ask(house, Command::REGION_READ, &access.to_bytes())?;
        Some(answer[RegionAccess::LEN_BYTES..].to_vec())
    }

    #[track_caller]
    fn write(&mut self, house: &mut House, region: usize, offset: u64, data: &[u8]) {
        let access = RegionAccess { offset, region: region as u32, count: data.len() as u32 };
        self.ask(house, Command::REGION_WRITE, &[&access.to_bytes()[..], data].concat()).unwrap();
    }

    /// The address, in its function's device configuration.
    fn address(&mut self, house: &mut House) -> Option<Vec<u8>> {
        self.read(house, VIRTIO_BAR, DEVICE, 6)
    }
}

#[test]
fn a_client_stays_when_its_function_is_changed_and_not_when_its_vectors_are() {
    let mut house = House::new(ROOMY, WHOLE);
    let mut client = Client::new(&mut house, Id::Pf(0));
    let change = |what: &str, value: Value| json!({ "pf": 0, "subcmd": "device", what: value });
    house.done("modify", change("mac", json!("02:00:00:00:00:77")));
    assert_eq!(client.address(&mut house), Some(vec![2, 0, 0, 0, 0, 0x77]));
    house.done("modify", change("max_queue_size", json!(64)));
    assert_eq!(client.address(&mut house), Some(vec![2, 0, 0, 0, 0, 0x77]));
    house.done("modify", change("max_queue_pairs", json!(1)));
    assert_eq!(client.address(&mut house), None, "it is hung up on");
    Client::new(&mut house, Id::Pf(0));
}

#[test]
fn a_legacy_driver_has_the_address_that_it_writes() {
    let mut house = House::new(&[ROOMY, &[("VIRTIO_EMULATION_HOTPLUG_TRANS", "1")]].concat(), WHOLE);
    let mut params = plugged("02:00:00:00:00:01");
    params["legacy"] = json!(true);
    house.done("hotplug", params);
    let mut client = Client::new(&mut house, Id::Pf(1));
    for (offset, byte) in [(18, 1), (25, 0x77), (20, 3)] {
        client.write(&mut house, LEGACY_BAR, offset, &[byte]);
    }
    assert_eq!(house.one(1)["ctrl_mac"], "02:00:00:00:00:77", "not a group's");
    // Features that are written afterwards leave it; a reset does not.
    client.write(&mut house, LEGACY_BAR, 4, &u32::MAX.to_le_bytes());
    let one = house.one(1);
    assert_eq!((&one["ctrl_mac"], &one["status"]["value"]), (&json!("02:00:00:00:00:77"), &json!("0x1")));
    let accepted = |bit: &str| one["driver_feature"].get(bit).is_some();
    assert_eq!([accepted("    5"), accepted("   32")], [true, false], "MAC, and never VERSION_1");
    client.write(&mut house, LEGACY_BAR, 18, &[0]);
    assert_eq!(client.address(&mut house), Some(vec![2, 0, 0, 0, 0, 1]));
}

/// The SR-IOV capability of a PF, behind two of eight bytes.
const SRIOV: u64 = 0x110;
const CONTROL: u64 = SRIOV + 0x08;
const NUM_VFS: u64 = SRIOV + 0x10;

impl Client {
    /// VF Enable, and how many VFs.
    #[track_caller]
    fn enable_vfs(&mut self, house: &mut House, is_enabled: u8, count: u8) {
        self.write(house, CONFIG_REGION as usize, NUM_VFS, &[count, 0]);
        self.write(house, CONFIG_REGION as usize, CONTROL, &[is_enabled, 0]);
    }

    /// The same, read.
    fn vfs(&mut self, house: &mut House) -> [u8; 2] {
        [CONTROL, NUM_VFS].map(|at| self.read(house, CONFIG_REGION as usize, at, 1).unwrap()[0])
    }
}

/// All that drivers want is done, as if it had been time for each.
fn grant_wishes(house: &mut House) {
    while !house.service.wishes.is_empty() {
        house.service.wishes_at = Instant::now();
        house.service.grant_wish();
    }
}

fn enabled_vfs(house: &mut House) -> (String, usize) {
    let files = house.files().iter().filter(|name| name.contains("VF")).count();
    (house.one(0)["enabled_vfs"].as_str().unwrap().to_owned(), files)
}

#[test]
fn a_driver_makes_vfs_and_takes_them_away() {
    let mut house = House::new(ROOMY, WHOLE);
    let mut pf = Client::new(&mut house, Id::Pf(0));
    assert_eq!(pf.read(&mut house, CONFIG_REGION as usize, SRIOV, 2).unwrap(), [0x10, 0]);
    assert_eq!(pf.read(&mut house, CONFIG_REGION as usize, SRIOV + 0x0e, 2).unwrap(), [4, 0], "TotalVFs");
    pf.enable_vfs(&mut house, 1, 3);
    grant_wishes(&mut house);
    assert_eq!((enabled_vfs(&mut house), pf.vfs(&mut house)), (("3".into(), 3), [1, 3]));
    let mut vf = Client::new(&mut house, Id::Vf { pf: 0, vf: 2 });
    assert_eq!(vf.read(&mut house, CONFIG_REGION as usize, 0, 4).unwrap(), [0xf4, 0x1a, 0x41, 0x10]);
    house.refused("sriov", json!({ "pf": 0, "num_vfs": 2 }), "there are 3 VFs");
    // Off and on again, they are others.
    pf.enable_vfs(&mut house, 0, 3);
    pf.enable_vfs(&mut house, 1, 3);
    grant_wishes(&mut house);
    assert_eq!((enabled_vfs(&mut house), vf.address(&mut house)), (("3".into(), 3), None));
    // A reset of the PF takes them away.
    pf.ask(&mut house, Command::DEVICE_RESET, &[]).unwrap();
    grant_wishes(&mut house);
    assert_eq!((enabled_vfs(&mut house), pf.vfs(&mut house)), (("0".into(), 0), [0, 0]));
    assert!(!house.dir.path().join("pf0vf0.sock").exists());
}

#[test]
fn an_operators_vfs_are_shown_to_the_driver_and_outlive_its_resets() {
    let mut house = House::new(ROOMY, WHOLE);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 2 }));
    let mut pf = Client::new(&mut house, Id::Pf(0));
    assert_eq!(pf.vfs(&mut house), [1, 2]);
    pf.ask(&mut house, Command::DEVICE_RESET, &[]).unwrap();
    grant_wishes(&mut house);
    assert_eq!((enabled_vfs(&mut house), pf.vfs(&mut house)), (("2".into(), 2), [1, 2]));
    let mut house = house.again(&[], WHOLE);
    let mut pf = Client::new(&mut house, Id::Pf(0));
    assert_eq!(pf.vfs(&mut house), [1, 2], "after a restart");
    house.done("modify", json!({ "pf": 0, "subcmd": "device", "max_queue_pairs": 1 }));
    let mut pf = Client::new(&mut house, Id::Pf(0));
    assert_eq!(pf.vfs(&mut house), [1, 2], "when the PF is made anew");
    house.done("sriov", json!({ "pf": 0, "num_vfs": 0 }));
    assert_eq!(pf.vfs(&mut house), [0, 0]);
    house.done("sriov", json!({ "pf": 0, "num_vfs": 1 }));
    pf.enable_vfs(&mut house, 0, 1);
    grant_wishes(&mut house);
    assert_eq!(enabled_vfs(&mut house), ("0".into(), 0), "the driver gives them up");
}

#[test]
fn drivers_wait_for_their_turn_and_for_what_there_is() {
    let two = |&(name, value)| (name, if name == "VIRTIO_NET_EMULATION_NUM_PF" { "2" } else { value });
    let mut house = House::new(&ROOMY.iter().map(two).collect::<Vec<_>>(), WHOLE);
    let taken = std::os::unix::net::UnixListener::bind(house.dir.path().join("pf1vf1.sock")).unwrap();
    let [mut first, mut second] = [0, 1].map(|pf| Client::new(&mut house, Id::Pf(pf)));
    let later = Instant::now() + Duration::from_secs(3600);
    house.service.wishes_at = later;
    for _ in 0..3 {
        first.enable_vfs(&mut house, 1, 2);
        first.enable_vfs(&mut house, 0, 2);
    }
    second.enable_vfs(&mut house, 1, 2);
    house.service.grant_wish();
    assert_eq!((house.service.wishes.len(), house.service.wakes_at()), (2, Some(later)), "one each, and not yet");
    house.service.wishes_at = Instant::now();
    house.service.grant_wish();
    assert_eq!(house.service.wishes.len(), 1, "one at a time");
    assert!(house.service.wishes_at > Instant::now());
    grant_wishes(&mut house);
    // One of the second's VFs has no socket: it has none.
    assert_eq!((first.vfs(&mut house), second.vfs(&mut house)), ([0, 2], [0, 0]));
    let live = house.service.entries[second.key].live.as_ref().unwrap();
    assert_eq!(live.endpoint.counters().by_outcome().collect::<Vec<_>>(), [("vfs", 1)]);
    drop(taken);
}
