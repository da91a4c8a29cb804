//! What two files say of each cell, compared.

use std::collections::BTreeSet;

use serde::Serialize;

use super::cell::{Cell, Figure};
use super::side::{Samples, Side};
use super::significance::{holm, least_p, rank_test, ratio_of_intervals, ratio_of_medians};
use crate::statistics::{Interval, median};

use super::line::{Sample, Within};

/// A difference counts if one like it comes by chance less often.
const SIGNIFICANCE: f64 = 0.05;
/// Of fewer runs a side, an interval of medians holds less than it says: nothing is the same by it.
const RUNS_MIN: usize = 5;
/// The most runs a side that are recommended.
const RUNS_MAX: usize = 30;

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Better, by more than the threshold, and not by chance.
    Faster,
    /// Worse, by more than the threshold, and not by chance.
    Slower,
    /// The whole interval is within the threshold.
    Same,
    /// None of these.
    Unclear,
}

/// One side's runs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Runs {
    /// How many.
    pub runs: usize,
    /// Their median.
    pub median: f64,
}

/// One figure of one cell, of both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Compared {
    /// Always `diff`.
    pub kind: &'static str,
    /// Which cell.
    #[serde(flatten)]
    pub cell: Cell,
    /// Which figure.
    pub figure: Figure,
    /// OLD.
    pub old: Runs,
    /// NEW.
    pub new: Runs,
    /// NEW over OLD; `null` where OLD is nought.
    pub ratio: Option<f64>,
    /// Ends of its 95 % interval, where there is one.
    pub ratio_low: Option<f64>,
    /// The upper one.
    pub ratio_high: Option<f64>,
    /// How likely a difference like this is by chance, by itself.
    pub p: Option<f64>,
    /// The same, corrected for how many figures are compared.
    pub p_holm: Option<f64>,
    /// What became of it.
    pub verdict: Verdict,
    /// It rests on one run of each side: whatever held for the whole of one of them is not excluded.
    pub weak: bool,
}

/// Everything that two files say.
#[derive(Debug)]
pub struct Comparison {
    /// Figures of both.
    pub compared: Vec<Compared>,
    /// Cells of OLD only.
    pub only_old: Vec<Cell>,
    /// Cells of NEW only.
    pub only_new: Vec<Cell>,
    /// Cells that both have, but not in one placement.
    pub elsewhere: Vec<Cell>,
    /// Runs a side with which differences could be told from chance, where there are fewer.
    pub runs_needed: Option<usize>,
}

impl Comparison {
    /// Compares. A figure counts as different if it is by more than `threshold`, a part of 1.
    pub fn of(old: &Side, new: &Side, threshold: f64) -> Self {
        let mut compared: Vec<Compared> = old
            .figures
            .iter()
            .filter_map(|((cell, figure), samples)| {
                let others = new.figures.get(&(cell.clone(), *figure))?;
                Some(compare(cell, *figure, samples, others))
            })
            .collect();
        let tested: Vec<usize> = (0..compared.len()).filter(|&at| compared[at].p.is_some()).collect();
        let chances: Vec<f64> = tested.iter().filter_map(|&at| compared[at].p).collect();
        for (&at, p) in tested.iter().zip(holm(&chances)) {
            compared[at].p_holm = Some(p);
        }
        for one in &mut compared {
            one.verdict = one.judge(threshold);
        }
        let is_out_of_reach = |one: &Compared| {
            !one.weak && least_p(one.old.runs, one.new.runs) * tested.len().max(1) as f64 > SIGNIFICANCE
        };
        let runs_needed = compared.iter().any(is_out_of_reach).then(|| runs_needed(compared.len()));
        let cells = |side: &Side| side.figures.keys().map(|(cell, _)| cell.clone()).collect::<BTreeSet<_>>();
        let (in_old, in_new) = (cells(old), cells(new));
        let anywhere = |cells: &BTreeSet<Cell>| cells.iter().map(Cell::anywhere).collect::<BTreeSet<_>>();
        let (old_anywhere, new_anywhere) = (anywhere(&in_old), anywhere(&in_new));
        let common = anywhere(&in_old.intersection(&in_new).cloned().collect());
        Comparison {
            compared,
            only_old: old_anywhere.difference(&new_anywhere).cloned().collect(),
            only_new: new_anywhere.difference(&old_anywhere).cloned().collect(),
            elsewhere: old_anywhere
                .intersection(&new_anywhere)
                .filter(|cell| !common.contains(cell))
                .cloned()
                .collect(),
            runs_needed,
        }
    }

    /// How many figures became so, weakly or not.
    pub fn count(&self, verdict: Verdict, weak: bool) -> usize {
        self.compared.iter().filter(|one| one.verdict == verdict && one.weak == weak).count()
    }
}

/// Runs a side of which so many figures can each be told from chance.
fn runs_needed(figures: usize) -> usize {
    (RUNS_MIN..RUNS_MAX).find(|&runs| least_p(runs, runs) * figures as f64 <= SIGNIFICANCE).unwrap_or(RUNS_MAX)
}

fn compare(cell: &Cell, figure: Figure, old: &Samples, new: &Samples) -> Compared {
    let values = |samples: &Samples| samples.samples.iter().map(|sample| sample.value).collect::<Vec<f64>>();
    let (of_old, of_new) = (values(old), values(new));
    let alone = of_old.len() == 1 && of_new.len() == 1;
    let (ratio, p) = match (&old.samples[..], &new.samples[..]) {
        ([old], [new]) => by_themselves(old, new),
        _ => (Some(ratio_of_medians(&of_old, &of_new)), Some(rank_test(&of_old, &of_new))),
    };
    // A rate of nought is as far from any other as can be, and no factor away from it.
    let finite = |value: f64| value.is_finite().then_some(value);
    let runs = |values: &[f64]| Runs { runs: values.len(), median: median(values) };
    let (old_runs, new_runs) = (runs(&of_old), runs(&of_new));
    Compared {
        kind: "diff",
        cell: cell.clone(),
        figure,
        ratio: finite(new_runs.median / old_runs.median),
        ratio_low: ratio.and_then(|ratio| finite(ratio.low)),
        ratio_high: ratio.and_then(|ratio| finite(ratio.high)),
        p,
        p_holm: None,
        verdict: Verdict::Unclear,
        weak: alone || old.rounds || new.rounds,
        old: old_runs,
        new: new_runs,
    }
}

/// One run of each: by what each says of its own spread, if it says something.
fn by_themselves(old: &Sample, new: &Sample) -> (Option<Interval>, Option<f64>) {
    match (&old.within, &new.within) {
        (Some(Within::Blocks(old)), Some(Within::Blocks(new))) => {
            (Some(ratio_of_medians(old, new)), Some(rank_test(old, new)))
        }
        (Some(Within::Interval(old)), Some(Within::Interval(new))) => {
            let (ratio, p) = ratio_of_intervals(*old, *new);
            (Some(ratio), Some(p))
        }
        _ => (None, None),
    }
}

impl Compared {
    fn judge(&self, threshold: f64) -> Verdict {
        let is_beyond = |ratio: f64| (ratio - 1.0).abs() > threshold;
        let is_significant = self.p_holm.is_some_and(|p| p <= SIGNIFICANCE);
        let grew = self.new.median > self.old.median;
        if is_significant && self.ratio.is_none_or(is_beyond) {
            return if grew == self.figure.is_cost() { Verdict::Slower } else { Verdict::Faster };
        }
        let enough = self.weak || self.old.runs.min(self.new.runs) >= RUNS_MIN;
        match (self.ratio_low, self.ratio_high) {
            (Some(low), Some(high)) if enough && !is_beyond(low) && !is_beyond(high) => Verdict::Same,
            _ => Verdict::Unclear,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(direction: &str, class: &str) -> Cell {
        Cell { direction: direction.to_owned(), class: Some(class.to_owned()), ..Cell::default() }
    }

    fn side(figures: &[(&str, &str, Figure, &[f64])]) -> Side {
        let mut side = Side::default();
        for (direction, class, figure, values) in figures {
            let samples = values.iter().map(|&value| Sample { value, within: None }).collect();
            side.figures.insert((cell(direction, class), *figure), Samples { samples, rounds: false });
        }
        side
    }

    /// The verdict where each side has one figure.
    fn verdict(figure: Figure, old: &[f64], new: &[f64]) -> Verdict {
        let sides = [old, new].map(|values| side(&[("loopback", "near", figure, values)]));
        Comparison::of(&sides[0], &sides[1], 0.03).compared[0].verdict
    }

    const STEADY: [f64; 6] = [10.0, 10.01, 10.02, 9.99, 9.98, 10.03];

    fn times(factor: f64) -> Vec<f64> {
        STEADY.iter().map(|value| value * factor).collect()
    }

    #[test]
    fn more_is_better_of_a_rate_and_worse_of_a_cost() {
        assert_eq!(verdict(Figure::Mpps, &STEADY, &times(1.1)), Verdict::Faster);
        assert_eq!(verdict(Figure::Mpps, &STEADY, &times(0.9)), Verdict::Slower);
        for cost in [Figure::P50, Figure::P99, Figure::DeviceNs] {
            assert_eq!(verdict(cost, &STEADY, &times(1.1)), Verdict::Slower);
            assert_eq!(verdict(cost, &STEADY, &times(0.9)), Verdict::Faster);
        }
        assert_eq!(verdict(Figure::Ratio, &STEADY, &times(0.9)), Verdict::Slower);
    }

    #[test]
    fn what_is_within_the_threshold_is_the_same_however_certain_the_difference() {
        assert_eq!(verdict(Figure::Mpps, &STEADY, &times(1.02)), Verdict::Same);
        assert_eq!(verdict(Figure::Mpps, &STEADY, &times(0.985)), Verdict::Same);
        assert_eq!(verdict(Figure::Mpps, &STEADY, &STEADY), Verdict::Same);
    }

    #[test]
    fn what_may_be_either_is_unclear() {
        let wild = [6.0, 14.0, 9.0, 12.0, 7.0, 13.0];
        assert_eq!(verdict(Figure::Mpps, &STEADY, &wild), Verdict::Unclear);
        // Four runs cannot say that something is the same, three not that it differs.
        assert_eq!(verdict(Figure::Mpps, &STEADY[..4], &STEADY[..4]), Verdict::Unclear);
        assert_eq!(verdict(Figure::Mpps, &STEADY[..3], &times(2.0)[..3]), Verdict::Unclear);
        assert_eq!(verdict(Figure::Mpps, &STEADY[..4], &times(2.0)[..4]), Verdict::Faster);
        assert_eq!(verdict(Figure::P99, &[5.0], &[50.0]), Verdict::Unclear);
    }

    #[test]
    fn a_rate_of_nought_is_slower_and_from_nought_all_is_faster() {
        assert_eq!(verdict(Figure::Mpps, &STEADY, &[0.0; 6]), Verdict::Slower);
        assert_eq!(verdict(Figure::Mpps, &[0.0; 6], &STEADY), Verdict::Faster);
        assert_eq!(verdict(Figure::Mpps, &[0.0; 6], &[0.0; 6]), Verdict::Unclear);
    }

    #[test]
    fn of_many_cells_each_needs_to_be_more_certain() {
        let names: Vec<String> = (0..40).map(|number| format!("direction {number}")).collect();
        let (old, new) = (&STEADY[..4], &times(1.1)[..4]);
        let many = |values: &[f64]| {
            let figures: Vec<_> = names.iter().map(|name| (name.as_str(), "near", Figure::Mpps, values)).collect();
            side(&figures)
        };
        let comparison = Comparison::of(&many(old), &many(new), 0.03);
        assert!(comparison.compared.iter().all(|one| one.verdict == Verdict::Unclear && one.p < Some(0.05)));
        let needed = comparison.runs_needed.unwrap();
        assert!(least_p(needed, needed) * 40.0 <= 0.05 && needed == 7, "{needed}");
        assert_eq!(Comparison::of(&many(&STEADY), &many(&STEADY), 0.03).compared[0].verdict, Verdict::Same);
    }

    #[test]
    fn one_run_of_each_is_judged_by_its_blocks_and_weakly() {
        let run = |factor: f64| {
            let blocks = (0..10).map(|block| (10.0 + f64::from(block % 3) / 50.0) * factor).collect();
            let mut side = side(&[("loopback", "near", Figure::Mpps, &[10.0 * factor])]);
            side.figures
                .values_mut()
                .for_each(|samples| samples.samples[0].within = Some(Within::Blocks(Vec::clone(&blocks))));
            side
        };
        for (factor, verdict) in [(1.1, Verdict::Faster), (0.9, Verdict::Slower), (1.0, Verdict::Same)] {
            let comparison = Comparison::of(&run(1.0), &run(factor), 0.03);
            assert_eq!((comparison.compared[0].verdict, comparison.compared[0].weak), (verdict, true));
            assert_eq!((comparison.count(verdict, true), comparison.count(verdict, false)), (1, 0));
            assert_eq!(comparison.runs_needed, None);
        }
    }

    #[test]
    fn only_what_was_in_one_placement_is_compared() {
        let old = side(&[
            ("loopback", "near", Figure::Mpps, &STEADY),
            ("from-guest", "near", Figure::Mpps, &STEADY),
            ("to-guest", "near", Figure::Mpps, &STEADY),
        ]);
        let new = side(&[
            ("loopback", "far", Figure::Mpps, &times(0.3)),
            ("from-guest", "near", Figure::Mpps, &STEADY),
            ("from-guest", "far", Figure::Mpps, &times(0.3)),
            ("guest-to-guest", "near", Figure::Mpps, &STEADY),
        ]);
        let comparison = Comparison::of(&old, &new, 0.03);
        let directions = |cells: &[Cell]| cells.iter().map(|cell| cell.direction.clone()).collect::<Vec<_>>();
        assert_eq!(comparison.compared.len(), 1);
        assert_eq!(comparison.compared[0].verdict, Verdict::Same);
        assert_eq!(directions(&comparison.elsewhere), ["loopback"]);
        assert_eq!(directions(&comparison.only_old), ["to-guest"]);
        assert_eq!(directions(&comparison.only_new), ["guest-to-guest"]);
    }
}
