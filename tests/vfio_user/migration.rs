//! A guest's function goes on at another, of this daemon's or of another one's. No client here speaks of migration, so ours does, between
//! rust-vmm's here and rust-vmm's there.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use virtnet_control::firmware::Limits;
use virtnet_control::vfio_user::message::{Command, Connection, DeviceFeature, Header, MigData, MigState};

use super::house::SOON;
use super::*;

const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;
const RUNNING: u32 = 2;

/// A client that moves functions.
struct Mover(Connection);

impl Mover {
    fn new(house: &House, socket: &str) -> Self {
        let stream = UnixStream::connect(house.socket(socket)).expect("the daemon listens");
        let mut mover = Self(Connection::new(stream.into()));
        mover.ask(Command::VERSION, &[0; 4]);
        mover
    }

    #[track_caller]
    fn ask(&mut self, command: Command, body: &[u8]) -> Vec<u8> {
        self.0.send(Header::command(1, command, body.len()), body, &[]).expect("it is taken");
        let reply = self.0.receive_within(SOON).expect("it is answered");
        assert_eq!((reply.header.flags, reply.header.error), (Header::REPLY, 0), "{command}");
        reply.body
    }

    #[track_caller]
    fn go(&mut self, device_state: u32) {
        let asked = DeviceFeature { argsz: 16, flags: 2 | DeviceFeature::SET }.to_bytes();
        self.ask(Command::DEVICE_FEATURE, &[asked, MigState { device_state, data_fd: 0 }.to_bytes()].concat());
    }

    fn read(&mut self) -> Vec<u8> {
        self.go(STOP_COPY);
        let mut image = Vec::new();
        loop {
            let body = self.ask(Command::MIG_DATA_READ, &MigData { argsz: 1032, size: 1024 }.to_bytes());
            if body.len() == MigData::LEN_BYTES {
                return image;
            }
            image.extend_from_slice(&body[MigData::LEN_BYTES..]);
        }
    }

    fn write(&mut self, image: &[u8]) {
        self.go(RESUMING);
        for part in image.chunks(1000) {
            let data = MigData { argsz: (MigData::LEN_BYTES + part.len()) as u32, size: part.len() as u32 };
            self.ask(Command::MIG_DATA_WRITE, &[&data.to_bytes()[..], part].concat());
        }
        self.go(RUNNING);
    }
}

#[test]
fn a_guest_goes_on_at_another_function_where_it_was() {
    for layout in [Layout::Split, Layout::Packed] {
        let house = House::of(
            &format!(r#"{{"idle": "event", "devices": [{{{}}}, {{{}}}]}}"#, function(1), function(2)),
            Limits::default(),
        );
        let mut here = Machine::new(&house, 1, layout);
        here.connect();
        here.drive();
        here.loop_frames(700);
        drop(here.client);
        let image = Mover::new(&house, "vm1.sock").read();
        // What it sends on the way waits for it.
        for number in 0..8u8 {
            assert!(here.guest.nic.send(&[number; 60]).unwrap());
        }
        let mut mover = Mover::new(&house, "vm2.sock");
        mover.write(&image);
        drop(mover);
        let client = Client::new(&house.socket("vm2.sock")).unwrap();
        let mut there = Machine { client, ..here };
        assert_eq!(there.read(COMMON, 20), [15], "{layout:?}");
        assert_eq!(there.read(DEVICE, 0), [2, 0, 0, 0, 0, 1], "its address goes along");
        there.connect();
        let (mut got, end) = (Vec::new(), Instant::now() + SOON);
        for number in 0..8u8 {
            while !there.guest.nic.receive(&mut got).unwrap() {
                assert!(Instant::now() < end, "{layout:?}: frame {number} does not arrive");
                std::thread::yield_now();
            }
            assert_eq!(got, [number; 60]);
        }
        there.loop_frames(700);
        house.end();
    }
}
