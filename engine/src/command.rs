//! All that can be asked of a worker. Every command is answered, once.

use std::sync::Arc;

use virtnet_rings::{Notifier, Violation};

use crate::announcement::Announcement;
use crate::filter::Filter;
use crate::frame::hash::Hasher;
use crate::moderation::Setting;
use crate::pair::{Attachment, Pair, Side};
use crate::port::switch::fdb::PortId;
use crate::port::switch::{Link, Place, PortMap};
use crate::uplink::Uplink;
use crate::worker::Desk;

/// A question or an order.
#[derive(Debug)]
pub enum Command {
    /// Takes a pair; answered by [`Reply::Slot`].
    AddPair(Box<Pair>),
    /// Gives a pair without queues back; answered by [`Reply::Pair`].
    RemovePair(u16),
    /// Takes an uplink of the switch; answered by [`Reply::Slot`].
    AddUplink(Box<Uplink>),
    /// Gives it back, when the switch has nothing of it; answered by [`Reply::Uplink`].
    RemoveUplink(u16),
    /// Says whether the interface of the uplink there has a link; answered by [`Reply::Done`], or by [`Reply::Refused`] where there
    /// is none.
    SetLink(u16, bool),
    /// Starts a queue; answered by [`Reply::Done`] or [`Reply::Refused`].
    Attach(u16, Attachment),
    /// Stops a queue; answered by [`Reply::Detached`], when nothing of it is out.
    Detach(u16, Side),
    /// Enables or disables a queue; answered by [`Reply::Done`].
    SetEnabled(u16, Side, bool),
    /// Changes a pair's receive filter; answered by [`Reply::Done`].
    SetFilter(u16, Option<Arc<Filter>>),
    /// Changes which offloads frames for a receiveq may come with; answered by [`Reply::Done`].
    SetOffloads(u16, u64),
    /// Changes what hash of frames is reported to a pair's guest; answered by [`Reply::Done`].
    SetHasher(u16, Option<Hasher>),
    /// Changes a queue's used buffer notifications; answered by [`Reply::Done`].
    SetCall(u16, Side, Notifier),
    /// Changes how a queue's used buffer notifications are held back, until it is changed again; answered by [`Reply::Done`].
    Moderate(u16, Side, Setting),
    /// Sends an announcement ([`crate::announcement`]) out of the interface there; answered by [`Reply::Done`], or by
    /// [`Reply::Refused`] where there is none.
    Announce(u16, Announcement),
    /// Gives a pair or an uplink back as it is, queues and all, when nothing of it is out; answered by [`Reply::Pair`] or
    /// [`Reply::Uplink`].
    Depart(u16),
    /// Keeps frames for a place, whose pair will depart; answered by [`Reply::Done`], or by [`Reply::Refused`] where others are
    /// kept already.
    Hold(Place),
    /// Sends what was kept to the pair's new place, and a port's frames as it says from now on; answered by [`Reply::Done`],
    /// when nothing is kept any more.
    Lead(PortMap, Place),
    /// Makes another worker known; answered by [`Reply::Done`].
    Connect(u16, Box<Link>, Arc<Desk>),
    /// Forgets it; answered by [`Reply::Done`], or by [`Reply::Refused`] where it has frames of this one.
    Disconnect(u16),
    /// Makes a port of the switch known; answered by [`Reply::Done`].
    SetPort(PortMap),
    /// Makes it unknown; answered by [`Reply::Done`].
    ForgetPort(PortId),
    /// Ends the worker when all slots are empty; answered by [`Reply::Done`].
    Stop,
}

/// An answer.
#[derive(Debug)]
pub enum Reply {
    /// It is so.
    Done,
    /// It was put there.
    Slot(u16),
    /// The pair, or nothing where there was none.
    Pair(Option<Box<Pair>>),
    /// The uplink, or nothing where there was none.
    Uplink(Option<Box<Uplink>>),
    /// The queue, or nothing where there was none.
    Detached(Option<Attachment>),
    /// It cannot be done; what came with the command comes back.
    Refused(Option<Attachment>),
}

/// What a worker says of its own accord.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Which of its slots.
    pub slot: u16,
    /// Which queue.
    pub side: Side,
    /// What the driver did.
    pub violation: Violation,
}
