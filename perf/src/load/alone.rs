//! One frame at a time: the next one is sent when the last has arrived, so nothing ever waits for anything else.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};

use super::station::Station;
use super::{Load, Measured, STANDSTILL, Watch, histogram};
use crate::lcore;
use crate::process;

/// Polls between two looks at the clock while a frame is out.
const POLLS_PER_LOOK: u32 = 4096;
/// One frame in so many is checked byte by byte.
const CHECKED: u64 = 128;

impl Load {
    /// Sends one frame at a time on a loop for so long, and measures the way of each from before it is sent until it is there
    /// and known by its marks. `clock_ns` is what reading the clock costs.
    ///
    /// # Errors
    /// The device broke the ring, or a frame did not come back.
    pub fn measure_alone(&mut self, length: Duration, clock_ns: u64, watch: &Watch) -> Result<Measured> {
        let (lcore, station) = self.stations.first_mut().context("no station to measure with")?;
        // A thread of its own, whose lcore is nobody else's.
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                lcore::pin(*lcore);
                station.alone(length, clock_ns, watch)
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl Station {
    fn alone(&mut self, length: Duration, clock_ns: u64, watch: &Watch) -> Result<Measured> {
        let started_at_s = SystemTime::UNIX_EPOCH.elapsed().map_or(0.0, |since| since.as_secs_f64());
        let (sent_before, bytes_before) = (self.sent(), self.checker().counts().received_bytes);
        let waited_before_ns = process::waited_ns();
        let mut histogram = histogram();
        let start = Instant::now();
        let mut elapsed = Duration::ZERO;
        while elapsed < length && !watch.stopped() {
            let begun = Instant::now();
            self.there_and_back(begun)?;
            let took_ns = begun.elapsed().as_nanos() as u64;
            histogram.saturating_record(took_ns.saturating_sub(clock_ns).max(1));
            elapsed = begun.duration_since(start);
        }
        let frames = self.sent() - sent_before;
        watch.moved.fetch_add(frames, Relaxed);
        let waited_ns = process::waited_ns().saturating_sub(waited_before_ns);
        Ok(Measured {
            started_at_s,
            seconds: elapsed.as_secs_f64(),
            sent: frames,
            moved: frames,
            moved_bytes: self.checker().counts().received_bytes - bytes_before,
            due: 0,
            given_up: 0,
            intervals: vec![frames],
            interval: length,
            histogram,
            waited: (waited_ns as f64 / elapsed.as_nanos().max(1) as f64).min(1.0),
            split: None,
            interrupted: watch.stopped(),
        })
    }

    #[inline]
    fn there_and_back(&mut self, begun: Instant) -> Result<()> {
        let Self { lanes, checker, gremlin, .. } = self;
        let lane = lanes.first_mut().context("no queue pair to send on")?;
        let sequence = lane.sent();
        let flow = lane.flow().context("the guest sends nothing")?;
        let is_checked = sequence.is_multiple_of(CHECKED);
        let mut sent = lane.send(1)? > 0;
        let mut polls = 0_u32;
        while checker.due(flow) <= sequence {
            if !is_checked {
                checker.check_few();
            }
            if lane.receive(checker, None, gremlin)? == 0 {
                std::hint::spin_loop();
            }
            if !sent {
                sent = lane.send(1)? > 0;
            }
            polls += 1;
            if polls.is_multiple_of(POLLS_PER_LOOK) {
                ensure!(begun.elapsed() < STANDSTILL, "frame {sequence} did not come back, all by itself on its way");
            }
        }
        // Others may look at what has arrived between two slices.
        self.shared.arrived[usize::from(flow)].0.store(checker.due(flow), Relaxed);
        Ok(())
    }
}
