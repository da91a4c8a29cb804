//! virtnet-engine

pub mod frame;
pub mod port;
mod sync;
