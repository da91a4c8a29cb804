//! What is there: `list`, `query`, `stats`, `rates`, `health`.

use rustix::time::{ClockId, clock_gettime};
use serde::Deserialize;
use serde_json::{Value, json};
use virtnet_rings::spec::virtq::VIRTIO_F_RING_PACKED;

use super::params::{self, Nothing, Selector};
use crate::device::features;
use crate::refusal::{Code, Refusal};
use crate::reply::{self, Details, Moved, Rates};
use crate::rpc::Params;
use crate::service::Service;

/// `list`: the controller and every function.
pub fn list(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let Nothing {} = params::read(params)?;
    let host = service.host();
    let devices_max = host.static_pfs() + host.hotplug_pfs() + host.vfs();
    let has_packed = features::SUPPORTED & 1 << VIRTIO_F_RING_PACKED != 0;
    let manager = host.config.ib_devices().first().copied().unwrap_or_default().to_owned();
    let controller = reply::controller(&manager, host.hotplug_pfs(), devices_max, features::SUPPORTED, has_packed);
    let keys: Vec<usize> = service.functions().into_iter().map(|(key, _)| key).collect();
    let devices: Vec<Value> = keys.into_iter().map(|key| reply::listed(&service.sight(key))).collect();
    Ok(json!({ "controller": controller, "devices": devices }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Query {
    queue_id: Option<u16>,
    #[serde(default)]
    brief: bool,
    #[serde(default)]
    dbg_stats: bool,
    #[serde(default)]
    latency_stats: bool,
    #[serde(default)]
    stats_clear: bool,
}

/// `query`: functions with their queues. Of all, one that has no queue of that number shows none.
pub fn query(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    let selector = Selector::take(&mut params)?;
    let Query { queue_id, brief, dbg_stats, latency_stats, stats_clear } = params::read(params)?;
    let details = Details { brief, queue_id, dbg_stats, latency_stats };
    let keys = selector.keys(service)?;
    if let (false, [key]) = (selector.is_all(), &keys[..]) {
        check_queue(&service.sight(*key).rings, queue_id)?;
    }
    let mut devices = Vec::with_capacity(keys.len());
    for key in keys {
        let is_debug = dbg_stats || latency_stats || stats_clear;
        let debug = if is_debug { service.debug(key, stats_clear) } else { Vec::new() };
        devices.push(reply::queried(&service.sight(key), &details, &debug));
    }
    Ok(json!({ "devices": devices }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stats {
    queue_id: Option<u16>,
}

/// `stats`: the counters of a function's queues.
pub fn stats(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    let selector = Selector::take(&mut params)?;
    let Stats { queue_id } = params::read(params)?;
    let key = selector.key(service)?;
    let sight = service.sight(key);
    check_queue(&sight.rings, queue_id)?;
    let function = sight.function;
    Ok(reply::stats(function.identity.id, function.packet_counters.name(), &sight.rings, queue_id))
}

/// `rates`: how much each function has moved, for who asks again and again.
pub fn rates(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let Nothing {} = params::read(params)?;
    let now = clock_gettime(ClockId::Monotonic);
    let keys: Vec<usize> = service.functions().into_iter().map(|(key, _)| key).collect();
    let functions = keys.into_iter().map(|key| {
        let counts = service.counts(key);
        Moved::of(service.function(key), &counts)
    });
    let rates = Rates { seconds: now.tv_sec as f64 + now.tv_nsec as f64 / 1e9, functions: functions.collect() };
    Ok(json!(rates))
}

/// `health`: whether functions are well; of several, a list.
pub fn health(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    let selector = Selector::take(&mut params)?;
    let Nothing {} = params::read(params)?;
    let keys = selector.keys(service)?;
    let replies = keys.into_iter().map(|key| {
        let health = service.health(key);
        let sight = service.sight(key);
        reply::health(sight.function, sight.status, health)
    });
    let mut replies: Vec<Value> = replies.collect();
    Ok(if selector.is_all() { Value::Array(replies) } else { replies.swap_remove(0) })
}

fn check_queue(rings: &[reply::Ring], queue_id: Option<u16>) -> Result<(), Refusal> {
    match queue_id {
        Some(id) if rings.iter().all(|ring| ring.index != id) => {
            Err(Code::QueueIndex.because(format!("{id}; {} queues run", rings.len())))
        }
        _ => Ok(()),
    }
}
