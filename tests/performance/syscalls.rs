//! A worker that polls makes no system call while frames move and nobody wants to be notified.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use virtnet_engine::PortConfig;
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::{Guest, aloud};

use crate::{child, is_child, plug, start};

const NAME: &str = "syscalls::a_polling_worker_makes_no_system_call";
const WORKER: &str = "worker-0";
const START: &str = "virtnet-starts-here";
const END: &str = "virtnet-ends-here";
const FRAMES: u64 = 100_000;

/// Leaves a mark among the system calls of whoever traces this process.
fn mark(text: &str) {
    let _ = fs::metadata(format!("/{text}"));
}

/// How often the worker has gone to sleep of its own will.
fn sleeps() -> u64 {
    let tasks = fs::read_dir("/proc/self/task").expect("a process knows its threads");
    let status = tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("status")).ok())
        .find(|status| status.lines().any(|line| line == format!("Name:\t{WORKER}")))
        .expect("there is a worker");
    let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).expect("a counter");
    line.trim().parse().expect("a number")
}

fn measure() {
    let mut engine = start();
    let mut guests = [Layout::Split, Layout::Packed].map(|layout| {
        let options = NicOptions { layout, ..NicOptions::default() };
        [Guest::new(1, options.clone()), Guest::new(2, options.clone()), Guest::new(3, options)]
    });
    for [looped, one, other] in &guests {
        plug(&mut engine, PortConfig::Loopback, looped);
        plug(&mut engine, PortConfig::Switch, one);
        plug(&mut engine, PortConfig::Switch, other);
    }
    let mut move_frames = |count: u64| {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut received = 0;
        while received < count {
            assert!(Instant::now() < deadline);
            for guest in guests.iter_mut().flatten() {
                let nic = &mut guest.nic;
                nic.send_burst(32, |ram, slot| {
                    ram.write(slot.gpa, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1]);
                    60
                })
                .expect("the device keeps to the rules");
                received += nic.receive_burst(|_, _| {}).expect("the device keeps to the rules") as u64;
            }
            // Where there is one core only, the worker needs it too.
            std::thread::yield_now();
        }
    };
    move_frames(FRAMES / 10);
    let before = sleeps();
    mark(START);
    move_frames(FRAMES);
    mark(END);
    assert_eq!(sleeps(), before, "the worker slept");
}

#[test]
fn a_polling_worker_makes_no_system_call() {
    if is_child() {
        return measure();
    }
    child(NAME, &[]);
    if Command::new("strace").arg("-V").output().is_err() {
        return aloud::skip("strace is not installed; that the worker never sleeps was tested without");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let trace = folder.path().join("trace");
    let path = trace.to_str().expect("a path of letters");
    let probe = Command::new("strace").args(["-f", "-o", path, "true"]).output().expect("strace starts");
    if !probe.status.success() {
        return aloud::skip("strace may not trace here; that the worker never sleeps was tested without");
    }
    child(NAME, &["strace", "-f", "-o", path]);
    let trace = fs::read_to_string(&trace).expect("what strace saw");
    let thread = |line: &str| line.split_whitespace().next().map(str::to_owned);
    let named = trace.lines().find(|line| line.contains("PR_SET_NAME") && line.contains(WORKER));
    let worker = named.and_then(thread).expect("the worker has a name");
    let marked = trace.lines().skip_while(|line| !line.contains(START)).take_while(|line| !line.contains(END));
    let (mut all, mut calls) = (0, Vec::new());
    for line in marked {
        all += 1;
        if thread(line).as_ref() == Some(&worker) {
            calls.push(line);
        }
    }
    assert!(all > 1, "the driver's own calls are seen");
    assert!(calls.is_empty(), "{} calls, the first {}", calls.len(), calls[0]);
}
