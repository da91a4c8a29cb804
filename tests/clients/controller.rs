//! The daemon under test.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::lab;
use crate::network::Network;
use crate::process::{self, Process};

/// A running `virtio-net-controller` with its own run folder.
pub struct Controller<'a> {
    folder: tempfile::TempDir,
    network: Option<&'a Network>,
    sockets: Vec<PathBuf>,
    process: Process,
}

impl<'a> Controller<'a> {
    /// Starts the daemon with `config`, inside `network` if it needs netdevs, and waits for its sockets.
    pub fn start(config: &Value, network: Option<&'a Network>) -> Controller<'a> {
        Self::start_on(config, network, &[])
    }

    /// The same, on a board whose firmware has been set: `NAME=VALUE` each.
    pub fn start_on(config: &Value, network: Option<&'a Network>, firmware: &[&str]) -> Controller<'a> {
        let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder");
        if !firmware.is_empty() {
            virtnet(folder.path(), &[&["mlxconfig", "set"], firmware].concat());
        }
        let text = serde_json::to_string_pretty(config).expect("JSON");
        std::fs::write(folder.path().join("config.json"), text).expect("the folder is ours");
        let listening = config["devices"].as_array().into_iter().flatten().filter(|device| device["mode"] == "server");
        let sockets = listening.map(|device| device["socket"].as_str().expect("a path")).chain(["virtnet.sock"]);
        let sockets = sockets.map(|socket| folder.path().join(socket)).collect();
        let process = spawn(folder.path(), network);
        let mut controller = Controller { folder, network, sockets, process };
        controller.wait_ready();
        controller
    }

    /// A file in the run folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What it has mapped.
    pub fn maps(&self) -> String {
        std::fs::read_to_string(format!("/proc/{}/maps", self.process.id())).expect("it runs")
    }

    /// What `virtnet` prints when it is told `words`, which must succeed.
    #[track_caller]
    pub fn virtnet(&self, words: &str) -> Value {
        virtnet(self.folder.path(), &words.split_whitespace().collect::<Vec<_>>())
    }

    /// What `virtnet` prints when it is told `words`, which must be refused.
    #[track_caller]
    pub fn refused(&self, words: &str) -> String {
        let words: Vec<_> = words.split_whitespace().collect();
        let output = ask(self.folder.path(), &words);
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{words:?}: {text}");
        text
    }

    /// Ends the daemon without warning.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts the daemon again, with the same configuration.
    pub fn start_again(&mut self) {
        self.process = spawn(self.folder.path(), self.network);
        self.wait_ready();
    }

    /// Asks the daemon to end, and checks that it does so cleanly.
    #[track_caller]
    pub fn end(mut self) {
        assert!(self.process.is_running(), "the daemon ended before it was asked to");
        self.process.terminate();
        let status = self.process.wait_end(Duration::from_secs(10));
        assert!(status.success(), "the daemon's end: {status}");
        let left = self.sockets.iter().filter(|socket| socket.exists()).count();
        assert_eq!(left, 0, "sockets left behind by the daemon");
    }

    #[track_caller]
    fn wait_ready(&mut self) {
        let end = Instant::now() + Duration::from_secs(20);
        // A socket left by a killed daemon exists too, so ask for an answer, not for the file.
        while !self.sockets.iter().all(|socket| listens(self.process.id(), socket)) {
            assert!(self.process.is_running(), "the daemon ended at its start");
            assert!(Instant::now() < end, "the daemon's sockets did not appear");
            std::thread::sleep(Duration::from_millis(20));
        }
        // The last of them is there before anything else is.
        self.virtnet("list");
    }
}

fn spawn(folder: &Path, network: Option<&Network>) -> Process {
    let binary = lab::controller();
    let mut command = match network {
        Some(network) => network.command(&binary),
        None => process::command(&[], &binary),
    };
    command.arg("--config").arg(folder.join("config.json")).arg("--run-dir").arg(folder);
    command.env_remove("VIRTNET_STATE_DIR");
    Process::start("virtio-net-controller", command)
}

#[track_caller]
fn virtnet(run_dir: &Path, words: &[&str]) -> Value {
    let output = ask(run_dir, words);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{words:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

fn ask(run_dir: &Path, words: &[&str]) -> Output {
    let mut command = process::command(&[], lab::virtnet());
    command.arg("--run-dir").arg(run_dir).args(words).env_remove("VIRTNET_STATE_DIR");
    command.output().expect("virtnet starts")
}

/// Whether someone listens at `socket`, by the kernel's list for the namespace of process `id`: no
/// connection is spent on the question.
fn listens(id: u32, socket: &Path) -> bool {
    let Ok(list) = std::fs::read_to_string(format!("/proc/{id}/net/unix")) else { return false };
    let path = socket.to_str().expect("a plain path");
    // Columns: number, count, protocol, flags (0x10000 when listening), type, state, inode, path.
    list.lines().any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.len() == 8 && columns[7] == path && columns[3] == "00010000"
    })
}
