//! Histogram files in the formats of HdrHistogram's own tools and plotters; values in microseconds, as those expect.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::Report;
use crate::output::write_file;

const NS_PER_US: f64 = 1000.0;
/// Lines per halving of the distance to 100 %, as the reference implementation has it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Writes `path`: an interval log if it ends in `.hlog`; else percentile text, one file a report, the report's name before the
/// extension where there are several.
pub fn write(path: &Path, reports: &[Report]) -> Result<()> {
    if path.extension().is_some_and(|extension| extension == "hlog") {
        return write_file(path, |out| write_log(out, reports));
    }
    let mut each = reports.iter().enumerate();
    each.try_for_each(|(index, report)| {
        write_file(&file_name(path, reports, index), |out| write_percentiles(out, &report.histogram))
    })
}

fn file_name(path: &Path, reports: &[Report], index: usize) -> PathBuf {
    if reports.len() == 1 {
        return path.to_owned();
    }
    let name = reports[index].name();
    // Rounds of one name are told apart by their number.
    let again = reports[..index].iter().filter(|other| other.name() == name).count();
    let again = if again == 0 { String::new() } else { format!("-{}", again + 1) };
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let extension = path.extension().map_or(String::new(), |extension| format!(".{}", extension.to_string_lossy()));
    path.with_file_name(format!("{stem}-{name}{again}{extension}"))
}

/// The text that `HistogramLogProcessor` and `outputPercentileDistribution` give.
fn write_percentiles(out: &mut impl Write, histogram: &Histogram<u64>) -> io::Result<()> {
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let value = step.value_iterated_to() as f64 / NS_PER_US;
        let part = step.quantile_iterated_to();
        let count = (step.quantile() * histogram.len() as f64).round() as u64;
        if part < 1.0 {
            writeln!(out, "{value:12.3} {part:2.12} {count:10} {:14.2}", 1.0 / (1.0 - part))?;
        } else {
            writeln!(out, "{value:12.3} {part:2.12} {count:10}")?;
        }
    }
    let us = |value: f64| value / NS_PER_US;
    writeln!(out, "#[Mean    = {:12.3}, StdDeviation   = {:12.3}]", us(histogram.mean()), us(histogram.stdev()))?;
    writeln!(out, "#[Max     = {:12.3}, Total count    = {:12}]", us(histogram.max() as f64), histogram.len())?;
    writeln!(out, "#[Buckets = {:12}, SubBuckets     = {:12}]", histogram.buckets(), sub_buckets(histogram))
}

/// As the reference implementation counts them: a power of two that keeps the significant digits apart.
fn sub_buckets(histogram: &Histogram<u64>) -> u64 {
    (2 * 10_u64.pow(u32::from(histogram.sigfig()))).next_power_of_two()
}

fn write_log(out: &mut impl Write, reports: &[Report]) -> io::Result<()> {
    let since_epoch = |report: &Report| Duration::try_from_secs_f64(report.started_at_s).unwrap_or_default();
    let first = reports.first().map_or(Duration::ZERO, since_epoch);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("[Logged with virtnet-perf, values in nanoseconds]")
        .with_start_time(SystemTime::UNIX_EPOCH + first)
        .with_base_time(SystemTime::UNIX_EPOCH + first)
        .with_max_value_divisor(NS_PER_US)
        .begin_log_with(out, &mut serializer)?;
    for report in reports.iter().filter(|report| !report.histogram.is_empty()) {
        let start = since_epoch(report).saturating_sub(first);
        let name = report.name();
        log.write_histogram(&report.histogram, start, Duration::from_secs_f64(report.seconds), Tag::new(&name))
            .map_err(|error| io::Error::other(format!("{error:?}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::Deserializer;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    use super::super::tests::sample;
    use super::*;

    #[test]
    fn percentile_text_has_the_columns_that_plotters_read() {
        let mut out = Vec::new();
        let report = sample();
        write_percentiles(&mut out, &report.histogram).unwrap();
        let text = String::from_utf8(out).unwrap();
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let rows: Vec<Vec<f64>> = lines
            .by_ref()
            .take_while(|line| !line.starts_with('#'))
            .map(|line| line.split_whitespace().map(|word| word.parse().unwrap()).collect())
            .collect();
        assert!(rows.len() > 20);
        assert!(
            rows.windows(2)
                .all(|pair| pair[0][0] <= pair[1][0] && pair[0][1] <= pair[1][1] && pair[0][2] <= pair[1][2])
        );
        let (last, before) = rows.split_last().unwrap();
        assert_eq!((last[1], last[2], last.len()), (1.0, 10_000.0, 3));
        assert!((last[0] - 100.0).abs() < 0.1 && before.iter().all(|row| row.len() == 4));
        assert!(text.contains("SubBuckets     =         2048]"), "{text}");
        assert!(text.contains("Total count    =        10000]"), "{text}");
    }

    #[test]
    fn the_log_reads_back_with_tags_and_all_values() {
        let mut out = Vec::new();
        let report = sample();
        write_log(&mut out, &[sample(), sample()]).unwrap();
        let histograms: Vec<_> = IntervalLogIterator::new(&out)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(histograms.len(), 2);
        assert_eq!(histograms[0].tag().unwrap().as_str(), "packed-guest-to-guest-64");
        let bytes = decode_base64(histograms[0].encoded_histogram());
        let read: Histogram<u64> = Deserializer::new().deserialize(&mut &bytes[..]).unwrap();
        assert_eq!(read, report.histogram);
    }

    fn decode_base64(text: &str) -> Vec<u8> {
        const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let (mut bytes, mut bits, mut held) = (Vec::new(), 0_u32, 0);
        for digit in text.bytes().filter_map(|c| ALPHABET.iter().position(|&a| a == c)) {
            bits = bits << 6 | digit as u32;
            held += 6;
            if held >= 8 {
                held -= 8;
                bytes.push((bits >> held) as u8);
            }
        }
        bytes
    }

    #[test]
    fn several_reports_go_to_files_of_their_own_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.hgrm");
        write(&path, &[sample(), sample()]).unwrap();
        assert!(folder.path().join("out-packed-guest-to-guest-64.hgrm").exists());
        assert!(folder.path().join("out-packed-guest-to-guest-64-2.hgrm").exists());
        write(&path, &[sample()]).unwrap();
        assert!(path.exists());
    }
}
