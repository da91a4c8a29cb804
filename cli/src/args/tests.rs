use clap::error::ErrorKind;
use serde_json::json;

use super::*;

fn read(line: &str) -> Result<Arguments, clap::Error> {
    Arguments::from_words(line.split_whitespace().map(OsString::from))
}

#[track_caller]
fn asks(line: &str, method: &str, params: Value, echo: &str) {
    let arguments = read(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    let Task::Ask(request) = arguments.command.task() else { panic!("{line} asks nothing") };
    let found = (request.method.as_str(), Value::Object(request.params), request.echo.to_string());
    assert_eq!(found, (method, params, echo.to_owned()), "{line}");
}

#[track_caller]
fn refused(line: &str, kind: ErrorKind, texts: &[&str]) {
    let error = read(line).err().unwrap_or_else(|| panic!("{line} was taken"));
    assert_eq!(error.kind(), kind, "{line}: {error}");
    let message = error.to_string();
    for text in texts {
        assert!(message.contains(text), "{line}: {message}");
    }
}

/// Each line of the product's guides, with what stands for a value there replaced by one.
#[test]
fn devices_are_plugged_in_and_out() {
    asks(
        "virtnet hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -qp 1 -s 1024",
        "hotplug",
        json!({"ib_device": "mlx5_0", "mac": "0C:C4:7A:FF:22:93", "mtu": 1500, "max_queue_pairs": 1, "max_queue_size": 1024}),
        "{'ib_device': 'mlx5_0', 'mac': '0C:C4:7A:FF:22:93', 'mtu': '0x5dc', 'max_queue_pairs': '0x1', \
         'max_queue_size': '0x400', 'legacy': '0x0'}",
    );
    asks(
        "virtnet hotplug -i mlx5_0 -f 0x0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024",
        "hotplug",
        json!({"ib_device": "mlx5_0", "features": "0x0", "mac": "0C:C4:7A:FF:22:93", "mtu": 1500, "max_queues": 3,
               "max_queue_size": 1024}),
        "{'ib_device': 'mlx5_0', 'features': '0x0', 'mac': '0C:C4:7A:FF:22:93', 'mtu': '0x5dc', 'max_queues': '0x3', \
         'max_queue_size': '0x400', 'legacy': '0x0'}",
    );
    asks(
        "virtnet hotplug -i mlx5_0 -f 0x80000 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024 -l",
        "hotplug",
        json!({"ib_device": "mlx5_0", "features": "0x80000", "mac": "0C:C4:7A:FF:22:93", "mtu": 1500, "max_queues": 3,
               "max_queue_size": 1024, "legacy": true}),
        "{'ib_device': 'mlx5_0', 'features': '0x80000', 'mac': '0C:C4:7A:FF:22:93', 'mtu': '0x5dc', 'max_queues': '0x3', \
         'max_queue_size': '0x400', 'legacy': '0x1'}",
    );
    asks("virtnet unplug -p 0", "unplug", json!({"pf": 0}), "{'pf': '0x0'}");
    asks("virtnet unplug -p 1", "unplug", json!({"pf": 1}), "{'pf': '0x1'}");
    asks(
        "virtnet unplug -u MT2151X03152VNETS1D0F0",
        "unplug",
        json!({"vuid": "MT2151X03152VNETS1D0F0"}),
        "{'vuid': 'MT2151X03152VNETS1D0F0'}",
    );
}

#[test]
fn devices_are_looked_at() {
    let unset = "'dbg_stats': '0x0', 'brief': '0x0', 'latency_stats': '0x0', 'stats_clear': '0x0'}";
    let brief = unset.replace("'brief': '0x0'", "'brief': '0x1'");
    let query = |line: &str, params, echo: &str| asks(line, "query", params, echo);
    asks("virtnet list", "list", json!({}), "{}");
    query("virtnet query -a", json!({"all": true}), &format!("{{'all': '0x1', {unset}"));
    query("virtnet query -a -b", json!({"all": true, "brief": true}), &format!("{{'all': '0x1', {brief}"));
    query("virtnet query -p 0", json!({"pf": 0}), &format!("{{'all': '0x0', 'pf': '0x0', {unset}"));
    query("virtnet query -p 0 -b", json!({"pf": 0, "brief": true}), &format!("{{'all': '0x0', 'pf': '0x0', {brief}"));
    query("virtnet query -p 1", json!({"pf": 1}), &format!("{{'all': '0x0', 'pf': '0x1', {unset}"));
    query(
        "virtnet query -p 0 -v 0",
        json!({"pf": 0, "vf": 0}),
        &format!("{{'all': '0x0', 'vf': '0x0', 'pf': '0x0', {unset}"),
    );
    query(
        "virtnet query -p 0 -v 0 -b",
        json!({"pf": 0, "vf": 0, "brief": true}),
        &format!("{{'all': '0x0', 'vf': '0x0', 'pf': '0x0', {brief}"),
    );
    query(
        "virtnet query -u MT1 -b",
        json!({"vuid": "MT1", "brief": true}),
        &format!("{{'all': '0x0', 'vuid': 'MT1', {brief}"),
    );
    query(
        "virtnet query -p 0 -v 0 -q 0",
        json!({"pf": 0, "vf": 0, "queue_id": 0}),
        &format!("{{'all': '0x0', 'vf': '0x0', 'pf': '0x0', 'queue_id': '0x0', {unset}"),
    );
    query(
        "virtnet query -p 0 -v 0 --dbg_stats",
        json!({"pf": 0, "vf": 0, "dbg_stats": true}),
        &format!(
            "{{'all': '0x0', 'vf': '0x0', 'pf': '0x0', {}",
            unset.replace("'dbg_stats': '0x0'", "'dbg_stats': '0x1'")
        ),
    );
    query(
        "virtnet query -p 0 --latency_stats --stats_clear",
        json!({"pf": 0, "latency_stats": true, "stats_clear": true}),
        "{'all': '0x0', 'pf': '0x0', 'dbg_stats': '0x0', 'brief': '0x0', 'latency_stats': '0x1', 'stats_clear': '0x1'}",
    );
    asks("virtnet stats -p 0 -q 0", "stats", json!({"pf": 0, "queue_id": 0}), "{'pf': '0x0', 'queue_id': '0x0'}");
    asks("virtnet stats -u MT1", "stats", json!({"vuid": "MT1"}), "{'vuid': 'MT1'}");
    asks("virtnet health -p 0 show", "health", json!({"pf": 0}), "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0'}");
    asks("virtnet health -a", "health", json!({"all": true}), "{'all': '0x1', 'subcmd': '0x0'}");
    asks(
        "virtnet health -p 0 -v 0 show",
        "health",
        json!({"pf": 0, "vf": 0}),
        "{'pf': '0x0', 'vf': '0x0', 'all': '0x0', 'subcmd': '0x0'}",
    );
}

#[test]
fn properties_of_devices_are_changed() {
    for (options, key, value, echo) in [
        ("-m 0C:C4:7A:FF:22:93", "mac", json!("0C:C4:7A:FF:22:93"), "0C:C4:7A:FF:22:93"),
        ("-m 0C:C4:7A:FF:22:98", "mac", json!("0C:C4:7A:FF:22:98"), "0C:C4:7A:FF:22:98"),
        ("-m 00:00:00:00:33:00", "mac", json!("00:00:00:00:33:00"), "00:00:00:00:33:00"),
        ("-t 9216", "mtu", json!(9216), "0x2400"),
        ("-e 200000", "speed", json!(200_000), "0x30d40"),
        ("-l 0", "link", json!(0), "0x0"),
        ("-l 1", "link", json!(1), "0x1"),
        ("-s 0xf", "state", json!(15), "0xf"),
        ("-f 0x8900010300e7982f", "features", json!("0x8900010300e7982f"), "0x8900010300e7982f"),
        ("-o 1FF", "supported_hash_types", json!("0x1ff"), "0x1ff"),
        ("-k 40", "rss_max_key_size", json!(40), "0x28"),
        ("-r 0x3f", "rx_mode", json!("0x3f"), "0x3f"),
        ("-n 8", "msix_num", json!(8), "0x8"),
        ("-n 48", "msix_num", json!(48), "0x30"),
        ("-n 0", "msix_num", json!(0), "0x0"),
        ("-q 2048", "max_queue_size", json!(2048), "0x800"),
        ("-qp 2", "max_queue_pairs", json!(2), "0x2"),
        ("-qp 23", "max_queue_pairs", json!(23), "0x17"),
        ("-qp=0", "max_queue_pairs", json!(0), "0x0"),
        ("-d 1bb", "dst_port", json!("0x1bb"), "0x1bb"),
        ("-b 2", "rx_dma_q_num", json!(2), "0x2"),
        ("-dc enable", "drop_count", json!("enable"), "enable"),
        ("-dc disable", "drop_count", json!("disable"), "disable"),
        ("-pkt_cnt enable", "packet_counter", json!("enable"), "enable"),
        ("-pkt_cnt disable", "packet_counter", json!("disable"), "disable"),
        ("-aarfs enable", "aarfs_config", json!("enable"), "enable"),
        ("-dim enable", "dim_config", json!("enable"), "enable"),
        ("-dim disable", "dim_config", json!("disable"), "disable"),
        ("-netdim enable", "net_dim_config", json!("enable"), "enable"),
        ("-packed_vq enable", "packed_vq", json!("enable"), "enable"),
        ("-mrg_rxbuf=disable", "mrg_rxbuf", json!("disable"), "disable"),
    ] {
        for (selector, params, selected) in [
            ("-p 0", json!({"pf": 0}), "'pf': '0x0', 'all': '0x0'"),
            ("-p 0 -v 1", json!({"pf": 0, "vf": 1}), "'pf': '0x0', 'vf': '0x1', 'all': '0x0'"),
            ("-u MT1", json!({"vuid": "MT1"}), "'vuid': 'MT1', 'all': '0x0'"),
            ("-a", json!({"all": true}), "'all': '0x1'"),
        ] {
            let mut params = params;
            params["subcmd"] = "device".into();
            params[key] = value.clone();
            let echo = format!("{{{selected}, 'subcmd': '0x0', '{key}': '{echo}'}}");
            asks(&format!("virtnet modify {selector} device {options}"), "modify", params, &echo);
        }
    }
}

#[test]
fn the_moderation_of_queues_is_changed() {
    asks(
        "virtnet modify -p 0 queue -e event -n 10 -c 30",
        "modify",
        json!({"pf": 0, "subcmd": "queue", "period_mode": "event", "period": 10, "max_count": 30}),
        "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x1', 'period_mode': 'event', 'period': '0xa', 'max_count': '0x1e'}",
    );
    asks(
        "virtnet modify -u MT1 queue -e cqe -n 10 -c 30",
        "modify",
        json!({"vuid": "MT1", "subcmd": "queue", "period_mode": "cqe", "period": 10, "max_count": 30}),
        "{'vuid': 'MT1', 'all': '0x0', 'subcmd': '0x1', 'period_mode': 'cqe', 'period': '0xa', 'max_count': '0x1e'}",
    );
}

#[test]
fn the_service_is_asked() {
    for level in ["info", "err", "debug"] {
        asks(&format!("virtnet log -l {level}"), "log", json!({"level": level}), &format!("{{'level': '{level}'}}"));
    }
    asks("virtnet version", "version", json!({}), "{}");
    asks("virtnet restart", "restart", json!({}), "{}");
    for line in ["virtnet update -s", "virtnet update --start"] {
        asks(line, "update", json!({"start": true}), "{'start': '0x1'}");
    }
    for line in ["virtnet update -t", "virtnet update --status", "virtnet update status"] {
        asks(line, "update", json!({"status": true}), "{'status': '0x1'}");
    }
    asks("virtnet lcore", "lcore", json!({}), "{}");
    asks("virtnet lcore show", "lcore", json!({}), "{}");
    asks("virtnet lcore rebalance", "lcore", json!({"rebalance": "dry-run"}), "{'rebalance': 'dry-run'}");
    asks("virtnet lcore rebalance --apply", "lcore", json!({"rebalance": "apply"}), "{'rebalance': 'apply'}");
    asks("virtnet lcore set 2-5", "lcore", json!({"set": "2-5"}), "{'set': '2-5'}");
    asks("virtnet switch", "switch", json!({"show": "ports"}), "{'show': 'ports'}");
    asks("virtnet switch fdb", "switch", json!({"show": "fdb"}), "{'show': 'fdb'}");
    asks("virtnet sriov -p 0 -n 8", "sriov", json!({"pf": 0, "num_vfs": 8}), "{'pf': '0x0', 'num_vfs': '0x8'}");
    asks("virtnet debug call list", "list", json!({}), "{}");
    asks(r#"virtnet debug call any {"b":-1,"a":[1]}"#, "any", json!({"b": -1, "a": [1]}), "{'b': '-1', 'a': '[1]'}");
}

#[test]
fn what_needs_no_service_asks_nothing() {
    for line in [
        "virtnet validate",
        "virtnet mlxconfig query",
        "virtnet mlxconfig set SRIOV_EN=1",
        "virtnet mlxconfig reset",
        "virtnet completion zsh",
        "virtnet man folder",
        "virtnet top",
    ] {
        assert!(!matches!(read(line).unwrap().command.task(), Task::Ask(_)), "{line}");
    }
    let path = |line: &str| match read(line).unwrap().command {
        Command::Validate(args) => args.file,
        other => panic!("{other:?}"),
    };
    assert_eq!(path("virtnet validate"), None);
    assert_eq!(path("virtnet validate -f a.conf"), Some(PathBuf::from("a.conf")));
}

#[test]
fn a_picture_is_measured_as_long_as_it_is_said() {
    let top = |line: &str| match read(line).unwrap().command {
        Command::Top(args) => (args.delay.as_millis(), args.once),
        other => panic!("{other:?}"),
    };
    assert_eq!(top("virtnet top"), (1000, false));
    assert_eq!(top("virtnet top --once -d 0.1"), (100, true));
    assert_eq!(top("virtnet top --delay=3600"), (3_600_000, false));
    for wrong in ["0", "0.05", "3601", "-1", "inf", "NaN", "1s", ""] {
        let line = ["virtnet", "top", &format!("-d{wrong}")].map(OsString::from);
        if wrong.is_empty() {
            assert_eq!(Arguments::from_words(line).unwrap_err().kind(), ErrorKind::InvalidValue);
        } else {
            refused(
                &format!("virtnet top --delay={wrong}"),
                ErrorKind::ValueValidation,
                &["seconds are needed, 0.1 to 3600"],
            );
        }
    }
}

#[test]
fn options_may_be_abbreviated_while_they_mean_one_only() {
    let device = json!({"pf": 16, "subcmd": "device", "state": 2});
    let echo = "{'pf': '0x10', 'all': '0x0', 'subcmd': '0x0', 'state': '0x2'}";
    asks("virtnet modify --p 0x10 device --st 2", "modify", device.clone(), echo);
    asks("virtnet modify --pf=0X10 device --stat=2", "modify", device, echo);
    let arguments = read("virtnet list --run /a --fo table --state-d=/b --e").unwrap();
    assert_eq!((arguments.run_dir, arguments.state_dir), (Some("/a".into()), Some("/b".into())));
    assert!(arguments.echo && arguments.format == Format::Table);
    refused("virtnet modify -p 0 device --ma 00:00:00:00:33:00", ErrorKind::UnknownArgument, &["'--ma'"]);
    refused("virtnet modify -p 0 device --max_queue_ 2", ErrorKind::UnknownArgument, &["'--max_queue_'"]);
}

#[test]
fn selectors_exclude_each_other_and_one_is_needed() {
    let needed = "<--pf <N>|--vuid <VUID>|--all>";
    for line in [
        "virtnet query",
        "virtnet query -q 1",
        "virtnet query -v 1",
        "virtnet health show",
        "virtnet modify device -l 0",
    ] {
        refused(line, ErrorKind::MissingRequiredArgument, &[needed]);
    }
    refused("virtnet stats", ErrorKind::MissingRequiredArgument, &["<--pf <N>|--vuid <VUID>>"]);
    refused("virtnet unplug", ErrorKind::MissingRequiredArgument, &["<--pf <N>|--vuid <VUID>>"]);
    for (selectors, texts) in [
        ("-p 0 -a", ["--pf", "--all"]),
        ("-p 0 -u MT1", ["--pf", "--vuid"]),
        ("-u MT1 -a", ["--vuid", "--all"]),
        ("-u MT1 -v 0", ["--vuid", "--vf"]),
        ("-a -v 0", ["--all", "--vf"]),
        ("-p 0 -v 0 -a", ["cannot be used with", "--all"]),
        ("-p 0 -p 1", ["--pf", "multiple times"]),
    ] {
        refused(&format!("virtnet query {selectors}"), ErrorKind::ArgumentConflict, &texts);
        refused(&format!("virtnet health {selectors} show"), ErrorKind::ArgumentConflict, &texts);
        refused(&format!("virtnet modify {selectors} device -l 1"), ErrorKind::ArgumentConflict, &texts);
    }
    refused("virtnet stats -a", ErrorKind::UnknownArgument, &["'-a'"]);
    refused("virtnet unplug -p 0 -u MT1", ErrorKind::ArgumentConflict, &["--pf", "--vuid"]);
}

#[test]
fn wrong_lines_are_refused() {
    let hotplug = "virtnet hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -s 1024";
    refused(hotplug, ErrorKind::MissingRequiredArgument, &["<--max_queues <N>|--max_queue_pairs <N>>"]);
    refused(&format!("{hotplug} -n 3 -qp 1"), ErrorKind::ArgumentConflict, &["--max_queues", "--max_queue_pairs"]);
    refused(
        "virtnet hotplug -n 3",
        ErrorKind::MissingRequiredArgument,
        &["--ib_device", "--mac", "--mtu", "--max_queue_size"],
    );
    refused(
        "virtnet modify -p 0 -v 1 device -qp 2 -n 6",
        ErrorKind::ArgumentConflict,
        &["--msix_num", "--max_queue_pairs"],
    );
    refused(
        "virtnet modify -p 0 device",
        ErrorKind::MissingRequiredArgument,
        &["nothing is to be changed", "virtnet modify"],
    );
    refused("virtnet modify -p 0 device --echo", ErrorKind::MissingRequiredArgument, &["nothing is to be changed"]);
    refused("virtnet modify -p 0 queue -e event", ErrorKind::MissingRequiredArgument, &["--period <", "--max_count"]);
    refused("virtnet modify -p 0 device -m -qp", ErrorKind::InvalidValue, &["--mac"]);
    refused("virtnet query -p 0 -qp 1", ErrorKind::ValueValidation, &["'p'", "--queue_id"]);
    refused("virtnet update", ErrorKind::MissingRequiredArgument, &["--start", "--status"]);
    refused("virtnet update -s -t", ErrorKind::ArgumentConflict, &["--start", "--status"]);
    refused("virtnet log", ErrorKind::MissingRequiredArgument, &["--level"]);
    refused("virtnet log -l loud", ErrorKind::InvalidValue, &["'loud'", "info, err, debug"]);
    refused("virtnet health -p 0 hide", ErrorKind::InvalidValue, &["'hide'", "show"]);
    refused("virtnet mlxconfig set", ErrorKind::MissingRequiredArgument, &["NAME=VALUE"]);
    refused("virtnet debug call any [1]", ErrorKind::ValueValidation, &["a JSON object is needed"]);
    refused("virtnet lisst", ErrorKind::InvalidSubcommand, &["'lisst'", "list"]);
    refused("virtnet", ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand, &["Usage: virtnet"]);
}

#[test]
fn values_are_refused_by_what_is_needed() {
    let number = "a number is needed, decimal or 0x hex, of at most 64 bits";
    for wrong in ["x", "0x", "0xg", "1.5", "+1", "1e3", "18446744073709551616", "0x10000000000000000", "é"] {
        refused(
            &format!("virtnet query -p {wrong}"),
            ErrorKind::ValueValidation,
            &[&format!("'{wrong}'"), "--pf", number],
        );
    }
    let device = "virtnet modify -p 0 device";
    for wrong in ["x", "0x", "+1", "10000000000000000", "0x0x1", "-"] {
        let texts = ["--features", "a hex number of at most 64 bits is needed"];
        refused(&format!("{device} -f {wrong}"), ErrorKind::ValueValidation, &texts);
    }
    for wrong in
        ["0C:C4:7A:FF:22", "0C:C4:7A:FF:22:93:00", "0C-C4-7A-FF-22-93", "0C:C4:7A:FF:22:9", "0C:C4:7A:FF:22:9g", "x"]
    {
        refused(
            &format!("{device} -m {wrong}"),
            ErrorKind::ValueValidation,
            &["--mac", "six pairs of hex digits are needed"],
        );
    }
    refused(&format!("{device} -l 2"), ErrorKind::ValueValidation, &["--link", "0 (down) or 1 (up) is needed"]);
    refused(&format!("{device} -dc on"), ErrorKind::InvalidValue, &["--drop_count", "enable, disable"]);
}

#[test]
fn each_level_has_help_and_the_top_a_version() {
    let mut lines = vec!["virtnet".to_owned()];
    let mut command = Arguments::command();
    command.build();
    command.clone().debug_assert();
    for subcommand in command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help") {
        let line = format!("virtnet {}", subcommand.get_name());
        let below = subcommand.get_subcommands().filter(|below| below.get_name() != "help");
        lines.extend(below.map(|below| format!("{line} {}", below.get_name())));
        lines.push(line);
    }
    assert!(lines.len() > 25, "{lines:?}");
    for line in lines {
        for option in ["-h", "--help", "--he"] {
            refused(&format!("{line} {option}"), ErrorKind::DisplayHelp, &["Usage: virtnet", "--run-dir"]);
        }
    }
    for option in ["-v", "--version"] {
        refused(&format!("virtnet {option}"), ErrorKind::DisplayVersion, &[concat!("v", env!("CARGO_PKG_VERSION"))]);
    }
}
