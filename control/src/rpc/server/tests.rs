use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::CreateFlags;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::refusal::{Code, Refusal};
use crate::rpc::{LINE_BYTES_MAX, PATIENCE};
use crate::transport::entrance::REST;

const FIRST_TOKEN: u64 = 1000;
const SOON: Duration = Duration::from_secs(20);

fn handle(method: &str, params: Params) -> Result<Value, Refusal> {
    match method {
        "echo" => Ok(params.into()),
        "long" => Ok("x".repeat(4 << 20).into()),
        _ => Err(Code::NotSupported.because(method)),
    }
}

/// A server and its loop.
struct Bench {
    server: Server,
    epoll: OwnedFd,
    /// What is added to the clock.
    later: Duration,
    dir: TempDir,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let server = Server::listen(&dir.path().join("s"), FIRST_TOKEN).unwrap();
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        server.watch(&epoll).unwrap();
        Self { server, epoll, later: Duration::ZERO, dir }
    }

    fn now(&self) -> Instant {
        Instant::now() + self.later
    }

    /// One turn of the loop, as the daemon has it. The number of events.
    fn turn(&mut self) -> usize {
        let mut events = Vec::with_capacity(128);
        let brief = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&brief)).unwrap();
        for event in &events {
            let token = event.data.u64();
            assert!(self.server.owns(token));
            self.server.turn(token, self.now(), &self.epoll, &mut handle);
        }
        if self.server.wakes_at().is_some_and(|at| at <= self.now()) {
            self.server.turn_those_due(self.now(), &self.epoll, &mut handle);
        }
        events.len()
    }

    #[track_caller]
    fn run_until(&mut self, mut done: impl FnMut(&mut Server) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(&mut self.server) {
            assert!(Instant::now() < deadline, "it does not come to that");
            self.turn();
        }
    }

    fn connect(&self) -> Peer {
        let stream = UnixStream::connect(self.dir.path().join("s")).unwrap();
        stream.set_nonblocking(true).unwrap();
        Peer { stream, received: Vec::new() }
    }

    /// A peer that the server has let in.
    fn guest(&mut self) -> Peer {
        let mut peer = self.connect();
        peer.send(&request(0, "echo"));
        self.run_until(|_| peer.line().is_some());
        peer
    }
}

struct Peer {
    stream: UnixStream,
    received: Vec<u8>,
}

impl Peer {
    fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn read(&mut self) -> std::io::Result<usize> {
        self.stream.read_to_end(&mut self.received)
    }

    /// A line, once it has come.
    fn line(&mut self) -> Option<Value> {
        let _ = self.read();
        let end = self.received.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<_> = self.received.drain(..=end).collect();
        Some(serde_json::from_slice(&line).unwrap())
    }

    /// Whether the server has hung up.
    fn is_over(&mut self) -> bool {
        !matches!(self.read(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

fn request(id: u64, method: &str) -> Vec<u8> {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method})).into_bytes()
}

fn open(server: &Server) -> usize {
    server.connections.iter().flatten().count()
}

#[track_caller]
fn answer(bench: &mut Bench, peer: &mut Peer) -> Value {
    let mut line = None;
    bench.run_until(|_| {
        line = peer.line();
        line.is_some()
    });
    line.unwrap()
}

#[test]
fn a_request_is_answered_and_a_refusal_has_the_products_number() {
    let mut bench = Bench::new();
    let mode = std::fs::metadata(bench.dir.path().join("s")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut peer = bench.connect();
    peer.send(&request(1, "echo"));
    assert_eq!(answer(&mut bench, &mut peer), json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
    peer.send(&request(2, "update"));
    let error = json!({"code": -1046, "message": "Option is not supported: update"});
    assert_eq!(answer(&mut bench, &mut peer), json!({"jsonrpc": "2.0", "id": 2, "error": error}));
    assert_eq!(bench.turn(), 0, "an idle connection reports nothing");
    assert_eq!(bench.server.wakes_at(), None);
    drop(peer);
    bench.run_until(|server| open(server) == 0);
}

#[test]
fn for_one_connection_more_than_64_the_quietest_is_told_so_and_closed() {
    let mut bench = Bench::new();
    let mut peers: Vec<_> = (0..CONNECTIONS_MAX).map(|_| bench.guest()).collect();
    // The first has said something since, so the second is the one.
    peers[0].send(&request(1, "echo"));
    answer(&mut bench, &mut peers[0]);
    let surplus = bench.guest();
    let mut quietest = peers.remove(1);
    let told = answer(&mut bench, &mut quietest);
    assert_eq!((&told["error"]["code"], &told["id"]), (&json!(-32000), &Value::Null));
    assert!(told["error"]["message"].as_str().unwrap().contains("64 are open"));
    assert!(quietest.is_over());
    peers.push(surplus);

    let left = peers.swap_remove(7);
    drop(left);
    bench.run_until(|server| open(server) == CONNECTIONS_MAX - 1);
    peers.push(bench.guest());
    for (id, peer) in peers.iter_mut().enumerate() {
        peer.send(&request(id as u64, "echo"));
        assert_eq!(answer(&mut bench, peer)["id"], json!(id), "each has a token of its own");
    }
}

#[test]
fn other_users_are_told_so_and_closed() {
    let mut bench = Bench::new();
    bench.server.users = [Uid::from_raw(4_000_000_000); 2];
    let mut peer = bench.connect();
    peer.send(&request(1, "echo"));
    let told = answer(&mut bench, &mut peer);
    assert_eq!(told["error"]["code"], json!(-32001));
    let expected = format!("user {} asks", geteuid().as_raw());
    assert!(told["error"]["message"].as_str().unwrap().contains(&expected), "{told}");
    assert!(peer.is_over());
    assert_eq!(open(&bench.server), 0);
}

#[test]
fn who_does_not_read_is_dropped_and_holds_up_nobody() {
    let mut bench = Bench::new();
    let (mut lazy, mut other) = (bench.guest(), bench.guest());
    lazy.send(&request(1, "long"));
    bench.run_until(|server| server.wakes_at().is_some());
    for id in 0..100 {
        other.send(&request(id, "echo"));
        assert_eq!(answer(&mut bench, &mut other)["id"], json!(id));
    }
    assert_eq!(bench.turn(), 0, "nothing is reported while it does not read");
    bench.later += PATIENCE;
    bench.run_until(|server| open(server) == 1);
    other.send(&request(7, "echo"));
    assert_eq!(answer(&mut bench, &mut other)["id"], json!(7));
}

#[test]
fn who_reads_late_gets_all_of_it() {
    let mut bench = Bench::new();
    let mut peer = bench.guest();
    peer.send(&[request(1, "long"), request(2, "echo")].concat());
    bench.run_until(|server| server.wakes_at().is_some());
    let first = answer(&mut bench, &mut peer);
    assert_eq!(first["result"].as_str().unwrap().len(), 4 << 20);
    assert_eq!(answer(&mut bench, &mut peer)["id"], json!(2));
    assert_eq!(bench.turn(), 0, "and room to send is not waited for any more");
}

#[test]
fn a_peer_that_floods_leaves_room_for_others() {
    let mut bench = Bench::new();
    let (mut flood, mut other) = (bench.guest(), bench.guest());
    flood.send(&(0..500).flat_map(|id| request(id, "echo")).collect::<Vec<_>>());
    other.send(&request(1, "echo"));
    bench.turn();
    assert!(other.line().is_some(), "it is served in the same turn of the loop");
    let mut ids = Vec::new();
    bench.run_until(|_| {
        ids.extend(std::iter::from_fn(|| flood.line()).map(|line| line["id"].as_u64().unwrap()));
        ids.len() == 500
    });
    assert_eq!(ids, Vec::from_iter(0..500));
}

#[test]
fn half_a_line_and_silence_ends_a_connection() {
    let mut bench = Bench::new();
    let (mut half, mut quiet) = (bench.guest(), bench.guest());
    half.send(b"{\"jsonrpc\"");
    bench.run_until(|server| server.wakes_at().is_some());
    assert_eq!(open(&bench.server), 2);
    bench.later += PATIENCE;
    bench.run_until(|_| half.is_over());
    assert!(!quiet.is_over());
    assert_eq!(open(&bench.server), 1);
}

#[test]
fn who_leaves_is_forgotten() {
    let mut bench = Bench::new();
    let mut peer = bench.guest();
    peer.send(&request(1, "long"));
    bench.run_until(|server| server.wakes_at().is_some());
    drop(peer);
    bench.run_until(|server| open(server) == 0);
    assert_eq!((bench.turn(), bench.server.wakes_at()), (0, None));
}

#[test]
fn who_sends_too_long_a_line_is_told_before_the_end() {
    let mut bench = Bench::new();
    let mut peer = bench.guest();
    peer.send(&[b'['; LINE_BYTES_MAX + 100]);
    let told = answer(&mut bench, &mut peer);
    assert_eq!(told["error"]["code"], json!(-32600));
    bench.run_until(|_| peer.is_over());
}

#[test]
fn nobody_is_let_in_while_the_system_refuses() {
    let mut bench = Bench::new();
    let now = bench.now();
    bench.server.entrance.rest(now, &bench.epoll);
    let mut peer = bench.connect();
    peer.send(&request(1, "echo"));
    assert_eq!(bench.turn(), 0, "and the loop does not spin");
    assert_eq!(bench.server.wakes_at(), Some(now + REST));
    bench.later += REST;
    assert_eq!(answer(&mut bench, &mut peer)["id"], json!(1));
    assert_eq!(bench.server.wakes_at(), None);
}

#[test]
fn tokens_of_others_are_left_alone() {
    let mut bench = Bench::new();
    for token in [0, FIRST_TOKEN - 1, FIRST_TOKEN + Server::TOKENS, u64::MAX] {
        assert!(!bench.server.owns(token));
        bench.server.turn(token, bench.now(), &bench.epoll, &mut handle);
    }
    bench.server.turn(FIRST_TOKEN + Server::TOKENS - 1, bench.now(), &bench.epoll, &mut handle);
    assert_eq!(open(&bench.server), 0);
}

#[test]
fn one_server_a_path() {
    let bench = Bench::new();
    let path = bench.dir.path().join("s");
    assert!(matches!(Server::listen(&path, 0), Err(PathError::InUse(_))));
    drop(bench.server);
    assert!(!path.exists());
}
