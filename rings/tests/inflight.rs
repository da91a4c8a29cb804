//! A device that dies at any moment, and the one after it, which finds its place by the in-flight buffer.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use virtnet_rings::guest::{Buffer, Completed, Driver, Options, Ram};
use virtnet_rings::inflight::{Region, region_len_bytes};
use virtnet_rings::memory::GuestMemory;
use virtnet_rings::{Layout, PartStore, Queue, Used, Virtqueue};

/// Where the second region of the buffer starts is where the tests are: an offset must be honoured.
const OFFSET: u64 = 128;

struct Bench {
    ram: Arc<Ram>,
    driver: Driver,
    memory: Arc<GuestMemory>,
    buffer: OwnedFd,
    store: PartStore,
    next_token: u32,
    next_collected: u32,
}

/// Takes chains, to be returned empty.
fn take_used(queue: &mut Queue, room: usize, store: &mut PartStore) -> Vec<Used> {
    let (chains, violation) = queue.take_list(room, store);
    assert_eq!(violation, None);
    chains.iter().map(|chain| chain.used(0)).collect()
}

impl Bench {
    fn new(layout: Layout, size: u16, options: Options) -> Self {
        let ram = Arc::new(Ram::new(1 << 20, 0x4000_0000).unwrap());
        let driver = Driver::new(&ram, layout, size, options).unwrap();
        let memory = ram.guest_memory().unwrap();
        let buffer = rustix::fs::memfd_create("inflight", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&buffer, OFFSET + region_len_bytes(layout, size)).unwrap();
        Bench { ram, driver, memory, buffer, store: PartStore::new(64), next_token: 0, next_collected: 0 }
    }

    /// A device that knows no more than the front end after a crash: where the ring started.
    fn device(&mut self) -> Queue {
        // What the dead one had borrowed for long chains is lost with it.
        self.store = PartStore::new(64);
        let (layout, size) = (self.driver.layout(), self.driver.size());
        let setup = self.driver.setup(if self.driver.options().in_order { 1 << 35 } else { 0 });
        let mut queue = setup.activate(self.memory.clone()).unwrap();
        queue.resume_from(Region::map(&self.buffer, OFFSET, layout, size).unwrap());
        queue
    }

    fn offer(&mut self, descriptors: usize) {
        let chain = vec![Buffer::readable(self.ram.gpa(), 64); descriptors];
        while self.driver.offer(&chain, self.next_token).is_ok() {
            self.next_token += 1;
        }
        self.driver.publish();
    }

    /// Takes up to `take` chains and returns up to `give` of them.
    fn serve(&mut self, queue: &mut Queue, take: usize, give: usize) {
        let taken = take_used(queue, take, &mut self.store);
        let give = give.min(taken.len());
        queue.return_used(&taken[..give]);
        self.collect();
    }

    /// Every chain comes back once, in order.
    fn collect(&mut self) {
        let mut out = [Completed::default(); 64];
        let count = self.driver.collect(&mut out).unwrap();
        for completed in &out[..count] {
            assert_eq!(completed.token, self.next_collected);
            self.next_collected += 1;
        }
    }

    fn read_region(&self) -> [u8; 24] {
        let mut bytes = [0; 24];
        assert_eq!(rustix::io::pread(&self.buffer, &mut bytes[..], OFFSET), Ok(24));
        bytes
    }

    fn write_region(&self, bytes: &[u8]) {
        assert_eq!(rustix::io::pwrite(&self.buffer, bytes, OFFSET), Ok(bytes.len()));
    }
}

fn every_ring() -> impl Iterator<Item = Bench> {
    let split = [1, 2, 4, 8].map(|size| (Layout::Split, size));
    let packed = [1, 2, 3, 5, 8].map(|size| (Layout::Packed, size));
    let in_order = [false, true].map(|in_order| Options { in_order, ..Options::default() });
    split
        .into_iter()
        .chain(packed)
        .flat_map(move |(layout, size)| in_order.map(|options| Bench::new(layout, size, options)))
}

#[test]
fn no_chain_is_lost_or_used_twice_however_often_the_device_dies() {
    for mut bench in every_ring() {
        let size = usize::from(bench.driver.size());
        for round in 0..300 {
            bench.offer(1 + round % size.min(3));
            let mut queue = bench.device();
            bench.serve(&mut queue, 1 + round % 5, round % 4);
            bench.serve(&mut queue, 0, 0);
            // Dead, with chains taken that nobody will return; its memory must stay, as anywhere where spans are out.
        }
        let mut queue = bench.device();
        for _ in 0..=size {
            bench.serve(&mut queue, size, size);
        }
        assert_eq!(bench.next_collected, bench.next_token);
        assert!(bench.next_token > 100, "{}: the ring went round often", bench.next_token);
    }
}

#[test]
fn a_packed_burst_counts_from_the_moment_the_driver_can_see_it() {
    for mut bench in every_ring().filter(|bench| bench.driver.layout() == Layout::Packed) {
        for round in 0..20 {
            bench.offer(1);
            let mut queue = bench.device();
            let before = bench.read_region();
            let taken = take_used(&mut queue, 1 + round % 3, &mut bench.store);
            if round % 2 == 0 {
                // It dies after noting where it will be, before the driver can see the burst.
                let size = bench.driver.size();
                let slots: u16 = taken.iter().map(|used| used.descriptors).sum();
                let slot = u16::from_ne_bytes([before[16], before[17]]) + slots;
                let (slot, wrap) = if slot >= size { (slot - size, 1 - before[20]) } else { (slot, before[20]) };
                let mut after = before;
                after[16..18].copy_from_slice(&slot.to_ne_bytes());
                after[20] = wrap;
                bench.write_region(&after);
            } else {
                // It dies after publishing the burst, before noting that it did.
                queue.return_used(&taken);
                let mut after = bench.read_region();
                after[18..20].copy_from_slice(&before[18..20]);
                after[21] = before[21];
                bench.write_region(&after);
                bench.collect();
            }
        }
        let mut queue = bench.device();
        bench.serve(&mut queue, 64, 64);
        assert_eq!(bench.next_collected, bench.next_token);
    }
}

#[test]
fn a_region_lies_as_the_specification_draws_it() {
    let mut split = Bench::new(Layout::Split, 4, Options::default());
    split.offer(1);
    let mut queue = split.device();
    split.serve(&mut queue, 3, 3);
    // features, version, desc_num, last_batch_head, used_idx
    assert_eq!(split.read_region()[..16], [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 4, 0, 0, 0, 3, 0]);

    let mut packed = Bench::new(Layout::Packed, 3, Options::default());
    packed.offer(1);
    let mut queue = packed.device();
    packed.serve(&mut queue, 2, 2);
    // features, version, desc_num, free_head, old_free_head, used_idx, old_used_idx, both wrap counters
    let expected = [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 3, 0, 0, 0, 0, 0, 2, 0, 2, 0, 1, 1];
    assert_eq!(packed.read_region()[..22], expected);
    packed.serve(&mut queue, 2, 2);
    assert_eq!(packed.read_region()[16..22], [0, 0, 0, 0, 0, 0], "a lap later");
    let mut next = [0; 2];
    rustix::io::pread(&packed.buffer, &mut next[..], OFFSET + 32 + 32 + 2).unwrap();
    assert_eq!(u16::from_ne_bytes(next), 2, "the free list is strung together");
}

#[test]
fn a_region_of_nonsense_is_survived() {
    for mut bench in every_ring() {
        bench.write_region(&[0xff; 24]);
        let version = 1u16.to_ne_bytes();
        assert_eq!(rustix::io::pwrite(&bench.buffer, &version, OFFSET + 8), Ok(2));
        bench.offer(1);
        let mut queue = bench.device();
        bench.serve(&mut queue, 1, 1);
        assert_eq!(bench.next_collected, 1, "it starts at its base instead");
    }
}

#[test]
fn a_buffer_too_short_or_out_of_line_is_refused() {
    let bench = Bench::new(Layout::Split, 4, Options::default());
    assert!(Region::map(&bench.buffer, OFFSET + 64, Layout::Split, 4).is_err());
    let error = Region::map(&bench.buffer, 1, Layout::Split, 4).unwrap_err();
    assert_eq!(error.to_string(), "offset 0x1: must be a multiple of 2");
}
