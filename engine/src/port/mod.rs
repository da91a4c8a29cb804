//! How bits reach the wire.

pub mod switch;
