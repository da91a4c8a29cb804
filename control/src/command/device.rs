//! What changes functions: `hotplug`, `unplug`, `sriov`, `modify`.

use serde::Deserialize;
use serde_json::{Value, json};
use virtnet_engine::filter::Modes;
use virtnet_engine::moderation::Moderation;

use super::params::{self, Nothing, Selector};
use super::success;
use crate::config::{Mac, value};
use crate::device::settings::Speed;
use crate::function::PeriodMode;
use crate::qemu::{self, Place};
use crate::refusal::{Code, Refusal};
use crate::reply::capitals;
use crate::rpc::Params;
use crate::service::Service;
use crate::service::life::Plug;
use crate::service::modify::Changes;

/// Queues besides those of pairs, in the product's count of them.
const CONTROL_QUEUES: u16 = 1;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hotplug {
    ib_device: String,
    #[serde(default, deserialize_with = "params::hex")]
    features: Option<u64>,
    mac: Mac,
    mtu: u16,
    max_queues: Option<u16>,
    max_queue_pairs: Option<u16>,
    max_queue_size: u16,
    sf_num: Option<u32>,
    #[serde(default)]
    legacy: bool,
    guest: Option<String>,
}

/// `hotplug`: a PF is plugged.
pub fn hotplug(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let asked: Hotplug = params::read(params)?;
    let queue_pairs = match (asked.max_queues, asked.max_queue_pairs) {
        (Some(queues), None) => queues.saturating_sub(CONTROL_QUEUES) / 2,
        (None, Some(pairs)) => pairs,
        _ => return Err(Code::InvalidArgument.because("one of max_queues and max_queue_pairs is needed")),
    };
    let key = service.plug(&Plug {
        ib_device: asked.ib_device,
        features: asked.features.filter(|bits| *bits != 0),
        mac: asked.mac,
        mtu: asked.mtu,
        queue_pairs,
        queue_size_max: asked.max_queue_size,
        sf_num: asked.sf_num,
        transitional: asked.legacy,
        guest: asked.guest,
    })?;
    let sight = service.sight(key);
    let identity = &sight.function.identity;
    let mut reply = json!({
        "bdf": identity.bdf.to_string(),
        "vuid": identity.vuid,
        "id": identity.id.pf(),
        "transitional": u8::from(sight.function.spec.transitional),
        "sf_rep_net_device": identity.representor(),
        "mac": capitals(sight.function.spec.mac),
    });
    match &sight.function.place {
        Some(Place { guest, root_port }) => {
            reply["guest"] = json!(guest);
            reply["root_port"] = json!(root_port);
        }
        None => reply["qemu_arguments"] = json!(qemu::arguments(sight.function)),
    }
    reply["errno"] = json!(0);
    reply["errstr"] = json!("Success");
    Ok(reply)
}

/// `unplug`: a hotplug PF goes.
pub fn unplug(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    let selector = Selector::take(&mut params)?;
    let Nothing {} = params::read(params)?;
    let key = selector.key(service)?;
    service.unplug(key)?;
    Ok(success())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sriov {
    pf: u16,
    num_vfs: u16,
}

/// `sriov`: what a host does by writing to `sriov_numvfs`.
pub fn sriov(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let Sriov { pf, num_vfs } = params::read(params)?;
    let id = crate::function::Id::Pf(pf);
    let key = service.key_of(id).ok_or_else(|| Code::NotFound.because(format!("there is no {id}")))?;
    service.set_vfs(key, num_vfs)?;
    Ok(success())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Modify {
    #[serde(default, deserialize_with = "params::mac")]
    mac: Option<Mac>,
    mtu: Option<u16>,
    #[serde(default, deserialize_with = "params::link")]
    link: Option<bool>,
    speed: Option<u64>,
    state: Option<u8>,
    #[serde(default, deserialize_with = "params::hex")]
    features: Option<u64>,
    #[serde(default, deserialize_with = "params::hex")]
    supported_hash_types: Option<u64>,
    rss_max_key_size: Option<u64>,
    #[serde(default, deserialize_with = "params::hex")]
    rx_mode: Option<u64>,
    #[serde(default, deserialize_with = "params::hex")]
    dst_port: Option<u64>,
    #[serde(default, deserialize_with = "params::switch")]
    aarfs_config: Option<bool>,
    msix_num: Option<u16>,
    max_queue_size: Option<u16>,
    max_queue_pairs: Option<u16>,
    #[serde(default, deserialize_with = "params::switch")]
    drop_count: Option<bool>,
    #[serde(default, deserialize_with = "params::switch")]
    packet_counter: Option<bool>,
    #[serde(default, deserialize_with = "params::switch")]
    packed_vq: Option<bool>,
    #[serde(default, deserialize_with = "params::switch")]
    mrg_rxbuf: Option<bool>,
    #[serde(default, deserialize_with = "params::switch")]
    dim_config: Option<bool>,
    #[serde(default, deserialize_with = "params::switch")]
    net_dim_config: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModifyQueue {
    period_mode: PeriodMode,
    #[serde(deserialize_with = "value::between::<_, _, 0, 65535>")]
    period: u16,
    #[serde(deserialize_with = "value::between::<_, _, 0, 65535>")]
    max_count: u16,
}

fn check_modes(bits: u64) -> Result<Modes, Refusal> {
    let refused =
        || Code::InvalidArgument.because(format!("rx_mode is {bits:#x}; 0x0 to {:#x} are allowed", Modes::ALL));
    Modes::new(bits).ok_or_else(refused)
}

fn check_port(number: u64) -> Result<u16, Refusal> {
    let refused = |_| Code::DstPort.because(format!("dst_port is {number:#x}; 0x0 (none) to 0xffff are allowed"));
    u16::try_from(number).map_err(refused)
}

/// `modify`: settings of functions.
pub fn modify(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    match params.remove("subcmd").as_ref().and_then(Value::as_str) {
        Some("device") => {}
        Some("queue") => return modify_queue(service, params),
        _ => return Err(Code::InvalidArgument.because("subcmd is device or queue")),
    }
    let selector = Selector::take(&mut params)?;
    let asked: Modify = params::read(params)?;
    if let (Some(dim), Some(net_dim)) = (asked.dim_config, asked.net_dim_config)
        && dim != net_dim
    {
        return Err(Code::InvalidArgument.because("dim_config and net_dim_config are one setting, and differ"));
    }
    let changes = Changes {
        mac: asked.mac,
        mtu: asked.mtu,
        features: asked.features,
        msix: asked.msix_num,
        queue_pairs: asked.max_queue_pairs,
        queue_size_max: asked.max_queue_size,
        packed: asked.packed_vq,
        mergeable: asked.mrg_rxbuf,
        link_up: asked.link,
        speed: asked.speed.map(Speed::try_from).transpose().map_err(|why| Code::Speed.because(why))?,
        rx_mode: asked.rx_mode.map(check_modes).transpose()?,
        dst_port: asked.dst_port.map(check_port).transpose()?,
        aarfs: asked.aarfs_config,
        hash_types: asked.supported_hash_types,
        rss_key_bytes: asked.rss_max_key_size,
        status: asked.state,
        packet_counters: asked.packet_counter,
        drop_counter: asked.drop_count,
        dim: asked.dim_config.or(asked.net_dim_config),
    };
    if changes == Changes::default() {
        return Err(Code::InvalidArgument.because("there is nothing to change"));
    }
    let keys = selector.keys(service)?;
    service.modify(&keys, &changes)?;
    let resizes = changes.msix.or(changes.queue_pairs).is_some();
    let unusable = keys.iter().find(|&&key| resizes && !service.function(key).share.is_usable());
    match unusable {
        Some(&key) => Err(Code::Unusable.because(service.function(key).identity.id.to_string())),
        None => Ok(success()),
    }
}

/// `modify queue`: moderation of all queues of functions.
fn modify_queue(service: &mut Service, mut params: Params) -> Result<Value, Refusal> {
    let selector = Selector::take(&mut params)?;
    let ModifyQueue { period_mode, period, max_count } = params::read(params)?;
    let keys = selector.keys(service)?;
    service.moderate(&keys, Moderation { mode: period_mode.into(), period_us: period, max_count })?;
    Ok(success())
}
