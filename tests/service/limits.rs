//! As much as the firmware allows.

use std::collections::HashSet;

use crate::service::{BOARD, SOON, Service, loopback, text};

const PFS: usize = 31;
const VFS_PER_PF: usize = 32;

#[test]
fn as_many_functions_as_the_firmware_allows_come_up() {
    let settings = format!(
        "VIRTIO_NET_EMULATION_ENABLE=1 VIRTIO_NET_EMULATION_NUM_PF={PFS} VIRTIO_NET_EMULATION_NUM_VF={VFS_PER_PF} \
         VIRTIO_NET_EMULATION_NUM_MSIX=4"
    );
    let mut service = Service::prepared(&settings, &loopback());
    for entry in ["VIRTIO_NET_EMULATION_NUM_PF=32", "VIRTIO_NET_EMULATION_NUM_VF=33"] {
        assert_eq!(service.refused(&format!("mlxconfig set {entry}")), -22, "{entry}");
    }
    // What a shell allows a process to open is less than a descriptor for each.
    let mut daemon = service.spawn_behind(&["prlimit", "--nofile=1024:", "--"]);
    daemon.wait_for("device is ready", 0, SOON);
    service.adopt(daemon);
    for pf in 0..PFS {
        service.ok(&format!("sriov -p {pf} -n {VFS_PER_PF}"));
    }
    let list = service.list();
    assert_eq!(list.len(), PFS * (1 + VFS_PER_PF));
    for key in ["vuid", "mac", "pci_bdf", "sf_rep_net_device"] {
        let distinct: HashSet<_> = list.iter().map(|device| text(device, key)).collect();
        assert_eq!(distinct.len(), list.len(), "{key}");
    }
    assert_eq!(service.ok("list")["controller"]["max_virt_net_devices"], list.len().to_string());
    let last = format!("-p {} -v {}", PFS - 1, VFS_PER_PF - 1);
    assert_eq!(service.query(&last)["vuid"], list.last().unwrap()["vuid"]);
    assert_eq!(service.recovery_files().len(), PFS * VFS_PER_PF);
    let guests = [format!("pf{}vf{}.sock", PFS - 1, VFS_PER_PF - 1), "pf0.sock".into()];
    for mut guest in guests.map(|socket| service.guest(&socket)) {
        guest.0.loop_frames(10);
    }
    service.kill();
    service.start();
    assert_eq!(service.list(), list);
    service.end();
}

#[test]
fn no_more_functions_have_sfs_than_the_firmware_has() {
    let settings = format!("{BOARD} PER_PF_NUM_SF=1 PF_TOTAL_SF=4");
    let mut service = Service::with(&settings, &loopback());
    service.ok("sriov -p 0 -n 2");
    let reply = service.virtnet("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:01 -t 1500 -qp 1 -s 256").value();
    assert_eq!(reply["errno"], -1047);
    assert_eq!(text(&reply, "errstr"), "SF can't be created: 1 beside 4; PF_TOTAL_SF allows 4 in all");
    assert_eq!(service.refused("sriov -p 1 -n 1"), -1047);
    service.ok("sriov -p 0 -n 0");
    service.hotplug(1);
    assert_eq!(service.refused("sriov -p 0 -n 2"), -1047, "not half of them");
    assert_eq!(service.list().len(), 3);
    // Static PFs that have none are not there, and the others are.
    service.end();
    service.ok("mlxconfig set PF_TOTAL_SF=1");
    service.start();
    service.wait_error(&["static PF 1", "PF_TOTAL_SF allows 1"]);
    assert_eq!(service.list().len(), 1);
    service.end();
}
