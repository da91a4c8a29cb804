//! What a device does not want, it does not get; and what it gets, at the pair where it wants it.

mod guest;

use std::time::{Duration, Instant};

use guest::Guest;
use virtnet_engine::counters::{DropReason, QueueCounts};
use virtnet_engine::filter::{Filter, Modes};
use virtnet_engine::frame::steer::Steering;
use virtnet_engine::port::source::SourceConfig;
use virtnet_engine::{DeviceConfig, DeviceId, Engine, EngineConfig, IdlePolicy, PortConfig};
use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];
const PATIENCE: Duration = Duration::from_secs(20);

const OWN: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const SENDER: [u8; 6] = [2, 0, 0, 0, 0, 3];
const GROUP: [u8; 6] = [1, 0, 0x5e, 0, 0, 1];
const BROADCAST: [u8; 6] = [0xff; 6];

fn start(workers: usize) -> Engine {
    let lcores = vec![None; workers];
    Engine::start(EngineConfig { lcores, idle: IdlePolicy::Adaptive, burst: 32 }).unwrap()
}

fn add(engine: &mut Engine, pairs: u16, port: PortConfig) -> DeviceId {
    engine.add_device(DeviceConfig { pairs, port, workers: vec![] }).unwrap()
}

fn filter(bits: u8) -> Option<Filter> {
    Filter::new(Modes::new(bits.into()).unwrap(), [OWN], None)
}

fn frame(to: [u8; 6], number: u32) -> Vec<u8> {
    let mut frame = vec![0; 60 + number as usize % 700];
    frame[..6].copy_from_slice(&to);
    frame[6..12].copy_from_slice(&SENDER);
    frame[12..14].copy_from_slice(&[0x88, 0xb5]);
    frame[14..18].copy_from_slice(&number.to_le_bytes());
    frame
}

#[track_caller]
fn wait<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

fn next(guest: &mut Guest) -> Option<Vec<u8>> {
    let mut frame = Vec::new();
    guest.nic.receive(&mut frame).unwrap().then_some(frame)
}

fn queue(engine: &mut Engine, device: DeviceId, index: usize) -> QueueCounts {
    engine.counters(device).unwrap()[index].counts
}

/// Sends frames to four sorts of address in turn, and expects those that `wanted` has, whole and in order.
fn exchange(sender: &mut Guest, mut receiver: Option<&mut Guest>, wanted: [bool; 4], count: u32) {
    let to = |number: u32| [OWN, OTHER, GROUP, BROADCAST][number as usize % 4];
    let mut expected = (0..count).filter(|number| wanted[*number as usize % 4]);
    let (mut sent, mut left) = (0, expected.clone().count());
    wait("all frames that are wanted", || {
        sender.nic.reap().unwrap();
        // No more before the receiver looks than it has buffers for.
        let end = count.min(sent + 32);
        while sent < end && sender.nic.unreaped() < 32 && sender.nic.send(&frame(to(sent), sent)).unwrap() {
            sent += 1;
        }
        let receiver = receiver.as_deref_mut().unwrap_or(sender);
        while let Some(got) = next(receiver) {
            let number = expected.next().expect("no more than are wanted");
            assert!(got == frame(to(number), number), "frame {number} has changed on its way");
            left -= 1;
        }
        (sent == count && left == 0).then_some(())
    });
    wait("all frames to come back", || {
        sender.nic.reap().unwrap();
        (sender.nic.unreaped() == 0).then_some(())
    });
    assert_eq!(next(receiver.unwrap_or(sender)), None);
}

#[test]
fn what_is_refused_takes_no_buffer_and_comes_back_to_its_sender() {
    const COUNT: u32 = 1000;
    for layout in LAYOUTS {
        for mergeable in [false, true] {
            let options = NicOptions { layout, mergeable, ..NicOptions::default() };
            let mut engine = start(2);
            let loopback = add(&mut engine, 1, PortConfig::Loopback);
            let (from, to) = (add(&mut engine, 1, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
            let guests = [loopback, from, to].map(|device| {
                let guest = Guest::new(options.clone(), 0);
                guest.plug(&mut engine, device);
                guest
            });
            let [mut alone, mut sender, mut receiver] = guests;
            let mut refused = 0;
            for (bits, wanted) in [
                (0, [true, false, false, true]),
                (Modes::ALLMULTI | Modes::NOBCAST, [true, false, true, false]),
                (Modes::NOUNI | Modes::NOMULTI | Modes::NOBCAST, [false; 4]),
                (Modes::PROMISC, [true; 4]),
                (Modes::ALLUNI, [true, true, false, true]),
            ] {
                for device in [loopback, to] {
                    engine.set_filter(device, filter(bits)).unwrap();
                }
                exchange(&mut alone, None, wanted, COUNT);
                exchange(&mut sender, Some(&mut receiver), wanted, COUNT);
                engine.relocate(to, 0, 0).unwrap();
                exchange(&mut sender, Some(&mut receiver), wanted, COUNT);
                engine.relocate(to, 0, 1).unwrap();
                refused += u64::from(COUNT) / 4 * wanted.iter().filter(|wanted| !**wanted).count() as u64;
                for (device, times) in [(loopback, 1), (to, 2)] {
                    let counts = queue(&mut engine, device, 0);
                    assert_eq!(counts.drops[DropReason::Filtered as usize], times * refused);
                    assert_eq!(counts.dropped(), times * refused, "and nothing else was");
                }
            }
            assert_eq!(queue(&mut engine, from, 1).dropped(), 0);
        }
    }
}

#[test]
fn what_is_refused_waits_for_no_buffer() {
    let mut engine = start(1);
    let (from, to) = (add(&mut engine, 1, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
    let mut sender = Guest::new(NicOptions::default(), 0);
    let receiver = Guest::new(NicOptions { receive_buffers: 0, ..NicOptions::default() }, 0);
    sender.plug(&mut engine, from);
    receiver.plug(&mut engine, to);
    engine.set_filter(to, filter(0)).unwrap();
    for number in 0..100 {
        assert!(sender.nic.send(&frame(GROUP, number)).unwrap());
    }
    wait("all frames to come back", || {
        sender.nic.reap().unwrap();
        (sender.nic.unreaped() == 0).then_some(())
    });
    let counts = queue(&mut engine, to, 0);
    assert_eq!((counts.drops[DropReason::Filtered as usize], counts.dropped()), (100, 100));
}

#[test]
fn a_source_of_nothing_but_what_is_refused_keeps_its_worker_from_nobody() {
    let mut engine = start(1);
    let templates = vec![frame(OTHER, 0)];
    let config = SourceConfig { templates, stamp_offset: None, count: None, rate_fps: None };
    let source = add(&mut engine, 1, PortConfig::Source(config));
    let loopback = add(&mut engine, 1, PortConfig::Loopback);
    engine.set_filter(source, filter(0)).unwrap();
    let [mut listener, mut other] = [source, loopback].map(|device| {
        let guest = Guest::new(NicOptions::default(), 0);
        guest.plug(&mut engine, device);
        guest
    });
    exchange(&mut other, None, [true; 4], 500);
    wait("frames to be refused", || {
        (queue(&mut engine, source, 0).drops[DropReason::Filtered as usize] > 1000).then_some(())
    });
    assert_eq!(next(&mut listener), None);
    engine.set_filter(source, None).unwrap();
    wait("a frame", || next(&mut listener));
    exchange(&mut other, None, [true; 4], 500);
}

/// A datagram of a flow, over IPv4.
fn datagram(from: [u8; 6], to: [u8; 6], ports: [u16; 2]) -> Vec<u8> {
    let mut frame = [&to, &from, &[8, 0][..], &[0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0]].concat();
    for address in [from, to] {
        frame.extend([10, 0, 0, address[5]]);
    }
    ports.iter().for_each(|port| frame.extend(port.to_be_bytes()));
    frame.resize(60, 7);
    frame
}

#[test]
fn flows_arrive_where_they_were_sent_or_where_their_port_says() {
    let mut engine = start(2);
    let (near, far) = (add(&mut engine, 2, PortConfig::Switch), add(&mut engine, 1, PortConfig::Switch));
    let [mut first, mut second, mut peer] = [(); 3].map(|()| Guest::new(NicOptions::default(), 0));
    first.plug_as(0, &mut engine, near, first.fresh_bases());
    second.plug_as(1, &mut engine, near, second.fresh_bases());
    peer.plug(&mut engine, far);
    let mut send = |from: usize, port: u16| {
        let guest = if from == 0 { &mut first } else { &mut second };
        let out = datagram(OWN, OTHER, [port, 9]);
        assert!(guest.nic.send(&out).unwrap());
        assert_eq!(wait("a datagram at the peer", || next(&mut peer)), out);
        let back = datagram(OTHER, OWN, [9, port]);
        assert!(peer.nic.send(&back).unwrap());
        wait("a datagram in return", || {
            let heard = [&mut first, &mut second].map(next);
            let at = heard.iter().position(Option::is_some)?;
            assert_eq!(heard[at].as_ref(), Some(&back));
            Some(at)
        })
    };
    let by_hash = |port: u16| usize::from(Steering::over(2).pair(&datagram(OTHER, OWN, [9, port])));
    let ports: Vec<u16> = (1000..1012).collect();
    let expect = |send: &mut dyn FnMut(usize, u16) -> usize, at: &dyn Fn(usize, u16) -> usize| {
        for (round, &port) in ports.iter().chain(&ports).chain(&ports).enumerate() {
            let from = round % 3 % 2;
            assert_eq!(send(from, port), at(from, port), "port {port}, sent by {from}");
        }
    };
    expect(&mut send, &|_, port| by_hash(port));
    engine.set_steering(near, None, true).unwrap();
    expect(&mut send, &|from, _| from);
    // Wherever the pairs are served.
    for (pair, worker) in [(0, 0), (1, 0), (0, 1)] {
        engine.relocate(near, pair, worker).unwrap();
        expect(&mut send, &|from, _| from);
    }
    engine.set_steering(near, Some(1005), true).unwrap();
    expect(&mut send, &|from, port| if port == 1005 { 0 } else { from });
    // A pair that does not receive leaves its flows to the others.
    engine.set_enabled(near, 0, false).unwrap();
    expect(&mut send, &|_, _| 1);
    engine.set_enabled(near, 0, true).unwrap();
    expect(&mut send, &|from, port| if port == 1005 { 0 } else { from });
    engine.set_steering(near, None, false).unwrap();
    expect(&mut send, &|_, port| by_hash(port));
}
