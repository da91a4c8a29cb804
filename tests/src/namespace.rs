//! A network namespace for a test: it runs itself again in one, as root of a user namespace.

use std::process::{Command, Stdio};

use crate::programs;

const INSIDE: &str = "VIRTNET_TEST_NAMESPACE";
const UNSHARE: [&str; 3] = ["--user", "--map-root-user", "--net"];

/// Whether this is the run in the namespace. The outer one starts it, and passes on its outcome; where there can be none, it
/// says so.
pub fn inside() -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let runs =
        |program: &mut Command| program.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success());
    if !std::path::Path::new("/dev/net/tun").exists() {
        programs::skip("there is no /dev/net/tun");
    } else if !runs(Command::new("unshare").args(UNSHARE).arg("true")) {
        programs::skip("a network namespace cannot be made here");
    } else if !runs(Command::new("ip").arg("-V")) {
        programs::skip("there is no ip command");
    } else {
        let me = std::env::current_exe().expect("a test knows where it is");
        let test = std::thread::current().name().expect("a test has a name").to_owned();
        let mut again = Command::new("unshare");
        again.args(UNSHARE).arg(me).args([&test, "--exact", "--nocapture"]).env(INSIDE, "1");
        assert!(again.status().expect("unshare runs").success(), "the run inside the namespace failed");
    }
    false
}

/// Runs `ip` with the words of `line`, and returns what it prints.
#[track_caller]
pub fn ip(line: &str) -> String {
    let output = Command::new("ip").args(line.split_whitespace()).output().expect("ip runs");
    assert!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("ip prints text")
}
