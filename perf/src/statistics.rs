//! Medians, spreads, and ratios with the interval that holds them.

/// Resamplings behind an interval.
pub const RESAMPLINGS: usize = 2000;

/// Draws values with replacement, the same ones every time.
#[derive(Debug)]
pub struct Draw(u64);

impl Default for Draw {
    fn default() -> Self {
        Draw(0x2545_f491_4f6c_dd1d)
    }
}

impl Draw {
    /// One of the values.
    ///
    /// # Panics
    /// If there are none.
    pub fn one_of(&mut self, values: &[f64]) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        values[(self.0 % values.len() as u64) as usize]
    }
}

/// The value below which a `part` (0 to 1) of the values lie, interpolated; NaN of none.
pub fn quantile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    quantile_of_sorted(&sorted, part)
}

fn quantile_of_sorted(sorted: &[f64], part: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let place = part.clamp(0.0, 1.0) * last as f64;
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    below + (above - below) * place.fract()
}

/// The middle value; NaN of none.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// A median, and the interval that holds it with 95 % confidence.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    /// The median.
    pub median: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// Median with its 95 % interval by bootstrap: the medians of the values drawn again and again with replacement. The draw is
/// the same every time, so the same values give the same interval.
pub fn median_interval(values: &[f64]) -> Interval {
    let mut draw = Draw::default();
    let median_of_all = median(values);
    if values.len() < 2 {
        return Interval { median: median_of_all, low: median_of_all, high: median_of_all };
    }
    let mut sample = vec![0.0; values.len()];
    let mut medians: Vec<f64> = (0..RESAMPLINGS)
        .map(|_| {
            sample.fill_with(|| draw.one_of(values));
            sample.sort_by(f64::total_cmp);
            quantile_of_sorted(&sample, 0.5)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    Interval {
        median: median_of_all,
        low: quantile_of_sorted(&medians, 0.025),
        high: quantile_of_sorted(&medians, 0.975),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_the_textbook() {
        let values = [9.0, 1.0, 3.0, 7.0, 5.0];
        assert_eq!(median(&values), 5.0);
        assert_eq!(median(&values[..4]), 5.0);
        assert_eq!((quantile(&values, 0.0), quantile(&values, 1.0), quantile(&values, 0.1)), (1.0, 9.0, 1.8));
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn the_interval_narrows_with_steadier_values_and_holds_the_median() {
        let wide: Vec<f64> = (0..21).map(|i| 1.0 + f64::from(i % 7) / 10.0).collect();
        let narrow: Vec<f64> = wide.iter().map(|v| 1.0 + (v - 1.0) / 10.0).collect();
        let (wide, narrow) = (median_interval(&wide), median_interval(&narrow));
        assert!(wide.low <= wide.median && wide.median <= wide.high && wide.high > wide.low);
        assert!(narrow.high - narrow.low < wide.high - wide.low);
        let alone = median_interval(&[2.0]);
        assert_eq!((alone.median, alone.low, alone.high), (2.0, 2.0, 2.0));
        assert!(median_interval(&[]).median.is_nan());
    }

    #[test]
    fn one_outlier_moves_neither_median_nor_interval_far() {
        let mut values = vec![1.0; 20];
        values.push(100.0);
        assert_eq!(median_interval(&values), Interval { median: 1.0, low: 1.0, high: 1.0 });
    }
}
