//! Numbers that the VIRTIO specification prints, with its own letters.
//!
//! The edition is VIRTIO 1.3; comments elsewhere cite it by section title, because titles outlive numbers.

pub mod net;
pub mod status;
pub mod virtq;
