//! A client that speaks message by message, right or wrong, to a session over a device that keeps a diary.

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use virtnet_rings::guest::Ram;
use virtnet_rings::{Fault, PartStore, Virtqueue};

use super::super::message::{Command, DeviceFeature, DmaLogging, DmaReport, HEADER_BYTES, MigData, MigState};
use super::*;
use crate::firmware::PciIds;
use crate::transport::connection::stream_pair;
use crate::transport::diary::{Deed, Diary, VERSION_1, rung};
use crate::virtio_pci::{Kind, Stopper, Traits};

const GPA: u64 = 0x10_0000;
const RAM_BYTES: u64 = 1 << 20;
const READ_WRITE: u32 = DmaMap::READ | DmaMap::WRITE;
const EVENTFD_TRIGGER: u32 = 4 | 32;
const NONE_TRIGGER: u32 = 1 | 32;
const NONE_UNMASK: u32 = 1 | 16;

struct Bench {
    session: Option<Session>,
    client: Connection,
    device: Diary,
    ram: Ram,
}

/// What came back: the body and its descriptors, or an errno.
type Answer = Result<(Vec<u8>, Vec<OwnedFd>), Errno>;

impl Bench {
    fn new() -> Self {
        let device = Diary::default();
        let ids = PciIds { vendor: 0x1af4, device: 0x1041, class: 0x02_8000 };
        let function =
            Box::new(Function::new(Traits { ids, is_transitional: false, msix: 6, kind: Kind::Single }, &device));
        let (here, there) = stream_pair().unwrap();
        let session = Some(Session::new(here, function));
        let ram = Ram::new(RAM_BYTES as usize, GPA).unwrap();
        Self { session, client: Connection::new(there), device, ram }
    }

    /// One that has agreed on a version.
    fn agreed() -> Self {
        let mut bench = Self::new();
        bench.agree();
        bench
    }

    fn agree(&mut self) {
        let text = [&[0; 4][..], br#"{"capabilities":{"max_msg_fds":3}}"#, &[0]].concat();
        self.done(Command::VERSION, &text);
    }

    fn session(&mut self) -> &mut Session {
        self.session.as_mut().unwrap()
    }

    fn serve(&mut self) -> Served {
        let Self { session, device, .. } = self;
        session.as_mut().unwrap().serve(device)
    }

    fn ask(&mut self, command: Command, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Answer {
        let header = Header::command(9, command, body.len());
        self.client.send(header, body, descriptors).unwrap();
        self.serve();
        let Ok(Received::Message(reply)) = self.client.receive() else { panic!("{command} is not answered") };
        assert_eq!((reply.header.id, reply.header.command, reply.header.flags & 0xf), (9, command as u16, 1));
        if reply.header.flags & Header::ERROR != 0 {
            assert_eq!(reply.body.len(), 0);
            return Err(Errno::from_raw_os_error(reply.header.error as i32));
        }
        Ok((reply.body, reply.descriptors))
    }

    #[track_caller]
    fn done(&mut self, command: Command, body: &[u8]) -> Vec<u8> {
        self.ask(command, body, &[]).unwrap_or_else(|errno| panic!("{command}: {errno}")).0
    }

    fn map(&mut self, address: u64, size: u64, offset: u64) -> Answer {
        let map = DmaMap { argsz: 32, flags: READ_WRITE, offset, address, size };
        let fd = self.ram.fd().try_clone_to_owned().unwrap();
        self.ask(Command::DMA_MAP, &map.to_bytes(), &[fd.as_fd()])
    }

    fn unmap(&mut self, flags: u32, address: u64, size: u64) -> Answer {
        let unmap = DmaUnmap { argsz: 24, flags, address, size };
        self.ask(Command::DMA_UNMAP, &unmap.to_bytes(), &[])
    }

    fn write(&mut self, region: u32, offset: u64, data: &[u8]) -> Answer {
        let access = RegionAccess { offset, region, count: data.len() as u32 };
        self.ask(Command::REGION_WRITE, &[access.to_bytes(), data.to_vec()].concat(), &[])
    }

    fn read(&mut self, region: u32, offset: u64, count: u32) -> Result<Vec<u8>, Errno> {
        let access = RegionAccess { offset, region, count };
        let (body, _) = self.ask(Command::REGION_READ, &access.to_bytes(), &[])?;
        assert_eq!(body[..16], access.to_bytes());
        Ok(body[16..].to_vec())
    }

    fn irqs(&mut self, flags: u32, index: u32, start: u32, descriptors: &[BorrowedFd<'_>]) -> Answer {
        let count = descriptors.len().max(1) as u32;
        let set = super::super::message::IrqSet { argsz: 20, flags, index, start, count };
        self.ask(Command::DEVICE_SET_IRQS, &set.to_bytes(), descriptors)
    }

    /// Memory, bus mastering, and a driver with a split queue 0.
    fn drive(&mut self) {
        self.map(GPA, RAM_BYTES, 0).unwrap();
        self.drive_from(8, [0, 0x1000, 0x2000]);
        assert_eq!(self.device.running(), [0]);
    }

    /// A driver with a queue 0 of a size, whose areas are there.
    fn drive_from(&mut self, size: u16, areas: [u64; 3]) {
        self.write(CONFIG_REGION, 4, &[6, 0]).unwrap();
        for status in [0, 1, 3] {
            self.write(4, 20, &[status]).unwrap();
        }
        self.write(4, 8, &1u32.to_le_bytes()).unwrap();
        self.write(4, 12, &((VERSION_1 >> 32) as u32).to_le_bytes()).unwrap();
        self.write(4, 20, &[0xb]).unwrap();
        self.write(4, 24, &size.to_le_bytes()).unwrap();
        for (register, offset) in [32, 40, 48].into_iter().zip(areas) {
            self.write(4, register, &(GPA + offset).to_le_bytes()).unwrap();
        }
        self.write(4, 28, &[1, 0]).unwrap();
        self.write(4, 20, &[0xf]).unwrap();
    }

    /// The client leaves, and another one comes.
    fn come_again(&mut self) {
        let (counters, function) = self.session.take().unwrap().close(&mut self.device);
        assert_eq!(counters.refused(), 0);
        let (here, there) = stream_pair().unwrap();
        (self.session, self.client) = (Some(Session::new(here, function)), Connection::new(there));
        self.agree();
    }
}

fn line() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

#[test]
fn the_version_comes_first_and_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.ask(Command::DEVICE_RESET, &[], &[]).unwrap_err(), Errno::INVAL);
    bench.agree();
    assert_eq!(bench.ask(Command::VERSION, &[0; 4], &[]).unwrap_err(), Errno::INVAL);
    bench.done(Command::DEVICE_RESET, &[]);
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("order", 2)]);
    let mut bench = Bench::new();
    let header = Header::command(1, Command::VERSION, 4);
    bench.client.send(header, &[1, 0, 0, 0], &[]).unwrap();
    let Served::Ended(Some(why)) = bench.serve() else { panic!("another major version") };
    assert_eq!(why.to_string(), "version 1.0, allowed is major version 0");
    let Ok(Received::Message(told)) = bench.client.receive() else { panic!("it is told") };
    assert_eq!(told.header.error, Errno::PROTONOSUPPORT.raw_os_error() as u32);
}

#[test]
fn the_device_says_what_it_has() {
    let mut bench = Bench::agreed();
    let info = bench.done(Command::DEVICE_GET_INFO, &DeviceInfo { argsz: 16, ..DeviceInfo::default() }.to_bytes());
    assert_eq!(info, DeviceInfo { argsz: 16, flags: 3, num_regions: 9, num_irqs: 5 }.to_bytes());
    for (index, size) in [(0, 0), (1, 0), (2, 0x2000), (3, 0), (4, 0x4000), (5, 0), (6, 0), (7, 4096), (8, 0)] {
        let asked = RegionInfo { argsz: 32, index, ..RegionInfo::default() };
        let flags = if size > 0 { 3 } else { 0 };
        assert_eq!(
            bench.done(Command::DEVICE_GET_REGION_INFO, &asked.to_bytes()),
            RegionInfo { size, flags, ..asked }.to_bytes()
        );
    }
    for (index, count, flags) in [(0, 1, 7), (1, 0, 0), (2, 6, 3), (3, 0, 0), (4, 0, 0)] {
        let asked = IrqInfo { argsz: 16, index, ..IrqInfo::default() };
        assert_eq!(
            bench.done(Command::DEVICE_GET_IRQ_INFO, &asked.to_bytes()),
            IrqInfo { count, flags, ..asked }.to_bytes()
        );
    }
    assert_eq!(bench.read(CONFIG_REGION, 0, 4), Ok(vec![0xf4, 0x1a, 0x41, 0x10]));
    assert_eq!(bench.read(CONFIG_REGION, 0, 4096).unwrap().len(), 4096);
    assert_eq!(bench.read(4, 0x2000, 6), Ok(vec![2, 0, 0, 0, 0, 9]));
}

#[test]
fn registers_are_where_they_are() {
    let mut bench = Bench::agreed();
    for (region, offset, count) in
        [(7, 4093, 4), (7, 4096, 1), (4, 0x4000, 1), (4, u64::MAX - 4096, 4), (0, 0, 1), (6, 0, 1), (8, 0, 1)]
    {
        assert_eq!(bench.read(region, offset, count), Err(Errno::INVAL), "{region} {offset:#x}");
        assert_eq!(bench.write(region, offset, &[0; 4][..count as usize]).unwrap_err(), Errno::INVAL);
    }
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("bounds", 14)]);
    // What a driver writes in vain is not its client's fault.
    assert_eq!(bench.write(4, 4, &[1; 4]).unwrap().0, RegionAccess { offset: 4, region: 4, count: 4 }.to_bytes());
    assert_eq!(bench.session().counters().by_outcome().last(), Some(("register", 1)));
}

#[test]
fn memory_comes_and_goes() {
    let mut bench = Bench::agreed();
    bench.drive();
    // More memory, and some that cannot be mapped: the ring goes on.
    let without = DmaMap { argsz: 32, flags: DmaMap::READ, offset: 0, address: 0xfffc_0000, size: 0x4_0000 };
    bench.done(Command::DMA_MAP, &without.to_bytes());
    bench.map(GPA + RAM_BYTES, 4096, 0).unwrap();
    assert_eq!(bench.device.running(), [0]);
    for (address, size) in [(1 << 40, 4095), ((1 << 40) + 1, 4096)] {
        assert_eq!(bench.map(address, size, 0).unwrap_err(), Errno::INVAL, "{address:#x}: no pages");
    }
    for (address, size) in [(GPA, 4096), (GPA + RAM_BYTES - 1, 1), (GPA - 1, 2), (0xfffc_0000, 1), (0, 1 << 40)] {
        assert_eq!(bench.map(address, size, 0).unwrap_err(), Errno::EXIST, "{address:#x}");
    }
    assert_eq!(bench.map(0x1_0000_0000, RAM_BYTES, 4096).unwrap_err(), Errno::INVAL, "more than the file has");
    let (pipe, _end) = rustix::pipe::pipe().unwrap();
    let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: 0x1_0000_0000, size: 4096 };
    assert!(bench.ask(Command::DMA_MAP, &map.to_bytes(), &[pipe.as_fd()]).is_err(), "what cannot be mapped");
    for (address, size) in [(GPA, 4096), (GPA + 4096, 1), (GPA + RAM_BYTES - 1, 1), (GPA - 1, 2), (GPA - 1, RAM_BYTES)]
    {
        assert_eq!(bench.unmap(0, address, size).unwrap_err(), Errno::INVAL, "{address:#x}: a part");
    }
    bench.unmap(0, 0x5000, 1).unwrap();
    bench.unmap(0, 1 << 63, 1 << 63).unwrap();
    assert_eq!(bench.device.running(), [0], "what was refused has changed nothing");
    let answer = bench.unmap(0, GPA, RAM_BYTES).unwrap().0;
    assert_eq!(answer, DmaUnmap { argsz: 24, flags: 0, address: GPA, size: RAM_BYTES }.to_bytes());
    assert!(bench.device.running().is_empty() && !bench.session().function().needs_reset());
    bench.map(GPA, RAM_BYTES, 0).unwrap();
    assert_eq!(bench.device.running(), [0], "and it goes on");
    bench.unmap(0, 0, 0xfffc_0000).unwrap();
    assert_eq!((bench.device.running().len(), bench.session().maps.len()), (0, 1), "all that is inside");
    bench.map(GPA, RAM_BYTES, 0).unwrap();
    bench.unmap(DmaUnmap::ALL, 0, 0).unwrap();
    assert!(bench.device.running().is_empty() && bench.session().maps.is_empty());
    bench.unmap(DmaUnmap::ALL, 0, 0).unwrap();
}

#[test]
fn a_ring_may_lie_in_pages_anywhere_in_the_file() {
    let mut bench = Bench::agreed();
    bench.drive();
    bench.unmap(DmaUnmap::ALL, 0, 0).unwrap();
    bench.write(4, 20, &[0]).unwrap();
    bench.device.read();
    // A queue of 512: a table of two pages, and an area of each of the others. Each page comes by itself, the last one first.
    bench.drive_from(512, [0, 0x2000, 0x3000]);
    for (at, page) in [(4, 9), (3, 2), (2, 7), (1, 4), (0, 30)] {
        assert!(bench.device.running().is_empty());
        bench.map(GPA + 4096 * at, 4096, 4096 * page).unwrap();
    }
    assert_eq!(bench.device.running(), [0]);
    // It takes a chain from the second page of its table.
    let ram = &bench.ram;
    let at = |page: u64| GPA + 4096 * page;
    ram.write(at(4) + 16 * (300 - 256), &[&at(8).to_le_bytes()[..], &64u32.to_le_bytes(), &[2, 0, 0, 0]].concat());
    ram.write(at(7) + 4, &300u16.to_le_bytes());
    ram.write(at(7) + 2, &1u16.to_le_bytes());
    let take = |bench: &mut Bench| {
        let queue = bench.device.queues[0].as_mut().unwrap();
        queue.begin_turn();
        let (mut chains, violation) = queue.take_list(4, &mut PartStore::new(1));
        queue.end_turn();
        assert_eq!((chains.len(), violation), (1, None));
        let chain = chains.pop().unwrap();
        queue.put_back(&chain);
        (chain.id, chain.parts.fault())
    };
    assert_eq!(take(&mut bench), (300, Fault::OutsideMemory), "its buffer is mapped nowhere");
    bench.device.read();
    bench.map(at(8), 4096, 0).unwrap();
    assert_eq!(take(&mut bench), (300, Fault::None));
    bench.unmap(0, at(8), 4096).unwrap();
    assert_eq!(take(&mut bench), (300, Fault::OutsideMemory));
    let read_only = DmaMap { argsz: 32, flags: DmaMap::READ, offset: 0, address: at(8), size: 4096 };
    let file = bench.ram.fd().try_clone_to_owned().unwrap();
    bench.ask(Command::DMA_MAP, &read_only.to_bytes(), &[file.as_fd()]).unwrap();
    assert_eq!(take(&mut bench), (300, Fault::OutsideMemory), "it must not be written");
    assert_eq!(bench.device.read(), [], "nothing of that stops a ring");
    // But what does is below one of its areas.
    bench.unmap(0, at(1), 4096).unwrap();
    assert_eq!(bench.device.read(), [Deed::Stop(0)]);
    bench.map(at(1), 4096, 4096 * 4).unwrap();
    assert_eq!(bench.device.running(), [0]);
}

/// A client that has not given a file of its memory answers what the session asks of it, as often as `patience` allows.
fn answer(bench: &mut Bench, patience: usize) -> Vec<(u16, u64)> {
    let mut asked = Vec::new();
    for _ in 0..patience {
        bench.serve();
        let Ok(Received::Message(Message { header, body, .. })) = bench.client.receive() else { break };
        assert!(!header.is_reply() && header.flags == 0);
        let number = |at: usize| u64::from_ne_bytes(body[at..at + 8].try_into().unwrap());
        let (address, count) = (number(0), number(8) as usize);
        let mut reply = body[..16].to_vec();
        if header.command == Ask::DMA_READ as u16 {
            reply.resize(16 + count, 0);
            bench.ram.read(address, &mut reply[16..]);
        } else {
            assert_eq!((header.command, body.len()), (Ask::DMA_WRITE as u16, 16 + count));
            bench.ram.write(address, &body[16..]);
        }
        asked.push((header.command, address));
        bench.client.send(header.reply(reply.len()), &reply, &[]).unwrap();
    }
    asked
}

#[test]
fn memory_without_a_file_is_asked_for() {
    let mut bench = Bench::agreed();
    let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: GPA, size: RAM_BYTES };
    bench.done(Command::DMA_MAP, &map.to_bytes());
    bench.drive_from(8, [0, 0x1000, 0x2000]);
    assert_eq!(bench.device.running(), [0]);
    // Where it stands is looked at, the driver is told to ring, and what it has is looked at.
    let begins = [(11, GPA + 0x2002), (12, GPA + 0x2000), (11, GPA + 0x1002)];
    assert_eq!(answer(&mut bench, 100), begins);
    // A buffer of 64 bytes that the device may write, and one that it may read.
    let ram = &bench.ram;
    let descriptor = |at: u64, flags: u16| {
        [&(GPA + at).to_le_bytes()[..], &64u32.to_le_bytes(), &flags.to_le_bytes(), &[0; 2]].concat()
    };
    ram.write(GPA, &[descriptor(0x8000, 2), descriptor(0x9000, 0)].concat());
    ram.write(GPA + 0x9000, &[7; 64]);
    ram.write(GPA + 0x1000, &[0u16, 2, 0, 1].map(u16::to_le_bytes).concat());
    bench.write(4, 0x3000, &[0, 0]).unwrap();
    answer(&mut bench, 100);
    let queue = bench.device.queues[0].as_mut().unwrap();
    let mut store = PartStore::new(4);
    let (chains, violation) = queue.take_list(4, &mut store);
    let [mut first, second] = <[_; 2]>::try_from(chains).unwrap();
    assert_eq!((violation, first.parts.len_bytes(), second.parts.len_bytes()), (None, 64, 64));
    assert_eq!(second.parts.get(0).unwrap().read_array(), Some([7; 64]));
    first.parts.get(0).unwrap().write(&[9; 64]);
    first.parts.take_list();
    queue.return_used(&[first.used(48), second.used(0)]);
    assert!(queue.wants_notification());
    queue.call().notify();
    answer(&mut bench, 100);
    let mut written = [0; 64];
    bench.ram.read(GPA + 0x8000, &mut written);
    assert_eq!((&written[..48], &written[48..]), (&[9; 48][..], &[0; 16][..]));
    let mut used = [0; 20];
    bench.ram.read(GPA + 0x2000, &mut used);
    assert_eq!(used, [0, 0, 2, 0, 0, 0, 0, 0, 48, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    // The memory goes, and comes again: the ring goes on behind what was used.
    bench.unmap(0, GPA, RAM_BYTES).unwrap();
    assert!(bench.device.running().is_empty());
    bench.done(Command::DMA_MAP, &map.to_bytes());
    assert_eq!(bench.device.running(), [0]);
    assert_eq!(answer(&mut bench, 100), begins);
    // More is available than there is room for.
    bench.ram.write(GPA + 0x1002, &11u16.to_le_bytes());
    bench.write(4, 0x3000, &[0, 0]).unwrap();
    answer(&mut bench, 100);
    assert!(bench.device.running().is_empty() && bench.session().function().needs_reset());
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("broken", 1)]);
}

#[test]
fn an_answer_is_to_what_was_asked() {
    for (how, outcome) in [("another id", "reply"), ("too short", "reply"), ("refused", ""), ("not at all", "")] {
        let mut bench = Bench::agreed();
        let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: GPA, size: RAM_BYTES };
        bench.done(Command::DMA_MAP, &map.to_bytes());
        bench.drive_from(8, [0, 0x1000, 0x2000]);
        answer(&mut bench, 2);
        bench.serve();
        let Ok(Received::Message(asked)) = bench.client.receive() else { panic!("the index is asked for") };
        assert_eq!((asked.header.command, asked.body.len()), (11, 16));
        let header = match how {
            "another id" => Header { id: 99, ..asked.header.reply(18) },
            "too short" => asked.header.reply(17),
            "refused" => asked.header.refusal(22),
            _ => Header::command(5, Command::DEVICE_GET_INFO, 16),
        };
        bench.client.send(header, &[16; 18][..header.size_bytes as usize - HEADER_BYTES], &[]).unwrap();
        bench.serve();
        let counted: Vec<_> = bench.session().counters().by_outcome().map(|(name, _)| name).collect();
        // What the ring itself needs, and is not given, breaks it.
        let is_broken = matches!(how, "too short" | "refused");
        let expected = [outcome, if is_broken { "broken" } else { "" }];
        let mut expected: Vec<_> = expected.into_iter().filter(|name| !name.is_empty()).collect();
        expected.sort_unstable();
        assert_eq!(counted, expected, "{how}");
        assert_eq!(bench.session().function().needs_reset(), is_broken, "{how}");
    }
}

#[test]
fn a_file_is_let_go_with_its_last_map() {
    let mut bench = Bench::agreed();
    bench.drive();
    let files = |bench: &mut Bench| bench.session().function().memory().regions().len();
    let other = Ram::new(1 << 16, 0).unwrap();
    let map = |address, offset| DmaMap { argsz: 32, flags: READ_WRITE, offset, address, size: 4096 }.to_bytes();
    for page in 0..3 {
        bench.ask(Command::DMA_MAP, &map((1 << 40) + 4096 * page, 4096 * page), &[other.fd()]).unwrap();
    }
    assert_eq!((files(&mut bench), bench.session().files.len()), (2, 2));
    bench.device.read();
    bench.unmap(0, 1 << 40, 8192).unwrap();
    assert_eq!((files(&mut bench), bench.device.read()), (2, vec![]));
    bench.unmap(0, 1 << 40, 1 << 30).unwrap();
    assert_eq!((files(&mut bench), bench.session().files.len(), bench.device.running().len()), (1, 1, 1));
    assert_eq!(bench.device.read()[0], Deed::Stop(0), "nothing of the file is out when it goes");
    // More maps than there was room for at first.
    for page in 0..4096 {
        bench.map((1 << 40) + 8192 * page, 4096, 0).unwrap();
    }
    assert_eq!(bench.device.running(), [0]);
    bench.unmap(0, 1 << 40, 1 << 30).unwrap();
    assert_eq!((bench.session().maps.len(), bench.device.running().len()), (1, 1));
}

#[test]
fn no_more_is_mapped_than_can_be() {
    let mut bench = Bench::agreed();
    for page in 0..REGIONS_MAX as u64 {
        let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: 4096 * page, size: 4096 };
        bench.done(Command::DMA_MAP, &map.to_bytes());
    }
    let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: 1 << 40, size: 4096 };
    assert_eq!(bench.ask(Command::DMA_MAP, &map.to_bytes(), &[]).unwrap_err(), Errno::NOSPC);
}

#[test]
fn interrupts_go_to_eventfds() {
    let mut bench = Bench::agreed();
    let (first, second, pin) = (line(), line(), line());
    bench.irqs(EVENTFD_TRIGGER, MSIX_IRQ, 2, &[first.as_fd(), second.as_fd()]).unwrap();
    bench.irqs(NONE_TRIGGER, MSIX_IRQ, 3, &[]).unwrap();
    assert_eq!(rung(&second), 1);
    bench.irqs(EVENTFD_TRIGGER, INTX_IRQ, 0, &[pin.as_fd()]).unwrap();
    bench.irqs(NONE_TRIGGER, INTX_IRQ, 0, &[]).unwrap();
    assert_eq!(rung(&pin), 1);
    bench.irqs(NONE_UNMASK, INTX_IRQ, 0, &[]).unwrap();
    // Without descriptors it goes nowhere, and is pending until there is one again.
    bench.irqs(EVENTFD_TRIGGER, MSIX_IRQ, 3, &[]).unwrap();
    bench.irqs(NONE_TRIGGER, MSIX_IRQ, 3, &[]).unwrap();
    assert_eq!(bench.read(2, 0x1000, 1), Ok(vec![8]));
    bench.irqs(EVENTFD_TRIGGER, MSIX_IRQ, 3, &[second.as_fd()]).unwrap();
    assert_eq!((rung(&second), bench.read(2, 0x1000, 1)), (1, Ok(vec![0])));
    for (index, start) in [(MSIX_IRQ, 6), (MSIX_IRQ, u32::MAX - 1), (INTX_IRQ, 1), (1, 0), (4, 0)] {
        assert_eq!(bench.irqs(NONE_TRIGGER, index, start, &[]).unwrap_err(), Errno::INVAL, "{index} {start}");
    }
    let file = tempfile::tempfile().unwrap();
    assert_eq!(bench.irqs(EVENTFD_TRIGGER, MSIX_IRQ, 0, &[file.as_fd()]).unwrap_err(), Errno::INVAL, "a file");
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("descriptor", 1), ("irqs", 5)]);
    let disable =
        super::super::message::IrqSet { argsz: 20, flags: NONE_TRIGGER, index: MSIX_IRQ, ..Default::default() };
    bench.done(Command::DEVICE_SET_IRQS, &disable.to_bytes());
}

#[test]
fn doorbells_are_given_as_far_as_the_client_takes_them() {
    let mut bench = Bench::agreed();
    bench.drive();
    let mut ask = |index, argsz| {
        let asked = RegionIoFds { argsz, index, ..RegionIoFds::default() };
        bench.ask(Command::DEVICE_GET_REGION_IO_FDS, &asked.to_bytes(), &[]).unwrap()
    };
    let (body, descriptors) = ask(4, 4096);
    let (told, mut rest) = RegionIoFds::split(Command::DEVICE_GET_REGION_IO_FDS, &body).unwrap();
    assert_eq!((told.argsz as usize, told.count, descriptors.len()), (body.len(), 3, 3), "4 queues, 3 descriptors");
    for n in 0..3 {
        let (part, behind) = IoEventfd::split(Command::DEVICE_GET_REGION_IO_FDS, rest).unwrap();
        assert_eq!((part.offset, part.fd_index, part.kind), (0x3000 + 4 * n, n as u32, 0));
        rest = behind;
    }
    let (body, descriptors) = ask(4, 16);
    assert_eq!((body, descriptors.len()), (told.to_bytes(), 0), "no room: how much is needed");
    assert_eq!(ask(7, 4096).0, RegionIoFds { argsz: 16, flags: 0, index: 7, count: 0 }.to_bytes());
}

#[test]
fn a_client_that_comes_again_finds_the_device_as_it_was() {
    let mut bench = Bench::agreed();
    bench.drive();
    bench.write(CONFIG_REGION, 0x3c, &[5]).unwrap();
    bench.come_again();
    assert!(bench.device.running().is_empty(), "its memory is gone");
    assert_eq!((bench.read(4, 20, 1), bench.read(CONFIG_REGION, 0x3c, 1)), (Ok(vec![0xf]), Ok(vec![5])));
    bench.map(GPA, RAM_BYTES, 0).unwrap();
    assert_eq!(bench.device.running(), [0]);
    bench.done(Command::DEVICE_RESET, &[]);
    assert_eq!((bench.device.running().len(), bench.read(4, 20, 1)), (0, Ok(vec![0])));
}

#[test]
fn posted_writes_are_not_answered() {
    let mut bench = Bench::agreed();
    let body = [RegionAccess { offset: 20, region: 4, count: 1 }.to_bytes(), vec![1]].concat();
    for flags in [Header::NO_REPLY, Header::REPLY] {
        let header = Header { flags, ..Header::command(1, Command::REGION_WRITE, body.len()) };
        bench.client.send(header, &body, &[]).unwrap();
        bench.serve();
    }
    assert_eq!(bench.read(4, 20, 1), Ok(vec![1]), "the first answer is to this");
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("reply", 1)]);
}

#[test]
fn writes_come_several_at_a_time() {
    let mut bench = Bench::agreed();
    let write = |offset, region, byte| {
        [RegionAccess { offset, region, count: 1 }.to_bytes(), vec![byte, 0, 0, 0, 0, 0, 0, 0]].concat()
    };
    let writes = |list: &[Vec<u8>]| [(list.len() as u64).to_ne_bytes().to_vec(), list.concat()].concat();
    // What is written in vain keeps nothing from being written.
    let answer = bench.done(Command::REGION_WRITE_MULTI, &writes(&[write(20, 4, 1), write(4, 4, 1), write(20, 4, 3)]));
    assert_eq!((answer, bench.read(4, 20, 1)), (3u64.to_ne_bytes().to_vec(), Ok(vec![3])));
    let outside = writes(&[write(20, 4, 0x43), write(0x4000, 4, 1)]);
    assert_eq!(bench.ask(Command::REGION_WRITE_MULTI, &outside, &[]).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.session().counters().by_outcome().collect::<Vec<_>>(), [("bounds", 1), ("register", 1)]);
}

const RUNNING: u32 = 2;
const STOP_COPY: u32 = 3;
const RESUMING: u32 = 4;

impl Bench {
    fn feature(&mut self, flags: u32, data: &[u8]) -> Result<Vec<u8>, Errno> {
        let asked = DeviceFeature { argsz: 8192, flags };
        let (body, _) = self.ask(Command::DEVICE_FEATURE, &[&asked.to_bytes()[..], data].concat(), &[])?;
        let is_got = flags & (DeviceFeature::GET | DeviceFeature::PROBE) == DeviceFeature::GET;
        let argsz = if is_got { body.len() as u32 } else { asked.argsz };
        assert_eq!((body[..4].to_vec(), &body[4..8]), (argsz.to_ne_bytes().to_vec(), &flags.to_ne_bytes()[..]));
        Ok(body[8..].to_vec())
    }

    fn go(&mut self, device_state: u32) -> Result<(), Errno> {
        let state = MigState { device_state, data_fd: 0 }.to_bytes();
        self.feature(2 | DeviceFeature::SET, &state).map(|told| assert_eq!(told, state))
    }

    fn state(&mut self) -> u8 {
        self.feature(2 | DeviceFeature::GET, &[]).unwrap()[0]
    }

    fn image(&mut self) -> Vec<u8> {
        self.go(STOP_COPY).unwrap();
        let mut image = Vec::new();
        loop {
            let asked = MigData { argsz: 108, size: 100 }.to_bytes();
            let body = self.done(Command::MIG_DATA_READ, &asked);
            if body.len() == 8 {
                return image;
            }
            image.extend_from_slice(&body[8..]);
        }
    }

    fn put(&mut self, image: &[u8]) -> Result<(), Errno> {
        for part in image.chunks(300) {
            let data = MigData { argsz: 8 + part.len() as u32, size: part.len() as u32 };
            self.ask(Command::MIG_DATA_WRITE, &[&data.to_bytes()[..], part].concat(), &[])?;
        }
        Ok(())
    }
}

#[test]
fn states_are_what_they_are() {
    let mut bench = Bench::agreed();
    bench.drive();
    assert_eq!(bench.feature(1 | DeviceFeature::GET, &[]), Ok(vec![1, 0, 0, 0, 0, 0, 0, 0]));
    let probe = DeviceFeature::PROBE;
    for (flags, is_possible) in [
        (1 | probe, true),
        (2 | probe | DeviceFeature::GET | DeviceFeature::SET, true),
        (6 | probe | DeviceFeature::SET, true),
        (7 | probe, true),
        (8 | probe | DeviceFeature::GET, true),
        (8 | probe | DeviceFeature::SET, false),
        (3 | probe, false),
        (1 | DeviceFeature::SET, false),
        (2, false),
        (2 | DeviceFeature::SET | DeviceFeature::GET, false),
        (1 | 1 << 19, false),
    ] {
        let told = if is_possible { Ok(vec![]) } else { Err(Errno::NOTTY) };
        assert_eq!(bench.feature(flags, &[]), told, "{flags:#x}");
    }
    assert_eq!(
        bench
            .ask(Command::DEVICE_FEATURE, &DeviceFeature { argsz: 8, flags: 1 | DeviceFeature::GET }.to_bytes(), &[])
            .unwrap()
            .0
            .len(),
        8
    );
    // From each to each, itself among them; and data go only one way in each.
    let read = MigData { argsz: 16, size: 8 }.to_bytes();
    let write = [&MigData { argsz: 9, size: 1 }.to_bytes()[..], &[0]].concat();
    for from in 1..=4u32 {
        for to in 1..=4 {
            // What was written nothing goes nowhere.
            if from != RESUMING || to == from {
                bench.done(Command::DEVICE_RESET, &[]);
                bench.drive_from(8, [0, 0x1000, 0x2000]);
                bench.go(from).unwrap();
                bench.go(to).unwrap();
                assert_eq!(u32::from(bench.state()), to);
                assert_eq!(bench.device.running().len(), usize::from(to == RUNNING), "{from} {to}");
                assert_eq!(bench.ask(Command::MIG_DATA_READ, &read, &[]).is_ok(), to == STOP_COPY);
                assert_eq!(bench.ask(Command::MIG_DATA_WRITE, &write, &[]).is_ok(), to == RESUMING);
            }
        }
    }
    for to in [0, 5, 6, 7, 8, u32::MAX] {
        assert_eq!(bench.go(to), Err(Errno::INVAL));
    }
    // It has been written one byte, and is nothing any more until it is reset.
    for to in [RUNNING, 1, RESUMING] {
        assert_eq!(bench.go(to), Err(Errno::INVAL));
        assert_eq!(bench.state(), 0);
    }
    bench.done(Command::DEVICE_RESET, &[]);
    assert_eq!((bench.state(), bench.read(4, 20, 1)), (2, Ok(vec![0])));
    // More than there can be.
    bench.go(RESUMING).unwrap();
    assert_eq!(bench.put(&vec![0; crate::virtio_pci::IMAGE_BYTES_MAX + 1]), Err(Errno::INVAL));
}

/// A function that has something in every part of it.
fn used(bench: &mut Bench) {
    bench.ram.write(GPA + 0x2002, &5u16.to_le_bytes());
    bench.ram.write(GPA + 0x1002, &5u16.to_le_bytes());
    bench.drive();
    bench.write(CONFIG_REGION, 0x3c, &[5]).unwrap();
    bench.write(CONFIG_REGION, 0x42, &0x8000u16.to_le_bytes()).unwrap();
    bench.write(2, 0, &[0x10, 0x20, 0x30, 0x40, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0, 0]).unwrap();
    bench.irqs(NONE_TRIGGER, MSIX_IRQ, 0, &[]).unwrap();
    bench.write(4, 16, &[3, 0]).unwrap();
}

#[test]
fn a_function_goes_on_elsewhere() {
    let mut here = Bench::agreed();
    used(&mut here);
    let image = here.image();
    let registers = |bench: &mut Bench| {
        [(CONFIG_REGION, 0, 256), (2, 0, 96), (2, 0x1000, 8), (4, 0, 20), (4, 20, 1), (4, 22, 36)]
            .map(|(region, offset, count)| bench.read(region, offset, count).unwrap())
    };
    let before = registers(&mut here);
    let mut there = Bench::agreed();
    std::mem::swap(&mut there.ram, &mut here.ram);
    there.map(GPA, RAM_BYTES, 0).unwrap();
    there.go(RESUMING).unwrap();
    there.put(&image).unwrap();
    there.go(1).unwrap();
    assert_eq!(registers(&mut there), before);
    assert!(there.device.running().is_empty(), "not yet");
    assert!(there.device.read().iter().any(|deed| matches!(deed, Deed::GoOn(features, 0) if features >> 32 == 1)));
    there.go(RUNNING).unwrap();
    let deeds = there.device.read();
    assert!(deeds.contains(&Deed::Start { index: 0, enabled: true, base: 5 }), "{deeds:?}");
    assert_eq!(deeds.last(), Some(&Deed::Announce([2, 0, 0, 0, 0, 9])));
    // And back, or on: nothing is lost on the way. Here it goes on, too, if nobody takes it.
    assert_eq!(there.image(), image);
    here.map(GPA + RAM_BYTES, 4096, 0).unwrap();
    here.go(RUNNING).unwrap();
    assert!(!here.device.read().contains(&Deed::Announce([2, 0, 0, 0, 0, 9])));
}

#[test]
fn a_client_that_leaves_on_the_way_leaves_a_function_that_runs() {
    let mut bench = Bench::agreed();
    bench.drive();
    bench.go(STOP_COPY).unwrap();
    bench.come_again();
    bench.map(GPA, RAM_BYTES, 0).unwrap();
    assert_eq!((bench.state(), bench.device.running()), (2, vec![0]));
}

#[test]
fn a_function_that_is_reset_on_the_way_runs() {
    let mut bench = Bench::agreed();
    bench.drive();
    bench.go(1).unwrap();
    let mut byte = |at: u8| u8::from_ne_bytes(bench.read(CONFIG_REGION, at.into(), 1).unwrap().try_into().unwrap());
    let mut express = byte(0x34);
    while byte(express) != 0x10 {
        express = byte(express + 1);
    }
    bench.write(CONFIG_REGION, u64::from(express) + 9, &[0x80]).unwrap();
    assert_eq!(bench.state(), 2, "by its host");
    bench.unmap(DmaUnmap::ALL, 0, 0).unwrap();
    bench.drive();
    assert_eq!(bench.device.running(), [0]);
}

#[test]
fn what_its_owner_has_stopped_a_client_does_not_start() {
    let mut bench = Bench::agreed();
    bench.drive();
    let Bench { session: Some(session), device, .. } = &mut bench else { panic!() };
    session.function_mut().set_stopped(Stopper::Owner, true, device);
    bench.go(STOP_COPY).unwrap();
    bench.go(RUNNING).unwrap();
    assert_eq!(bench.device.running(), [0; 0]);
    let Bench { session: Some(session), device, .. } = &mut bench else { panic!() };
    session.function_mut().set_stopped(Stopper::Owner, false, device);
    assert_eq!(bench.device.running(), [0]);
}

#[test]
fn what_has_a_part_is_not_said_besides() {
    let mut here = Bench::agreed();
    used(&mut here);
    let said = |class| [&[6, 0xf0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0][..], &[class, 0, 1]].concat();
    let image = here.image();
    let mut there = Bench::agreed();
    for (class, is_taken) in [(5, true), (4, false)] {
        there.go(RESUMING).unwrap();
        there.put(&[image.clone(), said(class)].concat()).unwrap();
        assert_eq!(there.go(RUNNING).is_ok(), is_taken, "{class}");
        there.done(Command::DEVICE_RESET, &[]);
    }
}

#[test]
fn no_image_breaks_a_function() {
    let mut here = Bench::agreed();
    used(&mut here);
    let image = here.image();
    let mut there = Bench::agreed();
    there.map(GPA, RAM_BYTES, 0).unwrap();
    let mut taken = 0;
    for at in 0..2 * image.len() {
        // One byte is another, or it ends too early.
        let mut other = image.clone();
        match at.checked_sub(image.len()) {
            Some(len) => other.truncate(len),
            None => other[at] ^= 1 << (at % 8),
        }
        there.go(RESUMING).unwrap();
        there.put(&other).unwrap();
        if there.go(RUNNING).is_ok() {
            taken += 1;
        } else {
            assert_eq!(there.state(), 0, "byte {at}");
        }
        there.done(Command::DEVICE_RESET, &[]);
        assert!(there.device.running().is_empty());
        there.device.read();
    }
    // An address, a vector, a size: others are as good.
    assert!(taken > 20 && taken < image.len(), "{taken}");
}

#[test]
fn what_is_written_is_logged() {
    let mut bench = Bench::agreed();
    let report = |bench: &mut Bench, iova, length, page_size| {
        let asked = DmaReport { iova, length, page_size }.to_bytes();
        let told = bench.feature(8 | DeviceFeature::GET, &asked)?;
        assert_eq!(told[..24], asked);
        Ok(told[24..].to_vec())
    };
    assert_eq!(report(&mut bench, GPA, RAM_BYTES, 4096), Err(Errno::INVAL), "nothing is logged");
    let start = |ranges: u32| DmaLogging { page_size: 1 << 20, num_ranges: ranges, reserved: 0 }.to_bytes();
    let set = 6 | DeviceFeature::SET;
    assert_eq!(bench.feature(set, &start(1)), Err(Errno::INVAL), "the range is missing");
    bench.drive();
    bench.unmap(DmaUnmap::ALL, 0, 0).unwrap();
    bench.map(GPA, RAM_BYTES, 0).unwrap();
    let told = bench.feature(set, &[start(1), vec![0; 16]].concat()).unwrap();
    assert_eq!(told[..8], 4096u64.to_ne_bytes(), "its own pages");
    assert_eq!(bench.feature(set, &start(0)), Err(Errno::INVAL), "a second time");
    // A chain of a buffer over two pages is used.
    let ram = &bench.ram;
    ram.write(GPA, &[&(GPA + 0x8ff0).to_le_bytes()[..], &64u32.to_le_bytes(), &[2, 0, 0, 0]].concat());
    ram.write(GPA + 0x1000, &[0u16, 1, 0].map(u16::to_le_bytes).concat());
    let queue = bench.device.queues[0].as_mut().unwrap();
    assert!(queue.is_logging());
    queue.begin_turn();
    let (chains, _) = queue.take_list(4, &mut PartStore::new(1));
    chains[0].parts.iter().for_each(|part| queue.log_written(part));
    queue.return_used(&[chains[0].used(64)]);
    queue.end_turn();
    let bits = report(&mut bench, GPA, RAM_BYTES, 4096).unwrap();
    assert_eq!((bits.len(), &bits[..3]), (32, &[0b100u8, 0b11, 0][..]), "the used ring, and the buffer");
    assert_eq!(report(&mut bench, GPA, RAM_BYTES, 4096).unwrap(), [0; 32], "since then");
    // A new file: who knows. A bit may stand for more pages, and addresses without memory were not written.
    let other = Ram::new(1 << 16, 0).unwrap();
    let map = DmaMap { argsz: 32, flags: READ_WRITE, offset: 0, address: GPA + RAM_BYTES, size: 1 << 16 };
    bench.ask(Command::DMA_MAP, &map.to_bytes(), &[other.fd()]).unwrap();
    let bits = report(&mut bench, GPA, 2 * RAM_BYTES, 1 << 16).unwrap();
    assert_eq!(bits, [0xff, 0xff, 1, 0, 0, 0, 0, 0]);
    for (iova, length, page_size) in [
        (GPA, 0, 4096),
        (GPA, RAM_BYTES, 2048),
        (GPA, RAM_BYTES, 5000),
        (u64::MAX, 2, 4096),
        (0, 1 << 40, 4096),
        (0, 1 << 40, 1 << 30),
    ] {
        assert_eq!(report(&mut bench, iova, length, page_size), Err(Errno::INVAL), "{iova:#x} {length:#x} {page_size}");
    }
    // What cannot be logged is not mapped.
    let large = memfd_create("large", MemfdFlags::CLOEXEC).unwrap();
    ftruncate(&large, 3 << 40).unwrap();
    let map = DmaMap { address: 1 << 42, ..map };
    assert_eq!(bench.ask(Command::DMA_MAP, &map.to_bytes(), &[large.as_fd()]).unwrap_err(), Errno::INVAL);
    assert_eq!(bench.session().function().memory().place(1 << 42), None);
    bench.feature(7 | DeviceFeature::SET, &[]).unwrap();
    assert!(!bench.device.queues[0].as_ref().unwrap().is_logging());
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let mut bench = Bench::agreed();
    let body = RegionAccess { offset: 0, region: 7, count: 4096 }.to_bytes();
    for _ in 0..10_000 {
        if bench.client.send(Header::command(1, Command::REGION_READ, 16), &body, &[]).is_err() {
            continue;
        }
        if let Served::Ended(Some(why)) = bench.serve() {
            assert_eq!(why.to_string(), "command 9: the reply cannot be sent, for the client does not read");
            return;
        }
    }
    panic!("it is served for ever");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any messages, well framed: each is answered, and the device is as its diary says.
    #[test]
    fn any_messages_are_answered(messages in prop::collection::vec(
        (prop_oneof![1u16..14, Just(9u16), Just(10), Just(2), Just(8)],
         prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(4), Just(7), Just(32), any::<u8>()], 0..48),
         0usize..3), 0..60)
    ) {
        let mut bench = Bench::agreed();
        bench.drive();
        let fd = line();
        for (command, body, descriptors) in messages {
            let size_bytes = (HEADER_BYTES + body.len()) as u32;
            let header = Header { command, size_bytes, ..Header::command(3, Command::VERSION, 0) };
            bench.client.send(header, &body, &vec![fd.as_fd(); descriptors]).unwrap();
            if matches!(bench.serve(), Served::Ended(_)) {
                break;
            }
            prop_assert!(matches!(bench.client.receive(), Ok(Received::Message(_))));
        }
        let Bench { session, mut device, .. } = bench;
        session.unwrap().close(&mut device);
        prop_assert!(device.running().is_empty());
    }
}
