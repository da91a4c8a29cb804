//! Against a back end that is a script: what it answers is typed in here, request by request.

use std::thread::JoinHandle;

use super::super::message::ProtocolError;
use super::*;

const SOON: Duration = Duration::from_secs(5);
const BRIEF: Duration = Duration::from_millis(50);
const ALL: ProtocolFeatures = PROTOCOL_FEATURES;
const OFFERED: u64 = VHOST_USER_F_PROTOCOL_FEATURES | VIRTIO_F_RING_PACKED | 1 << 32;

/// What the scripted back end saw of one message.
#[derive(Debug, PartialEq)]
struct Seen {
    request: FrontendRequest,
    body: Vec<u8>,
    descriptors: usize,
    needs_reply: bool,
}

/// Serves one connection: checks every message's shape, answers as a good back end does, and gives back what
/// it saw. `refuse` is answered with 1 where it needs an answer.
fn good_backend(mut connection: Connection, refuse: Option<FrontendRequest>) -> JoinHandle<Vec<Seen>> {
    std::thread::spawn(move || {
        let mut seen = Vec::new();
        let mut status = 0;
        while let Ok(message) = connection.receive_within(SOON) {
            let request = FrontendRequest::from_number(message.header.request).unwrap();
            check_shape(
                request.name(),
                request.shape(),
                message.body.len(),
                request.descriptors(),
                message.descriptor_count(),
            )
            .unwrap();
            if request == FrontendRequest::SET_STATUS {
                status = message.body[0];
            }
            let file = rustix::fs::memfd_create("f", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
            let mut files: &[BorrowedFd<'_>] = &[];
            let file = [file.as_fd()];
            let body = match request {
                FrontendRequest::GET_FEATURES => Some(u64_to(OFFERED)),
                FrontendRequest::GET_PROTOCOL_FEATURES => Some(u64_to(ALL.0 | 1 << 6)),
                FrontendRequest::GET_QUEUE_NUM => Some(u64_to(4)),
                FrontendRequest::GET_MAX_MEM_SLOTS => Some(u64_to(10)),
                FrontendRequest::GET_STATUS => Some(u64_to(status.into())),
                FrontendRequest::SET_LOG_BASE => Some(u64_to(0)),
                FrontendRequest::GET_CONFIG => Some(message.body.clone()),
                FrontendRequest::GET_VRING_BASE => {
                    let mut state = VringState::from_bytes("", &message.body).unwrap();
                    state.num = 0x8007_8007;
                    Some(state.to_bytes())
                }
                FrontendRequest::GET_INFLIGHT_FD => {
                    files = &file;
                    let mut inflight = Inflight::from_bytes("", &message.body).unwrap();
                    inflight.mmap_size = 4096;
                    Some(inflight.to_bytes())
                }
                _ if message.header.needs_reply() => Some(u64_to((Some(request) == refuse).into())),
                _ => None,
            };
            if let Some(body) = body {
                let header = Header::reply(request.number(), body.len() as u32);
                connection.send(header, &body, files).unwrap();
            }
            seen.push(Seen {
                request,
                descriptors: message.descriptors.len(),
                needs_reply: message.header.needs_reply(),
                body: message.body,
            });
        }
        seen
    })
}

fn with_good_backend() -> (Frontend, JoinHandle<Vec<Seen>>) {
    let (here, there) = stream_pair().unwrap();
    (Frontend::new(here, SOON), good_backend(Connection::new(there), None))
}

/// A back end that answers the first message with these bytes and closes after a second one.
fn with_answer(header: Header, body: &'static [u8]) -> Frontend {
    let (here, there) = stream_pair().unwrap();
    let mut there = Connection::new(there);
    std::thread::spawn(move || {
        there.receive_within(SOON).unwrap();
        there.send(header, body, &[]).unwrap();
        let _ = there.receive_within(SOON);
    });
    Frontend::new(here, SOON)
}

fn memory() -> OwnedFd {
    rustix::fs::memfd_create("memory", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

#[test]
fn a_session_opens_in_the_usual_order() {
    let (mut frontend, backend) = with_good_backend();
    let agreed = frontend.negotiate(u64::MAX, ALL).unwrap();
    assert_eq!(agreed, Negotiated { offered: OFFERED, features: OFFERED, protocol_features: ALL });
    assert!(frontend.packed());
    drop(frontend);
    let seen: Vec<_> = backend.join().unwrap().iter().map(|seen| seen.request.number()).collect();
    assert_eq!(seen, [1, 15, 16, 21, 3, 2]);
}

#[test]
fn every_request_is_well_formed() {
    let (mut frontend, backend) = with_good_backend();
    frontend.negotiate(u64::MAX, ALL).unwrap();
    let file = memory();
    let region = MemoryRegion { guest_addr: 0, size_bytes: 4096, user_addr: 0x7000, mmap_offset: 0 };
    let shared = SharedRegion { region, file: file.as_fd() };
    frontend.share_memory(&[shared; 3]).unwrap();
    frontend.share_memory(&[shared; 9]).unwrap();
    assert!(matches!(
        frontend.share_memory(&[shared; 11]),
        Err(FrontendError::TooManyRegions { found: 11, allowed: 10 })
    ));
    frontend.rem_mem_reg(&region).unwrap();
    assert_eq!(frontend.get_queue_num().unwrap(), 4);
    frontend.set_status(0x0f).unwrap();
    assert_eq!(frontend.get_status().unwrap(), 0x0f);
    assert_eq!(frontend.get_config(0, 12).unwrap().len(), 12);
    frontend.set_config(0, &[2; 6], true).unwrap();
    let (inflight, buffer) = frontend.get_inflight_fd(4, 256).unwrap();
    assert_eq!((inflight.mmap_size, inflight.num_queues, inflight.queue_size), (4096, 4, 256));
    frontend.set_inflight_fd(&inflight, buffer.as_fd()).unwrap();
    frontend.set_log_base(LogBase { size_bytes: 4096, mmap_offset: 0 }, file.as_fd()).unwrap();
    frontend.set_log_fd(file.as_fd()).unwrap();
    frontend.net_set_mtu(1500).unwrap();
    frontend.send_rarp([2, 0, 0, 0, 0, 1]).unwrap();
    let setup = RingSetup {
        size: 256,
        base: VringBase::start(true),
        descriptor_addr: 0x7000,
        driver_addr: 0x8000,
        device_addr: 0x9000,
        log_addr: Some(0x2000),
        kick: Some(file.as_fd()),
        call: None,
        err: Some(file.as_fd()),
    };
    frontend.start_ring(1, &setup).unwrap();
    let base = frontend.stop_ring(1).unwrap();
    assert_eq!(base, VringBase::Packed { avail: 7, avail_wrap: true, used: 7, used_wrap: true });
    frontend.reset_device().unwrap();
    assert!(!frontend.backend_gone());
    drop(frontend);

    let seen = backend.join().unwrap();
    let of = |request| seen.iter().find(|seen| seen.request == request).unwrap();
    let kick = of(FrontendRequest::SET_VRING_KICK);
    assert_eq!((&kick.body, kick.descriptors), (&u64_to(1), 1));
    let call = of(FrontendRequest::SET_VRING_CALL);
    assert_eq!((&call.body, call.descriptors), (&u64_to(0x101), 0));
    let addr = VringAddr::from_bytes("", &of(FrontendRequest::SET_VRING_ADDR).body).unwrap();
    assert_eq!(
        addr,
        VringAddr { index: 1, flags: 1, descriptor: 0x7000, used: 0x9000, available: 0x8000, log: 0x2000 }
    );
    assert!(of(FrontendRequest::SET_VRING_ENABLE).needs_reply);
    assert!(!of(FrontendRequest::GET_VRING_BASE).needs_reply, "it has a reply of its own");
}

#[test]
fn a_refusal_is_an_error_and_the_session_goes_on() {
    let (here, there) = stream_pair().unwrap();
    let _backend = good_backend(Connection::new(there), Some(FrontendRequest::NET_SET_MTU));
    let mut frontend = Frontend::new(here, SOON);
    frontend.negotiate(u64::MAX, ALL).unwrap();
    let error = frontend.net_set_mtu(9000).unwrap_err();
    assert_eq!(error.to_string(), "NET_SET_MTU: the back end refuses (1)");
    assert_eq!(frontend.get_queue_num().unwrap(), 4);
}

#[test]
fn nothing_is_asked_that_was_not_negotiated() {
    let (mut frontend, _backend) = with_good_backend();
    frontend.negotiate(u64::MAX, ProtocolFeatures::default()).unwrap();
    assert!(matches!(
        frontend.get_status(),
        Err(FrontendError::NotNegotiated { feature: ProtocolFeature::STATUS, .. })
    ));
    assert!(frontend.get_inflight_fd(1, 1).is_err() && frontend.reset_device().is_err());
    assert!(frontend.get_max_mem_slots().is_err() && frontend.get_config(0, 1).is_err());
}

#[test]
fn a_back_end_that_is_silent_costs_one_time_out() {
    let (here, _there) = stream_pair().unwrap();
    let mut frontend = Frontend::new(here, BRIEF);
    let error = frontend.get_features().unwrap_err();
    assert_eq!(error.to_string(), "GET_FEATURES: the peer did not answer within 50 ms");
    assert!(matches!(frontend.get_features(), Err(FrontendError::Lost { .. })));
    assert!(frontend.backend_gone());
}

#[test]
fn a_back_end_that_goes_is_noticed() {
    let (here, there) = stream_pair().unwrap();
    let mut frontend = Frontend::new(here, SOON);
    assert!(!frontend.backend_gone());
    drop(there);
    assert!(frontend.backend_gone());
    assert!(matches!(frontend.set_owner(), Err(FrontendError::Lost { .. })));
}

#[test]
fn answers_to_something_else_are_not_taken() {
    let mut frontend = with_answer(Header::reply(15, 8), &[0; 8]);
    assert!(matches!(frontend.get_features(), Err(FrontendError::OtherReply { found: 15, .. })));
    let mut frontend = with_answer(Header::request(1, 8, false), &[0; 8]);
    assert!(matches!(frontend.get_features(), Err(FrontendError::OtherReply { .. })));
    let mut frontend = with_answer(Header::reply(11, 8), &[2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(frontend.stop_ring(1), Err(FrontendError::OtherRing { found: 2, .. })));
}

#[test]
fn malformed_answers_are_errors() {
    let mut frontend = with_answer(Header::reply(1, 4), &[0; 4]);
    assert!(matches!(
        frontend.get_features(),
        Err(FrontendError::Reply { source: ProtocolError::Size { found: 4, .. }, .. })
    ));
    let mut frontend = with_answer(Header::reply(1, 0), &[]);
    assert!(matches!(frontend.get_features(), Err(FrontendError::Refused { .. })));
}

#[test]
fn a_change_of_configuration_is_heard_while_waiting_for_an_answer() {
    let (here, there) = stream_pair().unwrap();
    let mut frontend = Frontend::new(here, SOON);
    frontend.protocol_features = ALL.without(ProtocolFeature::REPLY_ACK);
    frontend.set_backend_req_fd().unwrap();
    let backend = std::thread::spawn(move || {
        let mut there = Connection::new(there);
        let mut given = there.receive_within(SOON).unwrap();
        let mut channel = Connection::new(given.descriptors.pop().unwrap());
        there.receive_within(SOON).unwrap();
        let codes = [2, 5].map(|request| {
            channel.send(Header::request(request, 0, true), &[], &[]).unwrap();
            let answer = channel.receive_within(SOON).unwrap();
            assert_eq!(answer.header, Header::reply(request, 8));
            u64_from("", &answer.body).unwrap()
        });
        there.send(Header::reply(1, 8), &u64_to(5), &[]).unwrap();
        codes
    });
    assert_eq!(frontend.get_features().unwrap(), 5);
    assert_eq!(backend.join().unwrap(), [0, 1], "what we do not know is refused");
    assert_eq!(frontend.config_changes(), 1);
}

#[test]
fn a_back_end_may_come_later_on_either_side() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    assert!(Frontend::connect(&path, BRIEF, SOON).is_err());
    let later = {
        let path = path.clone();
        std::thread::spawn(move || {
            std::thread::sleep(BRIEF);
            let listener = Listener::bind(&path, rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR).unwrap();
            assert!(Frontend::accept(&listener, SOON, SOON).is_ok());
            let error = Frontend::accept(&listener, BRIEF, SOON).unwrap_err();
            assert!(matches!(error, FrontendError::Accept { .. }), "{error}");
        })
    };
    assert!(Frontend::connect(&path, SOON, SOON).is_ok());
    later.join().unwrap();
}
