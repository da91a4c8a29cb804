//! The bare copy: what moving a frame's bytes costs, and nothing else. By the C library's memcpy, from one pool's buffers to
//! another's, as many as a queue has.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use dpdk_sys::Burst;

use super::clock::Clock;
use super::setup::{Pools, Setup};

/// Buffers that have their turn on either side.
const BUFFERS: usize = 256;

/// Buffers to copy from and to.
#[derive(Debug)]
pub struct BareCopy {
    bursts: VecDeque<(Burst, Burst)>,
}

impl BareCopy {
    /// Frames of these sizes.
    ///
    /// # Errors
    /// There are not enough buffers.
    pub fn new(setup: &Setup, pools: &Pools) -> Result<Self> {
        let mut bursts = VecDeque::new();
        for number in 0..BUFFERS.div_ceil(setup.burst) {
            let (mut from, mut into) = (Burst::new(setup.burst), Burst::new(setup.burst));
            ensure!(
                from.fill(pools.guest_transmit, setup.burst) && into.fill(pools.device_receive, setup.burst),
                "no buffers are left to copy"
            );
            for index in 0..setup.burst {
                from.set_len_bytes(index, setup.sizes.at(number * setup.burst + index) as u16)?;
            }
            bursts.push_back((from, into));
        }
        Ok(BareCopy { bursts })
    }

    /// Copies each once or more often. Returns nanoseconds a frame, the median of all bursts.
    pub fn measure(&mut self, clock: &Clock<'_>, times: usize) -> f64 {
        let mut sums: Vec<u64> = (0..times)
            .map(|_| {
                let mut sum = 0;
                for (from, into) in &mut self.bursts {
                    let begun = clock.now();
                    into.copy_from(from);
                    sum += clock.between(begun, clock.now());
                }
                sum
            })
            .collect();
        sums.sort_unstable();
        let frames: usize = self.bursts.iter().map(|(from, _)| from.len()).sum();
        clock.ns(sums[sums.len() / 2] as f64) / frames as f64
    }
}
