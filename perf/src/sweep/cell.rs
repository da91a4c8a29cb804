//! One cell of a sweep: a plan, what its rounds measured, and the report of all of them.

use hdrhistogram::Histogram;

use crate::load::histogram;
use crate::plan::Plan;
use crate::report::{Kind, Percentiles, Report, RoundFigures, SweepFigures};
use crate::statistics::{median, median_interval};

/// A cell.
#[derive(Debug)]
pub struct Cell {
    /// What is measured in each round.
    pub plan: Plan,
    /// What was, without the latencies, which are all in one place.
    rounds: Vec<Report>,
    latencies: Option<Histogram<u64>>,
}

impl Cell {
    /// Not measured yet.
    pub fn new(plan: Plan) -> Self {
        Cell { plan, rounds: Vec::new(), latencies: None }
    }

    /// Takes in a round. One that was interrupted is better than none, and worse than any other.
    pub fn add(&mut self, round: u32, mut report: Report) {
        if report.partial
            && let Some(last) = self.rounds.last_mut()
        {
            // What was found wrong is wrong all the same.
            last.integrity += report.integrity;
            last.drops += report.drops;
            return;
        }
        report.round = Some(round);
        let all = self.latencies.get_or_insert_with(histogram);
        // Of the same bounds, so it fits.
        let _ = all.add(&report.histogram);
        report.histogram = Histogram::new(0).unwrap_or(report.histogram);
        self.rounds.push(report);
    }

    /// The median rate, in millions of frames a second, if anything was measured.
    pub fn mpps(&self) -> Option<f64> {
        let rates: Vec<f64> = self.rounds.iter().map(|report| report.mpps).collect();
        (!rates.is_empty()).then(|| median(&rates))
    }

    /// Whether one worker with the same load can tell how well this cell scales.
    pub fn is_alone_with_load_of(&self, other: &Plan) -> bool {
        let plan = &self.plan;
        let load = |plan: &Plan| (plan.ring, plan.direction, plan.sizes(), plan.queues);
        plan.division.workers.len() == 1 && !plan.division.is_shared() && load(plan) == load(other)
    }

    /// The report of all rounds. `alone_mpps` is the rate of one worker with the same load, `asked` how many rounds there
    /// should be.
    pub fn report(&self, alone_mpps: Option<f64>, asked: u32) -> Option<Report> {
        let rates: Vec<f64> = self.rounds.iter().map(|report| report.mpps).collect();
        let mpps = self.mpps()?;
        // Rate over time is that of the round in the middle.
        let far = |report: &&Report| (report.mpps - mpps).abs();
        let middle = self.rounds.iter().min_by(|one, other| far(one).total_cmp(&far(other)))?;
        let sum = |pick: fn(&Report) -> u64| self.rounds.iter().map(pick).sum();
        let of_rounds = |pick: &dyn Fn(&Report) -> Option<f64>| {
            let figures: Vec<f64> = self.rounds.iter().filter_map(pick).collect();
            (!figures.is_empty()).then(|| median(&figures))
        };
        let workers = self.plan.division.workers.len() as f64;
        let mut report = middle.clone();
        report.kind = Kind::Sweep;
        report.round = None;
        report.mpps = mpps;
        report.gbit_per_s = of_rounds(&|report| Some(report.gbit_per_s))?;
        report.seconds = self.rounds.iter().map(|report| report.seconds).sum();
        report.frames_sent = sum(|report| report.frames_sent);
        report.frames_received = sum(|report| report.frames_received);
        report.drops = sum(|report| report.drops);
        for other in &self.rounds {
            let (placement, theirs) = (&mut report.placement, other.placement);
            placement.waited = placement.waited.max(theirs.waited);
            placement.stolen = placement.stolen.max(theirs.stolen);
            if placement.class != theirs.class {
                placement.class = "mixed";
            }
            for warning in &other.environment.warnings {
                if !report.environment.warnings.contains(warning) {
                    report.environment.warnings.push(warning.clone());
                }
            }
        }
        report.integrity = self.rounds.iter().map(|report| report.integrity).sum();
        report.integrity_errors = report.integrity.errors();
        report.histogram.clone_from(self.latencies.as_ref()?);
        report.latency_ns = Percentiles::of(&report.histogram);
        report.partial = self.rounds.len() < asked as usize || self.rounds.iter().any(|report| report.partial);
        report.sweep = Some(SweepFigures {
            rounds: self.rounds.iter().map(figures).collect(),
            mpps: median_interval(&rates),
            busy: of_rounds(&|report| busy(report).map(|busy| busy / workers)),
            ns_per_frame: of_rounds(&|report| (report.mpps > 0.0).then_some(busy(report)? * 1e3 / report.mpps)),
            // At a rate, the rate decides.
            efficiency: alone_mpps
                .filter(|alone| *alone > 0.0 && self.plan.rate_pps.is_none())
                .map(|alone| mpps / workers / alone),
        });
        Some(report)
    }
}

/// Lcores' worth of work, all workers together.
fn busy(report: &Report) -> Option<f64> {
    (!report.workers.is_empty()).then(|| report.workers.iter().map(|worker| worker.busy).sum())
}

fn figures(report: &Report) -> RoundFigures {
    RoundFigures {
        round: report.round.unwrap_or(0),
        mpps: report.mpps,
        p99_ns: report.latency_ns.map(|latency| latency.p99),
        class: report.placement.class,
        waited: report.placement.waited,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Direction;
    use crate::lcore::Division;
    use crate::report::tests::sample;
    use crate::sweep::tests::plan;

    fn cell(rates: &[f64]) -> Cell {
        let mut cell = Cell::new(plan(Direction::Loopback, &[0, 1], &[2]));
        for (round, &mpps) in (0..).zip(rates) {
            let mut report = sample();
            report.mpps = mpps;
            cell.add(round, report);
        }
        cell
    }

    #[test]
    fn a_cell_is_the_median_of_its_rounds_and_the_sum_of_its_frames() {
        let report = cell(&[10.0, 30.0, 12.0]).report(Some(8.0), 3).unwrap();
        assert_eq!((report.kind, report.mpps, report.partial), (Kind::Sweep, 12.0, false));
        assert_eq!(report.frames_received, 3 * sample().frames_received);
        assert_eq!(report.histogram.len(), 3 * sample().histogram.len());
        let sweep = report.sweep.unwrap();
        assert_eq!((sweep.rounds.len(), sweep.efficiency), (3, Some(0.75)));
        assert_eq!(sweep.busy, Some(0.375), "one of two workers was busy for three quarters of the time");
        assert_eq!(sweep.ns_per_frame, Some(0.75e3 / 12.0));
        assert!((sweep.mpps.low, sweep.mpps.high) == (10.0, 30.0));
        assert_eq!(cell(&[10.0]).report(None, 1).unwrap().sweep.unwrap().efficiency, None);
    }

    #[test]
    fn classes_that_differ_are_mixed_and_warnings_are_kept() {
        let mut cell = cell(&[10.0]);
        let mut far = sample();
        far.placement.class = "far";
        far.environment.warnings = vec!["the moon is full".to_owned()];
        cell.add(1, far);
        let report = cell.report(None, 2).unwrap();
        assert_eq!(report.placement.class, "mixed");
        assert!(report.environment.warnings.iter().any(|warning| warning.contains("moon")));
    }

    #[test]
    fn an_interrupted_round_counts_only_if_there_is_no_other() {
        let interrupted = || {
            let mut report = sample();
            (report.partial, report.mpps) = (true, 1.0);
            report.integrity.lost = 3;
            report
        };
        let mut whole = cell(&[10.0]);
        whole.add(1, interrupted());
        let report = whole.report(None, 2).unwrap();
        assert_eq!((report.mpps, report.partial, report.integrity_errors), (10.0, true, 3));
        let mut alone = cell(&[]);
        assert!(alone.report(None, 2).is_none());
        alone.add(0, interrupted());
        assert_eq!(alone.report(None, 2).unwrap().mpps, 1.0);
    }

    #[test]
    fn only_one_worker_with_the_same_load_is_a_measure() {
        let two = plan(Direction::Loopback, &[0, 1], &[2]);
        let alone =
            |direction, workers: &[usize]| Cell::new(plan(direction, workers, &[2])).is_alone_with_load_of(&two);
        assert!(alone(Direction::Loopback, &[1]));
        assert!(!alone(Direction::Loopback, &[0, 1]) && !alone(Direction::FromGuest, &[1]));
        assert!(!alone(Direction::Loopback, &[2]), "it shares its lcore with the guest");
        assert!(Division { workers: vec![2], drivers: vec![2] }.is_shared());
    }
}
