//! The daemon at its sockets, in one process with its front ends: ours, and rust-vmm's as one that we did not write.

mod controlq;
mod hostile;
mod house;
mod iommu;
mod rust_vmm;

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use house::{Guest, House, SOON};
use rustix::fs::Mode;
use serde_json::json;
use virtnet_control::transport::listener::Listener;
use virtnet_control::vhost_user::frontend::{Frontend, FrontendError, PROTOCOL_FEATURES, SharedRegion};
use virtnet_control::vhost_user::message::{LogBase, MemoryRegion, ProtocolFeatures, VHOST_F_LOG_ALL};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;

const LOOPBACK: &str = r#""name": "vm1", "socket": "vm1.sock", "port": "loopback", "mac": "02:00:00:00:00:01""#;
const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];

#[test]
fn frames_go_round_on_every_kind_of_ring() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        for mergeable in [false, true] {
            let mut guest = Guest::new(layout, mergeable);
            let _frontend = guest.come(&house.socket("vm1.sock"));
            guest.loop_frames(1000);
        }
    }
    house.end();
}

#[test]
fn a_legacy_driver_is_served_whichever_function_it_finds() {
    let house = House::with(&[r#""name": "vm1", "socket": "vm1.sock", "port": "loopback""#]);
    for options in [
        NicOptions { legacy: true, ..NicOptions::default() },
        NicOptions { legacy: true, receive_cuts: vec![10], transmit_cuts: vec![10], ..NicOptions::default() },
        NicOptions { legacy: true, mergeable: true, ..NicOptions::default() },
    ] {
        let mut guest = Guest::with(options);
        let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
        guest.open(&mut frontend, PROTOCOL_FEATURES).unwrap();
        guest.start(&mut frontend).unwrap();
        guest.loop_frames(100);
    }
    house.end();
}

#[test]
fn a_front_end_without_protocol_features_needs_no_enable() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
        frontend.set_owner().unwrap();
        frontend.set_features(guest.features()).unwrap();
        guest.share(&mut frontend).unwrap();
        guest.start(&mut frontend).unwrap();
        guest.loop_frames(200);
    }
    house.end();
}

#[test]
fn what_a_front_end_has_told_is_shown() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let guest = Guest::new(layout, true);
        let frontend = guest.come(&house.socket("vm1.sock"));
        let shown = house.query();
        // Not what it has agreed upon with us besides.
        assert_eq!(shown["driver_feature"]["value"], format!("{:#x}", guest.features()));
        assert_eq!((&shown["status"]["value"], &shown["ctrl_mac"]), (&json!("0xf"), &shown["mac"]));
        assert_eq!((&shown["enabled_queues"], &shown["msix_config_vector"]), (&json!("2"), &json!("0xFFFF")));
        for index in 0..2 {
            let (queue, driver) = (&shown["enabled-queues-info"][index], guest.driver(index));
            assert_eq!((&queue["size"], &queue["enable"]), (&json!(driver.size().to_string()), &json!("1")));
            assert_eq!(queue["msix_vector"], "0xffff", "which it keeps for itself");
            let at = driver.addresses();
            let areas = [at.descriptor, at.driver, at.device].map(|gpa| format!("{:#x}", guest.user(gpa)));
            assert_eq!(
                ["descriptor_address", "driver_address", "device_address"].map(|key| &queue[key]),
                areas.each_ref()
            );
        }
        drop(frontend);
        let deadline = Instant::now() + SOON;
        while house.query()["status"]["value"] != "0x0" {
            assert!(Instant::now() < deadline, "it has left");
        }
        let shown = house.query();
        let nothing = ["0x0", "00:00:00:00:00:00", "0"].map(|text| json!(text));
        let found = [&shown["driver_feature"]["value"], &shown["ctrl_mac"], &shown["enabled_queues"]];
        assert_eq!(found, nothing.each_ref());
    }
    house.end();
}

#[test]
fn a_ring_stops_where_it_stands_and_goes_on_there() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, true);
        let mut frontend = guest.come(&house.socket("vm1.sock"));
        for _ in 0..20 {
            guest.loop_frames(41);
            guest.stop(&mut frontend).unwrap();
            guest.start(&mut frontend).unwrap();
        }
        // The session ends without a word, and another one goes on.
        for _ in 0..5 {
            guest.stop(&mut frontend).unwrap();
            drop(frontend);
            frontend = guest.come(&house.socket("vm1.sock"));
            guest.loop_frames(41);
        }
    }
    house.end();
}

#[test]
fn memory_comes_and_goes_under_running_rings() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let mut frontend = guest.come(&house.socket("vm1.sock"));
        let more = guest.nic.ram().fd().try_clone_to_owned().unwrap();
        for round in 0..20 {
            guest.loop_frames(20);
            let guest_addr = 1 << 40 | round << 30;
            let region = MemoryRegion { guest_addr, size_bytes: 4096, user_addr: guest_addr, mmap_offset: 0 };
            frontend.add_mem_reg(&SharedRegion { region, file: more.as_fd() }).unwrap();
            guest.loop_frames(20);
            frontend.rem_mem_reg(&region).unwrap();
            guest.loop_frames(20);
            guest.share(&mut frontend).unwrap();
        }
        guest.loop_frames(20);
    }
    house.end();
}

#[test]
fn a_crash_is_resumed_by_the_in_flight_buffer() {
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let mut kept = None;
        for _ in 0..4 {
            // Each daemon ends without anybody asking it where the rings stand.
            let house = House::with(&[LOOPBACK]);
            let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
            guest.open(&mut frontend, PROTOCOL_FEATURES).unwrap();
            let (inflight, buffer) = kept.take().unwrap_or_else(|| frontend.get_inflight_fd(2, 64).unwrap());
            frontend.set_inflight_fd(&inflight, buffer.as_fd()).unwrap();
            guest.start(&mut frontend).unwrap();
            guest.loop_frames(77);
            kept = Some((inflight, buffer));
            house.end();
            assert!(frontend.backend_gone());
        }
    }
}

#[test]
fn the_dirty_log_holds_what_was_written() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let mut frontend = guest.come(&house.socket("vm1.sock"));
        guest.loop_frames(100);
        let pages = (guest.nic.ram().gpa() + guest.nic.ram().len_bytes()) / 4096;
        let log = rustix::fs::memfd_create("log", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&log, pages / 8).unwrap();
        frontend.set_log_base(LogBase { size_bytes: pages / 8, mmap_offset: 0 }, log.as_fd()).unwrap();
        let dirty = || {
            let mut bits = vec![0; (pages / 8) as usize];
            assert_eq!(rustix::io::pread(&log, &mut bits[..], 0), Ok(bits.len()));
            bits.iter().map(|byte| byte.count_ones()).sum::<u32>()
        };
        guest.loop_frames(100);
        assert_eq!(dirty(), 0, "nothing is logged before it is asked for");
        let features = frontend.features();
        frontend.set_features(features | VHOST_F_LOG_ALL).unwrap();
        guest.loop_frames(100);
        let area = guest.driver(0).addresses();
        let rings = if layout == Layout::Split { area.device } else { area.descriptor };
        let mut byte = [0; 1];
        rustix::io::pread(&log, &mut byte[..], rings / 4096 / 8).unwrap();
        assert_ne!(byte[0] & 1 << (rings / 4096 % 8), 0, "the ring is written, too");
        assert!(dirty() > 10, "{} pages are dirty", dirty());
        frontend.set_features(features).unwrap();
        guest.loop_frames(10);
        rustix::fs::ftruncate(&log, 0).unwrap();
        guest.loop_frames(100);
    }
    house.end();
}

#[test]
fn a_device_in_client_mode_finds_its_front_end_again_and_again() {
    let house = House::with(&[r#""name": "vm1", "socket": "vm1.sock", "mode": "client", "port": "loopback""#]);
    let mut guest = Guest::new(Layout::Split, true);
    for _ in 0..4 {
        let listener = Listener::bind(&house.socket("vm1.sock"), Mode::RUSR | Mode::WUSR).unwrap();
        let mut frontend = Frontend::accept(&listener, SOON, SOON).unwrap();
        guest.open(&mut frontend, PROTOCOL_FEATURES).unwrap();
        guest.start(&mut frontend).unwrap();
        guest.loop_frames(100);
        guest.stop(&mut frontend).unwrap();
    }
    house.end();
}

#[test]
fn the_configuration_space_is_what_was_configured() {
    let device = r#""name": "vm1", "socket": "vm1.sock", "queue_pairs": 3, "mac": "02:00:00:00:00:07", "mtu": 1400"#;
    let house = House::with(&[device]);
    let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
    let agreed = frontend.negotiate(!VHOST_F_LOG_ALL, PROTOCOL_FEATURES).unwrap();
    let bits = [3, 5, 16, 17, 22, 32, 34, 35].map(|bit| agreed.offered >> bit & 1);
    assert_eq!(bits, [1; 8], "MTU, MAC, STATUS, CTRL_VQ, MQ, VERSION_1, RING_PACKED, IN_ORDER");
    assert_eq!(frontend.get_config(0, 12).unwrap(), [2, 0, 0, 0, 0, 7, 1, 0, 3, 0, 0x78, 5]);
    assert_eq!(frontend.get_queue_num().unwrap(), 7, "rings: six, and the control queue");
    frontend.net_set_mtu(1300).unwrap();
    assert!(matches!(frontend.net_set_mtu(1401), Err(FrontendError::Refused { .. })));
    assert_eq!(frontend.get_config(10, 2).unwrap(), 1300u16.to_le_bytes());
    assert!(matches!(frontend.set_config(0, &[2], false), Err(FrontendError::Refused { .. })));
    frontend.set_config(0, &[2, 0, 0, 0, 0, 8], true).unwrap();
    assert_eq!(frontend.get_config(5, 1).unwrap(), [8]);
    frontend.set_status(0x0f).unwrap();
    assert_eq!(frontend.get_status().unwrap(), 0x0f);
    frontend.reset_device().unwrap();
    assert_eq!(frontend.get_status().unwrap(), 0);
    house.end();
}

#[test]
fn a_guest_that_is_announced_is_found() {
    const ARRIVED: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let names = ["vm1", "vm2", "vm3"];
    let devices = names.map(|name| format!(r#""name": "{name}", "socket": "{name}.sock""#));
    let house = House::with(&devices.each_ref().map(String::as_str));
    let mut guests = names.map(|_| Guest::new(Layout::Split, false));
    let sockets = names.map(|name| house.socket(&format!("{name}.sock")));
    let mut frontends = [0, 1, 2].map(|at| guests[at].come(&sockets[at]));
    let mut to_it = [0x5a; 60];
    to_it[..12].copy_from_slice(&[2, 0, 0, 0, 0, 0x77, 2, 0, 0, 0, 0, 1]);
    // Sends that frame from the first guest; whether the other two get it in a while.
    let mut send = || {
        assert!(guests[0].nic.send(&to_it).unwrap());
        guests[0].kick();
        let (mut heard, deadline) = ([false; 2], Instant::now() + Duration::from_millis(300));
        let mut got = Vec::new();
        while Instant::now() < deadline {
            for (guest, heard) in guests[1..].iter_mut().zip(&mut heard) {
                *heard |= guest.nic.receive(&mut got).unwrap() && got == to_it;
            }
        }
        heard
    };
    assert_eq!(send(), [true, true], "nobody knows where it is");
    frontends[2].send_rarp(ARRIVED).unwrap();
    assert_eq!(send(), [false, true]);
    frontends[1].send_rarp(ARRIVED).unwrap();
    assert_eq!(send(), [true, false], "it has moved");
    house.end();
}

#[test]
fn features_kept_back_are_not_offered() {
    let device = r#""name": "vm1", "socket": "vm1.sock",
        "features": {"packed": false, "in_order": false, "mrg_rxbuf": false, "event_idx": false, "indirect": false}"#;
    let house = House::with(&[device]);
    let mut frontend = Frontend::connect(&house.socket("vm1.sock"), SOON, SOON).unwrap();
    let offered = frontend.get_features().unwrap();
    assert_eq!([15, 28, 29, 34, 35].map(|bit| offered >> bit & 1), [0; 5]);
    assert!(frontend.set_features(1 << 34).is_ok(), "nobody waits for an answer");
    frontend.set_protocol_features(ProtocolFeatures(8)).unwrap();
    assert!(matches!(frontend.set_features(1 << 34), Err(FrontendError::Refused { .. })));
    house.end();
}

#[test]
fn a_guest_that_sleeps_is_called() {
    let house = House::with(&[LOOPBACK]);
    for layout in LAYOUTS {
        let mut guest = Guest::new(layout, false);
        let _frontend = guest.come(&house.socket("vm1.sock"));
        guest.loop_frames(100);
        guest.nic.receiveq.enable_interrupts();
        let mut count = [0; 8];
        let _ = rustix::io::read(&guest.calls[0], &mut count[..]);
        assert!(guest.nic.send(&[0xff; 60]).unwrap());
        guest.kick();
        let deadline = Instant::now() + SOON;
        while rustix::io::read(&guest.calls[0], &mut count[..]).is_err() {
            assert!(Instant::now() < deadline, "nobody calls");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    house.end();
}
