//! rust-vmm's front end: the same protocol as others read it.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserInflight, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserDirtyLogRegion, VhostUserMemoryRegionInfo, VringConfigData};
use virtnet_control::vhost_user::message::VringBase;
use virtnet_rings::Layout;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::LOOPBACK;
use super::house::{Guest, House};

fn region(guest: &Guest) -> VhostUserMemoryRegionInfo {
    let region = guest.region();
    VhostUserMemoryRegionInfo {
        guest_phys_addr: region.guest_addr,
        memory_size: region.size_bytes,
        userspace_addr: region.user_addr,
        mmap_offset: region.mmap_offset,
        mmap_handle: guest.nic.ram().fd().as_raw_fd(),
    }
}

/// A session with everything acknowledged, every message of which is answered.
fn open(house: &House, guest: &Guest) -> Frontend {
    let mut frontend = Frontend::connect(house.socket("vm1.sock"), 2).unwrap();
    frontend.set_owner().unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!(offered & guest.features(), guest.features());
    frontend.set_features(guest.features() | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()).unwrap();
    let offered = frontend.get_protocol_features().unwrap();
    frontend.set_protocol_features(offered).unwrap();
    frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
    frontend
}

/// Starts both rings; their base has sixteen bits here, whatever the layout.
fn start(frontend: &mut Frontend, guest: &mut Guest) {
    for index in 0..2 {
        let driver = guest.driver(index);
        let at = driver.addresses();
        frontend.set_vring_num(index, driver.size()).unwrap();
        frontend.set_vring_base(index, guest.bases[index].to_num() as u16).unwrap();
        let areas = VringConfigData {
            queue_max_size: driver.size(),
            queue_size: driver.size(),
            flags: 0,
            desc_table_addr: guest.user(at.descriptor),
            used_ring_addr: guest.user(at.device),
            avail_ring_addr: guest.user(at.driver),
            log_addr: None,
        };
        frontend.set_vring_addr(index, &areas).unwrap();
        let event = EventFd::new(EFD_NONBLOCK).unwrap();
        frontend.set_vring_call(index, &event).unwrap();
        frontend.set_vring_kick(index, &event).unwrap();
        frontend.set_vring_err(index, &event).unwrap();
        frontend.set_vring_enable(index, true).unwrap();
        // The guest kicks there, too.
        let ourselves = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        guest.kicks[index] = pidfd_getfd(ourselves, event.as_raw_fd(), PidfdGetfdFlags::empty()).unwrap();
    }
}

#[test]
fn frames_go_round_and_rings_go_on_where_they_stopped() {
    let house = House::with(&[LOOPBACK]);
    for layout in [Layout::Split, Layout::Packed] {
        let mut guest = Guest::new(layout, true);
        let mut frontend = open(&house, &guest);
        frontend.set_mem_table(&[region(&guest)]).unwrap();
        for _ in 0..5 {
            start(&mut frontend, &mut guest);
            guest.loop_frames(123);
            for index in 0..2 {
                let base = frontend.get_vring_base(index).unwrap();
                let packed = layout == Layout::Packed;
                guest.bases[index] = VringBase::from_num("GET_VRING_BASE", base, packed).unwrap();
            }
        }
    }
    house.end();
}

#[test]
fn memory_slots_are_added_and_removed() {
    let house = House::with(&[LOOPBACK]);
    let mut guest = Guest::new(Layout::Split, false);
    let mut frontend = open(&house, &guest);
    assert_eq!(frontend.get_max_mem_slots().unwrap(), 512);
    let region = region(&guest);
    frontend.add_mem_region(&region).unwrap();
    start(&mut frontend, &mut guest);
    guest.loop_frames(100);
    frontend.remove_mem_region(&region).unwrap();
    assert!(frontend.remove_mem_region(&region).is_err());
    frontend.add_mem_region(&region).unwrap();
    guest.loop_frames(100);
    house.end();
}

#[test]
fn configuration_in_flight_buffers_and_the_log_are_understood() {
    let house = House::with(&[LOOPBACK]);
    let mut guest = Guest::new(Layout::Split, false);
    let mut frontend = open(&house, &guest);
    let (_, mac) = frontend.get_config(0, 6, VhostUserConfigFlags::WRITABLE, &[0; 6]).unwrap();
    assert_eq!(mac, [2, 0, 0, 0, 0, 1]);
    assert!(frontend.set_config(0, VhostUserConfigFlags::empty(), &[4]).is_err(), "not the guest's to write");
    // The specification's 1, a live migration, whatever it is called here.
    frontend.set_config(0, VhostUserConfigFlags::WRITABLE, &[4]).unwrap();
    assert_eq!(frontend.get_queue_num().unwrap(), 3, "rings: two, and the control queue");

    frontend.set_mem_table(&[region(&guest)]).unwrap();
    let asked = VhostUserInflight::new(0, 0, 2, guest.driver(0).size());
    let (inflight, file): (VhostUserInflight, File) = frontend.get_inflight_fd(&asked).unwrap();
    assert_eq!(file.metadata().unwrap().len(), inflight.mmap_size);
    frontend.set_inflight_fd(&inflight, file.as_raw_fd()).unwrap();
    start(&mut frontend, &mut guest);
    guest.loop_frames(100);

    let log: OwnedFd = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&log, 4096).unwrap();
    let log = VhostUserDirtyLogRegion { mmap_size: 4096, mmap_offset: 0, mmap_handle: log.as_raw_fd() };
    frontend.set_log_base(0, Some(log)).unwrap();
    guest.loop_frames(100);
    frontend.reset_device().unwrap();
    house.end();
}
