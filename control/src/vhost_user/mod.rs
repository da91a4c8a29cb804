//! vhost-user, both ends: a front end shares a guest's rings over a Unix socket, a back end serves them.
//!
//! * [`message`]: the words.
//! * [`socket`]: connections of this protocol.
//! * [`session`]: the serving end, a state machine over a device.
//! * [`frontend`]: the asking end, for load generators and tests.

pub mod frontend;
pub mod message;
pub mod session;
pub mod socket;
