//! What PFs' drivers ask of VFs reaches these, whether or not anybody is connected to them.

use super::{Entry, Live, Service, served};
use crate::device::Served;
use crate::function::Id;
use crate::virtio_pci::Function;
use crate::virtio_pci::admin::{Answer, Command, Group, Members, Refusal};

impl Service {
    /// Serves a PF's administration virtqueue, after a kick.
    pub(super) fn serve_adminq(&mut self, key: usize) {
        let Some(live) = self.entries[key].live.as_mut().filter(|live| live.device.admin.is_running()) else { return };
        let mut admin = std::mem::take(&mut live.device.admin);
        let outcome = admin.serve(|group, command| self.administer(key, group, command));
        let Some(Live { device, endpoint, .. }) = &mut self.entries[key].live else { return };
        device.admin = admin;
        if let Err(violation) = outcome {
            tracing::warn!(device = device.name(), "administration virtqueue: {violation}");
            let failed = device.adminq_index();
            served(device, &mut self.engine, &self.epoll, key).forget_adminq_kick();
            if let Some((session, failed)) = endpoint.session().zip(failed) {
                session.ring_failed(failed);
            }
        }
    }

    fn administer(&mut self, key: usize, group: &mut Group, command: &Command) -> Answer {
        let count = self.carried(key).and_then(|function| function.members());
        let mut found = self.member(key, Group::member_of(command).unwrap_or(0));
        let found = found.as_mut().map(|(function, device)| (&mut **function, device)).map_err(|refusal| *refusal);
        group.obey(command, Members { count, found })
    }

    /// Doorbells that a PF has for VFs of legacy drivers were rung.
    pub(super) fn ring_members(&mut self, key: usize, rung: Vec<(u16, u16)>) {
        for (member, queue) in rung {
            let Ok((function, mut device)) = self.member(key, member.into()) else { continue };
            let Err(refusal) = function.ring_legacy(queue.into(), &mut device) else { continue };
            // It is the PF's driver that has written it.
            if let Some(live) = &mut self.entries[key].live {
                live.endpoint.count(refusal.name());
            }
        }
    }

    /// A VF of a PF by its number from 1 on, and its device.
    fn member(&mut self, key: usize, member: u64) -> Result<(&mut Function, Served<'_>), Refusal> {
        let Id::Pf(pf) = self.entries[key].function.identity.id else { return Err(Refusal::Member) };
        let vf = u16::try_from(member).ok().and_then(|member| member.checked_sub(1)).ok_or(Refusal::Member)?;
        let key = self.key_of(Id::Vf { pf, vf }).ok_or(Refusal::Again)?;
        match &mut self.entries[key] {
            // It is being changed.
            Entry { is_held: true, .. } => Err(Refusal::Again),
            Entry { live: Some(Live { device, endpoint, .. }), .. } => {
                let function = endpoint.function().ok_or(Refusal::Member)?;
                Ok((function, served(device, &mut self.engine, &self.epoll, key)))
            }
            Entry { live: None, .. } => Err(Refusal::Member),
        }
    }
}
