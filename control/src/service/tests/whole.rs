//! Functions served over vfio-user, by clients that write their registers.

use super::*;
use crate::transport::connection;
use crate::vfio_user::message::{Command, Header, RegionAccess};
use crate::virtio_pci::layout::{DEVICE, LEGACY_BAR, VIRTIO_BAR};

/// All PFs are served so.
const WHOLE: &str =
    r#"{"sockets": {"static_pf": {"transport": "vfio-user"}, "hotplug_pf": {"transport": "vfio-user"}}}"#;

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
