//! What a function was, for whoever serves it next: one JSON file each, named by its VUID.
//!
//! A file is replaced as a whole or not at all, and believed only after every value in it has been checked. One that cannot be
//! believed is named, and costs its own function its state, nobody else's.

mod error;
mod folder;
mod record;
#[cfg(test)]
mod tests;

pub use error::{Fault, RecoveryError};
pub use folder::Folder;
pub use record::{DeviceType, FunctionType, Record};
