//! A restart of what moves frames, under the feet of front ends: sockets, sessions, rings and netdevs stay.

use std::time::Instant;

use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineError};

use super::{Entry, Live, Service, port, start_engine, uplink};
use crate::config::Config;
use crate::function::Fault;

impl Service {
    /// Starts another engine, with the lcores, the idle policy and the burst that the configuration has now, and hands function
    /// after function over to it. Every ring goes on where it stood; frames that are in a loop or on their way between functions
    /// are lost.
    ///
    /// # Errors
    /// The other engine does not start; everything is as before.
    pub fn restart(&mut self, config: Config) -> Result<(), EngineError> {
        let began = Instant::now();
        let mut host = self.host.clone();
        let now = &mut host.config;
        (now.lcores, now.idle, now.burst) = (config.lcores, config.idle, config.burst);
        (now.dpa_core_start, now.dpa_core_end) = (config.dpa_core_start, config.dpa_core_end);
        let mut engine = start_engine(&host)?;
        self.host = host;
        // What its workers have to say of rings is told while these are still theirs.
        self.watch();
        // Netdevs stay; their queues have one engine at a time.
        self.uplinks.drain(..).for_each(|uplink| leave(&mut self.engine, uplink.id));
        match uplink::add_all(&mut engine, &self.host.config, &mut self.netdevs) {
            Ok(uplinks) => self.uplinks = uplinks,
            Err(error) => tracing::error!("the switch has no way out any more: {error:#}"),
        }
        for key in self.keys() {
            if let Err(error) = self.hand_over(key, &mut engine) {
                let name = self.entries[key].function.identity.id;
                tracing::error!("{name} is out of service: {error:#}");
                self.entries[key].faults.count(Fault::Port);
                if let Some(live) = self.entries[key].live.take() {
                    self.entries[key].faults += live.device.faults;
                    self.entries[key].resets += live.device.resets;
                    self.entries[key].recovered += live.endpoint.counters().recoveries;
                    // Its rings are gone already; its control queue is watched until now.
                    let _ = self.take_down(key, live);
                }
            }
        }
        self.engine = engine;
        tracing::info!("restarted within {} ms", began.elapsed().as_millis());
        Ok(())
    }

    fn hand_over(&mut self, key: usize, engine: &mut Engine) -> anyhow::Result<()> {
        self.put_counts_by(key);
        let Entry { function, live: Some(Live { device, .. }), .. } = &mut self.entries[key] else { return Ok(()) };
        let before = device.id();
        let pairs = device.spec().queue_pairs;
        let detach = |index| Some((index, self.engine.detach(before, index).ok()?));
        let rings: Vec<_> = (0..2 * pairs).filter_map(detach).collect();
        leave(&mut self.engine, before);
        let port = port::of(&function.port, &function.spec, &mut self.netdevs)?;
        let id = engine.add_device(DeviceConfig { pairs, port, workers: Vec::new() })?;
        device.move_to(id);
        device.steer(engine);
        let begun = device.moderate_anew(engine);
        let attached = begun.and_then(|()| {
            rings.into_iter().try_for_each(|(index, queue)| {
                engine.attach(id, index, queue, device.features(), device.is_enabled(index.into()))
            })
        });
        if let Err(error) = attached {
            leave(engine, id);
            return Err(error.into());
        }
        Ok(())
    }
}

/// Takes a device out of an engine that is about to end.
fn leave(engine: &mut Engine, id: DeviceId) {
    if let Err(error) = engine.remove_device(id) {
        tracing::error!("the engine that ends: {error}");
    }
}
