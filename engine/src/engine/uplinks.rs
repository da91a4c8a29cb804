//! Uplinks of the switch: they come, they lose their links and get them back.

use super::{DeviceId, Engine, EngineError, QueueCountsOf};
use crate::command::Command;
use crate::uplink::Uplink;
use crate::uplink::wire::{LinkState, WireConfig};

/// A way out of the switch.
#[derive(Clone, Debug)]
pub struct UplinkConfig {
    /// The interface; several are one bond.
    pub members: Vec<WireConfig>,
    /// Queues of each, 1 to 128 in all; only TAPs have more than one.
    pub queues: u16,
    /// Which workers serve them, in turn; empty is whichever has least to do.
    pub workers: Vec<usize>,
}

/// An interface of an uplink, as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What it had to say when it was last asked.
    pub link: LinkState,
    /// What its queues have done: those to the interface have even indices.
    pub queues: Vec<QueueCountsOf>,
}

impl Engine {
    /// Connects interfaces of the host to the switch, as one port. Its counters are those of a device: what went out to the
    /// interfaces has even indices, what came in odd ones, those of one interface after those of another.
    /// [`Self::remove_device`] removes it.
    ///
    /// # Errors
    /// Whatever its configuration, an interface or a worker objects to; nothing is left of it then.
    pub fn add_uplink(&mut self, config: UplinkConfig) -> Result<DeviceId, EngineError> {
        let bonded = config.members.len() > 1;
        self.check_placement(config.queues.saturating_mul(config.members.len() as u16), &config.workers)?;
        let port = self.free_port()?;
        let (mut wires, mut members) = (Vec::new(), Vec::new());
        for member in &config.members {
            let (queues, probe) = member.open(config.queues)?;
            wires.extend(queues);
            members.push((probe, LinkState::Up));
        }
        let seats = wires.into_iter().map(|wire| {
            move |to_wire, from_wire| Command::AddUplink(Box::new(Uplink::new(wire, port, bonded, from_wire, to_wire)))
        });
        self.seat(members, Some(port), seats, &config.workers)
    }

    /// Looks at the links of all uplinks. Who has lost its own is passed over, and its frames leave by the other members of its
    /// bond; those for an uplink without any link are dropped and counted. Returns which have changed, by number of the member.
    ///
    /// # Errors
    /// [`EngineError::Silent`].
    pub fn look_at_links(&mut self) -> Result<Vec<(DeviceId, usize, LinkState)>, EngineError> {
        let mut changes = Vec::new();
        for (&id, device) in &mut self.devices {
            for (number, (probe, last)) in device.members.iter_mut().enumerate() {
                let link = probe.look();
                if std::mem::replace(last, link) != link {
                    changes.push((id, number, link));
                }
            }
        }
        for &(id, number, link) in &changes {
            self.set_link(id, number, link == LinkState::Up)?;
        }
        Ok(changes)
    }

    /// First nobody sends there any more, or first it takes what is sent.
    fn set_link(&mut self, id: DeviceId, number: usize, has_link: bool) -> Result<(), EngineError> {
        let device = self.devices.get_mut(&id).ok_or(EngineError::NoDevice)?;
        let queues = device.places.len() / device.members.len();
        let of_member = number * queues..(number + 1) * queues;
        of_member.clone().for_each(|queue| device.attached[2 * queue] = Some(has_link));
        let places = device.places[of_member].to_vec();
        let map = device.port_map();
        let tell_places = |engine: &mut Self| {
            let tell =
                |place: &super::Place| engine.ask(place.worker, Command::SetLink(place.slot, has_link)).map(drop);
            places.iter().try_for_each(tell)
        };
        if has_link {
            tell_places(self)?;
        }
        map.map_or(Ok(()), |map| self.tell_port(map))?;
        if has_link { Ok(()) } else { tell_places(self) }
    }

    /// The interfaces of an uplink, in the order of its configuration. Asks no worker.
    ///
    /// # Errors
    /// [`EngineError::NoDevice`].
    pub fn members(&mut self, id: DeviceId) -> Result<Vec<Member>, EngineError> {
        let counters = self.counters(id)?;
        let members = &self.device(id)?.members;
        let each = counters.chunks((counters.len() / members.len().max(1)).max(1));
        Ok(members
            .iter()
            .zip(each)
            .map(|((_, link), queues)| Member { link: *link, queues: queues.to_vec() })
            .collect())
    }
}
