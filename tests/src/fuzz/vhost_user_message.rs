//! A front end that sends anything, well framed or not, with any descriptors: the session answers or ends, the device is never
//! asked for what it has not been given, and nothing of either is left when the session is over.

use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{SendFlags, send};
use virtnet_control::vhost_user::message::Header;
use virtnet_control::vhost_user::session::{Served, Session};
use virtnet_control::vhost_user::socket::{Connection, Received, stream_pair};

use super::Input;
use super::device::{Device, MEMORY_BYTES, RINGS, descriptor};

/// Where the front end says that the memory is in itself.
const USER: u64 = 0x7f00_0000_0000;

/// A body: bytes of the input, or numbers that make sense in most requests.
fn body(input: &mut Input, request: u32) -> Vec<u8> {
    let choice = input.u8();
    if choice & 3 == 0 {
        let count = usize::from(input.u8());
        return input.bytes(count).to_vec();
    }
    let mut body = Vec::new();
    let index = u32::from(input.u8()) % (RINGS as u32 + 1);
    let areas = USER + u64::from(index) * 0x1_0000;
    match request {
        // SET_FEATURES, SET_PROTOCOL_FEATURES: a mixture of what is offered.
        2 => body.extend(
            (input.u64() & (1 << 32 | 1 << 33 | 1 << 34 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 26)).to_ne_bytes(),
        ),
        16 => body.extend(input.u64().to_ne_bytes()),
        // SET_MEM_TABLE, ADD_MEM_REG, REM_MEM_REG: one region.
        5 | 37 | 38 => {
            body.extend(if request == 5 { [1, 0, 0, 0, 0, 0, 0, 0] } else { [0; 8] });
            [0, MEMORY_BYTES, USER, 0].iter().for_each(|word: &u64| body.extend(word.to_ne_bytes()));
        }
        // SET_VRING_ADDR.
        9 => {
            [index, 0].iter().for_each(|word| body.extend(word.to_ne_bytes()));
            [areas, areas + 0x4000, areas + 0x8000, 0].iter().for_each(|word| body.extend(word.to_ne_bytes()));
        }
        // Ring states.
        8 | 10 | 11 | 18 => {
            let num = [256, 64, 0, 1, u32::from(input.u16())][usize::from(input.u8() % 5)];
            [index, num].iter().for_each(|word| body.extend(word.to_ne_bytes()));
        }
        // Descriptors of rings.
        12..=14 => body.extend(u64::from(index).to_ne_bytes()),
        // IOTLB_MSG: mostly of the addresses that rings have, one or more pages, or all there are.
        22 => {
            let page = |choice: u8| USER + u64::from(choice) * 4096;
            let iova = if input.u8() & 7 == 0 { input.u64() } else { page(input.u8()) };
            let size = [4096, 4096, 0x4000, 0, 0x8_0000, u64::MAX][usize::from(input.u8() % 6)];
            [iova, size, page(input.u8())].iter().for_each(|word| body.extend(word.to_ne_bytes()));
            body.extend([
                [3, 3, 1, 2, 0, 7, 3, 3][usize::from(input.u8() % 8)],
                [2, 2, 3, 2, 1, 4, 5, 6][usize::from(input.u8() % 8)],
            ]);
        }
        // CONFIG.
        24 | 25 => {
            [u32::from(input.u8() % 16), u32::from(input.u8() % 16), 0]
                .iter()
                .for_each(|word| body.extend(word.to_ne_bytes()));
            let count = usize::from(input.u8() % 16);
            body.extend(input.bytes(count));
        }
        // In-flight buffers.
        31 | 32 => {
            [4096 + u64::from(input.u16()), 0].iter().for_each(|word| body.extend(word.to_ne_bytes()));
            [RINGS as u16, 64].iter().for_each(|word| body.extend(word.to_ne_bytes()));
        }
        _ if choice & 4 == 0 => body.extend(input.u64().to_ne_bytes()),
        _ => {}
    }
    if choice & 0x30 == 0x30 {
        // One byte of it is something else.
        let at = usize::from(input.u8());
        if let Some(byte) = body.get_mut(at) {
            *byte ^= input.u8();
        }
    }
    body
}

/// A session, from its first message to its end.
pub fn vhost_user_message(bytes: &[u8]) {
    let mut input = Input(bytes);
    let (here, there) = stream_pair().expect("a pair of sockets");
    let raw = here.try_clone().expect("a file descriptor");
    let mut peer = Connection::new(here);
    let mut device = Device::default();
    let mut session = Session::new(there, &device);
    'session: while !input.is_empty() {
        let choice = input.u8();
        if choice == 0xff {
            // Not framed at all.
            let count = usize::from(input.u8());
            let _ = send(&raw, input.bytes(count), SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        } else {
            let request = u32::from(input.u8() % 46);
            let body = body(&mut input, request);
            let kinds = if choice & 3 == 3 { input.u8() % 9 } else { choice & 1 };
            let descriptors: Vec<OwnedFd> = (0..kinds).map(|_| descriptor(input.u8())).collect();
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let header = Header::request(request, body.len() as u32, choice & 4 != 0);
            let _ = peer.send(header, &body, &borrowed);
        }
        for _ in 0..100 {
            match session.serve(&mut device) {
                Served::Message | Served::Refused(_) => {}
                Served::Nothing => break,
                Served::Ended(_) => break 'session,
            }
        }
        device.turn(|index| session.ring_failed(index));
        if choice & 8 != 0 {
            session.ask_again(&mut device);
        }
        // The front end reads what it is sent, or the session would rightly end.
        while matches!(peer.receive(), Ok(Received::Message(_))) {}
    }
    session.close(&mut device);
    assert!(!device.has_rings(), "rings outlive their session");
}
