//! The device status field. ("Device Status Field")

/// The driver has found the device.
pub const ACKNOWLEDGE: u8 = 1;
/// The driver knows how to drive it.
pub const DRIVER: u8 = 2;
/// The driver is set up.
pub const DRIVER_OK: u8 = 4;
/// The driver has accepted features, and the device with them.
pub const FEATURES_OK: u8 = 8;
/// The device cannot go on before it is reset.
pub const DEVICE_NEEDS_RESET: u8 = 64;
/// The device has been given up, until it is reset.
pub const FAILED: u8 = 128;
