use std::ffi::OsString;

use super::*;
use crate::args::Arguments;

#[track_caller]
fn shown(line: &str, reply_text: &str) -> String {
    let arguments = Arguments::from_words(line.split_whitespace().map(OsString::from)).unwrap();
    reply(&arguments.command, arguments.format, &serde_json::from_str(reply_text).unwrap())
}

/// The cells of each row, without lines.
fn cells(text: &str) -> Vec<Vec<&str>> {
    let is_line = |line: &&str| line.chars().all(|character| "─═ ".contains(character));
    text.lines()
        .filter(|line| !is_line(line))
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect()
}

const LIST: &str = r#"{
  "controller": {
    "emulation_manager": "mlx5_0",
    "supported_features": {
      "value": "0x8b",
      "    0": "VIRTIO_NET_F_CSUM"
    }
  },
  "devices": [
    {
      "pf_id": 0,
      "function_type": "static PF",
      "vuid": "MT1VNETS0D0F2",
      "pci_bdf": "e2:00.2",
      "mac": "16:B0:E0:41:B8:0D",
      "link_status": "1",
      "mtu": "1500",
      "speed": "100000",
      "num_msix": "64",
      "max_queue_pairs": "31",
      "sf_rep_net_device": "en3f0pf0sf1000"
    },
    {
      "vf_id": 3,
      "parent_pf_id": 0,
      "function_type": "VF",
      "vuid": "MT1VNETS0D0F2VF4"
    }
  ]
}"#;

#[test]
fn json_is_printed_as_it_came() {
    assert_eq!(shown("virtnet list", LIST), LIST);
    assert_eq!(shown("virtnet log -l info", r#""Success""#), r#""Success""#);
    assert_eq!(
        shown("virtnet modify -a device -l 0 --format table", r#"{"errno":0,"errstr":"Success"}"#),
        "{\n  \"errno\": 0,\n  \"errstr\": \"Success\"\n}"
    );
}

#[test]
fn restart_and_version_have_forms_of_their_own() {
    assert_eq!(shown("virtnet restart", "{}"), "SUCCESS");
    let installed = concat!("v", env!("CARGO_PKG_VERSION"));
    let expected = format!(
        "[\n  {{\n    \"Original Controller\": \"v0.0.9\"\n  }},\n  {{\n    \"Destination Controller\": \"{installed}\"\n  }}\n]"
    );
    assert_eq!(shown("virtnet version", r#"{"version": "v0.0.9"}"#), expected);
}

#[test]
fn a_list_has_a_row_for_each_device() {
    let text = shown("virtnet list --format table", LIST);
    let rows = cells(&text);
    assert_eq!(rows[0], ["emulation_manager", "mlx5_0"]);
    assert_eq!(rows[1], ["supported_features", "0x8b"]);
    assert_eq!(
        rows[2],
        ["pf", "vf", "type", "vuid", "bdf", "mac", "link", "mtu", "Mb/s", "msix", "pairs", "representor"]
    );
    assert_eq!(
        rows[3],
        [
            "0",
            "static PF",
            "MT1VNETS0D0F2",
            "e2:00.2",
            "16:B0:E0:41:B8:0D",
            "1",
            "1500",
            "100000",
            "64",
            "31",
            "en3f0pf0sf1000"
        ]
    );
    assert_eq!(rows[4], ["0", "3", "VF", "MT1VNETS0D0F2VF4"]);
    assert_eq!(rows.len(), 5);
}

#[test]
fn a_device_has_a_row_for_each_field_and_each_queue() {
    let text = shown(
        "virtnet query -a --format table",
        r#"{"devices": [
            {"pf_id": 0, "status": {"value": "0x3", "    0": "ACK", "    1": "DRIVER"}, "mac": "4E:6A:E1:41:D8:BE",
             "enabled-queues-info": [{"index": "0", "size": "256", "driver_address": "0x10cecf000"},
                                     {"index": "1", "size": "64", "enable": "1", "total_bytes": "7"}]},
            {"pf_id": 1}]}"#,
    );
    let rows = cells(&text);
    assert_eq!(rows[..3], [vec!["pf_id", "0"], vec!["status", "0x3"], vec!["ACK"]]);
    assert_eq!(rows[3..5], [vec!["DRIVER"], vec!["mac", "4E:6A:E1:41:D8:BE"]]);
    assert_eq!(rows[5][..4], ["queue", "size", "msix", "enabled"]);
    assert_eq!(rows[6..], [vec!["0", "256"], vec!["1", "64", "1", "7"], vec!["pf_id", "1"]]);
}

#[test]
fn counters_for_debugging_are_a_table_of_their_own() {
    let text = shown(
        "virtnet query -p 0 --dbg_stats --format table",
        r#"{"devices": [{"pf_id": 0, "enabled-queues-info": [
            {"index": "0", "latency_stats": {"count": 7, "p50": 640, "max": 5120}, "dbg_stats": {"jumbo_mtu": 1, "packets": 0, "dropped_no_buffers": 3, "64_or_less_octet_packets": 9}},
            {"index": "1", "latency_stats": {"count": 0, "p50": null, "max": null}, "dbg_stats": {"jumbo_mtu": 1, "packets": 0, "dropped_no_buffers": 0, "64_or_less_octet_packets": 0}},
            {"index": "2"}]}]}"#,
    );
    let rows = cells(&text);
    assert_eq!(rows[2..5], [["0"], ["1"], ["2"]], "all queues");
    assert_eq!(rows[5], ["queue", "jumbo mtu", "dropped no buffers", "64 or less"]);
    assert_eq!(rows[6..8], [["0", "1", "3", "9"], ["1", "1", "0", "0"]]);
    assert_eq!(rows[8..], [vec!["queue", "count", "p50", "max"], vec!["0", "7", "640", "5120"], vec!["1", "0"]]);
}

#[test]
fn counters_that_are_0_everywhere_have_no_column() {
    let text = shown(
        "virtnet stats -p 0 --format table",
        r#"{"device": {"pf_id": 0, "packet_counters": "Enabled", "queues-stats": [
        {"VQ Index": 0, "rx_64_or_less_octet_packets": 0, "rx_65_to_127_octet_packets": 259, "received_desc": "4096", "bad_desc_errors": "0"},
        {"VQ Index": 1, "received_desc": "0", "total_bytes": "7"}]}}"#,
    );
    let rows = cells(&text);
    assert_eq!(rows[..2], [["pf_id", "0"], ["packet_counters", "Enabled"]]);
    assert_eq!(rows[2], ["VQ Index", "rx 65–127", "received desc", "total bytes"]);
    assert_eq!(rows[3], ["0", "259", "4096"]);
    assert_eq!(rows[4], ["1", "0", "7"]);
}

#[test]
fn a_device_without_a_driver_has_no_queue_to_count() {
    let reply = r#"{"device": {"pf_id": 0, "packet_counters": "Disabled", "queues-stats": []}}"#;
    assert!(shown("virtnet stats -p 0 --format table", reply).ends_with("\nno queue runs"));
}

#[test]
fn health_names_what_went_wrong() {
    let device = r#"{"pf_id": 0, "vf_id": 2, "type": "VF", "vuid": "MT1", "dev_status": {"value": "0x3", "    0": "ACK", "    1": "DRIVER"},
        "health_status": "Fatal", "health_recover_counter": 4,
        "dev_health_details": {"control_plane_errors": {"sf_rqt_update_err": 0}, "data_plane_errors": {"sq_stall": 2, "dma_q_stall": 1}}}"#;
    let header = ["pf", "vf", "type", "vuid", "status", "health", "recoveries", "errors"];
    for reply in [device.to_owned(), format!("[{device}]"), format!(r#"{{"devices": [{device}]}}"#)] {
        let text = shown("virtnet health -a --format table", &reply);
        let rows = cells(&text);
        assert_eq!(rows[0], header);
        assert_eq!(rows[1], ["0", "2", "VF", "MT1", "ACK DRIVER", "Fatal", "4", "sq_stall 2"]);
        assert_eq!(rows[2], ["dma_q_stall 1"]);
    }
    let text = shown("virtnet health -p 0 --format table", r#"{"pf_id": 0, "dev_health_details": {}}"#);
    assert_eq!(cells(&text)[1], ["0", "none"]);
}

#[test]
fn lcores_and_the_switch_have_a_table_for_each_list() {
    let text = shown(
        "virtnet lcore --format table",
        r#"{"seconds": 1.25001, "lcores": [
        {"worker": 0, "lcore": 2, "numa_node": 1, "busy_percent": 12.5, "ns_per_frame": 81.2499, "queue_pairs": [
            {"device": "vm0", "queue_pair": 0, "busy_percent": 3.0}, {"device": "vm1", "queue_pair": 1, "busy_percent": 9.5}]},
        {"worker": 1, "lcore": null, "numa_node": null, "busy_percent": 0.0, "ns_per_frame": null, "queue_pairs": []}]}"#,
    );
    assert_eq!(
        cells(&text),
        [
            vec!["seconds", "1.3"],
            vec!["worker", "lcore", "node", "busy %", "ns/frame", "pairs"],
            vec!["0", "2", "1", "12.5", "81.2", "2"],
            vec!["1", "0.0", "0"],
            vec!["device", "pair", "busy %", "worker"],
            vec!["vm1", "1", "9.5", "0"],
            vec!["vm0", "0", "3.0", "0"],
        ]
    );
    let moves = r#"{"seconds": 1.5, "moves": [{"device": "vm0", "queue_pair": 1, "from": 0, "to": 1}]}"#;
    let text = shown("virtnet lcore rebalance --format table", moves);
    let header = vec!["device", "queue_pair", "from", "to"];
    assert_eq!(cells(&text), [vec!["seconds", "1.5"], vec!["moves"], header, vec!["vm0", "1", "0", "1"]]);
    assert_eq!(shown("virtnet switch fdb --format table", r#"{"fdb": []}"#), "fdb\nnone");
}

#[test]
fn what_a_terminal_would_obey_is_not_in_a_table() {
    let reply = r#"{"name\u001b[2J": "a\u001b]0;x\u0007b\u009bc", "list": [{"k\u0008": "v\r"}]}"#;
    for line in ["lcore", "list", "query -a", "stats -p 0", "health -a"] {
        let text = shown(&format!("virtnet {line} --format table"), reply);
        assert!(!text.chars().any(|character| character.is_control() && character != '\n'), "{line}: {text:?}");
    }
}

#[test]
fn replies_of_other_shapes_are_shown_as_far_as_they_go() {
    let odd = [
        "null",
        "1",
        "\"text\"",
        "[]",
        "[1, [2]]",
        "{}",
        r#"{"devices": 1, "controller": 2, "device": []}"#,
        r#"{"lcores": 1}"#,
        r#"{"lcores": [1, {"queue_pairs": 2}, {"queue_pairs": [null, 3]}], "seconds": "x"}"#,
        r#"{"devices": [1, {"enabled-queues-info": 3, "pf_id": {}}], "device": {"queues-stats": [1, {}], "x": [[]]}}"#,
    ];
    for reply in odd {
        for line in ["list", "query -a", "stats -p 0", "health -a", "lcore", "switch", "version", "restart"] {
            shown(&format!("virtnet {line} --format table"), reply);
        }
    }
    assert_eq!(shown("virtnet lcore --format table", "\"text\""), "text");
}
