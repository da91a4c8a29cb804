//! Functions come and go: slots, SF numbers, addresses, and VFs all at once.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::service::{BOARD, SOON, Service, loopback, text};

#[test]
fn pfs_are_plugged_into_slots_while_there_are_any() {
    let service = Service::with(&BOARD.replace("PORT=4", "PORT=2"), &loopback());
    let first = service.hotplug(1);
    assert_eq!((&first["id"], text(&first, "mac")), (&Value::from(2), "0C:C4:7A:FF:22:01"));
    assert_eq!(text(&first, "sf_rep_net_device"), "en3f0pf0sf2000");
    assert!(text(&first, "vuid").ends_with("VNETS1D0F0"), "{first}");
    let second = service.hotplug(2);
    assert_eq!((&second["id"], text(&second, "sf_rep_net_device")), (&Value::from(3), "en3f0pf0sf2001"));
    assert_ne!((&first["vuid"], &first["bdf"]), (&second["vuid"], &second["bdf"]));
    let third = "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:03 -t 1500 -qp 1 -s 256";
    assert_eq!(service.refused(third), -1031);

    // The slot, the ids, the SF and the address are free again.
    assert_eq!(service.ok(&format!("unplug -u {}", text(&first, "vuid"))), json!({"errno": 0, "errstr": "Success"}));
    assert!(!service.path("pf2.sock").exists());
    assert_eq!(service.refused("unplug -p 2"), -1001);
    assert_eq!(service.hotplug(1), first);
    let listed = service.list();
    let plugged: Vec<_> = listed.iter().filter(|device| device["function_type"] == "hotplug PF").collect();
    assert_eq!(plugged.len(), 2);
    for device in plugged {
        let fields =
            ["max_queue_pairs", "num_msix", "max_queue_size", "mtu", "link_status"].map(|key| text(device, key));
        assert_eq!(fields, ["1", "4", "256", "1500", "1"]);
    }
    assert_eq!(service.ok("list")["controller"]["max_hotplug_devices"], "2");
}

#[test]
fn what_a_pf_cannot_be_plugged_with_is_refused() {
    let service = Service::board();
    service.ok("hotplug -i mlx5_1 -m 0C:C4:7A:FF:22:01 -t 1500 -qp 31 -s 4 -u 2500");
    let plugged = service.query("-p 2");
    assert_eq!((&plugged["sf_num"], text(&plugged, "sf_parent_device")), (&Value::from(2500), "mlx5_1"));
    let before = service.list();
    for (line, errno) in [
        ("-i mlx5_9 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256", -22),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:01 -t 1500 -qp 1 -s 256", -1008),
        ("-i mlx5_0 -m 01:00:5E:00:00:01 -t 1500 -qp 1 -s 256", -22),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 67 -qp 1 -s 256", -1010),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 9217 -qp 1 -s 256", -1010),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 70000 -qp 1 -s 256", -22),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 0 -s 256", -1073),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 32 -s 256", -1073),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 128 -s 256", -1073),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -n 2 -s 256", -1073),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 2", -1042),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 100", -1042),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 0x10000", -22),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256 -u 2500", -1049),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256 -u 1999", -1048),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256 -u 3000", -1048),
        ("-i mlx5_0 -m 0C:C4:7A:FF:22:02 -t 1500 -qp 1 -s 256 -f 0x4000000000000000", -1000),
    ] {
        assert_eq!(service.refused(&format!("hotplug {line}")), errno, "{line}");
    }
    assert_eq!(service.refused("unplug -p 0"), -1002);
    assert_eq!(service.list(), before);
}

#[test]
fn vfs_come_and_go_all_at_once() {
    let mut service = Service::board();
    let count = |service: &Service| {
        let pf = service.query("-p 0");
        let listed = service.list().iter().filter(|device| device["parent_pf_id"] == 0).count();
        assert_eq!(text(&pf, "enabled_vfs"), listed.to_string());
        assert_eq!(text(&pf, "pci_max_vfs"), "2");
        listed
    };
    assert_eq!(service.refused("sriov -p 0 -n 3"), -1006);
    service.ok("sriov -p 0 -n 0");
    assert_eq!(count(&service), 0);
    service.ok("sriov -p 0 -n 2");
    assert_eq!(count(&service), 2);
    for other in [1, 2] {
        assert_eq!(service.refused(&format!("sriov -p 0 -n {other}")), -22);
    }
    assert_eq!(count(&service), 2);
    let vf = service.query("-p 0 -v 1");
    assert!(text(&vf, "vuid").ends_with("VNETS0D0F0VF2"), "{vf}");
    let by_name = service.query(&format!("-u {}", text(&vf, "vuid")));
    assert_eq!(by_name, vf);

    // Another PF's are its own.
    service.ok("sriov -p 1 -n 1");
    assert_ne!(text(&service.query("-p 1 -v 0"), "mac"), text(&service.query("-p 0 -v 0"), "mac"));
    service.ok("sriov -p 0 -n 0");
    assert_eq!(count(&service), 0);
    service.daemon().wait_for("Unload (2) VFs finished", 0, SOON);
    assert_eq!(service.virtnet("query -p 0 -v 1 -b").status, 1);
    assert_eq!(text(&service.query("-p 1 -v 0"), "function_type"), "VF");
    service.ok("sriov -p 0 -n 1");
    assert_eq!(count(&service), 1);

    service.hotplug(1);
    assert_eq!(service.refused("sriov -p 2 -n 1"), -1006, "a hotplug PF has no VFs");
}

#[test]
fn a_function_goes_from_under_its_driver() {
    let service = Service::board();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 2");
    let (mut staying, _frontend) = service.guest("pf0.sock");
    let going = ["pf2.sock", "pf0vf0.sock", "pf0vf1.sock"].map(|socket| service.guest(socket));
    service.ok("unplug -p 2");
    service.ok("sriov -p 0 -n 0");
    for (_, mut frontend) in going {
        assert!(frontend.get_features().is_err(), "the device is gone");
    }
    staying.loop_frames(100);
    assert_eq!(service.list().len(), 2);
}

#[test]
fn a_function_is_in_its_guest_or_not_there_at_all() {
    let mut config = loopback();
    config["guests"] = json!([{ "name": "vm", "qmp": "qmp", "root_ports": ["rp0"] }]);
    let mut service = Service::with(BOARD, &config);
    let line = |n: u8| format!("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:{n:02x} -t 1500 -qp 1 -s 256");
    assert_eq!(service.refused(&format!("{} -g other", line(1))), -22, "no such guest");
    assert_eq!(service.refused(&line(1)), -1031, "its QEMU does not run");
    let count = service.list().len();

    let listener = UnixListener::bind(service.path("qmp")).expect("a socket");
    let monitor = |commands| listener.try_clone().map(|listener| std::thread::spawn(move || obey(&listener, commands)));
    // With its capabilities: three parts.
    let obeyed = monitor(4).expect("a thread");
    let plugged = service.ok(&line(1));
    assert_eq!((text(&plugged, "guest"), text(&plugged, "root_port")), ("vm", "rp0"));
    assert_eq!(obeyed.join().expect("obeyed").last().map(String::as_str), Some("device_add"));
    assert_eq!(service.refused(&line(2)), -1031, "its root port is not free");
    assert_eq!(service.list().len(), count + 1);

    // Where it is outlives the controller.
    service.start_again_after(Signal::KILL);
    assert_eq!(service.refused(&line(2)), -1031);
    let unplug = format!("unplug -u {}", text(&plugged, "vuid"));
    let obeyed = monitor(1).expect("a thread");
    service.ok(&unplug);
    assert_eq!(
        obeyed.join().expect("obeyed"),
        ["qmp_capabilities"],
        "it ends before it obeys: its devices have gone with it"
    );
    assert_eq!(service.list().len(), count);
}

#[test]
fn without_a_guest_arguments_for_qemu_are_told() {
    let service = Service::board();
    let plugged = service.hotplug(1);
    let arguments = plugged["qemu_arguments"].as_array().expect("arguments");
    assert_eq!((arguments.len(), &arguments[0], &arguments[4]), (6, &json!("-chardev"), &json!("-device")));
    assert!(
        arguments[1].as_str().is_some_and(|value| value.contains(service.path("pf2.sock").to_str().expect("UTF-8")))
    );
}

/// A monitor that obeys so many commands of one who asks, and returns them.
fn obey(listener: &UnixListener, commands: usize) -> Vec<String> {
    let (mut stream, _) = listener.accept().expect("a connection");
    writeln!(stream, "{}", json!({ "QMP": {} })).expect("it reads");
    let lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
    let obey = |line: std::io::Result<String>| {
        let command: Value = serde_json::from_str(&line.expect("a line")).expect("JSON");
        writeln!(stream, "{}", json!({ "return": {} })).expect("it reads");
        command["execute"].as_str().expect("a command").to_owned()
    };
    lines.take(commands).map(obey).collect()
}
