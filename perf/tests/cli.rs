//! Every subcommand, tiny: what it prints, what its JSON says, and that the judge notices what it is for.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::Value;
use virtnet_control::config::Config;
use virtnet_control::daemon::Daemon;
use virtnet_control::service::Host;

/// The exit code for frames that were lost silently, corrupted, reordered or duplicated.
const INTEGRITY: i32 = 3;
/// The exit code of `tune` where no range reaches the goal.
const UNREACHED: i32 = 4;

fn perf(arguments: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_virtnet-perf")).args(arguments).output().unwrap();
    println!("virtnet-perf {}: {}", arguments.join(" "), output.status);
    println!("{}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn objects(json: &str) -> Vec<Value> {
    json.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs, with JSON on standard output, and has nothing to complain about.
fn good(arguments: &[&str]) -> Vec<Value> {
    checked(&perf(&[arguments, &["--json", "-"]].concat()))
}

fn checked(output: &Output) -> Vec<Value> {
    assert!(output.status.success());
    let objects = objects(&text(&output.stdout));
    for run in objects.iter().filter(|object| object["kind"] != "versus") {
        assert_eq!(run["integrity_errors"], 0, "{run}");
        assert_eq!(run["partial"], false);
        assert!(run["environment"]["cpus"].as_u64() >= Some(1));
    }
    objects
}

/// A controller in this process, on sockets of its own.
struct Backend {
    folder: tempfile::TempDir,
    stop: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("controller.json");
        let device = |name: &str, pairs: u16, port: &str| {
            format!(r#"{{"name": "{name}", "socket": "{name}.sock", "queue_pairs": {pairs}, "port": "{port}"}}"#)
        };
        let devices = [
            device("loop1", 2, "loopback"),
            device("loop2", 2, "loopback"),
            device("sink", 1, "sink"),
            device("guest1", 2, "switch"),
            device("guest2", 2, "switch"),
        ];
        // Asleep when there is nothing to do: tests share their lcores.
        fs::write(&path, format!(r#"{{"idle": "adaptive", "devices": [{}]}}"#, devices.join(", "))).unwrap();
        let stop = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let config = Config::read(&path).unwrap();
        let host = Host::new(config, folder.path());
        let daemon = Daemon::start(host, None, Box::new(|_| Ok(())), stop.try_clone().unwrap()).unwrap();
        let thread = thread::spawn(move || daemon.run().unwrap());
        Backend { folder, stop, thread: Some(thread) }
    }

    fn socket(&self, name: &str) -> String {
        self.folder.path().join(format!("{name}.sock")).display().to_string()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1_u64.to_ne_bytes()).unwrap();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking());
    }
}

#[test]
fn run_measures_both_layouts_in_all_directions() {
    let runs = good(&["run", "--smoke"]);
    assert_eq!(runs.len(), 8);
    for ring in ["split", "packed"] {
        for direction in ["from-guest", "to-guest", "loopback", "guest-to-guest"] {
            let run = runs.iter().find(|run| run["ring"] == ring && run["direction"] == direction).unwrap();
            assert_eq!((&run["kind"], &run["frame_bytes"], &run["queues"]), (&"run".into(), &64.into(), &1.into()));
            assert!(run["frames_received"].as_u64() > Some(0) && run["mpps"].as_f64() > Some(0.0), "{run}");
            assert!(run["integrity"]["checked_before"].as_u64() >= Some(256), "{run}");
            assert_eq!(run["latency_ns"].is_null(), direction == "to-guest", "{run}");
            let gbit_per_s = run["mpps"].as_f64().unwrap() * 64.0 * 8.0 / 1e3;
            // Both are rounded, which shows where little was moved; and from-guest, bytes are those sent: a queue's more.
            let difference = (run["gbit_per_s"].as_f64().unwrap() - gbit_per_s).abs();
            let under_way = 256.0 * 64.0 * 8.0 / 1e9 / run["seconds"].as_f64().unwrap();
            assert!(difference < 0.01 * gbit_per_s + 0.002 + under_way, "{run}");
        }
    }
}

#[test]
fn run_takes_every_size_feature_and_number_of_queues() {
    for arguments in [
        &["--frame-bytes", "64,1518,9216,imix", "--features", "none"][..],
        &["--frame-bytes", "9216", "--features", "mrg_rxbuf,in_order"],
        &["--features", "mrg_rxbuf,in_order,event_idx,indirect", "--queues", "3", "--frame-bytes", "imix"],
        &["--queue-size", "8", "--burst", "1"],
        &["--queue-size", "4096", "--burst", "256", "--queues", "2"],
        &["--rate", "20k", "--direction", "loopback,to-guest"],
        &["--lcores", "0", "--driver-lcores", "0"],
    ] {
        let runs = good(&[&["run", "--smoke"], arguments].concat());
        assert!(!runs.is_empty() && runs.iter().all(|run| run["frames_received"].as_u64() > Some(0)), "{runs:?}");
    }
    assert_eq!(good(&["run", "--smoke", "--ring", "packed", "--queue-size", "100"]).len(), 4);
}

#[test]
fn on_one_core_the_cost_of_either_side_is_told() {
    let runs = good(&["run", "--smoke", "--one-core", "--queues", "2"]);
    assert_eq!(runs.len(), 8);
    for run in runs {
        let cost = |side: &str| run["one_core"][format!("{side}_ns_per_frame")].as_f64().unwrap();
        assert!(cost("driver") > 0.0 && cost("device") > 0.0 && run["lcores"] == run["driver_lcores"], "{run}");
    }
}

#[test]
fn a_damaged_frame_is_an_error_whatever_the_damage() {
    let load = ["run", "--smoke", "--ring", "split"];
    for (fault, key) in [("corrupt", "corrupted"), ("lose", "lost"), ("repeat", "duplicated"), ("swap", "reordered")] {
        for direction in ["to-guest", "loopback", "guest-to-guest"] {
            let every = format!("{fault}:100");
            let output = perf(&[&load[..], &["--direction", direction, "--inject", &every, "--json", "-"]].concat());
            assert_eq!(output.status.code(), Some(INTEGRITY), "{fault} {direction}");
            let run = &objects(&text(&output.stdout))[0];
            assert!(run["integrity"][key].as_u64() > Some(0), "{fault} {direction}: {run}");
            assert!(text(&output.stderr).contains("INTEGRITY"), "{fault} {direction}");
        }
    }
    // What a sink swallows is checked on a loop before.
    let output = perf(&[&load[..], &["--direction", "from-guest", "--inject", "lose:100"]].concat());
    assert_eq!(output.status.code(), Some(INTEGRITY));
}

/// So many frames, each longer than the one before it, a millisecond apart.
fn write_capture(path: &str, frames: u32) {
    // The classic format: a header, then each frame behind its time (seconds, microseconds) and its length twice.
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let mut file = words(&[0xa1b2_c3d4, 0x0004_0002, 0, 0, 65_535, 1]);
    for number in 0..frames {
        let len_bytes = 60 + 37 * number;
        file.extend(words(&[0, 1000 * number, len_bytes, len_bytes]));
        file.extend([0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x88, 0xb5]);
        file.extend((14..len_bytes).map(|byte| (byte ^ number) as u8));
    }
    fs::write(path, file).unwrap();
}

#[test]
fn a_capture_is_sent_and_known_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("frames.pcap");
    write_capture(path.to_str().unwrap(), 40);
    let load = ["run", "--smoke", "--pcap", path.to_str().unwrap()];
    let runs = good(&load);
    assert_eq!(runs.len(), 8);
    for run in runs {
        assert!(run["frame_bytes"].is_null() && run["pcap"].as_str() == path.to_str(), "{run}");
        assert!(run["integrity"]["checked_before"].as_u64() >= Some(256), "{run}");
    }
    for fault in ["corrupt:100", "lose:100", "swap:100"] {
        let output = perf(&[&load[..], &["--direction", "loopback", "--ring", "packed", "--inject", fault]].concat());
        assert_eq!(output.status.code(), Some(INTEGRITY), "{fault}");
    }
    let output = perf(&[&load[..], &["--queues", "2"]].concat());
    assert!(output.status.code() == Some(1) && text(&output.stderr).contains("--queues 2"));
}

#[test]
fn results_go_where_they_are_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [json, hgrm, html, hlog] = ["a.json", "a.hgrm", "a.html", "a.hlog"].map(path);
    let load = ["run", "--smoke", "--ring", "packed", "--direction", "loopback"];
    let output = perf(&[&load[..], &["--json", &json, "--hdr", &hgrm, "--html", &html]].concat());
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("packed") && text(&output.stdout).contains("no error"));
    assert_eq!(objects(&fs::read_to_string(json).unwrap()).len(), 1);
    assert!(fs::read_to_string(hgrm).unwrap().contains("1/(1-Percentile)"));
    assert!(fs::read_to_string(html).unwrap().contains("<polyline"));
    assert!(perf(&[&load[..], &["--hdr", &hlog]].concat()).status.success());
    assert!(fs::read_to_string(hlog).unwrap().contains("Tag=packed-loopback-64"));
    let output = perf(&[&load[..], &["--json", &path("no/such/folder")]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("no/such/folder"));
}

#[test]
fn latency_is_that_of_every_frame() {
    let runs = good(&["latency", "--smoke", "--rate", "10k", "--direction", "loopback,guest-to-guest,from-guest"]);
    assert_eq!(runs.len(), 6);
    for run in runs {
        assert!(run["latency_of"].as_str().unwrap().starts_with("due_to_"), "{run}");
        let at = |key: &str| run["latency_ns"][key].as_u64().unwrap();
        assert!(0 < at("p50") && at("p50") <= at("p99") && at("p99") <= at("p99_99") && at("p99_99") <= at("max"));
    }
    assert_eq!(perf(&["latency", "--smoke", "--direction", "to-guest"]).status.code(), Some(1));
}

#[test]
fn latency_at_shares_of_the_capacity_follows_its_search() {
    let runs = good(&["latency", "--smoke", "--capacity-percent", "1,5", "--ring", "packed"]);
    assert_eq!(runs.len(), 3);
    let capacity_pps = runs[0]["search"]["zero_loss_pps"].as_f64().unwrap();
    assert!(runs[0]["kind"] == "search" && runs[0]["command"] == "latency" && capacity_pps > 0.0, "{runs:?}");
    for (run, percent) in runs[1..].iter().zip([1.0, 5.0]) {
        assert_eq!((&run["capacity"]["percent"], &run["capacity"]["pps"]), (&percent.into(), &capacity_pps.into()));
        assert!((run["rate_pps"].as_f64().unwrap() / (capacity_pps * percent / 100.0) - 1.0).abs() < 1e-6, "{run}");
        assert!(run["latency_of"] == "due_to_arrival" && run["latency_ns"]["p99_99"].as_u64() > Some(0), "{run}");
    }
    let backend = Backend::new();
    let runs = good(&[
        "latency",
        "--smoke",
        "--capacity-percent",
        "1",
        "--ring",
        "split",
        "--socket",
        &backend.socket("loop1"),
    ]);
    assert_eq!(runs.len(), 2);
}

#[test]
fn one_frame_at_a_time_is_held_against_what_the_machine_allows() {
    let lcores = std::thread::available_parallelism().unwrap().get();
    if lcores < 2 {
        println!("SKIPPED: a cache line needs two lcores to go to and fro, and there is {lcores}");
        return;
    }
    let output = perf(&["latency", "--smoke", "--unloaded", "--frame-bytes", "64,1518", "--json", "-"]);
    if text(&output.stderr).contains("hardly ever ran at once") {
        println!("SKIPPED: a cache line needs two lcores at once, and others have them");
        return;
    }
    for run in checked(&output) {
        assert!(run["latency_of"] == "send_to_arrival" && run["frames_received"].as_u64() > Some(0), "{run}");
        assert_eq!(run["frames_sent"], run["frames_received"]);
        let median = |key: &str| run["unloaded"][key]["median"].as_f64().unwrap();
        let transfers = run["unloaded"]["line_transfers"].as_u64().unwrap();
        assert_eq!(transfers, if run["ring"] == "packed" { 4 } else { 5 });
        assert!(median("ping_pong_ns") > 0.0 && median("limit_ns") > median("ping_pong_ns"), "{run}");
        assert!(median("ratio") > 0.0, "{run}");
    }
}

#[test]
fn search_tells_a_rate_and_how_it_was_found() {
    let load = ["search", "--smoke", "--ring", "split", "--rate-max", "2k"];
    let runs = good(&[&load[..], &["--attempts", "50", "--patience-ms", "500"]].concat());
    assert_eq!(runs.len(), 4);
    for run in runs {
        assert_eq!(run["kind"], "search");
        let trials = run["search"]["trials"].as_array().unwrap();
        assert!(!trials.is_empty() && trials[0]["offered_pps"] == 2000.0, "{run}");
        assert_eq!(run["search"]["zero_loss_pps"], 2000.0, "{run}");
    }
}

#[test]
fn sweep_measures_every_cell_in_every_round() {
    let load = ["sweep", "--smoke", "--lcores", "0", "--queues", "1,2", "--frame-bytes", "64", "--rounds", "2"];
    let cells = good(&[&load[..], &["--direction", "from-guest,loopback"]].concat());
    assert_eq!(cells.len(), 8);
    for cell in &cells {
        assert_eq!((&cell["kind"], &cell["command"]), (&"sweep".into(), &"sweep".into()), "{cell}");
        let rounds = cell["sweep"]["rounds"].as_array().unwrap();
        assert_eq!(rounds.len(), 2, "{cell}");
        assert!(rounds.iter().all(|round| round["mpps"].as_f64() > Some(0.0)), "{cell}");
        assert!(cell["integrity"]["checked_before"].as_u64() >= Some(512), "{cell}");
        let pairs: u64 = cell["workers"].as_array().unwrap().iter().filter_map(|w| w["queue_pairs"].as_u64()).sum();
        assert_eq!(Some(pairs), cell["queues"].as_u64(), "{cell}");
    }
    let queues = |queues: u64| cells.iter().filter(|cell| cell["queues"] == queues).count();
    assert_eq!((queues(1), queues(2)), (4, 4));
}

#[test]
fn sweep_says_what_it_leaves_out_and_how_long_it_will_take() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.html").display().to_string();
    let load = ["sweep", "--smoke", "--ring", "packed", "--direction", "loopback", "--frame-bytes", "64"];
    let options = ["--workers", "1,64", "--queues", "1", "--rate", "20k", "--html", &path];
    let output = perf(&[&load[..], &options].concat());
    assert!(output.status.success());
    let (table, said) = (text(&output.stdout), text(&output.stderr));
    assert!(said.contains("1 cell, 2 rounds of each: about"), "{said}");
    assert!(said.contains("64 workers were left out") && table.contains("64 workers were left out"), "{said}{table}");
    assert!(table.contains("p99") && table.contains("efficiency"), "{table}");
    assert!(fs::read_to_string(path).unwrap().contains("packed-loopback-64-1q-lcores0"));
}

/// Runs `tune`, whether its goal is reached or not: that is a matter of the machine. Returns its object.
fn tuned(arguments: &[&str]) -> Value {
    let output = perf(&[&["tune", "--smoke", "--json", "-"], arguments].concat());
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&outcome["kind"], &outcome["integrity_errors"]), (&"tune".into(), &0.into()), "{outcome}");
    let met = outcome["met"].as_bool().unwrap();
    assert_eq!(output.status.code(), Some(if met { 0 } else { UNREACHED }));
    assert_eq!(outcome["lines"].is_null(), !met, "{outcome}");
    let said = text(&output.stderr);
    assert!(said.contains("at most") && said.contains(if met { "CHOICE" } else { "NO RANGE REACHES" }), "{said}");
    if met {
        // What is printed is what the controller reads.
        let line = said.lines().skip_while(|line| *line != "virtnet.conf:").nth(1).unwrap();
        let config = Config::parse(&format!("{{{line}, \"devices\": []}}"), Path::new("virtnet.conf")).unwrap();
        let lcores: Vec<_> =
            outcome["lcores"].as_array().unwrap().iter().map(|l| l.as_u64().unwrap() as usize).collect();
        assert_eq!(config.lcores.0, lcores, "{line}");
    }
    outcome
}

#[test]
fn tune_chooses_among_what_it_tried_and_says_where_pairs_go() {
    let two = thread::available_parallelism().is_ok_and(|lcores| lcores.get() > 1);
    let lcores = if two { "0-1" } else { "0" };
    let outcome = tuned(&["--lcores", lcores, "--devices", "2", "--direction", "guest-to-guest", "--queues", "2"]);
    assert_eq!(outcome["met"], true);
    let tried = outcome["tried"].as_array().unwrap();
    assert!(!tried.is_empty() && tried.iter().any(|tried| tried["lcores"] == outcome["lcores"]), "{outcome}");
    for round in tried.iter().flat_map(|tried| tried["rounds"].as_array().unwrap()) {
        let rates = round["devices_mpps"].as_array().unwrap();
        assert!(rates.len() == 2 && rates.iter().all(|mpps| mpps.as_f64() > Some(0.0)), "{round}");
    }
    // Two devices from guest to guest are four, of two pairs each.
    assert_eq!(outcome["placement"].as_array().unwrap().len(), 8, "{outcome}");
    assert!(outcome["integrity"]["checked_before"].as_u64() >= Some(512), "{outcome}");
}

#[test]
fn tune_looks_for_the_fewest_lcores_or_says_that_there_are_none() {
    let load = ["--lcores", "0", "--driver-lcores", "0", "--devices", "2", "--direction", "from-guest"];
    let outcome = tuned(&[&load[..], &["--goal", "rate=2k", "--patience-ms", "1000"]].concat());
    assert_eq!(outcome["goal"]["rate_pps"], 2000.0, "{outcome}");
    assert!(outcome["devices"].as_array().unwrap().iter().all(|device| device["rate_pps"] == 1000.0), "{outcome}");
    let outcome = tuned(&[&load[..], &["--goal", "p99=100ns", "--rate", "2k"]].concat());
    assert_eq!(
        (&outcome["met"], &outcome["lcores"]),
        (&false.into(), &vec![0].into()),
        "no guest gets a turn that soon"
    );
    assert!(outcome["reasons"].as_array().unwrap()[0].as_str().unwrap().contains("no range reached p99=100ns"));
}

#[test]
fn tune_takes_its_load_from_a_file_or_a_capture() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let [load, wrong, capture] = ["load.json", "wrong.json", "a.pcap"].map(path);
    let devices = r#"[{"name": "web", "queue_pairs": 2, "ring": "split", "frame_bytes": "imix", "count": 2},
                      {"name": "sink", "direction": "from-guest", "rate_pps": 3000},
                      {"direction": "to-guest", "frame_bytes": 1518}, {"direction": "guest-to-guest"}]"#;
    fs::write(&load, devices).unwrap();
    let outcome = tuned(&["--load", &load]);
    let names: Vec<_> = outcome["devices"].as_array().unwrap().iter().map(|device| device["name"].clone()).collect();
    assert_eq!(names, ["web-1", "web-2", "sink", "device3", "device4"]);
    for round in outcome["tried"][0]["rounds"].as_array().unwrap() {
        assert!(round["devices_mpps"].as_array().unwrap().iter().all(|mpps| mpps.as_f64() > Some(0.0)), "{round}");
    }
    assert!(outcome["placement"].as_array().unwrap().iter().any(|place| place["device"] == "device4/to"), "{outcome}");
    fs::write(&wrong, r#"[{}, {"queue_pairs": 65}]"#).unwrap();
    let output = perf(&["tune", "--smoke", "--load", &wrong]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text(&output.stderr).contains("device 2: `queue_pairs` is 65: 1 to 64 is allowed"),
        "{}",
        text(&output.stderr)
    );

    write_capture(&capture, 40);
    let outcome = tuned(&["--recorded", &capture, "--devices", "2", "--goal", "p99=1s"]);
    assert_eq!((&outcome["pcap"], &outcome["devices"][0]["rate_pps"]), (&capture.into(), &1000.0.into()), "{outcome}");
    assert!(outcome["devices"][1]["frame_bytes"].is_null(), "{outcome}");
}

#[test]
fn a_back_end_behind_a_socket_is_driven_and_judged() {
    let backend = Backend::new();
    let [loopback, sink, guest1, guest2] = ["loop1", "sink", "guest1", "guest2"].map(|name| backend.socket(name));
    for run in good(&["attach", "--smoke", "--socket", &loopback, "--queues", "2", "--frame-bytes", "64,imix"]) {
        assert_eq!((&run["backend"], &run["direction"]), (&loopback.clone().into(), &"loopback".into()));
        assert!(run["integrity"]["checked_before"].as_u64() > Some(0), "{run}");
        assert!(run["frames_received"].as_u64() > Some(0), "{run}");
    }
    let features = ["--direction", "from-guest", "--features", "in_order,event_idx"];
    assert_eq!(good(&[&["attach", "--smoke", "--socket", &sink], &features[..]].concat()).len(), 2);
    // Both devices have two queue pairs; a guest may use one.
    for queues in ["1", "2"] {
        for run in good(&["attach", "--smoke", "--socket", &guest1, "--peer-socket", &guest2, "--queues", queues]) {
            assert!(run["direction"] == "guest-to-guest" && run["frames_received"].as_u64() > Some(0), "{run}");
        }
    }
    assert_eq!(good(&["latency", "--smoke", "--socket", &loopback, "--rate", "5k"]).len(), 2);
    assert_eq!(good(&["search", "--smoke", "--socket", &loopback, "--rate-max", "1k", "--ring", "split"]).len(), 1);
    // A sink sends nothing back, which is said rather than measured.
    let output = perf(&["attach", "--smoke", "--socket", &sink]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("none arrived"), "{}", text(&output.stderr));
}

#[test]
fn two_back_ends_are_compared_round_by_round() {
    let backend = Backend::new();
    let [one, other] = ["loop1", "loop2"].map(|name| backend.socket(name));
    let load = ["versus", "--smoke", "--ring", "split", "--waited-max", "0.99"];
    let objects = good(&[&load[..], &["--socket", &one, "--socket", &other]].concat());
    let (comparison, rounds) = objects.split_last().unwrap();
    assert_eq!((&comparison["kind"], &comparison["rounds"]), (&"versus".into(), &2.into()));
    assert_eq!((&comparison["a"], &comparison["b"]), (&one.into(), &other.into()));
    assert_eq!(rounds.len(), 4);
    assert!(rounds.iter().all(|round| round["kind"] == "round" && round["frames_received"].as_u64() > Some(0)));
    if let Some(ratio) = comparison["ratio"].as_object() {
        let [low, median, high] = ["low", "median", "high"].map(|key| ratio[key].as_f64());
        assert!(low <= median && median <= high);
    }
}

#[test]
fn back_ends_that_are_started_are_also_ended() {
    let controller = Path::new(env!("CARGO_BIN_EXE_virtnet-perf")).with_file_name("virtio-net-controller");
    if !controller.exists() {
        println!("SKIPPED: {} is not built", controller.display());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("c.json");
    let device = r#"{"name": "loop", "socket": "vhost.sock", "queue_pairs": 1, "port": "loopback"}"#;
    fs::write(&config, format!(r#"{{"idle": "adaptive", "devices": [{device}]}}"#)).unwrap();
    let command = format!(
        "{} --config {} --run-dir $(dirname {{socket}}) & echo $! >> {}/pids; wait",
        controller.display(),
        config.display(),
        folder.path().display()
    );
    let objects = good(&["versus", "--smoke", "--command", &command, "--command", &command, "--ring", "packed"]);
    assert_eq!(objects.len(), 5);
    let pids = fs::read_to_string(folder.path().join("pids")).unwrap();
    assert_eq!(pids.lines().count(), 2);
    for pid in pids.lines() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }
}

#[test]
fn an_interrupt_ends_with_what_there_is() {
    let started = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_virtnet-perf"))
        .args(["run", "--ring", "split", "--direction", "loopback", "--seconds", "600", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(2500));
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(started.elapsed() < Duration::from_secs(60));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let run = &objects(&text(&output.stdout))[0];
    assert_eq!((&run["partial"], &run["integrity_errors"]), (&true.into(), &0.into()));
    assert!(run["seconds"].as_f64() < Some(60.0));
}

#[test]
fn an_interrupt_ends_the_wait_for_a_back_end() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("vhost.sock");
    let child = Command::new(env!("CARGO_BIN_EXE_virtnet-perf"))
        .args(["attach", "--server", "--socket", &socket.to_string_lossy()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !socket.exists() {
        thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    assert!(!socket.exists());
}

#[test]
fn what_cannot_be_is_refused_with_what_can() {
    for (arguments, code, said) in [
        (&["run", "--frame-bytes", "63"][..], 2, "64 to 9216, or imix"),
        (&["run", "--ring", "split", "--queue-size", "100"], 1, "power of two"),
        (&["run", "--lcores", "4000"], 1, "lcore 4000"),
        (&["run", "--features", "sriov"], 2, "mrg_rxbuf"),
        (&["run", "--one-core", "--driver-lcores", "0-1"], 1, "lcore"),
        (&["run", "--seconds", "600", "--json", "/no/such/run.json"], 1, "/no/such/run.json: No such file"),
        (&["sweep", "--seconds", "600", "--html", "/no/such/page.html"], 1, "/no/such/page.html"),
        (&["tune", "--seconds", "600", "--json", "/no/such/tune.json"], 1, "/no/such/tune.json"),
        (&["latency", "--socket", "/no/such.sock", "--lcores", "0"], 2, "--lcores"),
        (&["search", "--socket", "/no/such.sock", "--lcores", "0"], 2, "--lcores"),
        (&["sweep", "--lcores", "4000"], 1, "lcore 4000"),
        (&["sweep", "--lcores", "0", "--workers", "2", "--queues", "4"], 1, "nothing is left"),
        (&["sweep", "--queues", "0"], 2, "1..=64"),
        (&["latency", "--capacity-percent", "0"], 2, "up to 100 percent"),
        (&["latency", "--capacity-percent", "10", "--rate", "5k"], 2, "cannot be used with"),
        (&["latency", "--unloaded", "--capacity-percent", "10"], 2, "cannot be used with"),
        (&["latency", "--unloaded", "--queues", "2"], 1, "--queues 2"),
        (&["latency", "--unloaded", "--direction", "from-guest"], 1, "has to come back"),
        (&["latency", "--unloaded", "--lcores", "0", "--driver-lcores", "0"], 1, "an lcore for each side"),
        (&["tune", "--goal", "fast"], 2, "max-throughput, p99=TIME"),
        (&["tune", "--goal", "p99=5us"], 1, "no rate for 1 of 1 device"),
        (&["tune", "--goal", "p99=5us", "--rate", "1k", "--direction", "to-guest"], 1, "nobody knows when"),
        (&["tune", "--load", "/no/such.json"], 1, "/no/such.json"),
        (&["tune", "--load", "x.json", "--devices", "2"], 2, "--devices"),
        (&["tune", "--lcores", "4000"], 1, "lcore 4000"),
        (&["tune", "--devices", "1024", "--queues", "64", "--queue-size", "32768"], 1, "MiB that are free"),
        (&["attach", "--socket", "/no/such.sock", "--direction", "guest-to-guest"], 1, "--peer-socket"),
        (&["versus", "--socket", "/no/such.sock"], 1, "twice in all"),
        (&["search", "--socket", "/no/such.sock", "--direction", "to-guest"], 1, "at what rate"),
    ] {
        let output = perf(arguments);
        assert_eq!(output.status.code(), Some(code));
        assert!(text(&output.stderr).contains(said), "{said} in {}", text(&output.stderr));
    }
}
