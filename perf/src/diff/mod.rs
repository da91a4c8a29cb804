//! `diff`: two files of reports, and what became faster or slower between them.

mod cell;
mod line;
mod show;
mod side;
mod significance;
mod verdict;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Args;

use crate::{EXIT_INTEGRITY, output};
use show::Summary;
use side::Side;
use verdict::Comparison;

/// A figure is worse than it was, by more than the threshold and not by chance.
const EXIT_REGRESSION: u8 = 4;

/// `diff`.
#[derive(Clone, Debug, Args)]
pub struct DiffArgs {
    /// Reports as --json of any subcommand wrote them: several runs of the same are its samples, so append as many as there are
    pub old: PathBuf,
    /// The same of what is to be judged
    pub new: PathBuf,
    /// What counts as a difference, in percent
    #[arg(long, value_name = "N%", default_value = "3%", value_parser = percent)]
    pub threshold: f64,
    /// Leave out runs in which a side waited for its lcore for more than this part of the time
    #[arg(long, value_name = "PART", default_value = "0.05", value_parser = crate::args::part_of_one)]
    pub waited_max: f64,
    /// One JSON object a figure, one a line, and one of what is around them, to a file or (-) to standard output; docs/perf.md
    /// names the keys
    #[arg(long, value_name = "FILE|-")]
    pub json: Option<PathBuf>,
}

/// As a part of 1.
fn percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).parse().unwrap_or(f64::NAN);
    if (0.0..100.0).contains(&percent) {
        Ok(percent / 100.0)
    } else {
        Err("0 to below 100 percent, as in 3%".to_owned())
    }
}

/// Compares, and shows it.
///
/// # Errors
/// A file that cannot be read, or that `virtnet-perf` did not write; no figure that both have.
pub fn run(args: &DiffArgs) -> Result<ExitCode> {
    let old = Side::read(&args.old, args.waited_max)?;
    let new = Side::read(&args.new, args.waited_max)?;
    let comparison = Comparison::of(&old, &new, args.threshold);
    let summary = Summary::of(&old, &new, &comparison, args.threshold);
    let text = show::render(&comparison, &summary);
    output::publish(&text, args.json.as_deref(), |out| show::write_json(out, &comparison, &summary))?;
    if summary.integrity_errors > 0 {
        return Ok(ExitCode::from(EXIT_INTEGRITY));
    }
    let runs_left_out: u64 = old.left_out.values().chain(new.left_out.values()).sum();
    ensure!(
        !comparison.compared.is_empty(),
        "nothing to compare: no cell is in both, {runs_left_out} runs were left out"
    );
    Ok(if summary.slower > 0 { ExitCode::from(EXIT_REGRESSION) } else { ExitCode::SUCCESS })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_threshold_is_in_percent() {
        assert_eq!((percent("3%"), percent("0"), percent("12.5%")), (Ok(0.03), Ok(0.0), Ok(0.125)));
        for text in ["", "%", "-1%", "100%", "nan", "3%%"] {
            assert!(percent(text).is_err(), "{text}");
        }
    }
}
