//! Ways out of the switch: LAG, a single port, and interfaces that lose their links. Where interfaces are needed, the test runs
//! itself again in a network namespace of its own.

use std::time::Instant;

use serde_json::{Value, json};
use virtnet_engine::counters::BurstCounts;
use virtnet_engine::port::netdev::Netdev;

use crate::front_end::Guest;
use crate::service::{BOARD, SOON, Service, text};
use virtnet_tests::namespace::{inside, ip};

const FLOWS: u16 = 32;

/// A frame of a flow from a guest to nobody we know.
fn datagram(flow: u16, number: u8) -> Vec<u8> {
    let ip = [0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 7, 0, 2, 10, 7, 0, 1];
    let udp = [flow, 4000, 9, 0].map(u16::to_be_bytes).concat();
    [&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0][..], &ip, &udp, &[number; 18]].concat()
}

/// Sends a frame of each flow; returns which interface each has left by.
fn left_by(guest: &mut Guest, interfaces: &mut [Netdev; 2], number: u8) -> Vec<usize> {
    let mut came = vec![None; FLOWS.into()];
    let end = Instant::now() + SOON;
    for flow in 0..FLOWS {
        while !guest.nic.send(&datagram(flow, number)).unwrap() {
            assert!(Instant::now() < end, "the device takes nothing");
        }
        guest.kick();
    }
    for turn in 1.. {
        assert!(Instant::now() < end, "{came:?}");
        for (index, interface) in interfaces.iter_mut().enumerate() {
            while let Some(frame) = interface.take_frame(turn * 1_000_000, &mut BurstCounts::default()) {
                let mut bytes = vec![0; frame.len_bytes as usize];
                frame.parts.read(&mut bytes);
                interface.take_back(frame.ticket as u16);
                let flow = bytes.get(34..36).map_or(0, |port| u16::from_be_bytes([port[0], port[1]]));
                // Linux has something to say there, too.
                if flow < FLOWS && bytes == datagram(flow, number) {
                    assert_eq!(came[usize::from(flow)].replace(index), None, "flow {flow} has left twice");
                }
            }
        }
        if !came.contains(&None) {
            break;
        }
    }
    came.into_iter().flatten().collect()
}

/// The row of an interface in `switch ports`.
fn port(service: &Service, name: &str) -> Value {
    let ports = service.ok("switch ports")["ports"].clone();
    let found = ports.as_array().unwrap().iter().find(|port| port["port"] == name);
    found.unwrap_or_else(|| panic!("{name} is not in {ports}")).clone()
}

fn wait_for_link(service: &Service, name: &str, link: &str) {
    let end = Instant::now() + SOON;
    while port(service, name)["link"] != link {
        assert!(Instant::now() < end, "{name} is not {link}: {}", port(service, name));
        std::thread::yield_now();
    }
}

#[test]
fn under_lag_two_uplinks_are_one_and_either_carries_all() {
    if !inside(&["/dev/net/tun"]) {
        return;
    }
    let config = json!({
        "idle": "event", "is_lag": 1, "ib_dev_lag": "mlx5_bond_0", "ib_dev_for_static_pf": "mlx5_bond_0",
        "switch": { "uplinks": [{ "tap": "up0" }, { "tap": "up1" }] },
    });
    let mut service = Service::with(BOARD, &config);
    assert_eq!(text(&service.query("-p 0"), "sf_parent_device"), "mlx5_bond_0");
    service.ok("hotplug -i mlx5_bond_0 -m 0C:C4:7A:FF:22:01 -t 1500 -qp 1 -s 256");
    assert_eq!(service.refused("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256"), -22);
    for name in ["up0", "up1"] {
        let port = port(&service, name);
        assert_eq!((&port["bond"], &port["link"]), (&"mlx5_bond_0".into(), &"up".into()), "{port}");
    }

    let mut interfaces = ["up0", "up1"].map(|name| Netdev::open(name).unwrap().0);
    let (mut guest, _frontend) = service.guest("pf0.sock");
    let spread = left_by(&mut guest, &mut interfaces, 0);
    assert!(spread.contains(&0) && spread.contains(&1), "{spread:?}");
    let sent = ["up0", "up1"].map(|name| port(&service, name)["packets_out"].as_u64().unwrap());
    assert_eq!(sent.iter().sum::<u64>(), u64::from(FLOWS));
    ip("link set up0 down");
    wait_for_link(&service, "up0", "down");
    service.daemon().wait_for("uplink up0 has no link", 0, SOON);
    assert_eq!(left_by(&mut guest, &mut interfaces, 1), [1; FLOWS as usize]);
    ip("link set up0 up");
    wait_for_link(&service, "up0", "up");
    assert_eq!(left_by(&mut guest, &mut interfaces, 2), spread);

    // Another engine knows the bond, too.
    drop(interfaces);
    assert_eq!(service.virtnet("restart").status, 0);
    wait_for_link(&service, "up1", "up");
    let mut interfaces = ["up0", "up1"].map(|name| Netdev::open(name).unwrap().0);
    assert_eq!(left_by(&mut guest, &mut interfaces, 3), spread);
    let hello = [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 9, 8, 0][..], &[7; 46]].concat();
    interfaces[1].transmit_bytes(&hello).unwrap();
    let (mut got, end) = (Vec::new(), Instant::now() + SOON);
    while got != hello {
        assert!(Instant::now() < end, "the guest does not hear the bond");
        guest.nic.receive(&mut got).unwrap();
        guest.kick();
    }
    let heard = service.ok("switch fdb")["fdb"].clone();
    let station = heard.as_array().unwrap().iter().find(|entry| entry["mac"] == "02:00:00:00:00:09");
    assert_eq!(station.unwrap_or(&heard)["device"], "mlx5_bond_0");
    service.end();
}

#[test]
fn an_interface_of_the_host_is_an_uplink_while_it_is_there() {
    if !inside(&[]) {
        return;
    }
    let veth = || {
        ip("link add wire0 type veth peer name far0");
        ip("link set wire0 up");
        ip("link set far0 up");
    };
    let config = json!({ "idle": "event", "switch": { "uplinks": [{ "netdev": "wire0" }] } });
    let mut service = Service::prepared(BOARD, &config);
    let mut daemon = service.spawn();
    daemon.wait_for("uplink wire0: netdev: interface wire0: binding a packet socket: No such device", 0, SOON);
    assert!(!daemon.wait_end(SOON).success());
    veth();
    service.start();
    wait_for_link(&service, "wire0", "up");
    assert_eq!(port(&service, "wire0")["bond"], Value::Null);
    ip("link del wire0");
    wait_for_link(&service, "wire0", "gone");
    service.wait_error(&["uplink wire0 is gone"]);
    veth();
    wait_for_link(&service, "wire0", "up");
    let (mut guest, _frontend) = service.guest("pf0.sock");
    ip("link add spare type veth peer name spare1");
    let mut interfaces = ["far0", "spare"].map(|name| Netdev::open(name).unwrap().0);
    assert_eq!(left_by(&mut guest, &mut interfaces, 0), [0; FLOWS as usize]);
    service.end();
}

#[test]
fn with_a_single_port_there_is_nothing_on_the_other() {
    let mut config = json!({ "idle": "event" });
    let mut service = Service::with(BOARD, &config);
    service.hotplug(1);
    let on_second = "hotplug -i mlx5_1 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256";
    service.ok(on_second);
    assert_eq!(service.list().len(), 4);
    service.end();
    // A function that was on the other port is not there any more, and its file is left alone.
    config["single_port"] = 1.into();
    service.configure(&config);
    let files = service.recovery_files();
    service.start();
    service.wait_error(&["recovery", "ib_device is mlx5_1; mlx5_0 are allowed"]);
    assert_eq!((service.list().len(), service.recovery_files()), (3, files));
    let port = service.ok("switch ports")["ports"][0]["port"].clone();
    assert!(port.as_str().unwrap().starts_with("en3f0pf0sf"), "{port}");
    service.refused(on_second);
    let refusal = service.virtnet(on_second);
    assert!((refusal.output + &refusal.errors).contains("ib_device is mlx5_1; mlx5_0 are allowed"));
    service.end();
}
