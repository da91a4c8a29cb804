//! An owner's driver, whose commands are of any content and in chains of any shape, and its VFs', which write anything to their
//! registers meanwhile: each command is answered, one that is refused changes nothing of its VF, a VF that is stopped runs no ring,
//! and what parts say of one VF, another takes or refuses as a whole.

use std::sync::Arc;

use virtnet_control::device::controlq::Said;
use virtnet_control::firmware::PciIds;
use virtnet_control::transport::Backend;
use virtnet_control::virtio_pci::admin::{Admin, Group, Members, Refusal};
use virtnet_control::virtio_pci::layout::VIRTIO_BAR;
use virtnet_control::virtio_pci::{Function, Kind, Traits};
use virtnet_rings::Layout;
use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};

use super::Input;
use super::device::Device;

const GPA: u64 = 0x10_0000;
const VFS: u16 = 2;
/// `status` and `status_qualifier` of all outcomes.
const STATUSES: [[u16; 2]; 10] =
    [[0, 0], [22, 2], [22, 3], [22, 4], [22, 5], [17, 1], [6, 1], [16, 1], [12, 1], [11, 7]];

/// A VF with a driver that has two queues.
fn vf(ram: &Ram) -> (Function, Device) {
    let mut device = Device::default();
    let said = [(0, 1, vec![1]), (2, 0, vec![7, 0, 9, 0]), (4, 0, vec![2, 0])];
    let said = said.map(|(class, command, data)| Said { class, command, data });
    device.go_on(0, &said).expect("a driver that does all right");
    let ids = PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 };
    let traits = Traits { ids, is_transitional: false, msix: 6, kind: Kind::Virtual };
    let mut function = Function::new(traits, &device);
    function.set_memory(ram.guest_memory().expect("its memory"), &mut device);
    let mut write = |register: u64, data: &[u8]| {
        function.write_bar(VIRTIO_BAR, register, data, &mut device).expect("a driver that does all right");
    };
    write(20, &[3]);
    write(8, &[1, 0, 0, 0]);
    write(12, &[1, 1, 0, 0]);
    write(20, &[0xb]);
    for queue in 0..2u8 {
        write(22, &[queue, 0]);
        write(24, &[16, 0]);
        for (register, area) in [(32, 0u64), (40, 0x1000), (48, 0x2000)] {
            write(register, &(GPA + 0x8_0000 + u64::from(queue) * 0x4000 + area).to_le_bytes());
        }
        write(28, &[1, 0]);
    }
    write(20, &[0xf]);
    function.write_config(4, &[6, 0], &mut device).expect("bus mastering");
    (function, device)
}

/// A command.
fn command(opcode: u8, group: u8, member: u8, data: &[u8]) -> Vec<u8> {
    let header = [opcode, 0, group, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, member, 0, 0, 0, 0, 0, 0, 0];
    [&header[..], data].concat()
}

/// What begins with an object's number.
fn about(object: u8, data: &[u8]) -> Vec<u8> {
    [&[0, 0, 0, 0, object, 0, 0, 0], data].concat()
}

/// What brings a driver as far as an object of each kind for each VF.
fn beginning() -> Vec<Vec<u8>> {
    let create =
        |object: u8, member: u8, set: u8| command(0xa, 1, member, &about(object, &[0, 0, 0, 0, 0, 0, 0, 0, set]));
    vec![
        command(1, 1, 0, &[0xff, 0xff, 3]),
        command(9, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0, 4, 4]),
        create(0, 1, 0),
        create(1, 1, 1),
        create(2, 2, 0),
        create(3, 2, 1),
    ]
}

/// What comes next, about something that there is, mostly.
fn next(input: &mut Input, parts: &[u8]) -> Vec<u8> {
    let opcode = [input.u8() % 20, 0x11, 0xf, 0x10, 2, 4][usize::from(input.u8() % 6)];
    let member = [1, 2, 1, 2, 1, 2, 3, input.u8()][usize::from(input.u8() % 8)];
    let group = [1, 1, 1, 1, 1, 1, 0, input.u8()][usize::from(input.u8() % 8)];
    let getter = if member == 2 { 2 } else { 0 };
    let object = [getter, getter, getter, input.u8() % 5][usize::from(input.u8() % 4)];
    let mut data = match opcode {
        1 => vec![0xff, 0xff, [3, 3, 3, 7][usize::from(input.u8() % 4)]],
        2 | 4 => {
            let (offset, len_bytes) =
                [(4, 4), (8, 4), (14, 2), (16, 2), (18, 1), (0, 6), (5, 1), (20, 2)][usize::from(input.u8() % 8)];
            let value = u32::from([0, 1, 3, 7, 0x88, input.u8()][usize::from(input.u8() % 6)]).to_le_bytes();
            [&[offset, 0, 0, 0, 0, 0, 0, 0][..], &[value, [0; 4]].concat()[..len_bytes]].concat()
        }
        3 | 5 => vec![input.u8() % 24],
        9 => vec![0, 0, 0, 0, 0, 0, 0, 0, input.u8() % 5, 4],
        0xa..=0xd => about(object, &[0, 0, 0, 0, 0, 0, 0, 0, input.u8() % 3]),
        0xe => about(object, &[input.u8() % 4]),
        0xf => about(object, &[[1, 1, 1, 0, 2][usize::from(input.u8() % 5)], 0, 0, 0, 0, 0, 0, 0]),
        0x10 => {
            let mut parts = parts.to_vec();
            if let (1, count @ 1..) = (input.u8() % 2, parts.len()) {
                parts[usize::from(input.u16()) % count] = input.u8();
                parts.truncate(usize::from(input.u16()) % (2 * count));
            }
            about(object.wrapping_add(1), &parts)
        }
        0x11 => vec![[1, 1, 0, 2][usize::from(input.u8() % 4)]],
        _ => Vec::new(),
    };
    if input.u8().is_multiple_of(8) {
        let count = usize::from(input.u8() % 40);
        data.extend(input.bytes(count));
    }
    command(opcode, group, member, &data)
}

/// An administration virtqueue, from its first command to its last.
pub fn admin_queue(bytes: &[u8]) {
    let mut input = Input(bytes);
    let ram = Arc::new(Ram::new(1 << 20, GPA).expect("a little memory"));
    let layout = if input.u8().is_multiple_of(2) { Layout::Split } else { Layout::Packed };
    let mut driver = Driver::new(&ram, layout, 64, Options::default()).expect("a queue");
    let queue = driver.setup(1 << 32).activate(ram.guest_memory().expect("its memory")).expect("a queue that is good");
    let mut admin = Admin::default();
    admin.start(queue);
    let mut vfs = [vf(&ram), vf(&ram)];
    let place = ram.alloc(0x8000, 64).expect("room for commands");
    let (mut offered, mut parts) = (0, Vec::new());
    let mut first = if input.u8().is_multiple_of(8) { Vec::new() } else { beginning() }.into_iter();
    while !input.is_empty() {
        let (function, device) = &mut vfs[usize::from(input.u8() % 2)];
        if input.u8().is_multiple_of(4) {
            let (register, value) =
                ([8, 12, 18, 20, 22, 24, 26, 28, 32, 58][usize::from(input.u8() % 10)], input.u64());
            let len_bytes = [1, 2, 4, 8][usize::from(input.u8() % 4)];
            let _ = function.write_bar(VIRTIO_BAR, register, &value.to_le_bytes()[..len_bytes], device);
        }
        if input.u8() == 0xff {
            admin.reset();
        }
        let begins = first.len() > 0;
        let command = first.next().unwrap_or_else(|| next(&mut input, &parts));
        ram.write(place, &command);
        let cut = u32::from(input.u8()).min(command.len() as u32);
        // As much as the longest answer, or as a register has.
        let room = [0, 1, u32::from(input.u8()), 8 + 1, 8 + 2, 8 + 4, 0x4000, 0x4000][usize::from(input.u8() % 8)];
        let chain = [
            Buffer::readable(place, cut),
            Buffer::readable(place + u64::from(cut), command.len() as u32 - cut),
            Buffer::writable(place + 0x4000, room.min(1)),
            Buffer::writable(place + 0x4001, room.saturating_sub(1)),
        ];
        let chain: Vec<_> = chain.into_iter().filter(|part| part.len_bytes > 0).collect();
        if driver.offer(&chain, room).is_err() {
            continue;
        }
        offered += 1;
        driver.publish();
        let count = [Some(0), None, Some(VFS)][if begins { 2 } else { usize::from(input.u8() % 64).min(2) }];
        let served = admin.serve(|group, command| {
            let index = Group::member_of(command).and_then(|member| usize::try_from(member).ok()?.checked_sub(1));
            let mut found = index.and_then(|index| vfs.get_mut(index)).ok_or(Refusal::Member);
            let before = found.as_ref().ok().and_then(|(function, device)| function.parts(device));
            let here = found.as_mut().map(|(function, device)| (function, device)).map_err(|refusal| *refusal);
            let answer = group.obey(command, Members { count, found: here });
            if let (Err(_), Ok((function, device))) = (&answer, found) {
                assert!(function.parts(device) == before || (2..=4).contains(&command.opcode), "{command:?}");
            }
            answer
        });
        served.expect("the ring itself is good");
        let mut done = [Completed::default(); 1];
        assert_eq!(driver.collect(&mut done), Ok(1), "every command is answered");
        let len_bytes = done[0].len_bytes;
        assert!(len_bytes <= room && len_bytes >= room.min(8), "{len_bytes} bytes were written to {room}");
        let mut answer = vec![0; len_bytes as usize];
        ram.read(place + 0x4000, &mut answer);
        if let [a, b, c, d, ..] = answer[..] {
            let status = [u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])];
            assert!(STATUSES.contains(&status), "{status:?}");
            if status == [0, 0] && command[0] == 0xf && room == 0x4000 {
                parts = answer[8..].to_vec();
            }
        }
        for (function, device) in &mut vfs {
            assert!(!(function.is_stopped() && device.has_rings()), "a stopped device has rings");
            device.turn(|_| function.ring_failed());
        }
    }
    let counts = admin.counts();
    assert_eq!(counts.given, offered);
    assert_eq!(counts.done + counts.refused().map(|(_, count)| count).sum::<u64>(), offered);
    vfs.iter_mut().for_each(|(function, device)| function.leave(device));
    assert!(vfs.iter().all(|(_, device)| !device.has_rings()));
}
