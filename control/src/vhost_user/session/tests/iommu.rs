//! Addresses behind an IOMMU.

use virtnet_rings::PartStore;
use virtnet_rings::memory::Permissions;

use super::*;
use crate::vhost_user::session::TRANSLATIONS_MAX;

const PAGE: u64 = 4096;
const BEHIND: u64 = ALL | VIRTIO_F_ACCESS_PLATFORM;
/// Where ring 0 has its areas, as the driver says.
const RING: u64 = 7 << 40;
const READ: u8 = 1;
const WRITE: u8 = 2;
const BOTH: u8 = 3;

/// A front end with an IOMMU, and its end of our channel.
fn behind() -> (Bench, Connection) {
    let mut bench = Bench::negotiated(BEHIND);
    let (here, there) = stream_pair().unwrap();
    bench.good(R::SET_BACKEND_REQ_FD, &[], &[there.as_fd()]);
    (bench, Connection::new(here))
}

fn update(iova: u64, size_bytes: u64, user_addr: u64, permissions: u8) -> Iotlb {
    Iotlb { iova, size_bytes, user_addr, permissions, kind: Iotlb::UPDATE }
}

fn invalidate(iova: u64, size_bytes: u64) -> Iotlb {
    Iotlb { iova, size_bytes, kind: Iotlb::INVALIDATE, ..Iotlb::default() }
}

impl Bench {
    #[track_caller]
    fn told(&mut self, message: Iotlb) {
        assert_eq!(self.good(R::IOTLB_MSG, &message.to_bytes(), &[]), u64_to(0), "{message:x?}");
    }

    #[track_caller]
    fn is_refused(&mut self, message: Iotlb, outcome: &'static str) {
        let refused = self.ask(R::IOTLB_MSG, &message.to_bytes(), &[]);
        assert_eq!(refused, (Some(outcome), Some(u64_to(1))), "{message:x?}");
    }

    /// Describes ring 0 behind the IOMMU and kicks it.
    fn lay_out(&mut self) {
        self.describe(0, 0);
        self.good(R::SET_VRING_ADDR, &addr(0, RING, 0), &[]);
        self.kick(0);
    }

    /// Tells of the three pages that ring 0 has its areas in, wherever they are.
    fn translate_ring(&mut self) {
        for (page, at) in [(0, 9), (1, 3), (2, 40)] {
            self.told(update(RING + page * PAGE, PAGE, USER + at * PAGE, BOTH));
        }
    }

    /// What has a translation, among some pages.
    fn known(&self, pages: impl Iterator<Item = u64>) -> Vec<u64> {
        pages.filter(|page| self.session.memory.span(page * PAGE, 1).is_some()).collect()
    }
}

/// What was asked for on the channel: address and permissions.
fn asked(bench: &mut Bench, channel: &mut Connection) -> Vec<(u64, u8)> {
    assert!(matches!(bench.session.serve(&mut bench.device), Served::Nothing));
    let mut asked = Vec::new();
    while let Ok(Received::Message(message)) = channel.receive() {
        assert_eq!((message.header.request, message.header.flags), (1, 1), "IOTLB_MSG, no answer wanted");
        let miss = Iotlb::from_bytes("", &message.body).unwrap();
        assert_eq!((miss.kind, miss.size_bytes, miss.user_addr), (1, 0, 0));
        asked.push((miss.iova, miss.permissions));
    }
    asked
}

#[test]
fn a_ring_starts_when_its_areas_have_translations_and_stops_when_they_go() {
    let (mut bench, mut channel) = behind();
    bench.lay_out();
    assert_eq!(bench.device.read(), []);
    let all = [(RING, READ), (RING + PAGE, READ), (RING + 2 * PAGE, WRITE)];
    assert_eq!(asked(&mut bench, &mut channel), all);
    assert_eq!(asked(&mut bench, &mut channel), [], "once");
    bench.session.ask_again(&mut bench.device);
    assert_eq!(asked(&mut bench, &mut channel), [], "there was little time");
    bench.session.ask_again(&mut bench.device);
    assert_eq!(asked(&mut bench, &mut channel), all, "and once more");
    bench.device.read();
    bench.translate_ring();
    let start = Deed::Start { index: 0, enabled: true, base: 0 };
    assert_eq!(bench.device.read(), [Deed::LookAgain, Deed::LookAgain, start, Deed::LookAgain]);
    bench.told(update(RING, PAGE, USER + 9 * PAGE, BOTH));
    assert_eq!(bench.device.read(), [Deed::LookAgain], "it is known already");
    // Of another place, it is another one.
    bench.told(update(RING, PAGE, USER + 8 * PAGE, BOTH));
    let start = || Deed::Start { index: 0, enabled: true, base: 0 };
    assert_eq!(bench.device.read(), [Deed::Stop(0), start(), Deed::LookAgain]);
    bench.told(invalidate(RING + 2 * PAGE + 100, 1));
    assert_eq!(bench.device.read(), [Deed::Stop(0)]);
    assert_eq!(asked(&mut bench, &mut channel), all[2..]);
    bench.told(invalidate(0, PAGE));
    bench.told(update(RING + 2 * PAGE, PAGE, USER, BOTH));
    assert_eq!(bench.device.read(), [start(), Deed::LookAgain]);
    bench.told(invalidate(0, 0));
    assert_eq!(bench.device.read(), [Deed::Stop(0)], "all are gone");
    assert_eq!(asked(&mut bench, &mut channel), all);
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0]);
    bench.told(invalidate(0, u64::MAX));
    assert_eq!(bench.device.running(), [0; 0]);
    // It is stopped before its areas are there.
    assert_eq!(bench.stop(0), 0);
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0; 0]);
}

#[test]
fn a_translation_that_makes_no_sense_is_refused_and_changes_nothing() {
    let (mut bench, _channel) = behind();
    bench.lay_out();
    bench.translate_ring();
    bench.device.read();
    let (good, end) = (update(0, PAGE, USER, BOTH), USER + MEMORY_BYTES);
    for (message, outcome) in [
        (Iotlb { size_bytes: 0, ..good }, "memory"),
        (Iotlb { size_bytes: u64::MAX, ..good }, "memory"),
        (Iotlb { size_bytes: PAGE - 1, ..good }, "memory"),
        (Iotlb { iova: 1, ..good }, "memory"),
        (Iotlb { iova: u64::MAX - PAGE + 1, size_bytes: 2 * PAGE, ..good }, "memory"),
        (Iotlb { size_bytes: 0_u64.wrapping_sub(PAGE), ..good }, "outside"),
        (Iotlb { iova: PAGE, size_bytes: 0_u64.wrapping_sub(PAGE), ..good }, "outside"),
        (Iotlb { size_bytes: MEMORY_BYTES + PAGE, ..good }, "outside"),
        (Iotlb { user_addr: end, ..good }, "outside"),
        (Iotlb { user_addr: end - PAGE + 1, ..good }, "outside"),
        (Iotlb { user_addr: USER - 1, ..good }, "outside"),
        (Iotlb { user_addr: 0, ..good }, "outside"),
        (Iotlb { user_addr: u64::MAX, ..good }, "outside"),
        (Iotlb { permissions: 0, ..good }, "field"),
        (Iotlb { permissions: 4, ..good }, "field"),
        (Iotlb { permissions: 255, ..good }, "field"),
        (Iotlb { kind: 0, ..good }, "field"),
        (Iotlb { kind: Iotlb::MISS, ..good }, "field"),
        (Iotlb { kind: 4, ..good }, "field"),
        (Iotlb { kind: 5, ..good }, "field"),
        (Iotlb { kind: 6, ..good }, "field"),
        (Iotlb { kind: 255, ..good }, "field"),
        (invalidate(PAGE, 0), "memory"),
        (invalidate(PAGE, u64::MAX - PAGE + 2), "memory"),
        (invalidate(u64::MAX, 2), "memory"),
    ] {
        bench.is_refused(message, outcome);
    }
    assert_eq!(bench.ask(R::IOTLB_MSG, &[0; 25], &[]), (Some("size"), Some(u64_to(1))));
    assert_eq!(bench.device.read(), []);
    assert_eq!(bench.known(0..100), [0; 0]);

    let mut bench = Bench::new();
    bench.is_refused(good, "order");
    bench.good(R::SET_FEATURES, &u64_to(BEHIND), &[]);
    bench.is_refused(good, "outside");
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    bench.told(good);
    bench.good(R::SET_FEATURES, &u64_to(ALL), &[]);
    bench.is_refused(good, "order");
}

#[test]
fn a_translation_takes_the_place_of_those_it_overlaps() {
    let (mut bench, _channel) = behind();
    for page in 0..8 {
        bench.told(update(page * PAGE, PAGE, USER + page * PAGE, BOTH));
    }
    bench.told(update(2 * PAGE, 3 * PAGE, USER + 50 * PAGE, READ));
    let at = |bench: &Bench, page: u64| bench.session.memory.span(page * PAGE, 1);
    let placed = |bench: &Bench| [1, 2, 4, 5].map(|page| bench.session.memory.gpa_of(at(bench, page).unwrap()));
    assert_eq!(placed(&bench), [1, 50, 52, 5].map(|page| Some(page * PAGE)));
    bench.told(update(3 * PAGE, PAGE, USER, BOTH));
    assert_eq!(bench.known(0..9), [0, 1, 3, 5, 6, 7], "the rest of what was there is asked for again");
    bench.told(invalidate(6 * PAGE + 5, PAGE));
    assert_eq!(bench.known(0..9), [0, 1, 3, 5]);
}

#[test]
fn there_are_so_many_translations_and_no_more() {
    let (mut bench, _channel) = behind();
    bench.lay_out();
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0]);
    let pages = 3 * TRANSLATIONS_MAX as u64;
    for page in 0..pages {
        bench.told(update(page * PAGE, PAGE, USER + page % 200 * PAGE, BOTH));
        if page % 1000 == 0 {
            assert_eq!(bench.known(page..page + 1), [page], "the last one is there");
        }
    }
    let known = bench.known(0..pages).len();
    assert!((TRANSLATIONS_MAX * 3 / 4..TRANSLATIONS_MAX).contains(&known), "{known}");
    assert_eq!(bench.device.running(), [0], "what it lies in stays");
    bench.told(invalidate(0, 0));
    assert_eq!(bench.known(0..pages), [0; 0]);
}

#[test]
fn what_is_made_of_too_many_blocks_is_refused() {
    let (mut bench, _channel) = behind();
    // Each of fourteen powers of two.
    let odd = MEMORY_BYTES - 2 * PAGE;
    let stride = 4 * MEMORY_BYTES;
    let tell = |bench: &mut Bench, number: u64| {
        let message = update(number * stride + PAGE, odd, USER, BOTH);
        bench.ask(R::IOTLB_MSG, &message.to_bytes(), &[])
    };
    let first = (0..TRANSLATIONS_MAX as u64).find(|number| tell(&mut bench, *number).0.is_some()).unwrap();
    assert_eq!(tell(&mut bench, first), (Some("memory"), Some(u64_to(1))));
    assert!(bench.session.memory.span(PAGE, 1).is_some(), "those before are there");
    bench.told(invalidate(0, stride));
    assert_eq!(tell(&mut bench, first).0, None);
}

#[test]
fn translations_stay_that_are_to_what_is_still_shared() {
    let (mut bench, _channel) = behind();
    let more = region(0x100_0000).to_single_bytes();
    bench.good(R::ADD_MEM_REG, &more, &[memory().as_fd()]);
    bench.lay_out();
    bench.translate_ring();
    bench.told(update(0, PAGE, USER, BOTH));
    bench.told(update(PAGE, PAGE, USER + 0x100_0000, BOTH));
    bench.device.read();
    bench.good(R::REM_MEM_REG, &more, &[]);
    let start = Deed::Start { index: 0, enabled: true, base: 0 };
    assert_eq!(bench.device.read(), [Deed::Stop(0), start]);
    assert_eq!(bench.known(0..3), [0]);
    // Another file at the same address.
    let file = memory();
    rustix::io::pwrite(&file, &[7], 0).unwrap();
    bench.good(R::SET_MEM_TABLE, &table(), &[file.as_fd()]);
    assert_eq!(bench.session.memory.span(0, 1).unwrap().read_array(), Some([7]));
    assert_eq!(bench.device.running(), [0]);
    // The file is cut: all is gone, and nothing is left to be found in the next table.
    rustix::fs::ftruncate(&file, 0).unwrap();
    assert_eq!(bench.session.memory.span(0, 1).unwrap().read_array(), Some([0]));
    assert!(bench.session.check_memory(&mut bench.device));
    bench.good(R::SET_MEM_TABLE, &table(), &[memory().as_fd()]);
    assert_eq!(bench.known(0..3), [0; 0]);
}

#[test]
fn translations_go_with_the_rings() {
    // QEMU tells of none that goes while it has stopped them.
    let (mut bench, _channel) = behind();
    for (request, body) in [
        (R::GET_VRING_BASE, state(0, 0)),
        (R::RESET_DEVICE, vec![]),
        (R::SET_STATUS, u64_to(0)),
        (R::SET_FEATURES, u64_to(BEHIND | VIRTIO_F_RING_PACKED)),
        (R::SET_FEATURES, u64_to(BEHIND)),
    ] {
        bench.told(update(0, PAGE, USER, BOTH));
        assert_eq!(bench.known(0..2), [0]);
        bench.good(request, &body, &[]);
        assert_eq!(bench.known(0..2), [0; 0], "{request}");
    }
    bench.lay_out();
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0]);
    bench.stop(1);
    bench.told(update(0, PAGE, USER, BOTH));
    assert_eq!((bench.device.running(), bench.known(0..2)), (vec![0], vec![0]), "one runs");
    // Addresses are the guest's now.
    bench.good(R::SET_FEATURES, &u64_to(ALL), &[]);
    assert_eq!(bench.known(0..2), [0, 1]);
    bench.describe(0, 0);
    bench.kick(0);
    assert_eq!(bench.device.running(), [0]);
    bench.good(R::SET_FEATURES, &u64_to(BEHIND), &[]);
    assert_eq!(bench.known(0..2), [0; 0]);
}

#[test]
fn a_ring_that_its_translations_do_not_allow_is_counted() {
    let (mut bench, _channel) = behind();
    bench.lay_out();
    for (page, permissions) in [(0, READ), (1, READ), (2, READ)] {
        bench.told(update(RING + page * PAGE, PAGE, USER + page * PAGE, permissions));
    }
    assert_eq!(bench.device.running(), [0; 0], "the used ring may not be written");
    let counted: Vec<_> = bench.session.counters().by_outcome().collect();
    assert_eq!(counted, [("ring", 1)]);
    bench.told(update(RING + 2 * PAGE, PAGE, USER + 2 * PAGE, WRITE));
    assert_eq!(bench.device.running(), [0]);
}

#[test]
fn who_does_not_hear_is_asked_for_nothing() {
    // A front end without a channel, one that has closed it, and one that does not read.
    let mut bench = Bench::negotiated(BEHIND);
    bench.lay_out();
    bench.session.ask_again(&mut bench.device);
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0], "it may know by itself");

    let (mut bench, channel) = behind();
    drop(channel);
    bench.lay_out();
    bench.session.ask_again(&mut bench.device);
    bench.translate_ring();
    assert_eq!(bench.device.running(), [0]);

    let (mut bench, mut channel) = behind();
    bench.lay_out();
    for _ in 0..4000 {
        bench.session.ask_again(&mut bench.device);
    }
    let heard = asked(&mut bench, &mut channel);
    assert!(heard.len() >= 3 && heard.len() < 6000, "{}", heard.len());
    (0..2).for_each(|_| bench.session.ask_again(&mut bench.device));
    assert_eq!(asked(&mut bench, &mut channel).len(), 3, "it reads again");
}

#[test]
fn what_came_meanwhile_is_not_asked_for() {
    let (mut bench, mut channel) = behind();
    // As a worker would that looks while the answer is taken.
    let ram = bench.session.memory.regions()[0].clone();
    let page = Region::part(ram.mapping(), 0, 6 * PAGE, PAGE).unwrap();
    assert_eq!(bench.known(5..7), [0; 0]);
    assert!(bench.session.memory.translate_to(&page, Permissions::BOTH));
    assert_eq!(asked(&mut bench, &mut channel), [(5 * PAGE, READ)]);
    bench.session.memory.forget(&page);
    assert_eq!(bench.known(5..7), [0; 0], "who waits says so again");
    assert_eq!(asked(&mut bench, &mut channel), [(6 * PAGE, READ)]);
    // What was asked for has gone since.
    bench.told(invalidate(6 * PAGE, PAGE));
    assert_eq!(bench.known(5..7), [0; 0]);
    assert_eq!(asked(&mut bench, &mut channel), [(6 * PAGE, READ)]);
}

#[test]
fn the_dirty_log_has_guest_addresses() {
    let (mut bench, _channel) = behind();
    let (file, log) = (memory(), memory());
    let write = |page: u64, offset: u64, bytes: &[u8]| {
        assert_eq!(rustix::io::pwrite(&file, bytes, page * PAGE + offset), Ok(bytes.len()));
    };
    // A buffer of a page at address 0, to be written, and it is available.
    write(9, 8, &[0, 0x10, 0, 0, 2]);
    write(3, 2, &[1]);
    bench.good(R::SET_MEM_TABLE, &table(), &[file.as_fd()]);
    bench.lay_out();
    bench.translate_ring();
    bench.told(update(0, PAGE, USER + 20 * PAGE, BOTH));
    let base = LogBase { size_bytes: 4096, mmap_offset: 0 }.to_bytes();
    bench.good(R::SET_LOG_BASE, &base, &[log.as_fd()]);
    bench.good(R::SET_FEATURES, &u64_to(BEHIND | VHOST_F_LOG_ALL), &[]);
    let queue = bench.device.queues[0].as_mut().unwrap();
    queue.begin_turn();
    let (chains, violation) = queue.take_list(1, &mut PartStore::new(1));
    assert_eq!((chains.len(), violation), (1, None));
    queue.log_written(chains[0].parts.get(0).unwrap());
    queue.return_used(&[chains[0].used(16)]);
    let mut bits = [0; 8];
    assert_eq!(rustix::io::pread(&log, &mut bits, 0), Ok(8));
    assert_eq!(u64::from_le_bytes(bits), 1 << 20 | 1 << 40, "the buffer and the used ring");
}
