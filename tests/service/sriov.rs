//! VFs that a PF's driver makes, by registers that a client of its socket writes.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use serde_json::json;
use virtnet_control::vfio_user::message::{CONFIG_REGION, Command, Connection, Header, Received, RegionAccess};

use crate::service::{BOARD, SOON, Service};

/// Registers of the capability, which is behind two of eight bytes.
const CONTROL: u64 = 0x118;
const NUM_VFS: u64 = 0x120;

/// One function's client.
struct Client(Connection);

impl Client {
    fn come(service: &Service, socket: &str) -> Self {
        let stream = UnixStream::connect(service.path(socket)).expect("somebody listens");
        let mut client = Client(Connection::new(stream.into()));
        client.ask(Command::VERSION, &[0; 4]);
        client
    }

    #[track_caller]
    fn ask(&mut self, command: Command, body: &[u8]) -> Vec<u8> {
        self.0.send(Header::command(1, command, body.len()), body, &[]).expect("it is taken");
        let end = Instant::now() + SOON;
        loop {
            match self.0.receive().expect("an answer") {
                Received::Message(answer) => return answer.body,
                Received::NotYet if Instant::now() < end => std::thread::yield_now(),
                other => panic!("{command}: {other:?}"),
            }
        }
    }

    fn write(&mut self, offset: u64, value: u16) {
        let access = RegionAccess { offset, region: CONFIG_REGION, count: 2 };
        self.ask(Command::REGION_WRITE, &[&access.to_bytes()[..], &value.to_le_bytes()].concat());
    }

    fn read(&mut self, offset: u64) -> u16 {
        let access = RegionAccess { offset, region: CONFIG_REGION, count: 2 };
        let answer = self.ask(Command::REGION_READ, &access.to_bytes());
        u16::from_le_bytes(answer[RegionAccess::LEN_BYTES..].try_into().expect("two bytes"))
    }
}

#[track_caller]
fn wait_vfs(service: &Service, pf: &str, count: &str) {
    let end = Instant::now() + SOON;
    while service.query(pf)["enabled_vfs"] != count {
        assert!(Instant::now() < end, "{pf} does not get {count} VFs");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_driver_makes_vfs_that_are_served_and_kept() {
    let whole = json!({ "transport": "vfio-user" });
    let config = json!({ "idle": "event", "sockets": { "static_pf": whole, "vf": whole } });
    let mut service = Service::with(BOARD, &config);
    let mut pf = Client::come(&service, "pf0.sock");
    pf.write(NUM_VFS, 2);
    pf.write(CONTROL, 1);
    wait_vfs(&service, "-p 0", "2");
    // A driver that cannot decide is heard in the end, and nobody else waits for it.
    for control in [0, 1].repeat(50) {
        pf.write(CONTROL, control);
    }
    let mut other = Client::come(&service, "pf1.sock");
    other.write(NUM_VFS, 1);
    other.write(CONTROL, 1);
    wait_vfs(&service, "-p 0", "2");
    wait_vfs(&service, "-p 1", "1");
    Client::come(&service, "pf0vf1.sock").read(0);
    drop((pf, other));
    service.kill();
    service.start();
    assert_eq!(Client::come(&service, "pf0.sock").read(NUM_VFS), 2);
    let mut pf = Client::come(&service, "pf1.sock");
    assert_eq!((pf.read(CONTROL), pf.read(NUM_VFS)), (1, 1));
    pf.write(CONTROL, 0);
    wait_vfs(&service, "-p 1", "0");
    assert!(!service.path("pf1vf0.sock").exists());
}
