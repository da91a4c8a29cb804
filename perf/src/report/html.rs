//! A page with table and plots, everything in it: no script, no font, no picture from elsewhere.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::Value;

use super::{Kind, Percentiles, Report, Results};
use crate::statistics::quantile;

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

/// Readable on light and dark ground, and without colour sight: lines are dashed apart, too.
const COLOURS: [&str; 8] = ["#3b82c4", "#d9822b", "#3a9d5d", "#c4463b", "#8b6fc0", "#8c6d46", "#c765a4", "#7f8c2b"];
const DASHES: [&str; 3] = ["", "7 3", "2 3"];

const STYLE: &str = "
:root{color-scheme:light dark;--ground:#fff;--ink:#1c2024;--faint:#667;--line:#ccd}
@media(prefers-color-scheme:dark){:root{--ground:#14171a;--ink:#e4e7ea;--faint:#9aa3ad;--line:#3a4048}}
body{background:var(--ground);color:var(--ink);font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
.wide{overflow-x:auto}
th,td{padding:.25rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg{width:100%;height:auto}svg text{fill:var(--faint);font:12px system-ui,sans-serif}
.grid{stroke:var(--line);stroke-width:1}.plot{fill:none;stroke-width:1.8}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;list-style:none;padding:0}.legend svg{width:2.2rem;height:.7rem;margin-right:.4rem}
.good{color:#3a9d5d}.bad{color:#d0453a;font-weight:600}
";

/// Writes the page.
pub fn write(out: &mut impl Write, results: &Results) -> io::Result<()> {
    let mut page = String::new();
    compose(&mut page, results).map_err(|_| io::Error::other("the page could not be composed"))?;
    out.write_all(page.as_bytes())
}

fn compose(page: &mut String, results: &Results) -> std::fmt::Result {
    write!(page, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">")?;
    write!(page, "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">")?;
    write!(page, "<title>virtnet-perf</title><style>{STYLE}</style></head><body><h1>virtnet-perf</h1>")?;
    let errors = results.integrity_errors();
    if errors == 0 {
        write!(
            page,
            "<p class=\"good\">Every frame is accounted for; no corruption, loss, reordering or duplication.</p>"
        )?;
    } else {
        write!(page, "<p class=\"bad\">{errors} frames were silently lost, corrupted, reordered or duplicated.</p>")?;
    }
    if results.reports.iter().any(|report| report.partial) {
        write!(page, "<p class=\"bad\">Interrupted: the figures are of what was done until then.</p>")?;
    }
    runs(page, &results.reports)?;
    comparisons(page, results)?;
    let measured: Vec<&Report> = results.reports.iter().filter(|report| !report.evenness.mpps.is_empty()).collect();
    if !measured.is_empty() {
        write!(page, "<h2>Rate over time</h2>")?;
        let series: Vec<_> = measured.iter().map(|report| (report.name(), rate_over_time(report))).collect();
        let longest = measured.iter().map(|report| report.seconds).fold(0.0, f64::max);
        let x = Axis::linear(longest, "seconds");
        plot(page, &x, &Axis::linear(highest(&series), "Mpps"), &series)?;
    }
    let timed: Vec<&Report> = results.reports.iter().filter(|report| !report.histogram.is_empty()).collect();
    if !timed.is_empty() {
        write!(page, "<h2>Latency by percentile</h2>")?;
        let series: Vec<_> = timed.iter().map(|report| (report.name(), latency_curve(report))).collect();
        plot(page, &Axis::percentiles(), &Axis::decades(&series), &series)?;
    }
    environment(page, &results.reports)?;
    write!(page, "</body></html>")
}

fn runs(page: &mut String, reports: &[Report]) -> std::fmt::Result {
    let shown: Vec<&Report> = reports.iter().filter(|report| report.kind != Kind::Round).collect();
    if shown.is_empty() {
        return Ok(());
    }
    write!(page, "<div class=\"wide\"><table><tr>")?;
    for title in [
        "",
        "Mpps",
        "Gbit/s",
        "p5",
        "p95",
        "sent",
        "received",
        "drops",
        "errors",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "max µs",
    ] {
        write!(page, "<th>{title}</th>")?;
    }
    write!(page, "</tr>")?;
    for report in shown {
        let part =
            |part| if report.evenness.mpps.is_empty() { f64::NAN } else { quantile(&report.evenness.mpps, part) };
        write!(page, "<tr><td>{}</td>", escape(&report.name()))?;
        for figure in [report.mpps, report.gbit_per_s, part(0.05), part(0.95)] {
            cell(page, figure, 2)?;
        }
        for count in [report.frames_sent, report.frames_received, report.drops, report.integrity_errors] {
            write!(page, "<td>{count}</td>")?;
        }
        let picks: [fn(&Percentiles) -> u64; 4] = [|l| l.p50, |l| l.p99, |l| l.p99_9, |l| l.max];
        for pick in picks {
            cell(page, report.latency_ns.as_ref().map_or(f64::NAN, |latency| pick(latency) as f64 / 1e3), 1)?;
        }
        write!(page, "</tr>")?;
    }
    write!(page, "</table></div>")
}

fn cell(page: &mut String, figure: f64, digits: usize) -> std::fmt::Result {
    if figure.is_nan() { write!(page, "<td>–</td>") } else { write!(page, "<td>{figure:.digits$}</td>") }
}

fn comparisons(page: &mut String, results: &Results) -> std::fmt::Result {
    for comparison in &results.comparisons {
        let (a, b) = (escape(&comparison.a), escape(&comparison.b));
        write!(page, "<h2>A against B</h2><p>A: <code>{a}</code><br>B: <code>{b}</code></p>")?;
        match comparison.ratio {
            Some(ratio) => write!(
                page,
                "<p>A over B: <strong>{:.3}</strong> ({:.3} to {:.3}) over {} pairs of rounds in one placement, of {}.</p>",
                ratio.median, ratio.low, ratio.high, comparison.rounds_compared, comparison.rounds
            )?,
            None => write!(
                page,
                "<p>No pair of rounds in one placement in which neither side waited long for its lcore.</p>"
            )?,
        }
    }
    Ok(())
}

fn environment(page: &mut String, reports: &[Report]) -> std::fmt::Result {
    let Some(report) = reports.first() else { return Ok(()) };
    write!(page, "<h2>Environment</h2><table>")?;
    if let Ok(Value::Object(environment)) = serde_json::to_value(&report.environment) {
        for (key, value) in environment.iter().filter(|(_, value)| !value.is_null()) {
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Array(texts) => texts.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; "),
                value => value.to_string(),
            };
            write!(page, "<tr><td>{}</td><td>{}</td></tr>", escape(&key.replace('_', " ")), escape(&text))?;
        }
    }
    write!(page, "</table>")
}

type Points = Vec<(f64, f64)>;

fn rate_over_time(report: &Report) -> Points {
    let interval_s = report.evenness.interval_ms / 1e3;
    report.evenness.mpps.iter().enumerate().map(|(i, &mpps)| ((i as f64 + 0.5) * interval_s, mpps)).collect()
}

/// Percentile as nines (0 is 0 %, 1 is 90 %, 2 is 99 %), and microseconds.
fn latency_curve(report: &Report) -> Points {
    report
        .histogram
        .iter_quantiles(5)
        .map(|step| (-(1.0 - step.quantile_iterated_to()).max(1e-7).log10(), step.value_iterated_to() as f64 / 1e3))
        .collect()
}

fn highest(series: &[(String, Points)]) -> f64 {
    series.iter().flat_map(|(_, points)| points).map(|&(_, y)| y).fold(0.0, f64::max)
}

/// Where a value lies on an axis from 0 to 1, and what is written where.
struct Axis {
    title: &'static str,
    ticks: Vec<(f64, String)>,
    place: Box<dyn Fn(f64) -> f64>,
}

impl Axis {
    fn linear(highest: f64, title: &'static str) -> Self {
        let highest = if highest > 0.0 { highest } else { 1.0 };
        let magnitude = 10_f64.powf((highest / 5.0).log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * magnitude).into_iter().find(|step| highest / step <= 6.0);
        let step = step.unwrap_or(10.0 * magnitude);
        let end = (highest / step).ceil() * step;
        let digits = usize::from(step < 1.0) + usize::from(step < 0.1);
        let ticks = (0..=(end / step).round() as u32)
            .map(|i| f64::from(i) * step)
            .map(|value| (value / end, format!("{value:.digits$}")))
            .collect();
        Axis { title, ticks, place: Box::new(move |value| value / end) }
    }

    fn percentiles() -> Self {
        const NINES: f64 = 6.0;
        let names = ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %", "99.9999 %"];
        let ticks = names.iter().enumerate().map(|(i, name)| (i as f64 / NINES, (*name).to_owned())).collect();
        Axis { title: "percentile", ticks, place: Box::new(|nines| (nines / NINES).min(1.0)) }
    }

    fn decades(series: &[(String, Points)]) -> Self {
        let lowest = series.iter().flat_map(|(_, points)| points).map(|&(_, y)| y).fold(f64::INFINITY, f64::min);
        let first = lowest.max(1e-3).log10().floor();
        let last = highest(series).max(1e-2).log10().ceil().max(first + 1.0);
        let ticks = (first as i32..=last as i32)
            .map(|exponent| {
                let value = 10_f64.powi(exponent);
                let digits = (-exponent).max(0) as usize;
                ((f64::from(exponent) - first) / (last - first), format!("{value:.digits$}"))
            })
            .collect();
        Axis { title: "µs", ticks, place: Box::new(move |value| (value.max(1e-3).log10() - first) / (last - first)) }
    }
}

fn plot(page: &mut String, x: &Axis, y: &Axis, series: &[(String, Points)]) -> std::fmt::Result {
    let across = |part: f64| LEFT + part * (WIDTH - LEFT - RIGHT);
    let down = |part: f64| HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM);
    write!(page, "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over {}\">", y.title, x.title)?;
    for (part, text) in &x.ticks {
        let at = across(*part);
        write!(page, "<line class=\"grid\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{:.1}\"/>", down(0.0))?;
        write!(page, "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", down(0.0) + 16.0)?;
    }
    for (part, text) in &y.ticks {
        let at = down(*part);
        write!(page, "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/>", across(1.0))?;
        write!(page, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 6.0, at + 4.0)?;
    }
    write!(page, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", across(1.0), HEIGHT - 6.0, x.title)?;
    write!(page, "<text x=\"4\" y=\"{:.1}\">{}</text>", TOP + 4.0, y.title)?;
    for (index, (name, points)) in series.iter().enumerate() {
        write!(page, "<polyline class=\"plot\" {} points=\"", stroke(index))?;
        for &(px, py) in points {
            write!(page, "{:.1},{:.1} ", across((x.place)(px)), down((y.place)(py)))?;
        }
        write!(page, "\"><title>{}</title></polyline>", escape(name))?;
    }
    write!(page, "</svg><ul class=\"legend\">")?;
    for (index, (name, _)) in series.iter().enumerate() {
        let line = stroke(index);
        write!(
            page,
            "<li><svg viewBox=\"0 0 30 10\"><line x1=\"0\" x2=\"30\" y1=\"5\" y2=\"5\" stroke-width=\"3\" {line}/></svg>"
        )?;
        write!(page, "{}</li>", escape(name))?;
    }
    write!(page, "</ul>")
}

fn stroke(index: usize) -> String {
    let dash = DASHES[index / COLOURS.len() % DASHES.len()];
    format!("stroke=\"{}\" stroke-dasharray=\"{dash}\"", COLOURS[index % COLOURS.len()])
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::super::tests::sample;
    use super::*;

    #[test]
    fn the_page_has_table_and_plots_and_needs_nothing_else() {
        let mut hostile = sample();
        hostile.environment.cpu_model = "<script>alert(1)</script>".to_owned();
        let mut out = Vec::new();
        write(&mut out, &Results { reports: vec![hostile, sample()], ..Results::default() }).unwrap();
        let page = String::from_utf8(out).unwrap();
        assert_eq!(page.matches("<polyline").count(), 4);
        assert!(page.contains("packed-guest-to-guest-64") && page.contains("10.00"));
        for foreign in ["http", "src=", "url(", "<script", "@import", "href"] {
            assert!(!page.contains(foreign), "{foreign}");
        }
        assert!(!page.contains("NaN") && !page.contains("inf"), "a figure that is none");
    }

    #[test]
    fn axes_put_values_between_nought_and_one() {
        for highest in [0.0, 0.004, 0.7, 1.0, 9.99, 10.0, 123.4, 5e6] {
            let axis = Axis::linear(highest, "");
            assert!((axis.place)(highest) <= 1.0 + 1e-9);
            assert!((2..=9).contains(&axis.ticks.len()), "{highest}: {:?}", axis.ticks);
        }
        let axis = Axis::decades(&[(String::new(), vec![(0.0, 0.5), (1.0, 900.0)])]);
        assert!((axis.place)(0.5) >= 0.0 && (axis.place)(900.0) <= 1.0);
    }
}
