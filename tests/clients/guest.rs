//! A Linux guest, told what to do over its console: a line "NUMBER COMMAND" is answered by the
//! command's output and "@@NUMBER STATUS" (the first program that `scripts/lab` puts into its image).

use std::time::{Duration, Instant};

use crate::process::Process;

const BOOT: Duration = Duration::from_secs(120);

/// A booted guest.
pub struct Guest {
    name: String,
    process: Process,
    commands: u32,
    /// Where on its console the boot begins that is waited for.
    boot: usize,
}

/// What a command in the guest did.
pub struct Answer {
    pub status: i32,
    pub text: String,
}

impl Guest {
    /// A guest whose console is `process`, not yet waited for.
    pub fn new(name: &str, process: Process) -> Guest {
        Guest { name: name.to_owned(), process, commands: 0, boot: 0 }
    }

    /// Waits until the guest's shell answers, and returns its kernel's release.
    #[track_caller]
    pub fn wait_boot(&mut self) -> String {
        self.process.wait_until("boot", self.boot, BOOT, |text| {
            let after = text.split("@@ready ").nth(1)?;
            after.contains('\n').then(|| after.split_whitespace().next().unwrap_or_default().to_owned())
        })
    }

    /// It is about to boot again.
    pub fn forget_boot(&mut self) {
        self.boot = self.process.mark();
    }

    /// Starts a command without waiting for it.
    #[track_caller]
    pub fn begin(&mut self, command: &str) -> Pending {
        self.commands += 1;
        let mark = self.process.mark();
        let line = format!("{} {command}", self.commands);
        self.process.say(&line);
        Pending { mark, number: self.commands, line }
    }

    /// Waits for the end of a command.
    #[track_caller]
    pub fn wait(&mut self, pending: Pending, timeout: Duration) -> Answer {
        let Pending { mut mark, number, line } = pending;
        let marker = format!("@@{number} ");
        loop {
            let answer = self.process.wait_until("answer of the guest", mark, timeout, |text| {
                let Some((before, after)) = text.split_once(&marker) else {
                    return is_cut(text, number).then_some(None);
                };
                let (status, _) = after.split_once('\n')?;
                let status = status.trim().parse().ok()?;
                Some(Some(Answer { status, text: before.replace('\r', "").trim().to_owned() }))
            });
            if let Some(answer) = answer {
                return answer;
            }
            // The console of the newest kernels loses the beginning of a line now and then.
            eprintln!("{}: told again, for its console has lost some of it: {line}", self.name);
            mark = self.process.mark();
            self.process.say(&line);
        }
    }

    /// Runs a command that must succeed, and returns what it printed.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        self.run_within(command, Duration::from_secs(40))
    }

    /// Like `run`, for a command that takes longer.
    #[track_caller]
    pub fn run_within(&mut self, command: &str, timeout: Duration) -> String {
        let pending = self.begin(command);
        let answer = self.wait(pending, timeout);
        assert_eq!(answer.status, 0, "{}: {command}: {}", self.name, answer.text);
        answer.text
    }

    /// Waits for the netdev (`ethN`) and brings it up with an address.
    #[track_caller]
    pub fn address(&mut self, netdev: &str, address: &str) {
        self.run(&format!("ip addr add {address} dev {netdev} && ip link set {netdev} up"));
        let carrier = format!(
            "i=0; until grep -q 1 /sys/class/net/{netdev}/carrier; do i=$((i+1)); [ $i -lt 50 ] || break; sleep 0.1; done"
        );
        self.run(&format!("{carrier}; grep 1 /sys/class/net/{netdev}/carrier"));
    }

    /// Pings until `count` answers came, then checks that nothing was lost on a warm path.
    #[track_caller]
    pub fn ping(&mut self, address: &str, count: u32) {
        self.run(&format!("ping -c 1 -w 10 {address} >/dev/null"));
        let text = self.run(&format!("ping -i 0.1 -c {count} -W 3 {address}"));
        assert!(
            text.contains(&format!("{count} packets transmitted, {count} packets received")),
            "{}: {text}",
            self.name
        );
    }

    /// Sends `size_bytes` drawn bytes to an echo server over TCP and compares what comes back.
    #[track_caller]
    pub fn tcp_echo(&mut self, address: &str, size_bytes: u64) {
        let fill = format!("[ -s /tmp/sent ] || head -c {size_bytes} /dev/urandom >/tmp/sent");
        let exchange = format!(
            "{fill}; timeout 60 nc {address} 7 </tmp/sent >/tmp/back; ls -l /tmp/sent /tmp/back; cmp /tmp/sent /tmp/back"
        );
        self.run_within(&exchange, Duration::from_secs(70));
    }

    /// Answers whatever is sent to TCP port 7 of the guest, byte for byte.
    #[track_caller]
    pub fn echo(&mut self) {
        self.run("nc -ll -p 7 -e cat & sleep 0.2");
    }

    /// How many queue pairs the driver uses on `netdev`.
    #[track_caller]
    pub fn queue_pairs(&mut self, netdev: &str) -> usize {
        self.run(&format!("ls -d -1 /sys/class/net/{netdev}/queues/rx-*")).lines().count()
    }

    /// Whether the driver accepted feature `bit` of its device.
    #[track_caller]
    pub fn has_feature(&mut self, netdev: &str, bit: usize) -> bool {
        self.run(&format!("cat /sys/class/net/{netdev}/device/features")).trim().as_bytes().get(bit) == Some(&b'1')
    }

    /// Powers off, and waits until the guest's process has ended.
    #[track_caller]
    pub fn power_off(&mut self) {
        self.begin("poweroff -f");
        let status = self.process.wait_end(Duration::from_secs(30));
        assert!(status.success(), "{}: {status}", self.name);
    }
}

/// A command that a guest is busy with.
pub struct Pending {
    mark: usize,
    number: u32,
    line: String,
}

/// Whether a command was answered that nobody has given: what was left of one whose number is at most this.
fn is_cut(text: &str, number: u32) -> bool {
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let mut words = lines.filter_map(|line| line.strip_prefix("@@")?.split_whitespace().next());
    words.any(|word| word != "ready" && word.parse().map_or(true, |given: u32| given > number))
}

#[test]
fn what_is_left_of_a_command_is_no_answer() {
    assert!(["@@7 0\n", "@@ready 6.1\n", "@@up 0", "x @@up 0\n", "@@8 0\r\n"].iter().all(|text| !is_cut(text, 8)));
    assert!(["\n@@up 0\r\n", "@@9 0\n", "@@7 0\n1\n@@10.77.0.12/24 1\n"].iter().all(|text| is_cut(text, 8)));
}

/// Retries `done` until it holds.
#[track_caller]
pub fn eventually(what: &str, timeout: Duration, mut done: impl FnMut() -> bool) {
    let end = Instant::now() + timeout;
    while !done() {
        assert!(Instant::now() < end, "no {what} within {timeout:?}");
        std::thread::sleep(Duration::from_millis(100));
    }
}
