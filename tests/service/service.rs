//! A controller in a folder of its own, and what an operator does with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use virtnet_control::rpc::Client;
use virtnet_control::vhost_user::frontend::Frontend;
use virtnet_tests::programs;

use crate::front_end::Guest;
use crate::process::{self, Process};

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(20);
/// Two static PFs with room for two VFs each, and four slots.
pub const BOARD: &str = "VIRTIO_NET_EMULATION_ENABLE=1 VIRTIO_NET_EMULATION_NUM_PF=2 VIRTIO_NET_EMULATION_NUM_VF=2
    VIRTIO_NET_EMULATION_NUM_MSIX=64 VIRTIO_NET_EMULATION_NUM_VF_MSIX=32
    PCI_SWITCH_EMULATION_ENABLE=1 PCI_SWITCH_EMULATION_NUM_PORT=4";

/// A controller, or the folder of one that does not run.
pub struct Service {
    folder: tempfile::TempDir,
    daemon: Option<Process>,
}

/// What `virtnet` printed.
pub struct Reply {
    pub line: String,
    pub status: i32,
    pub output: String,
    pub errors: String,
}

impl Service {
    /// A folder with a configuration and firmware settings, in effect from the first start.
    pub fn prepared(settings: &str, config: &Value) -> Service {
        let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().expect("a folder");
        let service = Service { folder, daemon: None };
        service.configure(config);
        if !settings.is_empty() {
            service.ok(&format!("mlxconfig set {settings}"));
        }
        service
    }

    /// The same, started.
    pub fn with(settings: &str, config: &Value) -> Service {
        let mut service = Service::prepared(settings, config);
        service.start();
        service
    }

    /// [`BOARD`], whose functions hand every frame back.
    pub fn board() -> Service {
        Service::with(BOARD, &loopback())
    }

    /// Writes the configuration of the next start.
    pub fn configure(&self, config: &Value) {
        std::fs::write(self.path("virtnet.conf"), format!("{config:#}")).expect("the folder is ours");
    }

    /// Starts the controller and waits until it answers.
    #[track_caller]
    pub fn start(&mut self) {
        assert!(self.daemon.is_none(), "it runs already");
        let mut daemon = self.spawn();
        let end = Instant::now() + SOON;
        while self.try_call("version", json!({})).is_none() {
            assert!(daemon.is_running(), "the controller ended at its start:\n{}", daemon.output());
            assert!(Instant::now() < end, "the controller does not answer:\n{}", daemon.output());
            std::thread::sleep(Duration::from_millis(2));
        }
        self.daemon = Some(daemon);
    }

    /// Another controller in the same folder.
    pub fn spawn(&self) -> Process {
        self.spawn_as(&[], &[])
    }

    /// A controller behind the words of `prefix`.
    pub fn spawn_behind(&self, prefix: &[&str]) -> Process {
        self.spawn_as(prefix, &[])
    }

    /// A controller with more options.
    pub fn spawn_with(&self, options: &[&str]) -> Process {
        self.spawn_as(&[], options)
    }

    fn spawn_as(&self, prefix: &[&str], options: &[&str]) -> Process {
        let mut command = process::command(prefix, programs::controller());
        command.arg("--config").arg(self.path("virtnet.conf")).arg("--run-dir").arg(self.folder.path()).args(options);
        command.env_remove("RUST_LOG").env("NO_COLOR", "1");
        Process::start("virtio-net-controller", command)
    }

    /// Takes a controller for this service's.
    pub fn adopt(&mut self, daemon: Process) {
        assert!(self.daemon.replace(daemon).is_none(), "it runs already");
    }

    /// Ends the controller as an operator would, and checks that nothing of it is left.
    #[track_caller]
    pub fn end(&mut self) -> String {
        let mut daemon = self.daemon.take().expect("it runs");
        assert!(daemon.is_running(), "the controller ended before it was asked to:\n{}", daemon.output());
        daemon.terminate();
        let status = daemon.wait_end(SOON);
        assert!(status.success(), "the controller's end: {status}\n{}", daemon.output());
        assert_eq!(self.sockets(), BTreeSet::new(), "sockets left behind");
        daemon.output()
    }

    /// Ends it without warning.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        daemon.kill();
        daemon.wait_end(SOON);
    }

    /// Ends it by `signal`, and starts it again.
    #[track_caller]
    pub fn start_again_after(&mut self, signal: Signal) {
        match signal {
            Signal::KILL => self.kill(),
            _ => drop(self.end()),
        }
        self.start();
    }

    /// The folder, and what kills the controller in it meanwhile.
    pub fn split(&self) -> (&Service, impl FnOnce() + Send) {
        let id = self.daemon.as_ref().expect("it runs").id();
        (self, move || {
            let id = i32::try_from(id).ok().and_then(Pid::from_raw).expect("a child's id");
            kill_process(id, Signal::KILL).expect("it runs");
        })
    }

    /// The controller's process.
    pub fn daemon(&mut self) -> &mut Process {
        self.daemon.as_mut().expect("it runs")
    }

    /// What the controller has logged since it was started.
    pub fn log(&self) -> String {
        self.daemon.as_ref().expect("it runs").output()
    }

    /// Waits until the controller has logged an error with all these words in one line.
    #[track_caller]
    pub fn wait_error(&mut self, words: &[&str]) {
        let is_it = |line: &str| line.contains("ERROR") && words.iter().all(|word| line.contains(word));
        let found = |log: &str| log.lines().any(is_it).then_some(());
        self.daemon().wait_until(&format!("error of {words:?}"), 0, SOON, found);
    }

    /// Something in the run folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Something in the folder of recovery files.
    pub fn recovery(&self, name: &str) -> PathBuf {
        self.path("state/recovery").join(name)
    }

    /// What is in the folder of recovery files.
    pub fn recovery_files(&self) -> BTreeSet<String> {
        names(&self.recovery("")).collect()
    }

    /// The sockets in the run folder, whoever listens.
    pub fn sockets(&self) -> BTreeSet<String> {
        names(self.folder.path()).filter(|name| name.ends_with(".sock")).collect()
    }

    /// What is asked beside `virtnet`: `None` if nobody answers.
    pub fn try_call(&self, method: &str, params: Value) -> Option<Value> {
        Client::connect(&self.path("virtnet.sock"), SOON).and_then(|mut client| client.call(method, params)).ok()
    }

    /// Runs `virtnet` with the words of `line`.
    pub fn virtnet(&self, line: &str) -> Reply {
        let mut command = Command::new(programs::virtnet());
        command.arg("--run-dir").arg(self.folder.path()).args(line.split_whitespace());
        let output = command.output().expect("virtnet runs");
        let text = |bytes| String::from_utf8(bytes).expect("virtnet prints text");
        Reply {
            line: line.to_owned(),
            status: output.status.code().expect("virtnet ends by itself"),
            output: text(output.stdout),
            errors: text(output.stderr),
        }
    }

    /// The reply to a command that works.
    #[track_caller]
    pub fn ok(&self, line: &str) -> Value {
        let reply = self.virtnet(line);
        assert_eq!(reply.status, 0, "virtnet {line}: {}{}", reply.output, reply.errors);
        reply.value()
    }

    /// The number with which a command is refused.
    #[track_caller]
    pub fn refused(&self, line: &str) -> i64 {
        let reply = self.virtnet(line);
        assert_eq!(reply.status, 1, "virtnet {line}: {}{}", reply.output, reply.errors);
        let value = reply.value();
        assert!(value["errstr"].as_str().is_some_and(|text| !text.is_empty()), "virtnet {line}: {value}");
        value["errno"].as_i64().expect("a refusal has a number")
    }

    /// A function as `query` shows it.
    #[track_caller]
    pub fn query(&self, selector: &str) -> Value {
        self.ok(&format!("query {selector} -b"))["devices"][0].clone()
    }

    /// All functions as `list` shows them.
    #[track_caller]
    pub fn list(&self) -> Vec<Value> {
        self.ok("list")["devices"].as_array().expect("a list").clone()
    }

    /// All functions' names, in the order of `list`.
    #[track_caller]
    pub fn vuids(&self) -> Vec<String> {
        self.list().iter().map(|device| text(device, "vuid").to_owned()).collect()
    }

    /// Plugs a PF with an address that ends in `number`; its reply.
    #[track_caller]
    pub fn hotplug(&self, number: u8) -> Value {
        self.ok(&format!("hotplug -i mlx5_0 -m 0C:C4:7A:FF:22:{number:02X} -t 1500 -qp 1 -s 256"))
    }

    /// A guest that has come to a function's socket, and its front end.
    #[track_caller]
    pub fn guest(&self, socket: &str) -> (Guest, Frontend) {
        let guest = Guest::new(virtnet_rings::Layout::Split, false);
        let frontend = guest.come(&self.path(socket));
        (guest, frontend)
    }

    /// Waits until no front end's queues run any more.
    #[track_caller]
    pub fn wait_unbound(&self, selector: &str) {
        let end = Instant::now() + SOON;
        while self.query(selector)["enabled_queues"] != "0" {
            assert!(Instant::now() < end, "the front end does not leave");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Reply {
    /// It as JSON.
    #[track_caller]
    pub fn value(&self) -> Value {
        let read = serde_json::from_str(&self.output);
        read.unwrap_or_else(|error| panic!("virtnet {}: {error}: {}{}", self.line, self.output, self.errors))
    }
}

/// A configuration whose functions hand every frame back, and whose idle workers sleep.
pub fn loopback() -> Value {
    let port = "loopback";
    json!({ "idle": "event", "sf_port": { "static_pf": port, "hotplug_pf": port, "vf": port } })
}

/// A field that is a string.
#[track_caller]
pub fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object[key].as_str().unwrap_or_else(|| panic!("{key} is {} in {object:#}", object[key]))
}

fn names(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("the folder is ours").file_name().into_string().expect("names are text"))
}
