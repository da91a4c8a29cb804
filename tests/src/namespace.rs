//! A network namespace for a test: it runs itself again in one, as root of a user namespace.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::aloud;

const ROLE: &str = "VIRTNET_TEST_NAMESPACE";
const UNSHARE: [&str; 3] = ["--user", "--map-root-user", "--net"];

/// Whether this is the run in the namespace. The outer one starts it, and passes on its outcome; where there can be none, or one
/// of `devices` is not there, it says so.
pub fn inside(devices: &[&str]) -> bool {
    if role().is_some() {
        return true;
    }
    let runs =
        |program: &mut Command| program.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if let Some(device) = devices.iter().find(|device| !Path::new(device).exists()) {
        aloud::skip(&format!("there is no {device}"));
    } else if !runs(Command::new("unshare").args(UNSHARE).arg("true")) {
        aloud::skip("a network namespace cannot be made here");
    } else if !runs(Command::new("ip").arg("-V")) {
        aloud::skip("there is no ip command");
    } else {
        let run = again("inside").stderr(Stdio::inherit()).output().expect("unshare runs");
        let said = String::from_utf8_lossy(&run.stdout);
        print!("{said}");
        assert!(run.status.success() && said.contains("ok. 1 passed"), "the run inside the namespace failed");
    }
    false
}

/// What this run is started as, if it is one in a namespace.
pub fn role() -> Option<String> {
    std::env::var(ROLE).ok()
}

/// This test in another namespace, as `role`.
pub fn again(role: &str) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(UNSHARE).arg(std::env::current_exe().expect("a test knows where it is"));
    unshare.arg(std::thread::current().name().expect("a test has a name"));
    unshare.args(["--exact", "--nocapture"]).env(ROLE, role);
    unshare
}

/// Runs `ip` with the words of `line`, and returns what it prints.
#[track_caller]
pub fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ip prints text")
}
