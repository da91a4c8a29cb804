//! Front ends whose guests are behind an IOMMU, which tell of addresses when they are asked.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{ClockId, clock_gettime};
use virtnet_control::vhost_user::frontend::{Frontend, PROTOCOL_FEATURES, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{Iotlb, MemoryRegion, VIRTIO_F_ACCESS_PLATFORM, VringBase};
use virtnet_rings::Layout;
use virtnet_rings::guest::{Buffer, Completed, Driver, Options};

use super::house::{Guest, House, SOON};
use super::{LAYOUTS, LOOPBACK};

const PAGE: u64 = 4096;
/// CTRL_VQ, CTRL_RX.
const COMMANDS: u64 = 1 << 17 | 1 << 18;

fn device(loopback: &str) -> String {
    format!(r#"{loopback}, "features": {{"iommu": true}}"#)
}

/// A session for a guest whose addresses mean something to its IOMMU only.
fn open(house: &House, guest: &Guest) -> Frontend {
    let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
    let features = guest.features() | VIRTIO_F_ACCESS_PLATFORM | COMMANDS;
    assert_eq!(frontend.negotiate(features, PROTOCOL_FEATURES).unwrap().features & features, features);
    let region = MemoryRegion { guest_addr: 1 << 40, ..guest.region() };
    frontend.set_mem_table(&[SharedRegion { region, file: guest.nic.ram().fd() }]).unwrap();
    frontend
}

/// Tells of what was asked for, a page at a time; how many these were.
fn answer(frontend: &mut Frontend, guest: &Guest) -> usize {
    let misses = frontend.misses();
    for Iotlb { iova, .. } in &misses {
        let user_addr = guest.user(*iova);
        let update = Iotlb { iova: *iova, size_bytes: PAGE, user_addr, permissions: 3, kind: Iotlb::UPDATE };
        frontend.iotlb_msg(&update).unwrap();
    }
    misses.len()
}

fn loop_frames(guest: &mut Guest, frontend: &mut Frontend, count: u32) {
    guest.loop_frames_by(count, |guest| {
        answer(frontend, guest);
        guest.kick();
    });
}

#[test]
fn frames_wait_for_what_the_front_end_tells() {
    let house = House::with(&[&device(LOOPBACK)]);
    for layout in LAYOUTS {
        for mergeable in [false, true] {
            let mut guest = Guest::new(layout, mergeable);
            let mut frontend = open(&house, &guest);
            guest.start_by(&mut frontend, |iova| iova).unwrap();
            loop_frames(&mut guest, &mut frontend, 300);
            for round in 0..10 {
                // Nothing of it is left: all of it, a part, once more by another number.
                let (iova, size_bytes) = [(0, 0), (guest.nic.ram().gpa(), 1 << 20), (0, u64::MAX)][round % 3];
                let all = Iotlb { iova, size_bytes, kind: Iotlb::INVALIDATE, ..Iotlb::default() };
                frontend.iotlb_msg(&all).unwrap();
                loop_frames(&mut guest, &mut frontend, 50);
            }
            // The memory table changes, and translations stay.
            let region = MemoryRegion { guest_addr: 2 << 40, ..guest.region() };
            frontend.set_mem_table(&[SharedRegion { region, file: guest.nic.ram().fd() }]).unwrap();
            loop_frames(&mut guest, &mut frontend, 50);
            guest.stop(&mut frontend).unwrap();
            guest.start_by(&mut frontend, |iova| iova).unwrap();
            loop_frames(&mut guest, &mut frontend, 50);
        }
    }
    house.end();
}

#[test]
fn what_is_not_answered_is_asked_for_again() {
    let house = House::with(&[&device(LOOPBACK)]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let mut frontend = open(&house, &guest);
        guest.start_by(&mut frontend, |iova| iova).unwrap();
        loop_frames(&mut guest, &mut frontend, 10);
        frontend.iotlb_msg(&Iotlb { kind: Iotlb::INVALIDATE, ..Iotlb::default() }).unwrap();
        let heard = |frontend: &mut Frontend| {
            let until = Instant::now() + Duration::from_millis(1000);
            let mut misses = Vec::new();
            while Instant::now() < until {
                misses.extend(frontend.misses().into_iter().map(|miss| (miss.iova, miss.permissions)));
                std::thread::sleep(Duration::from_millis(5));
            }
            misses
        };
        // The six areas of its rings.
        let areas = heard(&mut frontend);
        let first = areas.iter().filter(|miss| **miss == areas[0]).count();
        assert!((3..=12).contains(&first) && areas.len() <= 6 * first, "{areas:x?}");
        let deadline = Instant::now() + SOON;
        while answer(&mut frontend, &guest) == 0 {
            assert!(Instant::now() < deadline, "nobody asks");
        }
        loop_frames(&mut guest, &mut frontend, 50);
    }
    house.end();
}

#[test]
fn a_command_waits_and_nobody_spins() {
    let house = House::with(&[&device(LOOPBACK)]);
    for layout in LAYOUTS {
        let guest = Guest::new(layout, false);
        let mut frontend = open(&house, &guest);
        let ram = guest.nic.ram();
        let mut driver = Driver::new(ram, layout, 64, Options::default()).unwrap();
        let kick = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let at = driver.addresses();
        let setup = RingSetup {
            size: driver.size().into(),
            base: VringBase::start(layout == Layout::Packed),
            descriptor_addr: at.descriptor,
            driver_addr: at.driver,
            device_addr: at.device,
            log_addr: None,
            kick: Some(kick.as_fd()),
            call: None,
            err: None,
        };
        frontend.start_ring(2, &setup).unwrap();
        let await_miss = |frontend: &mut Frontend| {
            let deadline = Instant::now() + SOON;
            while answer(frontend, &guest) == 0 {
                assert!(Instant::now() < deadline, "nobody asks");
            }
        };
        await_miss(&mut frontend);
        // Promiscuous mode: class, command, on.
        let command = ram.alloc(PAGE, PAGE).unwrap();
        ram.write(command, &[0, 0, 1, 0xee]);
        let chain = [Buffer::readable(command, 3), Buffer::writable(command + 3, 1)];
        driver.offer(&chain, 7).unwrap();
        driver.publish();
        rustix::io::write(&kick, &1u64.to_ne_bytes()).unwrap();
        let used = || {
            let time = clock_gettime(ClockId::ProcessCPUTime);
            Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
        };
        let before = used();
        std::thread::sleep(Duration::from_millis(500));
        assert!(used() - before < Duration::from_millis(250), "{:?} of 500 ms", used() - before);
        let mut done = [Completed::default(); 1];
        assert_eq!(driver.collect(&mut done).unwrap(), 0, "it waits");
        await_miss(&mut frontend);
        let deadline = Instant::now() + SOON;
        while driver.collect(&mut done).unwrap() == 0 {
            assert!(Instant::now() < deadline, "it waits for ever");
            answer(&mut frontend, &guest);
        }
        assert_eq!(ram.read_u8(command + 3), 0, "done");
    }
    house.end();
}
