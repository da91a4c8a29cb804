//! A TAP netdev, for as long as it is kept. Devices come and go at it, with more queues or fewer; whoever has it as a port, a
//! bridge or Open vSwitch, sees the same netdev all the time.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use virtnet_rings::spec::net::*;

use super::sys::{self, InterfaceName};
use super::{HEADER, TapError};
use crate::uplink::wire::LinkState;

/// A netdev that goes with this, unless it is persistent.
#[derive(Debug)]
pub struct Interface {
    name: String,
    raw: InterfaceName,
    queues: Mutex<Queues>,
}

/// One at least.
#[derive(Debug)]
struct Queues {
    files: Vec<OwnedFd>,
    /// Nobody is at them: there is one, which takes no frames.
    at_rest: bool,
}

impl Interface {
    /// The multi-queue TAP of this name, 1 to 15 characters, which is made if there is no interface of that name.
    ///
    /// # Errors
    /// [`TapError`]; other kinds of interfaces are refused.
    pub fn open(name: &str) -> Result<Self, TapError> {
        Self::with_first(name, false)
    }

    /// A new one, at rest.
    ///
    /// # Errors
    /// [`TapError`]; whatever has the name already is not touched.
    pub fn make(name: &str) -> Result<Self, TapError> {
        let made = Self::with_first(name, true)?;
        made.rest()?;
        Ok(made)
    }

    fn with_first(name: &str, new: bool) -> Result<Self, TapError> {
        let raw = InterfaceName::new(name).ok_or_else(|| TapError::Name { name: name.to_owned() })?;
        let (name, files) = (name.to_owned(), Vec::new());
        let interface = Self { name, raw, queues: Mutex::new(Queues { files, at_rest: false }) };
        let first = interface.attach(new)?;
        let set = sys::set_header_size(&first, HEADER as i32);
        set.map_err(interface.failed("setting the header's size"))?;
        sys::set_little_endian(&first).map_err(interface.failed("setting the header's byte order"))?;
        interface.lock().files.push(first);
        Ok(interface)
    }

    /// What it is called.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is still there under its name: anyone may have deleted or renamed it.
    pub fn is_there(&self) -> bool {
        self.lock().files.first().is_some_and(|queue| sys::name_of(queue).is_ok_and(|name| name == self.raw))
    }

    /// What tells about its link.
    ///
    /// # Errors
    /// There is no descriptor to be had.
    pub fn probe(&self) -> Result<Probe, TapError> {
        let failed = self.failed("watching its link");
        let queue = self.lock().files[0].try_clone().map_err(&failed)?;
        Ok(Probe { queue, socket: inet_socket().map_err(failed)?, name: self.raw })
    }

    /// Whether the netdev stays when this is gone.
    ///
    /// # Errors
    /// [`TapError::Setup`].
    pub fn set_persistent(&self, persistent: bool) -> Result<(), TapError> {
        let failed = self.failed("making it stay, or go");
        self.lock().files.iter().take(1).try_for_each(|queue| sys::set_persistent(queue, persistent)).map_err(failed)
    }

    /// Takes no frames until somebody opens queues again.
    ///
    /// # Errors
    /// [`TapError::Setup`].
    pub fn rest(&self) -> Result<(), TapError> {
        let mut queues = self.lock();
        queues.files.truncate(1);
        if !queues.at_rest {
            let detached = queues.files.iter().try_for_each(|queue| sys::set_taking(queue, false));
            detached.map_err(self.failed("detaching its queue"))?;
            queues.at_rest = true;
        }
        Ok(())
    }

    /// So many queues, 1 at least; what the kernel may leave undone follows the `VIRTIO_NET_F_GUEST_*` of `features`. Of those
    /// that were given out before, none is used any more.
    pub(super) fn queues(&self, count: u16, features: u64) -> Result<Vec<OwnedFd>, TapError> {
        let mut queues = self.lock();
        if queues.at_rest {
            let attached = queues.files.iter().try_for_each(|queue| sys::set_taking(queue, true));
            attached.map_err(self.failed("attaching its queue"))?;
            queues.at_rest = false;
        }
        queues.files.truncate(count.into());
        while queues.files.len() < count.into() {
            // Where it has moved to, its name is another's, or nobody's.
            if index_of(&self.name).is_none() {
                let gone = io::Error::new(io::ErrorKind::NotFound, "it is in another network namespace, or deleted");
                return Err(self.failed("attaching another queue")(gone));
            }
            let queue = self.attach(false)?;
            queues.files.push(queue);
        }
        queues
            .files
            .iter()
            .take(1)
            .try_for_each(|queue| set_offload(queue, features))
            .map_err(self.failed("setting offloads"))?;
        let copies = queues.files.iter().map(OwnedFd::try_clone).collect::<io::Result<_>>();
        copies.map_err(self.failed("copying a descriptor"))
    }

    /// Sets the MTU, if there is one to be set, and brings the interface up, if it is to be. In another network namespace that
    /// is for those there.
    pub(super) fn set(&self, mtu: Option<u16>, up: bool) -> Result<(), TapError> {
        if index_of(&self.name).is_none() {
            return Ok(());
        }
        let socket = inet_socket().map_err(self.failed("opening a socket"))?;
        if let Some(mtu) = mtu {
            sys::set_mtu(&socket, &self.raw, mtu).map_err(self.failed("setting the MTU"))?;
        }
        if up {
            sys::set_up(&socket, &self.raw).map_err(self.failed("bringing it up"))?;
        }
        Ok(())
    }

    fn attach(&self, new: bool) -> Result<OwnedFd, TapError> {
        let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun").map_err(TapError::Open)?;
        let queue = OwnedFd::from(tun);
        sys::attach_queue(&queue, &self.raw, new).map_err(self.failed("attaching a queue"))?;
        let set = fcntl_getfl(&queue).and_then(|flags| fcntl_setfl(&queue, flags | OFlags::NONBLOCK));
        set.map_err(io::Error::from).map_err(self.failed("setting flags"))?;
        Ok(queue)
    }

    fn failed(&self, step: &'static str) -> impl Fn(io::Error) -> TapError + '_ {
        move |source| TapError::Setup { name: self.name.clone(), step, source }
    }

    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells about an interface's link, for as long as it is there: the interface stays with it.
#[derive(Debug)]
pub struct Probe {
    queue: OwnedFd,
    socket: OwnedFd,
    name: InterfaceName,
}

impl Probe {
    /// How it is now. An interface that was moved to another network namespace, or has another name now, has a link while it is up.
    pub fn look(&self) -> LinkState {
        let mut queue = [PollFd::new(&self.queue, PollFlags::OUT)];
        let polled = poll(&mut queue, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        match (polled, queue[0].revents()) {
            (Ok(_), events) if events.contains(PollFlags::ERR) => LinkState::Gone,
            (Ok(_), events) if !events.contains(PollFlags::OUT) => LinkState::Down,
            _ if sys::flags(&self.socket, &self.name).is_ok_and(|flags| flags & libc::IFF_RUNNING == 0) => {
                LinkState::Down
            }
            _ => LinkState::Up,
        }
    }
}

/// The index of the network interface of this name, in this network namespace: /sys may be another's.
pub fn index_of(name: &str) -> Option<u32> {
    netdevice::name_to_index(inet_socket().ok()?, name).ok()
}

fn inet_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

/// Tells the kernel what it may leave undone. Older ones do not know UDP segmentation.
fn set_offload(queue: &OwnedFd, features: u64) -> io::Result<()> {
    let has = |bit: u32| features & 1 << bit != 0;
    if !has(VIRTIO_NET_F_GUEST_CSUM) {
        // The others rest on this one.
        return sys::set_offload(queue, 0);
    }
    let flags = [
        (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
        (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
        (VIRTIO_NET_F_GUEST_ECN, libc::TUN_F_TSO_ECN),
    ];
    let flags = flags.iter().filter(|(bit, _)| has(*bit)).fold(libc::TUN_F_CSUM, |flags, (_, flag)| flags | flag);
    if has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6) {
        let with_uso = sys::set_offload(queue, flags | libc::TUN_F_USO4 | libc::TUN_F_USO6);
        if with_uso.is_ok() {
            return with_uso;
        }
    }
    sys::set_offload(queue, flags)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_the_kernel_would_not_take_are_refused() {
        for name in ["", ".", "..", "sixteen-letters.", "a b", "a/b", "eth%d", "eth0:1", "\u{e9}t\u{e9}"] {
            assert!(matches!(Interface::open(name), Err(TapError::Name { .. })), "{name:?}");
        }
        assert!(InterfaceName::new("en3f0pf0sf65535").is_some());
    }
}
