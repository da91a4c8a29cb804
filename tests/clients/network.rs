//! A network namespace of the test's own, which goes when the test does.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::lab::{self, Lab};
use crate::process::{self, Process};

/// A network namespace held by a sleeping child. Made as root, or inside a user namespace.
pub struct Network {
    _holder: Process,
    busybox: PathBuf,
    enter: Vec<String>,
}

impl Network {
    /// A new namespace where TAPs can be made, or `None` after saying why not.
    pub fn new(lab: &Lab) -> Option<Network> {
        if let Err(error) = File::options().read(true).write(true).open("/dev/net/tun") {
            lab::skip(&format!("no TAPs: /dev/net/tun: {error}"));
            return None;
        }
        let own_users = !rustix::process::geteuid().is_root();
        let unshare: &[&str] =
            if own_users { &["unshare", "--user", "--map-root-user", "--net"] } else { &["unshare", "--net"] };
        let busybox = lab.busybox().to_owned();
        let mut command = process::command(unshare, &busybox);
        let line = "B=$0; $B ip link set lo up && echo up; exec $B sleep 100000";
        command.args(["sh", "-c", line]).arg(&busybox);
        let mut holder = Process::start("network namespace", command);
        let answer = holder
            .wait_until("answer", 0, Duration::from_secs(10), |text| text.contains('\n').then(|| text.to_owned()));
        if !answer.starts_with("up") {
            lab::skip(&format!("no network namespace: {}", answer.trim()));
            return None;
        }
        let mut enter = vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", holder.id())];
        if own_users {
            enter.extend([format!("--user=/proc/{}/ns/user", holder.id()), "--preserve-credentials".to_owned()]);
        }
        Some(Network { _holder: holder, busybox, enter })
    }

    /// A command that runs inside.
    pub fn command(&self, program: &Path) -> Command {
        let prefix: Vec<&str> = self.enter.iter().map(String::as_str).collect();
        process::command(&prefix, program)
    }

    /// Runs one of busybox's commands inside and returns what it printed.
    #[track_caller]
    pub fn run(&self, words: &str) -> String {
        let output = self.command(&self.busybox).args(words.split_whitespace()).output().expect("busybox starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{words}: {}: {text}", output.status);
        text
    }

    /// Gives the netdev `name` an address and brings it up.
    #[track_caller]
    pub fn address(&self, name: &str, address: &str) {
        self.run(&format!("ip addr add {address} dev {name}"));
        self.run(&format!("ip link set {name} up"));
    }

    /// Answers whatever is sent to TCP port 7, byte for byte.
    pub fn echo(&self) -> Process {
        let mut command = self.command(&self.busybox);
        command.args(["nc", "-ll", "-p", "7", "-e"]).arg(&self.busybox).arg("cat");
        Process::start("echo server", command)
    }
}
