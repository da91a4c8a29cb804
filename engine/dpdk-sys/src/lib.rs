//! DPDK, as much of it as is used here: the environment, pools, frames (mbufs) in bursts, and Ethernet ports.
//! The only crate that calls it; what is public here is safe.
//!
//! A C shim stands between: no struct of DPDK's is touched from Rust, nothing is generated, and the same source serves every
//! version from 22.11 on. Without the feature `dpdk` the crate is empty.
#![cfg(feature = "dpdk")]

mod burst;
mod eal;
mod error;
mod interface;
mod pool;
mod port;
mod shim;

pub use burst::{Burst, RoomError};
pub use eal::Eal;
pub use error::Error;
pub use interface::{Interface, Link};
pub use pool::{Pool, PoolOptions};
pub use port::{Counters, Port, PortOptions};
