//! Hotplug PFs in running guests.

use std::path::PathBuf;

use super::Service;
use crate::qemu::{self, MonitorError, Place};
use crate::refusal::{Code, Refusal};

impl Service {
    /// A root port of a guest's that is free.
    ///
    /// # Errors
    /// There is no such guest, or no root port is free.
    pub(super) fn place(&self, wanted: Option<&str>) -> Result<Option<Place>, Refusal> {
        let guests = &self.host.config.guests;
        let guest = match (wanted, guests.as_slice()) {
            (None, [only]) => only,
            (None, _) => return Ok(None),
            (Some(name), _) => guests.iter().find(|guest| guest.name == name).ok_or_else(|| {
                let known: Vec<_> = guests.iter().map(|guest| guest.name.as_str()).collect();
                Code::InvalidArgument.because(format!("guest is {name:.64}; the configuration has {known:?}"))
            })?,
        };
        let place = |port: &String| Place { guest: guest.name.clone(), root_port: port.clone() };
        let is_free =
            |place: &Place| !self.entries.iter().any(|(_, entry)| entry.function.place.as_ref() == Some(place));
        let free = guest.root_ports.iter().map(place).find(is_free);
        let refused = || {
            let (name, ports) = (&guest.name, guest.root_ports.join(", "));
            Code::Hotplug.because(format!("guest {name} has a function at each of its root ports, {ports}"))
        };
        free.map(Some).ok_or_else(refused)
    }

    /// Has the guest that a function is for take it. Front ends are served meanwhile, the function's among them.
    ///
    /// # Errors
    /// [`Code::Hotplug`]: the guest does not have it.
    pub(super) fn plug_into_guest(&mut self, key: usize) -> Result<(), Refusal> {
        let Some((Place { guest, root_port }, qmp)) = self.place_of(key) else { return Ok(()) };
        let function = self.entries[key].function.clone();
        let plugged = self.beside(|| qemu::plug(&qmp, &function, &root_port));
        plugged.map_err(|error| Code::Hotplug.because(format!("guest {guest}: {error}")))
    }

    /// Has the guest that a function is in release it. A guest that is not running has nothing to release.
    ///
    /// # Errors
    /// [`Code::UnplugNotReady`]: the guest has it still.
    pub(super) fn unplug_from_guest(&mut self, key: usize) -> Result<(), Refusal> {
        let Some((Place { guest, .. }, qmp)) = self.place_of(key) else { return Ok(()) };
        let function = self.entries[key].function.clone();
        match self.beside(|| qemu::unplug(&qmp, &function)) {
            Ok(()) => Ok(()),
            Err(error @ (MonitorError::Nobody(_) | MonitorError::Gone(_))) => {
                tracing::warn!("guest {guest}: {error}: {} has gone with it", function.identity.id);
                Ok(())
            }
            Err(error) => Err(Code::UnplugNotReady.because(format!("guest {guest}: {error}"))),
        }
    }

    /// Where a function is plugged, and the monitor of that guest.
    fn place_of(&self, key: usize) -> Option<(Place, PathBuf)> {
        let place = self.entries[key].function.place.clone()?;
        let guest = self.host.config.guests.iter().find(|guest| guest.name == place.guest)?;
        let qmp = self.host.run_dir.join(&guest.qmp);
        Some((place, qmp))
    }
}
