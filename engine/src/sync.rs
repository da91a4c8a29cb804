//! The atomics that our own threads share, named once.
//!
//! Lock-free protocols of this crate take them from here and from nowhere else, so that under `--cfg loom` the model
//! checker stands in and explores every interleaving. Memory shared with a guest is not ours and is no business of
//! this file.

#[cfg(not(loom))]
pub(crate) use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
    thread::yield_now,
};

#[cfg(loom)]
pub(crate) use loom::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
    thread::yield_now,
};
