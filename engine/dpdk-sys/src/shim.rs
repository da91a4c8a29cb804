//! The shim's functions, as `shim/shim.c` has them.

// UNSAFETY: declarations of C functions.
#![expect(unsafe_code)]

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::marker::{PhantomData, PhantomPinned};

/// `struct rte_mbuf`, of which only addresses are known here.
#[repr(C)]
pub struct Mbuf {
    _opaque: [u8; 0],
    _not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

/// `struct rte_mempool`, likewise.
#[repr(C)]
pub struct Mempool {
    _opaque: [u8; 0],
    _not_ours: PhantomData<(*mut u8, PhantomPinned)>,
}

unsafe extern "C" {
    pub fn shim_log_take(into: *mut u8, room: usize) -> usize;
    pub fn shim_eal_start(argc: c_int, argv: *mut *mut c_char, aloud: bool) -> c_int;
    pub safe fn shim_version() -> *const c_char;
    pub safe fn shim_cycles() -> u64;
    pub safe fn shim_cycles_per_second() -> u64;

    pub fn shim_pool_new(
        name: *const c_char,
        count: c_uint,
        cache: c_uint,
        room: u16,
        pool: *mut *mut Mempool,
    ) -> c_int;
    pub fn shim_pool_free(pool: *mut Mempool);
    pub fn shim_pool_available(pool: *const Mempool) -> c_uint;

    pub fn shim_frames_alloc(pool: *mut Mempool, frames: *mut *mut Mbuf, count: c_uint) -> c_int;
    pub fn shim_frames_free(frames: *mut *mut Mbuf, count: c_uint);
    pub fn shim_frames_copy(into: *mut *mut Mbuf, from: *mut *mut Mbuf, count: c_uint);
    pub fn shim_frame_len(frame: *const Mbuf) -> u32;
    pub fn shim_frame_set_len(frame: *mut Mbuf, len: u16) -> c_int;
    pub fn shim_frame_lay(frame: *mut Mbuf, len: u16) -> *mut u8;
    pub fn shim_frame_bytes(frame: *const Mbuf, room: *mut u8, room_len: u32, len: *mut u32) -> *const u8;
    pub fn shim_frame_write(frame: *mut Mbuf, offset: u16, from: *const c_void, len: u16) -> c_int;
    pub fn shim_frame_read(frame: *const Mbuf, offset: u32, into: *mut c_void, len: u32) -> c_int;

    pub fn shim_device_add(devargs: *const c_char, port: *mut u16) -> c_int;
    pub fn shim_device_remove(devargs: *const c_char) -> c_int;
    pub fn shim_port_start(port: u16, receive_size: u16, transmit_size: u16, pool: *mut Mempool) -> c_int;
    pub fn shim_port_take_all(port: u16) -> c_int;
    pub fn shim_port_is_removed(port: u16) -> c_int;
    pub fn shim_port_stop(port: u16) -> c_int;
    pub fn shim_port_link_is_up(port: u16) -> c_int;
    pub fn shim_port_counters(port: u16, counters: *mut u64) -> c_int;
    pub fn shim_port_receive(port: u16, frames: *mut *mut Mbuf, count: u16) -> u16;
    pub fn shim_port_transmit(port: u16, frames: *mut *mut Mbuf, count: u16) -> u16;
}
