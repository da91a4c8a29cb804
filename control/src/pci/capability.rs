//! Capabilities: their ids, and their bodies behind id and pointer.

/// Power management.
pub const POWER_MANAGEMENT: u8 = 0x01;
/// What a vendor defines.
pub const VENDOR: u8 = 0x09;
/// PCI Express.
pub const EXPRESS: u8 = 0x10;
/// MSI-X.
pub const MSIX: u8 = 0x11;

/// Access control services: an extended capability, of four bytes. A function that has it and nothing in it reaches no other
/// function.
pub const ACCESS_CONTROL: u16 = 0x0d;
/// Alternative routing-ID interpretation: an extended capability, of four bytes. The next function's number in it is 0: each is
/// presented alone.
pub const ROUTING_ID: u16 = 0x0e;
/// VFs: an extended capability.
pub const SRIOV: u16 = 0x10;

/// Where power management has its control register, from the capability on.
pub const POWER_CONTROL: usize = 4;
/// The state in it: D0 to D3hot.
pub const POWER_STATE_MASK: u16 = 3;
/// What is in a function is still there when it comes back from D3hot.
const POWER_NO_SOFT_RESET: u16 = 1 << 3;

/// Where PCI Express has its device control register, from the capability on.
pub const DEVICE_CONTROL: usize = 8;
/// In it: the function is to be reset. Reads as 0. ("Function Level Reset")
pub const DEVICE_CONTROL_FLR: u16 = 1 << 15;

/// Power management of version 3 and its writable bits: D0 and D3hot, nothing is lost in the latter.
pub fn power_management() -> ([u8; 6], [u8; 6]) {
    const VERSION: u8 = 3;
    let control = POWER_NO_SOFT_RESET.to_le_bytes();
    ([VERSION, 0, control[0], control[1], 0, 0], [0, 0, POWER_STATE_MASK as u8, 0, 0, 0])
}

/// PCI Express of version 2 and its writable bits: an endpoint that can be reset alone, with a link of 16 lanes at 16 GT/s.
pub fn express() -> ([u8; 58], [u8; 58]) {
    const VERSION: u16 = 2;
    const ROLE_BASED_ERRORS: u32 = 1 << 15;
    const FLR: u32 = 1 << 28;
    const LINK: u16 = 16 << 4 | 4;
    // Which errors are reported, sizes of packets, relaxed order, no snoop; not the reset.
    const CONTROL: u16 = 0x7fff;
    let (mut body, mut writable) = ([0; 58], [0; 58]);
    let mut put = |at: usize, bytes: &[u8]| body[at - 2..at - 2 + bytes.len()].copy_from_slice(bytes);
    put(0x02, &VERSION.to_le_bytes());
    put(0x04, &(ROLE_BASED_ERRORS | FLR).to_le_bytes());
    put(0x0c, &u32::from(LINK).to_le_bytes());
    put(0x12, &LINK.to_le_bytes());
    put(0x2c, &(0b1111u32 << 1).to_le_bytes());
    put(0x30, &4u16.to_le_bytes());
    writable[DEVICE_CONTROL - 2..DEVICE_CONTROL].copy_from_slice(&CONTROL.to_le_bytes());
    (body, writable)
}
