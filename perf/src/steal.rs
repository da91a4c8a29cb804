//! Time that a hypervisor took from our lcores and gave to others.

use std::fs;

/// What the kernel had counted by some moment, in ticks.
#[derive(Debug)]
pub struct Steal {
    lcores: Vec<usize>,
    before: Vec<Ticks>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Ticks {
    stolen: u64,
    all: u64,
}

impl Steal {
    /// Counts from now on.
    pub fn from(lcores: Vec<usize>) -> Self {
        Steal { before: read(&stat(), &lcores), lcores }
    }

    /// The part of the time since, 0 to 1, of the lcore that lost most; 0 where the kernel does not say.
    pub fn part(&self) -> f64 {
        self.part_by(&stat())
    }

    fn part_by(&self, stat: &str) -> f64 {
        let after = read(stat, &self.lcores);
        let parts = self.before.iter().zip(after).map(|(before, after)| {
            let stolen = after.stolen.saturating_sub(before.stolen);
            stolen as f64 / after.all.saturating_sub(before.all).max(1) as f64
        });
        parts.fold(0.0, f64::max).min(1.0)
    }
}

fn stat() -> String {
    fs::read_to_string("/proc/stat").unwrap_or_default()
}

/// The ticks of lcores from /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal. What comes then is part of these.
fn read(stat: &str, lcores: &[usize]) -> Vec<Ticks> {
    const STEAL: usize = 7;
    let of = |lcore: &usize| {
        let name = format!("cpu{lcore}");
        let line = stat.lines().find_map(|line| line.strip_prefix(&name)?.strip_prefix(' '));
        let ticks: Vec<u64> =
            line.unwrap_or_default().split_whitespace().take(STEAL + 1).map_while(|word| word.parse().ok()).collect();
        Ticks { stolen: ticks.get(STEAL).copied().unwrap_or(0), all: ticks.iter().sum() }
    };
    lcores.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 100 0 0 100 0 0 0 10 0 0\ncpu11 0 0 0 0 0 0 0 0 0 0\n";
    const AFTER: &str = "cpu  9 9 9 9 9 9 9 9 0 0\ncpu1 170 0 0 110 0 0 0 30 0 0\ncpu11 100 0 0 0 0 0 0 0 0 0\n";

    #[test]
    fn the_lcore_that_lost_most_counts() {
        let steal = |lcores: Vec<usize>| Steal { before: read(BEFORE, &lcores), lcores };
        assert_eq!(steal(vec![1]).part_by(AFTER), 0.2);
        assert_eq!(steal(vec![11]).part_by(AFTER), 0.0);
        assert_eq!(steal(vec![11, 1]).part_by(AFTER), 0.2);
        assert_eq!(steal(vec![2]).part_by(AFTER), 0.0, "there is none");
        assert_eq!(steal(vec![1]).part_by("cpu1 gone wrong"), 0.0);
        assert_eq!(steal(vec![]).part_by(AFTER), 0.0);
    }

    #[test]
    fn this_machine_has_a_part_of_its_time() {
        assert!((0.0..=1.0).contains(&Steal::from(crate::lcore::usable()).part()));
    }
}
