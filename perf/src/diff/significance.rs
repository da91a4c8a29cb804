//! Whether two samples differ, and by what factor: a rank test, which asks for no shape of the distribution, a bootstrapped ratio
//! of medians, and Holm's correction, so that of many comparisons not one by chance seems to show a difference.

use std::f64::consts::SQRT_2;

use crate::statistics::{Draw, Interval, RESAMPLINGS, median, quantile};

/// Values up to which the rank test goes through all ways in which they could have fallen.
const EXACT_MAX: usize = 40;

/// How likely samples at least as far apart are, if both are drawn from the same: Mann and Whitney's test, two-sided. Exact for
/// few values, ties included; for more by the normal distribution, corrected for ties and continuity. 1 where there is nothing to
/// compare.
pub fn rank_test(one: &[f64], other: &[f64]) -> f64 {
    if one.is_empty() || other.is_empty() {
        return 1.0;
    }
    let ranked = Ranked::of(one, other);
    if one.len() + other.len() <= EXACT_MAX { ranked.exact() } else { ranked.normal() }
}

/// The lowest that [`rank_test`] can say of so many values: what it says when all of one side are above all of the other.
pub fn least_p(one: usize, other: usize) -> f64 {
    let ways = (0..one.min(other)).fold(1.0, |ways, k| ways * (one + other - k) as f64 / (k + 1) as f64);
    (2.0 / ways).min(1.0)
}

struct Ranked {
    /// Values in the first sample.
    count: usize,
    /// Of each value of both samples, smallest first: doubled, so that a rank shared by two is whole.
    doubled_ranks: Vec<usize>,
    /// Of those of the first sample.
    doubled_sum: usize,
    /// Sum of t^3 - t over the groups of t equal values.
    ties: f64,
}

impl Ranked {
    fn of(one: &[f64], other: &[f64]) -> Self {
        let mut values: Vec<(f64, bool)> =
            one.iter().map(|&value| (value, true)).chain(other.iter().map(|&value| (value, false))).collect();
        values.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut ranked = Ranked { count: one.len(), doubled_ranks: Vec::new(), doubled_sum: 0, ties: 0.0 };
        for equal in values.chunk_by(|a, b| a.0 == b.0) {
            let before = ranked.doubled_ranks.len();
            // Twice the mean of the ranks before + 1 to before + t.
            let rank = 2 * before + equal.len() + 1;
            ranked.doubled_ranks.extend(equal.iter().map(|_| rank));
            ranked.doubled_sum += rank * equal.iter().filter(|(_, first)| *first).count();
            ranked.ties += (equal.len() as f64).powi(3) - equal.len() as f64;
        }
        ranked
    }

    /// How far the first sample's sum of ranks is from what is expected of it.
    fn distance(&self, doubled_sum: usize) -> f64 {
        let expected = self.count * (self.doubled_ranks.len() + 1);
        (doubled_sum as f64 - expected as f64).abs()
    }

    /// Of all ways to choose so many of these ranks, the part whose sum is as far out.
    fn exact(&self) -> f64 {
        let sum_max: usize = self.doubled_ranks.iter().sum();
        // By number of ranks and by their sum: in how many ways these can be chosen.
        let mut ways = vec![vec![0.0; sum_max + 1]; self.count + 1];
        ways[0][0] = 1.0;
        for &rank in &self.doubled_ranks {
            for chosen in (1..=self.count).rev() {
                let (fewer, more) = ways.split_at_mut(chosen);
                for (sum, way) in more[0].iter_mut().enumerate().skip(rank) {
                    *way += fewer[chosen - 1][sum - rank];
                }
            }
        }
        let ways = &ways[self.count];
        let distance = self.distance(self.doubled_sum);
        let far: f64 =
            ways.iter().enumerate().filter(|(sum, _)| self.distance(*sum) >= distance).map(|(_, ways)| ways).sum();
        (far / ways.iter().sum::<f64>()).min(1.0)
    }

    fn normal(&self) -> f64 {
        let (n, all) = (self.count as f64, self.doubled_ranks.len() as f64);
        let variance = n * (all - n) / 12.0 * (all + 1.0 - self.ties / (all * (all - 1.0)));
        let z = (self.distance(self.doubled_sum) / 2.0 - 0.5).max(0.0) / variance.sqrt();
        if z.is_finite() { libm::erfc(z / SQRT_2).min(1.0) } else { 1.0 }
    }
}

/// The median of `new` over that of `old`, with its 95 % interval by bootstrap of both.
pub fn ratio_of_medians(old: &[f64], new: &[f64]) -> Interval {
    let ratio = |old: &[f64], new: &[f64]| median(new) / median(old);
    let mut draw = Draw::default();
    let (mut some_old, mut some_new) = (vec![0.0; old.len()], vec![0.0; new.len()]);
    let ratios: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            some_old.fill_with(|| draw.one_of(old));
            some_new.fill_with(|| draw.one_of(new));
            ratio(&some_old, &some_new)
        })
        .collect();
    Interval { median: ratio(old, new), low: quantile(&ratios, 0.025), high: quantile(&ratios, 0.975) }
}

/// The ratio of two medians that each come with a 95 % interval and no values, and how likely a ratio as far from 1 is by chance:
/// their logarithms taken as normally distributed.
pub fn ratio_of_intervals(old: Interval, new: Interval) -> (Interval, f64) {
    const SIGMAS: f64 = 1.959_964;
    let spread = |interval: Interval| (interval.high / interval.low).ln() / (2.0 * SIGMAS);
    let sigma = spread(old).hypot(spread(new));
    let ratio = new.median / old.median;
    let factor = (SIGMAS * sigma).exp();
    let p = libm::erfc((ratio.ln() / sigma).abs() / SQRT_2);
    let p = if ratio == 1.0 || p.is_nan() { 1.0 } else { p };
    (Interval { median: ratio, low: ratio / factor, high: ratio * factor }, p)
}

/// What each of these is worth when all are asked at once: the probabilities that at least one so low comes by chance. (Holm 1979,
/// "A Simple Sequentially Rejective Multiple Test Procedure")
pub fn holm(chances: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..chances.len()).collect();
    order.sort_by(|&a, &b| chances[a].total_cmp(&chances[b]));
    let mut corrected = vec![0.0; chances.len()];
    let mut highest = 0.0_f64;
    for (place, &at) in order.iter().enumerate() {
        highest = highest.max(chances[at] * (chances.len() - place) as f64).min(1.0);
        corrected[at] = highest;
    }
    corrected
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, published: f64) {
        assert!((found - published).abs() < 5e-5, "{found} is not {published}");
    }

    #[test]
    fn the_rank_test_says_what_the_textbooks_say() {
        // Hollander and Wolfe, "Nonparametric Statistical Methods": permeability of membranes; one-sided 0.1272.
        let at_term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46];
        let early = [1.15, 0.88, 0.90, 0.74, 1.21];
        close(rank_test(&at_term, &early), 0.254_41);
        close(rank_test(&early, &at_term), 0.254_41);
        // SciPy's documentation of mannwhitneyu: ages at a diagnosis.
        close(rank_test(&[19.0, 22.0, 16.0, 29.0, 24.0], &[20.0, 11.0, 17.0, 12.0]), 0.111_11);
        // All of one above all of the other: 2 of so many ways.
        for (count, ways) in [(1, 2.0), (2, 6.0), (3, 20.0), (4, 70.0), (5, 252.0), (10, 184_756.0)] {
            let low: Vec<f64> = (0..count).map(f64::from).collect();
            let high: Vec<f64> = low.iter().map(|value| value + 100.0).collect();
            close(rank_test(&low, &high), 2.0 / ways);
            close(least_p(low.len(), high.len()), 2.0 / ways);
        }
        close(least_p(1, 39), 2.0 / 40.0);
    }

    #[test]
    fn the_rank_test_has_the_critical_values_of_the_tables() {
        /// Two samples with this U: so many pairs have the value of the first above that of the second.
        fn samples(count: usize, mut u: usize) -> (Vec<f64>, Vec<f64>) {
            let second: Vec<f64> = (0..count).map(|value| value as f64).collect();
            let first = (0..count)
                .map(|place| {
                    let above = u.min(count);
                    u -= above;
                    above as f64 - 0.5 - place as f64 / 1e3
                })
                .collect();
            (first, second)
        }
        // The largest U that is significant at 0.05, two-sided.
        for (count, critical) in [(4, 0), (5, 2), (6, 5), (7, 8), (8, 13), (9, 17), (10, 23), (15, 64), (20, 127)] {
            let p = |u| {
                let (first, second) = samples(count, u);
                rank_test(&first, &second)
            };
            assert!(p(critical) <= 0.05 && p(critical + 1) > 0.05, "{count}: {} {}", p(critical), p(critical + 1));
        }
    }

    #[test]
    fn ties_are_shared_and_equal_samples_do_not_differ() {
        assert_eq!(rank_test(&[1.0; 5], &[1.0; 5]), 1.0);
        assert_eq!(rank_test(&[1.0; 50], &[1.0; 50]), 1.0);
        assert_eq!((rank_test(&[], &[1.0]), rank_test(&[1.0], &[])), (1.0, 1.0));
        // By hand: of the ten ways to choose two of 1, 1.5 (twice 2 and 3 shared), 1.5, 4, 5 ranks, those that far out.
        close(rank_test(&[1.0, 2.0], &[2.0, 3.0, 4.0]), 0.3);
    }

    #[test]
    fn many_values_go_by_the_normal_distribution() {
        let some: Vec<f64> = (0..30).map(|i| f64::from(i * 7 % 30)).collect();
        let shifted: Vec<f64> = some.iter().map(|value| value + 5.5).collect();
        // As statrs 0.19 and SciPy have it, corrected for continuity.
        close(rank_test(&some, &shifted), 0.027_086);
        for count in [12, 16, 20] {
            let ranked = Ranked::of(&some[..count], &shifted[..count]);
            assert!((ranked.exact() - ranked.normal()).abs() < 0.005, "{count}");
        }
    }

    #[test]
    fn the_ratio_lies_in_its_interval_and_close_samples_hold_one() {
        let old: Vec<f64> = (0..9).map(|i| 10.0 + f64::from(i) / 10.0).collect();
        let new: Vec<f64> = old.iter().map(|value| value * 1.2).collect();
        let ratio = ratio_of_medians(&old, &new);
        assert!((ratio.median - 1.2).abs() < 1e-9 && ratio.low > 1.1 && ratio.high < 1.3, "{ratio:?}");
        let same = ratio_of_medians(&old, &old);
        assert!(same.low < 1.0 && same.high > 1.0 && same.median == 1.0, "{same:?}");
        let alone = ratio_of_medians(&[2.0], &[3.0]);
        assert_eq!((alone.low, alone.median, alone.high), (1.5, 1.5, 1.5));
    }

    #[test]
    fn medians_with_intervals_are_compared_by_these() {
        let interval =
            |median: f64, part: f64| Interval { median, low: median * (1.0 - part), high: median * (1.0 + part) };
        let (ratio, p) = ratio_of_intervals(interval(10.0, 0.01), interval(11.0, 0.01));
        assert!(p < 1e-6 && ratio.low > 1.08 && ratio.high < 1.12, "{ratio:?} {p}");
        let (ratio, p) = ratio_of_intervals(interval(10.0, 0.1), interval(10.5, 0.1));
        assert!(p > 0.3 && ratio.low < 1.0 && ratio.high > 1.0, "{ratio:?} {p}");
        assert_eq!(ratio_of_intervals(interval(10.0, 0.0), interval(10.0, 0.0)).1, 1.0);
    }

    #[test]
    fn many_questions_cost_certainty() {
        let published = [0.03, 0.06, 0.06, 0.02];
        for (found, published) in holm(&[0.01, 0.04, 0.03, 0.005]).into_iter().zip(published) {
            close(found, published);
        }
        assert_eq!((holm(&[]), holm(&[0.04]), holm(&[0.9, 0.8])), (vec![], vec![0.04], vec![1.0, 1.0]));
    }
}
