//! Which ranges of lcores are measured, and what is left out.

use anyhow::{Result, bail};

use super::args::SweepArgs;
use crate::lcore::{self, Division};
use crate::report::counted;

/// Workers without a word about how many.
const DEFAULT_WIDTHS: [usize; 3] = [1, 2, 4];

/// The divisions of a sweep: each range of workers, and the same drivers for all.
#[derive(Debug, PartialEq, Eq)]
pub struct Ranges {
    /// In the order of the table: narrow ones first.
    pub divisions: Vec<Division>,
    /// What was not done as asked for.
    pub notes: Vec<String>,
}

impl Ranges {
    /// As the command line says, out of the lcores that this process may use.
    ///
    /// # Errors
    /// An lcore that this process may not use, or nothing is left to measure.
    pub fn new(args: &SweepArgs, usable: &[usize]) -> Result<Self> {
        let drivers = Division::new(args.lcores.as_ref(), args.driver_lcores.as_ref(), usable)?.drivers;
        let mut widths: Vec<usize> = args.workers.iter().map(|&count| usize::from(count)).collect();
        widths.sort_unstable();
        widths.dedup();
        let mut notes = Vec::new();
        let ranges: Vec<Vec<usize>> = match &args.lcores {
            Some(list) => {
                let all = (1..=list.0.len()).collect();
                let widths = if widths.is_empty() { all } else { widths };
                leave_out(&widths, list.0.len(), "--lcores has", &mut notes);
                widths.iter().flat_map(|&width| list.0.windows(width).map(<[usize]>::to_vec)).collect()
            }
            None => first_of_each(&widths, &drivers, usable, &mut notes),
        };
        if ranges.is_empty() {
            bail!("{}: nothing is left to measure", notes.join("; "));
        }
        let divide = |workers| Division { workers, drivers: drivers.clone() };
        let divisions: Vec<Division> = ranges.into_iter().map(divide).collect();
        let shared: Vec<_> =
            divisions.iter().filter(|division| division.is_shared()).map(|d| lcore::list(&d.workers)).collect();
        if !shared.is_empty() {
            notes.push(format!(
                "the guest is on lcore {}: with workers on {} the two take turns, and the figures say little about either",
                lcore::list(&drivers),
                shared.join("; ")
            ));
        }
        Ok(Ranges { divisions, notes })
    }
}

/// The first lcores that the guest has not; where that many were asked for, the guest's, too.
fn first_of_each(widths: &[usize], drivers: &[usize], usable: &[usize], notes: &mut Vec<String>) -> Vec<Vec<usize>> {
    let mut spare: Vec<usize> = usable.iter().copied().filter(|lcore| !drivers.contains(lcore)).collect();
    let is_asked_for = !widths.is_empty();
    if is_asked_for || spare.is_empty() {
        spare.extend(usable.iter().filter(|lcore| drivers.contains(lcore)));
    }
    let widths = if is_asked_for { widths } else { &DEFAULT_WIDTHS };
    let of = if is_asked_for { "this process may use" } else { "the guest leaves" };
    leave_out(widths, spare.len(), of, notes);
    let range = |&width: &usize| {
        let mut range = spare.get(..width)?.to_vec();
        range.sort_unstable();
        Some(range)
    };
    widths.iter().filter_map(range).collect()
}

fn leave_out(widths: &[usize], room: usize, of: &str, notes: &mut Vec<String>) {
    let too_many: Vec<String> = widths.iter().filter(|&&width| width > room).map(usize::to_string).collect();
    if !too_many.is_empty() {
        notes.push(format!("{} workers were left out: {of} {}", too_many.join(" and "), counted(room, "lcore")));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Command};

    /// Ranges of workers, the drivers, the notes.
    type Found = (Vec<Vec<usize>>, Vec<usize>, Vec<String>);

    fn ranges(options: &[&str], usable: &[usize]) -> Result<Found> {
        let arguments = Arguments::parse_from([&["virtnet-perf", "sweep"], options].concat());
        let Command::Sweep(args) = arguments.command else { panic!("sweep was asked for") };
        let Ranges { divisions, notes } = Ranges::new(&args, usable)?;
        let drivers = divisions[0].drivers.clone();
        assert!(divisions.iter().all(|division| division.drivers == drivers));
        Ok((divisions.into_iter().map(|division| division.workers).collect(), drivers, notes))
    }

    #[test]
    fn a_large_machine_is_swept_without_a_word() {
        let usable: Vec<usize> = (0..8).collect();
        let (found, drivers, notes) = ranges(&[], &usable).unwrap();
        assert_eq!(found, [vec![0], vec![0, 1], vec![0, 1, 2, 3]]);
        assert_eq!((drivers, notes.len()), (vec![7], 0));
    }

    #[test]
    fn every_range_of_a_list_is_measured() {
        let usable: Vec<usize> = (0..12).collect();
        let (found, drivers, notes) = ranges(&["--lcores", "2-4,8"], &usable).unwrap();
        let narrow = [vec![2], vec![3], vec![4], vec![8], vec![2, 3], vec![3, 4], vec![4, 8]];
        assert_eq!(found, [&narrow[..], &[vec![2, 3, 4], vec![3, 4, 8], vec![2, 3, 4, 8]]].concat());
        assert_eq!((drivers, notes.len()), (vec![11], 0));
        let (found, ..) = ranges(&["--lcores", "2-4", "--workers", "3,2"], &usable).unwrap();
        assert_eq!(found, [vec![2, 3], vec![3, 4], vec![2, 3, 4]]);
    }

    #[test]
    fn what_a_small_machine_cannot_do_is_said() {
        let (found, drivers, notes) = ranges(&[], &[0, 1]).unwrap();
        assert_eq!((found, drivers), (vec![vec![0]], vec![1]));
        assert_eq!(notes, ["2 and 4 workers were left out: the guest leaves 1 lcore"]);
        let (found, drivers, notes) = ranges(&["--workers", "1,2,3"], &[0, 1]).unwrap();
        assert_eq!((found, drivers), (vec![vec![0], vec![0, 1]], vec![1]));
        assert_eq!(notes.len(), 2);
        assert!(notes[0].starts_with("3 workers were left out: this process may use 2 lcores"), "{notes:?}");
        assert!(notes[1].contains("with workers on 0-1 the two take turns"), "{notes:?}");
        let (found, drivers, notes) = ranges(&[], &[5]).unwrap();
        assert_eq!((found, drivers, notes.len()), (vec![vec![5]], vec![5], 2));
    }

    #[test]
    fn what_leaves_nothing_is_refused() {
        assert!(ranges(&["--workers", "4"], &[0, 1]).unwrap_err().to_string().contains("may use 2 lcores"));
        assert!(
            ranges(&["--lcores", "0", "--workers", "2"], &[0, 1]).unwrap_err().to_string().contains("--lcores has 1")
        );
        assert!(ranges(&["--lcores", "7"], &[0, 1]).unwrap_err().to_string().contains("lcore 7"));
    }
}
