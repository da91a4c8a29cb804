//! A back end that takes chains and returns them, and does nothing else: no look at a header, no byte copied. What a driver
//! reaches with it is what the driver can do, and no back end will do more. One that moves frames needs their lines, too, which
//! the driver has to get back: what that costs both sides tells a back end that touches the first eight bytes of each.

use std::hint::black_box;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use rustix::event::{Timespec, epoll};
use rustix::fs::Mode;
use serde::Serialize;
use virtnet_control::device::Spec;
use virtnet_control::device::config_space::ConfigSpace;
use virtnet_control::transport::endpoint::Endpoint;
use virtnet_control::transport::session::Transport;
use virtnet_control::transport::{Backend, Resetter};
use virtnet_engine::caller::{Caller, Line};
use virtnet_rings::memory::Span;
use virtnet_rings::spec::net::{NET_HEADER_SIZE_BYTES, NetHeader};
use virtnet_rings::{Chain, Notifier, PartStore, Queue, Taken, Used, Virtqueue, with_queue};

use crate::cell::{Direction, Frames};
use crate::lcore;

/// Chains at a time, as our daemon takes them.
const BURST: usize = 32;
/// Turns between two looks at the sockets.
const TURNS_PER_LOOK: usize = 4096;
/// What it prints when front ends may come.
pub const READY: &str = "floor: listening";

/// What is done with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Deed {
    /// Nothing: its chain is returned
    Returns,
    /// Its first eight bytes are read, or written behind a header, and its chain is returned
    Touches,
}

impl Deed {
    /// To say what the floor is.
    pub fn sentence(self) -> &'static str {
        match self {
            Deed::Returns => "a back end that takes chains and returns them, and does nothing else",
            Deed::Touches => {
                "a back end that reads or writes eight bytes of each frame, returns its chain, and does nothing else"
            }
        }
    }
}

/// The back end that does nothing.
#[derive(Args)]
pub struct Floor {
    /// Where it runs
    #[arg(long)]
    pub lcore: usize,
    /// What it pretends to do
    #[arg(long)]
    pub direction: Direction,
    /// What it does with a frame
    #[arg(long)]
    pub deed: Deed,
    /// What the frames that it has not received are said to be
    #[arg(long)]
    pub frames: Frames,
    /// Where front ends come to, one for each guest
    pub sockets: Vec<PathBuf>,
}

impl Floor {
    /// Serves until it is killed.
    ///
    /// # Errors
    /// The sockets', and a driver's violation.
    pub fn run(&self) -> Result<()> {
        lcore::pin(self.lcore);
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut devices = Vec::new();
        let mut endpoints = Vec::new();
        for (token, socket) in (0..).zip(&self.sockets) {
            let endpoint = Endpoint::listen("floor", socket, Mode::RUSR | Mode::WUSR, Transport::VhostUser)?;
            endpoint.watch(&epoll, token).context("watching a socket")?;
            endpoints.push(endpoint);
            devices.push(Device::new()?);
        }
        println!("{READY}");
        let mut hand = Hand::new(self.frames, self.deed);
        let mut owed = [0; 2];
        let mut events = Vec::with_capacity(8);
        loop {
            for _ in 0..TURNS_PER_LOOK {
                self.turn(&mut devices, &mut hand, &mut owed)?;
            }
            events.clear();
            epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&Timespec::default()))?;
            for event in &events {
                let token = event.data.u64();
                endpoints[token as usize].turn(&mut devices[token as usize], &epoll, token);
            }
        }
    }

    /// One burst each way. A guest gets as many frames as are owed to it.
    fn turn(&self, devices: &mut [Device], hand: &mut Hand, owed: &mut [usize; 2]) -> Result<()> {
        for from in 0..devices.len() {
            let to = devices.len() - 1 - from;
            match self.direction {
                Direction::ToGuest => owed[to] = BURST,
                Direction::FromGuest | Direction::Loopback | Direction::GuestToGuest => {
                    owed[to] += hand.pass(&mut devices[from].transmitq, BURST, false)?;
                }
            }
            if self.direction != Direction::FromGuest {
                owed[to] -= hand.pass(&mut devices[to].receiveq, owed[to].min(BURST), true)?;
            }
        }
        Ok(())
    }
}

/// Room for a burst.
struct Hand {
    chains: [Chain; BURST],
    store: PartStore,
    used: Vec<Used>,
    deed: Deed,
    /// What is said to be in receive buffers, in turn.
    lengths: std::iter::Cycle<std::slice::Iter<'static, u32>>,
}

impl Hand {
    fn new(frames: Frames, deed: Deed) -> Self {
        Hand {
            chains: std::array::from_fn(|_| Chain::default()),
            store: PartStore::new(BURST),
            used: Vec::with_capacity(BURST),
            deed,
            lengths: frames.bytes().iter().cycle(),
        }
    }

    /// Takes up to `count` chains and returns them, with something in them or not.
    #[inline]
    fn pass(&mut self, ring: &mut Option<Queue>, count: usize, filled: bool) -> Result<usize> {
        let Some(queue) = ring else { return Ok(0) };
        let Hand { chains, store, used, deed, lengths } = self;
        with_queue!(queue, queue => {
            let Taken { count, violation } = queue.take_available(&mut chains[..count], store);
            if let Some(violation) = violation {
                bail!("the driver broke a rule: {violation}");
            }
            if count > 0 {
                used.clear();
                used.extend(chains[..count].iter_mut().map(|chain| {
                    if let (Deed::Touches, Some(part)) = (*deed, chain.parts.get(0)) {
                        touch(part, filled);
                    }
                    store.give_back(chain.parts.take_list());
                    let len_bytes = filled.then(|| lengths.next()).flatten();
                    chain.used(len_bytes.map_or(0, |len_bytes| len_bytes + NET_HEADER_SIZE_BYTES as u32))
                }));
                queue.return_used(used);
            }
            Ok(count)
        })
    }
}

/// Reads the first eight bytes of the frame in a buffer, or writes such; the header in front is to ask for nothing.
#[inline]
fn touch(part: Span, fill: bool) {
    if fill {
        part.update_array(NetHeader { num_buffers: 1, ..NetHeader::default() }.to_bytes());
        part.skip(NET_HEADER_SIZE_BYTES as u32).write_array([0; 8]);
    } else {
        black_box(part.skip(NET_HEADER_SIZE_BYTES as u32).read_array::<8>());
    }
}

/// One guest's device: it offers what our daemon's does, so that drivers take the same paths.
struct Device {
    features: u64,
    queue_size_max: u16,
    config_space: ConfigSpace,
    receiveq: Option<Queue>,
    transmitq: Option<Queue>,
    caller: Caller,
}

impl Device {
    fn new() -> Result<Self> {
        let config: virtnet_control::config::Device =
            serde_json::from_value(serde_json::json!({ "name": "floor", "socket": "floor.sock" }))?;
        let spec = Spec::from(&config);
        Ok(Device {
            features: spec.features(),
            queue_size_max: spec.queue_size_max,
            config_space: ConfigSpace::new(&spec),
            receiveq: None,
            transmitq: None,
            caller: Caller::default(),
        })
    }

    fn ring(&mut self, index: usize) -> &mut Option<Queue> {
        if index == 0 { &mut self.receiveq } else { &mut self.transmitq }
    }
}

impl Backend for Device {
    fn features(&self) -> u64 {
        self.features
    }

    fn ring_count(&self) -> usize {
        2
    }

    fn queue_size_max(&self) -> u16 {
        self.queue_size_max
    }

    fn config(&self) -> Vec<u8> {
        self.config_space.to_bytes().to_vec()
    }

    fn restore_config(&mut self, _offset: usize, _bytes: &[u8]) -> Result<(), &'static str> {
        Err("it keeps nothing")
    }

    fn set_features(&mut self, _features: u64) {}

    fn start_ring(&mut self, index: usize, mut queue: Queue, _enabled: bool) -> Result<(), &'static str> {
        if index == 1 {
            queue.only_reads(0);
        }
        *self.ring(index) = Some(queue);
        Ok(())
    }

    fn look_again(&mut self) {}

    fn stop_ring(&mut self, index: usize) -> u32 {
        self.ring(index).take().map_or(0, |queue| queue.base())
    }

    fn line(&mut self, descriptor: std::os::fd::OwnedFd) -> std::io::Result<Arc<Line>> {
        self.caller.line(descriptor)
    }

    fn said(&self) -> Vec<virtnet_control::device::controlq::Said> {
        Vec::new()
    }

    fn go_on(&mut self, _: u64, _: &[virtnet_control::device::controlq::Said]) -> Result<(), &'static str> {
        Err("it keeps nothing")
    }

    fn watch(&mut self, _: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
        Ok(())
    }

    fn unwatch(&mut self, _: std::os::fd::BorrowedFd<'_>) {}

    fn set_call(&mut self, index: usize, call: Notifier) {
        if let Some(queue) = self.ring(index) {
            *queue.call() = call;
        }
    }

    fn enable_ring(&mut self, _index: usize, _enabled: bool) {}

    fn set_address(&mut self, _mac: [u8; 6]) -> Result<(), &'static str> {
        Err("it keeps nothing")
    }

    fn reset_ring(&mut self, _index: usize) {}

    fn set_status(&mut self, _status: u8) {}

    fn reset(&mut self, _by: Resetter) {}

    fn set_mtu(&mut self, _mtu: u16) -> Result<(), &'static str> {
        Err("it offers no MTU")
    }

    fn announce(&mut self, _mac: [u8; 6]) {}
}

#[cfg(test)]
mod tests {
    use virtnet_rings::guest::net::{Nic, NicOptions};
    use virtnet_rings::guest::{Driver, Ram};
    use virtnet_rings::memory::{GuestMemory, RegionSpec};
    use virtnet_rings::{Layout, QueueAddresses, QueueSetup};

    use super::*;

    fn nic_and_device(layout: Layout) -> (Nic, Device) {
        let ram = Arc::new(Ram::new(4 << 20, 0x10_0000).unwrap());
        let nic = Nic::new(&ram, NicOptions { layout, ..NicOptions::default() }).unwrap();
        let region = RegionSpec {
            gpa: ram.gpa(),
            len_bytes: ram.len_bytes(),
            frontend_address: ram.user_address(),
            fd: ram.fd().try_clone_to_owned().unwrap(),
            offset_bytes: 0,
        };
        let memory = GuestMemory::new(vec![region]).unwrap();
        let queue = |driver: &Driver| {
            let addresses = driver.addresses();
            let setup = QueueSetup {
                layout,
                size: driver.size(),
                addresses: QueueAddresses {
                    descriptor_area: addresses.descriptor,
                    driver_area: addresses.driver,
                    device_area: addresses.device,
                },
                base: if layout == Layout::Packed { 0x8000_8000 } else { 0 },
                features: 0,
                call: Notifier::default(),
                kick: Notifier::default(),
                log: None,
            };
            setup.activate(Arc::clone(&memory)).unwrap()
        };
        let mut device = Device::new().unwrap();
        device.start_ring(0, queue(&nic.receiveq), true).unwrap();
        device.start_ring(1, queue(&nic.transmitq), true).unwrap();
        (nic, device)
    }

    /// The lengths of frames that a guest gets in some turns after it has sent five, and how many of its chains came back.
    fn pretended(layout: Layout, direction: Direction, deed: Deed, turns: usize) -> (Vec<u32>, usize) {
        let (mut nic, device) = nic_and_device(layout);
        let floor = Floor { lcore: 0, direction, deed, frames: Frames::Mixed, sockets: Vec::new() };
        let (mut devices, mut hand, mut owed) = ([device], Hand::new(floor.frames, deed), [0; 2]);
        nic.send_burst(5, |_, _| 64).unwrap();
        for _ in 0..turns {
            floor.turn(&mut devices, &mut hand, &mut owed).unwrap();
        }
        let reaped = nic.reap().unwrap();
        let mut lengths = Vec::new();
        while nic.receive_burst(|_, received| lengths.push(received.len_bytes)).unwrap() > 0 {}
        (lengths, reaped)
    }

    #[test]
    fn a_guest_is_told_of_frames_and_gets_its_own_back() {
        let layouts = [Layout::Split, Layout::Packed];
        for (layout, deed) in
            layouts.into_iter().flat_map(|layout| Deed::value_variants().iter().map(move |&deed| (layout, deed)))
        {
            let (lengths, reaped) = pretended(layout, Direction::FromGuest, deed, 3);
            assert_eq!((lengths.len(), reaped), (0, 5));
            let (lengths, reaped) = pretended(layout, Direction::ToGuest, deed, 3);
            assert_eq!((lengths.len(), reaped), (3 * BURST, 0));
            // As many as were sent, and no more.
            let (lengths, reaped) = pretended(layout, Direction::Loopback, deed, 3);
            assert_eq!((lengths, reaped), (vec![64, 570, 1518, 64, 570], 5));
        }
    }
}
