//! Framing: messages over a Unix stream, with the descriptors that come along.
//!
//! Exactly one header is read, then exactly its body, and never a byte further: descriptors belong to the
//! bytes they were sent with, and reading ahead would hand them to the wrong message. Whatever the peer
//! announces, a connection holds one message of [`Head::BODY_BYTES_MAX`] and [`Head::DESCRIPTORS_MAX`] descriptors;
//! what comes on top is closed at once and told to the caller as a count that fits no request.

use std::error::Error;
use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The longest header of all protocols.
const HEAD_BYTES_MAX: usize = 16;
/// The most descriptors in a message of all protocols.
const DESCRIPTORS_MAX: usize = 16;

/// What every message of a protocol begins with, and how long what follows can be.
pub trait Head: Copy + Debug {
    /// Bytes of a header, 16 at most.
    const BYTES: usize;
    /// The longest body that is read.
    const BODY_BYTES_MAX: usize;
    /// Descriptors in one message, at most; 16 at most.
    const DESCRIPTORS_MAX: usize;
    /// What a peer can get wrong.
    type Error: Error + Send + Sync + 'static;

    /// From the wire: any [`Self::BYTES`] bytes.
    fn read(bytes: &[u8]) -> Self;

    /// To the wire, the same number of bytes.
    fn write(&self, bytes: &mut [u8]);

    /// Bytes that follow.
    ///
    /// # Errors
    /// It cannot be a header, or announces more than [`Self::BODY_BYTES_MAX`]: nobody knows where the next message starts.
    fn body_bytes(&self) -> Result<usize, Self::Error>;

    /// The error of a stream that ends `found` bytes into a message of `wanted`, header included.
    fn truncated(found: usize, wanted: usize) -> Self::Error;
}

/// A whole message as it came. Only its framing is checked.
#[derive(Debug)]
pub struct Message<H> {
    /// Its header.
    pub header: H,
    /// As many bytes as the header says.
    pub body: Vec<u8>,
    /// The descriptors that came along, at most [`Head::DESCRIPTORS_MAX`].
    pub descriptors: Vec<OwnedFd>,
    /// Whether more came than that; they are closed.
    pub surplus_descriptors: bool,
}

impl<H> Message<H> {
    /// How many descriptors were sent; one more than [`Head::DESCRIPTORS_MAX`] stands for any larger number.
    pub fn descriptor_count(&self) -> usize {
        self.descriptors.len() + usize::from(self.surplus_descriptors)
    }
}

/// What [`Connection::receive`] found.
#[derive(Debug)]
pub enum Received<H> {
    /// A message.
    Message(Message<H>),
    /// Not all of it has come yet.
    NotYet,
    /// The peer has closed, between two messages: the ordinary end.
    Gone,
}

/// Why a message could not be received or sent.
#[derive(Debug, thiserror::Error)]
pub enum SocketError<E> {
    /// The stream is out of step.
    #[error(transparent)]
    Protocol(E),
    /// Nothing came, or nothing could be sent, in time.
    #[error("the peer did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// The peer has closed.
    #[error("the peer has closed the connection")]
    Gone,
    /// The system refused.
    #[error("the socket failed: {0}")]
    System(#[from] io::Error),
}

impl<E> From<Errno> for SocketError<E> {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::CONNRESET | Errno::PIPE => Self::Gone,
            errno => Self::System(errno.into()),
        }
    }
}

/// One end of a connection. Whether the socket itself is blocking does not matter.
#[derive(Debug)]
pub struct Connection<H> {
    stream: OwnedFd,
    /// Header, then body, of the message under way.
    bytes: Box<[u8]>,
    /// How many of them have come.
    filled: usize,
    descriptors: Vec<OwnedFd>,
    surplus_descriptors: bool,
    head: PhantomData<H>,
}

impl<H: Head> Connection<H> {
    /// Takes over a connected Unix stream socket.
    pub fn new(stream: OwnedFd) -> Self {
        Self {
            stream,
            bytes: vec![0; H::BYTES + H::BODY_BYTES_MAX].into(),
            filled: 0,
            descriptors: Vec::with_capacity(H::DESCRIPTORS_MAX),
            surplus_descriptors: false,
            head: PhantomData,
        }
    }

    /// Both ends of a new connection, for tests and for a back end's own channel.
    pub fn pair() -> io::Result<(Self, Self)> {
        let (here, there) = stream_pair()?;
        Ok((Self::new(here), Self::new(there)))
    }

    /// Reads what has come, without waiting. At most one message: the next call finds the next.
    pub fn receive(&mut self) -> Result<Received<H>, SocketError<H::Error>> {
        loop {
            let wanted = self.wanted().map_err(SocketError::Protocol)?;
            if self.filled == wanted {
                return Ok(Received::Message(self.take_message()));
            }
            match self.read_up_to(wanted) {
                Ok(0) | Err(Errno::CONNRESET) if self.filled == 0 => return Ok(Received::Gone),
                Ok(0) | Err(Errno::CONNRESET) => {
                    return Err(SocketError::Protocol(H::truncated(self.filled, wanted)));
                }
                Ok(count) => self.filled += count,
                Err(Errno::AGAIN) => return Ok(Received::NotYet),
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Waits for a message, `timeout` at most.
    pub fn receive_within(&mut self, timeout: Duration) -> Result<Message<H>, SocketError<H::Error>> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.receive()? {
                Received::Message(message) => return Ok(message),
                Received::Gone => return Err(SocketError::Gone),
                Received::NotYet => wait(self.as_fd(), PollFlags::IN, deadline, timeout)?,
            }
        }
    }

    /// Sends a message without waiting: a peer that does not read makes this fail, and as part of the message
    /// may be gone then, the connection is of no more use.
    pub fn send(&self, header: H, body: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), SocketError<H::Error>> {
        self.send_within(header, body, descriptors, Duration::ZERO)
    }

    /// Sends a message, waiting `timeout` at most for the peer to make room. After a failure the connection is
    /// of no more use.
    ///
    /// # Panics
    /// If `header` does not tell the body's length, or a limit of the protocol is passed: our mistake.
    pub fn send_within(
        &self,
        header: H,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<(), SocketError<H::Error>> {
        // One that is no header, as a hostile peer's is in tests, tells nothing.
        assert!(header.body_bytes().map_or(true, |bytes| bytes == body.len()), "the header tells the body's length");
        assert!(body.len() <= H::BODY_BYTES_MAX && descriptors.len() <= H::DESCRIPTORS_MAX);
        let deadline = Instant::now() + timeout;
        let mut bytes = [0; HEAD_BYTES_MAX];
        let bytes = &mut bytes[..H::BYTES];
        header.write(bytes);
        let header = &*bytes;
        let total = header.len() + body.len();
        let mut sent = 0;
        while sent < total {
            let rest = [
                IoSlice::new(header.get(sent..).unwrap_or_default()),
                IoSlice::new(&body[sent.saturating_sub(header.len())..]),
            ];
            // Descriptors go with the first byte, and only once.
            let descriptors = if sent == 0 { descriptors } else { &[] };
            match self.write(&rest, descriptors) {
                Ok(count) => sent += count,
                Err(Errno::AGAIN) => wait(self.as_fd(), PollFlags::OUT, deadline, timeout)?,
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }

    /// Bytes of the message under way: its header only, until that has come.
    fn wanted(&self) -> Result<usize, H::Error> {
        if self.filled < H::BYTES {
            return Ok(H::BYTES);
        }
        Ok(H::BYTES + H::read(&self.bytes[..H::BYTES]).body_bytes()?)
    }

    fn take_message(&mut self) -> Message<H> {
        let (header, body) = self.bytes[..self.filled].split_at(H::BYTES);
        let message = Message {
            header: H::read(header),
            body: body.to_vec(),
            descriptors: std::mem::replace(&mut self.descriptors, Vec::with_capacity(H::DESCRIPTORS_MAX)),
            surplus_descriptors: std::mem::take(&mut self.surplus_descriptors),
        };
        self.filled = 0;
        message
    }

    fn read_up_to(&mut self, wanted: usize) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let room = &mut self.bytes[self.filled..wanted];
        let received = rustix::io::retry_on_intr(|| {
            recvmsg(
                &self.stream,
                &mut [IoSliceMut::new(room)],
                &mut control,
                RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC,
            )
        })?;
        // The system has closed those that did not fit the buffer.
        self.surplus_descriptors |= received.flags.contains(ReturnFlags::CTRUNC);
        for message in control.drain() {
            let RecvAncillaryMessage::ScmRights(descriptors) = message else {
                continue;
            };
            for descriptor in descriptors {
                if self.descriptors.len() < H::DESCRIPTORS_MAX {
                    self.descriptors.push(descriptor);
                } else {
                    self.surplus_descriptors = true;
                }
            }
        }
        Ok(received.bytes)
    }

    fn write(&self, bytes: &[IoSlice<'_>], descriptors: &[BorrowedFd<'_>]) -> Result<usize, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            let fits = control.push(SendAncillaryMessage::ScmRights(descriptors));
            assert!(fits, "there is space for as many descriptors as a message may have");
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| sendmsg(&self.stream, bytes, &mut control, flags)) {
            // User-mode Linux gives a pipe for the back end's own requests.
            Err(Errno::NOTSOCK) if descriptors.is_empty() => {
                wait_for_room(self.as_fd())?;
                rustix::io::retry_on_intr(|| rustix::io::writev(&self.stream, bytes))
            }
            outcome => outcome,
        }
    }
}

impl<H> AsFd for Connection<H> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A connected pair of Unix stream sockets.
pub fn stream_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    Ok(socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// Waits until `fd` is ready for `flags`, not beyond `deadline`; `timeout` is what the error tells.
pub fn wait<E>(
    fd: BorrowedFd<'_>,
    flags: PollFlags,
    deadline: Instant,
    timeout: Duration,
) -> Result<(), SocketError<E>> {
    if wait_any(&mut [PollFd::from_borrowed_fd(fd, flags)], deadline)? {
        return Ok(());
    }
    Err(SocketError::Timeout(timeout))
}

/// Waits until one of `fds` is ready; `false` if none was by `deadline`.
pub fn wait_any(fds: &mut [PollFd<'_>], deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        match poll(fds, Some(&left)) {
            Ok(ready) => return Ok(ready != 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// A pipe has no way to write without waiting but to ask first; a message is shorter than a pipe's page, so
/// that a pipe which is ready takes it whole.
fn wait_for_room(pipe: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut fds = [PollFd::from_borrowed_fd(pipe, PollFlags::OUT)];
    if wait_any(&mut fds, Instant::now())? { Ok(()) } else { Err(Errno::AGAIN) }
}

#[cfg(test)]
mod tests;
