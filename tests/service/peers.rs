//! Who else is on the machine: another controller, and whoever finds the service's socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::json;
use virtnet_control::rpc::Client;
use virtnet_tests::draw::Draw;

use crate::process::Process;
use crate::service::{SOON, Service, loopback};

/// Connections that the service keeps at a time.
const CONNECTIONS: usize = 64;

#[test]
fn another_controller_in_the_same_folder_is_refused_and_does_no_harm() {
    let mut service = Service::board();
    service.hotplug(1);
    service.ok("sriov -p 0 -n 2");
    let (mut guest, _frontend) = service.guest("pf0.sock");
    // What the next start would do must not be done by one that does not get that far.
    service.ok("mlxconfig set VIRTIO_NET_EMULATION_NUM_PF=3");
    let (list, files, sockets) = (service.list(), service.recovery_files(), service.sockets());
    for _ in 0..2 {
        let mut other = service.spawn();
        other.wait_for("another controller", 0, SOON);
        let status = other.wait_end(SOON);
        assert!(!status.success(), "{status}");
        guest.loop_frames(100);
        assert_eq!(service.list(), list);
        assert_eq!((service.recovery_files(), service.sockets()), (files.clone(), sockets.clone()));
        let entry = service.ok("mlxconfig query VIRTIO_NET_EMULATION_NUM_PF")["entries"][0].clone();
        assert_eq!((&entry["current"], &entry["next_boot"]), (&"2".into(), &"3".into()));
    }
    service.end();
}

#[test]
fn another_controller_with_the_same_state_is_refused() {
    let mut service = Service::board();
    let mut other = Service::prepared("", &loopback());
    let state = service.path("state");
    let mut daemon = other.spawn_with(&["--state-dir", state.to_str().expect("a plain path")]);
    daemon.wait_for("another controller", 0, SOON);
    assert!(!daemon.wait_end(SOON).success());
    service.hotplug(1);
    service.end();
    // The folder is free again, whoever had it.
    other.adopt(daemon_of(&other, state.to_str().expect("a plain path")));
    assert_eq!(other.list().len(), 3);
    other.end();
}

fn daemon_of(service: &Service, state: &str) -> Process {
    let mut daemon = service.spawn_with(&["--state-dir", state]);
    daemon.wait_for("\"pf2\"", 0, SOON);
    daemon
}

#[test]
fn of_controllers_started_at_once_one_serves() {
    let mut service = Service::board();
    service.kill();
    let mut started: Vec<_> = (0..4).map(|_| service.spawn()).collect();
    let end = std::time::Instant::now() + SOON;
    while started.iter_mut().map(Process::is_running).filter(|runs| *runs).count() > 1 {
        assert!(std::time::Instant::now() < end, "two of them serve");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let served = started.iter_mut().position(|one| one.is_running()).expect("one of them serves");
    let mut daemon = started.swap_remove(served);
    daemon.wait_for("device is ready", 0, SOON);
    drop(started);
    service.adopt(daemon);
    let (mut guest, frontend) = service.guest("pf1.sock");
    guest.loop_frames(10);
    drop(frontend);
    assert_eq!(service.list().len(), 2);
    service.end();
}

fn connect(service: &Service) -> UnixStream {
    let stream = UnixStream::connect(service.path("virtnet.sock")).expect("the service listens");
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Sends as much as goes out at once; nobody waits for an answer.
fn pour(mut stream: &UnixStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}

#[test]
fn hostile_peers_do_not_keep_operators_out() {
    let mut service = Service::board();
    service.ok("sriov -p 0 -n 2");
    let list = service.list();
    let mut draw = Draw::new(7);
    let mut garbage = |len: usize| (0..len).map(|_| draw.below(256) as u8).collect::<Vec<_>>();
    let request = br#"{"jsonrpc":"2.0","id":1,"method":"list"}
"#;
    let mut peers = Vec::new();
    for round in 0..3 * CONNECTIONS {
        let peer = connect(&service);
        match round % 6 {
            // Nothing at all.
            0 => {}
            // What is no JSON, line after line.
            1 => pour(&peer, &[&garbage(20_000)[..], b"\n", &garbage(200), b"\n"].concat()),
            // A line without an end.
            2 => pour(&peer, &vec![b'['; 100_000]),
            // Requests whose answers are never read.
            3 => pour(&peer, &request.repeat(500)),
            // JSON that is no request, and requests for what cannot be.
            4 => pour(
                &peer,
                b"[]\n[[[[1]]]]\n{}\n\"x\"\n{\"jsonrpc\":\"2.0\",\"id\":{},\"method\":1}\n\
                  {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"hotplug\",\"params\":{\"mtu\":-1}}\n\
                  {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"query\",\"params\":{\"pf\":1e99}}\n\
                  {\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"modify\",\"params\":{\"pf\":0,\"subcmd\":[]}}\n",
            ),
            // Half a request.
            _ => pour(&peer, &request[..20]),
        }
        peers.push(peer);
        if round % 16 == 0 {
            assert_eq!(service.list(), list, "after {round} peers");
        }
    }
    assert_eq!(service.list(), list);
    let (mut guest, _frontend) = service.guest("pf0.sock");
    guest.loop_frames(100);
    drop(peers);
    assert_eq!(service.list().len(), list.len());
    assert!(service.daemon().is_running());
    service.end();
}

#[test]
fn a_controller_without_descriptors_goes_on_and_lets_front_ends_in_when_it_has_some() {
    let mut service = Service::board();
    let mut asking = Client::connect(&service.path("virtnet.sock"), SOON).unwrap();
    asking.call("version", json!({})).unwrap();
    let id = service.daemon().id();
    let next = (0..1024).find(|fd| !Path::new(&format!("/proc/{id}/fd/{fd}")).exists()).unwrap();
    let limit = |soft: u32| {
        let set = Command::new("prlimit").args(["--pid", &id.to_string(), &format!("--nofile={soft}:")]).status();
        assert!(set.expect("util-linux is here").success());
    };
    limit(next);
    let waiting = UnixStream::connect(service.path("pf0.sock")).unwrap();
    let began = Instant::now();
    service.daemon().wait_for("accepting a connection", 0, SOON);
    // Each of these is a turn of its loop at least.
    for _ in 0..100 {
        asking.call("version", json!({})).unwrap();
    }
    let refused = service.log().matches("accepting a connection").count() as u64;
    assert!(refused <= 2 + began.elapsed().as_secs(), "it tries again and again: {refused} times");
    limit(1024);
    drop(waiting);
    let (mut guest, _frontend) = service.guest("pf0.sock");
    guest.loop_frames(10);
    service.end();
}

#[test]
fn a_peer_is_told_what_was_wrong_with_what_it_sent() {
    let service = Service::board();
    let mut stream = UnixStream::connect(service.path("virtnet.sock")).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    for (line, code) in [
        ("nonsense", -32700),
        ("[]", -32600),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"destroy\"}", -32601),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"list\",\"params\":[1]}", -32602),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"query\",\"params\":{\"pf\":9}}", -1001),
    ] {
        stream.write_all(format!("{line}\n").as_bytes()).unwrap();
        let (mut reply, mut byte) = (Vec::new(), [0]);
        while reply.last() != Some(&b'\n') {
            stream.read_exact(&mut byte).unwrap();
            reply.push(byte[0]);
        }
        let reply: serde_json::Value = serde_json::from_slice(&reply).unwrap();
        assert_eq!(reply["error"]["code"], code, "{line}: {reply}");
    }
}
