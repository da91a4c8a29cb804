//! The polling datapath: moves packets between virtqueues and SF queues.
//!
//! An [`Engine`] starts one worker an lcore. A device is a number of queue pairs, each with a [`port::Port`] to the wire; its
//! queues are attached and detached one by one. Workers own what they serve outright: control moves it to them in a command
//! and gets it back in a reply. Counters are read beside them, without asking.
//!
//! No sockets, no files, no logger, and no allocation on the packet's way: [`journey`] tells it from top to bottom.
//!
//! May use: rings.

pub mod announcement;
pub mod arch;
pub mod bench;
pub mod caller;
pub mod command;
pub mod counters;
pub mod dim;
pub mod doors;
mod engine;
pub mod filter;
pub mod frame;
pub mod hand;
mod idle;
pub mod journey;
pub mod latency;
pub mod meter;
pub mod moderation;
pub mod pair;
pub mod placement;
pub mod port;
pub mod roster;
mod shelf;
mod sync;
pub mod topology;
pub mod uplink;
mod wake;
pub mod window;
pub mod worker;

pub use engine::{
    DeviceConfig, DeviceId, Engine, EngineConfig, EngineError, LearnedAddress, Member, PAIRS_MAX, PortConfig,
    QueueCountsOf, REPLY_TIMEOUT, UplinkConfig, ViolationEvent, allowed_lcores,
};
pub use engine::{LcoreLoad, LoadReport};
pub use idle::IdlePolicy;
