//! Functions as they are now, for replies. Nothing here waits for a worker.

use virtnet_engine::QueueCountsOf;
use virtnet_engine::counters::DropReason;
use virtnet_engine::latency::Latencies;
use virtnet_engine::port::tap;

use super::{Entry, Live, Service};
use crate::class::Class;
use crate::config::Mac;
use crate::function::{Counting, Id, Pool, Share};
use crate::reply::{Debug, Health, Ring, Sight};
use crate::virtio_pci::NO_VECTOR;

impl Service {
    /// A function as it is now.
    pub fn sight(&mut self, key: usize) -> Sight<'_> {
        let counts = self.counts(key);
        let vfs = self.vfs_of(key);
        let pool = self.pool_of(key);
        let even = self.host.limits.vfs_per_pf;
        let pci = self.host.limits.pci;
        let entry = &mut self.entries[key];
        let function = &entry.function;
        let of = |index: u16| counts.iter().find(|queue| queue.queue_index == index);
        let mut sight = Sight {
            function,
            pci,
            vfs: (if function.identity.class == Class::StaticPf { even } else { 0 }, vfs.len() as u16),
            pool,
            has_device: entry.live.is_some(),
            offered: function.spec.features(),
            accepted: 0,
            status: 0,
            config_vector: NO_VECTOR,
            driver_mac: Mac([0; 6]),
            pairs_used: 0,
            ifindex: 0,
            rings: Vec::new(),
            resets: entry.resets,
            dropped: function.drop_counter.is_enabled().then(|| {
                let receiveqs = counts.iter().filter(|queue| queue.queue_index % 2 == 0);
                receiveqs.map(|queue| function.drop_counter.of(queue).drops[DropReason::NoBuffers as usize]).sum()
            }),
        };
        let Some(Live { device, endpoint, .. }) = &mut entry.live else { return sight };
        sight.resets += device.resets;
        sight.offered |= endpoint.function().map_or(0, |function| function.own_features());
        sight.ifindex = tap::index_of(&function.identity.representor()).unwrap_or(0);
        if let Some(session) = endpoint.session() {
            sight.accepted = device.accepted();
            sight.status = session.status();
            sight.config_vector = session.vector_of(None);
            if sight.status != 0 {
                sight.driver_mac = device.mac();
            }
            sight.pairs_used = device.orders().pairs.unwrap_or(0);
            let (controlq, adminq) = (device.controlq_index(), device.adminq_index());
            let moderation = self.engine.moderation(device.id()).unwrap_or_default();
            let ring = |(index, size, enabled, areas): (usize, u16, bool, [u64; 3])| {
                let index = index as u16;
                // The control queue may have the number that the engine gives to a queue which this driver does not use.
                let commands = match Some(usize::from(index)) {
                    index if index == controlq => Some(*device.commands()),
                    index if index == adminq => Some(*device.admin.counts()),
                    _ => None,
                };
                let queue = of(index).filter(|_| Some(usize::from(index)) != controlq);
                let receiveq = queue.filter(|_| index.is_multiple_of(2));
                Ring {
                    index,
                    size,
                    vector: session.vector_of(Some(index.into())),
                    enabled,
                    areas,
                    moderation: queue.and_then(|_| moderation.get(usize::from(index)).copied()),
                    counts: queue.map(|queue| queue.counts),
                    commands,
                    size_bins: receiveq.map(|queue| function.packet_counters.of(queue).size_bins),
                }
            };
            sight.rings = session.rings().into_iter().map(ring).collect();
        }
        sight
    }

    /// What its queues have counted since the function is there, on whichever device of the engine.
    pub fn counts(&mut self, key: usize) -> Vec<QueueCountsOf> {
        let Entry { live, past, .. } = &self.entries[key];
        let now = live.as_ref().and_then(|live| self.engine.counters(live.device.id()).ok()).unwrap_or_default();
        let mut counts = past.clone();
        for queue in now {
            match counts.iter_mut().find(|counted| counted.queue_index == queue.queue_index) {
                Some(counted) => counted.counts += &queue.counts,
                None => counts.push(queue),
            }
        }
        counts
    }

    /// Keeps what has been counted, before the device of the engine goes that has counted it.
    pub(super) fn put_counts_by(&mut self, key: usize) {
        self.entries[key].past = self.counts(key);
        self.entries[key].latencies_before.clear();
    }

    /// What its queues have counted, and how long they have had things in hand, since that was last cleared; the latter of the
    /// device that it has now. What is counted, told and cleared here is neither lost nor told again.
    pub fn debug(&mut self, key: usize, clear: bool) -> Vec<Debug> {
        let counts = self.counts(key);
        let live = self.entries[key].live.as_ref();
        let latencies = live.and_then(|live| self.engine.latencies(live.device.id()).ok()).unwrap_or_default();
        let Entry { function, debug_counters, latencies_before, .. } = &mut self.entries[key];
        let is_jumbo = function.spec.is_jumbo();
        let of = |queue: &QueueCountsOf| {
            let at =
                |latencies: &[Latencies]| latencies.get(usize::from(queue.queue_index)).copied().unwrap_or_default();
            Debug {
                queue_index: queue.queue_index,
                is_jumbo,
                counts: debug_counters.of(queue),
                latencies: at(&latencies).since(&at(latencies_before)),
            }
        };
        let debug = counts.iter().map(of).collect();
        if clear {
            *debug_counters = Counting::Enabled(counts);
            *latencies_before = latencies;
        }
        debug
    }

    /// What has gone wrong with it, and whether it can go on: not where a driver has to reset it, or it has lost its device.
    pub fn health(&mut self, key: usize) -> Health {
        let counts = self.counts(key);
        let Entry { function, live, faults, recovered, .. } = &mut self.entries[key];
        let mut health = Health {
            is_fatal: match live {
                Some(live) => live.endpoint.session().is_some_and(|session| session.needs_reset()),
                None => function.share.is_usable(),
            },
            recovered: *recovered,
            faults: *faults,
            host_read_errors: counts.iter().map(|queue| queue.counts.violations).sum(),
            dma_q_errors: counts.iter().map(|queue| queue.counts.drops[DropReason::PortError as usize]).sum(),
        };
        if let Some(live) = live {
            health.recovered += live.endpoint.counters().recoveries;
            health.faults += live.device.faults;
        }
        health
    }

    /// VFs of a PF that are there.
    pub fn vfs_of(&self, key: usize) -> Vec<usize> {
        let Id::Pf(pf) = self.entries[key].function.identity.id else { return Vec::new() };
        let is_its = |id: Id| matches!(id, Id::Vf { pf: parent, .. } if parent == pf);
        self.entries.iter().filter(|(_, entry)| is_its(entry.function.identity.id)).map(|(key, _)| key).collect()
    }

    /// What VFs of a PF could still have.
    pub fn pool_of(&self, key: usize) -> Pool {
        let shares = self.vfs_of(key).into_iter().map(|key| self.entries[key].function.share);
        Pool::of(self.even_share(), shares)
    }

    /// What each VF is meant to have.
    pub fn even_share(&self) -> Share {
        self.host.vf_share()
    }
}
