//! Frames in DPDK's buffers: made, and known again. Neither is measured.

use std::collections::VecDeque;

use anyhow::{Result, ensure};
use dpdk_sys::{Burst, Eal, Pool, PoolOptions};
use virtnet_engine::port::source::SourceConfig;

use super::cell::{FRAME_BYTES_MAX, VECTOR_FRAMES};
use crate::frame::{Addressing, Checker, FRAME_BYTES_MIN, Integrity, STAMP_OFFSET, Sizes, template};

/// Buffers that an lcore keeps at hand, of each pool.
const CACHE: u32 = 256;
/// Bytes of a buffer, as everybody has them.
const ROOM_BYTES: u16 = 2048;
/// Who sends, and to whom.
pub fn addressing() -> Addressing {
    Addressing::between(0, 1)
}

fn frame(len_bytes: usize) -> Vec<u8> {
    // Longer ones begin and go on as shorter ones do, behind their marks: one buffer serves all lengths.
    template(len_bytes, 0, 0, addressing())
}

/// A pool for frames that are received.
///
/// # Errors
/// There is no memory.
pub fn empty_pool(eal: &Eal, name: &str, buffers: u32) -> Result<Pool> {
    Ok(Pool::new(eal, name, PoolOptions { buffers, cache: CACHE, room_bytes: ROOM_BYTES })?)
}

/// A pool whose buffers have the longest frame in them. Nobody but a [`Maker`] writes into them, or what it
/// overwrites.
///
/// # Errors
/// There is no memory.
pub fn full_pool(eal: &Eal, name: &str, buffers: u32) -> Result<Pool> {
    let pool = empty_pool(eal, name, buffers)?;
    let content = frame(FRAME_BYTES_MAX);
    let mut all = Burst::new(buffers as usize);
    ensure!(all.fill(pool, buffers as usize), "pool {name} has fewer than its {buffers} buffers");
    for index in 0..all.len() {
        all.set_len_bytes(index, content.len() as u16)?;
        all.write(index, 0, &content)?;
    }
    Ok(pool)
}

/// What the receiver says when it comes: a frame to everybody.
///
/// # Errors
/// The pool is empty.
pub fn announcement(full: Pool) -> Result<Burst> {
    let from_receiver = Addressing { destination: [0xff; 6], ..Addressing::between(1, 0) };
    let mut burst = Burst::new(VECTOR_FRAMES); // it is received in this, too
    ensure!(burst.fill(full, 1), "no buffers are left");
    burst.set_len_bytes(0, FRAME_BYTES_MIN as u16)?;
    burst.write(0, 0, &template(FRAME_BYTES_MIN, 0, 0, from_receiver))?;
    Ok(burst)
}

/// What our source port sends: the same.
pub fn source(sizes: Sizes) -> SourceConfig {
    SourceConfig {
        templates: (0..sizes.period()).map(|index| frame(sizes.at(index))).collect(),
        rate_fps: None,
        stamp_offset: Some(STAMP_OFFSET as u16),
        count: None,
    }
}

/// Makes bursts of frames, numbered.
#[derive(Debug)]
pub struct Maker {
    pool: Pool,
    burst: usize,
    /// By place in the pattern of sizes: all of a frame that depends on its size.
    heads: Vec<(u16, [u8; FRAME_BYTES_MIN])>,
    /// The one in front is sent next, the others wait, unnumbered.
    bursts: VecDeque<Burst>,
    made: u64,
}

impl Maker {
    /// From buffers of a full pool, so many bursts in turn.
    ///
    /// # Errors
    /// The pool is too small.
    pub fn new(pool: Pool, sizes: Sizes, burst: usize, bursts_in_turn: usize) -> Result<Self> {
        let head = |index| {
            let len_bytes = sizes.at(index);
            let mut head = [0; FRAME_BYTES_MIN];
            head.copy_from_slice(&frame(len_bytes)[..FRAME_BYTES_MIN]);
            (len_bytes as u16, head)
        };
        let heads = (0..sizes.period()).map(head).collect();
        let mut maker = Maker { pool, burst, heads, bursts: VecDeque::new(), made: 0 };
        // The one in front has nothing in it, as if it had been sent.
        maker.bursts.push_back(Burst::new(burst));
        for _ in 1..bursts_in_turn {
            maker.bursts.push_back(Burst::new(burst));
            maker.take_buffers(maker.bursts.len() - 1)?;
        }
        Ok(maker)
    }

    /// Makes the next burst ready, if the last one has gone.
    ///
    /// # Errors
    /// The pool is empty: frames have gone and not come back.
    pub fn prepare(&mut self) -> Result<()> {
        if self.bursts[0].is_empty() {
            self.take_buffers(0)?;
            self.bursts.rotate_left(1);
            self.number()?;
        }
        Ok(())
    }

    /// The burst to be sent.
    #[inline]
    pub fn front(&mut self) -> &mut Burst {
        &mut self.bursts[0]
    }

    /// Frames that were sent, and their bytes.
    pub fn sent(&self) -> (u64, u64) {
        let frames = self.made - self.bursts[0].len() as u64;
        let period = self.heads.len() as u64;
        let bytes = |heads: &[(u16, [u8; FRAME_BYTES_MIN])]| heads.iter().map(|head| u64::from(head.0)).sum::<u64>();
        (frames, frames / period * bytes(&self.heads) + bytes(&self.heads[..(frames % period) as usize]))
    }

    fn take_buffers(&mut self, index: usize) -> Result<()> {
        let filled = self.bursts[index].fill(self.pool, self.burst);
        ensure!(filled, "no buffers are left: frames that were sent do not come back");
        Ok(())
    }

    fn number(&mut self) -> Result<()> {
        let burst = &mut self.bursts[0];
        for index in 0..burst.len() {
            let (len_bytes, mut head) = self.heads[(self.made % self.heads.len() as u64) as usize];
            head[STAMP_OFFSET..STAMP_OFFSET + 8].copy_from_slice(&self.made.to_le_bytes());
            burst.set_len_bytes(index, len_bytes)?;
            burst.write(index, 0, &head)?;
            self.made += 1;
        }
        Ok(())
    }
}

/// Checks what arrives, and frees it.
#[derive(Debug)]
pub struct Inspector {
    checker: Checker,
    arrived: Burst,
}

impl Inspector {
    /// Of one flow.
    pub fn new(burst: usize) -> Self {
        Inspector { checker: Checker::new(1), arrived: Burst::new(burst) }
    }

    /// Whether every byte of every frame is checked from now on, or those of a sample.
    pub fn check_all(&mut self, all: bool) {
        self.checker.check_all(all);
    }

    /// Where frames are received into.
    pub fn arrived(&mut self) -> &mut Burst {
        &mut self.arrived
    }

    /// Looks at all that has arrived.
    ///
    /// # Errors
    /// A frame is not as it was sent, or not one that is due.
    pub fn inspect(&mut self) -> Result<()> {
        for index in 0..self.arrived.len() {
            let read = |offset: usize, into: &mut [u8]| {
                // What is not there reads as zeroes, which are no frame's marks.
                let _ = self.arrived.read(index, offset, into);
            };
            self.checker.check(self.arrived.len_bytes(index), None, read);
        }
        self.arrived.free();
        let Integrity { foreign, corrupted, reordered, duplicated, .. } = self.checker.counts();
        ensure!(
            foreign + corrupted + reordered + duplicated == 0,
            "frames are not as they were sent: {foreign} foreign, {corrupted} corrupted, {reordered} reordered, {duplicated} duplicated"
        );
        Ok(())
    }

    /// What has arrived so far.
    pub fn counts(&self) -> Integrity {
        self.checker.counts()
    }

    /// Frames that did not arrive and were sent before one that did.
    pub fn missing(&self) -> u64 {
        self.checker.missing(0)
    }
}
