//! What operators can ask for: one file a noun, each a function from parameters to the reply.

mod device;
mod engine;
mod inventory;
mod log;
mod params;

pub use log::Reload;

use serde_json::{Value, json};

use crate::refusal::Code;
use crate::rpc::{Error, Params};
use crate::service::Service;

/// Does what a request asks for.
///
/// # Errors
/// There is no such method, or it was refused: nothing of it was done.
pub fn run(service: &mut Service, reload: &Reload, method: &str, params: Params) -> Result<Value, Error> {
    let done = match method {
        "list" => inventory::list(service, params),
        "query" => inventory::query(service, params),
        "stats" => inventory::stats(service, params),
        "rates" => inventory::rates(service, params),
        "health" => inventory::health(service, params),
        "hotplug" => device::hotplug(service, params),
        "unplug" => device::unplug(service, params),
        "sriov" => device::sriov(service, params),
        "modify" => device::modify(service, params),
        "lcore" => engine::lcore(service, params),
        "switch" => engine::switch(service, params),
        "log" => log::level(reload, params),
        "version" => Ok(json!({ "version": concat!("v", env!("CARGO_PKG_VERSION")) })),
        "restart" => engine::restart(service, params),
        "update" => Err(Code::NotSupported.because("live update is not in this version")),
        _ => return Err(Error::Method(method.to_owned())),
    };
    Ok(done?)
}

/// The reply to a command that did what it was to do and has nothing else to say.
fn success() -> Value {
    json!({ "errno": 0, "errstr": "Success" })
}
