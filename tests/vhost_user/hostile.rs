//! Front ends that break every rule, beside one that keeps them.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use rustix::fs::{OFlags, fcntl_setfl};
use virtnet_control::vhost_user::frontend::Frontend;
use virtnet_rings::Layout;

use super::house::{Guest, House, SOON, open_descriptors};

const DEVICES: [&str; 2] = [
    r#""name": "good", "socket": "good.sock", "port": "loopback""#,
    r#""name": "bad", "socket": "bad.sock", "port": "loopback""#,
];

/// Numbers that look drawn and are the same every time.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

#[test]
fn a_neighbour_does_not_notice_a_socket_full_of_garbage() {
    let house = House::with(&DEVICES);
    let mut guest = Guest::new(Layout::Packed, true);
    let _frontend = guest.come(&house.socket("good.sock"));
    let mut draw = Draw(0x1234_5678_9abc_def1);
    for round in 0..200 {
        let mut stream = UnixStream::connect(house.socket("bad.sock")).unwrap();
        for _ in 0..20 {
            // Now and then a header that makes sense, so that what follows is looked at.
            let request = (draw.next() % 50) as u32;
            let size = (draw.next() % 64) as u32;
            let flags = if round % 2 == 0 { 1 } else { draw.next() as u32 };
            let mut bytes = [request, flags, size].map(u32::to_ne_bytes).concat();
            bytes.extend((0..size).map(|_| draw.next() as u8));
            if stream.write_all(&bytes).is_err() {
                break;
            }
        }
        guest.loop_frames(10);
    }
    // And the device that got it all is there for the next one.
    let mut other = Guest::new(Layout::Split, false);
    let _other_frontend = other.come(&house.socket("bad.sock"));
    other.loop_frames(100);
    house.end();
}

#[test]
fn a_neighbour_does_not_notice_a_front_end_that_lets_nobody_write_to_its_calls() {
    let house = House::with(&DEVICES);
    for layout in [Layout::Split, Layout::Packed] {
        let mut guest = Guest::new(layout, true);
        let _frontend = guest.come(&house.socket("good.sock"));
        for _ in 0..3 {
            let mut villain = Guest::new(layout, true);
            let _villains = villain.come(&house.socket("bad.sock"));
            for call in &villain.calls {
                // What the daemon has set is undone, and the counter is full.
                fcntl_setfl(call, OFlags::empty()).unwrap();
                rustix::io::write(call, &(u64::MAX - 2).to_ne_bytes()).unwrap();
            }
            for _ in 0..50 {
                villain.nic.receiveq.enable_interrupts();
                villain.nic.transmitq.enable_interrupts();
                villain.loop_frames(1);
                guest.loop_frames(10);
            }
        }
        // Sleeping guests of the same worker are called.
        guest.nic.receiveq.enable_interrupts();
        let mut count = [0; 8];
        let _ = rustix::io::read(&guest.calls[0], &mut count[..]);
        guest.loop_frames(1);
        let deadline = Instant::now() + SOON;
        while rustix::io::read(&guest.calls[0], &mut count[..]).is_err() {
            assert!(Instant::now() < deadline, "nobody calls");
        }
    }
    house.end();
}

#[test]
fn a_neighbour_does_not_notice_a_front_end_that_says_half_and_stays() {
    let house = House::with(&DEVICES);
    let mut guest = Guest::new(Layout::Split, true);
    let _frontend = guest.come(&house.socket("good.sock"));
    let mut stream = UnixStream::connect(house.socket("bad.sock")).unwrap();
    stream.write_all(&[1, 0, 0, 0, 1]).unwrap();
    guest.loop_frames(500);
    house.end();
}

#[test]
fn memory_cut_short_under_running_rings_harms_its_owner_only() {
    let house = House::with(&DEVICES);
    let mut guest = Guest::new(Layout::Packed, true);
    let _frontend = guest.come(&house.socket("good.sock"));
    let mut victim = Guest::new(Layout::Split, false);
    let victim_frontend = victim.come(&house.socket("bad.sock"));
    victim.loop_frames(50);
    let file = victim.nic.ram().fd().try_clone_to_owned().unwrap();
    // Its own process would fault, too: it must not touch its memory after this.
    rustix::fs::ftruncate(&file, 0).unwrap();
    guest.loop_frames(500);
    drop(victim_frontend);
    std::mem::forget(victim);
    let mut next = Guest::new(Layout::Split, false);
    let _next_frontend = next.come(&house.socket("bad.sock"));
    next.loop_frames(100);
    guest.loop_frames(100);
    house.end();
}

#[test]
fn sessions_leave_no_descriptors_behind() {
    let house = House::with(&DEVICES);
    let mut counts = Vec::new();
    for round in 0..200 {
        let mut guest = Guest::new(Layout::Split, false);
        let mut frontend = guest.come(&house.socket("bad.sock"));
        guest.loop_frames(5);
        // Half of them go without a word.
        if round % 2 == 0 {
            guest.stop(&mut frontend).unwrap();
        }
        drop((frontend, guest));
        // The next session is served after everything of this one is closed.
        let mut frontend = Frontend::connect(&house.socket("bad.sock"), SOON, SOON).unwrap();
        frontend.get_features().unwrap();
        counts.push(open_descriptors());
    }
    // Other tests may come and go in this process, with some tens of them; a leak would be one a session at least.
    assert!(counts[199] < counts[0] + 100, "open descriptors, session by session: {counts:?}");
    house.end();
}
