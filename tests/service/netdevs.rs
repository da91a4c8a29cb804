//! Representors that are netdevs: how long each of them lives, and what becomes of it when the controller goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde_json::{Value, json};
use virtnet_tests::namespace::{inside, ip};

use crate::front_end::Guest;
use crate::service::{BOARD, SOON, Service, loopback, text};

/// The pool of 80 % of a board's ten SFs.
const POOL: [&str; 8] = ["1000", "1001", "2000", "2001", "2002", "2003", "3000", "3001"];

fn taps(percent: u8, destroy: u8) -> Value {
    json!({
        "idle": "event", "sf_pool_percent": percent, "sf_pool_force_destroy": destroy,
        "sf_port": { "static_pf": "tap", "hotplug_pf": "tap", "vf": "tap" },
    })
}

/// Representors that there are, by SF, with their indices.
fn netdevs() -> BTreeMap<String, String> {
    let links = ip("-o link show");
    let named = links.lines().filter_map(|line| {
        let (index, rest) = line.split_once(": ")?;
        let sf = rest.split([':', '@']).next()?.strip_prefix("en3f0pf0sf")?;
        Some((sf.to_owned(), index.to_owned()))
    });
    named.collect()
}

fn sfs() -> BTreeSet<String> {
    netdevs().into_keys().collect()
}

fn set(sfs: &[&str]) -> BTreeSet<String> {
    sfs.iter().map(|&sf| sf.to_owned()).collect()
}

/// Waits until the pool is made.
#[track_caller]
fn wait_made(service: &mut Service) {
    service.daemon().wait_for("the SF pool is made", 0, SOON);
}

/// Frames go from one guest to the other, through whatever is between them.
#[track_caller]
fn cross(from: &mut Guest, to: &mut Guest, number: u8) {
    let mut frame = vec![number; 60];
    frame[..14].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    let (end, mut got) = (Instant::now() + SOON, Vec::new());
    while got != frame {
        assert!(Instant::now() < end, "frame {number} has not come");
        let _ = from.nic.send(&frame).unwrap();
        from.kick();
        while got != frame && to.nic.receive(&mut got).unwrap() {}
        to.kick();
    }
}

#[test]
fn a_bridge_keeps_its_ports_over_restart_and_modify() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let mut config = taps(0, 0);
    config["switch"] = json!({ "uplinks": [{ "tap": "up0" }] });
    let service = Service::with(BOARD, &config);
    ip("link add br0 type bridge forward_delay 0");
    ip("link set br0 up");
    let ports = ["en3f0pf0sf1000", "en3f0pf0sf1001", "up0"];
    ports.iter().for_each(|port| drop(ip(&format!("link set {port} master br0"))));
    let shown = || ports.map(|port| ip(&format!("-o link show {port}")));
    let indices = || shown().map(|line| line.split(':').next().map(str::to_owned));
    let before = indices();
    let check = |what: &str| {
        assert_eq!(indices(), before, "{what}");
        assert!(shown().iter().all(|line| line.contains("master br0") && line.contains("LOWER_UP")), "{what}");
    };
    let restart = || assert_eq!(service.virtnet("restart").output.trim(), "SUCCESS");
    // A guest that uses one pair of many has what the kernel gives to that one.
    for pf in [0, 1] {
        service.ok(&format!("modify -p {pf} device -qp 1"));
    }
    {
        let [(mut one, _first), (mut other, _second)] = ["pf0.sock", "pf1.sock"].map(|socket| service.guest(socket));
        cross(&mut one, &mut other, 1);
        restart();
        check("restart");
        cross(&mut one, &mut other, 2);
    }
    service.wait_unbound("-p 0");
    for change in ["-t 9000", "-m 0C:C4:7A:FF:22:77", "-qp 7", "-qp 2", "-qp 31", "-q 1024", "-qp 1"] {
        service.ok(&format!("modify -p 0 device {change}"));
        check(change);
        restart();
        check(change);
    }
    assert!(ip("-o link show en3f0pf0sf1000").contains("mtu 9000"));
    let [(mut one, _first), (mut other, _second)] = ["pf0.sock", "pf1.sock"].map(|socket| service.guest(socket));
    cross(&mut one, &mut other, 3);
    cross(&mut other, &mut one, 4);
    // Who deletes a function's netdev gets another one when it is made anew, and it goes with the function.
    service.ok("sriov -p 0 -n 1");
    ip("link del en3f0pf0sf3000");
    service.ok("modify -p 0 -v 0 device -t 1400");
    assert!(ip("-o link show en3f0pf0sf3000").contains("mtu 1400"));
    service.ok("sriov -p 0 -n 0");
    assert_eq!(sfs(), set(&["1000", "1001"]));
}

#[test]
fn the_pool_is_made_used_again_kept_and_destroyed() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let mut service = Service::with(BOARD, &taps(80, 0));
    wait_made(&mut service);
    let made = netdevs();
    assert_eq!(sfs(), set(&POOL));
    ip("link add br0 type bridge");
    ip("link set en3f0pf0sf3000 master br0");

    // Of four VFs two are the pool's, and so it is with PFs.
    service.ok("sriov -p 0 -n 2");
    service.ok("sriov -p 1 -n 2");
    assert_eq!(service.query("-p 0 -v 0")["sf_rep_net_ifindex"].to_string(), made["3000"]);
    assert_eq!(text(&service.hotplug(1), "sf_rep_net_device"), "en3f0pf0sf2000");
    assert_eq!(sfs(), set(&[&POOL[..], &["3002", "3003"]].concat()));
    service.ok("sriov -p 0 -n 0");
    service.ok("sriov -p 1 -n 0");
    service.ok("unplug -p 2");
    assert_eq!(netdevs(), made, "those are back");

    // They wait for the next controller, however this one ends.
    service.ok("sriov -p 0 -n 2");
    service.end();
    assert_eq!(netdevs(), made);
    service.start();
    wait_made(&mut service);
    assert_eq!(service.query("-p 0 -v 0")["sf_rep_net_ifindex"].to_string(), made["3000"]);
    service.kill();
    assert_eq!(netdevs(), made);
    service.start();
    wait_made(&mut service);
    assert_eq!(netdevs(), made);
    assert!(ip("-o link show en3f0pf0sf3000").contains("master br0"));

    // A smaller pool: the others go at the start.
    service.kill();
    service.configure(&taps(30, 0));
    service.start();
    wait_made(&mut service);
    assert_eq!(sfs(), set(&["1000", "1001", "2000", "3000", "3001"]), "two are VFs' and not the pool's");
    assert_eq!(netdevs()["2000"], made["2000"]);
    service.end();
    assert_eq!(sfs(), set(&["1000", "1001", "2000"]));

    service.configure(&taps(80, 1));
    service.start();
    wait_made(&mut service);
    assert_eq!(sfs(), set(&POOL));
    service.end();
    assert_eq!((sfs(), service.path("state/netdevs.json").exists()), (set(&[]), false));
}

#[test]
fn a_controller_that_is_killed_while_it_makes_the_pool_leaves_nothing_unknown() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let settings = "VIRTIO_NET_EMULATION_ENABLE=1 VIRTIO_NET_EMULATION_NUM_PF=1 VIRTIO_NET_EMULATION_NUM_VF=120
        VIRTIO_NET_EMULATION_NUM_MSIX=4 PCI_SWITCH_EMULATION_ENABLE=1 PCI_SWITCH_EMULATION_NUM_PORT=2";
    let mut service = Service::prepared(settings, &taps(100, 0));
    for many in [0, 1, 5, 40] {
        service.configure(&taps(100, 0));
        let daemon = service.spawn();
        service.adopt(daemon);
        let end = Instant::now() + SOON;
        while netdevs().len() < many {
            assert!(Instant::now() < end, "the pool does not come");
        }
        service.kill();
        let file = std::fs::read(service.path("state/netdevs.json")).unwrap_or_else(|_| b"{}".into());
        let known: BTreeMap<String, u32> = serde_json::from_slice(&file).expect("whole");
        for (sf, index) in netdevs() {
            assert_eq!(known.get(&format!("en3f0pf0sf{sf}")).map(u32::to_string), Some(index), "{sf}");
        }
        // One that has no pool leaves nothing.
        service.configure(&loopback());
        service.start();
        assert_eq!((sfs(), service.path("state/netdevs.json").exists()), (set(&[]), false), "{many}");
        service.end();
    }
    // Whoever asks while the pool is being made gets its SF.
    service.configure(&taps(100, 0));
    service.start();
    service.ok("sriov -p 0 -n 120");
    service.hotplug(1);
    wait_made(&mut service);
    assert_eq!(netdevs().len(), 123);
    assert!(!service.log().contains("ERROR"), "{}", service.log());
    service.kill();
    service.configure(&taps(100, 1));
    service.start();
    service.end();
    assert_eq!(sfs(), set(&[]));
}

#[test]
fn a_netdev_that_is_not_ours_is_left_alone() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    ip("tuntap add en3f0pf0sf2001 mode tap multi_queue");
    let before = netdevs();
    let mut service = Service::prepared(BOARD, &taps(80, 0));
    let mut daemon = service.spawn();
    assert!(!daemon.wait_end(SOON).success());
    assert!(daemon.output().contains("en3f0pf0sf2001 is there already"), "{}", daemon.output());
    assert_eq!(netdevs(), before);

    // Nor one that has come in the place of ours.
    ip("link del en3f0pf0sf2001");
    service.start();
    wait_made(&mut service);
    service.kill();
    ip("link del en3f0pf0sf2001");
    ip("tuntap add en3f0pf0sf2001 mode tap multi_queue");
    let before = netdevs();
    let mut daemon = service.spawn();
    assert!(!daemon.wait_end(SOON).success());
    assert_eq!(netdevs(), before);
    service.configure(&loopback());
    service.start();
    assert_eq!(sfs(), set(&["2001"]));
    service.end();
    assert_eq!(netdevs()["2001"], before["2001"]);
}
