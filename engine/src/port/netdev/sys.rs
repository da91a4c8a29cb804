//! Packet sockets, as functions that cannot be called wrongly.

// UNSAFETY: calls of the C library with structures that only this file knows; the kernel writes into those of `receive`.
#![expect(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::{c_int, c_void, cmsghdr, iovec, mmsghdr, packet_mreq, sockaddr_ll, tpacket_auxdata};

/// Messages of one call.
pub const BATCH: usize = 32;

/// A frame that was received: how long it is with its header, and the VLAN tag that the kernel has taken out of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    /// In its buffer; more than that has room for where the kernel has cut it.
    pub len_bytes: usize,
    /// As it stands in a frame.
    pub tag: Option<[u8; 4]>,
}

/// Each frame comes, and goes, behind a `virtio_net_hdr` of 10 bytes; with its VLAN tag beside it, and none that we send.
pub fn set_up(socket: &OwnedFd) -> io::Result<()> {
    for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
        set(socket, option, &1)?;
    }
    Ok(())
}

/// Has the socket be at this interface, and nowhere else.
pub fn bind(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let address = sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: (libc::ETH_P_ALL as u16).to_be(),
        sll_ifindex: index as c_int,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: an address of the length that is said.
    let code = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32) };
    check(code)
}

/// Has the interface take in frames for everybody, until the socket is closed or the interface goes.
pub fn listen_to_all(socket: &OwnedFd, index: u32) -> io::Result<()> {
    let (mr_ifindex, mr_type) = (index as c_int, libc::PACKET_MR_PROMISC as u16);
    set(socket, libc::PACKET_ADD_MEMBERSHIP, &packet_mreq { mr_ifindex, mr_type, mr_alen: 0, mr_address: [0; 8] })
}

/// Plain data that an option takes.
trait Value {}
impl Value for c_int {}
impl Value for packet_mreq {}

fn set<T: Value>(socket: &OwnedFd, option: c_int, value: &T) -> io::Result<()> {
    let (at, len_bytes) = (std::ptr::from_ref(value).cast::<c_void>(), size_of::<T>() as u32);
    // SAFETY: a value of the length that is said.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, at, len_bytes) })
}

fn check(code: c_int) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Room for what the kernel says beside a frame.
#[repr(C)]
#[derive(Clone, Copy)]
struct Beside {
    header: cmsghdr,
    auxdata: tpacket_auxdata,
}

/// Takes frames that wait, one into each buffer, as many as there are buffers or [`BATCH`]. Returns how many; an error where there
/// are none.
pub fn receive(socket: &OwnedFd, buffers: &mut [Box<[u8]>], received: &mut [Received; BATCH]) -> io::Result<usize> {
    // SAFETY: plain numbers and addresses, of which zero is a value.
    let (mut beside, mut messages): ([Beside; BATCH], [mmsghdr; BATCH]) = unsafe { std::mem::zeroed() };
    let mut places = [const { iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; BATCH];
    let count = buffers.len().min(BATCH);
    for (n, buffer) in buffers.iter_mut().take(BATCH).enumerate() {
        places[n] = iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        let message = &mut messages[n].msg_hdr;
        (message.msg_iov, message.msg_iovlen) = (&raw mut places[n], 1);
        message.msg_control = (&raw mut beside[n]).cast();
        message.msg_controllen = size_of::<Beside>() as _;
    }
    // SAFETY: as many messages, each with a buffer and room beside it of the lengths that are said; all of them outlive the call.
    let taken = unsafe {
        let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
        libc::recvmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count as u32, flags as _, std::ptr::null_mut())
    };
    check(taken)?;
    for n in 0..taken as usize {
        let Beside { header, auxdata } = beside[n];
        let is_told = messages[n].msg_hdr.msg_controllen >= size_of::<Beside>() as _
            && (header.cmsg_level, header.cmsg_type) == (libc::SOL_PACKET, libc::PACKET_AUXDATA)
            && auxdata.tp_status & libc::TP_STATUS_VLAN_VALID != 0;
        let has_tpid = auxdata.tp_status & libc::TP_STATUS_VLAN_TPID_VALID != 0;
        let tpid = if has_tpid { auxdata.tp_vlan_tpid } else { 0x8100 };
        let [a, b] = tpid.to_be_bytes();
        let [c, d] = auxdata.tp_vlan_tci.to_be_bytes();
        received[n] = Received { len_bytes: messages[n].msg_len as usize, tag: is_told.then_some([a, b, c, d]) };
    }
    Ok(taken as usize)
}
