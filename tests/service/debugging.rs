//! What `query` tells of queues to those who look for a fault.

use serde_json::{Value, json};
use virtnet_control::vhost_user::frontend::Frontend;

use crate::front_end::Guest;
use crate::service::{Service, text};

/// A queue of the first pair, as `query` shows it with these options.
#[track_caller]
fn queue(service: &Service, index: usize, options: &str) -> Value {
    service.ok(&format!("query -p 0 {options}"))["devices"][0]["enabled-queues-info"][index].clone()
}

fn board() -> (Service, Guest, Frontend) {
    let service = Service::board();
    let (guest, frontend) = service.guest("pf0.sock");
    (service, guest, frontend)
}

#[test]
fn counters_for_debugging_begin_again_when_they_are_cleared_and_the_others_do_not() {
    let (service, mut guest, _frontend) = board();
    guest.loop_frames(100);
    let counted = |index, key: &str, options: &str| queue(&service, index, options)["dbg_stats"][key].clone();
    for (index, key) in [(0, "packets"), (1, "packets"), (1, "completed"), (1, "descriptors")] {
        assert_eq!(counted(index, key, "--dbg_stats"), 100, "{key} of queue {index}");
    }
    assert_ne!(counted(1, "notifications_sent", "--dbg_stats"), 0);
    assert_eq!(counted(1, "packets", "--dbg_stats --stats_clear"), 100, "shown, then cleared");
    for options in ["--dbg_stats", "--dbg_stats --stats_clear"] {
        let queue = queue(&service, 1, options);
        let counters = queue["dbg_stats"].as_object().expect("counters");
        let left: Vec<_> = counters.iter().filter(|(_, count)| **count != 0).collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(text(&queue, "completed_desc"), "100", "it is not for debugging");
    }
    guest.loop_frames(7);
    assert_eq!(counted(0, "packets", "--dbg_stats"), 7);

    // Without its own option it is not shown, and clears all the same, all queues of the function.
    assert_eq!(queue(&service, 0, "-q 0 --stats_clear")["dbg_stats"], Value::Null);
    assert_eq!(service.ok("query -a -b --stats_clear")["devices"][0]["enabled-queues-info"], Value::Null);
    for index in [0, 1] {
        assert_eq!(counted(index, "packets", "--dbg_stats"), 0);
    }
}

#[test]
fn latencies_are_sampled_of_both_queues() {
    let (service, mut guest, _frontend) = board();
    let sampled = |index| {
        let queue = queue(&service, index, "--latency_stats");
        queue["latency_stats"]["count"].as_u64().filter(|&count| count > 0).map(|_| queue["latency_stats"].clone())
    };
    let latencies = loop {
        guest.loop_frames(1000);
        if let (Some(received), Some(sent)) = (sampled(0), sampled(1)) {
            break [received, sent];
        }
    };
    for latencies in latencies {
        let ns = ["p50", "p90", "p99", "p99.9", "max"].map(|key| latencies[key].as_u64().expect("a time"));
        assert!(ns.is_sorted() && ns[0] > 0, "{latencies}");
    }
    service.ok("query -p 0 --stats_clear");
    let empty = json!({"count": 0, "p50": null, "p90": null, "p99": null, "p99.9": null, "max": null});
    for index in [0, 1] {
        assert_eq!(queue(&service, index, "--latency_stats")["latency_stats"], empty);
    }
}

#[test]
fn a_refused_query_clears_nothing() {
    let (service, mut guest, _frontend) = board();
    guest.loop_frames(3);
    assert_eq!(service.refused("query -p 0 -q 9 --stats_clear"), -1050);
    assert_eq!(queue(&service, 1, "--dbg_stats")["dbg_stats"]["packets"], 3);
}

#[test]
fn queues_of_frames_say_whether_they_may_be_long() {
    let service = Service::board();
    for (mtu, jumbo) in [(9216, 1), (1500, 0)] {
        service.ok(&format!("modify -p 0 device -t {mtu}"));
        let (_guest, frontend) = service.guest("pf0.sock");
        let output = service.virtnet("query -p 0 --dbg_stats").output;
        let lines: Vec<_> = output.lines().map(str::trim).filter(|line| line.contains("jumbo_mtu")).collect();
        let printed = format!("\"jumbo_mtu\": {jumbo},");
        assert_eq!(lines, [printed.as_str(); 2], "receiveq and transmitq");
        drop(frontend);
        service.wait_unbound("-p 0");
    }
}
