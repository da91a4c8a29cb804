use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::thread::JoinHandle;

use serde_json::Value;
use tempfile::TempDir;

use super::*;
use crate::config::{Mac, Mode, Port, Transport};
use crate::device::{Spec, features};
use crate::function::{Id, Identity, Seat, Socket};

const GREETING: &str = r#"{"QMP": {"version": {}, "capabilities": []}}"#;
const DONE: &str = r#"{"return": {}}"#;
const UNKNOWN: &str = r#"{"error": {"class": "DeviceNotFound", "desc": "Device 'virtnet-pf3' not found"}}"#;
const REFUSED: &str = r#"{"error": {"class": "GenericError", "desc": "Bus 'rp0' is full"}}"#;

/// A monitor that says `greeting`, and to each command what is next, line by line; then it hangs up. It returns the commands.
struct Machine {
    _folder: TempDir,
    path: PathBuf,
    thread: JoinHandle<Vec<Value>>,
}

impl Machine {
    fn new(greeting: &'static str, answers: &[&[&'static str]]) -> Self {
        let answers: Vec<Vec<&'static str>> = answers.iter().map(|lines| lines.to_vec()).collect();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("qmp");
        let listener = UnixListener::bind(&path).unwrap();
        let thread = std::thread::spawn(move || {
            let mut stream = listener.accept().unwrap().0;
            let mut commands = BufReader::new(stream.try_clone().unwrap()).lines();
            let say = |stream: &mut UnixStream, line: &str| writeln!(stream, "{line}").unwrap();
            say(&mut stream, greeting);
            let mut obeyed = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = commands.next() else { break };
                obeyed.push(serde_json::from_str(&line).unwrap());
                answer.iter().for_each(|line| say(&mut stream, line));
            }
            obeyed
        });
        Self { _folder: folder, path, thread }
    }

    /// What it was told, but for the first command.
    fn told(self) -> Vec<(String, Value)> {
        let mut commands = self.thread.join().unwrap();
        assert_eq!(commands.remove(0)["execute"], "qmp_capabilities");
        let parts = |command: Value| (command["execute"].as_str().unwrap().to_owned(), command["arguments"].clone());
        commands.into_iter().map(parts).collect()
    }
}

fn function(transport: Transport, mode: Mode) -> Function {
    let identity = Identity::new("VN0123456789", Id::Pf(3), Seat::Slot(0), None, "mlx5_0", 0);
    let spec = Spec {
        name: "pf3".into(),
        queue_pairs: 2,
        queue_size_max: 256,
        mac: Mac([2, 0, 0, 0, 0, 3]),
        mtu: Some(1500),
        offered: features::SUPPORTED,
        transitional: false,
        is_steered: false,
        settings: Default::default(),
    };
    let socket = Socket { path: "/run/a,b.sock".into(), transport, mode, permissions: 0o600 };
    Function::new(identity, spec, Port::Sink, socket)
}

fn ids(told: &[(String, Value)]) -> Vec<(&str, &str)> {
    told.iter().map(|(command, arguments)| (command.as_str(), arguments["id"].as_str().unwrap())).collect()
}

#[test]
fn a_front_end_is_made_of_three_parts() {
    let machine = Machine::new(GREETING, &[&[DONE], &[DONE], &[DONE], &[DONE]]);
    plug(&machine.path, &function(Transport::VhostUser, Mode::Server), "rp0").unwrap();
    let told = machine.told();
    assert_eq!(
        ids(&told),
        [("chardev-add", "virtnet-pf3-chardev"), ("netdev_add", "virtnet-pf3-netdev"), ("device_add", "virtnet-pf3")]
    );
    let backend = json!({ "type": "socket", "data": {
        "addr": { "type": "unix", "data": { "path": "/run/a,b.sock" } }, "server": false, "reconnect-ms": 500 } });
    assert_eq!(told[0].1["backend"], backend);
    assert_eq!(
        told[2].1,
        json!({ "driver": "virtio-net-pci", "id": "virtnet-pf3", "bus": "rp0", "netdev": "virtnet-pf3-netdev",
                "mac": "02:00:00:00:00:03", "packed": true, "rx_queue_size": 256, "tx_queue_size": 256, "mq": true,
                "vectors": 6, "host_mtu": 1500 })
    );
}

#[test]
fn arguments_say_the_same() {
    let listed = arguments(&function(Transport::VhostUser, Mode::Client));
    assert_eq!(listed[..2], ["-chardev", "socket,id=virtnet-pf3-chardev,path=/run/a,,b.sock,server=on,wait=off"]);
    assert_eq!((listed[2].as_str(), listed[4].as_str(), listed.len()), ("-netdev", "-device", 6));
    let listed = arguments(&function(Transport::VfioUser, Mode::Server));
    let device: Value = serde_json::from_str(&listed[1]).unwrap();
    let socket = json!({ "type": "unix", "path": "/run/a,b.sock" });
    assert_eq!(device, json!({ "driver": "vfio-user-pci", "id": "virtnet-pf3", "socket": socket }));
    let mut relative = function(Transport::VfioUser, Mode::Server);
    relative.socket.path = "run/pf3.sock".into();
    let here = std::env::current_dir().unwrap();
    assert!(arguments(&relative)[1].contains(here.join("run/pf3.sock").to_str().unwrap()));
}

#[test]
fn what_was_made_is_taken_back_where_the_rest_is_refused() {
    let machine = Machine::new(GREETING, &[&[DONE], &[DONE], &[DONE], &[REFUSED], &[DONE], &[DONE]]);
    let error = plug(&machine.path, &function(Transport::VhostUser, Mode::Server), "rp0").unwrap_err();
    assert_eq!(error.to_string(), "device_add: Bus 'rp0' is full");
    let told = machine.told();
    assert_eq!(ids(&told[3..]), [("netdev_del", "virtnet-pf3-netdev"), ("chardev-remove", "virtnet-pf3-chardev")]);
}

#[test]
fn a_device_is_waited_for_and_others_events_are_not_its() {
    const OTHER: &str = r#"{"event": "DEVICE_DELETED", "data": {"device": "virtnet-pf1"}}"#;
    const OWN: &str = r#"{"event": "DEVICE_DELETED", "data": {"device": "virtnet-pf3", "path": "/machine"}}"#;
    const PART: &str =
        r#"{"event": "DEVICE_DELETED", "data": {"path": "/machine/peripheral/virtnet-pf3/virtio-backend"}}"#;
    let function = function(Transport::VhostUser, Mode::Server);
    // The event may come before the answer.
    for answer in [&[DONE, OTHER, PART, OWN][..], &[OWN, DONE]] {
        let machine = Machine::new(GREETING, &[&[DONE], answer, &[DONE], &[UNKNOWN]]);
        unplug(&machine.path, &function).unwrap();
        let told = machine.told();
        let parts = ["virtnet-pf3", "virtnet-pf3-netdev", "virtnet-pf3-chardev"];
        assert_eq!(ids(&told).into_iter().map(|(_, id)| id).collect::<Vec<_>>(), parts);
    }
}

#[test]
fn a_guest_may_refuse_to_release_it() {
    const KEPT: &str =
        r#"{"event": "DEVICE_UNPLUG_GUEST_ERROR", "data": {"device": "virtnet-pf3", "path": "/machine"}}"#;
    let machine = Machine::new(GREETING, &[&[DONE], &[DONE, KEPT]]);
    let error = unplug(&machine.path, &function(Transport::VfioUser, Mode::Server)).unwrap_err();
    assert!(matches!(error, MonitorError::Kept(id) if id == "virtnet-pf3"));
}

#[test]
fn what_is_not_there_is_unplugged_and_what_is_leaving_is_waited_for() {
    const LEAVING: &str =
        r#"{"error": {"class": "GenericError", "desc": "Device virtnet-pf3 is already in the process of unplug"}}"#;
    const OWN: &str = r#"{"event": "DEVICE_DELETED", "data": {"device": "virtnet-pf3", "path": "/machine"}}"#;
    for answer in [&[UNKNOWN][..], &[LEAVING, OWN]] {
        let machine = Machine::new(GREETING, &[&[DONE], answer]);
        unplug(&machine.path, &function(Transport::VfioUser, Mode::Server)).unwrap();
    }
}

#[test]
fn who_is_no_monitor_is_told_from_who_is_not_there() {
    let connect = |machine: &Machine| Monitor::connect(&machine.path, Instant::now() + TIMEOUT).map(drop);
    let long: &'static str = Box::leak("x".repeat(1 << 17).into());
    for greeting in ["SSH-2.0", "[", long] {
        assert!(matches!(connect(&Machine::new(greeting, &[])), Err(MonitorError::Nonsense { .. })), "{greeting:.10}");
    }
    assert!(matches!(connect(&Machine::new("{}", &[])), Err(MonitorError::Gone(_))));
    assert!(matches!(connect(&Machine::new(GREETING, &[])), Err(MonitorError::Gone(_))));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("qmp");
    let connect = |wait| Monitor::connect(&path, Instant::now() + wait).map(drop);
    assert!(matches!(connect(TIMEOUT), Err(MonitorError::Nobody(_))));
    let listener = UnixListener::bind(&path).unwrap();
    // It takes the connection, and says nothing: somebody else is talking to it.
    assert!(matches!(connect(Duration::from_millis(20)), Err(MonitorError::Late { .. })));
    drop(listener);
    assert!(matches!(connect(TIMEOUT), Err(MonitorError::Nobody(_))));
}
