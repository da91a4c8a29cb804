//! The engine: `restart`, `lcore` and `switch`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Value, json};
use virtnet_engine::placement::Move;
use virtnet_engine::{DeviceId, LearnedAddress};

use super::params;
use super::success;
use crate::config::{Config, Lcores, Mac, Port};
use crate::function::Function;
use crate::refusal::{Code, Refusal};
use crate::rpc::Params;
use crate::service::Service;

/// `restart`: another engine, under the same sockets and rings.
pub fn restart(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let params::Nothing {} = params::read(params)?;
    let config =
        Config::read(&service.host().config_path).map_err(|error| Code::InvalidArgument.because(error.to_string()))?;
    service.restart(config).map_err(|error| Code::InvalidArgument.because(error.to_string()))?;
    Ok(json!("SUCCESS"))
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Rebalance {
    DryRun,
    Apply,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Lcore {
    rebalance: Option<Rebalance>,
    set: Option<Lcores>,
    #[serde(default)]
    brief: bool,
}

/// `lcore`: how busy lcores are since this was last asked; who would move where; other lcores.
pub fn lcore(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    let refused = |error: virtnet_engine::EngineError| Code::InvalidArgument.because(error.to_string());
    match params::read(params)? {
        Lcore { rebalance: None, set: None, brief } => Ok(loads(service, brief)),
        Lcore { rebalance: None, set: Some(lcores), brief: false } => {
            service.engine().set_lcores(&lcores.workers()).map_err(refused)?;
            Ok(success())
        }
        Lcore { rebalance: Some(how), set: None, brief: false } => {
            let report = service.engine().lcores();
            let moves = service.engine().rebalance(&report);
            if let Rebalance::Apply = how {
                service.engine().apply(&moves).map_err(refused)?;
            }
            let names = service.names();
            let told = |step: &Move| {
                let device = name(&names, step.device);
                json!({ "device": device, "queue_pair": step.pair, "from": step.from, "to": step.to })
            };
            let moves: Vec<Value> = moves.iter().map(told).collect();
            Ok(json!({ "seconds": report.seconds, "moves": moves }))
        }
        _ => Err(Code::InvalidArgument.because("one of rebalance, set and brief")),
    }
}

fn loads(service: &mut Service, brief: bool) -> Value {
    let report = service.engine().lcores();
    let names = service.names();
    let lcores: Vec<Value> = report
        .lcores
        .iter()
        .map(|load| {
            let mut lcore = json!({
                "worker": load.worker,
                "lcore": load.lcore,
                "numa_node": load.node,
                "busy_percent": percent(load.busy),
                "ns_per_frame": load.frame_ns,
            });
            if brief {
                return lcore;
            }
            let of_worker = report.pairs.iter().filter(|pair| pair.worker == load.worker);
            let pairs = of_worker.map(|pair| {
                json!({ "device": name(&names, pair.device), "queue_pair": pair.pair, "busy_percent": percent(pair.busy) })
            });
            lcore["queue_pairs"] = pairs.collect();
            lcore
        })
        .collect();
    json!({ "seconds": report.seconds, "lcores": lcores })
}

/// What a device is called.
fn name<'n>(names: &HashMap<DeviceId, &'n str>, id: DeviceId) -> &'n str {
    names.get(&id).copied().unwrap_or("uplink")
}

fn percent(share: f64) -> f64 {
    (share * 1000.0).round() / 10.0
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Show {
    Ports,
    Fdb,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Switch {
    show: Show,
}

/// `switch`: its ports, and the addresses it has learned.
pub fn switch(service: &mut Service, params: Params) -> Result<Value, Refusal> {
    match params::read(params)? {
        Switch { show: Show::Ports } => {
            let of = |(_, function): (usize, &Function)| {
                let identity = &function.identity;
                let is_on = function.port == Port::Switch;
                is_on.then(
                    || json!({ "port": identity.representor(), "device": function.spec.name, "vuid": identity.vuid }),
                )
            };
            let functions = service.functions().into_iter().filter_map(of);
            let mut ports: Vec<Value> = functions.collect();
            ports.extend(service.uplinks().into_iter().map(|uplink| json!(uplink)));
            Ok(json!({ "ports": ports }))
        }
        Switch { show: Show::Fdb } => {
            let addresses = service.engine().addresses();
            let names = service.names();
            let entry = |LearnedAddress { mac, vlan, device, age_s }| json!({ "mac": Mac(mac).to_string(), "vlan": vlan, "device": name(&names, device), "age_s": age_s });
            let entries: Vec<Value> = addresses.into_iter().map(entry).collect();
            Ok(json!({ "fdb": entries }))
        }
    }
}
