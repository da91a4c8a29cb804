//! Real front ends against the daemon: DPDK's virtio-user, user-mode Linux, Linux in QEMU; Open vSwitch between them. And a real back end, passt, against
//! our front end.
//!
//! `scripts/lab` makes the clients. A test whose client is missing says `SKIPPED` and why, or fails
//! if `VIRTNET_REQUIRE_LAB=1`.

mod controller;
#[allow(dead_code)] // what its own tests need of a daemon
#[path = "../vhost_user/house.rs"]
mod front_end;
mod guest;
mod hotplug;
mod lab;
mod netboot;
mod network;
mod ovs;
mod passt;
#[allow(dead_code)] // the benchmark against DPDK needs more of it
mod process;
mod qemu;
mod testpmd;
mod traffic;
mod uml;
mod vfio_user;
