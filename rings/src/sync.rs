//! The atomics that control and workers share, named once: under `--cfg loom` the model checker stands in. Memory shared with a
//! guest is no business of this file.

#[cfg(not(loom))]
pub(crate) use std::sync::{
    Arc, Mutex, Weak,
    atomic::{AtomicU64, Ordering, fence},
};

#[cfg(loom)]
pub(crate) use {
    loom::sync::atomic::{AtomicU64, Ordering, fence},
    std::sync::{Arc, Mutex, Weak},
};
