//! When nobody relies any more on what was true: workers say when they have a turn, and control waits out those that have one.

use std::time::{Duration, Instant};

use crate::sync::{Arc, AtomicU64, Mutex, Ordering, Weak};

/// How long a worker is waited for. A turn is over in a millisecond, but a thread may have to wait for a CPU.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is shared with those who have turns.
#[derive(Debug)]
pub(crate) struct Turns {
    /// Changes with everything that a turn must not rely on any more.
    epoch: AtomicU64,
    members: Mutex<Vec<Weak<AtomicU64>>>,
}

/// Somebody who has turns.
#[derive(Debug)]
pub(crate) struct Member {
    /// How many turns have begun and ended: odd in a turn.
    count: Arc<AtomicU64>,
    /// The epoch of the last turn.
    epoch: u64,
}

impl Turns {
    pub(super) fn new() -> Self {
        Self { epoch: AtomicU64::new(0), members: Mutex::default() }
    }

    pub(super) fn join(&self) -> Member {
        let count = Arc::new(AtomicU64::new(0));
        let mut members = self.members.lock().expect("nobody panics with it");
        members.retain(|member| member.strong_count() > 0);
        members.push(Arc::downgrade(&count));
        Member { count, epoch: self.epoch.load(Ordering::Relaxed) }
    }

    /// Begins an epoch; the turns that may not know of it, as far as they were then.
    fn advance(&self) -> Vec<(Arc<AtomicU64>, u64)> {
        // Release: what was changed before is seen by who sees the epoch.
        self.epoch.fetch_add(1, Ordering::Release);
        let members = self.members.lock().expect("nobody panics with it");
        let counts = members.iter().filter_map(Weak::upgrade).map(|count| {
            // Of this and a turn's beginning one comes first: we see the turn, or the turn sees the epoch.
            let at = count.fetch_add(0, Ordering::AcqRel);
            (count, at)
        });
        counts.filter(|(_, at)| at % 2 == 1).collect()
    }

    /// Returns when no turn goes on that began before: what was changed before this, nobody finds as it was. `false` if a worker
    /// does not come to an end.
    pub(super) fn pass(&self) -> bool {
        let waited_for = self.advance();
        let since = Instant::now();
        for (count, at) in waited_for {
            while count.load(Ordering::Acquire) == at {
                if since.elapsed() > PATIENCE {
                    return false;
                }
                std::thread::yield_now();
            }
        }
        true
    }
}

impl Member {
    /// Begins a turn; whether the epoch is another than that of the last one.
    #[inline]
    pub(crate) fn begin(&mut self, turns: &Turns) -> bool {
        // Not a store: who sees this turn has then seen the end of those before it.
        self.count.fetch_add(1, Ordering::AcqRel);
        let epoch = turns.epoch.load(Ordering::Acquire);
        std::mem::replace(&mut self.epoch, epoch) != epoch
    }

    /// Ends it.
    #[inline]
    pub(crate) fn end(&self) {
        // Release: what was done in the turn comes before whatever control does once it sees this.
        self.count.fetch_add(1, Ordering::Release);
    }
}

#[cfg(all(test, loom))]
mod tests {
    use loom::sync::atomic::AtomicU64;

    use super::*;

    #[test]
    fn what_was_taken_away_is_used_in_no_turn_that_was_not_waited_for() {
        loom::model(|| {
            // Whether it is mapped, and whether it was used since.
            let shared = Arc::new((Turns::new(), AtomicU64::new(1), AtomicU64::new(0)));
            let mut member = shared.0.join();
            let worker = loom::thread::spawn({
                let shared = shared.clone();
                move || {
                    let mut window = true;
                    for _ in 0..2 {
                        if member.begin(&shared.0) {
                            window = shared.1.load(Ordering::Relaxed) == 1;
                        }
                        if window {
                            shared.2.fetch_add(1, Ordering::Relaxed);
                        }
                        member.end();
                    }
                    // It is not gone before it is looked for: nothing here would tell control what it has done then.
                    member
                }
            });
            shared.1.store(0, Ordering::Relaxed);
            for (count, at) in shared.0.advance() {
                while count.load(Ordering::Acquire) == at {
                    loom::thread::yield_now();
                }
            }
            let used = shared.2.load(Ordering::Relaxed);
            worker.join().unwrap();
            assert_eq!(shared.2.load(Ordering::Relaxed), used, "used after it was waited for");
        });
    }
}
