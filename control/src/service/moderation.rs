//! How functions' used buffer notifications are held back: by hand, or by the load.

use virtnet_engine::moderation::Moderation;

use super::Service;
use crate::function::Coalescing;
use crate::refusal::{Code, Refusal};

impl Service {
    /// Sets all queues of functions, of all of them or of none, at any time.
    ///
    /// # Errors
    /// [`Code::Period`]: a count without a period, a function whose period follows its load, or a worker that does not answer.
    /// [`Code::RecoverySave`]: it is done, and lasts until the next start.
    pub fn moderate(&mut self, keys: &[usize], fixed: Moderation) -> Result<(), Refusal> {
        if let Moderation { period_us: 0, max_count: count @ 1.., .. } = fixed {
            return Err(Code::Period.because(format!("max_count is {count} and period is 0; a count needs a period")));
        }
        if let Some(&key) = keys.iter().find(|&&key| self.entries[key].function.coalescing.dim) {
            let id = self.entries[key].function.identity.id;
            return Err(
                Code::Period.because(format!("{id} has dim enabled, which sets the period until it is disabled"))
            );
        }
        keys.iter().try_for_each(|&key| self.set_coalescing(key, Coalescing { fixed, dim: false }))?;
        self.keep(keys)
    }

    pub(super) fn set_coalescing(&mut self, key: usize, coalescing: Coalescing) -> Result<(), Refusal> {
        let entry = &mut self.entries[key];
        entry.function.coalescing = coalescing;
        let Some(live) = &mut entry.live else { return Ok(()) };
        live.device.set_coalescing(coalescing);
        let told = live.device.moderate(&mut self.engine);
        told.map_err(|error| Code::Period.because(error.to_string()))
    }
}
