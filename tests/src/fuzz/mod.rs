//! The bodies of the fuzz targets: bytes in, and no panic. The same functions run with a few hundred random inputs among the
//! ordinary tests (`tests/fuzz`), and for as long as you like in `fuzz/`.
//!
//! | | rings | control queue | administration virtqueue | PCI configuration space, common configuration, MSI-X | messages |
//! | --- | --- | --- | --- | --- | --- |
//! | `chain_walk` | all | | | | |
//! | `control_queue` | | commands, chains | | | |
//! | `admin_queue` | | | commands, chains, device parts | of its VFs | |
//! | `function` | | | | all | |
//! | `vfio_user_message` | | | | through messages | vfio-user |
//! | `vhost_user_message` | | | | | vhost-user |

mod admin_queue;
mod chain_walk;
mod control_queue;
mod device;
mod function;
mod vfio_user_message;
mod vhost_user_message;

pub use admin_queue::admin_queue;
pub use chain_walk::chain_walk;
pub use control_queue::control_queue;
pub use function::function;
pub use vfio_user_message::vfio_user_message;
pub use vhost_user_message::vhost_user_message;

/// Input, taken from the front; zeroes when it is used up.
#[derive(Debug)]
struct Input<'b>(&'b [u8]);

impl<'b> Input<'b> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn u8(&mut self) -> u8 {
        let Some((&first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(std::array::from_fn(|_| self.u8()))
    }

    /// Up to `count` bytes.
    fn bytes(&mut self, count: usize) -> &'b [u8] {
        let (bytes, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}
