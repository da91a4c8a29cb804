//! What a used buffer notification costs who sends it, and when it is heard: written at once, and by a device's caller.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::Table;
use hdrhistogram::Histogram;
use rustix::event::{EventfdFlags, eventfd};
use virtnet_engine::caller::Caller;
use virtnet_rings::Notifier;

use crate::table;

/// Bursts of a queue that moves a million frames a second, or so.
const PAUSE: Duration = Duration::from_micros(30);

/// A driver that sleeps until it is called, and says when it was.
struct Sleeper {
    start: Instant,
    heard_ns: AtomicU64,
    ended: AtomicBool,
}

impl Sleeper {
    fn sleep(&self, line: &OwnedFd) {
        while !self.ended.load(Ordering::Relaxed) {
            if rustix::io::read(line, &mut [0; 8]).is_ok() {
                self.heard_ns.store(self.start.elapsed().as_nanos() as u64, Ordering::Release);
            }
        }
    }
}

pub fn measure(calls: u64) -> Result<Table> {
    let mut table =
        table(&["calls", "ns each, one after another", "ns each, apart: p50", "p99", "heard after µs: p50", "p99"]);
    let mut caller = Caller::default();
    for through in [false, true] {
        let end = eventfd(0, EventfdFlags::CLOEXEC)?;
        let line = match through {
            false => Notifier::new(Some(end.try_clone()?)),
            true => Notifier::through(caller.line(end.try_clone()?)?),
        };
        let begin = Instant::now();
        (0..calls).for_each(|_| line.notify());
        let together_ns = begin.elapsed().as_nanos() as f64 / calls as f64;
        let sleeper = Sleeper { start: Instant::now(), heard_ns: AtomicU64::new(0), ended: AtomicBool::new(false) };
        let sleeper = Arc::new(sleeper);
        let thread = std::thread::spawn({
            let (sleeper, end) = (Arc::clone(&sleeper), end.try_clone()?);
            move || sleeper.sleep(&end)
        });
        let (mut cost, mut delay) = (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
        for _ in 0..calls / 10 {
            let begin_ns = sleeper.start.elapsed().as_nanos() as u64;
            line.notify();
            cost.record(sleeper.start.elapsed().as_nanos() as u64 - begin_ns)?;
            let heard_ns = loop {
                let heard_ns = sleeper.heard_ns.load(Ordering::Acquire);
                if heard_ns > begin_ns {
                    break heard_ns;
                }
                std::hint::spin_loop();
            };
            delay.record(heard_ns - begin_ns)?;
            let resume = Instant::now() + PAUSE;
            while Instant::now() < resume {
                std::hint::spin_loop();
            }
        }
        sleeper.ended.store(true, Ordering::Relaxed);
        rustix::io::write(&end, &1u64.to_ne_bytes())?;
        let _ = thread.join();
        let micros = |quantile| format!("{:.1}", delay.value_at_quantile(quantile) as f64 / 1000.0);
        let nanos = |quantile| cost.value_at_quantile(quantile).to_string();
        let how = if through { "by a caller" } else { "at once" };
        let together = format!("{together_ns:.0}");
        table.add_row([how, &together, &nanos(0.5), &nanos(0.99), &micros(0.5), &micros(0.99)]);
    }
    Ok(table)
}
