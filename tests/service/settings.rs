//! What can be changed while a driver is there, and what cannot.

use std::time::Instant;

use virtnet_control::vhost_user::frontend::Frontend;

use crate::front_end::Guest;
use crate::service::{SOON, Service, text};

/// Changes that a driver would not expect: the option, and what `query` shows then.
const UNBOUND: [(&str, &str, &str); 5] = [
    ("-m 0C:C4:7A:FF:22:77", "mac", "0C:C4:7A:FF:22:77"),
    ("-t 9216", "mtu", "9216"),
    ("-q 1024", "max_queue_size", "1024"),
    ("-qp 3", "max_queue_pairs", "3"),
    ("-n 10", "num_msix", "10"),
];

#[test]
fn what_a_driver_has_read_does_not_change_under_it() {
    let service = Service::board();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 2");
    let functions = [("-p 0", "pf0.sock"), ("-p 2", "pf2.sock"), ("-p 0 -v 0", "pf0vf0.sock")];
    for (number, (selector, socket)) in functions.into_iter().enumerate() {
        let changes = || UNBOUND.iter().filter(|(option, ..)| selector.contains("-v") || !option.starts_with("-n"));
        let (mut guest, frontend) = service.guest(socket);
        guest.loop_frames(10);
        let before = service.query(selector);
        for (option, ..) in changes().chain([&("-f 0x10821", "", "")]) {
            assert_eq!(service.refused(&format!("modify {selector} device {option}")), -1004, "{selector} {option}");
        }
        assert_eq!(service.query(selector), before);
        guest.loop_frames(10);

        drop(frontend);
        service.wait_unbound(selector);
        for (option, key, shown) in changes() {
            service.ok(&format!("modify {selector} device {option}"));
            assert_eq!(text(&service.query(selector), key), *shown, "{selector} {option}");
        }
        service.ok(&format!("modify {selector} device -f 0x10821"));
        let offered = service.query(selector)["device_feature"].clone();
        assert!(offered["   11"] == "VIRTIO_NET_F_HOST_TSO4" && offered["   12"].is_null(), "{offered}");
        let (mut guest, mut frontend) = service.guest(socket);
        guest.loop_frames(10);
        let config = frontend.get_config(0, 12).unwrap();
        let [pairs, mtu] = [8, 10].map(|at| u16::from_le_bytes([config[at], config[at + 1]]).to_string());
        let shown = service.query(selector);
        assert_eq!((&*pairs, &*mtu), (text(&shown, "max_queue_pairs"), text(&shown, "mtu")), "the driver sees it");
        assert_eq!(config[..6], [0x0c, 0xc4, 0x7a, 0xff, 0x22, 0x77]);
        drop(frontend);
        service.wait_unbound(selector);
        service.ok(&format!("modify {selector} device -m 0C:C4:7A:FF:23:{number:02X}"));
    }
}

#[test]
fn settings_out_of_range_change_nothing() {
    let service = Service::board();
    let before = service.query("-p 0");
    let other = text(&service.query("-p 1"), "mac").to_owned();
    for (option, errno) in [
        (&*format!("-m {other}"), -1008),
        ("-m FF:FF:FF:FF:FF:FF", -22),
        ("-t 67", -1010),
        ("-t 9217", -1010),
        ("-q 2", -1042),
        ("-q 300", -1042),
        ("-q 65536", -22),
        ("-qp 0", -1073),
        ("-qp 32", -1073),
        ("-f 0x4000000000000000", -1000),
        ("-e 2500", -1051),
        ("-s 64", -22),
        // It offers no hashes.
        ("-o 0x1", -1052),
        ("-k 40", -1053),
        ("-r 0x40", -22),
        ("-d 0x10000", -1045),
        // Its port is no switch's.
        ("-d 0x50", -1045),
        ("-aarfs enable", -1046),
        // The first is good; none of it is done.
        ("-t 2000 -q 3", -1042),
    ] {
        assert_eq!(service.refused(&format!("modify -p 0 device {option}")), errno, "{option}");
    }
    assert_eq!(service.query("-p 0"), before);
}

/// Sends a frame and waits until the device has it.
#[track_caller]
fn send(guest: &mut Guest) {
    assert!(guest.nic.send(&[0x02; 60]).unwrap(), "there is room for a frame");
    guest.kick();
    let end = Instant::now() + SOON;
    while guest.nic.unreaped() > 0 {
        assert!(Instant::now() < end, "the device does not take the frame");
        guest.nic.reap().unwrap();
        std::thread::yield_now();
    }
}

/// Waits for a frame.
#[track_caller]
fn receive(guest: &mut Guest) {
    let (end, mut frame) = (Instant::now() + SOON, Vec::new());
    while !guest.nic.receive(&mut frame).unwrap() {
        assert!(Instant::now() < end, "no frame comes");
        std::thread::yield_now();
    }
    assert_eq!(frame, [0x02; 60]);
    guest.kick();
}

#[test]
fn a_link_that_is_down_carries_nothing() {
    let service = Service::board();
    let (mut guest, mut frontend) = service.guest("pf0.sock");
    let mut is_up = || frontend.get_config(6, 2).unwrap()[0] & 1 == 1;
    for _ in 0..3 {
        send(&mut guest);
        receive(&mut guest);
        assert!(is_up());
        service.ok("modify -p 0 device -l 0");
        assert_eq!(text(&service.query("-p 0"), "link_status"), "0");
        assert!(!is_up(), "the driver can see it");
        for _ in 0..10 {
            send(&mut guest);
        }
        service.ok("modify -p 0 device -l 1");
    }
    // All that comes back was sent while the link was up: after one more there is nothing.
    send(&mut guest);
    receive(&mut guest);
    assert!(!guest.nic.receive(&mut Vec::new()).unwrap(), "a frame that was sent while the link was down");
    assert_eq!(text(&service.query("-p 0"), "link_status"), "1");
}

#[test]
fn what_a_driver_does_not_want_does_not_arrive() {
    let service = Service::board();
    let (mut guest, _frontend) = service.guest("pf0.sock");
    let filtered = || service.ok("debug call rates")["functions"][0]["rx"]["drops"].as_u64().unwrap();
    for dropped in [10, 20, 30] {
        send(&mut guest);
        receive(&mut guest);
        // Its own frames only, and the frames are another's; single stations', and everybody's.
        service.ok(if dropped < 30 { "modify -p 0 device -r 0" } else { "modify -p 0 device -r 0x1e" });
        if dropped == 20 {
            // Another engine is told, too.
            assert_eq!(service.virtnet("restart").output, "SUCCESS\n");
        }
        for _ in 0..10 {
            send(&mut guest);
        }
        assert!(!guest.nic.receive(&mut Vec::new()).unwrap(), "a frame that is not wanted");
        assert_eq!(filtered(), dropped);
        service.ok("modify -p 0 device -r 0x4");
        send(&mut guest);
        receive(&mut guest);
    }
    // What the driver reads has not changed.
    service.ok("modify -a device -r 1");
    guest.loop_frames(10);
}

#[test]
fn a_speed_is_told_to_the_driver_at_once() {
    let service = Service::board();
    let (mut guest, mut frontend) = service.guest("pf0.sock");
    frontend.set_backend_req_fd().unwrap();
    let told = |frontend: &mut Frontend| {
        let bytes = frontend.get_config(12, 5).unwrap();
        (u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), bytes[4])
    };
    assert_eq!(told(&mut frontend), (100_000, 1));
    let before = frontend.config_changes();
    service.ok("modify -p 0 device -e 25000");
    assert_eq!(told(&mut frontend), (25_000, 1));
    assert_eq!(text(&service.query("-p 0"), "speed"), "25000");
    wait_told(&mut frontend, before);
    guest.loop_frames(10);
}

/// Waits until the front end has heard of a change of the configuration space.
#[track_caller]
fn wait_told(frontend: &mut Frontend, before: u64) {
    let end = Instant::now() + SOON;
    while frontend.config_changes() == before {
        assert!(Instant::now() < end, "the front end is not told");
        std::thread::yield_now();
    }
}

#[test]
fn a_status_resets_a_function_gives_it_up_or_asks_for_a_reset() {
    let service = Service::board();
    let (mut guest, mut frontend) = service.guest("pf0.sock");
    frontend.set_backend_req_fd().unwrap();
    let status = || text(&service.query("-p 0")["status"], "value").to_owned();
    for state in [1, 4, 0x2f, 0x43, 0xb] {
        assert_eq!(service.refused(&format!("modify -p 0 device -s {state}")), -22, "{state:#x}");
    }
    // No driver has the others: nothing is done to any of them.
    assert_eq!(service.refused("modify -a device -s 64"), -22);
    assert_eq!(status(), "0xf");
    service.ok("modify -p 0 device -s 0xf");
    guest.loop_frames(10);
    for (number, (state, shown, rings)) in
        [("64", "0x4f", "2"), ("0xc0", "0xc0", "0"), ("0", "0x0", "0")].into_iter().enumerate()
    {
        let before = frontend.config_changes();
        service.ok(&format!("modify -p 0 device -s {state}"));
        wait_told(&mut frontend, before);
        let shows = (status(), text(&service.query("-p 0"), "enabled_queues").to_owned());
        assert_eq!(shows, (shown.to_owned(), rings.to_owned()), "{state}");
        let health = service.ok("health -p 0")["health_status"].clone();
        assert_eq!(health, if number < 2 { "Fatal" } else { "Good" });
    }
    service.ok("modify -a device -s 0");
    // The driver begins anew where it stands.
    guest.stop(&mut frontend).unwrap();
    guest.start(&mut frontend).unwrap();
    guest.loop_frames(10);
    assert_eq!(status(), "0xf");
}

#[test]
fn packet_counters_begin_at_zero_and_stay_when_disabled() {
    let service = Service::board();
    let (mut guest, _frontend) = service.guest("pf0.sock");
    let counted = || {
        let reply = service.ok("stats -p 0 -q 0");
        let queue = &reply["device"]["queues-stats"][0];
        let sizes = queue.as_object().unwrap().iter().filter(|(key, _)| key.ends_with("_octet_packets"));
        let sum: u64 = sizes.map(|(_, count)| count.as_u64().unwrap()).sum();
        (text(&reply["device"], "packet_counters").to_owned(), sum)
    };
    guest.loop_frames(10);
    assert_eq!(counted(), ("Disabled".into(), 0));
    service.ok("modify -p 0 device -pkt_cnt enable");
    assert_eq!(counted(), ("Enabled".into(), 0));
    guest.loop_frames(100);
    assert_eq!(counted(), ("Enabled".into(), 100));
    service.ok("modify -p 0 device -pkt_cnt enable");
    assert_eq!(counted(), ("Enabled".into(), 100), "enabled twice is enabled once");
    service.ok("modify -p 0 device -pkt_cnt disable");
    guest.loop_frames(50);
    assert_eq!(counted(), ("Disabled".into(), 100));
    service.ok("modify -p 0 device -pkt_cnt enable");
    assert_eq!(counted(), ("Enabled".into(), 0));
    guest.loop_frames(7);
    assert_eq!(counted(), ("Enabled".into(), 7));
}

#[test]
fn a_fast_restart_keeps_front_ends_and_functions() {
    let service = Service::board();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 2");
    service.ok("modify -p 1 device -t 9000");
    let before = service.vuids();
    let mut guests = ["pf0.sock", "pf2.sock", "pf0vf1.sock"].map(|socket| service.guest(socket));
    for _ in 0..3 {
        guests.iter_mut().for_each(|(guest, _)| guest.loop_frames(50));
        assert_eq!(service.virtnet("restart").output, "SUCCESS\n");
        assert_eq!(service.vuids(), before);
    }
    guests.iter_mut().for_each(|(guest, _)| guest.loop_frames(50));
    assert_eq!(text(&service.query("-p 1"), "mtu"), "9000");
}
