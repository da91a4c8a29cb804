//! What the hot path costs besides time: no allocation, no system call, and little memory for who is idle.
//!
//! Each figure is taken in a process of its own, this program started again for one test, so that nothing else allocates or
//! calls the system beside it.

mod allocations;
mod memory;
mod syscalls;

use std::process::{Command, Output};

use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_tests::Guest;

const CHILD: &str = "VIRTNET_PERFORMANCE_CHILD";

/// Whether this process was started for the one figure. If so, the harness has come to rest: it still allocates after
/// it has started the test, and then sleeps, in the process's first thread, until the test ends.
fn is_child() -> bool {
    let is_child = std::env::var_os(CHILD).is_some();
    while is_child && !first_thread_sleeps() {
        std::thread::yield_now();
    }
    is_child
}

fn first_thread_sleeps() -> bool {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells of a process");
    let (_, state) = stat.rsplit_once(") ").expect("the state is behind the name");
    state.starts_with('S')
}

/// This program, for one test, in a process of its own; `wrap` is what it is started by, if by anything.
fn child(test: &str, wrap: &[&str]) -> Output {
    let myself = std::env::current_exe().expect("a program has a name");
    let mut command = match wrap {
        [] => Command::new(&myself),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(&myself);
            command
        }
    };
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.output().expect("it can be started again");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{test}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stdout));
    output
}

/// One worker that never sleeps.
fn start() -> Engine {
    Engine::start(EngineConfig { lcores: vec![None], idle: IdlePolicy::Poll, burst: 32 }).expect("an engine")
}

/// A device of one pair, and its guest on it.
fn plug(engine: &mut Engine, port: PortConfig, guest: &Guest) -> DeviceId {
    let device = engine.add_device(DeviceConfig { pairs: 1, port, workers: vec![] }).expect("a device");
    for index in [0, 1] {
        let queue = guest.queue_at(index, guest.fresh_base());
        engine.attach(device, index, queue, guest.features, true).expect("a queue");
    }
    device
}
