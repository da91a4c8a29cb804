//! passt, a user-mode network in C, as the back end of our front end: what a guest sends reaches a socket of the host, and the
//! answer reaches the guest.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use virtnet_rings::Layout;

use crate::front_end::{Guest, SOON};
use crate::lab::{self, Lab};
use crate::process::{self, Process};

const GUEST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GUEST: [u8; 4] = [10, 77, 0, 2];
/// What passt has stand for the host's loopback.
const GATEWAY: [u8; 4] = [10, 77, 0, 1];
const GUEST_PORT: u16 = 4000;
const HEADERS_BYTES: usize = 14 + 20 + 8;
/// More than both rings take at once.
const DATAGRAMS: u32 = 500;
/// No socket of the host has to keep more.
const UNDER_WAY_MAX: u32 = 16;

#[test]
fn datagrams_go_through_passt_to_the_host_and_back() {
    let Some(lab) = Lab::with(&["passt"]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    for mergeable in [false, true] {
        let socket = folder.path().join(format!("{mergeable}.sock"));
        let mut command = process::command(&[], lab.command("passt"));
        command.args(["--vhost-user", "--foreground", "--one-off", "--ipv4-only", "--netmask", "24"]);
        command.args(["--address", "10.77.0.2", "--gateway", "10.77.0.1", "--map-host-loopback", "10.77.0.1"]);
        if rustix::process::geteuid().is_root() {
            // It would become a user to whom the socket's folder is closed.
            command.args(["--runas", "0:0"]);
        }
        command.arg("--socket").arg(&socket);
        let mut passt = Process::start("passt", command);
        // It lives in namespaces of its own, or not at all.
        let said = passt.wait_until("start", 0, SOON, |text| {
            (text.contains("You can start qemu") || text.contains("user namespace")).then(|| text.to_owned())
        });
        if said.contains("user namespace") {
            lab::skip(&format!("passt: {}", said.trim()));
            return;
        }
        let mut guest = Guest::new(Layout::Split, mergeable);
        let frontend = guest.come(&socket);
        assert_is_answered(&mut guest, mergeable);
        drop(frontend);
        let status = passt.wait_end(Duration::from_secs(10));
        assert!(status.success(), "passt's end: {status}");
    }
}

/// Asks for the gateway's address, then sends datagrams to the host through it, which come back.
#[track_caller]
fn assert_is_answered(guest: &mut Guest, mergeable: bool) {
    assert!(guest.nic.send(&arp_request()).expect("a good ring"));
    let mut frame = Vec::new();
    let mut deadline = Instant::now() + SOON;
    let gateway_mac: [u8; 6] = loop {
        assert!(Instant::now() < deadline, "nobody has the gateway's address, mergeable: {mergeable}");
        guest.kick();
        while guest.nic.receive(&mut frame).expect("a good ring") {
            if is_arp_reply(&frame) {
                break;
            }
            frame.clear();
        }
        if is_arp_reply(&frame) {
            break frame[22..28].try_into().expect("six bytes");
        }
    };

    let host = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    host.set_nonblocking(true).expect("a socket takes that");
    let port = host.local_addr().expect("it is bound").port();
    let (mut sent, mut received) = (0, 0);
    let mut datagram = [0; 2048];
    while received < DATAGRAMS {
        assert!(Instant::now() < deadline, "{sent} sent, {received} came back, mergeable: {mergeable}");
        while sent < DATAGRAMS
            && sent - received < UNDER_WAY_MAX
            && guest.nic.send(&udp_frame(gateway_mac, port, &payload(sent))).expect("a good ring")
        {
            sent += 1;
        }
        guest.kick();
        loop {
            match host.recv_from(&mut datagram) {
                Ok((length, from)) => assert_eq!(host.send_to(&datagram[..length], from).expect("an answer"), length),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => panic!("the host's socket: {error}"),
            }
        }
        while guest.nic.receive(&mut frame).expect("a good ring") {
            // The host has more to say than answers.
            if frame.len() < HEADERS_BYTES || frame[12..14] != [8, 0] || frame[23] != 17 {
                continue;
            }
            assert_eq!((&frame[..6], &frame[6..12]), (&GUEST_MAC[..], &gateway_mac[..]));
            assert_eq!((&frame[26..30], &frame[30..34]), (&GATEWAY[..], &GUEST[..]));
            assert_eq!((&frame[34..36], &frame[36..38]), (&port.to_be_bytes()[..], &GUEST_PORT.to_be_bytes()[..]));
            let expected = payload(received);
            let content = &frame[HEADERS_BYTES..];
            // Short frames are padded.
            assert!(content.len() >= expected.len() && content[..expected.len()] == expected, "datagram {received}");
            received += 1;
            deadline = Instant::now() + SOON;
        }
    }
}

fn payload(number: u32) -> Vec<u8> {
    let len_bytes = 1 + (number as usize * 37) % 1400;
    (0..len_bytes).map(|at| (at as u32 * 7 + number) as u8).collect()
}

fn arp_request() -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(GUEST_MAC);
    // Ethernet, IPv4, a request.
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(GUEST_MAC);
    frame.extend(GUEST);
    frame.extend([0; 6]);
    frame.extend(GATEWAY);
    frame
}

fn is_arp_reply(frame: &[u8]) -> bool {
    frame.len() >= 42 && frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == GATEWAY
}

fn udp_frame(to: [u8; 6], port: u16, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + 8 + payload.len()).expect("a short datagram");
    let mut header = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    header[2..4].copy_from_slice(&length.to_be_bytes());
    header[12..16].copy_from_slice(&GUEST);
    header[16..20].copy_from_slice(&GATEWAY);
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    let mut frame = [&to[..], &GUEST_MAC, &[8, 0], &header].concat();
    frame.extend(GUEST_PORT.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((length - 20).to_be_bytes());
    frame.extend([0, 0]); // no UDP checksum, which IPv4 allows
    frame.extend(payload);
    frame
}
