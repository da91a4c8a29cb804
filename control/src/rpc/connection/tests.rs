use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::rpc::{Error, LINE_BYTES_MAX, Params};

fn handle(method: &str, params: Params) -> Result<Value, Error> {
    match method {
        "echo" => Ok(params.into()),
        "long" => Ok("x".repeat(4 << 20).into()),
        _ => Err(Error::Method(method.into())),
    }
}

/// A connection, its peer, and a clock.
struct Bench {
    connection: Connection,
    peer: UnixStream,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let (ours, peer) = UnixStream::pair().unwrap();
        peer.set_nonblocking(true).unwrap();
        let now = Instant::now();
        Self { connection: Connection::new(ours.into(), now), peer, now }
    }

    /// Turns until nothing is left to be done without an event.
    fn turn(&mut self) -> Result<(), Closed> {
        loop {
            self.connection.turn(self.now, &mut handle)?;
            if self.connection.wakes_at().is_none_or(|at| at > self.now) {
                return Ok(());
            }
        }
    }

    /// All that has come back.
    fn received(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let _ = self.peer.read_to_end(&mut bytes);
        bytes
    }

    fn send(&mut self, bytes: &[u8]) {
        self.peer.write_all(bytes).unwrap();
    }
}

fn request(id: u64, method: &str) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "id": id, "method": method}))
}

#[track_caller]
fn ids(lines: &[u8]) -> Vec<u64> {
    let lines = lines.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| serde_json::from_slice::<Value>(line).unwrap()["id"].as_u64().unwrap()).collect()
}

#[test]
fn lines_that_come_joined_are_answered_one_by_one() {
    let mut bench = Bench::new();
    let many: String = (0..200).map(|id| request(id, "echo") + " \n\r\n").collect();
    bench.send(many.as_bytes());
    bench.turn().unwrap();
    assert_eq!(ids(&bench.received()), Vec::from_iter(0..200));
    assert_eq!(bench.connection.wakes_at(), None);
}

#[test]
fn a_turn_takes_some_steps_only() {
    let mut bench = Bench::new();
    let batch = json!(vec![json!({"jsonrpc": "2.0", "id": 1, "method": "echo"}); 64]);
    bench.send(format!("{batch}\n").as_bytes());
    let mut served = 0;
    let mut count = |_: &str, params: Params| {
        served += 1;
        Ok(params.into())
    };
    bench.connection.turn(bench.now, &mut count).unwrap();
    assert!((1..=STEPS_PER_TURN).contains(&served), "{served}");
    assert!(bench.connection.wakes_at().is_some_and(|at| at <= bench.now), "it goes on at once");
    bench.turn().unwrap();
    let reply: Value = serde_json::from_slice(&bench.received()).unwrap();
    assert_eq!(reply.as_array().unwrap().len(), 64);
}

#[test]
fn empty_lines_are_steps_too() {
    let mut bench = Bench::new();
    bench.send(&[b'\n'; 1000]);
    bench.send(request(1, "echo").as_bytes());
    bench.connection.turn(bench.now, &mut handle).unwrap();
    assert!(bench.received().is_empty(), "it is not its turn yet");
    bench.turn().unwrap();
    assert_eq!(ids(&bench.received()), [1]);
}

#[test]
fn a_line_too_long_is_told_and_ends_the_connection() {
    let mut bench = Bench::new();
    bench.send(request(1, "echo").as_bytes());
    bench.send(&[b'x'; LINE_BYTES_MAX + 1]);
    assert!(matches!(bench.turn(), Err(Closed::Gone)));
    let received = String::from_utf8(bench.received()).unwrap();
    let (first, second) = received.split_once('\n').unwrap();
    assert!(first.contains(r#""id":1"#) && second.contains("-32600") && second.contains("65536"), "{received}");
}

#[test]
fn the_longest_line_is_served() {
    let mut bench = Bench::new();
    let mut line = request(1, "echo");
    line.insert_str(1, &" ".repeat(LINE_BYTES_MAX + 1 - line.len()));
    assert_eq!(line.len(), LINE_BYTES_MAX + 1);
    bench.send(line.as_bytes());
    bench.turn().unwrap();
    assert_eq!(ids(&bench.received()), [1]);
}

#[test]
fn who_has_sent_all_is_answered_before_the_end() {
    let mut bench = Bench::new();
    bench.send(request(1, "echo").as_bytes());
    bench.send(request(2, "echo").trim_end().as_bytes());
    bench.peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert!(matches!(bench.turn(), Err(Closed::Gone)));
    assert_eq!(ids(&bench.received()), [1, 2]);
}

#[test]
fn half_a_line_is_waited_for_30_s() {
    let mut bench = Bench::new();
    bench.turn().unwrap();
    bench.now += 100 * PATIENCE;
    bench.turn().unwrap();
    assert_eq!(bench.connection.wakes_at(), None, "who says nothing may stay");
    for _ in 0..3 {
        bench.send(b" ");
        bench.turn().unwrap();
        assert_eq!(bench.connection.wakes_at(), Some(bench.now + PATIENCE));
        bench.now += PATIENCE - Duration::from_millis(1);
        bench.turn().unwrap();
    }
    bench.now += Duration::from_millis(1);
    assert!(matches!(bench.turn(), Err(Closed::Silent)));
}

#[test]
fn what_came_while_we_were_away_is_served_first() {
    let mut bench = Bench::new();
    let line = request(1, "echo");
    let (start, rest) = line.split_at(10);
    bench.send(start.as_bytes());
    bench.turn().unwrap();
    bench.send(rest.as_bytes());
    bench.now += 2 * PATIENCE;
    bench.turn().unwrap();
    assert_eq!(ids(&bench.received()), [1]);
}

#[test]
fn a_reply_that_is_not_read_holds_up_its_reader_only_and_30_s_at_most() {
    let mut bench = Bench::new();
    bench.send((request(1, "long") + &request(2, "echo")).as_bytes());
    bench.turn().unwrap();
    assert_eq!(bench.connection.interest(), EventFlags::OUT);
    assert!(bench.connection.lines.is_ready(), "the second is not served yet");
    bench.now += PATIENCE - Duration::from_millis(1);
    let mut some = [0; 300 << 10];
    bench.peer.read_exact(&mut some).unwrap_or_default();
    bench.turn().unwrap();
    assert_eq!(bench.connection.wakes_at(), Some(bench.now + PATIENCE), "it was read on");
    bench.now += PATIENCE;
    assert!(matches!(bench.turn(), Err(Closed::Stuck)));
}

#[test]
fn a_long_reply_comes_whole_and_in_order() {
    let mut bench = Bench::new();
    bench.send((request(1, "long") + &request(2, "echo")).as_bytes());
    let mut received = Vec::new();
    while received.iter().filter(|byte| **byte == b'\n').count() < 2 {
        bench.turn().unwrap();
        received.extend(bench.received());
    }
    assert_eq!(ids(&received), [1, 2]);
    assert_eq!((bench.connection.interest(), bench.connection.wakes_at()), (EventFlags::IN, None));
}

#[test]
fn who_leaves_in_the_middle_of_a_reply_is_gone() {
    let mut bench = Bench::new();
    bench.send(request(1, "long").as_bytes());
    bench.turn().unwrap();
    let (_, nobody) = UnixStream::pair().unwrap();
    bench.peer = nobody;
    assert!(matches!(bench.turn(), Err(Closed::Gone)));
}

/// Pieces of lines: good ones, bad ones, and what is none.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        (0..100_u64).prop_map(|id| request(id, "echo").into_bytes()),
        (0..100_u64).prop_map(|id| format!("[{}, 7]\n", request(id, "fly").trim_end()).into_bytes()),
        Just(b"\n".to_vec()),
        Just(b"{\"jsonrpc\":".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..30),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn where_bytes_are_split_does_not_matter(
        pieces in proptest::collection::vec(piece(), 0..20),
        lengths in proptest::collection::vec(1..60_usize, 1..20),
    ) {
        let bytes = pieces.concat();
        let answer_to = |splits: &mut dyn Iterator<Item = usize>| {
            let (mut bench, mut rest) = (Bench::new(), &bytes[..]);
            while !rest.is_empty() {
                let (now, later) = rest.split_at(splits.next().unwrap_or(rest.len()).min(rest.len()));
                bench.send(now);
                bench.turn().unwrap();
                rest = later;
            }
            bench.peer.shutdown(std::net::Shutdown::Write).unwrap();
            assert!(matches!(bench.turn(), Err(Closed::Gone)));
            bench.received()
        };
        let whole = answer_to(&mut std::iter::empty());
        prop_assert_eq!(&answer_to(&mut lengths.iter().copied().cycle()), &whole);
        for line in whole.split_inclusive(|byte| *byte == b'\n') {
            prop_assert!(serde_json::from_slice::<Value>(line).is_ok());
        }
    }
}
