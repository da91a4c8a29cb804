//! What the VFs of a PF share: MSI-X vectors and queue pairs.

use serde_json::Value;

use crate::service::{Service, text};

/// What is free, and what the two VFs have: vectors and pairs.
fn shares(service: &Service) -> [(u64, u64); 3] {
    let list = service.list();
    let of = |device: &Value, keys: [&str; 2]| {
        let number = |key| device[key].as_u64().or_else(|| device[key].as_str()?.parse().ok()).expect("a number");
        (number(keys[0]), number(keys[1]))
    };
    let vf = |vf: u64| list.iter().find(|device| device["parent_pf_id"] == 0 && device["vf_id"] == vf).expect("a VF");
    let pool = of(&list[0], ["msix_num_pool_size", "qp_pool_size"]);
    let shares = [0, 1].map(|number| of(vf(number), ["num_msix", "max_queue_pairs"]));
    [pool, shares[0], shares[1]]
}

#[test]
fn vectors_that_one_vf_gives_up_another_can_have() {
    let service = Service::board();
    service.ok("sriov -p 0 -n 2");
    assert_eq!(shares(&service), [(0, 0), (32, 15), (32, 15)]);
    assert_eq!(service.refused("modify -p 0 -v 0 device -n 48"), -1009, "the pool is empty");
    service.ok("modify -p 0 -v 1 device -n 4");
    assert_eq!(shares(&service), [(28, 14), (32, 15), (4, 1)]);
    assert_eq!(service.refused("modify -p 0 -v 0 device -n 62"), -1009, "60 are there for it");
    service.ok("modify -p 0 -v 0 device -n 48");
    assert_eq!(shares(&service), [(12, 6), (48, 23), (4, 1)]);
    assert_eq!(service.refused("modify -p 0 -v 1 device -n 18"), -1009, "16 are there for it");
    service.ok("modify -p 0 -v 1 device -n 10");
    assert_eq!(shares(&service), [(6, 3), (48, 23), (10, 4)]);
    for wrong in [1, 2, 3, 5, 49, 258] {
        assert_eq!(service.refused(&format!("modify -p 0 -v 0 device -n {wrong}")), -1009, "{wrong}");
    }
    assert_eq!(service.refused("modify -p 0 device -n 32"), -1009, "a PF's are the firmware's");
    assert_eq!(shares(&service), [(6, 3), (48, 23), (10, 4)]);
}

#[test]
fn queue_pairs_that_one_vf_gives_up_another_can_have() {
    let service = Service::board();
    service.ok("sriov -p 0 -n 2");
    assert_eq!(service.refused("modify -p 0 -v 0 device -qp 16"), -1009, "the pool is empty");
    service.ok("modify -p 0 -v 1 device -qp 1");
    assert_eq!(shares(&service), [(28, 14), (32, 15), (4, 1)]);
    service.ok("modify -p 0 -v 0 device -qp 23");
    assert_eq!(shares(&service), [(12, 6), (48, 23), (4, 1)]);
    assert_eq!(service.refused("modify -p 0 -v 0 device -qp 128"), -1073);
    assert_eq!(service.refused("modify -p 0 device -qp 32"), -1073, "a PF's are bounded by its vectors");
    service.ok("modify -p 0 device -qp 7");
    assert_eq!(text(&service.query("-p 0"), "max_queue_pairs"), "7");
    assert_eq!(shares(&service), [(12, 6), (48, 23), (4, 1)], "which are not of the pool");
    // New VFs share evenly.
    service.ok("sriov -p 0 -n 0");
    service.ok("sriov -p 0 -n 2");
    assert_eq!(shares(&service), [(0, 0), (32, 15), (32, 15)]);
}

#[test]
fn a_vf_without_vectors_is_there_and_cannot_be_used() {
    let service = Service::board();
    service.ok("sriov -p 0 -n 2");
    for (none, some) in [("-n 0", "-n 10"), ("-qp 0", "-qp 4")] {
        assert_eq!(service.refused(&format!("modify -p 0 -v 1 device {none}")), -1043, "a warning");
        assert_eq!(shares(&service), [(32, 15), (32, 15), (0, 0)]);
        assert_eq!(text(&service.query("-p 0 -v 1"), "enabled"), "0");
        assert!(!service.path("pf0vf1.sock").exists(), "there is nothing to drive");
        service.ok(&format!("modify -p 0 -v 1 device {some}"));
        assert_eq!(shares(&service), [(22, 11), (32, 15), (10, 4)]);
        let (mut guest, _frontend) = service.guest("pf0vf1.sock");
        guest.loop_frames(10);
    }
}
