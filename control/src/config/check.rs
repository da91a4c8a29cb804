//! What keys and devices must not be together, checked once all of them are read.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Config, ConfigError, Mode, Port, Socket, Transport};
use crate::class::Class;
use crate::function::identity::PFS_MAX;

/// Clients of vfio-user come to their server.
const CLIENT_OF_VFIO_USER: (Mode, Transport) = (Mode::Client, Transport::VfioUser);
/// A board has so many.
const PORTS: usize = 2;

impl Config {
    /// Puts what was given under older names where it belongs now, and names what was left out.
    ///
    /// # Errors
    /// The same was given under both names.
    pub(super) fn settle(&mut self, path: &Path) -> Result<(), ConfigError> {
        let both = |older: &str, now: &str| {
            Err(ConfigError::conflict(
                path,
                format!("{older} is the older name of {now}: both are given, one is allowed"),
            ))
        };
        if let Some(mac) = self.pf_mac.take()
            && self.static_pf.mac_base.replace(mac).is_some()
        {
            return both("pf_mac", "static_pf.mac_base");
        }
        if let Some(pairs) = self.vf.qp_num.take()
            && self.vf.max_queue_pairs.replace(pairs).is_some()
        {
            return both("vf.qp_num", "vf.max_queue_pairs");
        }
        let mut devices: Vec<String> = self.ib_devices().into_iter().map(str::to_owned).collect();
        if self.is_lag {
            devices = vec![devices[0].clone(); PORTS];
        } else if self.single_port {
            devices.push(self.second_ib_device().to_owned());
        }
        for (index, uplink) in self.switch.uplinks.iter_mut().enumerate().filter(|(_, uplink)| uplink.ib_dev.is_empty())
        {
            uplink.ib_dev = devices.get(index).cloned().unwrap_or_else(|| format!("mlx5_{index}"));
        }
        Ok(())
    }

    /// Both ports are one, or there is only the first.
    fn check_ports(&self) -> Result<(), String> {
        let bond = self.ib_devices()[0];
        let uplinks = || self.switch.uplinks.iter();
        let members: Vec<_> =
            uplinks().filter(|uplink| uplink.ib_dev == bond).map(|uplink| uplink.wire.name()).collect();
        if self.is_lag && members.len() > PORTS {
            return Err(format!(
                "is_lag is 1, and {bond} has the uplinks {}: up to {PORTS} are allowed",
                members.join(", ")
            ));
        }
        let second = self.second_ib_device();
        if !self.single_port || second == bond {
            return Ok(());
        }
        if let Some(uplink) = uplinks().find(|uplink| uplink.ib_dev == second) {
            let name = uplink.wire.name();
            return Err(format!(
                "single_port is 1, and the uplink {name} is port 1's ({second}): there is only {bond}"
            ));
        }
        if self.ib_dev_for_static_pf == second {
            return Err(format!(
                "single_port is 1, and ib_dev_for_static_pf is port 1's ({second}): there is only {bond}"
            ));
        }
        Ok(())
    }

    pub(super) fn check_keys(&self, path: &Path) -> Result<(), ConfigError> {
        let refuse = |detail: String| Err(ConfigError::conflict(path, detail));
        if self.devices.len() > usize::from(PFS_MAX) {
            return refuse(format!("devices are {}: up to {PFS_MAX} static PFs are allowed", self.devices.len()));
        }
        if self.is_lag && self.single_port {
            return refuse("is_lag and single_port are both 1: at most one is allowed".into());
        }
        for (key, given) in [("ib_dev_p0", &self.ib_dev_p0), ("ib_dev_p1", &self.ib_dev_p1)] {
            if let (Some(port), Some(lag)) = (given, &self.ib_dev_lag) {
                return refuse(format!("{key} ({port}) and ib_dev_lag ({lag}) are both given: ports or LAG, not both"));
            }
        }
        if let Err(detail) = self.check_ports() {
            return refuse(detail);
        }
        if self.vf.mac_base.is_some() && self.vf.vfs_per_pf.is_none() {
            return refuse(
                "vf.mac_base is given without vf.vfs_per_pf: it needs 1 to 1008 addresses for each PF".into(),
            );
        }
        match (self.dpa_core_start, self.dpa_core_end) {
            (None, None) => {}
            (Some(start), None) => return refuse(format!("dpa_core_start ({start}) is given without dpa_core_end")),
            (None, Some(end)) => return refuse(format!("dpa_core_end ({end}) is given without dpa_core_start")),
            (Some(start), Some(end)) if start >= end => {
                return refuse(format!("dpa_core_start ({start}) is not below dpa_core_end ({end})"));
            }
            (Some(_), Some(_)) if !self.lcores.0.is_empty() => {
                return refuse("lcores and dpa_core_start are both given: they say the same, one is allowed".into());
            }
            (Some(_), Some(_)) => {}
        }
        for (class, key) in [(Class::StaticPf, "static_pf"), (Class::HotplugPf, "hotplug_pf"), (Class::Vf, "vf")] {
            let Socket { path: template, mode, transport, .. } = self.sockets.of(class);
            if (*mode, *transport) == CLIENT_OF_VFIO_USER {
                return refuse(format!("sockets.{key}: mode is client with transport vfio-user: server is allowed"));
            }
            if let Some(needed) = template.as_ref().and_then(|template| template.fault(class)) {
                return refuse(format!(
                    "sockets.{key}.path does not tell every {} apart: it needs {needed}",
                    class.name()
                ));
            }
        }
        Ok(())
    }

    pub(super) fn check_identities(&self, path: &Path) -> Result<(), ConfigError> {
        let mut seen = BTreeMap::new();
        let mut claim = |key, value: String, owner: &str| match seen.insert((key, value.clone()), owner.to_owned()) {
            None => Ok(()),
            Some(first) => Err(ConfigError::Twice { path: path.into(), key, value, first, second: owner.to_owned() }),
        };
        for device in &self.devices {
            if (device.mode, device.transport) == CLIENT_OF_VFIO_USER {
                let detail =
                    format!("device {:?}: mode is client with transport vfio-user: server is allowed", device.name);
                return Err(ConfigError::conflict(path, detail));
            }
            claim("name", device.name.clone(), &device.name)?;
            claim("socket", device.socket.display().to_string(), &device.name)?;
            claim("mac", device.mac().to_string(), &device.name)?;
            if let Port::Tap(tap) = &device.port {
                claim("netdev", tap.name.clone(), &device.name)?;
            }
        }
        for guest in &self.guests {
            claim("guest", guest.name.clone(), &guest.name)?;
            claim("qmp", guest.qmp.display().to_string(), &guest.name)?;
            for port in &guest.root_ports {
                claim("root port", format!("{} of {}", port, guest.name), &guest.name)?;
            }
        }
        for uplink in &self.switch.uplinks {
            let name = uplink.wire.name();
            claim("netdev", name.into(), "switch")?;
            if !self.is_lag || uplink.ib_dev != self.ib_devices()[0] {
                claim("ib_dev", uplink.ib_dev.clone(), name)?;
            }
        }
        Ok(())
    }
}
