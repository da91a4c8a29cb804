//! One line of the table to be: what is measured, with everything decided.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use virtnet_engine::port::pcap::Capture;
use virtnet_rings::spec::virtq::{VIRTIO_F_RING_PACKED, VIRTIO_F_VERSION_1};

use crate::args::{Direction, Features, Injection, LoadArgs, Ring};
use crate::frame::{Addressing, FRAME_BYTES_MAX, Sizes};
use crate::lcore::Division;
use crate::load::{GuestOptions, Script, Timetable, Traffic};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Layout.
    pub ring: Ring,
    /// Direction.
    pub direction: Direction,
    /// Frames.
    pub traffic: Arc<Traffic>,
    /// Queue pairs.
    pub queues: u16,
    /// Descriptors of a queue.
    pub queue_size: u16,
    /// Frames sent at a time.
    pub burst: u16,
    /// Features that change the rings.
    pub features: Features,
    /// The number of its first guest: no two on one switch have the same.
    pub first_guest: u16,
    /// Who runs where.
    pub division: Division,
    /// Frames a second; `None`: as many as go.
    pub rate_pps: Option<f64>,
    /// When the frames of a capture are due, if that is not at a rate; `rate_pps` is what it comes to.
    pub timetable: Option<Arc<Timetable>>,
    /// How long a frame may wait for room before it is given up.
    pub patience: Duration,
    /// How long is measured.
    pub length: Duration,
    /// Before that, not measured.
    pub warm_up: Duration,
    /// Guest and engine on one thread.
    pub one_core: bool,
    /// Only to see that it works.
    pub smoke: bool,
    /// A fault to put in.
    pub inject: Option<Injection>,
}

impl Plan {
    /// Plans for every combination of layout, direction and frame size, in the order of the table.
    ///
    /// # Errors
    /// A combination that cannot be.
    pub fn all(
        load: &LoadArgs,
        directions: &[Direction],
        division: &Division,
        seconds: f64,
        rate_pps: Option<f64>,
    ) -> Result<Vec<Plan>> {
        const BOTH: [Ring; 2] = [Ring::Split, Ring::Packed];
        let rings = if load.ring.is_empty() { &BOTH[..] } else { &load.ring };
        let mut plans = Vec::new();
        for &ring in rings {
            ensure!(
                ring == Ring::Packed || load.queue.queue_size.is_power_of_two(),
                "--queue-size {}: a split queue has a power of two",
                load.queue.queue_size
            );
            for &direction in directions {
                for &sizes in &load.frame_bytes {
                    plans.push(Plan::new(load, ring, direction, sizes, division, seconds, rate_pps));
                }
            }
        }
        Ok(plans)
    }

    fn new(
        load: &LoadArgs,
        ring: Ring,
        direction: Direction,
        sizes: Sizes,
        division: &Division,
        seconds: f64,
        rate_pps: Option<f64>,
    ) -> Plan {
        const SMOKE: Duration = Duration::from_millis(30);
        let length = if load.smoke { SMOKE } else { Duration::from_secs_f64(seconds) };
        Plan {
            ring,
            direction,
            traffic: Arc::new(Traffic::Stamped(sizes)),
            queues: load.queues,
            queue_size: load.queue.queue_size,
            burst: load.queue.burst,
            features: load.queue.features.clone(),
            first_guest: 0,
            division: division.clone(),
            rate_pps,
            timetable: None,
            // An open loop waits for ever: that is what its latency tells.
            patience: Duration::MAX,
            length,
            warm_up: if load.smoke { SMOKE / 10 } else { (length / 10).min(Duration::from_millis(200)) },
            one_core: false,
            smoke: load.smoke,
            inject: None,
        }
    }

    /// Has the guests send the frames of a capture. On their way from one guest to another their Ethernet addresses are the
    /// guests'; everywhere else they are as captured.
    ///
    /// # Errors
    /// A frame that does not fit, or several queue pairs, whose frames could not be told apart.
    pub fn replay(&mut self, path: &Path, capture: &Arc<Capture>) -> Result<()> {
        ensure!(
            self.queues == 1,
            "--pcap with --queues {}: frames of a capture are known by their order, in one queue",
            self.queues
        );
        let mut frames: Vec<Box<[u8]>> = capture.frames().map(Vec::into_boxed_slice).collect();
        for (number, frame) in frames.iter_mut().enumerate() {
            ensure!(
                frame.len() <= FRAME_BYTES_MAX,
                "{}: frame {} has {} bytes; up to {FRAME_BYTES_MAX} can be sent",
                path.display(),
                number + 1,
                frame.len()
            );
            if self.direction == Direction::GuestToGuest {
                let Addressing { source, destination } = Addressing::between(self.first_guest, self.first_guest + 1);
                frame[..6].copy_from_slice(&destination);
                frame[6..12].copy_from_slice(&source);
            }
        }
        let script = Script { frames: frames.into(), capture: Arc::clone(capture), path: path.to_owned() };
        self.traffic = Arc::new(Traffic::Scripted(script));
        Ok(())
    }

    /// How many guests it takes.
    pub fn guests(&self) -> u16 {
        if self.direction == Direction::GuestToGuest { 2 } else { 1 }
    }

    /// Memory of its guests, in bytes.
    pub fn guest_memory_bytes(&self) -> usize {
        self.guest_options().ram_bytes() * usize::from(self.guests())
    }

    /// What its guests are made with.
    pub fn guest_options(&self) -> GuestOptions {
        GuestOptions {
            ring: self.ring,
            queues: self.queues,
            queue_size: self.queue_size,
            features: self.features.clone(),
            traffic: Arc::clone(&self.traffic),
        }
    }

    /// Bits that guest and device agree on.
    pub fn feature_bits(&self) -> u64 {
        let packed = self.ring == Ring::Packed;
        let always = 1 << VIRTIO_F_VERSION_1 | u64::from(packed) << VIRTIO_F_RING_PACKED;
        self.features.0.iter().fold(always, |bits, feature| bits | feature.bit())
    }

    /// What the bits among those of [`Self::feature_bits`] are called.
    pub fn names_of(&self, bits: u64) -> String {
        let mut names = Vec::new();
        for feature in self.features.0.iter().filter(|feature| bits & feature.bit() != 0) {
            names.extend(feature.to_possible_value().map(|value| value.get_name().to_owned()));
        }
        for (bit, name) in [(VIRTIO_F_VERSION_1, "version_1"), (VIRTIO_F_RING_PACKED, "packed rings")] {
            if bits & 1 << bit != 0 {
                names.push(name.to_owned());
            }
        }
        names.join(", ")
    }

    /// The frame sizes, if the frames are ours.
    pub fn sizes(&self) -> Option<Sizes> {
        match &*self.traffic {
            Traffic::Stamped(sizes) => Some(*sizes),
            Traffic::Scripted(_) => None,
        }
    }

    /// The capture whose frames are sent.
    pub fn pcap(&self) -> Option<&Path> {
        match &*self.traffic {
            Traffic::Stamped(_) => None,
            Traffic::Scripted(script) => Some(&script.path),
        }
    }

    /// For messages and the progress bar.
    pub fn title(&self) -> String {
        let frames = self.sizes().map_or("capture".to_owned(), |sizes| sizes.to_string());
        format!("{} {} {frames}", self.ring.name(), self.direction.name())
    }
}
