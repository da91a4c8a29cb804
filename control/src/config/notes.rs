//! What was asked for and is not done.

use super::{Config, SfPort, Wire};
use crate::class::Class;
use crate::device::features::SUPPORTED;

impl Config {
    /// A sentence for each key whose value asks for what this version does not do, or for what the product does not do.
    pub fn notes(&self) -> Vec<String> {
        let lag_alone = self.ib_dev_lag.is_some() && !self.is_lag;
        let ahead = self.sf_pool_percent > 0;
        let taps = Class::ALL.iter().any(|&class| matches!(self.sf_port.of(class), SfPort::Tap | SfPort::TapOffload));
        let thread = "what it would speed up is done by the control thread";
        let notes = [
            (lag_alone, "ib_dev_lag", "it is not used without is_lag"),
            (self.single_port && self.ib_dev_p1.is_some(), "ib_dev_p1", "single_port leaves port 0 only"),
            (ahead && !taps, "sf_pool_percent", "only SFs that are TAPs are made ahead, and sf_port has none"),
            (self.sf_pool_force_destroy && !ahead, "sf_pool_force_destroy", "without sf_pool_percent there is no pool"),
            (
                self.lm_prov.is_some(),
                "lm_prov",
                "live migration is the front end's; there are no providers to choose from",
            ),
            (self.eth_vq_workers.is_some(), "eth_vq_workers", thread),
            (self.admin_cmd_workers.is_some(), "admin_cmd_workers", thread),
            (
                self.vf.vfs_per_pf.is_some() && self.vf.mac_base.is_none(),
                "vf.vfs_per_pf",
                "it is not used without vf.mac_base",
            ),
        ];
        let without_effect = notes.into_iter().filter(|(asked, ..)| *asked);
        let mut notes: Vec<String> =
            without_effect.map(|(_, key, why)| format!("{key} has no effect in this version: {why}")).collect();
        for (key, asked) in [("static_pf.features", self.static_pf.features), ("vf.features", self.vf.features)] {
            let unknown = asked.map_or(0, |bits| bits.0 & !SUPPORTED);
            if unknown != 0 {
                notes.push(format!(
                    "{key} asks for {unknown:#x}, which this version does not have; the others are offered"
                ));
            }
        }
        if self.packed_vq && self.mrg_rxbuf {
            notes.push(
                "packed_vq and mrg_rxbuf are both 1: the product does not allow this, here both are offered".into(),
            );
        }
        if cfg!(not(feature = "dpdk")) && self.switch.uplinks.iter().any(|uplink| matches!(uplink.wire, Wire::Dpdk(_)))
        {
            notes.push(format!("switch.uplinks has dpdk, and {}", Wire::WITHOUT_DPDK));
        }
        let (device, allowed) = (&self.ib_dev_for_static_pf, self.ib_devices());
        if !allowed.contains(&device.as_str()) {
            notes
                .push(format!("ib_dev_for_static_pf is {device}, which is none of the ports ({})", allowed.join(", ")));
        }
        notes
    }
}
