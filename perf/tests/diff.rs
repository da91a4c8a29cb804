//! `virtnet-perf diff`: verdicts and exit codes of whole files, and what it says of files that are none.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// Something became slower.
const REGRESSION: i32 = 4;
/// Frames were lost silently, corrupted, reordered or duplicated.
const INTEGRITY: i32 = 3;

fn perf(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_virtnet-perf")).args(arguments).output().unwrap();
    println!("virtnet-perf {}: {}", arguments.join(" "), output.status);
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs with these rates, all else alike, by a machine that was left alone.
struct Bench {
    folder: tempfile::TempDir,
    line: Value,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.json");
        let load = ["run", "--smoke", "--ring", "split", "--direction", "loopback", "--json"];
        assert!(perf(&[&load[..], &[path.to_str().unwrap()]].concat()).status.success());
        let mut line: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        line["placement"] =
            json!({"before_ns": 120.0, "after_ns": 120.0, "class": "near", "waited": 0.0, "stolen": 0.0});
        line["latency_ns"] = Value::Null;
        Bench { folder, line }
    }

    fn line(&self, mpps: f64) -> Value {
        let mut line = self.line.clone();
        line["mpps"] = json!(mpps);
        line["evenness"]["mpps"] = (0..40).map(|i| mpps * (1.0 + f64::from(i % 3) / 500.0)).collect();
        line
    }

    fn write(&self, name: &str, lines: &[Value]) -> PathBuf {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.write_text(name, text.as_bytes())
    }

    fn write_text(&self, name: &str, text: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn runs(&self, name: &str, mpps: &[f64]) -> PathBuf {
        self.write(name, &mpps.iter().map(|&mpps| self.line(mpps)).collect::<Vec<_>>())
    }
}

fn diff(old: &Path, new: &Path, more: &[&str]) -> (i32, String, String) {
    let output = perf(&[&["diff", old.to_str().unwrap(), new.to_str().unwrap()], more].concat());
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

const STEADY: [f64; 6] = [10.0, 10.02, 10.05, 9.97, 9.99, 10.01];

#[test]
fn the_exit_code_tells_whether_something_became_slower() {
    let bench = Bench::new();
    let runs = |name: &str, factor: f64| bench.runs(name, &STEADY.map(|mpps| mpps * factor));
    let old = runs("old", 1.0);
    for (factor, code, said) in [(1.0, 0, "1 the same"), (1.2, 0, "1 faster"), (0.8, REGRESSION, "SLOWER")] {
        let (found, shown, _) = diff(&old, &runs("new", factor), &[]);
        assert_eq!(found, code);
        assert!(shown.contains(said), "{said}");
    }
    let new = runs("new", 0.95);
    assert_eq!(diff(&old, &new, &[]).0, REGRESSION);
    assert_eq!(diff(&old, &new, &["--threshold", "10%"]).0, 0);
    assert_eq!(diff(&old, &new, &["--threshold", "100%"]).0, 2);
}

#[test]
fn one_run_of_each_is_no_regression_and_says_why() {
    let bench = Bench::new();
    let (code, shown, _) = diff(&bench.runs("old", &[10.0]), &bench.runs("new", &[8.0]), &[]);
    assert_eq!(code, 0);
    assert!(shown.contains("SLOWER?") && shown.contains("mood in that run is not excluded"));
    let (code, shown, _) = diff(&bench.runs("old", &STEADY[..3]), &bench.runs("new", &[8.0, 8.1, 8.2]), &[]);
    assert_eq!(code, 0);
    assert!(shown.contains("unclear") && shown.contains("too few runs"));
}

#[test]
fn what_cannot_be_compared_is_listed_and_left_out() {
    let bench = Bench::new();
    let change = |mpps: f64, change: &dyn Fn(&mut Value)| {
        let mut line = bench.line(mpps);
        change(&mut line);
        line
    };
    let far = change(3.0, &|line| line["placement"]["class"] = json!("far"));
    let old = bench.runs("old", &STEADY);
    let (code, shown, error) = diff(&old, &bench.write("new", &vec![far; 6]), &[]);
    assert_eq!(code, 1, "who judges by the exit code is not to take this for a pass");
    assert!(shown.contains("DIFFERS placement: near -> far") && error.contains("nothing to compare"));
    assert!(shown.contains("not in one placement: run split loopback 64"));

    let mut lines = vec![
        change(1.0, &|line| line["placement"]["waited"] = json!(0.5)),
        change(1.0, &|line| line["placement"]["class"] = json!("mixed")),
        change(1.0, &|line| line["partial"] = json!(true)),
        change(1.0, &|line| line["direction"] = json!("to-guest")),
        change(1.0, &|line| line["environment"]["kernel"] = json!("Linux 99")),
        json!({"kind": "weather", "figures": []}),
    ];
    lines.extend(STEADY.map(|mpps| bench.line(mpps)));
    let (code, shown, _) = diff(&old, &bench.write("new", &lines), &[]);
    assert_eq!(code, 0);
    for said in [
        "waited for its lcore for more than 5 %",
        "placement changed",
        "left out of NEW: 1 (interrupted)",
        "only in NEW: run split to-guest",
        "kind weather",
        "Linux 99",
        "1 the same",
    ] {
        assert!(shown.contains(said), "{said}");
    }
    lines.push(change(10.0, &|line| line["integrity_errors"] = json!(2)));
    let (code, shown, _) = diff(&old, &bench.write("new", &lines), &[]);
    assert_eq!(code, INTEGRITY);
    assert!(shown.contains("INTEGRITY: in NEW 2 frames"));
}

#[test]
fn the_json_has_a_line_for_each_figure_and_one_for_the_rest() {
    let bench = Bench::new();
    let lines = |factor: f64| {
        let mut lines = Vec::new();
        for mpps in STEADY {
            let mut other = bench.line(mpps * factor);
            other["ring"] = json!("packed");
            lines.extend([bench.line(mpps), other]);
        }
        lines
    };
    let (old, new) = (bench.write("old", &lines(1.0)), bench.write("new", &lines(0.5)));
    let (code, out, shown) = diff(&old, &new, &["--json", "-"]);
    assert_eq!(code, REGRESSION);
    assert!(shown.contains("SLOWER"));
    let objects: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(objects.len(), 3);
    let of = |ring: &str| objects.iter().find(|object| object["ring"] == ring).unwrap();
    assert_eq!((&of("packed")["verdict"], &of("split")["verdict"]), (&json!("slower"), &json!("same")));
    assert!((of("packed")["ratio"].as_f64().unwrap() - 0.5).abs() < 1e-9);
    assert!(of("packed")["p_holm"].as_f64() < Some(0.01) && of("packed")["old"]["runs"] == 6);
    assert_eq!((&objects[2]["kind"], &objects[2]["slower"]), (&json!("diff-summary"), &json!(1)));
}

#[test]
fn rounds_of_two_back_ends_are_kept_apart() {
    let bench = Bench::new();
    let rounds = |a: &str, b: &str, mpps: [f64; 2]| {
        let round = |backend: &str, mpps: f64| {
            let mut line = bench.line(mpps);
            (line["kind"], line["command"], line["backend"]) = (json!("round"), json!("versus"), json!(backend));
            line["lcores"] = json!([]);
            line
        };
        let mut lines: Vec<Value> = STEADY.iter().map(|part| round(a, part * mpps[0])).collect();
        lines.extend(STEADY.iter().map(|part| round(b, part * mpps[1])));
        lines
    };
    let old = bench.write("old", &rounds("/run/1", "/run/2", [1.0, 2.0]));
    let new = bench.write("new", &rounds("/run/3", "/run/4", [1.0, 1.5]));
    let (code, shown, _) = diff(&old, &new, &[]);
    assert_eq!(code, 0, "rounds of one run are weak");
    assert!(shown.contains("same?") && shown.contains("SLOWER?"));
}

#[test]
fn files_that_are_no_reports_are_refused_with_the_line_and_what_was_found() {
    let bench = Bench::new();
    let good = bench.runs("good", &STEADY);
    let whole = bench.line(10.0).to_string();
    let mut huge = format!("{whole}\n{{\"kind\": \"");
    huge.push_str(&"x".repeat(5 << 20));
    for (name, content, said) in [
        ("empty", &b""[..], "there is no report in it"),
        ("blank", b"\n \n", "there is no report in it"),
        ("truncated", format!("{whole}\n{}", &whole[..200]).as_bytes(), "line 2: no JSON"),
        ("foreign", format!("{whole}\n\n{{\"name\": \"x\"}}\n").as_bytes(), "line 3: `kind` is missing"),
        ("csv", b"ring,mpps\nsplit,3\n", "line 1: no JSON: expected value at character 1 (it begins with ring,mpps)"),
        ("binary", &[0x7f, b'E', b'L', b'F', 0, 0xff, 0x1b, b'\n'], "line 1: no JSON"),
        ("huge", huge.as_bytes(), "line 2: longer than 4194304 bytes"),
    ] {
        let path = bench.write_text(name, content);
        for (old, new) in [(&good, &path), (&path, &good)] {
            let (code, _, error) = diff(old, new, &[]);
            assert_eq!(code, 1, "{name}");
            assert!(error.contains(said) && error.contains(path.to_str().unwrap()), "{said}");
        }
    }
    for path in ["/no/such/report", bench.folder.path().to_str().unwrap()] {
        let (code, _, error) = diff(&good, Path::new(path), &[]);
        assert!(code == 1 && error.contains(path), "{path}");
    }
}

#[test]
fn what_every_subcommand_writes_can_be_read() {
    let bench = Bench::new();
    let load = ["--smoke", "--ring", "split", "--direction", "loopback", "--json", "-"];
    let mut all = Vec::new();
    for command in [
        &["run"][..],
        &["run", "--one-core"],
        &["latency", "--rate", "10k"],
        &["latency", "--capacity-percent", "5"],
        &["search", "--rate-max", "2k", "--attempts", "50", "--patience-ms", "500"],
        &["sweep", "--queues", "1"],
    ] {
        let output = perf(&[command, &load[..]].concat());
        assert!(output.status.success());
        all.extend(output.stdout);
    }
    let file = bench.write_text("all", &all);
    let (code, shown, _) = diff(&file, &file, &["--waited-max", "0.999", "--json", "-"]);
    // On one core neither placement nor waiting matters: that much is always compared.
    assert!(code == 0 && shown.contains("one core"));
    assert!(shown.contains(r#""slower":0"#) && !shown.contains("kind run"));
}
