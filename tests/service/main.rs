//! The service as an operator has it: `virtio-net-controller` as a process, `virtnet` as another, and front ends at the sockets.
//! Every test has a run folder of its own. Nobody needs to be root.

mod crashes;
mod debugging;
mod documented;
#[allow(dead_code)] // what its own tests need of a daemon
#[path = "../vhost_user/house.rs"]
mod front_end;
mod functions;
mod limits;
mod moderation;
mod netdevs;
mod peers;
mod pools;
#[allow(dead_code)] // what other programs are asked
#[path = "../clients/process.rs"]
mod process;
mod recovery;
mod service;
mod settings;
mod sriov;
mod uplinks;
