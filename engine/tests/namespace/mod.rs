//! A test in a network namespace of its own.

use std::io::Write;
use std::process::{Command, Stdio};

pub const INSIDE: &str = "VIRTNET_TEST_NAMESPACE";

/// Whether this is the inner run of the test. The outer one starts it, and passes on its outcome.
pub fn inside(devices: &[&str], test: &str) -> bool {
    if std::env::var(INSIDE).is_ok() {
        return true;
    }
    let missing = if let Some(device) = devices.iter().find(|device| !std::path::Path::new(device).exists()) {
        Some(format!("there is no {device}"))
    } else if !namespace(["true"]).stderr(Stdio::null()).status().is_ok_and(|status| status.success()) {
        Some("a network namespace cannot be made here".into())
    } else if !Command::new("ip").arg("-V").stdout(Stdio::null()).status().is_ok_and(|status| status.success()) {
        Some("there is no ip command".into())
    } else {
        None
    };
    if let Some(missing) = missing {
        let line = format!("{test}: {missing}");
        eprintln!("SKIPPED {line}");
        // The test command collects these lines, and repeats them at its end.
        if let Ok(list) = std::env::var("VIRTNET_SKIPPED") {
            let mut list = std::fs::OpenOptions::new().append(true).create(true).open(list).unwrap();
            writeln!(list, "{line}").unwrap();
        }
        return false;
    }
    let me = std::env::current_exe().unwrap();
    let status = namespace([me.to_str().unwrap(), test, "--exact", "--nocapture"]).env(INSIDE, "1").status().unwrap();
    assert!(status.success(), "the run inside the namespace failed");
    false
}

fn namespace<'a>(command: impl IntoIterator<Item = &'a str>) -> Command {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--net"]).args(command);
    unshare
}

pub fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().unwrap();
    assert!(status.success(), "ip {arguments}");
}
