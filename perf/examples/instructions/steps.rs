//! Which step of a frame's way an instruction belongs to: told by the innermost of the functions that are inlined at its
//! address which is a step's own. What serves several steps (loads of ring words, arithmetic of spans) belongs to its caller.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, anyhow};
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Available entries and descriptors are read, and made into chains.
    Take,
    /// Guest addresses become ours.
    Translate,
    /// The net header is read and checked, or made and written.
    Header,
    /// Room for a frame is found in the receiver's buffers.
    Fill,
    /// The frame's bytes are copied.
    Copy,
    /// The wire's end: switch, loop, sink, source.
    Port,
    /// What is out is noted, and comes home.
    Loans,
    Counters,
    /// Used entries are written and published, and a notification is decided on.
    Publish,
    /// From step to step: the journey's own loop.
    Journey,
    /// From queue to queue: worker and pair.
    Turn,
    /// The compiler's run-time library and whatever no rule names.
    Other,
}

impl Step {
    pub const ALL: [Step; 12] = [
        Step::Take,
        Step::Translate,
        Step::Header,
        Step::Fill,
        Step::Copy,
        Step::Port,
        Step::Loans,
        Step::Counters,
        Step::Publish,
        Step::Journey,
        Step::Turn,
        Step::Other,
    ];

    /// As the table has it.
    pub fn title(self) -> &'static str {
        match self {
            Step::Take => "take",
            Step::Translate => "translate",
            Step::Header => "header",
            Step::Fill => "fill",
            Step::Copy => "copy",
            Step::Port => "port",
            Step::Loans => "loans",
            Step::Counters => "counters",
            Step::Publish => "publish",
            Step::Journey => "journey",
            Step::Turn => "turn",
            Step::Other => "other",
        }
    }
}

/// Of a step, the functions of a file, or all of them if none is named. The first rule that holds counts.
type Rule = (Step, &'static str, &'static [&'static str]);

const RULES: &[Rule] = &[
    (Step::Translate, "rings/src/memory/mod.rs", &[]),
    (Step::Translate, "rings/src/memory/map.rs", &[]),
    (Step::Copy, "rings/src/memory/span.rs", &["copy", "copy_from", "read", "write"]),
    (Step::Header, "rings/src/memory/span.rs", &["update_array", "write_array"]),
    (Step::Publish, "rings/src/split.rs", &["return_used", "wants_notification"]),
    (Step::Publish, "rings/src/packed.rs", &["return_used", "wants_notification"]),
    (Step::Publish, "rings/src/notify.rs", &[]),
    (Step::Publish, "engine/src/journey.rs", &["publish", "notify"]),
    (Step::Publish, "engine/src/moderation.rs", &[]),
    (Step::Take, "rings/src/split.rs", &[]),
    (Step::Take, "rings/src/packed.rs", &[]),
    (Step::Loans, "engine/src/window.rs", &[]),
    (Step::Loans, "engine/src/frame/mod.rs", &["loan", "goes_on_with", "push", "push_apart", "drain"]),
    (
        Step::Header,
        "engine/src/frame/mod.rs",
        &["plain", "plain_bytes", "data_valid", "is_plain", "asks_for_nothing", "open", "header_to_guest", "work_for"],
    ),
    (Step::Header, "engine/src/frame/offload.rs", &[]),
    (Step::Counters, "engine/src/counters.rs", &[]),
    (Step::Fill, "engine/src/hand.rs", &[]),
    (Step::Port, "engine/src/port/", &[]),
    (Step::Journey, "engine/src/journey.rs", &[]),
    (Step::Turn, "engine/src/pair.rs", &[]),
    (Step::Turn, "engine/src/worker.rs", &[]),
    (Step::Turn, "engine/src/roster.rs", &[]),
    (Step::Turn, "engine/src/meter.rs", &[]),
    (Step::Turn, "engine/src/arch.rs", &[]),
    (Step::Turn, "perf/examples/instructions/bed.rs", &[]),
];

/// Where the compiler has lost who called.
const FILES: &[(Step, &str)] = &[
    (Step::Take, "rings/src/memory/area.rs"),
    (Step::Take, "rings/src/chain.rs"),
    (Step::Copy, "rings/src/memory/span.rs"),
    (Step::Header, "engine/src/frame/mod.rs"),
    (Step::Port, "engine/src/frame/queue.rs"),
];

/// Tells steps by addresses in a program that has line tables.
pub struct Steps(addr2line::Loader);

impl Steps {
    /// # Errors
    /// It cannot be read.
    pub fn of(program: &Path) -> Result<Self> {
        let loader = addr2line::Loader::new(program);
        Ok(Steps(loader.map_err(|error| anyhow!("{}: {error}", program.display()))?))
    }

    /// Adds up instructions by steps.
    ///
    /// # Errors
    /// The program's line tables are broken.
    pub fn sum(&self, costs: &super::callgrind::Costs) -> Result<BTreeMap<Step, u64>> {
        let mut sums = BTreeMap::new();
        for (&address, &cost) in costs {
            *sums.entry(self.step(address)?).or_default() += cost;
        }
        Ok(sums)
    }

    fn step(&self, address: u64) -> Result<Step> {
        let broken = |error| anyhow!("line tables at {address:#x}: {error}");
        let mut stack = Vec::new();
        let mut frames = self.0.find_frames(address).map_err(broken)?;
        while let Some(frame) = frames.next().map_err(|error| broken(error.into()))? {
            let name = match &frame.function {
                Some(function) => function.demangle().map_err(|error| broken(error.into()))?.into_owned(),
                None => String::new(),
            };
            let file = frame.location.and_then(|location| location.file).unwrap_or_default().to_owned();
            stack.push((name, file));
        }
        Ok(judge(&stack))
    }
}

/// The step of a stack of inlined functions, innermost first: names and files.
fn judge(stack: &[(String, String)]) -> Step {
    let rule = |(function, file): &(String, String)| {
        let holds = |(_, part, functions): &&Rule| {
            file.contains(part) && (functions.is_empty() || functions.contains(&bare(function)))
        };
        RULES.iter().find(holds).map(|&(step, ..)| step)
    };
    let by_file =
        |(_, file): &(String, String)| FILES.iter().find(|(_, part)| file.contains(part)).map(|&(step, _)| step);
    stack.iter().find_map(rule).or_else(|| stack.iter().find_map(by_file)).unwrap_or(Step::Other)
}

/// A function's own name, without where it is and what it is generic over.
fn bare(function: &str) -> &str {
    let name = function.strip_suffix('>').map_or(function, |_| {
        let mut depth = 0;
        let start = function.bytes().rposition(|byte| {
            depth += i32::from(byte == b'>') - i32::from(byte == b'<');
            depth == 0
        });
        start.map_or(function, |start| &function[..start])
    });
    name.trim_end_matches("::").rsplit("::").next().unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_bared() {
        for name in [
            "copy",
            "copy<u8>",
            "span::copy",
            "span::copy::<[u8; 64]>",
            "<a::B<c::D> as e::F<g>>::copy",
            "copy<Map<I, F>, Vec<T>>",
        ] {
            assert_eq!(bare(name), "copy", "{name}");
        }
        assert_eq!(bare(""), "");
    }

    #[test]
    fn the_innermost_rule_holds_and_helpers_belong_to_their_callers() {
        let stack = |frames: &[(&str, &str)]| -> Vec<(String, String)> {
            frames.iter().map(|(name, file)| ((*name).to_owned(), format!("/home/me/{file}"))).collect()
        };
        let load = ("load<u16>", "core/sync/atomic.rs");
        let word = ("load", "rings/src/memory/area.rs");
        let take = ("take_available", "rings/src/split.rs");
        let publish = ("return_used", "rings/src/split.rs");
        let run = ("run<split::Queue, Sink>", "engine/src/journey.rs");
        assert_eq!(judge(&stack(&[load, word, take, run])), Step::Take);
        assert_eq!(judge(&stack(&[load, word, publish, run])), Step::Publish);
        assert_eq!(judge(&stack(&[load, run])), Step::Journey);
        assert_eq!(judge(&stack(&[("avx2", "rings/src/memory/area.rs")])), Step::Take);
        assert_eq!(judge(&stack(&[load])), Step::Other);
        assert_eq!(judge(&[]), Step::Other);
    }

    /// A file that is renamed, or a function, would silently be some other step's.
    #[test]
    fn whatever_a_rule_names_is_there() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (_, file, functions) in RULES.iter().copied().chain(FILES.iter().map(|&(step, file)| (step, file, &[][..])))
        {
            let path = root.join(file);
            assert!(path.exists(), "{file} is not there");
            for function in functions {
                let text = std::fs::read_to_string(&path).unwrap();
                assert!(text.contains(&format!("fn {function}")), "{file} has no function {function}");
            }
        }
    }
}
