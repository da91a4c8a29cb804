//! Every command line of the product's documents, and the shape of its reply: keys, their order, and what is a string.

use serde_json::Value;

use crate::service::{BOARD, Service, loopback};

/// A command, the echo it is documented with, and the part of its reply that a JSON pointer finds: of an object its shape.
struct Row {
    line: &'static str,
    echo: Option<&'static str>,
    at: &'static str,
    shape: &'static str,
}

const fn row(line: &'static str, at: &'static str, shape: &'static str) -> Row {
    Row { line, echo: None, at, shape }
}

const fn echoed(line: &'static str, echo: &'static str, at: &'static str, shape: &'static str) -> Row {
    Row { line, echo: Some(echo), at, shape }
}

const DONE: &str = "errno:n, errstr:s";
const HOTPLUGGED: &str =
    "bdf:s, vuid:s, id:n, transitional:n, sf_rep_net_device:s, mac:s, qemu_arguments:a, errno:n, errstr:s";
const CONTROLLER: &str = "emulation_manager:s, max_hotplug_devices:s, max_virt_net_devices:s, max_virt_queues:s, \
    max_tunnel_descriptors:s, supported_features:o, supported_virt_queue_types:o, supported_event_modes:o";
const LISTED_PF: &str = "pf_id:n, function_type:s, transitional:n, vuid:s, pci_bdf:s, pci_vhca_id:s, pci_max_vfs:s, enabled_vfs:s, \
    msix_num_pool_size:n, min_msix_num:n, max_msix_num:n, min_num_of_qp:n, max_num_of_qp:n, qp_pool_size:n, num_msix:s, num_queues:s, \
    enabled_queues:s, max_queue_size:s, msix_config_vector:s, mac:s, link_status:s, max_queue_pairs:s, mtu:s, speed:s, \
    ctrl_mac:s, ctrl_mq:s, sf_num:n, sf_parent_device:s, sf_parent_device_pci_addr:s, \
    sf_rep_net_device:s, sf_rep_net_ifindex:n, sf_rdma_device:s, sf_cross_mkey:s, sf_vhca_id:s, sf_rqt_num:s, aarfs:s, dim:s";
const LISTED_VF: &str = "vf_id:n, parent_pf_id:n, function_type:s, transitional:n, vuid:s, pci_bdf:s, pci_vhca_id:s, pci_max_vfs:s, \
    enabled_vfs:s, num_msix:s, num_queues:s, enabled_queues:s, max_queue_size:s, msix_config_vector:s, mac:s, link_status:s, \
    max_queue_pairs:s, mtu:s, speed:s, ctrl_mac:s, ctrl_mq:s, sf_num:n, \
    sf_parent_device:s, sf_parent_device_pci_addr:s, sf_rep_net_device:s, sf_rep_net_ifindex:n, sf_rdma_device:s, sf_cross_mkey:s, \
    sf_vhca_id:s, sf_rqt_num:s, aarfs:s, dim:s";
const QUERIED_BRIEF: &str = "pf_id:n, function_type:s, transitional:n, vuid:s, pci_bdf:s, pci_vhca_id:s, pci_max_vfs:s, \
    enabled_vfs:s, pci_dev_id:s, pci_vendor_id:s, pci_class_code:s, pci_subsys_id:s, pci_subsys_vendor_id:s, pci_revision_id:s, \
    device_feature:o, driver_feature:o, status:o, reset:s, enabled:s, num_msix:s, num_queues:s, enabled_queues:s, max_queue_size:s, \
    msix_config_vector:s, mac:s, link_status:s, max_queue_pairs:s, mtu:s, speed:s, \
    ctrl_mac:s, ctrl_mq:s, sf_num:n, sf_parent_device:s, sf_parent_device_pci_addr:s, sf_rep_net_device:s, sf_rep_net_ifindex:n, \
    sf_rdma_device:s, sf_cross_mkey:s, sf_vhca_id:s, sf_rqt_num:s, aarfs:s, dim:s";
const QUEUE: &str = "index:s, size:s, msix_vector:s, enable:s, notify_offset:s, descriptor_address:s, driver_address:s, \
    device_address:s, received_desc:s, completed_desc:s, bad_desc_errors:s, error_cqes:s, exceed_max_chain:s, invalid_buffer:s, \
    batch_number:s, dma_q_used_number:s, handler_schd_number:s, aux_handler_schd_number:s, max_post_desc_number:s, total_bytes:s, \
    rq_cq_max_count:s, rq_cq_period:s, rq_cq_period_mode:s";
/// Only the first of them is documented.
const DEBUG: &str = "jumbo_mtu:n, packets:n, bytes:n, descriptors:n, completed:n, kicks:n, notifications_sent:n, \
    notifications_suppressed:n, notifications_coalesced:n, violations:n, dropped_malformed_header:n, dropped_too_short:n, \
    dropped_too_long:n, dropped_outside_memory:n, dropped_wrong_direction:n, dropped_too_many_parts:n, dropped_offload_refused:n, \
    dropped_no_buffers:n, dropped_port_full:n, dropped_queue_disabled:n, dropped_filtered:n, dropped_no_destination:n, \
    dropped_port_error:n, 64_or_less_octet_packets:n, 65_to_127_octet_packets:n, 128_to_255_octet_packets:n, \
    256_to_511_octet_packets:n, 512_to_1023_octet_packets:n, 1024_to_1522_octet_packets:n, 1523_to_2047_octet_packets:n, \
    2048_to_4095_octet_packets:n, 4096_to_8191_octet_packets:n, 8192_to_9022_octet_packets:n, 9023_or_more_octet_packets:n";
/// Not documented, and without frames there are none.
const LATENCIES: &str = "count:n, p50:?, p90:?, p99:?, p99.9:?, max:?";
const STATS: &str = "pf_id:n, packet_counters:s, queues-stats:a";
/// With a size that the documents leave out: what is longer than all of theirs.
const RECEIVEQ_STATS: &str = "VQ Index:n, rx_64_or_less_octet_packets:n, rx_65_to_127_octet_packets:n, \
    rx_128_to_255_octet_packets:n, rx_256_to_511_octet_packets:n, rx_512_to_1023_octet_packets:n, rx_1024_to_1522_octet_packets:n, \
    rx_1523_to_2047_octet_packets:n, rx_2048_to_4095_octet_packets:n, rx_4096_to_8191_octet_packets:n, \
    rx_8192_to_9022_octet_packets:n, rx_9023_or_more_octet_packets:n, received_desc:s, completed_desc:s, bad_desc_errors:s, error_cqes:s, exceed_max_chain:s, \
    invalid_buffer:s, batch_number:s, dma_q_used_number:s, handler_schd_number:s, aux_handler_schd_number:s, \
    max_post_desc_number:s, total_bytes:s, err_handler_schd_num:s, rq_cq_max_count:s, rq_cq_period:s, rq_cq_period_mode:s";
const HEALTH_PF: &str =
    "pf_id:n, type:s, vuid:s, dev_status:o, health_status:s, health_recover_counter:n, dev_health_details:o";
const HEALTH_VF: &str =
    "pf_id:n, vf_id:n, type:s, vuid:s, dev_status:o, health_status:s, health_recover_counter:n, dev_health_details:o";
const HEALTH_DETAILS: &str = "control_plane_errors:o, data_plane_errors:o";
const CONTROL_PLANE: &str = "sf_rqt_update_err:n, sf_drop_create_err:n, sf_tir_create_err:n, steer_rx_domain_err:n, \
    steer_rx_table_err:n, sf_flows_apply_err:n, aarfs_flow_init_err:n, vlan_flow_init_err:n, drop_cnt_config_err:n";
const DATA_PLANE: &str =
    "sq_stall:n, dma_q_stall:n, spurious_db_invoke:n, aux_not_invoked:n, dma_q_errors:n, host_read_errors:n";
const DRIVEN: &str = "value:s,     0:s,     1:s,     2:s,     3:s";

/// VUID stands for VF 1's. With a driver on PF 0 and on its VF 0, hotplug PF 2 to begin with, and none on PF 1 and the other VF.
const TABLE: &[Row] = &[
    row("hotplug -i mlx5_0 -f 0x0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -s 1024", "", HOTPLUGGED),
    row("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:94 -t 1500 -qp 1 -s 1024", "", HOTPLUGGED),
    echoed("unplug -p 3", "{'pf': '0x3'}", "", DONE),
    row("list", "", "controller:o, devices:a"),
    row("list", "/controller", CONTROLLER),
    row("list", "/controller/supported_event_modes", "value:s,     0:s,     2:s"),
    row("list", "/controller/supported_virt_queue_types", "value:s,     0:s,     1:s"),
    row("list", "/devices/0", LISTED_PF),
    row("list", "/devices/2", LISTED_PF),
    row("list", "/devices/3", LISTED_VF),
    row("query -p 0", "", "devices:a"),
    echoed(
        "query -p 0 -b",
        "{'all': '0x0', 'pf': '0x0', 'dbg_stats': '0x0', 'brief': '0x1', 'latency_stats': '0x0', 'stats_clear': '0x0'}",
        "/devices/0",
        QUERIED_BRIEF,
    ),
    echoed(
        "query -p 0 -v 0 -b",
        "{'all': '0x0', 'vf': '0x0', 'pf': '0x0', 'dbg_stats': '0x0', 'brief': '0x1', 'latency_stats': '0x0', 'stats_clear': '0x0'}",
        "/devices/0/status",
        DRIVEN,
    ),
    row("query -p 0", "/devices/0/enabled-queues-info/1", QUEUE),
    row("query -p 0 -q 1", "/devices/0/enabled-queues-info/0", QUEUE),
    row("query -p 0 -v 0 -q 0", "/devices/0/enabled-queues-info/0", QUEUE),
    row("query -p 0 -v 0 --dbg_stats", "/devices/0/enabled-queues-info/0/dbg_stats", DEBUG),
    row("query -p 0 --latency_stats", "/devices/0/enabled-queues-info/1/latency_stats", LATENCIES),
    row("query -p 0 --stats_clear", "/devices/0/enabled-queues-info/0", QUEUE),
    row("query -a", "/devices/0/enabled-queues-info/0", QUEUE),
    echoed("stats -p 0 -q 0", "{'pf': '0x0', 'queue_id': '0x0'}", "/device", STATS),
    row("stats -p 0 -q 0", "/device/queues-stats/0", RECEIVEQ_STATS),
    echoed("health -p 0 show", "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0'}", "", HEALTH_PF),
    row("health -p 0 show", "/dev_status", DRIVEN),
    row("health -p 0 show", "/dev_health_details", HEALTH_DETAILS),
    row("health -p 0 show", "/dev_health_details/control_plane_errors", CONTROL_PLANE),
    row("health -p 0 show", "/dev_health_details/data_plane_errors", DATA_PLANE),
    row("health -p 0 -v 0 show", "", HEALTH_VF),
    row("health -p 0", "", HEALTH_PF),
    row("health -a show", "/0", HEALTH_PF),
    echoed("modify -p 0 device -l 0", "{'pf': '0x0', 'all': '0x0', 'subcmd': '0x0', 'link': '0x0'}", "", DONE),
    row("modify -p 0 device -l 1", "", DONE),
    row("modify -p 0 -v 0 device -dc enable", "", DONE),
    row("modify -p 0 -v 0 device -dc disable", "", DONE),
    row("modify -p 0 -v 0 device -pkt_cnt enable", "", DONE),
    row("modify -p 0 -v 0 device -pkt_cnt disable", "", DONE),
    row("query -u VUID -b", "/devices/0/driver_feature", "value:s"),
    row("stats -u VUID", "/device", "vf_id:n, parent_pf_id:n, packet_counters:s, queues-stats:a"),
    row("health -u VUID show", "", HEALTH_VF),
    row("modify -p 0 -v 1 device -q 2048", "", DONE),
    row("modify -u VUID device -q 1024", "", DONE),
    row("modify -u VUID device -n 4", "", DONE),
    row("modify -u VUID device -m 0C:C4:7A:FF:22:98", "", DONE),
    row("modify -p 0 -v 1 device -n 8", "", DONE),
    row("modify -p 1 device -m 0C:C4:7A:FF:22:95", "", DONE),
    row("modify -p 0 -v 1 device -m 00:00:00:00:33:00", "", DONE),
    row("modify -p 0 -v 1 device -qp 2", "", DONE),
    row("modify -p 0 -v 1 device -t 9216", "", DONE),
    echoed(
        "modify -p 1 device -f 0x10821",
        "{'pf': '0x1', 'all': '0x0', 'subcmd': '0x0', 'features': '0x10821'}",
        "",
        DONE,
    ),
    echoed(
        "modify -p 1 device -dim enable",
        "{'pf': '0x1', 'all': '0x0', 'subcmd': '0x0', 'dim_config': 'enable'}",
        "",
        DONE,
    ),
    row("modify -p 1 device -netdim disable", "", DONE),
    row("modify -p 1 queue -e event -n 8 -c 4", "", DONE),
    row("modify -a device -l 1", "", DONE),
    row("modify -p 1 device -e 25000", "", DONE),
    row("modify -p 1 device -s 0", "", DONE),
    row("modify -p 1 device -r 0x1", "", DONE),
    row("modify -p 1 device -aarfs disable", "", DONE),
    row("hotplug -i mlx5_0 -f 0x80000 -m 0C:C4:7A:FF:22:96 -t 1500 -n 3 -s 1024", "", HOTPLUGGED),
    row("query -p 3 -b", "/devices/0/device_feature/   19", "\"VIRTIO_NET_F_CTRL_VLAN\""),
    row("hotplug -i mlx5_0 -f 0x80000 -m 0C:C4:7A:FF:22:97 -t 1500 -n 3 -s 1024 -l", "", HOTPLUGGED),
    row("query -p 4 -b", "/devices/0/transitional", "1"),
    row("version", "/0", "Original Controller:s"),
    row("version", "/1", "Destination Controller:s"),
];

/// Documented, and refused as not supported as long as this version does not do it.
const NOT_YET: &[&str] = &[
    "modify -p 1 device -b 1",
    // Here its port is a loop.
    "modify -p 1 device -aarfs enable",
    "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:99 -t 1500 -n 3 -s 1024 --host_awareness",
    "unplug -p 2 --host_awareness",
    "update -s",
    "update -t",
];

/// The keys of an object in their order, each with what its value is: a number, a string, an object, an array.
fn shape(value: &Value) -> String {
    let kind = |value: &Value| match value {
        Value::Number(_) => 'n',
        Value::String(_) => 's',
        Value::Object(_) => 'o',
        Value::Array(_) => 'a',
        _ => '?',
    };
    let Some(object) = value.as_object() else { return value.to_string() };
    object.iter().map(|(key, value)| format!("{key}:{}", kind(value))).collect::<Vec<_>>().join(", ")
}

#[test]
fn each_documented_command_has_its_documented_reply() {
    let service = Service::with(&format!("{BOARD} VIRTIO_EMULATION_HOTPLUG_TRANS=1"), &loopback());
    service.ok("sriov -p 0 -n 2");
    let _guests = ["pf0.sock", "pf0vf0.sock"].map(|socket| service.guest(socket));
    let vuid = service.query("-p 0 -v 1")["vuid"].as_str().expect("a name").to_owned();
    for Row { line, echo, at, shape: documented } in TABLE {
        let line = &line.replace("VUID", &vuid);
        let reply = service.virtnet(&format!("--echo {line}"));
        assert_eq!(reply.status, 0, "virtnet {line}: {}{}", reply.output, reply.errors);
        let value = reply.value();
        let part = value.pointer(at).unwrap_or_else(|| panic!("virtnet {line}: nothing at {at} in {value:#}"));
        assert_eq!(shape(part), *documented, "virtnet {line}, {at}");
        if let Some(echo) = echo {
            assert_eq!(reply.errors.trim_end(), *echo, "virtnet {line}");
        }
    }
    for line in NOT_YET {
        assert_eq!(service.refused(line), -1046, "virtnet {line}");
    }
}

#[test]
fn words_and_files_are_answered_with_words() {
    let mut service = Service::with("", &loopback());
    let said = |line: &str| {
        let reply = service.virtnet(line);
        assert_eq!(reply.status, 0, "virtnet {line}: {}{}", reply.output, reply.errors);
        reply.output.trim_end().to_owned()
    };
    for level in ["err", "debug", "info"] {
        assert_eq!(said(&format!("log -l {level}")), "\"Success\"");
    }
    assert_eq!(said("restart"), "SUCCESS");
    let config = service.path("virtnet.conf").display().to_string();
    assert_eq!(said(&format!("validate -f {config}")), format!("{config} is valid"));
    assert!(said("-v").contains(env!("CARGO_PKG_VERSION")));
    let help = said("-h");
    for command in "hotplug unplug list query modify log version restart validate update health debug stats".split(' ')
    {
        assert!(help.lines().any(|line| line.trim_start().starts_with(command)), "{command} in {help}");
        assert!(!said(&format!("{command} -h")).is_empty());
    }

    std::fs::write(service.path("wrong.conf"), "{\"recovery\": 2}").unwrap();
    let reply = service.virtnet(&format!("validate -f {}", service.path("wrong.conf").display()));
    assert_eq!((reply.status, &*reply.output), (1, ""));
    assert!(reply.errors.contains("expected 0 or 1 at line 1"), "{}", reply.errors);
    service.end();
    let reply = service.virtnet("list");
    assert_eq!((reply.status, &*reply.output), (3, ""));
    assert!(reply.errors.contains("is the service running?"), "{}", reply.errors);
}

#[test]
fn what_makes_no_sense_is_told_before_the_service_is_asked() {
    let service = Service::prepared("", &loopback());
    for line in [
        "",
        "nothing",
        "query",
        "query -p 0 -u X",
        "query -v 0",
        "query -a -p 0",
        "stats -a",
        "unplug",
        "unplug -p 0 -u X",
        "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -s 1024",
        "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:93 -t 1500 -n 3 -qp 1 -s 1024",
        "hotplug -i mlx5_0 -m 0C:C4:7A:FF:22 -t 1500 -n 3 -s 1024",
        "modify -p 0 device",
        "modify -p 0 -v 1 device -qp 2 -n 6",
        "modify -p 0 device -l 2",
        "modify -p 0 device -dc on",
        "modify -p 0 queue -e event",
        "log",
        "log -l warn",
        "update",
        "update -s -t",
    ] {
        let reply = service.virtnet(line);
        assert_eq!((reply.status, &*reply.output), (2, ""), "virtnet {line}: {}", reply.errors);
        assert!(!reply.errors.is_empty(), "virtnet {line}");
    }
}

#[test]
fn a_device_that_is_not_there_is_an_error() {
    let service = Service::board();
    let reply = service.virtnet("query -p 0 -v 0 -b");
    assert_eq!((reply.status, shape(&reply.value())), (1, "Error:s".into()));
    assert_eq!(reply.value()["Error"], "Device doesn't exist");
    for line in
        ["stats -p 9", "health -u NOBODY show", "unplug -p 9", "modify -p 0 -v 0 device -l 1", "sriov -p 9 -n 1"]
    {
        assert_eq!(service.refused(line), -1001, "virtnet {line}");
    }
    assert_eq!(service.refused("query -p 0 -q 0"), -1050, "no queue runs");
}

#[test]
fn what_the_documents_search_the_text_for_is_where_they_look() {
    let service = Service::board();
    service.ok("sriov -p 0 -n 2");
    let list = service.virtnet("list").output;
    let lines: Vec<&str> = list.lines().collect();
    let pf = lines.iter().position(|line| line.contains("\"pf_id\": 0")).expect("PF 0");
    for (key, within) in [
        ("msix_num_pool_size", 8),
        ("max_msix_num", 10),
        ("min_msix_num", 10),
        ("qp_pool_size", 13),
        ("max_num_of_qp", 12),
        ("min_num_of_qp", 12),
    ] {
        assert!(lines[pf..=pf + within].iter().any(|line| line.contains(key)), "{key} within {within} lines");
    }
    let found = |line: &str, key: &str| {
        let reply = service.virtnet(line).output;
        reply.lines().filter(|line| line.contains(key)).map(|line| line.trim().to_owned()).collect::<Vec<_>>()
    };
    let numbers = found("query -p 0 -b", "\"num_");
    assert_eq!(numbers, ["\"num_msix\": \"64\",", "\"num_queues\": \"63\","]);
    assert_eq!(found("query -p 0 -v 0", "num_msix"), ["\"num_msix\": \"32\","]);
    assert_eq!(found("query -p 0 -v 0", "max_queue_pairs"), ["\"max_queue_pairs\": \"15\","]);
    assert_eq!(found("query -p 0 -v 0", "sf_rep_net_device"), ["\"sf_rep_net_device\": \"en3f0pf0sf3000\","]);
    assert_eq!(found("query -p 0 -v 0", "transitional"), ["\"transitional\": 0,"]);
    assert_eq!(found("query -p 0 -b", "dim"), ["\"dim\": \"disabled\""]);
    service.ok("modify -p 0 -v 0 device -dc enable");
    assert_eq!(found("query -p 0 -v 0", "num_desc_drop_pkts"), ["\"num_desc_drop_pkts\": \"0\","]);
}
