//! A client that sends anything, and a driver that writes anything into any register: the session answers or ends, the device is
//! never asked for what it has not been given, a ring runs only between DRIVER_OK, or a legacy driver's first doorbell, and the next
//! reset, and none is left when the client is gone. What the client is asked to read and write it answers with anything.

use std::os::fd::{AsFd, OwnedFd};

use virtnet_control::firmware::PciIds;
use virtnet_control::transport::connection::stream_pair;
use virtnet_control::vfio_user::message::{
    Ask, Command, Connection, DeviceFeature, DmaMap, DmaReport, DmaUnmap, HEADER_BYTES, Header, IrqSet, Message,
    MigData, Received, RegionAccess,
};
use virtnet_control::vfio_user::session::{Served, Session};
use virtnet_control::virtio_pci::{Function, Kind, Traits, Vfs};

use super::Input;
use super::device::{Device, MEMORY_BYTES, descriptor};

/// Configuration space, and the BARs of MSI-X, of virtio and of the legacy interface.
const REGIONS: [u32; 4] = [7, 2, 4, 0];
/// Registers of the legacy interface, and their lengths.
const LEGACY: [(u64, usize); 9] = [(4, 4), (8, 4), (14, 2), (16, 2), (18, 1), (18, 1), (20, 2), (22, 2), (24, 1)];
/// Registers of common configuration, and their lengths.
const COMMON: [(u64, usize); 14] = [
    (0, 4),
    (8, 4),
    (12, 4),
    (16, 2),
    (20, 1),
    (20, 1),
    (22, 2),
    (24, 2),
    (26, 2),
    (28, 2),
    (32, 8),
    (40, 8),
    (48, 8),
    (58, 2),
];

/// A message: its command, its body, and how many descriptors come along.
type Words = (u16, Vec<u8>, u8);

fn write(region: u32, offset: u64, data: &[u8]) -> Words {
    let access = RegionAccess { offset, region, count: data.len() as u32 };
    (Command::REGION_WRITE as u16, [access.to_bytes(), data.to_vec()].concat(), 0)
}

/// Messages that bring a driver as far as two running queues.
fn beginning(packed: bool, files: u8) -> Vec<Words> {
    let map = DmaMap { argsz: 32, flags: 3, offset: 0, address: 0, size: MEMORY_BYTES };
    let mut words = vec![(Command::DMA_MAP as u16, map.to_bytes(), files), write(7, 4, &[6, 0])];
    let mut set = |offset: u64, data: &[u8]| words.push(write(4, offset, data));
    [1, 3].iter().for_each(|status| set(20, &[*status]));
    set(8, &[1, 0, 0, 0]);
    set(12, &[if packed { 5 } else { 1 }, 1, 0, 0]);
    set(20, &[0xb]);
    for queue in 0..2u8 {
        set(22, &[queue, 0]);
        set(24, &[16, 0]);
        for (register, area) in [(32, 0u64), (40, 0x1000), (48, 0x2000)] {
            set(register, &(u64::from(queue) * 0x4000 + area).to_le_bytes());
        }
        set(28, &[1, 0]);
    }
    set(20, &[0xf]);
    words
}

/// What comes next.
fn words(input: &mut Input) -> Words {
    match input.u8() % 11 {
        9 => {
            let feature = |flags: u32, data: &[u8]| {
                let body = [&DeviceFeature { argsz: 4096, flags }.to_bytes()[..], data].concat();
                (Command::DEVICE_FEATURE as u16, body, 0)
            };
            let (count, address) = (usize::from(input.u8()), MEMORY_BYTES * u64::from(input.u8() % 3));
            match input.u8() % 6 {
                0 | 1 => feature(2 | DeviceFeature::SET, &[input.u8() % 6, 0, 0, 0, 0, 0, 0, 0]),
                2 => (Command::MIG_DATA_READ as u16, MigData { argsz: 4104, size: 4096 }.to_bytes(), 0),
                3 => {
                    let data = input.bytes(count);
                    let head = MigData { argsz: 0, size: data.len() as u32 }.to_bytes();
                    (Command::MIG_DATA_WRITE as u16, [&head[..], data].concat(), 0)
                }
                4 => feature(
                    (6 + u32::from(input.u8() % 2)) | DeviceFeature::SET,
                    &[&4096u64.to_ne_bytes()[..], &[0; 8]].concat()[..if count % 2 == 0 { 16 } else { 0 }],
                ),
                _ => {
                    let report = DmaReport { iova: address, length: MEMORY_BYTES, page_size: 4096 << (count % 4) };
                    feature(8 | DeviceFeature::GET, &report.to_bytes())
                }
            }
        }
        0 => {
            let (command, count) = (u16::from(input.u8() % 20), usize::from(input.u8()));
            (command, input.bytes(count).to_vec(), input.u8() % 4)
        }
        1 | 2 => {
            let (register, len_bytes) = COMMON[usize::from(input.u8()) % COMMON.len()];
            let value = [0, 1, 0xf, 0xb, 3, u64::from(input.u8()), input.u64()][usize::from(input.u8() % 7)];
            write(4, register, &value.to_le_bytes()[..len_bytes])
        }
        3 => {
            let region = REGIONS[usize::from(input.u8() % 4)];
            let (offset, count) = (u64::from(input.u16() % 0x4010), usize::from(input.u8() % 10));
            write(region, offset, input.bytes(count))
        }
        4 => {
            let region = REGIONS[usize::from(input.u8() % 4)];
            let access = RegionAccess { offset: u64::from(input.u16() % 0x4010), region, count: input.u16().into() };
            (Command::REGION_READ as u16, access.to_bytes(), 0)
        }
        5 => {
            let (address, size) =
                (MEMORY_BYTES * u64::from(input.u8() % 3), [MEMORY_BYTES, 4096][usize::from(input.u8() % 2)]);
            match input.u8() % 3 {
                0 => (Command::DMA_UNMAP as u16, DmaUnmap { argsz: 24, flags: 0, address, size }.to_bytes(), 0),
                1 => (Command::DMA_UNMAP as u16, DmaUnmap { argsz: 24, flags: 2, address: 0, size: 0 }.to_bytes(), 0),
                _ => {
                    let map = DmaMap { argsz: 32, flags: 3, offset: 0, address, size };
                    (Command::DMA_MAP as u16, map.to_bytes(), input.u8() % 2)
                }
            }
        }
        6 => {
            let flags = [33, 36, 9, 17, u32::from(input.u8())][usize::from(input.u8() % 5)];
            let (index, start) = (u32::from(input.u8() % 3), u32::from(input.u8() % 8));
            let count = input.u8() % 4;
            let set = IrqSet { argsz: 20, flags, index, start, count: count.into() };
            (Command::DEVICE_SET_IRQS as u16, set.to_bytes(), if flags == 36 { count } else { 0 })
        }
        7 => {
            let (register, len_bytes) = LEGACY[usize::from(input.u8()) % LEGACY.len()];
            let value = u32::from([0, 1, 2, 7, 0x10, input.u8()][usize::from(input.u8() % 6)]);
            write(0, register, &value.to_le_bytes()[..len_bytes])
        }
        8 => {
            // VFs: control, number, page size.
            let register = [0x118, 0x118, 0x120, 0x130][usize::from(input.u8() % 4)];
            write(7, register, &u32::from(input.u8() % 20).to_le_bytes()[..2])
        }
        _ => {
            let queue = input.u8() % 5;
            write(4, 0x3000 + u64::from(queue) * 4, &[queue, 0])
        }
    }
}

/// What the session asked for, or part of it, or more; or it is refused, or left.
fn answer(asked: &Message, input: &mut Input, client: &Connection) {
    let count = asked.body.get(8).map_or(0, |count| usize::from(*count));
    let (how, id) = (input.u8(), asked.header.id ^ u16::from(input.u8() % 32 == 31));
    let len_bytes = match how % 16 {
        0 => return,
        1 => usize::from(input.u8()),
        _ => 16 + if asked.header.command == Ask::DMA_READ as u16 { count } else { 0 },
    };
    let mut body: Vec<u8> = input.bytes(len_bytes).to_vec();
    body.resize(len_bytes, 0);
    let error = if how == 255 { Header::ERROR } else { 0 };
    let size_bytes = (HEADER_BYTES + body.len()) as u32;
    let _ = client.send(Header { id, size_bytes, flags: Header::REPLY | error, ..asked.header }, &body, &[]);
}

/// A function, from its first client to its last.
pub fn vfio_user_message(bytes: &[u8]) {
    let mut input = Input(bytes);
    let mut device = Device::default();
    let ids = PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 };
    let is_transitional = input.u8() % 2 == 1;
    let vfs = Vfs { total: 8, first_offset: 0x100, are_transitional: false, msix: 6 };
    let kind = Kind::Physical(vfs);
    let mut function = Box::new(Function::new(Traits { ids, is_transitional, msix: 6, kind }, &device));
    while !input.is_empty() {
        let (here, there) = stream_pair().expect("a pair of sockets");
        let mut session = Session::new(there, function);
        let mut client = Connection::new(here);
        let mut first = vec![(Command::VERSION as u16, vec![0; 4], 0)];
        if input.u8() % 4 != 0 {
            first.extend(beginning(input.u8() % 2 == 1, input.u8() % 2));
        }
        let count = usize::from(input.u8());
        let mut first = first.into_iter();
        'session: for _ in 0..count {
            let (command, body, kinds) = first.next().unwrap_or_else(|| words(&mut input));
            let descriptors: Vec<OwnedFd> = (0..kinds)
                .map(|_| descriptor(if command == Command::DMA_MAP as u16 { 7 } else { input.u8() }))
                .collect();
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let size_bytes = (HEADER_BYTES + body.len()) as u32;
            let flags = if input.u8() % 16 == 15 { Header::NO_REPLY } else { 0 };
            let _ = client.send(Header { id: 1, command, size_bytes, flags, error: 0 }, &body, &borrowed);
            for _ in 0..4 {
                match session.serve(&mut device) {
                    Served::Message | Served::Refused(_) => {}
                    Served::Nothing => break,
                    Served::Ended(_) => break 'session,
                }
            }
            let status = session.function().status();
            let is_legacy = session.function().is_legacy() && status < 0x80;
            assert!(!device.has_rings() || status & 0x8c == 0xc || is_legacy, "rings with status {status:#x}");
            let function = session.function_mut();
            if let Some(count) = function.take_vfs_wanted() {
                assert!(count <= vfs.total);
                function.show_vfs(count);
            }
            device.turn(|_| session.function_mut().ring_failed());
            // The client reads what it is sent, or the session would rightly end.
            while let Ok(Received::Message(message)) = client.receive() {
                if message.header.wants_reply() {
                    answer(&message, &mut input, &client);
                }
            }
        }
        function = session.close(&mut device).1;
        assert!(!device.has_rings() && !device.is_watched(), "rings outlive their client");
    }
}
