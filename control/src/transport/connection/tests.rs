use proptest::prelude::*;
use rustix::pipe::{PipeFlags, pipe_with};

use super::*;
use crate::vhost_user::message::{
    BODY_BYTES_MAX, DESCRIPTORS_MAX, FrontendRequest, HEADER_BYTES, Header, ProtocolError, Shape,
};
use crate::vhost_user::socket::{Connection, Message, Received, SocketError};

const SOON: Duration = Duration::from_secs(5);

/// A pipe whose reading end tells, by its end of file, that no copy of the other end is left.
fn witness() -> (OwnedFd, OwnedFd) {
    pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).unwrap()
}

fn is_closed(reading_end: &OwnedFd) -> bool {
    rustix::io::read(reading_end, &mut [0u8; 1][..]) == Ok(0)
}

/// Sends any bytes with any number of descriptors, past the checks of [`Connection::send`].
fn send_raw(to: impl AsFd, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) {
    let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(250))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        assert!(control.push(SendAncillaryMessage::ScmRights(descriptors)));
    }
    let sent = sendmsg(to, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL);
    assert_eq!(sent, Ok(bytes.len()));
}

fn wire(header: Header, body: &[u8]) -> Vec<u8> {
    header.to_bytes().into_iter().chain(body.iter().copied()).collect()
}

fn expect_message(connection: &mut Connection) -> Message {
    match connection.receive() {
        Ok(Received::Message(message)) => message,
        other => panic!("expected a message, found {other:?}"),
    }
}

#[test]
fn a_message_arrives_with_its_descriptors() {
    let (mut here, there) = Connection::pair().unwrap();
    let (reading, writing) = witness();
    let header = Header::request(12, 8, true);
    there.send(header, &[7; 8], &[writing.as_fd()]).unwrap();
    let message = here.receive_within(SOON).unwrap();
    assert_eq!((message.header, &message.body[..]), (header, &[7; 8][..]));
    assert_eq!((message.descriptors.len(), message.descriptor_count()), (1, 1));
    let flags = rustix::io::fcntl_getfd(&message.descriptors[0]).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    drop(writing);
    assert!(!is_closed(&reading), "the message holds a copy");
    drop(message);
    assert!(is_closed(&reading));
}

#[test]
fn descriptors_stay_with_their_message() {
    let (mut here, there) = Connection::pair().unwrap();
    let (_, writing) = witness();
    there.send(Header::request(1, 0, false), &[], &[]).unwrap();
    there.send(Header::request(12, 8, false), &[0; 8], &[writing.as_fd()]).unwrap();
    there.send(Header::request(3, 0, false), &[], &[]).unwrap();
    let counts = [(); 3].map(|()| {
        let message = expect_message(&mut here);
        (message.header.request, message.descriptors.len())
    });
    assert_eq!(counts, [(1, 0), (12, 1), (3, 0)]);
    assert!(matches!(here.receive(), Ok(Received::NotYet)));
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let (mut here, there) = Connection::pair().unwrap();
    let bytes = wire(Header::request(2, 8, false), &[9; 8]);
    for byte in &bytes {
        assert!(matches!(here.receive(), Ok(Received::NotYet)));
        send_raw(&there, &[*byte], &[]);
    }
    assert_eq!(expect_message(&mut here).body, [9; 8]);
}

#[test]
fn descriptors_that_do_not_fit_are_closed_at_once() {
    let (mut here, there) = Connection::pair().unwrap();
    for count in [9, 10, 100, 250] {
        let (reading, writing) = witness();
        let descriptors = vec![writing.as_fd(); count];
        send_raw(&there, &wire(Header::request(5, 0, false), &[]), &descriptors);
        drop(descriptors);
        drop(writing);
        let message = expect_message(&mut here);
        assert!(message.surplus_descriptors);
        assert_eq!(message.descriptor_count(), DESCRIPTORS_MAX + 1);
        assert!(!is_closed(&reading));
        drop(message);
        assert!(is_closed(&reading), "{count} descriptors: one is left");
    }
}

#[test]
fn descriptors_with_every_byte_do_not_add_up() {
    let (mut here, there) = Connection::pair().unwrap();
    let (reading, writing) = witness();
    let bytes = wire(Header::request(5, 100, false), &[0; 100]);
    for byte in &bytes[..bytes.len() - 1] {
        send_raw(&there, &[*byte], &[writing.as_fd(); 8]);
        assert!(matches!(here.receive(), Ok(Received::NotYet)));
        assert!(here.descriptors.len() <= DESCRIPTORS_MAX);
    }
    drop((writing, here));
    assert!(is_closed(&reading));
}

#[test]
fn a_message_too_long_is_refused_before_its_body_is_read() {
    for size_bytes in [BODY_BYTES_MAX as u32 + 1, u32::MAX] {
        let (mut here, there) = Connection::pair().unwrap();
        send_raw(&there, &wire(Header { request: 1, flags: 1, size_bytes }, &[0; 64]), &[]);
        let error = here.receive().unwrap_err();
        let expected = ProtocolError::TooLong { request: 1, found: size_bytes };
        assert!(matches!(error, SocketError::Protocol(found) if found == expected), "{error}");
        assert_eq!(here.filled, HEADER_BYTES);
    }
}

#[test]
fn garbage_is_not_taken_for_a_header() {
    let (mut here, there) = Connection::pair().unwrap();
    send_raw(&there, b"GET / HTTP/1.1\r\n\r\n", &[]);
    let error = here.receive().unwrap_err();
    assert!(matches!(error, SocketError::Protocol(ProtocolError::Version { .. })), "{error}");
}

#[test]
fn a_peer_that_goes_between_messages_is_the_ordinary_end() {
    let (mut here, there) = Connection::pair().unwrap();
    there.send(Header::request(3, 0, false), &[], &[]).unwrap();
    drop(there);
    expect_message(&mut here);
    assert!(matches!(here.receive(), Ok(Received::Gone)));
    assert!(matches!(here.receive_within(SOON), Err(SocketError::Gone)));
    let header = Header::reply(3, 0);
    assert!(matches!(here.send(header, &[], &[]), Err(SocketError::Gone)), "and no SIGPIPE");
}

#[test]
fn a_stream_that_ends_inside_a_message_says_where() {
    for cut in 1..20 {
        let (mut here, there) = Connection::pair().unwrap();
        send_raw(&there, &wire(Header::request(2, 8, false), &[9; 8])[..cut], &[]);
        drop(there);
        let wanted = if cut < HEADER_BYTES { HEADER_BYTES } else { 20 };
        let error = here.receive().unwrap_err();
        let expected = ProtocolError::Truncated { found: cut, wanted };
        assert!(matches!(error, SocketError::Protocol(found) if found == expected), "{error}");
    }
}

#[test]
fn waiting_ends() {
    let (mut here, there) = Connection::pair().unwrap();
    let brief = Duration::from_millis(20);
    let begun = Instant::now();
    assert!(matches!(here.receive_within(brief), Err(SocketError::Timeout(_))));
    send_raw(&there, &[1, 0, 0], &[]);
    assert!(matches!(here.receive_within(brief), Err(SocketError::Timeout(_))));
    assert!(begun.elapsed() >= 2 * brief);
}

#[test]
fn a_peer_that_does_not_read_cannot_hold_us() {
    let (here, _there) = Connection::pair().unwrap();
    let body = [0; BODY_BYTES_MAX];
    let header = Header::reply(24, body.len() as u32);
    let error = loop {
        if let Err(error) = here.send(header, &body, &[]) {
            break error;
        }
    };
    assert!(matches!(error, SocketError::Timeout(_)), "{error}");
}

#[test]
fn a_long_message_waits_for_room() {
    let (here, mut there) = Connection::pair().unwrap();
    let body = [5; BODY_BYTES_MAX];
    let header = Header::request(26, body.len() as u32, false);
    let reader = std::thread::spawn(move || (0..200).all(|_| there.receive_within(SOON).unwrap().body == body));
    for _ in 0..200 {
        here.send_within(header, &body, &[], SOON).unwrap();
    }
    assert!(reader.join().unwrap());
}

#[test]
fn the_other_end_may_be_a_pipe() {
    let (reading, writing) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let channel = Connection::new(writing);
    channel.send(Header::request(2, 0, false), &[], &[]).unwrap();
    let mut bytes = [0; HEADER_BYTES];
    assert_eq!(rustix::io::read(&reading, &mut bytes[..]), Ok(HEADER_BYTES));
    assert_eq!(Header::from_bytes(&bytes), Header::request(2, 0, false));
    let full = loop {
        if let Err(error) = channel.send(Header::request(2, 0, false), &[], &[]) {
            break error;
        }
    };
    assert!(matches!(full, SocketError::Timeout(_)), "a full pipe does not hold us: {full}");
    drop(reading);
    assert!(matches!(channel.send(Header::request(2, 0, false), &[], &[]), Err(SocketError::Gone)));
}

#[test]
fn every_request_gets_through_whole() {
    let (mut here, there) = Connection::pair().unwrap();
    let (_, writing) = witness();
    for request in FrontendRequest::ALL {
        let body = vec![request.number() as u8; *request.shape().len_bytes().end()];
        let descriptors = vec![writing.as_fd(); *request.descriptors().end()];
        let header = Header::request(request.number(), body.len() as u32, false);
        there.send(header, &body, &descriptors).unwrap();
        let message = expect_message(&mut here);
        assert_eq!(message.header, header);
        assert_eq!(message.body, body);
        assert_eq!(message.descriptors.len(), descriptors.len(), "{request}");
    }
    assert_eq!(Shape::Opaque.len_bytes(), 0..=BODY_BYTES_MAX, "the longest was among them");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Any bytes in any pieces: messages, an end, or an error, but never a panic and never a wait.
    #[test]
    fn any_stream_comes_to_an_end(pieces in prop::collection::vec(
        prop::collection::vec(prop_oneof![Just(0u8), Just(1u8), any::<u8>()], 1..40), 0..20)
    ) {
        let (mut here, there) = Connection::pair().unwrap();
        for piece in &pieces {
            send_raw(&there, piece, &[]);
        }
        drop(there);
        let mut messages = 0;
        while let Ok(Received::Message(_)) = here.receive() {
            messages += 1;
        }
        let bytes: usize = pieces.iter().map(Vec::len).sum();
        prop_assert!(messages <= bytes / HEADER_BYTES);
    }
}
