//! vhost-user, both ends: a front end shares a guest's rings over a Unix socket, a back end serves them.
//!
//! * [`message`]: the words.
//! * [`socket`]: framing, descriptors passed.
//! * [`listener`]: sockets in the file system; [`entrance`]: one that listens, in an epoll loop.
//! * [`session`]: the serving end, a state machine over a device.
//! * [`server`]: one device's place in the file system, session after session.
//! * [`frontend`]: the asking end, for load generators and tests.

pub mod entrance;
pub mod frontend;
pub mod listener;
pub mod message;
pub mod server;
pub mod session;
pub mod socket;
