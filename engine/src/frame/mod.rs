//! Frames: what rides in a chain.

pub mod steer;
