//! `self-loop`: DPDK's virtio driver on one thread with DPDK's vhost device and with ours, in turns of a few milliseconds. Whatever
//! mood the machine is in, both devices meet it, and the ratio of what they cost is the figure.

pub mod args;
#[cfg(feature = "dpdk")]
mod bench;
#[cfg(feature = "dpdk")]
mod cell;
#[cfg(feature = "dpdk")]
mod clock;
#[cfg(feature = "dpdk")]
mod contest;
#[cfg(feature = "dpdk")]
mod copy;
#[cfg(feature = "dpdk")]
mod frames;
#[cfg(feature = "dpdk")]
mod guest;
#[cfg(feature = "dpdk")]
mod ours;
#[cfg(feature = "dpdk")]
mod report;
#[cfg(feature = "dpdk")]
mod setup;
#[cfg(feature = "dpdk")]
mod slice;
#[cfg(feature = "dpdk")]
mod theirs;

#[cfg(feature = "dpdk")]
pub use contest::run;

/// Says how to get what this was built without.
///
/// # Errors
/// Always.
#[cfg(not(feature = "dpdk"))]
pub fn run(_args: &args::SelfLoopArgs, _watch: &crate::load::Watch) -> anyhow::Result<()> {
    anyhow::bail!(
        "self-loop needs DPDK, and this virtnet-perf was built without: install DPDK 22.11 or later (Debian: libdpdk-dev), then \
         cargo build --release -p virtnet-perf --features dpdk; scripts/self-loop does all of it"
    )
}
