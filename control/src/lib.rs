//! The virtio-net controller: what decides. Configuration, devices, and the sockets their guests come to.
//!
//! May use: virtnet-engine, virtnet-rings.
#![forbid(unsafe_code)]

pub mod arguments;
pub mod class;
pub mod command;
pub mod config;
pub mod daemon;
pub mod device;
pub mod firmware;
pub mod folders;
pub mod function;
pub mod log;
pub mod manager;
pub mod pci;
pub mod qemu;
pub mod recovery;
pub mod refusal;
pub mod reply;
pub mod rpc;
pub mod service;
pub mod transport;
pub mod vfio_user;
pub mod vhost_user;
pub mod virtio_pci;
