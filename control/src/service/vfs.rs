//! VFs as PFs' drivers want them: a driver writes a register, and has them, or has them no more, soon.

use std::time::{Duration, Instant};

use super::Service;
use crate::refusal::Refusal;
use crate::virtio_pci::Function;

/// After a PF's driver has had its will, others have theirs this much later at the earliest.
const PAUSE: Duration = Duration::from_millis(100);
/// The part of this thread's time that drivers have for VFs, one of so many.
const SHARE: u32 = 10;

impl Service {
    /// Makes or takes away the VFs of one PF whose driver wants it so, if it is time. Not to be called in the middle of a command.
    pub fn grant_wish(&mut self) {
        let began = Instant::now();
        if began < self.wishes_at {
            return;
        }
        let Some(key) = self.wishes.pop_front() else { return };
        let Some(count) = self.carried(key).and_then(Function::take_vfs_wanted) else { return };
        let span = self.entries[key].function.identity.span().entered();
        if let Err(refusal) = self.remake_vfs(key, count) {
            tracing::warn!("the driver wants {count} VFs: {refusal}");
            if let Some(live) = &mut self.entries[key].live {
                live.endpoint.count("vfs");
            }
        }
        self.show_vfs(key);
        drop(span);
        self.wishes_at = Instant::now() + PAUSE.max(began.elapsed() * (SHARE - 1));
    }

    fn remake_vfs(&mut self, key: usize, count: u16) -> Result<(), Refusal> {
        self.change_vfs(key, 0)?;
        if count > 0 { self.change_vfs(key, count) } else { Ok(()) }
    }

    /// A PF shows its driver how many VFs it has.
    pub(super) fn show_vfs(&mut self, key: usize) {
        let count = self.vfs_of(key).len() as u16;
        if let Some(function) = self.carried(key) {
            function.show_vfs(count);
        }
    }

    /// What a vfio-user client carries, or is to carry.
    pub(super) fn carried(&mut self, key: usize) -> Option<&mut Function> {
        self.entries.get_mut(key)?.live.as_mut()?.endpoint.function()
    }
}
