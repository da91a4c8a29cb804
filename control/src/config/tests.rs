use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::class::Class;

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("c.json")).map_err(|error| error.to_string())
}

/// With one device of these keys besides its name and socket.
fn device(keys: &str) -> Result<Device, String> {
    let text = format!("{{\"devices\": [{{\"name\": \"vm1\",\n \"socket\": \"vm1.sock\", {keys} }}]}}");
    parse(&text.replace(",  }", " }")).map(|mut config| config.devices.remove(0))
}

#[test]
fn everything_has_a_default_but_name_and_socket() {
    let config = parse(r#"{"devices": [{"name": "vm1", "socket": "vm1.sock"}]}"#).unwrap();
    assert_eq!((&config.lcores, config.burst), (&Lcores::default(), 32));
    assert_eq!((config.idle, config.idle_policy(None)), (None, IdlePolicy::Adaptive));
    let device = &config.devices[0];
    assert_eq!((device.mode, device.socket_mode, device.queue_pairs), (Mode::Server, 0o600, 1));
    assert_eq!((&device.port, device.mtu, device.features), (&Port::Switch, None, Features::default()));
    assert_eq!(device.mac(), device.mac(), "always the same");
    assert_eq!(device.mac().0[0] & 3, 2, "locally administered, one device's");
    assert!(parse(r#"{"devices": []}"#).unwrap().devices.is_empty());
    assert!(parse("{}").unwrap().devices.is_empty());
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"{"lcores": "2-4,8", "idle": "event", "burst": 64,
            "switch": {"uplinks": [{"tap": "vn0", "offload": false}, {"netdev": "eth1"},
                                    {"dpdk": "net_tap0,iface=t0"}, {"dpdk": "0000:08:00.0"}]},
            "devices": [
              {"name": "vm1", "socket": "/run/vm1.sock", "mode": "client", "socket_mode": "0660",
               "queue_pairs": 4, "queue_size_max": 1024, "port": {"tap": {"name": "en3f0pf0sf2000"}},
               "mac": "02:00:00:00:00:0A", "mtu": 1500,
               "features": {"mrg_rxbuf": false, "packed": true}},
              {"name": "vm2", "socket": "vm2.sock", "port": {"source": {"frame_bytes": "imix", "rate_fps": 1e6}}},
              {"name": "vm3", "socket": "vm3.sock", "port": {"source": {"frame_bytes": [64, 570], "count": 5}}},
              {"name": "vm4", "socket": "vm4.sock", "port": {"pcap": {"replay": "a.pcap", "pace": 5, "record": "b.pcap"}}},
              {"name": "vm5", "socket": "vm5.sock", "port": "sink"},
              {"name": "vm6", "socket": "vm6.sock", "port": "loopback"}]}"#,
    )
    .unwrap();
    assert_eq!(config.lcores, Lcores(vec![2, 3, 4, 8]));
    let wires: Vec<_> = config.switch.uplinks.iter().map(|uplink| uplink.wire.clone()).collect();
    let dpdk = ["net_tap0,iface=t0", "0000:08:00.0"].map(|devargs| Wire::Dpdk(devargs.into()));
    assert_eq!(wires[..2], [Wire::Tap { name: "vn0".into(), offload: false }, Wire::Netdev("eth1".into())]);
    assert_eq!((&wires[2..], dpdk.each_ref().map(Wire::name)), (&dpdk[..], ["net_tap0", "0000:08:00.0"]));
    let without = config.notes().iter().any(|note| note.contains("`--features dpdk`, which needs libdpdk"));
    assert_eq!(without, cfg!(not(feature = "dpdk")));
    let first = &config.devices[0];
    assert_eq!(first.mac().to_string(), "02:00:00:00:00:0a");
    assert_eq!((first.socket_mode, first.mtu), (0o660, Some(1500)));
    assert!(!first.features.mrg_rxbuf && first.features.packed && first.features.in_order);
    assert_eq!(first.port, Port::Tap(Tap { name: "en3f0pf0sf2000".into(), offload: true }));
    let source = Source { frame_bytes: Sizes::Imix, rate_fps: Some(1e6), count: None };
    assert_eq!(config.devices[1].port, Port::Source(source));
    let Port::Source(source) = &config.devices[2].port else { panic!("a source") };
    assert_eq!((source.frame_bytes.cycle(), source.count), (vec![64, 570], Some(5)));
    let cycle = Sizes::Imix.cycle();
    assert_eq!([64, 594, 1518].map(|len| cycle.iter().filter(|one| **one == len).count()), [7, 4, 1]);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_what_is_allowed() {
    for (keys, error) in [
        (r#""queue_pair": 2"#, "unknown field `queue_pair`, expected one of"),
        (r#""queue_pairs": 0"#, "invalid value: integer `0`, expected 1 to 127 at line 2 column 41"),
        (r#""queue_pairs": 128"#, "expected 1 to 127"),
        (r#""queue_pairs": -1"#, "invalid value: integer `-1`, expected u64"),
        (r#""queue_pairs": "2""#, "invalid type: string \"2\", expected u64"),
        (r#""queue_size_max": 65536"#, "expected 2 to 32768"),
        (r#""transport": "vdpa""#, "unknown variant `vdpa`, expected `vhost-user` or `vfio-user`"),
        (r#""mode": "both""#, "unknown variant `both`, expected `server` or `client`"),
        (r#""socket_mode": "0888""#, "an octal mode that lets the owner in"),
        (r#""socket_mode": "0060""#, "an octal mode that lets the owner in"),
        (r#""mtu": 67"#, "expected 68 to 65535"),
        (r#""mac": "02:00:00:00:00""#, "one device's address"),
        (r#""mac": "03:00:00:00:00:01""#, "one device's address"),
        (r#""mac": "00:00:00:00:00:00""#, "one device's address"),
        (r#""mac": "02:00:00:00:00:01:02""#, "one device's address"),
        (r#""mac": "+2:00:00:00:00:01""#, "one device's address"),
        (r#""port": "wire""#, "unknown variant `wire`"),
        (r#""port": {"source": {}}"#, "missing field `frame_bytes`"),
        (r#""port": {"source": {"frame_bytes": 63}}"#, "expected 64 to 9216, a list of up to 64 of these, or \"imix\""),
        (
            r#""port": {"source": {"frame_bytes": 65600}}"#,
            "expected 64 to 9216, a list of up to 64 of these, or \"imix\"",
        ),
        (
            r#""port": {"source": {"frame_bytes": "big"}}"#,
            "expected 64 to 9216, a list of up to 64 of these, or \"imix\"",
        ),
        (r#""port": {"source": {"frame_bytes": []}}"#, "invalid length 0, expected 64 to 9216, a list"),
        (r#""port": {"source": {"frame_bytes": [64, 9217]}}"#, "invalid value: integer `9217`"),
        (r#""port": {"source": {"frame_bytes": 64, "rate_fps": 0}}"#, "expected a number above 0"),
        (r#""port": {"pcap": {"pace": "slow"}}"#, "expected \"captured\", \"fast\", or a number of frames a second"),
        (r#""port": {"pcap": {"pace": 0}}"#, "or a number of frames a second above 0"),
        (r#""port": {"tap": {"name": "a/b"}}"#, "a netdev's name"),
        (r#""port": {"tap": {"name": "much-too-long-for-it"}}"#, "a netdev's name"),
        (r#""features": {"packet": true}"#, "unknown field `packet`"),
        (r#""features": {"packed": 1}"#, "invalid type: integer `1`, expected a boolean"),
    ] {
        let found = device(keys).unwrap_err();
        assert!(found.contains(error), "{keys}: {found}");
        assert!(found.starts_with("c.json: ") && found.contains(" at line "), "{keys}: {found}");
    }
    for lcores in ["", "x", "1-", "3-2", "1,1", "1-3,2", "5000", "-1"] {
        let found = parse(&format!("{{\"lcores\": \"{lcores}\", \"devices\": []}}")).unwrap_err();
        assert!(found.contains("lcores, each once"), "{lcores}: {found}");
    }
    assert!(parse("{\"devices\": [").unwrap_err().contains("EOF while parsing"));
}

#[test]
fn devices_are_told_apart() {
    let two = |first: &str, second: &str| {
        parse(&format!(
            "{{\"switch\": {{\"uplinks\": [{{\"tap\": \"up\"}}]}}, \"devices\": [{{{first}}}, {{{second}}}]}}"
        ))
    };
    let first = r#""name": "a", "socket": "a.sock", "mac": "02:00:00:00:00:01", "port": {"tap": {"name": "t"}}"#;
    let fine = r#""name": "b", "socket": "b.sock", "mac": "02:00:00:00:00:02""#;
    assert!(two(first, fine).is_ok());
    for (key, second) in [
        ("name (a)", r#""name": "a", "socket": "b.sock""#),
        ("socket (a.sock)", r#""name": "b", "socket": "a.sock""#),
        ("mac (02:00:00:00:00:01)", r#""name": "b", "socket": "b.sock", "mac": "02:00:00:00:00:01""#),
        ("netdev (t)", r#""name": "b", "socket": "b.sock", "port": {"tap": {"name": "t"}}"#),
        ("netdev (up)", r#""name": "b", "socket": "b.sock", "port": {"tap": {"name": "up"}}"#),
    ] {
        let error = two(first, second).unwrap_err();
        assert!(error.contains(&format!("have the same {key}; each needs its own")), "{error}");
    }
}

#[test]
fn the_products_keys_have_the_products_defaults() {
    let config = parse("{}").unwrap();
    assert_eq!((config.ib_devices(), &*config.ib_dev_for_static_pf), (vec!["mlx5_0", "mlx5_1"], "mlx5_0"));
    assert!(config.recovery && !config.is_lag && !config.single_port && !config.packed_vq && !config.mrg_rxbuf);
    assert_eq!((config.sf_pool_percent, config.sf_pool_force_destroy), (0, false));
    assert_eq!((config.static_pf.mac_base, config.static_pf.features), (None, None));
    assert_eq!((config.vf.mac_base, config.vf.max_queue_pairs, config.vf.max_queue_size), (None, None, None));
    assert_eq!((config.sockets, config.sf_port), (ByClass::default(), ByClass::default()));
    assert_eq!((config.lm_prov, config.eth_vq_workers, config.admin_cmd_workers), (None, None, None));
}

#[test]
fn the_products_files_are_read() {
    let two_ports = r#"{
      "ib_dev_p0": "mlx5_0", "ib_dev_p1": "mlx5_1", "ib_dev_for_static_pf": "mlx5_0", "is_lag": 0,
      "recovery": 1, "sf_pool_percent": 0, "sf_pool_force_destroy": 0, "packed_vq": 0, "mrg_rxbuf": 0,
      "static_pf": {"mac_base": "08:11:22:33:44:55", "features": "0x230047082b"},
      "vf": {"mac_base": "06:11:22:33:44:55", "features": "0x230047082b", "vfs_per_pf": 126,
             "max_queue_pairs": 4, "max_queue_size": 256}
    }"#;
    let config = parse(two_ports).unwrap();
    assert_eq!(config.static_pf.mac_base, Some(Mac([8, 0x11, 0x22, 0x33, 0x44, 0x55])));
    assert_eq!(config.static_pf.features, Some(Hex(0x23_0047_082b)));
    assert_eq!(
        (config.vf.vfs_per_pf, config.vf.max_queue_pairs, config.vf.max_queue_size),
        (Some(126), Some(4), Some(256))
    );
    let missing = "asks for 0x2000000000, which this version does not have; the others are offered";
    assert_eq!(config.notes(), [format!("static_pf.features {missing}"), format!("vf.features {missing}")]);

    let lag = parse(r#"{"ib_dev_lag": "mlx5_bond_0", "ib_dev_for_static_pf": "mlx5_bond_0", "is_lag": 1}"#).unwrap();
    assert_eq!(lag.ib_devices(), ["mlx5_bond_0"]);
    let one = parse(r#"{"ib_dev_p0": "mlx5_2", "ib_dev_for_static_pf": "mlx5_2", "single_port": 1}"#).unwrap();
    assert_eq!((one.ib_devices(), one.notes()), (vec!["mlx5_2"], vec![]));
}

#[test]
fn static_pfs_are_as_many_as_there_are_numbers_for() {
    let config = |count: usize| {
        let devices = (0..count).map(|n| format!(r#"{{"name": "vm{n}", "socket": "vm{n}.sock"}}"#));
        parse(&format!(r#"{{"devices": [{}]}}"#, devices.collect::<Vec<_>>().join(",")))
    };
    assert_eq!(config(31).unwrap().devices.len(), 31);
    assert_eq!(config(32).unwrap_err(), "c.json: devices are 32: up to 31 static PFs are allowed");
}

#[test]
fn older_names_are_taken_for_what_they_became() {
    let config = parse(r#"{"pf_mac": "08:11:22:33:44:55", "vf": {"qp_num": 3}}"#).unwrap();
    assert_eq!(config.static_pf.mac_base, Some(Mac([8, 0x11, 0x22, 0x33, 0x44, 0x55])));
    assert_eq!(config.vf.max_queue_pairs, Some(3));
    for (text, older) in [
        (
            r#"{"pf_mac": "08:11:22:33:44:55", "static_pf": {"mac_base": "08:11:22:33:44:55"}}"#,
            "pf_mac is the older name of static_pf.mac_base",
        ),
        (r#"{"vf": {"max_queue_pairs": 3, "qp_num": 3}}"#, "vf.qp_num is the older name of vf.max_queue_pairs"),
    ] {
        assert_eq!(parse(text).unwrap_err(), format!("c.json: {older}: both are given, one is allowed"));
    }
}

#[test]
fn the_products_keys_are_checked_where_they_stand() {
    for (keys, error) in [
        (r#""ib_dev_p0": 0"#, "invalid type: integer `0`, expected a string at line 2 column 14"),
        (r#""ib_dev_p1": """#, "an RDMA device's name"),
        (r#""ib_dev_lag": "mlx5/0""#, "an RDMA device's name"),
        (r#""ib_dev_lag": null"#, "invalid type: null"),
        (r#""ib_dev_for_static_pf": null"#, "invalid type: null"),
        (r#""is_lag": 2"#, "invalid value: integer `2`, expected 0 or 1"),
        (r#""is_lag": true"#, "invalid type: boolean `true`, expected u64"),
        (r#""single_port": -1"#, "integer `-1`"),
        (r#""recovery": "1""#, "string \"1\""),
        (r#""recovery": 1.0"#, "floating point"),
        (r#""sf_pool_percent": 101"#, "expected 0 to 100"),
        (r#""sf_pool_force_destroy": 2"#, "expected 0 or 1"),
        (r#""packed_vq": 2"#, "expected 0 or 1"),
        (r#""mrg_rxbuf": 2"#, "expected 0 or 1"),
        (r#""dpa_core_start": 0, "dpa_core_end": 3"#, "expected 1 to 10"),
        (r#""dpa_core_start": 3, "dpa_core_end": 11"#, "expected 1 to 10"),
        (r#""lm_prov": "qemu""#, "unknown variant `qemu`, expected `vfe` or `kernel`"),
        (r#""eth_vq_workers": 0"#, "expected 1 to 24"),
        (r#""eth_vq_workers": 25"#, "expected 1 to 24"),
        (r#""admin_cmd_workers": 17"#, "expected 1 to 16"),
        (r#""static_pf": []"#, "invalid type: sequence, expected an object"),
        (r#""static_pf": null"#, "invalid type: null, expected an object"),
        (r#""static_pf": {"mac_base": "11:22:33:44:55:66"}"#, "one device's address"),
        (r#""static_pf": {"mac_base": null}"#, "invalid type: null"),
        (r#""static_pf": {"features": "230047082b"}"#, "bits in hexadecimal, up to 64, such as \"0x230047082b\""),
        (r#""static_pf": {"features": 1}"#, "invalid type: integer `1`"),
        (r#""static_pf": {"mtu": 1500}"#, "unknown field `mtu`, expected `mac_base` or `features`"),
        (r#""vf": {"vfs_per_pf": 0}"#, "expected 1 to 1008"),
        (r#""vf": {"vfs_per_pf": 1009}"#, "expected 1 to 1008"),
        (r#""vf": {"max_queue_pairs": 128}"#, "expected 1 to 127"),
        (r#""vf": {"qp_num": 0}"#, "expected 1 to 127"),
        (r#""vf": {"max_queue_size": 2}"#, "expected a power of 2 from 4 to 32768"),
        (r#""vf": {"max_queue_size": 300}"#, "expected a power of 2 from 4 to 32768"),
        (r#""vf": {"max_queue_size": 65536}"#, "expected a power of 2 from 4 to 32768"),
        (r#""sockets": {"pf": {}}"#, "unknown field `pf`, expected one of `static_pf`, `hotplug_pf`, `vf`"),
        (r#""sockets": {"vf": {"path": "{id}"}}"#, "a path with {pf}, {vf} or {vuid} in it"),
        (r#""sockets": {"vf": {"mode": "both"}}"#, "unknown variant `both`"),
        (r#""sockets": {"vf": {"socket_mode": "0999"}}"#, "an octal mode"),
        (
            r#""sf_port": {"vf": "wire"}"#,
            "unknown variant `wire`, expected one of `switch`, `tap`, `tap_offload`, `loopback`, `sink`",
        ),
        (r#""sf_port": "tap""#, "expected an object"),
        (r#""switch": {"uplinks": [{"tap": "vn0", "ib_dev": ""}]}"#, "an RDMA device's name"),
        (r#""switch": {"uplinks": [{"netdev": "a/b"}]}"#, "a netdev's name"),
        (
            r#""switch": {"uplinks": [{"ib_dev": "mlx5_0"}]}"#,
            "an uplink without an interface: one of tap, netdev, dpdk",
        ),
        (
            r#""switch": {"uplinks": [{"tap": "a", "netdev": "b"}]}"#,
            "tap \"a\" and netdev \"b\" are one uplink: one of them",
        ),
        (
            r#""switch": {"uplinks": [{"netdev": "b", "offload": true}]}"#,
            "offload is given for netdev \"b\": it is for a tap",
        ),
        (
            r#""switch": {"uplinks": [{"netdev": "b", "dpdk": "net_tap0,iface=c"}]}"#,
            "netdev \"b\" and dpdk \"net_tap0\" are one uplink: one of them",
        ),
        (r#""switch": {"uplinks": [{"dpdk": ",iface=c"}]}"#, "a DPDK device and its arguments"),
        (r#""switch": {"uplinks": [{"dpdk": "net_tap0 net_tap1"}]}"#, "a DPDK device and its arguments"),
        (r#""switch": {"uplinks": [["vn0"]]}"#, "invalid type: sequence, expected an object"),
        (r#""devices": [["vm1", "vm1.sock"]]"#, "invalid type: sequence, expected an object"),
        (r#""recovery": 1, "recovery": 1"#, "duplicate field `recovery`"),
        (r#""recovery": 1,"#, "trailing comma at line 2 column 15"),
    ] {
        let found = parse(&format!("{{\n{keys}}}")).unwrap_err();
        assert!(found.contains(error), "{keys}: {found}");
        assert!(found.contains(" at line 2 "), "{keys}: {found}");
    }
    assert!(parse("[]").unwrap_err().contains("invalid type: sequence, expected an object at line 1"));
    assert!(parse("").unwrap_err().contains("EOF while parsing"));
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_known_one() {
    for (text, start, end) in [
        (r#"{"is_lga": 1}"#, "unknown field", "at line 1 column 9; did you mean `is_lag`?"),
        (r#"{"Recovery": 1}"#, "unknown field", "at line 1 column 11; did you mean `recovery`?"),
        (r#"{"vf": {"vf_per_pf": 1}}"#, "vf: unknown field", "at line 1 column 19; did you mean `vfs_per_pf`?"),
        (r#"{"sf_port": {"vf": "tab"}}"#, "sf_port.vf: unknown variant", "at line 1 column 24; did you mean `tap`?"),
        (r#"{"allow_reboot": 1}"#, "unknown field", "at line 1 column 15"),
    ] {
        let found = parse(text).unwrap_err();
        assert!(found.starts_with(&format!("c.json: {start} `")) && found.ends_with(end), "{found}");
    }
    let found = device("\"queue_pair\": 2").unwrap_err();
    assert!(found.ends_with("at line 2 column 35; did you mean `queue_pairs`?"), "{found}");
}

#[test]
fn keys_that_do_not_go_together_are_refused() {
    for (text, error) in [
        (r#"{"is_lag": 1, "single_port": 1}"#, "is_lag and single_port are both 1: at most one is allowed"),
        (
            r#"{"ib_dev_lag": "mlx5_bond_0", "ib_dev_p0": "mlx5_0"}"#,
            "ib_dev_p0 (mlx5_0) and ib_dev_lag (mlx5_bond_0) are both given",
        ),
        (r#"{"ib_dev_lag": "a", "ib_dev_p1": "b", "is_lag": 1}"#, "ib_dev_p1 (b) and ib_dev_lag (a) are both given"),
        (r#"{"vf": {"mac_base": "06:11:22:33:44:55"}}"#, "vf.mac_base is given without vf.vfs_per_pf"),
        (r#"{"dpa_core_start": 3}"#, "dpa_core_start (3) is given without dpa_core_end"),
        (r#"{"dpa_core_end": 3}"#, "dpa_core_end (3) is given without dpa_core_start"),
        (r#"{"dpa_core_start": 3, "dpa_core_end": 3}"#, "dpa_core_start (3) is not below dpa_core_end (3)"),
        (r#"{"dpa_core_start": 10, "dpa_core_end": 3}"#, "dpa_core_start (10) is not below dpa_core_end (3)"),
        (r#"{"dpa_core_start": 3, "dpa_core_end": 4, "lcores": "3"}"#, "lcores and dpa_core_start are both given"),
        (
            r#"{"sockets": {"static_pf": {"path": "pf.sock"}}}"#,
            "sockets.static_pf.path does not tell every static PF apart: it needs {pf} or {vuid}",
        ),
        (r#"{"sockets": {"hotplug_pf": {"path": "{pf}x{vf}"}}}"#, "it needs no {vf}: that is for VFs only"),
        (r#"{"sockets": {"vf": {"path": "pf{pf}.sock"}}}"#, "sockets.vf.path does not tell every VF apart"),
        (r#"{"sockets": {"vf": {"path": "{pf}{vf}"}}}"#, "it needs something that is not a digit between"),
        (
            r#"{"switch": {"uplinks": [{"tap": "a", "ib_dev": "mlx5_1"}, {"tap": "b"}]}}"#,
            "devices \"a\" and \"b\" have the same ib_dev (mlx5_1); each needs its own",
        ),
        (
            r#"{"is_lag": 1, "switch": {"uplinks": [{"tap": "a"}, {"netdev": "b"}, {"tap": "c", "ib_dev": "mlx5_bond_0"}]}}"#,
            "is_lag is 1, and mlx5_bond_0 has the uplinks a, b, c: up to 2 are allowed",
        ),
        (
            r#"{"single_port": 1, "switch": {"uplinks": [{"tap": "a"}, {"tap": "b"}]}}"#,
            "single_port is 1, and the uplink b is port 1's (mlx5_1): there is only mlx5_0",
        ),
        (
            r#"{"single_port": 1, "ib_dev_for_static_pf": "mlx5_1"}"#,
            "single_port is 1, and ib_dev_for_static_pf is port 1's (mlx5_1): there is only mlx5_0",
        ),
    ] {
        let found = parse(text).unwrap_err();
        assert!(found.starts_with("c.json: ") && found.contains(error), "{text}: {found}");
    }
}

#[test]
fn uplinks_are_the_ports_in_turn() {
    let uplinks = |keys: &str| {
        let text = format!(r#"{{{keys} "switch": {{"uplinks": [{{"tap": "a"}}, {{"tap": "b"}}, {{"tap": "c"}}]}}}}"#);
        let uplinks = parse(&text).unwrap().switch.uplinks;
        uplinks.into_iter().map(|uplink| uplink.ib_dev).collect::<Vec<_>>()
    };
    assert_eq!(uplinks(""), ["mlx5_0", "mlx5_1", "mlx5_2"]);
    assert_eq!(uplinks(r#""ib_dev_p0": "left", "ib_dev_p1": "right","#), ["left", "right", "mlx5_2"]);
    assert_eq!(uplinks(r#""is_lag": 1,"#), ["mlx5_bond_0", "mlx5_bond_0", "mlx5_2"]);
    let single = r#"{"single_port": 1, "ib_dev_p0": "mlx5_1", "switch": {"uplinks": [{"tap": "a"}]}}"#;
    assert_eq!(parse(single).unwrap().switch.uplinks[0].ib_dev, "mlx5_1", "port 0 may have that name");
}

#[test]
fn sockets_and_ports_are_said_by_class() {
    let config = parse(
        r#"{"sockets": {"hotplug_pf": {"path": "/run/{vuid}.sock", "mode": "client"}, "vf": {"socket_mode": "0660"}},
            "sf_port": {"vf": "tap", "static_pf": "sink", "hotplug_pf": "tap_offload"}}"#,
    )
    .unwrap();
    let sockets = Class::ALL.map(|class| config.sockets.of(class).clone());
    let path = Template::of(Class::StaticPf);
    assert_eq!(sockets[0], Socket::default());
    assert_ne!(sockets[1].path, Some(path));
    assert_eq!((sockets[1].mode, sockets[1].socket_mode), (Mode::Client, 0o600));
    assert_eq!((&sockets[2].path, sockets[2].mode, sockets[2].socket_mode), (&None, Mode::Server, 0o660));
    assert_eq!(Class::ALL.map(|class| *config.sf_port.of(class)), [SfPort::Sink, SfPort::TapOffload, SfPort::Tap]);
}

#[test]
fn whole_functions_wait_for_their_clients() {
    let config = parse(r#"{"sockets": {"vf": {"transport": "vfio-user"}}}"#).unwrap();
    assert_eq!(Class::ALL.map(|class| config.sockets.of(class).transport == Transport::VfioUser), [false, false, true]);
    assert_eq!(device(r#""transport": "vfio-user""#).unwrap().transport, Transport::VfioUser);
    let both = r#""transport": "vfio-user", "mode": "client""#;
    for error in [device(both).unwrap_err(), parse(&format!(r#"{{"sockets": {{"vf": {{{both}}}}}}}"#)).unwrap_err()] {
        assert!(error.contains("mode is client with transport vfio-user: server is allowed"), "{error}");
    }
}

#[test]
fn what_is_asked_for_and_not_done_is_noted() {
    for (text, keys) in [
        (r#"{"lm_prov": "kernel"}"#, &["lm_prov has no effect"][..]),
        (r#"{"eth_vq_workers": 4, "admin_cmd_workers": 4}"#, &["eth_vq_workers has no", "admin_cmd_workers has no"]),
        (
            r#"{"sf_pool_percent": 5, "sf_pool_force_destroy": 1}"#,
            &["sf_pool_percent has no effect in this version: only SFs that are TAPs are made ahead"],
        ),
        (r#"{"sf_pool_percent": 5, "sf_port": {"vf": "tap"}}"#, &[]),
        (
            r#"{"sf_pool_force_destroy": 1}"#,
            &["sf_pool_force_destroy has no effect in this version: without sf_pool_percent there is no pool"],
        ),
        (r#"{"is_lag": 1}"#, &["ib_dev_for_static_pf is mlx5_0, which is none of the ports (mlx5_bond_0)"]),
        (
            r#"{"ib_dev_lag": "mlx5_bond_0"}"#,
            &["ib_dev_lag has no effect in this version: it is not used without is_lag"],
        ),
        (r#"{"single_port": 1, "ib_dev_p1": "mlx5_3"}"#, &["ib_dev_p1 has no effect in this version: single_port"]),
        (r#"{"vf": {"vfs_per_pf": 5}}"#, &["vf.vfs_per_pf has no effect"]),
        (
            r#"{"packed_vq": 1, "mrg_rxbuf": 1}"#,
            &["packed_vq and mrg_rxbuf are both 1: the product does not allow this"],
        ),
        (r#"{"packed_vq": 1, "recovery": 0, "single_port": 1}"#, &[]),
        (r#"{"vf": {"mac_base": "02:00:00:00:00:00", "vfs_per_pf": 5}}"#, &[]),
    ] {
        let notes = parse(text).unwrap().notes();
        assert_eq!(notes.len(), keys.len(), "{text}: {notes:?}");
        for (note, key) in notes.iter().zip(keys) {
            assert!(note.starts_with(key), "{text}: {note}");
        }
    }
}

#[test]
fn idle_workers_do_as_the_file_says_or_the_provider() {
    let (silent, spoken) = (parse("{}").unwrap(), parse(r#"{"idle": "adaptive"}"#).unwrap());
    assert_eq!(silent.idle_policy(Some(Provider::Ace)), IdlePolicy::Event);
    assert_eq!(silent.idle_policy(Some(Provider::Dpa)), IdlePolicy::Poll);
    assert_eq!(silent.idle_policy(None), IdlePolicy::Adaptive);
    assert_eq!(spoken.idle_policy(Some(Provider::Dpa)), IdlePolicy::Adaptive);
}

#[test]
fn dpa_cores_are_the_lcores_of_that_number() {
    let config = parse(r#"{"dpa_core_start": 3, "dpa_core_end": 10}"#).unwrap();
    let machine = |count: usize| (0..count).collect::<Vec<_>>();
    assert_eq!(config.lcores_of(&machine(16)), (Lcores((3..=10).collect()), None));
    let (lcores, note) = config.lcores_of(&machine(5));
    assert_eq!(lcores, Lcores(vec![3, 4]));
    assert_eq!(note.unwrap(), "dpa_core_start 3 to dpa_core_end 10 are 8 lcores, this machine has 2 of them");
    let (lcores, note) = config.lcores_of(&machine(2));
    assert_eq!((lcores.workers(), note.is_some()), (vec![None], true));
    let ours = parse(r#"{"lcores": "7"}"#).unwrap();
    assert_eq!(ours.lcores_of(&machine(2)), (Lcores(vec![7]), None), "the engine says what is wrong with it");
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let error = Config::read(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: over 16 MiB, which is the most allowed");
}

proptest! {
    #[test]
    fn no_text_is_too_odd(
        words in prop::collection::vec(
            prop::sample::select(vec![
                "{", "}", "[", "]", ",", ":", "0", "1", "-1", "null", "\"", "\"is_lag\"", "\"vf\"", "\"static_pf\"",
                "\"devices\"", "\"sockets\"", "\"path\"", "\"{pf}\"", "\"0x1\"", "\"`, expected `\"", "\"a\"",
            ]),
            0..30,
        ),
    ) {
        let text = words.concat();
        if let Ok(config) = parse(&text) {
            let _ = (config.notes(), config.lcores_of(&[0]));
        }
        let _ = parse(&format!("{{{text}}}"));
    }
}

/// The integers of an object of the schema, each with its bounds.
fn bounds(object: &serde_json::Value) -> Vec<(String, u64, u64)> {
    let bound = |value: &serde_json::Value, key: &str| value[key].as_u64();
    let properties = object["properties"].as_object().unwrap().iter();
    let integers =
        properties.filter_map(|(key, value)| Some((key.clone(), bound(value, "minimum")?, bound(value, "maximum")?)));
    integers.collect()
}

#[test]
fn the_schema_and_the_parser_agree_on_bounds() {
    let schema: serde_json::Value = serde_json::from_str(&Config::schema()).unwrap();
    let objects = [
        (&schema, "{KEY}", 12),
        (&schema["$defs"]["Vf"], "{\"vf\": {KEY}}", 3),
        (&schema["$defs"]["Device"], "{\"devices\": [{\"name\": \"a\", \"socket\": \"a\", KEY}]}", 3),
    ];
    for (object, around, count) in objects {
        assert_eq!(object["additionalProperties"], false);
        let bounds = bounds(object);
        assert_eq!(bounds.len(), count, "{bounds:?}");
        for (key, least, most) in bounds {
            // Refused for its value, or taken, or refused for what it is beside.
            let in_range = |value: i128| {
                let text = around.replace("KEY", &format!("\"{key}\": {value}"));
                !parse(&text).is_err_and(|error| error.contains("invalid value"))
            };
            let (least, most) = (i128::from(least), i128::from(most));
            assert_eq!([least - 1, least, most, most + 1].map(in_range), [false, true, true, false], "{key}");
        }
    }
}

#[test]
fn the_schema_knows_every_key() {
    let schema: serde_json::Value = serde_json::from_str(&Config::schema()).unwrap();
    let known: BTreeSet<_> = schema["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let error = parse("{\"?\": 0}").unwrap_err();
    assert_eq!(known, error.split('`').skip(3).step_by(2).collect());
    assert_eq!(schema["$defs"]["Device"]["required"], serde_json::json!(["name", "socket"]));
    assert_eq!(schema["required"], serde_json::Value::Null);
}

#[test]
fn a_value_out_of_range_is_told_with_its_key() {
    let told = |text: &str| Config::parse(text, Path::new("virtnet.conf")).unwrap_err().to_string();
    for (text, key) in [
        (r#"{"vf": {"max_queue_pairs": 500}}"#, "virtnet.conf: vf.max_queue_pairs: invalid value: integer `500`"),
        (r#"{"burst": 0}"#, "virtnet.conf: burst: invalid value"),
        (r#"{"devices": [{"name": "a", "socket": "a", "mtu": 1}]}"#, "virtnet.conf: devices[0].mtu: invalid value"),
    ] {
        let told = told(text);
        assert!(told.starts_with(key) && told.contains("at line 1 column"), "{told}");
    }
    assert!(told("{").starts_with("virtnet.conf: EOF"), "{}", told("{"));
}
