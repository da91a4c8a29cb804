//! A front end that speaks message by message, right or wrong, to a session over a device that keeps a diary.

mod iommu;

use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, memfd_create};

use super::super::message::BODY_BYTES_MAX;
use super::super::socket::stream_pair;
use super::FrontendRequest as R;
use super::*;
use crate::transport::diary::{Deed, Diary, VERSION_1};

const MEMORY_BYTES: u64 = 0x10_0000;
const USER: u64 = 0x7f00_0000_0000;
const SIZE: u16 = 64;

struct Bench {
    peer: Connection,
    session: Session,
    device: Diary,
}

/// What came of one message: refused (by which outcome), and the reply's body if there was one.
type Outcome = (Option<&'static str>, Option<Vec<u8>>);

impl Bench {
    fn new() -> Self {
        let (here, there) = stream_pair().unwrap();
        let device = Diary::default();
        Self { peer: Connection::new(here), session: Session::new(there, &device), device }
    }

    /// With these features acknowledged and memory shared.
    fn negotiated(features: u64) -> Self {
        let mut bench = Self::new();
        bench.good(R::SET_PROTOCOL_FEATURES, &u64_to(PROTOCOL_FEATURES.0), &[]);
        bench.good(R::SET_FEATURES, &u64_to(features), &[]);
        bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
        bench.device.read();
        bench
    }

    fn send(&mut self, number: u32, body: &[u8], fds: &[BorrowedFd<'_>]) -> (Served, Option<Message>) {
        let header = Header::request(number, body.len() as u32, true);
        self.peer.send(header, body, fds).unwrap();
        let served = self.session.serve(&mut self.device);
        let reply = match self.peer.receive() {
            Ok(Received::Message(reply)) => Some(reply),
            _ => None,
        };
        if let Some(reply) = &reply {
            assert_eq!((reply.header.request, reply.header.flags), (number, 5));
        }
        (served, reply)
    }

    fn ask(&mut self, request: R, body: &[u8], fds: &[BorrowedFd<'_>]) -> Outcome {
        let (served, reply) = self.send(request.number(), body, fds);
        let refused = match served {
            Served::Message => None,
            Served::Refused(refusal) => Some(refusal.name()),
            other => panic!("{request}: {other:?}"),
        };
        (refused, reply.map(|reply| reply.body))
    }

    /// Sends a message that must be taken, and gives back its reply.
    #[track_caller]
    fn good(&mut self, request: R, body: &[u8], fds: &[BorrowedFd<'_>]) -> Vec<u8> {
        let (refused, reply) = self.ask(request, body, fds);
        assert_eq!(refused, None, "{request}");
        reply.unwrap_or_default()
    }

    fn get_u64(&mut self, request: R) -> u64 {
        u64_from("", &self.good(request, &[], &[])).unwrap()
    }

    /// All that a ring needs but the kick.
    fn describe(&mut self, index: u32, base: u32) {
        self.good(R::SET_VRING_ENABLE, &state(index, 1), &[]);
        self.lay(index, base);
    }

    /// The same, and it is not enabled.
    fn lay(&mut self, index: u32, base: u32) {
        let areas = USER + 0x1000 + 0x4000 * u64::from(index);
        self.good(R::SET_VRING_NUM, &state(index, SIZE.into()), &[]);
        self.good(R::SET_VRING_BASE, &state(index, base), &[]);
        self.good(R::SET_VRING_ADDR, &addr(index, areas, 0), &[]);
        self.good(R::SET_VRING_CALL, &u64_to(index.into()), &[event().as_fd()]);
    }

    fn kick(&mut self, index: u32) {
        self.good(R::SET_VRING_KICK, &u64_to(index.into()), &[event().as_fd()]);
    }

    fn stop(&mut self, index: u32) -> u32 {
        let reply = VringState::from_bytes("", &self.good(R::GET_VRING_BASE, &state(index, 0), &[])).unwrap();
        assert_eq!(reply.index, index);
        reply.num
    }
}

fn memory() -> OwnedFd {
    let file = memfd_create("memory", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&file, MEMORY_BYTES).unwrap();
    file
}

fn event() -> OwnedFd {
    eventfd(0, EventfdFlags::CLOEXEC).unwrap()
}

fn region(guest_addr: u64) -> MemoryRegion {
    MemoryRegion { guest_addr, size_bytes: MEMORY_BYTES, user_addr: USER + guest_addr, mmap_offset: 0 }
}

fn table() -> Vec<u8> {
    MemoryTable { regions: vec![region(0)] }.to_bytes()
}

fn state(index: u32, num: u32) -> Vec<u8> {
    VringState { index, num }.to_bytes()
}

fn addr(index: u32, at: u64, flags: u32) -> Vec<u8> {
    let (descriptor, available, used) = (at, at + 0x1000, at + 0x2000);
    VringAddr { index, flags, descriptor, used, available, log: 0 }.to_bytes()
}

const ALL: u64 = VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES;

/// Whether an eventfd rings, which it does soon or never.
fn rings(line: &OwnedFd, count: &mut [u8; 8]) -> bool {
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if rustix::io::read(line, &mut count[..]) == Ok(8) {
            return true;
        }
        std::thread::yield_now();
    }
    false
}

#[test]
fn features_are_offered_and_taken_as_offered() {
    let mut bench = Bench::new();
    let offered = bench.get_u64(R::GET_FEATURES);
    assert_eq!(offered, bench.device.features() | VHOST_USER_F_PROTOCOL_FEATURES | VHOST_F_LOG_ALL);
    assert_eq!(bench.get_u64(R::GET_PROTOCOL_FEATURES), PROTOCOL_FEATURES.0);
    // REPLY_ACK is not acknowledged: no answer, though one is asked for.
    assert_eq!(bench.ask(R::SET_OWNER, &[], &[]), (None, None));
    assert_eq!(bench.ask(R::SET_PROTOCOL_FEATURES, &u64_to(1 << 6), &[]), (Some("not_offered"), None));
    // From the message on that acknowledges it, there is.
    assert_eq!(bench.ask(R::SET_PROTOCOL_FEATURES, &u64_to(8), &[]), (None, Some(u64_to(0))));
    assert_eq!(bench.ask(R::SET_FEATURES, &u64_to(1 << 17), &[]), (Some("not_offered"), Some(u64_to(1))));
    assert_eq!(bench.ask(R::SET_FEATURES, &u64_to(VERSION_1), &[]), (None, Some(u64_to(0))));
    assert_eq!(bench.device.read(), [Deed::Features(VERSION_1)]);
}

#[test]
fn what_was_not_acknowledged_is_not_done() {
    let mut bench = Bench::new();
    bench.good(R::SET_PROTOCOL_FEATURES, &u64_to(8), &[]);
    for request in R::ALL.iter().filter(|request| request.needs().is_some()) {
        let body = vec![0; *request.shape().len_bytes().start()];
        let fd = memory();
        let fds = vec![fd.as_fd(); *request.descriptors().start()];
        let (refused, reply) = bench.ask(*request, &body, &fds);
        let served = PROTOCOL_FEATURES.has(request.needs().unwrap());
        assert_eq!(refused, Some(if served { "not_negotiated" } else { "not_served" }), "{request}");
        // Whoever waits gets an answer: nothing where a reply is due, 1 elsewhere.
        let waits = request.reply().is_some() && *request != R::SET_LOG_BASE;
        assert_eq!(reply, Some(if waits { vec![] } else { u64_to(1) }), "{request}");
    }
    assert_eq!(bench.device.read(), []);
}

#[test]
fn a_ring_runs_once_it_is_complete_and_stops_when_asked_where_it_stands() {
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    assert_eq!(bench.device.read(), []);
    bench.kick(0);
    assert_eq!(bench.device.read(), [Deed::Start { index: 0, enabled: true, base: 0 }]);
    bench.good(R::SET_VRING_ENABLE, &state(0, 0), &[]);
    assert_eq!(bench.device.read(), [Deed::Enable(0, false)]);
    assert_eq!(bench.stop(0), 0);
    assert_eq!(bench.device.read(), [Deed::Stop(0)]);
    assert_eq!(bench.stop(0), 0, "it stands where it stood");
    bench.good(R::SET_VRING_ADDR, &addr(0, USER + 0x1000, 0), &[]);
    assert_eq!(bench.device.read(), [], "it waits for another kick");
}

#[test]
fn a_ring_waits_to_be_enabled_only_where_protocol_features_were_acknowledged() {
    let mut bench = Bench::negotiated(VERSION_1);
    bench.lay(1, 0);
    bench.kick(1);
    assert_eq!(bench.device.read(), [Deed::Start { index: 1, enabled: true, base: 0 }]);

    let mut bench = Bench::negotiated(ALL);
    bench.lay(1, 0);
    bench.kick(1);
    bench.good(R::SET_VRING_ENABLE, &state(1, 0), &[]);
    assert_eq!(bench.device.read(), [], "what it sends is not thrown away before it was ever enabled");
    bench.good(R::SET_VRING_ENABLE, &state(1, 1), &[]);
    assert_eq!(bench.device.read(), [Deed::Start { index: 1, enabled: true, base: 0 }]);
    bench.good(R::SET_VRING_ENABLE, &state(1, 0), &[]);
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    let on = [Deed::Enable(1, false), Deed::Stop(1), Deed::Start { index: 1, enabled: false, base: 0 }];
    assert_eq!(bench.device.read(), on);
    bench.stop(1);
    bench.kick(1);
    assert_eq!(bench.device.read(), [Deed::Stop(1)], "stopped while disabled, it waits again");
}

#[test]
fn a_ring_may_be_described_in_any_order() {
    let mut bench = Bench::new();
    bench.kick(3);
    bench.good(R::SET_VRING_ADDR, &addr(3, USER, 0), &[]);
    bench.good(R::SET_VRING_NUM, &state(3, 64), &[]);
    assert_eq!(bench.device.read(), []);
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    assert_eq!(bench.device.read(), [Deed::Start { index: 3, enabled: true, base: 0 }]);
}

#[test]
fn a_packed_ring_starts_and_stops_with_its_wrap_counters() {
    for (base, expected) in [
        (0x8000_8000, 0x8000_8000),
        (0x0005_0005, 0x0005_0005),
        (0x8007, 0x8007_8007), // the lower half only
        (0, 0x8000_8000),      // user-mode Linux, and the ring is new
    ] {
        let mut bench = Bench::negotiated(ALL | VIRTIO_F_RING_PACKED);
        bench.describe(0, base);
        bench.kick(0);
        assert_eq!(bench.stop(0), expected, "{base:#x}");
    }
    let mut bench = Bench::negotiated(ALL | VIRTIO_F_RING_PACKED);
    bench.describe(0, 0x8000 | u32::from(SIZE));
    let kick = event();
    let refused = bench.ask(R::SET_VRING_KICK, &u64_to(0), &[kick.as_fd()]);
    assert_eq!(refused, (Some("ring"), Some(u64_to(1))), "a position past the ring's end");
}

#[test]
fn a_packed_ring_at_zero_is_told_from_a_new_one_by_its_descriptors() {
    const AVAIL: u16 = 1 << 7;
    const USED: u16 = 1 << 15;
    for (slot, flags, expected) in [
        (0, AVAIL, 0x8000_8000),     // new, and something is available
        (0, AVAIL | USED, 0),        // used on the first lap
        (0, USED, 0),                // made available on the second
        (SIZE - 1, AVAIL | USED, 0), // used in a batch of which only the last shows it
    ] {
        let mut bench = Bench::negotiated(ALL | VIRTIO_F_RING_PACKED);
        let file = memory();
        let at = 0x1000 + 16 * u64::from(slot) + 14;
        assert_eq!(rustix::io::pwrite(&file, &flags.to_le_bytes(), at), Ok(2));
        bench.good(R::SET_MEM_TABLE, &table(), &[file.as_fd()]);
        bench.describe(0, 0);
        bench.kick(0);
        assert_eq!(bench.stop(0), expected, "{flags:#x} in slot {slot}");
    }
}

#[test]
fn memory_may_change_under_a_ring() {
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    bench.kick(0);
    bench.device.read();
    let restart = [Deed::Stop(0), Deed::Start { index: 0, enabled: true, base: 0 }];
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    assert_eq!(bench.device.read(), restart);
    let more = region(0x100_0000).to_single_bytes();
    bench.good(R::ADD_MEM_REG, &more, &[memory().as_fd()]);
    assert_eq!(bench.device.read(), restart);
    bench.good(R::REM_MEM_REG, &more, &[memory().as_fd()]);
    assert_eq!(bench.device.read(), restart);
    // The region that the ring is in goes and comes back: the ring waits for it.
    let (refused, _) = bench.ask(R::REM_MEM_REG, &region(0).to_single_bytes(), &[]);
    assert_eq!((refused, bench.device.read()), (None, vec![Deed::Stop(0)]));
    assert_eq!(bench.get_u64(R::GET_MAX_MEM_SLOTS), 512);
    bench.good(R::ADD_MEM_REG, &region(0).to_single_bytes(), &[memory().as_fd()]);
    assert_eq!(bench.device.read(), [Deed::Start { index: 0, enabled: true, base: 0 }]);
}

#[test]
fn memory_that_makes_no_sense_is_refused_and_the_old_stays() {
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    bench.kick(0);
    bench.device.read();
    let (file, other) = (memory(), memory());
    let mut overlapping = MemoryTable { regions: vec![region(0), region(0x1000)] };
    let fds = [file.as_fd(), other.as_fd()];
    let refused = (Some("memory"), Some(u64_to(1)));
    assert_eq!(bench.ask(R::SET_MEM_TABLE, &overlapping.to_bytes(), &fds), refused);
    for bad in [
        MemoryRegion { size_bytes: 0, ..region(0) },
        MemoryRegion { guest_addr: u64::MAX - 5, ..region(0) },
        MemoryRegion { user_addr: u64::MAX - 5, ..region(0) },
        MemoryRegion { mmap_offset: 1 << 12, ..region(0) },
        MemoryRegion { mmap_offset: u64::MAX, ..region(0) },
        MemoryRegion { size_bytes: u64::MAX, ..region(0) },
    ] {
        let body = MemoryTable { regions: vec![bad] }.to_bytes();
        assert_eq!(bench.ask(R::SET_MEM_TABLE, &body, &[file.as_fd()]), refused, "{bad:x?}");
        assert_eq!(bench.ask(R::ADD_MEM_REG, &bad.to_single_bytes(), &[file.as_fd()]), refused);
    }
    let same = region(0).to_single_bytes();
    assert_eq!(bench.ask(R::ADD_MEM_REG, &same, &[file.as_fd()]), refused, "twice the same");
    let (refused, _) = bench.ask(R::REM_MEM_REG, &region(0x5000).to_single_bytes(), &[]);
    assert_eq!(refused, Some("order"));
    overlapping.regions.pop();
    let (refused, _) = bench.ask(R::SET_MEM_TABLE, &overlapping.to_bytes(), &fds);
    assert_eq!(refused, Some("descriptors"), "one region, two descriptors");
    assert_eq!(bench.device.read(), [], "the ring was left alone");
}

#[test]
fn a_ring_outside_memory_is_refused_and_nothing_runs() {
    for at in [0, USER - 0x1000, USER + MEMORY_BYTES - 0x2100, u64::MAX - 0x2000, USER + 1] {
        let mut bench = Bench::negotiated(ALL);
        bench.describe(0, 0);
        bench.good(R::SET_VRING_ADDR, &addr(0, at, 0), &[]);
        let kick = event();
        let refused = bench.ask(R::SET_VRING_KICK, &u64_to(0), &[kick.as_fd()]);
        assert_eq!(refused, (Some("ring"), Some(u64_to(1))), "{at:#x}");
        assert_eq!(bench.device.read(), []);
        // What was wrong is put right, and the ring runs: its kick is there already.
        bench.good(R::SET_VRING_ADDR, &addr(0, USER, 0), &[]);
        assert_eq!(bench.device.running(), [0]);
    }
}

#[test]
fn the_log_is_kept_while_it_is_acknowledged() {
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    bench.kick(0);
    let log = memory();
    let base = LogBase { size_bytes: 4096, mmap_offset: 4096 }.to_bytes();
    assert_eq!(bench.good(R::SET_LOG_BASE, &base, &[log.as_fd()]), base);
    let logging = |bench: &Bench| bench.device.queues[0].as_ref().unwrap().is_logging();
    assert!(!logging(&bench));
    bench.good(R::SET_FEATURES, &u64_to(ALL | VHOST_F_LOG_ALL), &[]);
    assert!(logging(&bench), "and the ring runs on without another kick");
    bench.good(R::SET_VRING_ADDR, &addr(0, USER + 0x1000, VringAddr::LOG), &[]);
    assert!(logging(&bench));
    bench.good(R::SET_FEATURES, &u64_to(ALL), &[]);
    assert!(!logging(&bench));
    bench.good(R::SET_LOG_FD, &[], &[event().as_fd()]);
    for (size_bytes, mmap_offset, outcome) in [(0, 0, "field"), (MEMORY_BYTES, 1, "map"), (1, u64::MAX, "map")] {
        let base = LogBase { size_bytes, mmap_offset }.to_bytes();
        assert_eq!(bench.ask(R::SET_LOG_BASE, &base, &[log.as_fd()]), (Some(outcome), Some(vec![])));
    }
    assert_eq!(bench.ask(R::SET_LOG_BASE, &base, &[]).0, Some("descriptors"));
}

#[test]
fn other_features_stop_the_rings() {
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    bench.kick(0);
    bench.device.read();
    bench.good(R::SET_FEATURES, &u64_to(ALL | VIRTIO_F_RING_PACKED), &[]);
    assert_eq!(bench.device.read(), [Deed::Stop(0), Deed::Features(VERSION_1 | VIRTIO_F_RING_PACKED)]);
}

#[test]
fn a_ring_that_is_described_anew_waits_for_its_kick() {
    let mut bench = Bench::negotiated(VERSION_1);
    for _ in 0..3 {
        bench.describe(0, 0);
        assert_eq!(bench.device.running(), [0; 0]);
        bench.kick(0);
        assert_eq!(bench.device.running(), [0]);
    }
}

#[test]
fn calls_may_be_replaced_and_left_out() {
    let mut bench = Bench::negotiated(VERSION_1);
    bench.describe(0, 0);
    bench.kick(0);
    let connected = |bench: &mut Bench| bench.device.queues[0].as_mut().unwrap().call().is_connected();
    assert!(connected(&mut bench));
    bench.good(R::SET_VRING_CALL, &u64_to(0x100), &[]);
    assert!(!connected(&mut bench));
    let call = event();
    bench.good(R::SET_VRING_CALL, &u64_to(0), &[call.as_fd()]);
    assert!(connected(&mut bench));
    let mut count = [0; 8];
    assert!(rings(&call, &mut count), "a call that came too early is made up for");
    bench.good(R::SET_VRING_KICK, &u64_to(0x100), &[]);
    assert!(!bench.device.queues[0].as_ref().unwrap().kick().is_connected(), "polled");
}

#[test]
fn only_eventfds_pipes_and_sockets_notify() {
    let mut bench = Bench::negotiated(VERSION_1);
    let (socket, _peer) = stream_pair().unwrap();
    let (_, pipe) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let file = memory();
    let epoll = rustix::event::epoll::create(rustix::event::epoll::CreateFlags::CLOEXEC).unwrap();
    for request in [R::SET_VRING_KICK, R::SET_VRING_CALL, R::SET_VRING_ERR] {
        for wrong in [&file, &epoll] {
            assert_eq!(bench.ask(request, &u64_to(0), &[wrong.as_fd()]).0, Some("field"), "{request}");
        }
        for right in [&pipe, &socket] {
            bench.good(request, &u64_to(0), &[right.as_fd()]);
            assert!(rustix::fs::fcntl_getfl(right).unwrap().contains(rustix::fs::OFlags::NONBLOCK));
        }
        assert_eq!(bench.ask(request, &u64_to(0), &[]).0, Some("descriptors"));
        assert_eq!(bench.ask(request, &u64_to(0x100), &[pipe.as_fd()]).0, Some("descriptors"));
        assert_eq!(bench.ask(request, &u64_to(0x200), &[]).0, Some("field"));
    }
}

#[test]
fn fields_out_of_range_are_refused() {
    let mut bench = Bench::negotiated(ALL);
    for request in [R::SET_VRING_NUM, R::SET_VRING_BASE, R::GET_VRING_BASE, R::SET_VRING_ENABLE] {
        for index in [4, 255, 256, u32::MAX] {
            assert_eq!(bench.ask(request, &state(index, 1), &[]).0, Some("field"), "{request} {index}");
        }
    }
    for num in [0, 1025, 65536 + 64, u32::MAX] {
        assert_eq!(bench.ask(R::SET_VRING_NUM, &state(0, num), &[]).0, Some("field"), "{num}");
    }
    assert_eq!(bench.ask(R::SET_VRING_ENABLE, &state(0, 2), &[]).0, Some("field"));
    assert_eq!(bench.ask(R::SET_VRING_BASE, &state(0, 0x1_0000), &[]).0, Some("field"));
    assert_eq!(bench.ask(R::SET_VRING_ADDR, &addr(0, USER, 2), &[]).0, Some("field"));
    for index in [4, 255] {
        assert_eq!(bench.ask(R::SET_VRING_KICK, &u64_to(0x100 | index), &[]).0, Some("field"));
    }
    for mtu in [0, 67, 65536, u64::MAX] {
        assert_eq!(bench.ask(R::NET_SET_MTU, &u64_to(mtu), &[]).0, Some("field"));
    }
    assert_eq!(bench.ask(R::NET_SET_MTU, &u64_to(9217), &[]), (Some("device"), Some(u64_to(1))));
    assert_eq!(bench.ask(R::SET_STATUS, &u64_to(256), &[]).0, Some("field"));
    bench.device.read();
    bench.describe(0, 0);
    bench.good(R::SET_VRING_NUM, &state(0, 100), &[]);
    let kick = event();
    assert_eq!(bench.ask(R::SET_VRING_KICK, &u64_to(0), &[kick.as_fd()]).0, Some("ring"), "no power of two");
}

#[test]
fn the_device_hears_what_concerns_it() {
    let mut bench = Bench::negotiated(ALL);
    assert_eq!(bench.get_u64(R::GET_QUEUE_NUM), 4);
    bench.good(R::NET_SET_MTU, &u64_to(1500), &[]);
    bench.good(R::SEND_RARP, &[2, 1, 1, 1, 1, 5, 0, 0], &[]);
    bench.good(R::SET_STATUS, &u64_to(0x0f), &[]);
    assert_eq!(bench.get_u64(R::GET_STATUS), 0x0f);
    let config = |offset, flags, bytes: &[u8]| Config { offset, flags, bytes: bytes.to_vec() }.to_bytes();
    let read = bench.good(R::GET_CONFIG, &config(4, 0, &[0; 6]), &[]);
    assert_eq!(read, config(4, 0, &[0, 9, 1, 0, 0, 0]), "zeros behind the last field");
    assert_eq!(bench.ask(R::GET_CONFIG, &config(251, 0, &[0; 6]), &[]), (Some("field"), Some(vec![])));
    assert_eq!(bench.ask(R::SET_CONFIG, &config(0, 0, &[1]), &[]).0, Some("device"));
    assert_eq!(bench.ask(R::SET_CONFIG, &config(0, 2, &[1]), &[]).0, Some("field"));
    bench.good(R::SET_CONFIG, &config(0, 1, &[2, 0, 0, 0, 0, 7]), &[]);
    assert_eq!(
        bench.device.read(),
        [
            Deed::Mtu(1500),
            Deed::Announce([2, 1, 1, 1, 1, 5]),
            Deed::Status(0x0f),
            Deed::Restore(0, vec![2, 0, 0, 0, 0, 7])
        ]
    );
}

#[test]
fn a_reset_forgets_the_rings() {
    for request in [R::RESET_DEVICE, R::SET_STATUS] {
        let mut bench = Bench::negotiated(ALL);
        bench.describe(0, 0);
        bench.kick(0);
        bench.device.read();
        let body = if request == R::SET_STATUS { u64_to(0) } else { vec![] };
        bench.good(request, &body, &[]);
        let by = if request == R::SET_STATUS { Resetter::Driver } else { Resetter::FrontEnd };
        assert_eq!(bench.device.read(), [Deed::Stop(0), Deed::Reset(by)]);
        bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
        assert_eq!(bench.device.read(), [], "{request}");
        bench.describe(0, 0);
        bench.kick(0);
        assert_eq!(bench.device.running(), [0]);
    }
    let mut bench = Bench::negotiated(ALL);
    bench.describe(0, 0);
    bench.kick(0);
    bench.device.read();
    bench.good(R::RESET_OWNER, &[], &[]);
    assert_eq!(bench.device.read(), [Deed::Enable(0, false)]);
}

#[test]
fn what_others_set_of_the_status_lasts_until_a_reset() {
    let mut bench = Bench::negotiated(VERSION_1);
    let start = |bench: &mut Bench| {
        bench.describe(0, 0);
        bench.kick(0);
        assert_eq!((bench.device.running(), bench.session.status()), (vec![0], 0xf));
        bench.device.read();
    };
    start(&mut bench);
    bench.session.put_status(DEVICE_NEEDS_RESET, &mut bench.device);
    assert_eq!((bench.device.running(), bench.session.status()), (vec![0], 0x4f), "its rings run");
    assert_eq!(bench.get_u64(R::GET_STATUS), 0x40, "the front end can read it");
    bench.session.put_status(0, &mut bench.device);
    assert_eq!(bench.device.read(), [Deed::Stop(0), Deed::Reset(Resetter::Operator)]);
    assert_eq!((bench.session.status(), bench.session.needs_reset()), (0, false));
    // What is changed under a ring that was reset does not start it.
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    assert_eq!(bench.device.running(), [0; 0]);
    bench.stop(0);
    start(&mut bench);
    bench.session.put_status(FAILED, &mut bench.device);
    assert_eq!((bench.device.running(), bench.session.status()), (vec![], 0x80));
    bench.good(R::SET_STATUS, &u64_to(0), &[]);
    assert_eq!(bench.session.status(), 0, "the driver's own reset");
    start(&mut bench);
    bench.session.put_status(FAILED, &mut bench.device);
    // A front end that passes no status on sets its rings up again.
    start(&mut bench);
}

#[test]
fn our_own_requests_go_through_the_channel() {
    let mut bench = Bench::negotiated(ALL);
    bench.session.config_changed();
    let (here, there) = stream_pair().unwrap();
    bench.good(R::SET_BACKEND_REQ_FD, &[], &[there.as_fd()]);
    drop(there);
    bench.describe(0, 0);
    let err = event();
    bench.good(R::SET_VRING_ERR, &u64_to(0), &[err.as_fd()]);
    bench.session.ring_failed(0);
    let mut channel = Connection::new(here);
    let heard = channel.receive_within(Duration::from_secs(5)).unwrap();
    assert_eq!(heard.header, Header::request(2, 0, false));
    let mut count = [0; 8];
    assert!(rings(&err, &mut count));
    assert_eq!(bench.get_u64(R::GET_STATUS), 64, "DEVICE_NEEDS_RESET");
    bench.good(R::SET_STATUS, &u64_to(0), &[]);
    assert_eq!(bench.get_u64(R::GET_STATUS), 0);
    drop(channel);
    bench.session.config_changed();
    assert!(bench.session.channel.is_none(), "nobody listens any more");
}

#[test]
fn memory_cut_short_stops_every_ring_and_asks_for_a_reset() {
    let file = memory();
    let mut bench = Bench::negotiated(ALL);
    bench.good(R::SET_MEM_TABLE, &table(), &[file.as_fd()]);
    bench.describe(0, 0);
    bench.kick(0);
    bench.device.read();
    assert!(!bench.session.check_memory(&mut bench.device));
    rustix::fs::ftruncate(&file, 0).unwrap();
    let touched = bench.session.memory.span(0, 8).unwrap();
    assert_eq!(touched.read_array(), Some([0; 8]), "what is gone reads as zeroes");
    assert!(bench.session.check_memory(&mut bench.device));
    assert!(!bench.session.check_memory(&mut bench.device), "it is told once");
    assert_eq!(bench.device.read(), [Deed::Stop(0)]);
    assert_eq!(bench.get_u64(R::GET_STATUS), 64, "DEVICE_NEEDS_RESET");
}

#[test]
fn an_in_flight_buffer_goes_there_and_comes_back() {
    for features in [ALL, ALL | VIRTIO_F_RING_PACKED] {
        let mut bench = Bench::negotiated(features);
        let asked = Inflight { mmap_size: 0, mmap_offset: 0, num_queues: 4, queue_size: SIZE };
        let (_, reply) = bench.send(R::GET_INFLIGHT_FD.number(), &asked.to_bytes(), &[]);
        let mut reply = reply.unwrap();
        let given = Inflight::from_bytes("", &reply.body).unwrap();
        let file = reply.descriptors.pop().unwrap();
        let entry = if features == ALL { 16 } else { 32 };
        let region = (entry * (1 + u64::from(SIZE))).next_multiple_of(64);
        assert_eq!(given, Inflight { mmap_size: 4 * region, ..asked });
        assert_eq!(rustix::fs::fstat(&file).unwrap().st_size as u64, 4 * region);
        assert!(rustix::fs::ftruncate(&file, 0).is_err(), "sealed");
        bench.good(R::SET_INFLIGHT_FD, &given.to_bytes(), &[file.as_fd()]);
        bench.describe(0, 0x8000_8000 & if features == ALL { 0 } else { !0 });
        bench.kick(0);
        assert_eq!(bench.device.running(), [0]);
        let short = Inflight { mmap_size: 4 * region - 1, ..asked };
        assert_eq!(bench.ask(R::SET_INFLIGHT_FD, &short.to_bytes(), &[file.as_fd()]).0, Some("field"));
        let beyond = Inflight { mmap_offset: 64, ..given };
        assert_eq!(bench.ask(R::SET_INFLIGHT_FD, &beyond.to_bytes(), &[file.as_fd()]).0, Some("map"));
        for wrong in [
            Inflight { num_queues: 0, ..asked },
            Inflight { num_queues: 5, ..asked },
            Inflight { queue_size: 0, ..asked },
            Inflight { queue_size: 1025, ..asked },
        ] {
            assert_eq!(bench.ask(R::GET_INFLIGHT_FD, &wrong.to_bytes(), &[]), (Some("field"), Some(vec![])));
        }
    }
}

#[test]
fn every_request_short_long_and_with_wrong_descriptors_is_refused_and_the_session_goes_on() {
    let mut bench = Bench::negotiated(ALL);
    let fd = memory();
    let mut refused = 0;
    for request in R::ALL {
        let (len_bytes, descriptors) = (request.shape().len_bytes(), request.descriptors());
        let (min, max) = (*descriptors.start(), *descriptors.end());
        for len in [len_bytes.start().checked_sub(1), Some(len_bytes.end() + 1)].into_iter().flatten() {
            if len <= BODY_BYTES_MAX {
                let outcome = bench.ask(*request, &vec![0; len], &vec![fd.as_fd(); min]);
                assert_eq!(outcome.0, Some("size"), "{request} of {len} bytes");
                refused += 1;
            }
        }
        for count in [min.checked_sub(1), Some(max + 1)].into_iter().flatten().filter(|count| *count <= 8) {
            let outcome = bench.ask(*request, &vec![0; *len_bytes.start()], &vec![fd.as_fd(); count]);
            assert_eq!(outcome.0, Some("descriptors"), "{request} with {count} descriptors");
            refused += 1;
        }
    }
    assert_eq!(bench.session.counters().refused(), refused);
    let names: Vec<_> = bench.session.counters().by_outcome().map(|(name, _)| name).collect();
    assert_eq!(names, ["descriptors", "size"]);
    assert_eq!(bench.device.read(), []);
    assert_eq!(bench.get_u64(R::GET_QUEUE_NUM), 4);
}

#[test]
fn unknown_requests_are_refused_and_the_session_goes_on() {
    let mut bench = Bench::negotiated(ALL);
    for number in [0, 46, 1000, u32::MAX] {
        let (served, reply) = bench.send(number, &[1; 33], &[]);
        assert!(matches!(served, Served::Refused(refusal) if refusal.name() == "unknown_request"));
        assert_eq!(reply.unwrap().body, u64_to(1));
    }
    let marked = Header { request: R::GET_FEATURES.number(), flags: 5, size_bytes: 0 };
    bench.peer.send(marked, &[], &[]).unwrap();
    assert!(matches!(bench.session.serve(&mut bench.device), Served::Refused(refusal) if refusal.name() == "flags"));
    assert!(matches!(bench.peer.receive(), Ok(Received::NotYet)), "a reply is not replied to");
}

#[test]
fn framing_lost_ends_the_session_and_its_rings() {
    let mut bench = Bench::negotiated(VERSION_1);
    bench.describe(0, 0);
    bench.kick(0);
    bench.peer.send(Header { request: 1, flags: 2, size_bytes: 0 }, &[], &[]).unwrap();
    assert!(matches!(bench.session.serve(&mut bench.device), Served::Ended(Some(_))));
    assert_eq!(bench.session.counters().by_outcome().collect::<Vec<_>>(), [("version", 1)]);
    bench.session.close(&mut bench.device);
    assert_eq!(bench.device.running(), [0; 0]);
}

#[test]
fn a_front_end_that_never_reads_ends_its_session() {
    let mut bench = Bench::negotiated(VERSION_1);
    let header = Header::request(R::GET_FEATURES.number(), 0, false);
    for _ in 0..1_000_000 {
        bench.peer.send_within(header, &[], &[], Duration::from_secs(5)).unwrap();
        match bench.session.serve(&mut bench.device) {
            Served::Message => {}
            Served::Ended(Some(SocketError::Protocol(ProtocolError::ReplyUnread { .. }))) => return,
            other => panic!("{other:?}"),
        }
    }
    panic!("it was answered for ever");
}

#[test]
fn hostile_messages_by_the_thousand_leave_no_descriptor_behind() {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let seed = RandomState::new().build_hasher().finish() | 1;
    let mut random = seed;
    let mut number = move |below: u64| {
        // xorshift64
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    // The reading end of a pipe tells when every copy of the other end is closed.
    let (reading, writing) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK).unwrap();
    let interesting = [0, 1, 2, 63, 64, 0xff, 0x100, 0x1000, USER, USER + 0x1000, MEMORY_BYTES, u64::MAX];
    let mut bench = Bench::negotiated(ALL);
    let file = memory();
    for step in 0..20_000u32 {
        let request = R::ALL[number(R::ALL.len() as u64) as usize];
        let len_bytes = request.shape().len_bytes();
        let len = match number(10) {
            0 => number(80) as usize,
            1 => *len_bytes.end(),
            _ => *len_bytes.start(),
        };
        let words = (0..=len / 8).map(|_| interesting[number(interesting.len() as u64) as usize]);
        let body: Vec<u8> = words.flat_map(u64::to_ne_bytes).take(len).collect();
        let count = match number(8) {
            0 => number(9) as usize,
            1 => *request.descriptors().end(),
            _ => *request.descriptors().start(),
        };
        let fds: Vec<_> = (0..count).map(|_| if number(4) == 0 { file.as_fd() } else { writing.as_fd() }).collect();
        let (served, _) = bench.send(request.number(), &body, &fds);
        assert!(!matches!(served, Served::Ended(_) | Served::Nothing), "{step} {request} {served:?} seed {seed}");
    }
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().count();
    assert!(descriptors < 100, "{descriptors} descriptors are open: seed {seed}");
    let counters = bench.session.close(&mut bench.device);
    assert!(counters.refused() > 5_000 && counters.messages == 20_003, "{counters:?}");
    assert_eq!(bench.device.running(), [0; 0]);
    drop((writing, bench.device));
    assert_eq!(rustix::io::read(&reading, &mut [0u8; 1][..]), Ok(0), "a copy is left: seed {seed}");
}
