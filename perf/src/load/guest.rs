//! A simulated guest: memory, and a lane for each of its queue pairs.

use std::sync::Arc;

use anyhow::{Context, Result};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Options, Ram};

use super::lane::{Lane, Traffic};
use crate::args::{Feature, Features, Ring};
use crate::frame::Addressing;

/// Where guest memory starts: not at 0, so that nothing works by accident.
const RAM_GPA: u64 = 1 << 30;
/// Frame bytes that a receive buffer has room for if frames may fill several: with the header 2 KiB.
const MERGED_BUFFER_BYTES: u32 = 2036;
/// The least that a buffer has room for otherwise.
const STANDARD_FRAME_BYTES: u32 = 1522;

/// What a guest is made with.
#[derive(Clone, Debug)]
pub struct GuestOptions {
    /// Layout of its queues.
    pub ring: Ring,
    /// Queue pairs.
    pub queues: u16,
    /// Descriptors of each queue.
    pub queue_size: u16,
    /// Negotiated.
    pub features: Features,
    /// What it sends, and expects.
    pub traffic: Arc<Traffic>,
}

impl GuestOptions {
    /// What there must be room for in a frame's buffer, in bytes.
    fn frame_bytes_max(&self) -> u32 {
        (self.traffic.longest_bytes() as u32).max(STANDARD_FRAME_BYTES)
    }

    /// Memory of such a guest, in bytes: two queues a pair, of areas, buffers and indirect tables, each rounded up generously.
    pub fn ram_bytes(&self) -> usize {
        const TABLE_BYTES: usize = 64 * 16;
        let size = usize::from(self.queue_size);
        let buffer_bytes = self.frame_bytes_max().max(MERGED_BUFFER_BYTES) as usize + 256;
        let tables = if self.features.has(Feature::Indirect) { size * TABLE_BYTES } else { 0 };
        let queue_bytes = size * (buffer_bytes + 32) + tables + 5 * 4096;
        2 * usize::from(self.queues) * queue_bytes
    }
}

/// A guest.
#[derive(Debug)]
pub struct Guest {
    /// Its memory.
    pub ram: Arc<Ram>,
    /// One for each queue pair.
    pub lanes: Vec<Lane>,
}

impl Guest {
    /// Makes guest `number`, which sends to guest `peer`.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(options: &GuestOptions, number: u16, peer: u16) -> Result<Self> {
        let mergeable = options.features.has(Feature::MrgRxbuf);
        let frame_bytes_max = options.frame_bytes_max();
        let indirect = options.features.has(Feature::Indirect);
        let nic_options = NicOptions {
            layout: match options.ring {
                Ring::Split => Layout::Split,
                Ring::Packed => Layout::Packed,
            },
            size: options.queue_size,
            queue: Options {
                event_idx: options.features.has(Feature::EventIdx),
                in_order: options.features.has(Feature::InOrder),
                indirect,
                tight: false,
            },
            mergeable,
            legacy: false,
            hash_report: false,
            frame_bytes_max,
            receive_bytes_max: mergeable.then_some(MERGED_BUFFER_BYTES),
            receive_buffers: options.queue_size,
            receive_cuts: vec![],
            // In a table: the header and the frame, each with a descriptor, as Linux does it.
            transmit_cuts: if indirect { vec![12] } else { vec![] },
        };
        let ram = Ram::with_huge_pages(options.ram_bytes(), RAM_GPA).context("guest memory")?;
        let ram = Arc::new(ram);
        let lanes = (0..options.queues)
            .map(|_| {
                let nic = Nic::new(&ram, nic_options.clone())?;
                Ok(Lane::new(nic, Arc::clone(&options.traffic), Addressing::between(number, peer)))
            })
            .collect::<Result<_>>()?;
        ram.populate().context("guest memory")?;
        Ok(Guest { ram, lanes })
    }

    /// Sends one frame, so that a switch learns where this guest is.
    ///
    /// # Errors
    /// The device broke the ring.
    pub fn announce(&mut self) -> Result<()> {
        self.lanes.first_mut().map_or(Ok(()), |lane| lane.announce().context("the guest's first frame"))
    }

    /// The frames that it sends again and again, if they are not our own.
    pub fn script(&self) -> Option<Arc<[Box<[u8]>]>> {
        match self.lanes.first().map(Lane::traffic) {
            Some(Traffic::Scripted(script)) => Some(Arc::clone(&script.frames)),
            _ => None,
        }
    }

    /// Frames that a receiveq has buffers for, however long they are.
    pub fn receive_frames_max(&self) -> u64 {
        self.lanes.iter().map(Lane::receive_frames_max).min().unwrap_or(0)
    }
}
