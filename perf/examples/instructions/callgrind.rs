//! Runs a program under callgrind and reads what it wrote: at which address of the program how many instructions were spent.
//! What a library did for it (a long copy, the clock) is found at the address it was called from.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};

/// Instructions by address in the program's file.
pub type Costs = BTreeMap<u64, u64>;

/// Runs `program` under callgrind, with what it counts left in `folder`; returns what the program printed.
///
/// # Errors
/// There is no valgrind, or the program fails.
pub fn run(program: &Path, arguments: &[String], folder: &Path) -> Result<String> {
    let output = Command::new("valgrind")
        .args(["-q", "--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no"])
        // These three are functions of `bed`.
        .args(["--toggle-collect=*::bed::device_turn", "--zero-before=*::bed::begin", "--dump-before=*::bed::end"])
        .arg(format!("--callgrind-out-file={}", folder.join("out").display()))
        .arg(program)
        .args(arguments)
        .output()
        .context("valgrind, without which there are no counts")?;
    let Output { status, stdout, stderr } = output;
    ensure!(status.success(), "under valgrind ({status}): {}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

/// Which valgrind there is.
///
/// # Errors
/// None.
pub fn version() -> Result<String> {
    let output = Command::new("valgrind").arg("--version").output().context("valgrind --version")?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("valgrind-").to_owned())
}

/// What was counted before the program called `bed::end` for the `number`th time, from 1.
///
/// # Errors
/// It was not, or is not what is expected.
pub fn counted(folder: &Path, number: usize, program: &Path) -> Result<Costs> {
    let path = folder.join(format!("out.{number}"));
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("callgrind has not written {}", path.display()))?;
    costs(&text, &program.to_string_lossy()).with_context(|| path.display().to_string())
}

/// Reads callgrind's format, written without compression, with addresses.
fn costs(text: &str, program: &str) -> Result<Costs> {
    let mut costs = Costs::new();
    let (mut object, mut callee_object, mut calls) = ("", None, None);
    let (mut total, mut attributed) = (None, 0);
    for (number, line) in (1..).zip(text.lines()) {
        let wrong = || format!("line {number}: {line}");
        if let Some((key, value)) = line.split_once('=') {
            match key {
                "ob" => object = value,
                "cob" => callee_object = Some(value),
                "calls" => {
                    let count = value.split(' ').next().unwrap_or_default();
                    calls = Some(count.parse::<u64>().with_context(wrong)?);
                }
                _ => {}
            }
        } else if let Some(sum) = line.strip_prefix("summary: ") {
            total = Some(sum.trim().parse::<u64>().with_context(wrong)?);
        } else if line.starts_with("0x") {
            let words: Vec<&str> = line.split(' ').collect();
            let [address, _, cost] = words[..] else { bail!(wrong()) };
            let cost: u64 = cost.parse().with_context(wrong)?;
            let counts = match calls.take() {
                None => object == program,
                // A call that began before anything was counted is one that has not come back: the whole program's.
                Some(calls) => {
                    object == program && callee_object.take().is_some_and(|callee| callee != program) && calls > 0
                }
            };
            if counts {
                let address = u64::from_str_radix(&address[2..], 16).with_context(wrong)?;
                *costs.entry(address).or_default() += cost;
                attributed += cost;
            }
        }
    }
    let total = total.context("there is no sum of all in it")?;
    ensure!(total > 0, "nothing was counted: the functions that begin and end it were not found");
    ensure!(attributed == total, "{attributed} of {total} instructions are the program's or done for it");
    Ok(costs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITTEN: &str = "\
# callgrind format
version: 1
positions: instr line
events: Ir
summary: 1300

ob=/lib/libc.so.6
fl=memmove.S
fn=memcpy
0x152a80 264 200
0x152a84 265 100

fn=(below main)
cob=/bin/perf
cfi=???
cfn=main
calls=0 0x32eb0 0
0x27248 58 1300

ob=/bin/perf
fl=/src/worker.rs
fn=worker::turn
0xa0 638 400
fi=/src/chain.rs
0xa8 277 100
cob=/lib/libc.so.6
cfi=memmove.S
cfn=memcpy
calls=8 0x152a80 264
0xa8 638 300
cfn=worker::slot
calls=4 0xb0 12
0xac 638 500

fn=worker::slot
0xb0 12 500

fn=(below main)
cob=/lib/libc.so.6
cfn=start
calls=0 0x27280 242
0x1dd4b 0 1300
totals: 1300
";

    #[test]
    fn what_a_library_did_is_found_where_it_was_called() {
        let costs = costs(WRITTEN, "/bin/perf").unwrap();
        assert_eq!(costs, Costs::from([(0xa0, 400), (0xa8, 400), (0xb0, 500)]));
    }

    #[test]
    fn what_does_not_add_up_is_refused() {
        let complaint = |text: &str| format!("{:#}", costs(text, "/bin/perf").unwrap_err());
        assert!(complaint(&WRITTEN.replace("summary: 1300", "summary: 1400")).contains("1300 of 1400"));
        assert!(complaint(&WRITTEN.replace("summary: 1300", "summary: 0")).contains("nothing was counted"));
        assert!(complaint("ob=/bin/perf").contains("no sum"));
        assert!(complaint(&WRITTEN.replace("0xa0 638 400", "0xa0 638")).contains(": 0xa0 638"));
        assert!(complaint(&WRITTEN.replace("0xa0 638 400", "0xa0 638 many")).contains(": 0xa0 638 many"));
    }
}
