use super::*;

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
    assert_eq!((config.lcores, config.burst), (Lcores::default(), 32));
    assert!(matches!(config.idle, Idle::Adaptive));
    let device = &config.devices[0];
    assert_eq!((device.mode, device.socket_mode, device.queue_pairs), (Mode::Server, 0o600, 1));
    assert_eq!((&device.port, device.mtu, device.features), (&Port::Switch, None, Features::default()));
    assert_eq!(device.mac(), device.mac(), "always the same");
    assert_eq!(device.mac().0[0] & 3, 2, "locally administered, one device's");
    assert!(parse(r#"{"devices": []}"#).unwrap().devices.is_empty());
    assert_eq!(parse("{}").unwrap_err(), "c.json: missing field `devices` at line 1 column 2");
}

#[test]
fn everything_can_be_said() {
    let config = parse(
        r#"{"lcores": "2-4,8", "idle": "event", "burst": 64,
            "switch": {"uplinks": [{"tap": "vn0"}, {"tap": "vn1"}]},
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
    let first = &config.devices[0];
    assert_eq!(first.mac().to_string(), "02:00:00:00:00:0a");
    assert_eq!((first.socket_mode, first.mtu), (0o660, Some(1500)));
    assert!(!first.features.mrg_rxbuf && first.features.packed && first.features.in_order);
    assert_eq!(first.port, Port::Tap(Tap { name: "en3f0pf0sf2000".into() }));
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
        ("tap (t)", r#""name": "b", "socket": "b.sock", "port": {"tap": {"name": "t"}}"#),
        ("tap (up)", r#""name": "b", "socket": "b.sock", "port": {"tap": {"name": "up"}}"#),
    ] {
        let error = two(first, second).unwrap_err();
        assert!(error.contains(&format!("have the same {key}; each needs its own")), "{error}");
    }
}
