//! `self-loop`, tiny: both devices on every ring, what is printed, what its JSON says, and what it refuses.

use std::process::{Command, Output};

fn self_loop(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_virtnet-perf")).arg("self-loop").args(arguments).output().unwrap();
    println!("virtnet-perf self-loop {}: {}", arguments.join(" "), output.status);
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn without_dpdk_it_says_how_to_get_it() {
    let output = self_loop(&["--smoke"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("--features dpdk"));
}

#[cfg(feature = "dpdk")]
mod with_dpdk {
    use std::collections::BTreeSet;
    use std::fs;

    use serde_json::Value;

    use super::{self_loop, text};

    /// What an object's keys are called where they are documented.
    fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
        for (key, inner) in value.as_object().into_iter().flatten() {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            // The environment is documented once for all commands.
            if key != "environment" {
                keys(inner, &name, found);
            }
            found.insert(name);
        }
    }

    #[test]
    fn both_devices_are_measured_on_every_ring_in_all_directions() {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("lines.json");
        let load = ["--smoke", "--no-huge", "--driver", "scalar", "--frame-bytes", "imix"];
        let mixes = ["--features", "none", "--features", "mrg_rxbuf,in_order", "--json", json.to_str().unwrap()];
        let output = self_loop(&[&load[..], &mixes].concat());
        assert!(output.status.success());
        let shown = text(&output.stdout);
        for words in ["DPDK device", "our device", "packed mrg_rxbuf,in_order", "guest-to-guest", "no error"] {
            assert!(shown.contains(words), "{words}");
        }
        let lines: Vec<Value> =
            fs::read_to_string(json).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        // Two layouts, two mixes, four directions.
        assert_eq!(lines.len(), 16);
        for line in &lines {
            assert_eq!((&line["kind"], &line["frame_bytes"]), (&"self-loop".into(), &"imix".into()));
            assert_eq!((&line["pairs"], &line["partial"]), (&2.into(), &false.into()), "{line}");
            assert!(line["checksummed"].as_u64() >= Some(4096), "{line}");
            for side in ["dpdk", "virtnet"] {
                assert!(line[side]["frames"].as_u64() > Some(0), "{line}");
                assert!(line[side]["device_ns"]["median"].as_f64() > Some(0.0), "{line}");
            }
        }
        let mut found = BTreeSet::new();
        keys(&lines[0], "", &mut found);
        let page = include_str!("../../docs/perf.md");
        let (_, page) = page.split_once("## Self-loop").unwrap();
        let (section, _) = page.split_once("\n## ").unwrap();
        let documented: BTreeSet<String> = section
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` |"))
            .map(|(key, _)| key.to_owned())
            .collect();
        assert_eq!(found, documented);
    }

    #[test]
    fn the_vectorised_path_is_measured_or_skipped_aloud() {
        let load = ["--smoke", "--no-huge", "--driver", "vectorised", "--features", "none", "--ring", "split"];
        let output = self_loop(&[&load[..], &["--frame-bytes", "64", "--json", "-"]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        let lines = text(&output.stdout);
        let drivers = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["driver"].clone());
        match drivers.collect::<Vec<_>>()[..] {
            [] => assert!(text(&output.stderr).contains("no vectorised path")),
            ref all => assert_eq!(all, ["vectorised"; 4], "one for each direction"),
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_what_can() {
        for (arguments, code, said) in [
            (&["--frame-bytes", "1519"][..], 1, "64 to 1518, or imix"),
            (&["--queue-size", "100"], 1, "power of two"),
            (&["--features", "event_idx"], 1, "mrg_rxbuf and in_order, or none"),
            (&["--lcore", "4000"], 1, "lcore 4000"),
            (&["--driver", "vectorised", "--features", "mrg_rxbuf"], 1, "split with --features none"),
            (&["--driver", "vectorised", "--burst", "7"], 1, "bursts of 8 or more"),
            (&["--slice-ms", "0.1"], 2, "0.2 to 1000 milliseconds"),
        ] {
            let output = self_loop(arguments);
            assert_eq!(output.status.code(), Some(code), "{arguments:?}");
            assert!(text(&output.stderr).contains(said), "{said} in {}", text(&output.stderr));
        }
    }
}
