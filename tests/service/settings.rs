//! What can be changed while a driver is there, and what cannot.

use std::time::Instant;

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
        ("-f 0x8000000000000000", -1000),
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
