//! The controller as a process: what it tells the service manager that has started it, and what its log looks like.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use virtnet_control::config::Config;
use virtnet_control::firmware::Store;
use virtnet_control::rpc::Client;

/// Whatever takes longer does not come.
const LONG: Duration = Duration::from_secs(30);

/// Room for PFs to be plugged.
const FIRMWARE: [(&str, &str); 4] = [
    ("VIRTIO_NET_EMULATION_ENABLE", "1"),
    ("VIRTIO_NET_EMULATION_NUM_MSIX", "10"),
    ("PCI_SWITCH_EMULATION_ENABLE", "1"),
    ("PCI_SWITCH_EMULATION_NUM_PORT", "4"),
];

/// A running controller with one static PF.
struct Controller {
    folder: TempDir,
    child: Child,
    /// What it has told its service manager.
    told: Receiver<String>,
}

impl Controller {
    fn start(environment: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let device = json!({"name": "vm1", "socket": "vm1.sock", "port": "loopback"});
        std::fs::write(path("config.json"), json!({"idle": "event", "devices": [device]}).to_string()).unwrap();
        let mut firmware = Store::load(&path("state")).unwrap();
        firmware.set(&FIRMWARE).unwrap();
        let manager = UnixDatagram::bind(path("notify")).unwrap();
        manager.set_read_timeout(Some(LONG)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_virtio-net-controller"));
        command.env_clear().env("NOTIFY_SOCKET", path("notify")).stderr(std::fs::File::create(path("log")).unwrap());
        command.arg("--config").arg(path("config.json")).arg("--run-dir").arg(folder.path()).stdin(Stdio::null());
        environment(&mut command);
        let child = command.spawn().unwrap();
        let (teller, told) = channel();
        // Whoever does not listen holds up the one who tells.
        thread::spawn(move || {
            let mut message = [0; 4096];
            while let Ok(len) = manager.recv(&mut message) {
                if teller.send(String::from_utf8_lossy(&message[..len]).into_owned()).is_err() {
                    return;
                }
            }
        });
        Self { folder, child, told }
    }

    fn call(&self, method: &str, params: Value) -> Value {
        let mut client = Client::connect(&self.folder.path().join("virtnet.sock"), LONG).unwrap();
        client.call(method, params).unwrap()
    }

    fn plug(&self, last: u8) {
        let mac = format!("02:00:00:00:00:{last:02x}");
        let size = json!({"mtu": 1500, "max_queue_pairs": 1, "max_queue_size": 64});
        let mut params = json!({"ib_device": "mlx5_0", "mac": mac});
        params.as_object_mut().unwrap().extend(size.as_object().unwrap().clone());
        self.call("hotplug", params);
    }

    /// What it says next, signs of life apart.
    fn next(&self) -> String {
        loop {
            match self.told.recv_timeout(LONG).unwrap().as_str() {
                "WATCHDOG=1\n" => {}
                other => return other.into(),
            }
        }
    }

    /// Asks it to end; returns what it said on the way, and its log.
    fn end(&mut self) -> (Vec<String>, String) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        // A message is there before the next one is sent, and this one is the last.
        let last = UnixDatagram::unbound().unwrap();
        last.send_to(b"end", self.folder.path().join("notify")).unwrap();
        let told = std::iter::from_fn(|| self.told.recv_timeout(LONG).ok()).take_while(|told| told != "end").collect();
        (told, log(self.folder.path()))
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn log(folder: &Path) -> String {
    std::fs::read_to_string(folder.join("log")).unwrap()
}

#[test]
fn the_service_manager_is_told_in_order() {
    let mut controller = Controller::start(|command| {
        command.env("WATCHDOG_USEC", "10000");
    });
    let first = controller.told.recv_timeout(LONG).unwrap();
    assert_eq!(first, "READY=1\nSTATUS=1 function\n");
    assert!(controller.folder.path().join("vm1.sock").exists(), "ready before its function");
    for _ in 0..3 {
        assert_eq!(controller.told.recv_timeout(LONG).unwrap(), "WATCHDOG=1\n");
    }
    controller.plug(1);
    assert_eq!(controller.next(), "STATUS=2 functions\n");
    controller.call("unplug", json!({"pf": 1}));
    assert_eq!(controller.next(), "STATUS=1 function\n");
    let (told, _) = controller.end();
    let (last, before) = told.split_last().unwrap();
    assert_eq!(last, "STOPPING=1\n");
    assert!(before.iter().all(|told| told == "WATCHDOG=1\n"), "{before:?}");
}

#[test]
fn signs_of_life_are_for_whom_they_are_asked_of() {
    for asked in [&[][..], &[("WATCHDOG_USEC", "10000"), ("WATCHDOG_PID", "1")], &[("WATCHDOG_USEC", "soon")]] {
        let mut controller = Controller::start(|command| {
            command.envs(asked.iter().copied());
        });
        assert_eq!(controller.told.recv_timeout(LONG).unwrap(), "READY=1\nSTATUS=1 function\n");
        controller.plug(1);
        assert_eq!(controller.told.recv_timeout(LONG).unwrap(), "STATUS=2 functions\n");
        assert_eq!(controller.end().0, ["STOPPING=1\n"], "{asked:?}");
    }
}

#[test]
fn nobody_is_told_where_nobody_asked() {
    let mut controller = Controller::start(|command| {
        command.env_remove("NOTIFY_SOCKET").env("WATCHDOG_USEC", "10000");
    });
    wait_ready(controller.folder.path());
    controller.plug(1);
    let (told, log) = controller.end();
    assert_eq!(told, [""; 0]);
    assert!(!log.contains("WARN"), "{log}");
}

#[test]
fn a_service_manager_that_is_not_there_costs_only_a_warning() {
    let mut controller = Controller::start(|command| {
        command.env("NOTIFY_SOCKET", "/dev/null/notify");
    });
    wait_ready(controller.folder.path());
    let (told, log) = controller.end();
    assert_eq!(told, [""; 0]);
    assert!(log.contains("telling the service manager"), "{log}");
}

#[test]
fn a_log_in_a_file_is_plain_and_its_level_can_be_changed() {
    let mut controller = Controller::start(|_| {});
    controller.next();
    controller.call("log", json!({"level": "err"}));
    controller.plug(1);
    controller.call("log", json!({"level": "info"}));
    controller.plug(2);
    let (_, log) = controller.end();
    assert!(!log.contains('\u{1b}'), "{log:?}");
    let ready: Vec<&str> = log.lines().filter(|line| line.contains("device is ready")).collect();
    let [first, second] = ready[..] else { panic!("{log}") };
    assert!(first.contains("device=\"vm1\" pf=0 vuid=\"VN"), "{first}");
    assert!(second.contains("device=\"pf2\" pf=2 vuid=\"VN"), "{second}");
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn an_uplink_of_dpdks_is_refused_without_dpdk() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.json");
    std::fs::write(&config, json!({"switch": {"uplinks": [{"dpdk": "net_ring0"}]}}).to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_virtio-net-controller"));
    command.env_clear().arg("--config").arg(&config).arg("--run-dir").arg(folder.path());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    // Behind the log, which says so of the file.
    let stderr = String::from_utf8(output.stderr).unwrap();
    let error = stderr.lines().last().unwrap();
    assert!(error.starts_with("virtio-net-controller: ") && error.contains("uplink net_ring0: "), "{stderr}");
    assert!(error.contains("--features dpdk"), "{stderr}");
}

/// Until its socket answers.
fn wait_ready(folder: &Path) {
    let deadline = std::time::Instant::now() + LONG;
    while let Err(error) = Client::connect(&folder.join("virtnet.sock"), LONG) {
        assert!(std::time::Instant::now() < deadline, "{error}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_packages_configurations_are_good() {
    for file in ["package/virtnet.conf", "package/examples/virtnet.conf", "package/examples/virtnet-lag.conf"] {
        let config = Config::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
        assert!(config.notes().is_empty(), "{file}: {:?}", config.notes());
    }
}
