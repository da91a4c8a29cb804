//! A daemon in a thread of the test, and guests that come to its sockets.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use virtnet_control::config::Config;
use virtnet_control::daemon::Daemon;
use virtnet_control::firmware::Limits;
use virtnet_control::rpc::Client;
use virtnet_control::service::Host;
use virtnet_control::vhost_user::frontend::{Frontend, FrontendError, PROTOCOL_FEATURES, RingSetup, SharedRegion};
use virtnet_control::vhost_user::message::{MemoryRegion, ProtocolFeatures, VIRTIO_F_RING_PACKED, VringBase};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::{Nic, NicOptions};
use virtnet_rings::guest::{Driver, Ram};

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(10);
pub const RAM_BYTES: usize = 8 << 20;
const VIRTIO_F_VERSION_1: u64 = 1 << 32;

/// A daemon and its run folder.
pub struct House {
    folder: tempfile::TempDir,
    stop: Option<OwnedFd>,
    daemon: Option<JoinHandle<anyhow::Result<()>>>,
}

impl House {
    /// Starts a daemon with devices of these keys, each an object's inside.
    pub fn with(devices: &[&str]) -> Self {
        let devices: Vec<_> = devices.iter().map(|keys| format!("{{{keys}}}")).collect();
        Self::of(&format!("{{\"devices\": [{}]}}", devices.join(",")), Limits::default())
    }

    /// Starts a daemon with this configuration, on a board with these limits.
    pub fn of(config: &str, limits: Limits) -> Self {
        let folder = tempfile::Builder::new().prefix("virtnet-").tempdir().unwrap();
        let config = Config::parse(config, Path::new("test")).unwrap();
        let (stop, stopped) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let host = Host { limits, ..Host::new(config, folder.path()) };
        let daemon = Daemon::start(host, None, Box::new(|_| Ok(())), stop).unwrap();
        let daemon = std::thread::spawn(move || daemon.run());
        Self { folder, stop: Some(stopped), daemon: Some(daemon) }
    }

    pub fn socket(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the daemon shows of its first function.
    pub fn query(&self) -> Value {
        let mut client = Client::connect(&self.socket("virtnet.sock"), SOON).unwrap();
        client.call("query", json!({ "pf": 0 })).unwrap()["devices"][0].take()
    }

    /// Ends the daemon as SIGTERM does, and checks what it leaves: nothing.
    pub fn end(mut self) {
        self.stop = None;
        self.daemon.take().unwrap().join().unwrap().unwrap();
        let left: Vec<_> = std::fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

/// A guest with a card of one pair.
pub struct Guest {
    pub nic: Nic,
    pub kicks: [OwnedFd; 2],
    pub calls: [OwnedFd; 2],
    pub bases: [VringBase; 2],
    sent: u32,
    received: u32,
}

impl Guest {
    pub fn new(layout: Layout, mergeable: bool) -> Self {
        Self::with(NicOptions { layout, mergeable, ..NicOptions::default() })
    }

    pub fn with(options: NicOptions) -> Self {
        Self::exactly(NicOptions { size: 64, ..options })
    }

    pub fn exactly(options: NicOptions) -> Self {
        let layout = options.layout;
        let ram = Arc::new(Ram::new(RAM_BYTES, 0x10_0000).unwrap());
        let nic = Nic::new(&ram, options).unwrap();
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap();
        let bases = [VringBase::start(layout == Layout::Packed); 2];
        Self { nic, kicks: [event(), event()], calls: [event(), event()], bases, sent: 0, received: 0 }
    }

    pub fn features(&self) -> u64 {
        let options = self.nic.options();
        let packed = if options.layout == Layout::Packed { VIRTIO_F_RING_PACKED } else { 0 };
        let version = if options.legacy { 0 } else { VIRTIO_F_VERSION_1 };
        version | packed | u64::from(options.mergeable) << 15
    }

    pub fn region(&self) -> MemoryRegion {
        let ram = self.nic.ram();
        MemoryRegion {
            guest_addr: ram.gpa(),
            size_bytes: ram.len_bytes(),
            user_addr: ram.user_address(),
            mmap_offset: 0,
        }
    }

    /// The user address of a guest physical one.
    pub fn user(&self, gpa: u64) -> u64 {
        gpa - self.nic.ram().gpa() + self.nic.ram().user_address()
    }

    pub fn driver(&self, index: usize) -> &Driver {
        if index == 0 { &self.nic.receiveq } else { &self.nic.transmitq }
    }

    /// Opens a session and shares memory.
    pub fn open(&self, frontend: &mut Frontend, protocol: ProtocolFeatures) -> Result<(), FrontendError> {
        let agreed = frontend.negotiate(self.features(), protocol)?;
        assert_eq!(agreed.features & self.features(), self.features());
        self.share(frontend)
    }

    pub fn share(&self, frontend: &mut Frontend) -> Result<(), FrontendError> {
        frontend.set_mem_table(&[SharedRegion { region: self.region(), file: self.nic.ram().fd() }])
    }

    /// Starts both rings where they stand.
    pub fn start(&self, frontend: &mut Frontend) -> Result<(), FrontendError> {
        self.start_by(frontend, |gpa| self.user(gpa))
    }

    /// The same, by other addresses than the user's.
    pub fn start_by(&self, frontend: &mut Frontend, address: impl Fn(u64) -> u64) -> Result<(), FrontendError> {
        for index in 0..2 {
            let driver = self.driver(index);
            let at = driver.addresses();
            let setup = RingSetup {
                size: driver.size().into(),
                base: self.bases[index],
                descriptor_addr: address(at.descriptor),
                driver_addr: address(at.driver),
                device_addr: address(at.device),
                log_addr: None,
                kick: Some(self.kicks[index].as_fd()),
                call: Some(self.calls[index].as_fd()),
                err: None,
            };
            frontend.start_ring(index as u8, &setup)?;
        }
        Ok(())
    }

    /// Stops both rings and remembers where they stand.
    pub fn stop(&mut self, frontend: &mut Frontend) -> Result<(), FrontendError> {
        for index in 0..2 {
            self.bases[index] = frontend.stop_ring(index as u8)?;
        }
        Ok(())
    }

    /// Connects to a device and starts.
    pub fn come(&self, path: &Path) -> Frontend {
        let mut frontend = Frontend::connect(path, SOON, SOON).unwrap();
        self.open(&mut frontend, PROTOCOL_FEATURES).unwrap();
        self.start(&mut frontend).unwrap();
        frontend
    }

    /// Sends frames over a loopback and gets each back, whole and in order.
    #[track_caller]
    pub fn loop_frames(&mut self, count: u32) {
        self.loop_frames_by(count, Self::kick);
    }

    /// The same, with doorbells of another kind.
    #[track_caller]
    pub fn loop_frames_by(&mut self, count: u32, mut kick: impl FnMut(&mut Self)) {
        let (goal, deadline) = (self.received + count, Instant::now() + SOON);
        let mut got = Vec::new();
        while self.received < goal {
            assert!(Instant::now() < deadline, "{} of {goal} frames came back, {} sent", self.received, self.sent);
            while self.sent < goal && self.sent - self.received < 32 && self.nic.send(&frame(self.sent)).unwrap() {
                self.sent += 1;
            }
            while self.nic.receive(&mut got).unwrap() {
                assert!(got == frame(self.received), "frame {} has changed on its way", self.received);
                self.received += 1;
            }
            kick(self);
        }
    }

    /// Kicks where the device wants it.
    pub fn kick(&mut self) {
        let drivers = [&mut self.nic.receiveq, &mut self.nic.transmitq];
        for (driver, kick) in drivers.into_iter().zip(&self.kicks) {
            if driver.needs_kick() {
                // One that is full says it already.
                let _ = rustix::io::write(kick, &1u64.to_ne_bytes());
            }
        }
    }
}

fn frame(number: u32) -> Vec<u8> {
    let len_bytes = 60 + (number as usize * 37) % 1400;
    let mut frame: Vec<u8> = (0..len_bytes).map(|at| (at as u32 * 7 + number) as u8).collect();
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame
}

/// Descriptors that this process has open.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
