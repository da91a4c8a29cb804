//! The table of `self-loop`, and its JSON, whose keys are promised in docs/perf.md.

use std::fmt::Write as _;
use std::path::Path as FilePath;

use anyhow::Result;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, LineStyle, Table};
use serde::Serialize;

use super::args::Path;
use super::cell::Cell;
use super::slice::Slice;
use crate::args::{Direction, Features, Ring};
use crate::environment::Environment;
use crate::frame::Sizes;
use crate::output;
use crate::statistics::{Interval, median_interval, quantile};

/// DPDK's device, ours, and a bare copy in nanoseconds a frame, one after another.
pub type Pair = (Slice, Slice, f64);

/// What a line of the table is measured with.
#[derive(Clone, Debug, Serialize)]
pub struct Setting {
    /// Always `self-loop`.
    pub command: &'static str,
    /// Descriptors of a queue.
    pub queue_size: u16,
    /// Frames at a time.
    pub burst: u16,
    /// Where the one thread runs.
    pub lcore: usize,
    /// Length of a slice in milliseconds.
    pub slice_ms: f64,
    /// What reading the clock costs, in nanoseconds: subtracted.
    pub clock_ns: f64,
    /// Whether all memory is in huge pages.
    pub huge_pages: bool,
    /// As DPDK has it.
    pub dpdk_version: String,
    /// Of this machine.
    pub environment: Environment,
}

/// One device in one line, medians over slices.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// The device, nanoseconds a frame.
    pub device_ns: Interval,
    /// The driver.
    pub driver_ns: Interval,
    /// Frames that were counted.
    pub frames: u64,
    /// The part of the rounds that were interrupted, and left out.
    pub interrupted: f64,
}

/// What all pairs of a line say.
#[derive(Clone, Debug, Serialize)]
pub struct Figures {
    /// DPDK's device.
    pub dpdk: Side,
    /// Ours.
    pub virtnet: Side,
    /// What DPDK's device costs over what ours costs, pair by pair.
    pub ratio: Interval,
    /// A tenth of all pairs are below.
    pub ratio_p10: f64,
    /// A tenth of all pairs are above.
    pub ratio_p90: f64,
    /// The bare copy, nanoseconds a frame.
    pub copy_ns: Interval,
}

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// Always `self-loop`.
    pub kind: &'static str,
    /// Layout.
    pub ring: Ring,
    /// Negotiated.
    pub features: Features,
    /// The driver's path.
    pub driver: Path,
    /// Which way.
    pub direction: Direction,
    /// How long frames are.
    pub frame_bytes: Sizes,
    /// Pairs of slices.
    pub pairs: usize,
    /// What they say; `null` if there are none.
    #[serde(flatten)]
    pub figures: Figures,
    /// Frames that were looked at byte by byte, of either device.
    pub checksummed: u64,
    /// Interrupted: the figures are of what was done until then.
    pub partial: bool,
    /// Seconds since the Unix epoch when it began.
    pub started_at_s: f64,
    /// The rest.
    #[serde(flatten)]
    pub setting: Setting,
}

impl Figures {
    /// Of pairs, unless there are none.
    pub fn of(pairs: &[Pair]) -> Option<Self> {
        if pairs.is_empty() {
            return None;
        }
        let figures = |figure: &dyn Fn(&Pair) -> f64| pairs.iter().map(figure).collect::<Vec<f64>>();
        let side = |slice: &dyn Fn(&Pair) -> Slice| Side {
            device_ns: median_interval(&figures(&|pair| slice(pair).device_ns)),
            driver_ns: median_interval(&figures(&|pair| slice(pair).driver_ns)),
            frames: pairs.iter().map(|pair| slice(pair).frames).sum(),
            interrupted: pairs.iter().map(|pair| slice(pair).interrupted).sum::<u64>() as f64
                / pairs.iter().map(|pair| slice(pair).rounds).sum::<u64>() as f64,
        };
        let ratios = figures(&|(theirs, ours, _)| theirs.device_ns / ours.device_ns);
        Some(Figures {
            dpdk: side(&|pair| pair.0),
            virtnet: side(&|pair| pair.1),
            ratio: median_interval(&ratios),
            ratio_p10: quantile(&ratios, 0.1),
            ratio_p90: quantile(&ratios, 0.9),
            copy_ns: median_interval(&figures(&|pair| pair.2)),
        })
    }
}

/// Shows the table, and writes the JSON if it is wanted.
///
/// # Errors
/// Those of the files.
pub fn publish(lines: &[Line], json: Option<&FilePath>) -> Result<()> {
    output::publish(&render(lines), json, |mut out| {
        for line in lines {
            serde_json::to_writer(&mut out, line)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })
}

fn render(lines: &[Line]) -> String {
    let mut table = Table::new();
    table.load_style(UTF8_HORIZONTAL_ONLY.row_separator(LineStyle::none()));
    table.set_header([
        "ring",
        "direction",
        "frame",
        "DPDK device",
        "our device",
        "ratio",
        "p10..p90",
        "bare copy",
        "driver (DPDK)",
        "driver (ours)",
    ]);
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    for line in lines {
        let Figures { dpdk, virtnet, ratio, ratio_p10, ratio_p90, copy_ns } = &line.figures;
        let ns = |interval: &Interval| format!("{:.1}", interval.median);
        table.add_row([
            Cell::ring_name(line.ring, &line.features, line.driver),
            line.direction.name().to_owned() + if line.partial { " (interrupted)" } else { "" },
            line.frame_bytes.to_string(),
            ns(&dpdk.device_ns),
            ns(&virtnet.device_ns),
            format!("{:.2}", ratio.median),
            format!("{ratio_p10:.2}..{ratio_p90:.2}"),
            ns(copy_ns),
            ns(&dpdk.driver_ns),
            ns(&virtnet.driver_ns),
        ]);
    }
    let mut text = String::new();
    let Some(Line { setting, pairs, .. }) = lines.first() else { return "nothing was measured\n".to_owned() };
    let Setting { environment, .. } = setting;
    let _ = writeln!(text, "{table}");
    let _ = writeln!(
        text,
        "nanoseconds a frame, medians of {pairs} slices of {} ms; ratio: DPDK's device over ours, in pairs of slices\n\
         queue size {}, burst {}, lcore {}, {}; reading the clock costs {:.1} ns and is subtracted\n\
         {}; {}, {} CPUs, {}, {}{}",
        setting.slice_ms,
        setting.queue_size,
        setting.burst,
        setting.lcore,
        if setting.huge_pages { "huge pages" } else { "no huge pages" },
        setting.clock_ns,
        setting.dpdk_version,
        environment.cpu_model,
        environment.cpus,
        environment.kernel,
        environment.build_profile,
        if environment.hypervisor { ", under a hypervisor" } else { "" },
    );
    for warning in &environment.warnings {
        let _ = writeln!(text, "WARNING: {warning}");
    }
    let checked: u64 = lines.iter().map(|line| line.checksummed).sum();
    let _ = writeln!(text, "integrity: every frame accounted for, {checked} checked byte by byte, no error");
    text
}
