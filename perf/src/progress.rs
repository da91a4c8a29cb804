//! The bar on a terminal; nothing anywhere else.

use std::io::IsTerminal;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::load::Watch;

/// How often the bar moves.
const EVERY: Duration = Duration::from_millis(200);

/// A bar over all of a command's measurements.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// A bar for so much measuring in all.
    pub fn new(total: Duration) -> Self {
        if !std::io::stderr().is_terminal() {
            return Progress { bar: None };
        }
        let bar = ProgressBar::with_draw_target(Some(total.as_millis() as u64), ProgressDrawTarget::stderr());
        let style = ProgressStyle::with_template("{bar:30} {percent:>3} %  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        Progress { bar: Some(bar) }
    }

    /// Does the work, which takes about `length`, and moves the bar meanwhile.
    pub fn during<T>(&self, title: &str, length: Duration, watch: &Watch, work: impl FnOnce() -> T) -> T {
        let Some(bar) = &self.bar else { return work() };
        let begun_at = bar.position();
        let done = thread::scope(|scope| {
            let follower = scope.spawn(|| follow(bar, begun_at, title, length, watch));
            let done = work();
            follower.thread().unpark();
            done
        });
        bar.set_position(begun_at + length.as_millis() as u64);
        done
    }

    /// Says something above the bar, or on standard error where there is none.
    pub fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// How long something will take, for people.
pub fn about(length: Duration) -> String {
    match length.as_secs_f64().round() as u64 {
        0 => "about a second".to_owned(),
        seconds if seconds < 100 => format!("about {seconds} s"),
        seconds if seconds < 6000 => format!("about {} min", seconds.div_ceil(60)),
        seconds => format!("about {:.1} h", seconds as f64 / 3600.0),
    }
}

fn follow(bar: &ProgressBar, begun_at: u64, title: &str, length: Duration, watch: &Watch) {
    let started = Instant::now();
    let mut moved = watch.moved.load(Relaxed);
    let mut looked = started;
    while started.elapsed() < length {
        thread::park_timeout(EVERY);
        let now = Instant::now();
        let seconds = now.duration_since(looked).as_secs_f64();
        if seconds < EVERY.as_secs_f64() / 2.0 {
            return; // the work is done
        }
        let moved_now = watch.moved.load(Relaxed);
        bar.set_message(format!("{title}  {:.2} Mpps", (moved_now - moved) as f64 / seconds / 1e6));
        bar.set_position(begun_at + now.duration_since(started).min(length).as_millis() as u64);
        (moved, looked) = (moved_now, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_told_in_units_that_read_well() {
        let texts = [0.2, 1.2, 99.0, 101.0, 5999.0, 9000.0].map(|s| about(Duration::from_secs_f64(s)));
        let expected = ["a second", "1 s", "99 s", "2 min", "100 min", "2.5 h"].map(|text| format!("about {text}"));
        assert_eq!(texts, expected);
    }
}
