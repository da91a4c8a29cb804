//! Notifications that are held back, as operators set them.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use serde_json::Value;

use crate::front_end::Guest;
use crate::service::{SOON, Service, text};

/// Count, period and mode of each queue that runs.
#[track_caller]
fn moderation(service: &Service, selector: &str) -> Vec<[String; 3]> {
    let queues = service.ok(&format!("query {selector}"))["devices"][0]["enabled-queues-info"].clone();
    let keys = ["rq_cq_max_count", "rq_cq_period", "rq_cq_period_mode"];
    let one = |queue: &Value| keys.map(|key| text(queue, key).to_owned());
    queues.as_array().expect("a list").iter().map(one).collect()
}

fn both(count: &str, period: &str, mode: &str) -> Vec<[String; 3]> {
    vec![[count, period, mode].map(String::from); 2]
}

/// Sends a frame, and looks for it whenever it is notified.
#[track_caller]
fn is_notified(guest: &mut Guest) {
    assert!(guest.nic.send(&[2; 60]).unwrap());
    guest.kick();
    while !guest.nic.receive(&mut Vec::new()).unwrap() {
        let mut calls = [PollFd::new(&guest.calls[0], PollFlags::IN)];
        let patience = Timespec { tv_sec: SOON.as_secs() as i64, tv_nsec: 0 };
        assert_eq!(poll(&mut calls, Some(&patience)).unwrap(), 1, "nobody tells of the frame");
        // What was used before may be told late.
        rustix::io::read(&guest.calls[0], &mut [0; 8]).unwrap();
    }
    guest.kick();
    guest.nic.reap().unwrap();
}

fn restart(service: &Service) {
    let reply = service.virtnet("restart");
    assert_eq!((reply.status, reply.output.trim()), (0, "SUCCESS"), "{}", reply.errors);
}

#[test]
fn what_is_set_holds_for_all_queues_with_a_driver_and_without_and_after_every_start() {
    let mut service = Service::board();
    service.ok("sriov -p 1 -n 2");
    let (mut guest, frontend) = service.guest("pf0.sock");
    assert_eq!(moderation(&service, "-p 0"), both("0", "0", "1"));
    is_notified(&mut guest);
    service.ok("modify -p 0 queue -e cqe -n 30000 -c 1000");
    assert_eq!(moderation(&service, "-p 0"), both("1000", "30000", "2"));
    (0..3).for_each(|_| is_notified(&mut guest));
    guest.loop_frames(1000);
    restart(&service);
    assert_eq!(moderation(&service, "-p 0"), both("1000", "30000", "2"), "after a restart of the engine");
    (0..3).for_each(|_| is_notified(&mut guest));
    service.ok("modify -p 0 queue -e event -n 0 -c 0");
    assert_eq!(moderation(&service, "-p 0"), both("0", "0", "1"));
    is_notified(&mut guest);
    service.ok("modify -a queue -e event -n 20 -c 8");
    drop(frontend);
    service.wait_unbound("-p 0");
    service.ok("modify -p 0 device -t 2000");
    for socket in ["pf0.sock", "pf1vf1.sock"] {
        let (_guest, _frontend) = service.guest(socket);
        let selector = if socket == "pf0.sock" { "-p 0" } else { "-p 1 -v 1" };
        assert_eq!(moderation(&service, selector), both("8", "20", "1"), "of a device made anew");
    }
    for signal in [Signal::TERM, Signal::KILL] {
        service.start_again_after(signal);
        for (socket, selector) in [("pf0.sock", "-p 0"), ("pf1vf0.sock", "-p 1 -v 0")] {
            let (mut guest, _frontend) = service.guest(socket);
            assert_eq!(moderation(&service, selector), both("8", "20", "1"), "{selector} after {signal:?}");
            is_notified(&mut guest);
        }
    }
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let service = Service::board();
    let (_guest, _frontend) = service.guest("pf0.sock");
    service.ok("modify -p 0 queue -e cqe -n 65535 -c 65535");
    for (options, errno) in
        [("-e event -n 65536 -c 1", -22), ("-e event -n 1 -c 65536", -22), ("-e event -n 0 -c 1", -1032)]
    {
        assert_eq!(service.refused(&format!("modify -p 0 queue {options}")), errno, "{options}");
    }
    service.ok("modify -p 1 device -dim enable");
    assert_eq!(service.refused("modify -a queue -e event -n 1 -c 1"), -1032, "PF 1's follows its load");
    assert_eq!(service.refused("modify -p 0 device -dim enable -netdim disable"), -22);
    assert_eq!(moderation(&service, "-p 0"), both("65535", "65535", "2"));
    assert_eq!(text(&service.query("-p 0"), "dim"), "disabled");
}

#[test]
fn moderation_by_load_comes_and_goes_under_a_driver_and_comes_back() {
    let mut service = Service::board();
    let (mut guest, frontend) = service.guest("pf0.sock");
    service.ok("modify -p 0 queue -e cqe -n 50 -c 5");
    for option in ["-dim", "-netdim"] {
        service.ok(&format!("modify -p 0 device {option} enable"));
        assert_eq!(text(&service.query("-p 0"), "dim"), "enabled");
        let [_, transmitq] = moderation(&service, "-p 0").try_into().unwrap();
        assert_eq!(transmitq, ["5", "50", "2"], "the load is the receiveq's");
        guest.loop_frames(1000);
        is_notified(&mut guest);
        restart(&service);
        assert_eq!(text(&service.query("-p 0"), "dim"), "enabled");
        is_notified(&mut guest);
        service.ok(&format!("modify -p 0 device {option} disable"));
        assert_eq!(text(&service.query("-p 0"), "dim"), "disabled");
        assert_eq!(moderation(&service, "-p 0"), both("5", "50", "2"), "as it was by hand");
        is_notified(&mut guest);
    }
    service.ok("modify -p 0 device -dim enable -netdim enable");
    drop(frontend);
    for signal in [Signal::TERM, Signal::KILL] {
        service.start_again_after(signal);
        assert_eq!(text(&service.query("-p 0"), "dim"), "enabled");
        let (mut guest, _frontend) = service.guest("pf0.sock");
        is_notified(&mut guest);
        assert_eq!(moderation(&service, "-p 0")[1], ["5", "50", "2"]);
    }
}
