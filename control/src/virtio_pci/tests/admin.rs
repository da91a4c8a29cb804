//! What the driver of a function that has VFs asks of these.

use std::time::Instant;

use rustix::event::{PollFd, PollFlags};
use virtnet_rings::Layout;
use virtnet_rings::guest::{Buffer, Completed, Driver, Options};

use super::*;
use crate::device::controlq::Said;
use crate::transport::connection::wait_any;
use crate::virtio_pci::admin::{Admin, Answer, Command, Group, Members, Refusal as Not};

const ADMIN_VQ: u64 = 1 << 41;
const VFS: Vfs = Vfs { total: 7, first_offset: 0x3f00, are_transitional: false, msix: 4 };
/// Which ring it is.
const ADMINQ: u64 = 4;
const SELF: u16 = 0;
const SR_IOV: u16 = 1;
const ALL: u64 = 0x3_ffff;
/// What a command about the only capability begins with.
const CAPABILITY: [u8; 8] = [0; 8];

/// An owner's side of it, and its first VF of three.
struct House {
    group: Group,
    vf: Bench,
    count: Option<u16>,
}

impl House {
    fn new() -> Self {
        Self { group: Group::default(), vf: Bench::with(false, Kind::Virtual), count: Some(3) }
    }

    /// The driver uses all that there is.
    fn used() -> Self {
        let mut house = Self::new();
        assert_eq!(house.ask(1, SR_IOV, 0, &ALL.to_le_bytes()), Ok(vec![]));
        house
    }

    /// And it may make objects: three of each kind.
    fn limited() -> Self {
        let mut house = Self::used();
        assert_eq!(house.ask(9, SELF, 0, &[&CAPABILITY[..], &[3, 3]].concat()), Ok(vec![]));
        house
    }

    fn ask_for(&mut self, opcode: u16, group: u16, member: u64, data: &[u8], room: usize) -> Answer {
        let command = Command { opcode, group, member, data: data.to_vec(), room };
        let found = Ok((&mut self.vf.function, &mut self.vf.device)).and_then(|found| match member {
            1 => Ok(found),
            _ => Err(Not::Member),
        });
        self.group.obey(&command, Members { count: self.count, found })
    }

    fn ask(&mut self, opcode: u16, group: u16, member: u64, data: &[u8]) -> Answer {
        self.ask_for(opcode, group, member, data, 4096)
    }

    /// A command about the VF that is done.
    #[track_caller]
    fn done(&mut self, opcode: u16, data: &[u8]) -> Vec<u8> {
        self.ask(opcode, SR_IOV, 1, data).unwrap()
    }

    /// One that is not.
    #[track_caller]
    fn refused(&mut self, opcode: u16, data: &[u8]) -> Not {
        self.ask(opcode, SR_IOV, 1, data).unwrap_err()
    }

    /// A field of the legacy interface, written.
    fn put(&mut self, offset: u8, data: &[u8]) -> Answer {
        self.ask(2, SR_IOV, 1, &[&[offset, 0, 0, 0, 0, 0, 0, 0][..], data].concat())
    }

    /// All parts, once there is an object for them.
    #[track_caller]
    fn parts(&mut self) -> Vec<u8> {
        self.done(0xf, &[object(0), 1u64.to_le_bytes().to_vec()].concat())
    }
}

fn object(id: u32) -> Vec<u8> {
    [[0; 4], id.to_le_bytes()].concat()
}

fn creation(id: u32, purpose: u8) -> Vec<u8> {
    [object(id), vec![0; 8], vec![purpose, 0, 0, 0, 0, 0, 0, 0]].concat()
}

#[test]
fn only_an_owner_has_the_queue_and_only_for_who_knows_it() {
    let mut bench = Bench::with(false, Kind::Physical(VFS));
    let common = bench.capability(9)[0];
    assert_eq!((bench.config(common + 12, 4), bench.function.bar_bytes(4)), (64, 0x8000));
    assert_eq!((bench.read(18, 2), bench.read(60, 2), bench.read(62, 2)), (4, ADMINQ, 1));
    bench.drive(VERSION_1 | RING_RESET);
    bench.write(QUEUE_SELECT, 2, ADMINQ);
    assert_eq!(bench.read(QUEUE_SIZE, 2), 0, "it has not accepted it");
    assert_eq!([bench.refused(QUEUE_SIZE, 2, 8), bench.refused(QUEUE_ENABLE, 2, 1)], ["value"; 2]);
    assert_eq!(bench.refused(QUEUE_RESET, 2, 1), "value");
    bench.drive(VERSION_1 | RING_RESET | ADMIN_VQ);
    bench.describe(ADMINQ);
    bench.write(QUEUE_MSIX_VECTOR, 2, 3);
    bench.write(QUEUE_ENABLE, 2, 1);
    assert_eq!(bench.device.running(), [0, 1, 4]);
    assert_eq!([QUEUE_SIZE, QUEUE_MSIX_VECTOR, 30].map(|register| bench.read(register, 2)), [8, 3, 4]);
    bench.write(NOTIFY + 16, 2, ADMINQ);
    assert_eq!(rung(bench.device.queues[4].as_ref().unwrap().kick().eventfd().unwrap()), 1);
    bench.write(QUEUE_RESET, 2, 1);
    assert_eq!(bench.device.running(), [0, 1]);
    for kind in [Kind::Single, Kind::Virtual] {
        let mut bench = Bench::with(false, kind);
        assert_eq!((bench.read(18, 2), bench.read(60, 4), bench.function.bar_bytes(4)), (4, 0, 0x4000));
        bench.negotiate(VERSION_1 | ADMIN_VQ);
        assert_eq!(bench.refused(DEVICE_STATUS, 1, 0xb), "value", "it is not offered");
    }
}

#[test]
fn a_driver_says_which_commands_it_uses() {
    let mut house = House::new();
    let legacy = 0x7f_u64;
    for (opcode, group) in [(2, SR_IOV), (7, SELF), (0x11, SR_IOV), (0x12, SR_IOV), (u16::MAX, SELF)] {
        assert_eq!(house.ask(opcode, group, 1, &[]), Err(Not::Opcode), "{opcode} before it is used");
    }
    assert_eq!(house.ask(0, SR_IOV, 0, &[]), Ok(ALL.to_le_bytes().to_vec()));
    assert_eq!(house.ask(0, SELF, 0, &[]), Ok(0x383u64.to_le_bytes().to_vec()));
    for group in [2, 0x8000, u16::MAX] {
        assert_eq!(house.ask(0, group, 0, &[]), Err(Not::Group));
    }
    for wanted in [&[0, 0, 4][..], &[3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1], &[0xff; 8]] {
        assert_eq!(house.ask(1, SR_IOV, 0, wanted), Err(Not::Field), "what is not offered");
    }
    assert_eq!(house.ask(1, SELF, 0, &[4]), Err(Not::Field), "nor in this group");
    assert_eq!(house.ask(1, SR_IOV, 0, &[&legacy.to_le_bytes()[..], &[0; 16]].concat()), Ok(vec![]));
    assert_eq!((house.ask_for(3, SR_IOV, 1, &[18], 1), house.refused(0x11, &[0])), (Ok(vec![0]), Not::Opcode));
    // It may do without the lists, until the owner is reset.
    assert_eq!(house.ask(1, SR_IOV, 0, &[0]), Ok(vec![]));
    assert_eq!((house.refused(0, &[]), house.refused(1, &[3])), (Not::Opcode, Not::Opcode));
    house.group = Group::default();
    assert_eq!(house.done(0, &[]).len(), 8);
}

#[test]
fn lists_and_capabilities_are_told_before_there_are_vfs() {
    let mut house = House::new();
    house.count = Some(0);
    assert_eq!(house.ask(1, SR_IOV, 0, &ALL.to_le_bytes()), Ok(vec![]));
    for group in [SELF, SR_IOV] {
        assert_eq!(house.ask(7, group, 0, &[]), Ok(1u64.to_le_bytes().to_vec()), "as Linux asks, of either");
        assert_eq!(house.ask(8, group, 0, &CAPABILITY), Ok(vec![255; 2]));
        assert_eq!(house.ask(8, group, 0, &[1]), Err(Not::Missing));
    }
    assert_eq!(house.refused(0x11, &[1]), Not::Group, "nobody is in it");
    house.count = None;
    assert_eq!(house.refused(0x11, &[1]), Not::Again, "they come or go");
    house.count = Some(3);
    for member in [0, 2, 3, 4, 0x1_0001, u64::MAX] {
        assert_eq!(house.ask(0x11, SR_IOV, member, &[1]), Err(Not::Member), "{member}");
    }
    assert_eq!(house.ask(0x11, SELF, 0, &[1]), Err(Not::Opcode));
}

#[test]
fn a_legacy_driver_is_served_by_a_function_without_its_interface() {
    let mut house = House::used();
    assert_eq!(house.vf.function.bar_bytes(0), 0);
    for status in [0, 1, 3] {
        house.put(18, &[status]).unwrap();
    }
    house.put(4, &(1u32 << 15).to_le_bytes()).unwrap();
    for queue in [0, 1u16] {
        house.put(14, &queue.to_le_bytes()).unwrap();
        house.put(8, &((GPA >> 12) as u32 + 16 * u32::from(queue)).to_le_bytes()).unwrap();
    }
    house.put(18, &[7]).unwrap();
    assert_eq!(house.vf.device.running(), [0, 1]);
    let mut read = |opcode, offset, len| house.ask_for(opcode, SR_IOV, 1, &[offset], len);
    assert_eq!(read(3, 12, 2), Ok(vec![0, 4]));
    assert_eq!(read(3, 5, 2), Ok(vec![0x80, 0]), "a part of a field");
    assert_eq!((read(5, 0, 6), read(5, 6, 2)), (Ok(vec![2, 0, 0, 0, 0, 9]), Ok(vec![1, 0])));
    for (opcode, offset, len) in [
        (3, 18, 2),
        (3, 12, 4),
        (3, 19, 2),
        (3, 20, 1),
        (3, 255, 1),
        (3, 0, 0),
        (3, 0, usize::MAX),
        (5, 4, 4),
        (5, 7, 2),
        (5, 8, 1),
    ] {
        assert_eq!(read(opcode, offset, len), Err(Not::Field), "{len} bytes at {offset} by {opcode}");
    }
    let device = |offset: u8, data: &[u8]| [&[offset, 0, 0, 0, 0, 0, 0, 0][..], data].concat();
    house.vf.device.read();
    house.done(4, &device(5, &[7]));
    assert_eq!(house.vf.device.read(), [Deed::Address([2, 0, 0, 0, 0, 7])]);
    for data in [device(5, &[7, 7]), device(0, &[3]), device(6, &[0]), device(0, &[]), vec![]] {
        assert_eq!(house.refused(4, &data), Not::Field);
    }
    for (offset, data) in [(0, &[0; 4][..]), (18, &[7, 0]), (16, &[9, 0]), (8, &[1, 0, 0, 0]), (24, &[0]), (4, &[])] {
        assert_eq!(house.put(offset, data), Err(Not::Field), "{data:?} at {offset}");
    }
    let bell =
        |house: &House, queue: usize| rung(house.vf.device.queues[queue].as_ref().unwrap().kick().eventfd().unwrap());
    house.put(16, &[1, 0]).unwrap();
    assert_eq!(bell(&house, 1), 1);
    // Its own doorbell for all queues, and the owner's for it.
    let info = house.done(6, &[]);
    assert_eq!(
        (info[0], info[1], &info[8..10], info[16], info[17], &info[24..26]),
        (1, 4, &[0, 0x40][..], 2, 4, &[0xfc, 0x3f][..])
    );
    assert_eq!((info.len(), &info[32..]), (64, &[0; 32][..]));
    house.vf.write(0x3ffc, 2, 1);
    assert_eq!(bell(&house, 1), 1);
    assert_eq!(house.vf.refused(0x3ffc, 2, 9), "value");
    let mut owner = Bench::with(false, Kind::Physical(VFS));
    assert_eq!(owner.refused(0x4000, 2, 0), "register", "it has no VFs");
    owner.function.show_vfs(2);
    owner.write(0x4000, 2, 1);
    owner.write(0x4004, 2, 0xffff);
    for (offset, len_bytes) in [(0x4008, 2), (0x4002, 2), (0x4000, 4), (0x4000, 1), (0x7ffc, 2)] {
        assert_eq!(owner.refused(offset, len_bytes, 0), "register");
    }
    assert_eq!((owner.function.take_rung(), owner.function.take_rung()), (vec![(1, 1), (2, 0xffff)], vec![]));
}

#[test]
fn objects_are_what_the_driver_has_asked_for() {
    let mut house = House::used();
    assert_eq!(house.refused(0xa, &creation(0, 0)), Not::Field, "without a limit there are none");
    let mut house = House::limited();
    house.done(0xa, &creation(0, 0));
    house.done(0xa, &creation(2, 1));
    assert_eq!(house.refused(0xa, &creation(0, 1)), Not::Exists);
    assert_eq!(
        [creation(3, 0), creation(1, 2), [&[1][..], &creation(1, 0)[1..]].concat()]
            .map(|data| house.refused(0xa, &data)),
        [Not::Field; 3]
    );
    assert_eq!((house.done(0xc, &object(0)), house.done(0xc, &object(2))), (vec![0; 8], vec![1, 0, 0, 0, 0, 0, 0, 0]));
    house.done(0xb, &creation(0, 1));
    assert_eq!(house.done(0xc, &object(0))[0], 1);
    assert_eq!(house.refused(0xb, &creation(0, 9)), Not::Field);
    assert_eq!([0xb, 0xc, 0xd, 0xe, 0xf, 0x10].map(|opcode| house.refused(opcode, &object(1))), [Not::Missing; 6]);
    let limits = |house: &mut House, limits: [u8; 2]| house.ask(9, SELF, 0, &[&CAPABILITY[..], &limits].concat());
    assert_eq!(limits(&mut house, [0, 0]), Err(Not::Busy));
    for id in [0, 2] {
        house.done(0xd, &object(id));
        assert_eq!(house.refused(0xd, &object(id)), Not::Missing);
    }
    assert_eq!(limits(&mut house, [1, 0]), Ok(vec![]));
    assert_eq!((house.done(0xa, &creation(0, 0)), house.refused(0xa, &creation(0, 1))), (vec![], Not::Field));
}

#[test]
fn a_stopped_device_does_nothing_and_makes_up_for_it() {
    let mut house = House::used();
    house.vf.drive(VERSION_1);
    let pin = house.vf.connect(None);
    house.done(0x11, &[1]);
    house.done(0x11, &[1]);
    assert_eq!(house.vf.device.running(), [0; 0]);
    house.vf.function.config_changed();
    house.vf.write(NOTIFY, 2, 0);
    house.vf.write(DEVICE_STATUS, 1, 0xf);
    house.vf.command(COMMAND_MASTER);
    let is_told = wait_any(&mut [PollFd::new(&pin, PollFlags::IN)], Instant::now());
    assert_eq!(is_told, Ok(false), "it is told nothing");
    assert_eq!(house.vf.device.running(), [0; 0]);
    assert_eq!(house.refused(0x11, &[2]), Not::Field);
    house.done(0x11, &[0]);
    assert_eq!((house.vf.device.running(), rung(&pin)), (vec![0, 1], 1));
    assert_eq!(rung(house.vf.device.queues[0].as_ref().unwrap().kick().eventfd().unwrap()), 1);
    house.done(0x11, &[1]);
    house.vf.function.reset(Resetter::Function, &mut house.vf.device);
    assert!(!house.vf.function.is_stopped());
}

#[test]
fn a_driver_goes_on_at_another_function() {
    let mut here = House::limited();
    here.vf.drive(VERSION_1 | RING_RESET);
    here.vf.write(CONFIG_MSIX_VECTOR, 2, 2);
    here.vf.write(QUEUE_MSIX_VECTOR, 2, 1);
    // Five chains have been used of the second queue.
    let used = GPA + 0x4000 + 0x2000;
    here.vf.ram.write(used + 2, &5u16.to_le_bytes());
    here.vf.device.said = [(0, vec![1]), (2, vec![])].map(|(class, data)| Said { class, command: 0, data }).to_vec();
    here.done(0xa, &creation(0, 0));
    here.done(0x11, &[1]);
    let parts = here.parts();
    let metadata =
        |house: &mut House, kind: u8| house.done(0xe, &[object(0), vec![kind, 0, 0, 0, 0, 0, 0, 0]].concat());
    assert_eq!(metadata(&mut here, 0), (parts.len() as u64).to_le_bytes());
    let (count, list) = (metadata(&mut here, 1), metadata(&mut here, 2));
    assert_eq!((list[..8].to_vec(), list.len()), (count.clone(), 8 + 16 * usize::from(count[0])));
    let kinds: Vec<_> = list[8..].chunks(16).map(|header| header[0]).collect();
    assert_eq!(kinds, [0, 1, 2, 2, 2, 2, 2, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0, 0]);
    let asked = [object(0), vec![2, 0, 0, 0, 0, 0, 0, 0]].concat();
    assert_eq!(here.ask_for(0xe, SR_IOV, 1, &asked, list.len() - 1), Err(Not::Room));
    // Some of them, and some that there are not.
    let (status, unknown) = (&list[8 + 16 * 7..][..16], [9; 16]);
    let some = here.done(0xf, &[&object(0)[..], &[0; 8], &unknown, status].concat());
    assert_eq!(some, [status, &[0xf]].concat());

    let mut there = House::limited();
    std::mem::swap(&mut there.vf.ram, &mut here.vf.ram);
    there.vf.remember();
    there.done(0xa, &creation(1, 1));
    let setting = |parts: &[u8]| [&object(1)[..], parts].concat();
    assert_eq!(there.refused(0x10, &setting(&parts)), Not::Busy, "it is not stopped");
    there.done(0x11, &[1]);
    for cut in 1..parts.len() {
        let whole = Some(cut) == boundary(&parts, cut);
        assert!(whole || there.refused(0x10, &setting(&parts[..cut])) == Not::Field, "{cut} bytes");
    }
    assert_eq!((there.vf.status(), there.vf.device.read()), (0, vec![]), "nothing has changed");
    there.done(0x10, &setting(&parts));
    there.done(0x10, &setting(&parts));
    there.done(0xb, &creation(1, 0));
    there.done(0xa, &creation(0, 0));
    assert_eq!((there.parts(), there.vf.device.running().len()), (parts, 0));
    there.done(0x11, &[0]);
    let start = |index, base| Deed::Start { index, enabled: true, base };
    assert_eq!(
        there.vf.device.read(),
        [Deed::GoOn(VERSION_1 | RING_RESET, 2), Deed::GoOn(VERSION_1 | RING_RESET, 2), start(0, 0), start(1, 5)]
    );
    assert_eq!(
        (there.vf.status(), there.vf.read(CONFIG_MSIX_VECTOR, 2), there.vf.read(QUEUE_MSIX_VECTOR, 2)),
        (0xf, 2, 1)
    );
}

/// `cut`, where a part ends there.
fn boundary(parts: &[u8], cut: usize) -> Option<usize> {
    let mut at = 0;
    while at < cut {
        at += 16 + u32::from_le_bytes(parts[at + 12..at + 16].try_into().ok()?) as usize;
    }
    Some(at)
}

#[test]
fn a_legacy_driver_goes_on_too_and_a_packed_ring_cannot() {
    let mut here = House::limited();
    for (offset, data) in [(18, &[3][..]), (4, &[0, 0x80, 0, 0]), (8, &((GPA >> 12) as u32).to_le_bytes()), (18, &[7])]
    {
        here.put(offset, data).unwrap();
    }
    here.done(0xa, &creation(0, 0));
    here.done(0x11, &[1]);
    let parts = here.parts();
    let mut there = House::limited();
    there.done(0xa, &creation(0, 1));
    there.done(0x11, &[1]);
    there.done(0x10, &[object(0), parts].concat());
    there.done(0x11, &[0]);
    assert_eq!(there.vf.device.running(), [0]);
    assert!(there.vf.function.is_legacy());
    here.vf.drive(VERSION_1 | PACKED);
    assert_eq!(here.refused(0xf, &[object(0), 1u64.to_le_bytes().to_vec()].concat()), Not::Field);
    assert_eq!(here.refused(0xe, &object(0)), Not::Field);
}

#[test]
fn parts_that_do_not_fit_change_nothing() {
    let mut house = House::limited();
    house.vf.drive(VERSION_1);
    house.done(0xa, &creation(0, 0));
    house.done(0xa, &creation(1, 1));
    house.done(0x11, &[1]);
    let good = house.parts();
    house.vf.device.read();
    let part = |kind: u16, flags: u8, selected: u32, value: &[u8]| {
        let header = [&kind.to_le_bytes()[..], &[flags, 0], &selected.to_le_bytes(), &[0; 4]].concat();
        [&header[..], &(value.len() as u32).to_le_bytes(), value].concat()
    };
    let queue = |size: u16, vector: u16| {
        [size, vector, 1, 0].map(u16::to_le_bytes).concat().into_iter().chain([0; 24]).collect::<Vec<_>>()
    };
    let features = |bits: u128| bits.to_le_bytes();
    for (what, bad) in [
        ("another device's features", part(0x100, 1, 0, &features(VERSION_1.into()))),
        ("features that are not offered", part(0x101, 0, 0, &features((VERSION_1 | 1 << 5).into()))),
        ("features of nobody", part(0x101, 0, 0, &features(u128::MAX))),
        ("a packed ring", part(0x101, 0, 0, &features((VERSION_1 | PACKED).into()))),
        ("features cut short", part(0x101, 0, 0, &[0; 8])),
        ("no VERSION_1", part(0x101, 0, 0, &features(0))),
        ("no such register", part(0x102, 0, 20, &[0xf])),
        ("another number of queues", part(0x102, 0, 18, &[5, 0])),
        ("no such vector", part(0x102, 0, 16, &[6, 0])),
        ("a register's length", part(0x102, 0, 16, &[1])),
        ("far away", part(0x102, 0, 0x1_0010, &[1, 0])),
        ("a status of two bytes", part(0x103, 0, 0, &[0xf, 0])),
        ("no such queue", part(0x104, 0, 4, &queue(8, 0))),
        ("its size", part(0x104, 0, 0, &queue(7, 0))),
        ("no size", part(0x104, 0, 0, &queue(0, 0))),
        ("a size beyond the device's", part(0x104, 0, 0, &queue(2048, 0))),
        ("its vector", part(0x104, 0, 0, &queue(8, 6))),
        ("another doorbell", part(0x105, 0, 1, &[2, 0, 0, 0, 0, 0, 0, 0])),
        ("what nobody says", part(0x200, 0, 9, &[])),
        ("what there is no part for", part(0x200, 0, 5, &[0; 8])),
        ("the same twice", part(0x103, 0, 0, &[0xf])),
        ("what nobody knows", part(0x201, 0, 0, &[])),
    ] {
        let data = [&object(1)[..], &part(0x103, 0, 0, &[0x8f]), &bad].concat();
        assert_eq!(house.refused(0x10, &data), Not::Field, "{what}");
    }
    assert_eq!(house.refused(0x10, &[object(0), good.clone()].concat()), Not::Field, "it is for getting");
    assert_eq!((house.parts(), house.vf.device.read()), (good, vec![]));
    house.done(0x10, &[object(1), part(0x300, 1, 0, &[1, 2, 3])].concat());
}

#[test]
fn commands_of_any_length_are_answered() {
    let ram = std::sync::Arc::new(Ram::new(1 << 20, GPA).unwrap());
    let mut driver = Driver::new(&ram, Layout::Split, 16, Options::default()).unwrap();
    let mut admin = Admin::default();
    assert!(!admin.has_work());
    admin.start(driver.setup(1 << 32).activate(ram.guest_memory().unwrap()).unwrap());
    assert!(admin.has_work(), "what came before");
    let place = ram.alloc(0x2000, 64).unwrap();
    let mut give = |command: &[u8], cut: u32, room: u32| {
        ram.write(place, command);
        ram.write(place + 0x1000, &[0xee; 64]);
        let parts = [
            Buffer::readable(place, cut),
            Buffer::readable(place + u64::from(cut), command.len() as u32 - cut),
            Buffer::writable(place + 0x1000, room.min(3)),
            Buffer::writable(place + 0x1003, room.saturating_sub(3)),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| part.len_bytes > 0).collect();
        driver.offer(&parts, 0).unwrap();
        driver.publish();
        let served = admin
            .serve(|group, command| group.obey(command, Members::<Diary> { count: Some(0), found: Err(Not::Member) }));
        served.unwrap();
        let mut done = [Completed::default(); 1];
        assert_eq!(driver.collect(&mut done), Ok(1));
        let mut answer = [0; 64];
        ram.read(place + 0x1000, &mut answer);
        assert!(answer[done[0].len_bytes as usize..].iter().all(|byte| *byte == 0xee), "no further");
        answer[..done[0].len_bytes as usize].to_vec()
    };
    let command = |opcode: u8, group: u8, data: &[u8]| [&[opcode, 0, group, 0][..], &[0; 20], data].concat();
    let list = [&[0; 8][..], &ALL.to_le_bytes()].concat();
    assert_eq!(give(&command(0, 1, &[]), 24, 64), list);
    assert_eq!(give(&command(0, 1, &[0xff; 900]), 5, 64), list, "it is longer than it has to be");
    assert_eq!(
        (give(&command(0, 1, &[])[..3], 1, 10), give(&command(0, 1, &[])[..2], 2, 3)),
        (list[..10].to_vec(), vec![0; 3])
    );
    assert_eq!(give(&[], 0, 16), [&[0; 8][..], &0x383u64.to_le_bytes()].concat(), "nothing is all zeroes");
    assert_eq!(give(&command(1, 1, &ALL.to_le_bytes()), 7, 0), [0; 0], "done, and nobody hears it");
    assert_eq!(give(&command(0x11, 1, &[1]), 24, 8), [22, 0, 4, 0, 0, 0, 0, 0]);
    assert_eq!(give(&command(0x12, 0, &[]), 24, 9), [22, 0, 2, 0, 0, 0, 0, 0]);
    let counts = admin.counts();
    assert_eq!((counts.given, counts.done), (8, 6));
    let refused: Vec<_> = counts.refused().filter(|(_, count)| *count > 0).collect();
    assert_eq!(refused, [("invalid_opcode", 1), ("invalid_group", 1)]);
    admin.reset();
    assert_eq!(admin.stop(), 8);
}
