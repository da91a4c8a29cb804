//! What goes into virtnet.conf.

use serde::Serialize;

use crate::lcore;

/// The product's cores.
const PRODUCT_CORES: std::ops::RangeInclusive<usize> = 1..=10;

/// The keys of a configuration file that say what was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Lines {
    /// `lcores`.
    pub lcores: String,
    /// `idle`, as the workers were measured.
    pub idle: &'static str,
    /// `burst`, too.
    pub burst: u16,
    /// `dpa_core_start`, as the product has it; `null` where it cannot say this range.
    pub dpa_core_start: Option<usize>,
    /// `dpa_core_end`, which belongs to the range.
    pub dpa_core_end: Option<usize>,
}

impl Lines {
    /// Of workers on these lcores.
    pub fn new(lcores: &[usize], shared: bool, burst: u16) -> Self {
        let range = product_range(lcores).ok();
        Lines {
            lcores: lcore::list(lcores),
            idle: if shared { "adaptive" } else { "poll" },
            burst,
            dpa_core_start: range.map(|(start, _)| start),
            dpa_core_end: range.map(|(_, end)| end),
        }
    }

    /// Ours.
    pub fn own(&self) -> String {
        let Lines { lcores, idle, burst, .. } = self;
        format!("\"lcores\": \"{lcores}\", \"idle\": \"{idle}\", \"burst\": {burst}")
    }

    /// The product's.
    pub fn product(&self) -> Option<String> {
        let (start, end) = (self.dpa_core_start?, self.dpa_core_end?);
        Some(format!("\"dpa_core_start\": {start}, \"dpa_core_end\": {end}"))
    }
}

/// The first and the last core of a range as the product has it, the last one belonging to it, or why there is none.
pub fn product_range(lcores: &[usize]) -> Result<(usize, usize), &'static str> {
    let (Some(&first), Some(&last)) = (lcores.first(), lcores.last()) else { return Err("there is no lcore") };
    if last - first + 1 != lcores.len() {
        Err("it cannot say lcores with others between them")
    } else if lcores.len() < 2 {
        Err("its end is above its start: two lcores are the fewest")
    } else if !PRODUCT_CORES.contains(&first) || !PRODUCT_CORES.contains(&last) {
        Err("its cores are 1 to 10")
    } else {
        Ok((first, last))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use virtnet_control::config::Config;

    use super::*;

    #[test]
    fn our_lines_are_read_by_our_controller() {
        for (lcores, shared) in [(&[2, 3, 4][..], false), (&[0], true), (&[1, 4, 5, 9], false)] {
            let lines = Lines::new(lcores, shared, 64);
            let text = format!("{{{}, \"devices\": []}}", lines.own());
            let config = Config::parse(&text, Path::new("virtnet.conf")).unwrap();
            assert_eq!((config.lcores.0.as_slice(), config.burst), (lcores, 64), "{text}");
        }
    }

    #[test]
    fn the_products_keys_say_ranges_of_two_and_more() {
        let lines = |lcores: &[usize]| Lines::new(lcores, false, 32).product();
        for (lcores, text) in [
            (&[3, 4, 5][..], "\"dpa_core_start\": 3, \"dpa_core_end\": 5"),
            (&[9, 10], "\"dpa_core_start\": 9, \"dpa_core_end\": 10"),
        ] {
            assert_eq!(lines(lcores).as_deref(), Some(text));
            let config = Config::parse(&format!("{{{text}}}"), Path::new("virtnet.conf")).unwrap();
            assert_eq!(config.lcores_of(lcores).0.0, lcores);
        }
        for (lcores, why) in
            [(&[3, 5][..], "between"), (&[3], "two lcores"), (&[0, 1], "1 to 10"), (&[10, 11], "1 to 10")]
        {
            assert_eq!(lines(lcores), None, "{lcores:?}");
            assert!(product_range(lcores).unwrap_err().contains(why), "{lcores:?}");
        }
        assert!(product_range(&[]).is_err());
    }
}
