//! The controller as a process: one at a time, with all descriptors that it may have.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use virtnet_control::daemon::RPC_SOCKET;
use virtnet_control::firmware::Store;

/// With few descriptors to begin with.
fn controller(dir: &Path) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "ulimit -Sn 64 && exec \"$0\" --config \"$1/virtnet.conf\" --run-dir \"$1\""]);
    command.arg(env!("CARGO_BIN_EXE_virtio-net-controller")).arg(dir).env_clear().stderr(Stdio::piped());
    command
}

/// A controller that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Running {
    let running = Running(controller(dir).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(60);
    while UnixStream::connect(dir.join(RPC_SOCKET)).is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
        std::thread::sleep(Duration::from_millis(10));
    }
    running
}

#[test]
fn another_one_leaves_the_state_of_the_first_alone() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("virtnet.conf"), "{}").unwrap();
    let running = start(dir.path());
    let state = dir.path().join("state");
    let file = state.join("recovery/VN0123456789VNETS1D0F0.json");
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(&file, "of the first").unwrap();
    Store::load(&state).unwrap().set(&[("SRIOV_EN", "0")]).unwrap();
    let Output { status, stderr, .. } = controller(dir.path()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert!(!status.success() && said.contains("another controller uses it"), "{said}");
    assert!(file.exists() && Store::load(&state).unwrap().is_pending());
    drop(running);
}

#[test]
fn it_takes_all_descriptors_that_it_may_have() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("virtnet.conf"), "{}").unwrap();
    let running = start(dir.path());
    // Somebody listens before everything is done; whoever is answered comes later.
    let deadline = Instant::now() + Duration::from_secs(60);
    let limits = || fs::read_to_string(format!("/proc/{}/limits", running.0.id())).unwrap();
    let of = |limits: &str| {
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        (words.next().unwrap(), words.next().unwrap())
    };
    while of(&limits()).0 != of(&limits()).1 {
        assert!(Instant::now() < deadline, "{}", limits());
        std::thread::sleep(Duration::from_millis(10));
    }
}
