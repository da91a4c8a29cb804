//! Driver and device on threads of their own, each going to sleep whenever it has nothing to do: nothing is lost, nothing
//! is seen before it is whole, and a lost notification is found out by the other side sleeping for ever.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};
use virtnet_rings::{Layout, PartStore, Queue, Virtqueue};

const GPA: u64 = 1 << 30;
const CHAINS: u32 = 40_000;
const LOST_AFTER: Duration = Duration::from_secs(20);

/// A notification line that counts nothing: set or not.
#[derive(Default)]
struct Line {
    set: Mutex<bool>,
    woken: Condvar,
}

impl Line {
    fn notify(&self) {
        *self.set.lock().unwrap() = true;
        self.woken.notify_one();
    }

    /// False if nobody notified for so long that nobody will.
    fn wait(&self) -> bool {
        let set = self.set.lock().unwrap();
        let (mut set, wait) = self.woken.wait_timeout_while(set, LOST_AFTER, |set| !*set).unwrap();
        *set = false;
        !wait.timed_out()
    }
}

/// What a chain's token, and the device's answer to it, look like in its buffers.
fn question(token: u32) -> [u8; 8] {
    (u64::from(token) * 0x0123_4567_89ab).to_le_bytes()
}

fn answer(question: [u8; 8]) -> [u8; 8] {
    (u64::from_le_bytes(question) ^ u64::MAX).to_le_bytes()
}

struct DeviceSide {
    queue: Queue,
    kick: Arc<Line>,
    call: Arc<Line>,
}

impl DeviceSide {
    /// Answers so many chains, then ends.
    fn run(mut self) {
        let mut store = PartStore::new(4);
        let mut used = vec![];
        let mut done = 0;
        while done < CHAINS {
            let (chains, violation) = self.queue.take_list(16, &mut store);
            assert_eq!(violation, None, "an honest driver");
            for chain in chains {
                let (readable, writable) = (chain.parts.get(0).unwrap(), chain.parts.get(1).unwrap());
                let question = readable.read_array().unwrap();
                assert!(writable.write_array(answer(question)));
                used.push(chain.used(8));
            }
            if used.is_empty() {
                if !self.queue.arm() {
                    assert!(self.kick.wait(), "a notification to the device was lost, after {done} chains");
                }
                self.queue.disarm();
                continue;
            }
            done += used.len() as u32;
            self.queue.return_used(&used);
            used.clear();
            if self.queue.wants_notification() {
                self.call.notify();
            }
        }
    }
}

fn run(layout: Layout, size: u16, options: Options) {
    let ram = Arc::new(Ram::new(1 << 20, GPA).unwrap());
    let mut driver = Driver::new(&ram, layout, size, options).unwrap();
    let slots = u32::from(size);
    let buffers = ram.alloc(16 * u64::from(slots), 8).unwrap();
    let (kick, call) = (Arc::new(Line::default()), Arc::new(Line::default()));
    let side = DeviceSide { queue: queue(&ram, &driver), kick: Arc::clone(&kick), call: Arc::clone(&call) };
    let device = std::thread::spawn(move || side.run());
    let mut free: Vec<u32> = (0..slots).collect();
    let mut tokens = vec![0; size.into()];
    let (mut offered, mut collected) = (0, 0);
    let mut out = [Completed::default(); 8];
    while collected < CHAINS {
        while offered < CHAINS
            && let Some(&slot) = free.last()
        {
            let gpa = buffers + 16 * u64::from(slot);
            ram.write(gpa, &question(offered));
            let chain = [Buffer::readable(gpa, 8), Buffer::writable(gpa + 8, 8)];
            let laid = match options.indirect {
                true => driver.offer_indirect(&chain, slot),
                false => driver.offer(&chain, slot),
            };
            if laid.is_err() {
                break;
            }
            tokens[slot as usize] = offered;
            free.pop();
            offered += 1;
            // Now and then one by one.
            if offered % 5 == 0 {
                break;
            }
        }
        driver.publish();
        if driver.needs_kick() {
            kick.notify();
        }
        let count = driver.collect(&mut out).expect("an honest device");
        for completed in &out[..count] {
            let slot = completed.token;
            let mut bytes = [0; 8];
            ram.read(buffers + 16 * u64::from(slot) + 8, &mut bytes);
            assert_eq!(bytes, answer(question(tokens[slot as usize])), "the answer was seen whole");
            assert_eq!(completed.len_bytes, 8);
            free.push(slot);
        }
        collected += count as u32;
        let nothing_to_do = count == 0 && (offered == CHAINS || driver.free() < 2 || free.is_empty());
        if nothing_to_do && collected < CHAINS {
            if !driver.enable_interrupts() {
                assert!(call.wait(), "a notification to the driver was lost, after {collected} chains");
            }
            driver.suppress_interrupts();
        }
    }
    device.join().unwrap();
}

fn queue(ram: &Ram, driver: &Driver) -> Queue {
    let Options { event_idx, in_order, indirect, .. } = driver.options();
    let packed = driver.layout() == Layout::Packed;
    let mut features = 1 << 32;
    for (on, bit) in [(indirect, 28), (event_idx, 29), (packed, 34), (in_order, 35)] {
        features |= u64::from(on) << bit;
    }
    driver.setup(features).activate(ram.guest_memory().unwrap()).unwrap()
}

fn every_option(mut run: impl FnMut(Options)) {
    for bits in 0..8 {
        run(Options { event_idx: bits & 1 != 0, in_order: bits & 2 != 0, indirect: bits & 4 != 0, tight: false });
    }
}

#[test]
fn two_threads_on_a_split_queue_lose_nothing_and_never_oversleep() {
    every_option(|options| [2, 16].into_iter().for_each(|size| run(Layout::Split, size, options)));
}

#[test]
fn two_threads_on_a_packed_queue_lose_nothing_and_never_oversleep() {
    every_option(|options| [2, 3, 17].into_iter().for_each(|size| run(Layout::Packed, size, options)));
}
