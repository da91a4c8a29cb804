//! vfio-user, the serving end: a client, such as QEMU, shows a guest a PCI function whose every register is ours.
//!
//! * [`message`]: the words.

pub mod message;
