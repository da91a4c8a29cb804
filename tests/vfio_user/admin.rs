//! A PF's driver, and the guests of its VFs: nothing of it could be tried with a real host, which would have to be shown SR-IOV.

use std::time::Instant;

use virtnet_control::firmware::Limits;
use virtnet_rings::guest::net::NicOptions;
use virtnet_rings::guest::{Buffer, Completed, Driver, Options};

use super::house::SOON;
use super::*;

const VERSION_1: u64 = 1 << 32;
const ADMIN_VQ: u64 = 1 << 41;
const CTRL_VQ: u64 = 1 << 17;
const CTRL_VLAN: u64 = 1 << 19;
/// Registers of the capability for VFs, which is behind two of eight bytes.
const CONTROL: u64 = 0x118;
const NUM_VFS: u64 = 0x120;
const SR_IOV: u16 = 1;
const OK: u16 = 0;

/// A PF with two VFs that hand every frame back.
fn house() -> House {
    let config = format!(
        r#"{{"idle": "event", "devices": [{{{}}}], "sf_port": {{"vf": "loopback"}},
            "sockets": {{"vf": {{"transport": "vfio-user"}}}}}}"#,
        function(1)
    );
    House::of(&config, Limits { vfs_per_pf: 2, msix_vf: 4, ..Limits::default() })
}

/// The host's driver of the PF, as far as its administration virtqueue.
struct Owner {
    machine: Machine,
    queue: Driver,
    index: u16,
    place: u64,
}

impl Owner {
    /// It makes both VFs.
    fn new(house: &House) -> Self {
        let mut machine = Machine::new(house, 1, Layout::Split);
        machine.connect();
        let ram = machine.guest.nic.ram().clone();
        let queue = Driver::new(&ram, Layout::Split, 16, Options::default()).unwrap();
        let place = ram.alloc(0x4000, 4096).unwrap();
        machine.client.region_write(CONFIG_REGION, NUM_VFS, &[2, 0]).unwrap();
        machine.client.region_write(CONFIG_REGION, CONTROL, &[1, 0]).unwrap();
        let end = Instant::now() + SOON;
        while !house.socket("pf0vf1.sock").exists() {
            assert!(Instant::now() < end, "there are no VFs");
            std::thread::yield_now();
        }
        for status in [1, 3] {
            machine.write(COMMON, 20, &[status]);
        }
        let features = VERSION_1 | VIRTIO_F_ACCESS_PLATFORM | ADMIN_VQ;
        for half in 0..2u32 {
            machine.write(COMMON, 8, &half.to_le_bytes());
            machine.write(COMMON, 12, &((features >> (32 * half)) as u32).to_le_bytes());
        }
        machine.write(COMMON, 20, &[11]);
        let index = u16::from_le_bytes(machine.read(COMMON, 60));
        assert_eq!((u16::from_le_bytes(machine.read(COMMON, 18)), machine.read(COMMON, 62)), (index, [1, 0]));
        let mut owner = Self { machine, queue, index, place };
        owner.enable();
        owner.machine.write(COMMON, 20, &[15]);
        owner
    }

    fn enable(&mut self) {
        let at = self.queue.addresses();
        let mut write = |register: u64, bytes: &[u8]| self.machine.write(COMMON, register, bytes);
        write(22, &self.index.to_le_bytes());
        write(24, &self.queue.size().to_le_bytes());
        write(26, &1u16.to_le_bytes());
        for (register, area) in [(32, at.descriptor), (40, at.driver), (48, at.device)] {
            write(register, &area.to_le_bytes());
        }
        write(28, &1u16.to_le_bytes());
    }

    /// Gives a command, and waits for its status, its qualifier and its result, for which there is so much room.
    #[track_caller]
    fn ask(&mut self, opcode: u16, group: u16, member: u64, data: &[u8], room: u32) -> (u16, u16, Vec<u8>) {
        let ram = self.machine.guest.nic.ram().clone();
        let header = [&opcode.to_le_bytes()[..], &group.to_le_bytes(), &[0; 12], &member.to_le_bytes()].concat();
        ram.write(self.place, &[&header[..], data].concat());
        // As Linux has it: header, data, status and result apart.
        let mut chain = vec![Buffer::readable(self.place, 24)];
        if !data.is_empty() {
            chain.push(Buffer::readable(self.place + 24, data.len() as u32));
        }
        chain.push(Buffer::writable(self.place + 0x2000, 8));
        if room > 0 {
            chain.push(Buffer::writable(self.place + 0x2008, room));
        }
        self.queue.offer(&chain, 0).unwrap();
        self.queue.publish();
        let (region, offset, at) = self.machine.structure(NOTIFY);
        let doorbell = offset + u64::from(self.index) * u64::from(self.machine.word(at + 16));
        self.machine.client.region_write(region, doorbell, &self.index.to_le_bytes()).unwrap();
        let mut done = [Completed::default(); 1];
        let end = Instant::now() + SOON;
        while self.queue.collect(&mut done).unwrap() == 0 {
            assert!(Instant::now() < end, "no answer to {opcode:#x}");
            std::thread::yield_now();
        }
        let mut answer = vec![0; done[0].len_bytes as usize];
        ram.read(self.place + 0x2000, &mut answer);
        let half = |at: usize| u16::from_le_bytes([answer[at], answer[at + 1]]);
        (half(0), half(2), answer[8..].to_vec())
    }

    /// The result of a command about a VF that is done.
    #[track_caller]
    fn done(&mut self, opcode: u16, member: u64, data: &[u8], room: u32) -> Vec<u8> {
        let (status, qualifier, result) = self.ask(opcode, SR_IOV, member, data, room);
        assert_eq!((status, qualifier), (OK, 0), "{opcode:#x}");
        result
    }

    /// The driver uses all commands that there are.
    fn use_all(&mut self) {
        let list = self.done(0, 0, &[], 8);
        self.done(1, 0, &list, 0);
    }
}

/// A guest's command by its control queue, which is done.
#[track_caller]
fn command(machine: &mut Machine, queue: &mut Driver, place: u64, bytes: &[u8]) {
    let ram = machine.guest.nic.ram().clone();
    ram.write(place, bytes);
    ram.write(place + 64, &[0xee]);
    queue.offer(&[Buffer::readable(place, bytes.len() as u32), Buffer::writable(place + 64, 1)], 0).unwrap();
    queue.publish();
    let (region, offset, at) = machine.structure(NOTIFY);
    let doorbell = offset + 2 * u64::from(machine.word(at + 16));
    machine.client.region_write(region, doorbell, &[2, 0]).unwrap();
    let mut done = [Completed::default(); 1];
    let end = Instant::now() + SOON;
    while queue.collect(&mut done).unwrap() == 0 {
        assert!(Instant::now() < end, "no answer");
        std::thread::yield_now();
    }
    let mut ack = [0];
    ram.read(place + 64, &mut ack);
    assert_eq!(ack, [0], "{bytes:?}");
}

fn object(id: u8, rest: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, id, 0, 0, 0][..], rest].concat()
}

#[test]
fn a_guest_goes_on_at_another_vf_where_it_was() {
    let house = house();
    let mut owner = Owner::new(&house);
    owner.use_all();
    let [mut here, mut there] = ["pf0vf0.sock", "pf0vf1.sock"].map(|socket| {
        let options = NicOptions { mergeable: false, ..NicOptions::default() };
        Machine::at(&house, socket, Guest::with(options))
    });
    here.connect();
    let ram = here.guest.nic.ram().clone();
    let mut controlq = Driver::new(&ram, Layout::Split, 64, Options::default()).unwrap();
    let words = ram.alloc(128, 64).unwrap();
    here.drive_with(CTRL_VQ | CTRL_VLAN, &[&controlq]);
    command(&mut here, &mut controlq, words, &[2, 0, 7, 0]);
    here.loop_frames(500);
    assert_eq!(owner.ask(7, 0, 0, &[], 8), (OK, 0, vec![1, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(owner.ask(8, 0, 0, &[0; 8], 2), (OK, 0, vec![255, 255]));
    assert_eq!(owner.ask(9, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 2, 2], 0), (OK, 0, vec![]));
    owner.done(0xa, 1, &object(0, &[0; 16]), 0);
    owner.done(0xa, 2, &object(1, &[0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]), 0);
    owner.done(0x11, 1, &[1], 0);
    // What it sends meanwhile stays where it is.
    for number in 0..8u8 {
        assert!(here.guest.nic.send(&[number; 60]).unwrap());
    }
    let size = owner.done(0xe, 1, &object(0, &[0; 8]), 8);
    let parts = owner.done(0xf, 1, &object(0, &[1, 0, 0, 0, 0, 0, 0, 0]), 0x1000);
    assert_eq!((parts.len() as u64).to_le_bytes(), size[..]);
    std::mem::swap(&mut here.guest, &mut there.guest);
    drop(here);
    there.connect();
    let set = object(1, &parts);
    assert_eq!(owner.ask(0x10, SR_IOV, 2, &set, 0), (16, 1, vec![]), "it is not stopped");
    owner.done(0x11, 2, &[1], 0);
    owner.done(0x10, 2, &set, 0);
    let mut got = Vec::new();
    assert!(!there.guest.nic.receive(&mut got).unwrap(), "it is stopped");
    owner.done(0x11, 2, &[0], 0);
    assert_eq!(there.read(COMMON, 20), [15]);
    let end = Instant::now() + SOON;
    for number in 0..8u8 {
        while !there.guest.nic.receive(&mut got).unwrap() {
            assert!(Instant::now() < end, "frame {number} does not arrive");
            std::thread::yield_now();
        }
        assert_eq!(got, [number; 60]);
    }
    there.loop_frames(500);
    // It is all as it was, and its control queue goes on, too: it is in no VLAN any more.
    owner.done(0xd, 1, &object(0, &[]), 0);
    owner.done(0xa, 2, &object(0, &[0; 16]), 0);
    assert_eq!(owner.done(0xf, 2, &object(0, &[1, 0, 0, 0, 0, 0, 0, 0]), 0x1000), parts);
    command(&mut there, &mut controlq, words, &[2, 1, 7, 0]);
    let now = owner.done(0xf, 2, &object(0, &[1, 0, 0, 0, 0, 0, 0, 0]), 0x1000);
    assert_eq!(parts.len() - now.len(), 2);
    house.end();
}

#[test]
fn a_legacy_guest_uses_a_vf_that_has_no_such_interface() {
    let house = house();
    let mut owner = Owner::new(&house);
    owner.use_all();
    let options = NicOptions { legacy: true, ..NicOptions::default() };
    let mut machine = Machine::at(&house, "pf0vf0.sock", Guest::exactly(options));
    assert_eq!(machine.word(0x10), 0, "there is no BAR 0");
    machine.connect();
    let put = |owner: &mut Owner, offset: u8, bytes: &[u8]| {
        owner.done(2, 1, &[&[offset, 0, 0, 0, 0, 0, 0, 0][..], bytes].concat(), 0);
    };
    for status in [1, 3] {
        put(&mut owner, 18, &[status]);
    }
    put(&mut owner, 4, &[0; 4]);
    for index in 0..2u16 {
        put(&mut owner, 14, &index.to_le_bytes());
        assert_eq!(owner.done(3, 1, &[12], 2), 256u16.to_le_bytes());
        let at = machine.guest.driver(index.into()).addresses();
        // A descriptor table of 256 has a page.
        assert_eq!((at.driver - at.descriptor, at.device - at.descriptor), (0x1000, 0x2000));
        put(&mut owner, 8, &((at.descriptor >> 12) as u32).to_le_bytes());
        // MSI-X is enabled, so vectors are there.
        put(&mut owner, 22, &index.to_le_bytes());
    }
    put(&mut owner, 18, &[7]);
    assert_eq!(owner.done(5, 1, &[6], 2), [1, 0], "its link is up");
    let entries = owner.done(6, 1, &[], 64);
    let entry = |at: usize| {
        let offset = u64::from_le_bytes(entries[at + 8..at + 16].try_into().unwrap());
        (entries[at], u32::from(entries[at + 1]), offset)
    };
    let ((1, owners_bar, owners), (2, own_bar, own), (0, ..)) = (entry(0), entry(16), entry(32)) else {
        panic!("{entries:?}")
    };
    for by_owner in [true, false] {
        let Machine { guest, client, .. } = &mut machine;
        guest.loop_frames_by(300, |guest| {
            for (index, driver) in [&mut guest.nic.receiveq, &mut guest.nic.transmitq].into_iter().enumerate() {
                let number = (index as u16).to_le_bytes();
                match driver.needs_kick() {
                    true if by_owner => owner.machine.client.region_write(owners_bar, owners, &number).unwrap(),
                    true => client.region_write(own_bar, own, &number).unwrap(),
                    false => {}
                }
            }
        });
    }
    // Another interface than the one it has chosen is none.
    machine.write(COMMON, 20, &[0xb]);
    assert_eq!(machine.read(COMMON, 20), [7]);
    house.end();
}

#[test]
fn what_a_host_asks_in_vain_is_felt_by_nobody() {
    let house = house();
    let mut owner = Owner::new(&house);
    let mut machine = Machine::at(&house, "pf0vf1.sock", Guest::new(Layout::Split, false));
    machine.connect();
    machine.drive();
    for (opcode, group, member, refused) in [
        (0x11, 1, 2, (22, 2)),
        (0x12, 1, 2, (22, 2)),
        (0x8000, 0, 0, (22, 2)),
        (0, 2, 0, (22, 4)),
        (0x11, 0xffff, 2, (22, 4)),
    ] {
        let (status, qualifier, result) = owner.ask(opcode, group, member, &[1], 8);
        assert_eq!(((status, qualifier), result), (refused, vec![]), "{opcode:#x} before it is used");
        machine.loop_frames(20);
    }
    assert_eq!(owner.ask(1, 1, 0, &[0xff, 0xff, 0xff], 0), (22, 3, vec![]));
    owner.use_all();
    for member in [0, 3, 0x1_0002, u64::MAX] {
        assert_eq!(owner.ask(0x11, 1, member, &[1], 0), (22, 5, vec![]));
    }
    machine.loop_frames(20);
    // A queue that is reset forgets nothing, a device does.
    let mut write = |register: u64, bytes: &[u8]| owner.machine.write(COMMON, register, bytes);
    write(22, &owner.index.to_le_bytes());
    write(20, &[0]);
    drop(owner);
    machine.loop_frames(20);
    // Its VFs are gone with VF Enable, and nobody is in the group then.
    let mut owner = Owner::new(&house);
    owner.use_all();
    owner.machine.client.region_write(CONFIG_REGION, CONTROL, &[0, 0]).unwrap();
    let end = Instant::now() + SOON;
    loop {
        match owner.ask(0x11, 1, 1, &[1], 0) {
            (22, 4, _) => break,
            (11, 7, _) | (22, 5, _) if Instant::now() < end => {}
            other => panic!("{other:?}"),
        }
    }
    // A ring that is broken is served no more, and the PF wants a reset.
    owner.machine.guest.nic.ram().write(owner.queue.addresses().driver + 2, &0x7fffu16.to_le_bytes());
    let (region, offset, at) = owner.machine.structure(NOTIFY);
    let doorbell = offset + u64::from(owner.index) * u64::from(owner.machine.word(at + 16));
    owner.machine.client.region_write(region, doorbell, &owner.index.to_le_bytes()).unwrap();
    while owner.machine.read(COMMON, 20) != [0x4f] {
        assert!(Instant::now() < end, "nobody notices");
    }
    house.end();
}
