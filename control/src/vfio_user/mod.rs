//! vfio-user, the serving end: a client, such as QEMU, shows a guest a PCI function whose every register is ours.
//!
//! * [`message`]: the words.
//! * [`session`]: one connection, a state machine over a function and its device.

pub mod message;
pub mod session;
