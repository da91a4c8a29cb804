//! The ioctls of TUN/TAP devices and network interfaces, as functions that cannot be called wrongly.

// UNSAFETY: an ioctl's argument is what its number says it is, which only this file knows.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::ioctl::{IntegerSetter, Opcode, Setter, Updater, ioctl};

/// Length of an interface's name with its closing zero.
const IFNAMSIZ: usize = libc::IFNAMSIZ;

const TUNSETIFF: Opcode = libc::TUNSETIFF as Opcode;
const TUNSETOFFLOAD: Opcode = libc::TUNSETOFFLOAD as Opcode;
const TUNSETVNETHDRSZ: Opcode = libc::TUNSETVNETHDRSZ as Opcode;
const TUNSETVNETLE: Opcode = libc::TUNSETVNETLE as Opcode;
const TUNSETPERSIST: Opcode = libc::TUNSETPERSIST as Opcode;
const TUNSETQUEUE: Opcode = libc::TUNSETQUEUE as Opcode;
const TUNGETIFF: Opcode = libc::TUNGETIFF as Opcode;
const SIOCGIFFLAGS: Opcode = libc::SIOCGIFFLAGS as Opcode;
const SIOCSIFFLAGS: Opcode = libc::SIOCSIFFLAGS as Opcode;
const SIOCGIFMTU: Opcode = libc::SIOCGIFMTU as Opcode;
const SIOCSIFMTU: Opcode = libc::SIOCSIFMTU as Opcode;

/// `struct ifreq`: a name, and a union whose largest member has 24 bytes.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; IFNAMSIZ],
    value: [u8; 24],
}

const _: () = assert!(size_of::<InterfaceRequest>() == size_of::<libc::ifreq>());

impl InterfaceRequest {
    fn new(name: &InterfaceName) -> Self {
        Self { name: name.0, value: [0; 24] }
    }

    fn with(mut self, value: &[u8]) -> Self {
        self.value[..value.len()].copy_from_slice(value);
        self
    }
}

/// A name that an interface may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterfaceName([u8; IFNAMSIZ]);

impl InterfaceName {
    /// `None` where the kernel would refuse it, or would make another name of it.
    pub fn new(name: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:%".contains(&byte);
        if name.is_empty() || name.len() >= IFNAMSIZ || name == "." || name == ".." || !name.bytes().all(allowed) {
            return None;
        }
        let mut bytes = [0; IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Some(Self(bytes))
    }
}

/// One more queue of the TAP device of this name, which is made if there is none: Ethernet frames, each behind a
/// `virtio_net_hdr`. Where it is to be `new`, one that is there is refused.
pub fn attach_queue(tun: &OwnedFd, name: &InterfaceName, new: bool) -> io::Result<()> {
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    let flags = if new { flags | libc::IFF_TUN_EXCL } else { flags };
    let mut request = InterfaceRequest::new(name).with(&(flags as i16).to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`.
    Ok(unsafe { ioctl(tun, Updater::<TUNSETIFF, _>::new(&mut request)) }?)
}

/// Whether the queue takes frames; one that does not still holds its device.
pub fn set_taking(tun: &OwnedFd, taking: bool) -> io::Result<()> {
    let flags = if taking { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    let request = InterfaceRequest { name: [0; IFNAMSIZ], value: [0; 24] }.with(&(flags as i16).to_ne_bytes());
    // SAFETY: TUNSETQUEUE reads a `struct ifreq`.
    Ok(unsafe { ioctl(tun, Setter::<TUNSETQUEUE, _>::new(request)) }?)
}

/// Whether the device stays when its last queue is closed.
pub fn set_persistent(tun: &OwnedFd, persistent: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a number, no address.
    Ok(unsafe { ioctl(tun, IntegerSetter::<TUNSETPERSIST>::new_usize(persistent.into())) }?)
}

/// What the queue's device is called now; an error where it is gone.
pub fn name_of(tun: &OwnedFd) -> io::Result<InterfaceName> {
    let mut request = InterfaceRequest { name: [0; IFNAMSIZ], value: [0; 24] };
    // SAFETY: TUNGETIFF writes a `struct ifreq`.
    unsafe { ioctl(tun, Updater::<TUNGETIFF, _>::new(&mut request)) }?;
    Ok(InterfaceName(request.name))
}

/// How many bytes the header before each frame has.
pub fn set_header_size(tun: &OwnedFd, bytes: i32) -> io::Result<()> {
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    Ok(unsafe { ioctl(tun, Setter::<TUNSETVNETHDRSZ, _>::new(bytes)) }?)
}

/// Headers are little-endian, as VIRTIO 1 has them.
pub fn set_little_endian(tun: &OwnedFd) -> io::Result<()> {
    // SAFETY: TUNSETVNETLE reads an int.
    Ok(unsafe { ioctl(tun, Setter::<TUNSETVNETLE, i32>::new(1)) }?)
}

/// What the kernel may leave to us in frames it sends: `TUN_F_*`.
pub fn set_offload(tun: &OwnedFd, flags: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a number, no address.
    Ok(unsafe { ioctl(tun, IntegerSetter::<TUNSETOFFLOAD>::new_usize(flags as usize)) }?)
}

/// An interface's flags: `IFF_*`; any socket will do.
pub fn flags(socket: impl AsFd, name: &InterfaceName) -> io::Result<i32> {
    let mut request = InterfaceRequest::new(name);
    // SAFETY: SIOCGIFFLAGS reads and writes a `struct ifreq`.
    unsafe { ioctl(socket, Updater::<SIOCGIFFLAGS, _>::new(&mut request)) }?;
    Ok(u16::from_ne_bytes([request.value[0], request.value[1]]).into())
}

/// Brings an interface up; any socket will do. One that is up is left alone: others may not set what they may use.
pub fn set_up(socket: impl AsFd, name: &InterfaceName) -> io::Result<()> {
    let flags = flags(&socket, name)?;
    if flags & libc::IFF_UP != 0 {
        return Ok(());
    }
    let request = InterfaceRequest::new(name).with(&((flags | libc::IFF_UP) as u16).to_ne_bytes());
    // SAFETY: SIOCSIFFLAGS reads a `struct ifreq`.
    Ok(unsafe { ioctl(&socket, Setter::<SIOCSIFFLAGS, _>::new(request)) }?)
}

/// Sets an interface's MTU, where it is another; any socket will do.
pub fn set_mtu(socket: impl AsFd, name: &InterfaceName, mtu: u16) -> io::Result<()> {
    let wanted = i32::from(mtu).to_ne_bytes();
    let mut request = InterfaceRequest::new(name);
    // SAFETY: SIOCGIFMTU reads and writes a `struct ifreq`.
    unsafe { ioctl(&socket, Updater::<SIOCGIFMTU, _>::new(&mut request)) }?;
    if request.value[..4] == wanted {
        return Ok(());
    }
    let request = InterfaceRequest::new(name).with(&wanted);
    // SAFETY: SIOCSIFMTU reads a `struct ifreq`.
    Ok(unsafe { ioctl(&socket, Setter::<SIOCSIFMTU, _>::new(request)) }?)
}
