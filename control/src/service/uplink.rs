//! Ways out of the switch.

use anyhow::Context;
use serde::Serialize;
use virtnet_engine::frame::offload;
use virtnet_engine::port::tap::TapConfig;
use virtnet_engine::uplink::wire::{LinkState, WireConfig};
use virtnet_engine::{DeviceId, Engine, Member, UplinkConfig};

use super::netdevs::Netdevs;
use super::{Service, port};
use crate::config::{self, Config, Wire};

/// A port of the switch that is an interface, or a bond of some.
#[derive(Debug)]
pub struct Uplink {
    /// In the engine.
    pub id: DeviceId,
    /// Of a bond.
    ib_device: Option<String>,
    /// Its interfaces.
    members: Vec<String>,
}

/// An interface, as it is.
#[derive(Debug, Serialize)]
pub struct Shown<'s> {
    port: &'s str,
    /// The RDMA device of the bond that it is a member of.
    #[serde(skip_serializing_if = "Option::is_none")]
    bond: Option<&'s str>,
    link: &'static str,
    packets_in: u64,
    packets_out: u64,
    drops: u64,
}

impl Uplink {
    /// What it is called: as its interface, or as the RDMA device of the bond.
    pub fn name(&self) -> &str {
        self.ib_device.as_ref().unwrap_or(&self.members[0])
    }
}

/// Connects the switch to all its uplinks: under LAG, those of both ports are one.
///
/// # Errors
/// One of them cannot be had.
pub fn add_all(engine: &mut Engine, config: &Config, netdevs: &mut Netdevs) -> anyhow::Result<Vec<Uplink>> {
    let bond = config.ib_devices()[0];
    let is_member = |uplink: &&config::Uplink| config.is_lag && uplink.ib_dev == bond;
    let (members, others): (Vec<_>, Vec<_>) = config.switch.uplinks.iter().partition(is_member);
    let bonded = (!members.is_empty()).then_some((Some(bond), members));
    let alone = others.into_iter().map(|uplink| (None, vec![uplink]));
    let all = bonded.into_iter().chain(alone);
    all.map(|(ib_device, uplinks)| add(engine, ib_device, &uplinks, netdevs)).collect()
}

fn add(
    engine: &mut Engine,
    ib_device: Option<&str>,
    uplinks: &[&config::Uplink],
    netdevs: &mut Netdevs,
) -> anyhow::Result<Uplink> {
    let names: Vec<_> = uplinks.iter().map(|uplink| uplink.wire.name().to_owned()).collect();
    let members = uplinks.iter().map(|uplink| wire_config(&uplink.wire, netdevs)).collect::<anyhow::Result<_>>()?;
    let id = engine.add_uplink(UplinkConfig { members, queues: 1, workers: Vec::new() });
    let id = id.with_context(|| format!("uplink {}", names.join(", ")))?;
    Ok(Uplink { id, ib_device: ib_device.map(str::to_owned), members: names })
}

fn wire_config(wire: &Wire, netdevs: &mut Netdevs) -> anyhow::Result<WireConfig> {
    Ok(match wire {
        Wire::Tap { name, offload } => {
            let (interface, takes) = (netdevs.take(name)?, port::takes(*offload));
            WireConfig::Tap(TapConfig { interface, features: offload::TO_GUEST, takes, mtu: None, up: true })
        }
        Wire::Netdev(name) => WireConfig::Netdev(name.clone()),
        #[cfg(feature = "dpdk")]
        Wire::Dpdk(devargs) => WireConfig::Dpdk(devargs.clone()),
        #[cfg(not(feature = "dpdk"))]
        Wire::Dpdk(devargs) => anyhow::bail!("uplink {devargs}: {}", Wire::WITHOUT_DPDK),
    })
}

impl Service {
    /// The interfaces that are ports of the switch.
    pub fn uplinks(&mut self) -> Vec<Shown<'_>> {
        let Self { engine, uplinks, .. } = self;
        let shown = uplinks.iter().flat_map(|uplink| {
            let states = engine.members(uplink.id).unwrap_or_default();
            uplink.members.iter().zip(states).map(|(name, Member { link, queues })| {
                let packets = |comes_in| {
                    let of_direction = queues.iter().filter(|queue| queue.queue_index % 2 == u16::from(comes_in));
                    of_direction.map(|queue| queue.counts.packets).sum()
                };
                Shown {
                    port: name,
                    bond: uplink.ib_device.as_deref(),
                    link: name_of(link),
                    packets_in: packets(true),
                    packets_out: packets(false),
                    drops: queues.iter().map(|queue| queue.counts.dropped()).sum(),
                }
            })
        });
        shown.collect()
    }

    /// Looks at the links of all uplinks, and leaves in the log which have changed.
    pub(super) fn watch_links(&mut self) {
        let changes = match self.engine.look_at_links() {
            Ok(changes) => changes,
            Err(error) => return tracing::error!("uplinks: {error}"),
        };
        for (id, member, link) in changes {
            let Some(uplink) = self.uplinks.iter().find(|uplink| uplink.id == id) else { continue };
            let (interface, port) = (&uplink.members[member], uplink.name());
            match link {
                LinkState::Up => tracing::info!(port, "uplink {interface} has a link"),
                LinkState::Down => tracing::warn!(port, "uplink {interface} has no link"),
                LinkState::Gone => tracing::error!(port, "uplink {interface} is gone"),
            }
        }
    }
}

fn name_of(link: LinkState) -> &'static str {
    match link {
        LinkState::Up => "up",
        LinkState::Down => "down",
        LinkState::Gone => "gone",
    }
}
