//! Which lcores there are, and which do what.

use anyhow::{Result, bail, ensure};

use crate::args::Lcores;

/// The lcores that this process may use, ascending.
pub fn usable() -> Vec<usize> {
    let mut lcores: Vec<usize> =
        core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
    lcores.sort_unstable();
    if lcores.is_empty() { vec![0] } else { lcores }
}

/// Pins the current thread. Where that is forbidden the thread runs where it may: the probe and the report show it.
pub fn pin(lcore: usize) {
    core_affinity::set_for_current(core_affinity::CoreId { id: lcore });
}

/// As it is written: `2-4,8`.
pub fn list(lcores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = lcores;
    while let [first, ..] = *rest {
        let run = rest.iter().zip(first..).take_while(|&(&lcore, next)| lcore == next).count();
        let last = rest[run - 1];
        text += if text.is_empty() { "" } else { "," };
        text += &if run > 1 { format!("{first}-{last}") } else { first.to_string() };
        rest = &rest[run..];
    }
    text
}

/// Who runs where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Division {
    /// The engine's workers; none if the device is elsewhere.
    pub workers: Vec<usize>,
    /// The guest's threads.
    pub drivers: Vec<usize>,
}

impl Division {
    /// Workers and drivers as asked for; by default one of each, the first lcore for the worker and the last for the driver.
    ///
    /// # Errors
    /// An lcore that this process may not use.
    pub fn new(workers: Option<&Lcores>, drivers: Option<&Lcores>, usable: &[usize]) -> Result<Self> {
        for lcore in workers.iter().chain(&drivers).flat_map(|lcores| &lcores.0) {
            ensure!(usable.contains(lcore), "lcore {lcore} is not one of those this process may use: {}", list(usable));
        }
        let (Some(&first), Some(&last)) = (usable.first(), usable.last()) else { bail!("no lcore to run on") };
        let taken = workers.map_or(&[][..], |lcores| &lcores.0);
        let drivers = match drivers {
            Some(lcores) => lcores.0.clone(),
            None => vec![usable.iter().rev().copied().find(|lcore| !taken.contains(lcore)).unwrap_or(last)],
        };
        let workers = match workers {
            Some(lcores) => lcores.0.clone(),
            None => vec![usable.iter().copied().find(|lcore| !drivers.contains(lcore)).unwrap_or(first)],
        };
        Ok(Division { workers, drivers })
    }

    /// Whether a guest's thread shares an lcore with a worker.
    pub fn is_shared(&self) -> bool {
        self.workers.iter().any(|lcore| self.drivers.contains(lcore))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn divide(workers: Option<&str>, drivers: Option<&str>, usable: &[usize]) -> Result<(Vec<usize>, Vec<usize>)> {
        let read = |text: Option<&str>| text.map(|text| text.parse::<Lcores>().unwrap());
        let division = Division::new(read(workers).as_ref(), read(drivers).as_ref(), usable)?;
        Ok((division.workers, division.drivers))
    }

    #[test]
    fn each_side_gets_an_lcore_of_its_own_where_there_are_two() {
        assert_eq!(divide(None, None, &[0, 1]).unwrap(), (vec![0], vec![1]));
        assert_eq!(divide(None, None, &[0]).unwrap(), (vec![0], vec![0]));
        assert_eq!(divide(Some("3"), None, &[0, 1, 2, 3]).unwrap(), (vec![3], vec![2]));
        assert_eq!(divide(None, Some("0-1"), &[0, 1, 2]).unwrap(), (vec![2], vec![0, 1]));
        assert_eq!(divide(Some("0,1"), None, &[0, 1]).unwrap(), (vec![0, 1], vec![1]));
    }

    #[test]
    fn lcores_that_are_not_there_are_refused_by_number() {
        let error = divide(Some("0-2"), None, &[0, 1]).unwrap_err().to_string();
        assert!(error.contains("lcore 2 ") && error.contains(": 0-1"), "{error}");
    }

    #[test]
    fn a_list_reads_back_as_it_was() {
        for (lcores, text) in
            [(&[2, 3, 4, 8][..], "2-4,8"), (&[0], "0"), (&[1, 3, 5, 6], "1,3,5-6"), (&[7, 6], "7,6"), (&[], "")]
        {
            assert_eq!(list(lcores), text);
        }
        assert_eq!(list(&[0, 1, 2, 9]).parse(), Ok(Lcores(vec![0, 1, 2, 9])));
    }

    #[test]
    fn sharing_is_seen() {
        assert!(Division::new(None, None, &[0]).unwrap().is_shared());
        assert!(!Division::new(None, None, &[0, 1]).unwrap().is_shared());
    }
}
