//! A front end that sends anything, well framed or not, with any descriptors: the session answers or ends, the device is never
//! asked for what it has not been given, and nothing of either is left when the session is over.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::net::{SendFlags, send};
use virtnet_control::transport::Backend;
use virtnet_control::vhost_user::message::Header;
use virtnet_control::vhost_user::session::{Served, Session};
use virtnet_control::vhost_user::socket::{Connection, Received, stream_pair};
use virtnet_engine::caller::{Caller, Line};
use virtnet_rings::{Notifier, PartStore, Queue, Used, Virtqueue};

use super::Input;

const RINGS: usize = 4;
const MEMORY_BYTES: u64 = 1 << 20;
/// Where the front end says that the memory is in itself.
const USER: u64 = 0x7f00_0000_0000;

/// A device that serves rings as a worker would, and insists on being asked in order.
#[derive(Debug)]
struct Device {
    rings: [Option<Queue>; RINGS],
    store: PartStore,
    caller: Caller,
}

impl Device {
    /// One burst of each ring, returned at once; a ring that breaks a rule is not served any more.
    fn turn(&mut self, session: &mut Session) {
        for (index, ring) in self.rings.iter_mut().enumerate() {
            let Some(queue) = ring else { continue };
            let (chains, violation) = queue.take_list(32, &mut self.store);
            let used: Vec<Used> = chains.iter().map(|chain| chain.used(0)).collect();
            chains.into_iter().for_each(|mut chain| self.store.give_back(chain.parts.take_list()));
            queue.return_used(&used);
            if queue.wants_notification() {
                queue.call().notify();
            }
            if violation.is_some() {
                session.ring_failed(index);
            }
        }
    }
}

impl Backend for Device {
    fn features(&self) -> u64 {
        // Version 1, packed rings, event indices, indirect tables, merged buffers, in order.
        1 << 32 | 1 << 34 | 1 << 29 | 1 << 28 | 1 << 15 | 1 << 35
    }
    fn ring_count(&self) -> usize {
        RINGS
    }
    fn queue_size_max(&self) -> u16 {
        256
    }
    fn config(&self) -> Vec<u8> {
        vec![2, 0, 0, 0, 0, 9, 1, 0, 2, 0, 0xdc, 5]
    }
    fn restore_config(&mut self, offset: usize, bytes: &[u8]) -> Result<(), &'static str> {
        if offset + bytes.len() <= 6 { Ok(()) } else { Err("only the address") }
    }
    fn set_features(&mut self, features: u64) {
        assert!(self.rings.iter().all(Option::is_none), "features {features:#x} change under a ring");
    }
    fn start_ring(&mut self, index: usize, queue: Queue, _enabled: bool) -> Result<(), &'static str> {
        assert!(self.rings[index].replace(queue).is_none(), "ring {index} is started twice");
        Ok(())
    }
    fn stop_ring(&mut self, index: usize) -> u32 {
        self.rings[index].take().expect("only a ring that was started is stopped").base()
    }
    fn line(&mut self, descriptor: OwnedFd) -> std::io::Result<Arc<Line>> {
        self.caller.line(descriptor)
    }
    fn set_call(&mut self, index: usize, call: Notifier) {
        *self.rings[index].as_mut().expect("only a ring that was started is called").call() = call;
    }
    fn enable_ring(&mut self, index: usize, _enabled: bool) {
        assert!(self.rings[index].is_some(), "only a ring that was started is enabled");
    }
    fn set_status(&mut self, _status: u8) {}
    fn set_mtu(&mut self, mtu: u16) -> Result<(), &'static str> {
        if mtu <= 9216 { Ok(()) } else { Err("9216 at most") }
    }
    fn announce(&mut self, _mac: [u8; 6]) {}
}

/// A descriptor of one kind or another.
fn descriptor(kind: u8) -> OwnedFd {
    let file = |len_bytes| {
        let file = memfd_create("fuzz", MemfdFlags::CLOEXEC).expect("a memory file");
        ftruncate(&file, len_bytes).expect("its length");
        file
    };
    match kind % 8 {
        0 => file(0),
        1 => file(4096),
        2 => rustix::pipe::pipe().expect("a pipe").0,
        3 => rustix::pipe::pipe().expect("a pipe").1,
        4 | 5 => eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd"),
        _ => file(MEMORY_BYTES),
    }
}

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
        2 => body.extend((input.u64() & (1 << 32 | 1 << 34 | 1 << 30 | 1 << 29 | 1 << 28 | 1 << 26)).to_ne_bytes()),
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
    let mut device = Device { rings: Default::default(), store: PartStore::new(32), caller: Caller::default() };
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
        device.turn(&mut session);
        // The front end reads what it is sent, or the session would rightly end.
        while matches!(peer.receive(), Ok(Received::Message(_))) {}
    }
    session.close(&mut device);
    assert!(device.rings.iter().all(Option::is_none), "rings outlive their session");
}
