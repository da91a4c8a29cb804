use rustix::event::Timespec;
use rustix::event::epoll::CreateFlags;

use super::super::diary::Diary;
use super::super::entrance::REST;
use super::super::listener::Listener;
use super::*;
use crate::vhost_user::message::{FrontendRequest, Header, ProtocolFeatures, VHOST_USER_F_PROTOCOL_FEATURES};
use crate::vhost_user::socket::{Connection, Received};

const OWNER: Mode = Mode::from_raw_mode(0o600);
const TOKEN: u64 = 7;
const SOON: Duration = Duration::from_secs(5);

/// An endpoint with its device and a loop.
struct Bench {
    endpoint: Endpoint,
    device: Diary,
    epoll: OwnedFd,
}

impl Bench {
    fn new(endpoint: Endpoint) -> Self {
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        endpoint.watch(&epoll, TOKEN).unwrap();
        Self { endpoint, device: Diary::default(), epoll }
    }

    /// Runs the loop until `done`, as the daemon does: it turns when something is reported or the time has come.
    #[track_caller]
    fn run_until(&mut self, mut done: impl FnMut(&mut Endpoint) -> bool) {
        let deadline = Instant::now() + SOON;
        while !done(&mut self.endpoint) {
            assert!(Instant::now() < deadline, "it does not come to that");
            let mut events = Vec::with_capacity(4);
            let brief = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&brief)).unwrap();
            let due = self.endpoint.wakes_at().is_some_and(|at| at <= Instant::now());
            if due || events.iter().any(|event| event.data.u64() == TOKEN) {
                self.endpoint.turn(&mut self.device, &self.epoll, TOKEN);
            }
        }
    }
}

fn ask_features(peer: &Connection) {
    peer.send(Header::request(FrontendRequest::GET_FEATURES.number(), 0, false), &[], &[]).unwrap();
}

/// A front end's end of a connection, with a question on its way.
fn knock(path: &Path) -> Connection {
    let peer = Connection::new(connect_to(path).unwrap());
    ask_features(&peer);
    peer
}

fn is_answered(peer: &mut Connection) -> bool {
    matches!(peer.receive(), Ok(Received::Message(_)))
}

#[test]
fn one_front_end_is_served_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::listen("vm1", &path, OWNER, Transport::VhostUser).unwrap());
    let mut first = knock(&path);
    bench.run_until(|_| is_answered(&mut first));
    let mut second = knock(&path);
    ask_features(&first);
    bench.run_until(|_| is_answered(&mut first));
    assert!(matches!(second.receive(), Ok(Received::NotYet)), "it waits");
    drop(first);
    bench.run_until(|_| is_answered(&mut second));
    assert_eq!((bench.endpoint.sessions(), bench.endpoint.counters().messages), (2, 3));
    bench.endpoint.close(&mut bench.device);
    assert!(bench.endpoint.session().is_none());
    drop(bench);
    assert!(matches!(second.receive(), Ok(Received::Gone)));
    assert!(!path.exists());
}

#[test]
fn whoever_talks_nonsense_makes_room_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::listen("vm1", &path, OWNER, Transport::VhostUser).unwrap());
    for round in 1..20 {
        let mut hostile = knock(&path);
        hostile.send(Header { request: 1, flags: 0, size_bytes: 0 }, &[], &[]).unwrap();
        bench.run_until(|_| matches!(hostile.receive(), Ok(Received::Gone) | Err(_)));
        assert_eq!(bench.endpoint.sessions(), round);
    }
    let mut good = knock(&path);
    bench.run_until(|_| is_answered(&mut good));
    assert_eq!(bench.endpoint.counters().by_outcome().collect::<Vec<_>>(), [("version", 19)]);
}

#[test]
fn a_device_looks_for_its_front_end_until_it_finds_it_and_again_when_it_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::connect("vm1", &path));
    let begun = Instant::now();
    bench.run_until(|_| begun.elapsed() > Duration::from_millis(100));
    for round in 1..4 {
        let listener = Listener::bind(&path, OWNER).unwrap();
        let mut stream = None;
        bench.run_until(|_| {
            stream = stream.take().or(listener.accept().unwrap());
            stream.is_some()
        });
        let mut peer = Connection::new(stream.unwrap());
        ask_features(&peer);
        bench.run_until(|_| is_answered(&mut peer));
        assert_eq!(bench.endpoint.sessions(), round);
        drop((peer, listener));
        bench.run_until(|endpoint| endpoint.session().is_none());
    }
}

#[test]
fn a_device_that_goes_on_with_another_front_end_has_recovered() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::listen("vm1", &path, OWNER, Transport::VhostUser).unwrap());
    for recoveries in 0..3 {
        let mut peer = knock(&path);
        bench.run_until(|_| is_answered(&mut peer));
        assert_eq!(bench.endpoint.counters().recoveries, recoveries);
        bench.endpoint.session().unwrap().ring_failed(0);
        drop(peer);
        bench.run_until(|endpoint| endpoint.session().is_none());
    }
}

#[test]
fn nobody_is_let_in_while_the_system_refuses() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::listen("vm1", &path, OWNER, Transport::VhostUser).unwrap());
    let Meeting::Listen(entrance) = &mut bench.endpoint.meeting else { unreachable!() };
    let past = Instant::now().checked_sub(REST).unwrap();
    entrance.rest(past + Duration::from_secs(3600), &bench.epoll);
    let mut peer = knock(&path);
    let mut events = Vec::with_capacity(4);
    let brief = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    epoll::wait(&bench.epoll, rustix::buffer::spare_capacity(&mut events), Some(&brief)).unwrap();
    assert!(events.is_empty(), "and the loop does not spin");
    let Meeting::Listen(entrance) = &mut bench.endpoint.meeting else { unreachable!() };
    entrance.rest(past, &bench.epoll);
    bench.run_until(|_| is_answered(&mut peer));
    assert_eq!(bench.endpoint.wakes_at(), None);
}

#[test]
fn a_front_end_of_ours_gets_all_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let mut bench = Bench::new(Endpoint::listen("vm1", &path, OWNER, Transport::VhostUser).unwrap());
    let asking = std::thread::spawn(move || {
        let mut frontend = crate::vhost_user::frontend::Frontend::connect(&path, SOON, SOON)?;
        let agreed = frontend.negotiate(!(1 << 26), ProtocolFeatures(u64::MAX))?;
        frontend.set_status(15)?;
        let answers = (frontend.get_queue_num()?, frontend.get_status()?, frontend.get_config(0, 8)?);
        Ok::<_, crate::vhost_user::frontend::FrontendError>((agreed, answers))
    });
    bench.run_until(|_| asking.is_finished());
    let (agreed, answers) = asking.join().unwrap().unwrap();
    assert_eq!(agreed.features, bench.device.features() | VHOST_USER_F_PROTOCOL_FEATURES);
    assert_eq!(agreed.protocol_features, crate::vhost_user::session::PROTOCOL_FEATURES);
    assert_eq!(answers, (4, 15, bench.device.config()));
    assert_eq!(bench.endpoint.counters().refused(), 0);
}
