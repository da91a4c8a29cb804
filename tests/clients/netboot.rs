//! iPXE: a machine that has nothing but its function starts Linux from the network.

use std::fs;

use serde_json::json;

use crate::controller::Controller;
use crate::guest::Guest;
use crate::lab::Lab;
use crate::network::Network;
use crate::process::Process;
use crate::qemu::{HOST, KERNEL_WORDS, TCP_BYTES, empty_machine};

const MAC: &str = "02:00:00:00:00:01";

/// iPXE polls its rings without interrupts, and resets the function before Linux has it.
#[test]
fn a_machine_starts_from_its_function() {
    let Some(lab) = Lab::with(&["qemu", "ipxe"]) else { return };
    let Some(network) = Network::new(&lab) else { return };
    let device = json!({ "name": "vm", "socket": "vm.sock", "transport": "vfio-user", "mode": "server", "mac": MAC });
    let config =
        json!({ "lcores": "0", "idle": "adaptive", "switch": { "uplinks": [{ "tap": "vn0" }] }, "devices": [device] });
    let controller = Controller::start(&config, Some(&network));
    network.address("vn0", &format!("{HOST}/24"));
    let _echo = network.echo();

    let kernel = lab.kernels().remove(0);
    let folder = controller.path("tftp");
    fs::create_dir(&folder).expect("the folder is ours");
    for (file, of) in [(&kernel.installed, "kernel"), (&kernel.initramfs, "initramfs")] {
        fs::copy(file, folder.join(of)).expect("the lab has it");
    }
    let script = format!("#!ipxe\nkernel kernel {KERNEL_WORDS} initrd=initramfs\ninitrd initramfs\nboot\n");
    fs::write(folder.join("script"), script).expect("the folder is ours");
    let mut server = network.command(&lab.command("ipxe"));
    server.args(["--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=vn0", "--bind-interfaces"]);
    server.args([
        "--user=root",
        "--pid-file",
        "--log-facility=-",
        "--dhcp-range=10.77.0.50,10.77.0.60",
        "--dhcp-boot=script",
    ]);
    server.arg(format!("--dhcp-leasefile={}", controller.path("leases").display()));
    server.args(["--enable-tftp", &format!("--tftp-root={}", folder.display())]);
    let _server = Process::start("dnsmasq", server);

    let socket = json!({ "type": "unix", "path": controller.path("vm.sock") });
    let function = json!({ "driver": "vfio-user-pci", "socket": socket, "romfile": "efi-virtio.rom", "bootindex": 0 });
    let mut command = empty_machine(&lab, 1);
    command.args(["-no-reboot", "-device", &function.to_string()]);
    let mut guest = Guest::new("guest", Process::start("guest", command));
    assert_eq!(guest.wait_boot(), kernel.release);
    guest.address("eth0", "10.77.0.11/24");
    guest.ping(HOST, 5);
    guest.tcp_echo(HOST, TCP_BYTES);
    guest.power_off();
    controller.end();
}
