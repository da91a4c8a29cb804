//! One line of the table: a ring, a driver's path, a direction, a size.

use std::fmt;

use anyhow::{Result, ensure};

use super::args::{Path, SelfLoopArgs};
use crate::args::{Direction, Feature, Features, Ring};
use crate::frame::Sizes;

/// The largest frame: what fits a standard buffer, and what DPDK's drivers take without being told otherwise.
pub const FRAME_BYTES_MAX: usize = 1518;
/// A driver with vector instructions receives nothing where there is room for fewer frames.
pub const VECTOR_FRAMES: usize = 8;

/// What is measured.
#[derive(Clone, Debug)]
pub struct Cell {
    /// Layout.
    pub ring: Ring,
    /// Negotiated: mergeable buffers, in order, both or neither.
    pub features: Features,
    /// The driver's.
    pub path: Path,
    /// Which way.
    pub direction: Direction,
    /// How long frames are.
    pub sizes: Sizes,
}

impl Cell {
    /// All that are asked for.
    ///
    /// # Errors
    /// An option asks for what cannot be.
    pub fn all(args: &SelfLoopArgs) -> Result<Vec<Cell>> {
        let rings = if args.ring.is_empty() { vec![Ring::Split, Ring::Packed] } else { args.ring.clone() };
        let directions = if args.direction.is_empty() { Direction::ALL.to_vec() } else { args.direction.clone() };
        let mixes = if args.features.is_empty() { mixes().to_vec() } else { args.features.clone() };
        let paths = if args.driver.is_empty() { vec![Path::Scalar, Path::Vectorised] } else { args.driver.clone() };
        ensure!(args.queue_size.is_power_of_two(), "--queue-size {}: a power of two is needed", args.queue_size);
        for mix in &mixes {
            let known = mix.0.iter().all(|feature| matches!(feature, Feature::MrgRxbuf | Feature::InOrder));
            ensure!(known, "--features: this driver can be told mrg_rxbuf and in_order, or none");
        }
        for sizes in &args.frame_bytes {
            ensure!(
                sizes.longest() <= FRAME_BYTES_MAX,
                "--frame-bytes {sizes}: 64 to {FRAME_BYTES_MAX}, or imix, are allowed here"
            );
        }
        let mut cells = Vec::new();
        for &ring in &rings {
            for (features, &path) in mixes.iter().flat_map(|mix| paths.iter().map(move |path| (mix, path))) {
                if !offers(ring, features, path, args.burst.into()) {
                    continue;
                }
                for &direction in &directions {
                    let cell = |&sizes| Cell { ring, features: features.clone(), path, direction, sizes };
                    cells.extend(args.frame_bytes.iter().map(cell));
                }
            }
        }
        ensure!(
            !cells.is_empty(),
            "--driver vectorised: the driver has that path for split with --features none, and for \
            packed with --features in_order, in bursts of {VECTOR_FRAMES} or more"
        );
        Ok(cells)
    }

    /// What `net_virtio_user` is told of it.
    pub fn arguments(&self) -> String {
        let flag = |on: bool| u8::from(on);
        format!(
            "packed_vq={},mrg_rxbuf={},in_order={},vectorized={}",
            flag(self.ring == Ring::Packed),
            flag(self.features.has(Feature::MrgRxbuf)),
            flag(self.features.has(Feature::InOrder)),
            flag(self.path == Path::Vectorised)
        )
    }

    /// A ring in words.
    pub fn ring_name(ring: Ring, features: &Features, path: Path) -> String {
        let features = match (features.has(Feature::MrgRxbuf), features.has(Feature::InOrder)) {
            (false, false) => "",
            (true, false) => " mrg_rxbuf",
            (false, true) => " in_order",
            (true, true) => " mrg_rxbuf,in_order",
        };
        let path = if path == Path::Vectorised { " vectorised" } else { "" };
        format!("{}{features}{path}", ring.name())
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ring = Self::ring_name(self.ring, &self.features, self.path);
        write!(f, "{ring} {} {}", self.direction.name(), self.sizes)
    }
}

/// With and without mergeable buffers, in order and not.
fn mixes() -> [Features; 4] {
    [vec![], vec![Feature::MrgRxbuf], vec![Feature::InOrder], vec![Feature::MrgRxbuf, Feature::InOrder]].map(Features)
}

/// Whether DPDK's driver has that path for such a ring.
fn offers(ring: Ring, mix: &Features, path: Path, burst: usize) -> bool {
    let in_order = mix.has(Feature::InOrder);
    path == Path::Scalar || burst >= VECTOR_FRAMES && !mix.has(Feature::MrgRxbuf) && in_order == (ring == Ring::Packed)
}
