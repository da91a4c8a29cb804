//! A wire that is a network interface of the host as it is there: a network card, one end of a veth pair. Frames are taken and
//! given by a packet socket, a batch a system call, with their `virtio_net_hdr`: what the kernel has joined arrives whole, and it
//! cuts what is to be cut. The host's own network sees what comes in, too, so it should have no addresses there.
//!
//! An interface that goes takes nothing with it: the socket stays, and is at the interface again when there is one of that
//! name ([`Probe::look`]).

mod sys;

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::netdevice::name_to_index;
use rustix::net::sockopt::{set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force};
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sendmmsg, socket_with,
};
use thiserror::Error;
use virtnet_rings::spec::net::*;

use self::sys::{BATCH, Received};
use super::slots::Slots;
use super::tap::sys::{InterfaceName, flags};
use crate::counters::{BurstCounts, DropReason};
use crate::frame::offload::{Refusal, TO_GUEST, Work, Workshop};
use crate::frame::{FRAME_LEN_MAX, FRAME_LEN_MIN, Frame};
use crate::uplink::wire::LinkState;

/// A packet socket's header has no number of buffers.
const HEADER: usize = NET_HEADER_SIZE_BYTES - 2;
const BUFFER_BYTES: usize = HEADER + FRAME_LEN_MAX as usize;
/// What waits at the socket in either direction, in bytes: 64 of the longest frames.
const SOCKET_BYTES: usize = 4 << 20;
/// An interface that had nothing is not asked again for so long: asking is a system call.
const LOOK_AGAIN_NS: u64 = 5_000;
/// The kernel takes all unfinished, but before 6.2 no datagrams to be cut.
const TAKES: u64 = TO_GUEST & !(1 << VIRTIO_NET_F_GUEST_USO4 | 1 << VIRTIO_NET_F_GUEST_USO6);

/// Why an interface cannot be had.
#[derive(Debug, Error)]
#[error("interface {name}: {step}: {source}{}", hint(.source))]
pub struct NetdevError {
    /// Which.
    name: String,
    /// What was tried.
    step: &'static str,
    /// What the system said.
    source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { " (it takes CAP_NET_RAW and CAP_NET_ADMIN)" } else { "" }
}

/// The interface's one queue.
#[derive(Debug)]
pub struct Netdev {
    socket: OwnedFd,
    /// Frames as they came, with their headers, of which those from `next` to `count` have not been taken yet.
    incoming: Box<[Box<[u8]>]>,
    received: [Received; BATCH],
    next: usize,
    count: usize,
    quiet_until_ns: u64,
    slots: Slots,
    outgoing: Outgoing,
    workshop: Workshop,
}

/// Frames on their way out, with their headers.
#[derive(Debug)]
struct Outgoing {
    buffers: Box<[Box<[u8]>]>,
    lens_bytes: [usize; BATCH],
    count: usize,
}

impl Netdev {
    /// The interface of this name, and what tells about it.
    ///
    /// # Errors
    /// There is none, or it is not for us.
    pub fn open(name: &str) -> Result<(Self, Probe), NetdevError> {
        let failed = |step| move |source| NetdevError { name: name.into(), step, source };
        let bad_name = || failed("its name")(io::ErrorKind::InvalidInput.into());
        let interface = InterfaceName::new(name).ok_or_else(bad_name)?;
        // Of no protocol: until it is bound nothing comes.
        let kind = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::PACKET, SocketType::RAW, kind, None);
        let socket = socket.map_err(io::Error::from).map_err(failed("opening a packet socket"))?;
        sys::set_up(&socket).map_err(failed("setting the packet socket up"))?;
        // Less room is no reason to do without.
        let _ = set_socket_recv_buffer_size_force(&socket, SOCKET_BYTES);
        let _ = set_socket_send_buffer_size_force(&socket, SOCKET_BYTES);
        let twin = socket.try_clone().map_err(failed("watching its link"))?;
        let mut probe = Probe { socket: twin, name: name.into(), interface, index: None };
        probe.go_to_interface().map_err(failed("binding a packet socket"))?;
        let buffers = || (0..BATCH).map(|_| vec![0; BUFFER_BYTES].into()).collect();
        let netdev = Self {
            socket,
            incoming: buffers(),
            received: Default::default(),
            next: 0,
            count: 0,
            quiet_until_ns: 0,
            slots: Slots::default(),
            outgoing: Outgoing { buffers: buffers(), lens_bytes: [0; BATCH], count: 0 },
            workshop: Workshop::default(),
        };
        Ok((netdev, probe))
    }

    /// The next frame that waits at the interface, with its slot as its ticket.
    #[inline]
    pub fn take_frame(&mut self, now_ns: u64, counts: &mut BurstCounts) -> Option<Frame> {
        while self.slots.free() > 0 && (self.has_taken() || self.receive(now_ns)) {
            let Received { len_bytes, tag } = self.received[self.next];
            let buffer = &self.incoming[self.next];
            self.next += 1;
            let tag_bytes = tag.map_or(0, |tag| tag.len());
            if len_bytes + tag_bytes > buffer.len() {
                counts.drop(DropReason::TooLong, 1);
                continue;
            }
            let Some((header, bytes)) = buffer[..len_bytes].split_first_chunk::<HEADER>() else { continue };
            if bytes.len() < FRAME_LEN_MIN as usize {
                continue;
            }
            let mut whole = [0; NET_HEADER_SIZE_BYTES];
            whole[..HEADER].copy_from_slice(header);
            let (stations, rest) = bytes.split_at(12);
            return match tag {
                None => self.slots.lay(whole, &[bytes]),
                Some(tag) => self.slots.lay(behind(whole, tag_bytes as u16), &[stations, &tag, rest]),
            };
        }
        None
    }

    /// Whether frames have left the interface that [`Self::take_frame`] has not given yet.
    pub fn has_taken(&self) -> bool {
        self.next < self.count
    }

    /// Whether more frames have come.
    fn receive(&mut self, now_ns: u64) -> bool {
        if now_ns < self.quiet_until_ns {
            return false;
        }
        self.next = 0;
        self.count = sys::receive(&self.socket, &mut self.incoming, &mut self.received).unwrap_or(0);
        if self.count == 0 {
            // There is nothing, or no interface.
            self.quiet_until_ns = now_ns + LOOK_AGAIN_NS;
        }
        self.count > 0
    }

    /// Takes back a slot that [`Self::take_frame`] lent.
    #[inline]
    pub fn take_back(&mut self, slot: u16) {
        self.slots.take_back(slot);
    }

    /// Puts a frame among those that [`Self::flush`] sends.
    #[inline]
    pub fn transmit(&mut self, frame: &Frame, counts: &mut BurstCounts) {
        let work = frame.work_for(TAKES);
        if work != Work::Nothing {
            return self.transmit_finished(frame, work, counts);
        }
        let Outgoing { buffers, lens_bytes, count } = &mut self.outgoing;
        let (header, bytes) = buffers[*count].split_at_mut(HEADER);
        header.fill(0);
        if !frame.is_plain() {
            header.copy_from_slice(&frame.header[..HEADER]);
        }
        lens_bytes[*count] = HEADER + frame.parts.read(&mut bytes[..frame.len_bytes as usize]);
        self.outgoing.next(&self.socket, counts);
    }

    fn transmit_finished(&mut self, frame: &Frame, work: Work, counts: &mut BurstCounts) {
        let mut finished = match self.workshop.start(frame, work, 0) {
            Ok(finished) => finished,
            Err(refusal) => return counts.drop(Refusal::reason(refusal), 1),
        };
        while let Some(piece) = finished.next_piece(HEADER) {
            let Outgoing { buffers, lens_bytes, count } = &mut self.outgoing;
            buffers[*count][..piece.len()].copy_from_slice(piece);
            lens_bytes[*count] = piece.len();
            self.outgoing.next(&self.socket, counts);
        }
    }

    /// Sends a frame that asks for nothing and is no longer than frames are, at once.
    ///
    /// # Errors
    /// Why the kernel did not take it.
    pub fn transmit_bytes(&mut self, frame: &[u8]) -> Result<(), DropReason> {
        let sent = rustix::io::writev(&self.socket, &[IoSlice::new(&[0; HEADER]), IoSlice::new(frame)]);
        sent.map(drop).map_err(reason)
    }

    /// Sends what [`Self::transmit`] was given.
    #[inline]
    pub fn flush(&mut self, counts: &mut BurstCounts) {
        if self.outgoing.count > 0 {
            self.outgoing.flush(&self.socket, counts);
        }
    }

    /// Readable when frames wait.
    pub fn door(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The header of a frame that a tag is put into, which is of so many bytes.
fn behind(header: [u8; NET_HEADER_SIZE_BYTES], tag_bytes: u16) -> [u8; NET_HEADER_SIZE_BYTES] {
    let mut header = NetHeader::from_bytes(header);
    if header.flags & VIRTIO_NET_HDR_F_NEEDS_CSUM != 0 {
        header.csum_start += tag_bytes;
    }
    if header.gso_type != VIRTIO_NET_HDR_GSO_NONE {
        header.hdr_len += tag_bytes;
    }
    header.to_bytes()
}

impl Outgoing {
    /// One more is in its buffer.
    fn next(&mut self, socket: &OwnedFd, counts: &mut BurstCounts) {
        self.count += 1;
        if self.count == BATCH {
            self.flush(socket, counts);
        }
    }

    fn flush(&mut self, socket: &OwnedFd, counts: &mut BurstCounts) {
        let parts: [_; BATCH] = std::array::from_fn(|n| [IoSlice::new(&self.buffers[n][..self.lens_bytes[n]])]);
        let mut beside: [_; BATCH] = std::array::from_fn(|_| SendAncillaryBuffer::default());
        let mut parts_of = parts.iter();
        let mut messages = beside.each_mut().map(|beside| MMsgHdr::new(parts_of.next().expect("as many"), beside));
        let mut sent = 0;
        while sent < self.count {
            match sendmmsg(socket, &mut messages[sent..self.count], SendFlags::DONTWAIT) {
                Ok(more) => {
                    let lens_bytes = &self.lens_bytes[sent..sent + more];
                    lens_bytes.iter().for_each(|len_bytes| counts.frame((len_bytes - HEADER) as u32));
                    sent += more;
                }
                Err(Errno::INTR) => {}
                // The kernel has no room for any, or there is no interface for them.
                Err(error @ (Errno::AGAIN | Errno::NOBUFS | Errno::NETDOWN | Errno::NXIO | Errno::NODEV)) => {
                    counts.drop(reason(error), (self.count - sent) as u64);
                    break;
                }
                // It makes no sense of this one.
                Err(error) => {
                    counts.drop(reason(error), 1);
                    sent += 1;
                }
            }
        }
        self.count = 0;
    }
}

fn reason(error: Errno) -> DropReason {
    match error {
        Errno::AGAIN | Errno::NOBUFS => DropReason::PortFull,
        _ => DropReason::PortError,
    }
}

/// Tells about an interface's link, and has the socket follow its name.
#[derive(Debug)]
pub struct Probe {
    socket: OwnedFd,
    name: String,
    interface: InterfaceName,
    /// The interface that the socket is at.
    index: Option<u32>,
}

impl Probe {
    /// How it is now. Where there is another interface of this name than before, the socket is at that from now on.
    pub fn look(&mut self) -> LinkState {
        match self.go_to_interface().and_then(|()| flags(&self.socket, &self.interface)) {
            Ok(flags) if flags & libc::IFF_UP != 0 && flags & libc::IFF_RUNNING != 0 => LinkState::Up,
            Ok(_) => LinkState::Down,
            Err(_) => LinkState::Gone,
        }
    }

    fn go_to_interface(&mut self) -> io::Result<()> {
        let index = name_to_index(&self.socket, &self.name);
        if index.ok() != self.index {
            self.index = None;
            let index = index?;
            sys::bind(&self.socket, index)?;
            sys::listen_to_all(&self.socket, index)?;
            self.index = Some(index);
        }
        index.map(drop).map_err(io::Error::from)
    }
}
