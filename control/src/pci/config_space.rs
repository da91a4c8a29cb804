//! Type 0 configuration space: bytes, and which bits of them the host may write.

/// Bytes of the whole space, extended capabilities included.
pub const CONFIG_BYTES: usize = 4096;
/// Bytes of it that hold no extended capability.
pub const PLAIN_BYTES: usize = 256;
/// How many BARs a function has.
pub const BARS: usize = 6;

/// Registers of the header.
pub const COMMAND: usize = 0x04;
/// The status register.
pub const STATUS: usize = 0x06;
const REVISION: usize = 0x08;
const CACHE_LINE_SIZE: usize = 0x0c;
const LATENCY_TIMER: usize = 0x0d;
/// The first BAR.
pub const BAR_0: usize = 0x10;
const SUBSYSTEM_VENDOR: usize = 0x2c;
const CAPABILITIES: usize = 0x34;
const INTERRUPT_LINE: usize = 0x3c;
const INTERRUPT_PIN: usize = 0x3d;
const CAPABILITY_FIRST: usize = 0x40;
/// Where the part ends that capabilities can be in.
const CAPABILITY_END: usize = 0x100;
/// The version of every extended capability that there is.
const EXTENDED_VERSION: u32 = 1;

/// `COMMAND`: registers in I/O space answer.
const COMMAND_IO: u16 = 1 << 0;
/// `COMMAND`: registers in memory answer.
pub const COMMAND_MEMORY: u16 = 1 << 1;
/// `COMMAND`: the function may read and write memory, and send MSI-X messages.
pub const COMMAND_MASTER: u16 = 1 << 2;
/// `COMMAND`: INTx is not raised.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// What there is besides: parity and system errors, which never happen.
const COMMAND_OTHERS: u16 = 1 << 6 | 1 << 8;
/// `STATUS`: INTx is wanted.
pub const STATUS_INTERRUPT: u8 = 1 << 3;
/// `STATUS`: there are capabilities.
const STATUS_CAPABILITIES: u16 = 1 << 4;
/// A BAR of 64 bits in memory.
const BAR_MEMORY_64: u32 = 4;
/// A BAR in I/O space.
const BAR_IO: u32 = 1;

/// What a function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Who has made it, and its subsystem.
    pub vendor: u16,
    /// Which device it is.
    pub device: u16,
    /// Which subsystem.
    pub subsystem: u16,
    /// Base class, class and programming interface: 24 bits.
    pub class: u32,
    /// Its revision.
    pub revision: u8,
}

/// A function's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    bytes: Box<[u8; CONFIG_BYTES]>,
    /// Bits that can be written.
    writable: Box<[u8; CONFIG_BYTES]>,
    /// As it comes out of a reset.
    initial: Box<[u8; CONFIG_BYTES]>,
    bar_bytes: [u64; BARS],
    /// Where the next capability goes, and who points at it.
    free: usize,
    link: usize,
    /// The same of extended ones.
    extended_free: usize,
    extended_last: Option<usize>,
}

impl ConfigSpace {
    /// That of a function with INTA and no BARs.
    pub fn new(ids: Ids) -> Self {
        let zero = || Box::new([0; CONFIG_BYTES]);
        let mut space = Self {
            bytes: zero(),
            writable: zero(),
            initial: zero(),
            bar_bytes: [0; BARS],
            free: CAPABILITY_FIRST,
            link: CAPABILITIES,
            extended_free: CAPABILITY_END,
            extended_last: None,
        };
        let [class @ .., _] = ids.class.to_le_bytes();
        for (at, id) in [(0, ids.device), (SUBSYSTEM_VENDOR, ids.subsystem)] {
            space.set(at, &ids.vendor.to_le_bytes(), &[]);
            space.set(at + 2, &id.to_le_bytes(), &[]);
        }
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE | COMMAND_OTHERS;
        space.set(COMMAND, &[0; 2], &command.to_le_bytes());
        space.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes(), &[]);
        space.set(REVISION, &[ids.revision, class[0], class[1], class[2]], &[]);
        for at in [CACHE_LINE_SIZE, LATENCY_TIMER, INTERRUPT_LINE] {
            space.set(at, &[0], &[0xff]);
        }
        space.set(INTERRUPT_PIN, &[1], &[]);
        space
    }

    /// Adds a BAR of 64 bits, which takes the place of two.
    ///
    /// # Panics
    /// If it has no such place, or `len_bytes` is not a power of two from 16 to 2^31: our mistake.
    pub fn add_bar(&mut self, bar: usize, len_bytes: u64) {
        assert!(bar + 1 < BARS && len_bytes.is_power_of_two() && (16..1 << 32).contains(&len_bytes));
        self.bar_bytes[bar] = len_bytes;
        self.set_bar(BAR_0 + 4 * bar, len_bytes);
    }

    /// Makes eight bytes a register for the place of so many bytes in memory, a power of two. It is at 0.
    pub fn set_bar(&mut self, at: usize, len_bytes: u64) {
        let writable = !(len_bytes as u32 - 1);
        self.set(at, &BAR_MEMORY_64.to_le_bytes(), &writable.to_le_bytes());
        self.set(at + 4, &[0; 4], &[0xff; 4]);
    }

    /// Adds BAR 0 in I/O space.
    ///
    /// # Panics
    /// If `len_bytes` is not a power of two from 4 to 256: our mistake.
    pub fn add_io_bar(&mut self, len_bytes: u64) {
        assert!(len_bytes.is_power_of_two() && (4..=256).contains(&len_bytes));
        self.bar_bytes[0] = len_bytes;
        let writable = !(len_bytes as u32 - 1);
        self.set(BAR_0, &BAR_IO.to_le_bytes(), &writable.to_le_bytes());
        self.writable[COMMAND] |= COMMAND_IO as u8;
    }

    /// Bytes of a BAR; 0 where there is none.
    pub fn bar_bytes(&self, bar: usize) -> u64 {
        self.bar_bytes.get(bar).copied().unwrap_or(0)
    }

    /// Adds a capability to the end of the list. `body` is what follows its id and its pointer to the next. Returns where it is.
    ///
    /// # Panics
    /// If there is no room: our mistake.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> usize {
        let at = self.free;
        self.free = (at + 2 + body.len()).next_multiple_of(4);
        assert!(self.free <= CAPABILITY_END, "capabilities have 192 bytes");
        self.set(self.link, &[at as u8], &[]);
        self.set(at, &[id, 0], &[]);
        self.set(at + 2, body, writable);
        self.link = at + 1;
        at
    }

    /// Adds a capability to the end of the extended list. `body` is what follows its header. Returns where it is.
    ///
    /// # Panics
    /// If there is no room: our mistake.
    pub fn add_extended(&mut self, id: u16, body: &[u8], writable: &[u8]) -> usize {
        let at = self.extended_free;
        self.extended_free = (at + 4 + body.len()).next_multiple_of(4);
        if let Some(last) = self.extended_last.replace(at) {
            self.set(last, &(self.word(last) | (at as u32) << 20).to_le_bytes(), &[]);
        }
        self.set(at, &(u32::from(id) | EXTENDED_VERSION << 16).to_le_bytes(), &[]);
        self.set(at + 4, body, writable);
        at
    }

    /// Changes what the host reads, until the next reset.
    pub fn put(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// As the host reads it: as many bytes as `into` has, which lie inside.
    pub fn read(&self, offset: usize, into: &mut [u8]) {
        into.copy_from_slice(&self.bytes[offset..offset + into.len()]);
    }

    /// As the host writes it: what cannot be written stays as it is.
    pub fn write(&mut self, offset: usize, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let writable = self.writable[at];
            self.bytes[at] = self.bytes[at] & !writable | byte & writable;
        }
    }

    /// A register of two bytes.
    pub fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// A register of four bytes.
    pub fn word(&self, at: usize) -> u32 {
        u32::from(self.half(at)) | u32::from(self.half(at + 2)) << 16
    }

    /// Whether a bit of the command register is set.
    pub fn has_command(&self, bit: u16) -> bool {
        self.half(COMMAND) & bit != 0
    }

    /// Shows whether INTx is wanted.
    pub fn show_intx(&mut self, wanted: bool) {
        let status = &mut self.bytes[STATUS];
        *status = *status & !STATUS_INTERRUPT | if wanted { STATUS_INTERRUPT } else { 0 };
    }

    /// All registers are as they were at first.
    pub fn reset(&mut self) {
        self.bytes.copy_from_slice(&self.initial[..]);
    }

    fn set(&mut self, at: usize, bytes: &[u8], writable: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.initial[at..at + bytes.len()].copy_from_slice(bytes);
        self.writable[at..at + writable.len()].copy_from_slice(writable);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const IDS: Ids = Ids { vendor: 0x1af4, device: 0x1041, subsystem: 0x1100, class: 0x02_8000, revision: 1 };

    fn space() -> ConfigSpace {
        let mut space = ConfigSpace::new(IDS);
        space.add_bar(2, 0x4000);
        assert_eq!(space.add_capability(0x11, &[1; 10], &[0, 0xff]), 0x40);
        assert_eq!(space.add_capability(0x01, &[2; 3], &[]), 0x4c);
        space
    }

    #[test]
    fn the_header_says_what_it_is() {
        let space = space();
        assert_eq!((space.word(0), space.word(0x2c)), (0x1041_1af4, 0x1100_1af4));
        assert_eq!((space.word(8), space.half(0x3c)), (0x0280_0001, 0x0100));
        assert_eq!((space.half(STATUS), space.half(CAPABILITIES)), (0x10, 0x40));
        assert_eq!((space.half(0x40), space.half(0x4c)), (0x4c11, 0x0001), "a list that ends");
    }

    #[test]
    fn bars_tell_their_size() {
        let mut space = space();
        for (bar, size) in [(0, 0), (1, 0), (2, 0xffff_c004), (3, 0xffff_ffff), (4, 0)] {
            space.write(BAR_0 + 4 * bar, &[0xff; 4]);
            assert_eq!(space.word(BAR_0 + 4 * bar), size, "BAR {bar}");
        }
        space.write(BAR_0 + 8, &0xfeb0_1234u32.to_le_bytes());
        assert_eq!(space.word(BAR_0 + 8), 0xfeb0_0004);
        assert_eq!((space.bar_bytes(2), space.bar_bytes(3), space.bar_bytes(9)), (0x4000, 0, 0));
    }

    #[test]
    fn extended_capabilities_are_a_list_of_their_own() {
        let mut space = space();
        assert_eq!(space.word(0x100), 0, "which may be empty");
        assert_eq!((space.add_extended(0x0e, &[0; 4], &[]), space.add_extended(0x10, &[7; 8], &[])), (0x100, 0x108));
        assert_eq!((space.word(0x100), space.word(0x108), space.word(0x10c)), (0x1081_000e, 0x0001_0010, 0x0707_0707));
    }

    #[test]
    fn a_bar_in_io_space_answers_when_the_host_wants_it_to() {
        let mut space = space();
        space.write(COMMAND, &[1]);
        assert_eq!(space.half(COMMAND), 0, "there is none");
        space.add_io_bar(64);
        for (at, value) in [(BAR_0, u32::MAX), (COMMAND, 1)] {
            space.write(at, &value.to_le_bytes());
        }
        assert_eq!((space.word(BAR_0), space.half(COMMAND), space.bar_bytes(0)), (0xffff_ffc1, 1, 64));
    }

    #[test]
    fn a_reset_forgets_what_was_written() {
        let mut space = space();
        let before = space.bytes.clone();
        space.write(0, &[0xff; CONFIG_BYTES]);
        assert!(space.has_command(COMMAND_MASTER) && space.has_command(COMMAND_INTX_DISABLE));
        assert_eq!((space.half(COMMAND), space.half(0x42)), (0x546, 0xff01), "only what can be written");
        space.show_intx(true);
        assert_eq!(space.half(STATUS), 0x18);
        space.reset();
        assert_eq!(space.bytes, before);
    }

    proptest! {
        /// Whatever is written, what cannot be written stays.
        #[test]
        fn identity_and_capabilities_stay(writes in prop::collection::vec((0usize..CONFIG_BYTES, any::<u32>()), 0..50)) {
            let (mut space, fresh) = (space(), space());
            for (offset, value) in writes {
                let bytes = value.to_le_bytes();
                space.write(offset, &bytes[..4.min(CONFIG_BYTES - offset)]);
            }
            for at in 0..CONFIG_BYTES {
                prop_assert_eq!((space.bytes[at] ^ fresh.bytes[at]) & !fresh.writable[at], 0);
            }
        }
    }
}
