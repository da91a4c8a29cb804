use std::os::fd::OwnedFd;

use proptest::prelude::*;
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;

use super::*;

fn message(command: u16, body: &[u8], descriptors: usize) -> Message {
    let header = Header { id: 7, command, size_bytes: (HEADER_BYTES + body.len()) as u32, flags: 0, error: 0 };
    let fd = || -> OwnedFd { eventfd(0, EventfdFlags::CLOEXEC).unwrap() };
    let descriptors = (0..descriptors).map(|_| fd()).collect();
    Message { header, body: body.to_vec(), descriptors, surplus_descriptors: false }
}

fn ask(command: Command, body: &[u8], descriptors: usize) -> Result<Request, ProtocolError> {
    Request::new(message(command as u16, body, descriptors))
}

/// The outcome of what is refused.
#[track_caller]
fn refused(command: Command, body: &[u8], descriptors: usize) -> &'static str {
    let error = ask(command, body, descriptors).expect_err("it is refused");
    assert_eq!((error.errno(), error.ends_the_session()), (Errno::INVAL, false), "{error}");
    error.name()
}

fn version(data: &str) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(data.as_bytes());
    body
}

fn set(flags: u32, index: u32, start: u32, count: u32) -> Vec<u8> {
    IrqSet { argsz: 20, flags, index, start, count }.to_bytes()
}

#[test]
fn headers_lie_as_the_specification_says() {
    let mut bytes = [0; HEADER_BYTES];
    let header = Header::command(0x0102, Command::REGION_READ, 16);
    header.write(&mut bytes);
    assert_eq!(bytes, [2, 1, 9, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(Header::read(&bytes), header);
    header.refusal(22).write(&mut bytes);
    assert_eq!(bytes, [2, 1, 9, 0, 16, 0, 0, 0, 0x21, 0, 0, 0, 22, 0, 0, 0]);
    assert!(header.wants_reply() && !Header { flags: Header::NO_REPLY, ..header }.wants_reply());
}

#[test]
fn a_message_is_as_long_as_its_header_and_no_longer_than_any() {
    let header = |size_bytes| Header { size_bytes, ..Header::command(1, Command::VERSION, 0) };
    assert_eq!((header(16).body_bytes(), header(4824).body_bytes()), (Ok(0), Ok(4808)));
    for size_bytes in [0, 15, 4825, u32::MAX] {
        let error = header(size_bytes).body_bytes().unwrap_err();
        assert_eq!((error.name(), error.ends_the_session()), ("length", true));
    }
}

#[test]
fn a_version_is_agreed_on() {
    // As QEMU 11 says it.
    let qemu = r#"{"capabilities":{"pgsizes":4096,"max_msg_fds":16,"max_dma_maps":65535,"max_data_xfer_size":1048576,
        "migration":{"pgsize":4096,"max_bitmap_size":268435456},"write_multiple":true}}"#;
    for (data, max_msg_fds) in [
        (&*format!("{qemu}\0"), 16),
        ("", 1),
        ("{}\0", 1),
        ("{\"capabilities\":{}}\0", 1),
        ("{\"capabilities\":{\"max_msg_fds\":1000000}}\0", 16),
    ] {
        let request = ask(Command::VERSION, &version(data), 0);
        assert!(
            matches!(request, Ok(Request::Version(Version { max_msg_fds: found })) if found == max_msg_fds),
            "{data}"
        );
    }
    for data in [
        "{}",
        "\0",
        "{\0",
        "7\0",
        "{\"capabilities\":{\"max_msg_fds\":-1}}\0",
        "{\"capabilities\":{\"pgsizes\":65536}}\0",
    ] {
        assert_eq!(refused(Command::VERSION, &version(data), 0), "capabilities", "{data}");
    }
    let error = ask(Command::VERSION, &[1, 0, 0, 0], 0).unwrap_err();
    assert_eq!((error.to_string(), error.ends_the_session()), ("version 1.0, allowed is major version 0".into(), true));
    let answer = Version::answer();
    assert!(answer.ends_with(b"\"pgsizes\":4096,\"write_multiple\":true}}\0") && answer.starts_with(&[0; 4]));
}

#[test]
fn memory_is_not_empty_and_ends_somewhere() {
    let map = |flags, offset, address, size| DmaMap { argsz: 32, flags, offset, address, size }.to_bytes();
    assert!(matches!(ask(Command::DMA_MAP, &map(3, 0, 0, 1), 1), Ok(Request::DmaMap(_, Some(_)))));
    assert!(matches!(ask(Command::DMA_MAP, &map(1, 0, u64::MAX - 4096, 4096), 0), Ok(Request::DmaMap(_, None))));
    for body in [map(4, 0, 0, 1), map(3, 0, 0, 0), map(3, 0, u64::MAX, 1), map(3, u64::MAX, 0, 1)] {
        assert_eq!(refused(Command::DMA_MAP, &body, 1), "field");
    }
    assert_eq!(refused(Command::DMA_MAP, &map(3, 0, 0, 1), 2), "descriptors");
    let unmap = |flags, address, size| DmaUnmap { argsz: 24, flags, address, size }.to_bytes();
    for body in [unmap(DmaUnmap::ALL, 0, 0), unmap(0, 1 << 63, 1 << 63)] {
        assert!(matches!(ask(Command::DMA_UNMAP, &body, 0), Ok(Request::DmaUnmap(_))));
    }
    for body in [unmap(1, 0, 4096), unmap(2, 0, 4096), unmap(2, 1, 0), unmap(0, 0, 0), unmap(0, 2, u64::MAX)] {
        assert_eq!(refused(Command::DMA_UNMAP, &body, 0), "field");
    }
}

#[test]
fn registers_are_within_a_message() {
    let access = |offset, region, count| RegionAccess { offset, region, count }.to_bytes();
    assert!(matches!(ask(Command::REGION_READ, &access(0, 7, 4096), 0), Ok(Request::Read(_))));
    for body in [access(0, 9, 1), access(0, 0, 0), access(0, 0, 4097), access(0, 0, u32::MAX), access(u64::MAX, 0, 1)] {
        assert_eq!(refused(Command::REGION_READ, &body, 0), "field");
        assert_eq!(refused(Command::REGION_WRITE, &body, 0), "field");
    }
    let written = |count, data: &[u8]| [access(4, 7, count), data.to_vec()].concat();
    let request = ask(Command::REGION_WRITE, &written(2, &[1, 2]), 0);
    assert!(matches!(request, Ok(Request::Write(_, data)) if data == [1, 2]));
    for body in [written(2, &[1]), written(2, &[1, 2, 3]), written(4096, &[])] {
        assert_eq!(refused(Command::REGION_WRITE, &body, 0), "size");
    }
}

#[test]
fn writes_are_as_many_as_there_are() {
    let write =
        |region, count, data: [u8; 8]| [RegionAccess { offset: 4, region, count }.to_bytes(), data.to_vec()].concat();
    let writes = |number: u64, writes: &[Vec<u8>]| [number.to_ne_bytes().to_vec(), writes.concat()].concat();
    let two = [write(7, 2, [1, 2, 0, 0, 0, 0, 0, 0]), write(4, 8, [3; 8])];
    let Ok(Request::WriteMulti(found)) = ask(Command::REGION_WRITE_MULTI, &writes(2, &two), 0) else { panic!("two") };
    assert_eq!(
        found.iter().map(|(access, data)| (access.region, &**data)).collect::<Vec<_>>(),
        [(7, &[1, 2][..]), (4, &[3; 8])]
    );
    // There is room for more than there are.
    assert!(
        matches!(ask(Command::REGION_WRITE_MULTI, &writes(1, &two), 0), Ok(Request::WriteMulti(one)) if one.len() == 1)
    );
    let full = writes(WRITES_MAX as u64, &vec![two[0].clone(); WRITES_MAX]);
    assert_eq!(full.len(), BODY_BYTES_MAX);
    assert!(
        matches!(ask(Command::REGION_WRITE_MULTI, &full, 0), Ok(Request::WriteMulti(all)) if all.len() == WRITES_MAX)
    );
    for number in [0, 3, u64::MAX] {
        assert_eq!(refused(Command::REGION_WRITE_MULTI, &writes(number, &two), 0), "field", "{number}");
    }
    for bad in [write(9, 1, [0; 8]), write(0, 0, [0; 8]), write(0, 9, [0; 8]), write(0, u32::MAX, [0; 8])] {
        assert_eq!(refused(Command::REGION_WRITE_MULTI, &writes(2, &[two[0].clone(), bad]), 0), "field");
    }
}

#[test]
fn interrupts_are_set_in_the_ways_that_there_are() {
    let (none, some, eventfd) = (1, 2, 4);
    let (mask, unmask, trigger) = (8, 16, 32);
    let action = |flags, start, count, data: &[u8], fds| {
        let body = [set(flags, MSIX_IRQ, start, count), data.to_vec()].concat();
        match ask(Command::DEVICE_SET_IRQS, &body, fds) {
            Ok(Request::SetIrqs(irqs)) => irqs.action,
            other => panic!("{other:?}"),
        }
    };
    assert!(matches!(action(eventfd | trigger, 3, 2, &[], 2), Action::Connect(fds) if fds.len() == 2));
    assert!(matches!(action(eventfd | trigger, 0, 5, &[], 0), Action::Connect(fds) if fds.is_empty()));
    assert!(matches!(action(none | trigger, 0, 0, &[], 0), Action::Disable));
    assert!(matches!(action(none | trigger, 1, 1, &[], 0), Action::Trigger(Chosen::All)));
    assert!(matches!(action(none | mask, 0, 2, &[], 0), Action::Mask(true, Chosen::All)));
    let unmasked = action(some | unmask, 0, 2, &[0, 1], 0);
    assert!(matches!(unmasked, Action::Mask(false, chosen) if !chosen.has(0) && chosen.has(1) && !chosen.has(2)));
    for flags in [0, none, trigger, none | some | trigger, none | mask | unmask, eventfd | mask, none | trigger | 64] {
        assert_eq!(refused(Command::DEVICE_SET_IRQS, &set(flags, MSIX_IRQ, 0, 0), 0), "field", "{flags:#x}");
    }
    for (body, fds, outcome) in [
        (set(eventfd | trigger, MSIX_IRQ, 0, 2), 1, "descriptors"),
        (set(none | trigger, MSIX_IRQ, 0, 2), 2, "descriptors"),
        (set(some | trigger, MSIX_IRQ, 0, 2), 0, "size"),
        (set(some | trigger, MSIX_IRQ, 0, u32::MAX), 0, "size"),
        ([set(none | trigger, MSIX_IRQ, 0, 2), vec![1, 1]].concat(), 0, "size"),
        (set(none | trigger, IRQS, 0, 0), 0, "field"),
        (set(none | trigger, MSIX_IRQ, 1, u32::MAX), 0, "field"),
    ] {
        assert_eq!(refused(Command::DEVICE_SET_IRQS, &body, fds), outcome);
    }
}

#[test]
fn questions_have_room_for_their_answers() {
    let region = |argsz, index| RegionInfo { argsz, index, ..RegionInfo::default() }.to_bytes();
    assert!(matches!(ask(Command::DEVICE_GET_REGION_INFO, &region(32, 8), 0), Ok(Request::RegionInfo(8))));
    let irq = |argsz, index| IrqInfo { argsz, index, ..IrqInfo::default() }.to_bytes();
    assert!(matches!(ask(Command::DEVICE_GET_IRQ_INFO, &irq(16, 4), 0), Ok(Request::IrqInfo(4))));
    let fds = |argsz, index| RegionIoFds { argsz, index, ..RegionIoFds::default() }.to_bytes();
    assert!(matches!(ask(Command::DEVICE_GET_REGION_IO_FDS, &fds(99, 4), 0), Ok(Request::RegionIoFds(4, 99))));
    for (command, body) in [
        (Command::DEVICE_GET_REGION_INFO, region(31, 0)),
        (Command::DEVICE_GET_REGION_INFO, region(32, 9)),
        (Command::DEVICE_GET_IRQ_INFO, irq(15, 0)),
        (Command::DEVICE_GET_IRQ_INFO, irq(16, 5)),
        (Command::DEVICE_GET_REGION_IO_FDS, fds(15, 0)),
        (Command::DEVICE_GET_REGION_IO_FDS, fds(16, 9)),
    ] {
        assert_eq!(refused(command, &body, 0), "field");
    }
}

#[test]
fn what_is_no_command_is_refused() {
    for number in [0, 11, 12, 14, 19, u16::MAX] {
        let error = Request::new(message(number, &[], 0)).unwrap_err();
        assert_eq!((error.name(), error.errno()), ("unknown_command", Errno::OPNOTSUPP));
    }
    for flags in [1, 2, 0x20, 0x40, 0x8000_0000] {
        let mut reply = message(13, &[], 0);
        reply.header.flags = flags;
        assert_eq!(Request::new(reply).unwrap_err().name(), "flags");
    }
    let mut posted = message(13, &[], 0);
    posted.header.flags = Header::NO_REPLY;
    assert!(matches!(Request::new(posted), Ok(Request::Reset)));
}

#[test]
fn every_command_has_its_length_and_its_descriptors() {
    for command in Command::ALL {
        assert_eq!(Command::from_number(*command as u16), Some(*command));
        let (len_bytes, descriptors) = (command.len_bytes(), command.descriptors());
        assert!(*len_bytes.end() <= BODY_BYTES_MAX && *descriptors.end() <= DESCRIPTORS_MAX);
        for len in [len_bytes.start().checked_sub(1), Some(len_bytes.end() + 1)].into_iter().flatten() {
            assert_eq!(refused(*command, &vec![0; len], 0), "size", "{command} of {len} bytes");
        }
        assert_eq!(refused(*command, &vec![0; *len_bytes.start()], descriptors.end() + 1), "descriptors", "{command}");
    }
}

proptest! {
    #[test]
    fn headers_go_there_and_back(id: u16, command: u16, size_bytes: u32, flags: u32, error: u32) {
        let header = Header { id, command, size_bytes, flags, error };
        let mut bytes = [0; HEADER_BYTES];
        header.write(&mut bytes);
        prop_assert_eq!(Header::read(&bytes), header);
    }

    /// Any bytes with any command: a request within all bounds, or a refusal with an errno.
    #[test]
    fn any_message_is_a_request_or_refused(
        command in prop_oneof![0u16..20, any::<u16>()],
        body in prop::collection::vec(prop_oneof![Just(0u8), Just(1u8), Just(32u8), Just(0xff), any::<u8>()], 0..80),
        descriptors in 0usize..4,
    ) {
        match Request::new(message(command, &body, descriptors)) {
            Ok(Request::DmaMap(map, _)) => prop_assert!(map.size > 0 && map.address.checked_add(map.size).is_some()),
            Ok(Request::Read(access)) => prop_assert!(access.region < REGIONS && access.count as usize <= DATA_BYTES_MAX),
            Ok(Request::Write(access, data)) => prop_assert_eq!(access.count as usize, data.len()),
            Ok(Request::SetIrqs(irqs)) => prop_assert!(irqs.index < IRQS && irqs.start.checked_add(irqs.count).is_some()),
            Ok(_) => {}
            Err(error) => prop_assert!(!error.to_string().is_empty() && error.errno().raw_os_error() > 0),
        }
    }
}
