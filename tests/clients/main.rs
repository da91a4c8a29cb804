//! Real front ends against the daemon: DPDK's virtio-user, user-mode Linux, Linux in QEMU.
//!
//! `scripts/lab` makes the clients. A test whose client is missing says `SKIPPED` and why, or fails
//! if `VIRTNET_REQUIRE_LAB=1`.

mod controller;
mod guest;
mod lab;
mod network;
#[allow(dead_code)] // the benchmark against DPDK needs more of it
mod process;
mod qemu;
mod testpmd;
mod traffic;
mod uml;
