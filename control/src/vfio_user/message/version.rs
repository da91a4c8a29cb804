//! The first message: version and capabilities. ("VFIO_USER_VERSION")

use serde::Deserialize;
use serde_json::json;
use virtnet_rings::memory::REGIONS_MAX;

use super::{DATA_BYTES_MAX, DESCRIPTORS_MAX, ProtocolError};

/// What a client says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    /// Descriptors that it can take in a message.
    pub max_msg_fds: usize,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Data {
    capabilities: Capabilities,
}

#[derive(Deserialize)]
#[serde(default)]
struct Capabilities {
    max_msg_fds: u64,
    max_data_xfer_size: u64,
    pgsizes: u64,
}

/// What holds where a client says nothing.
impl Default for Capabilities {
    fn default() -> Self {
        Self { max_msg_fds: 1, max_data_xfer_size: 1 << 20, pgsizes: PAGE_BYTES }
    }
}

const PAGE_BYTES: u64 = 4096;

impl Version {
    /// From the message's body.
    ///
    /// # Errors
    /// [`ProtocolError::Version`], [`ProtocolError::Capabilities`].
    pub(super) fn new(major: u16, minor: u16, data: &[u8]) -> Result<Self, ProtocolError> {
        if major != 0 {
            return Err(ProtocolError::Version { major, minor });
        }
        let malformed = |why: &str| ProtocolError::Capabilities { why: why.to_owned() };
        let data = match data {
            [] => Data::default(),
            [text @ .., 0] => serde_json::from_slice(text).map_err(|error| malformed(&error.to_string()))?,
            _ => return Err(malformed("they do not end with NUL")),
        };
        let Capabilities { max_msg_fds, max_data_xfer_size, pgsizes } = data.capabilities;
        if pgsizes & PAGE_BYTES == 0 {
            return Err(malformed(&format!("pgsizes is {pgsizes:#x}, {PAGE_BYTES:#x} is to be among them")));
        }
        if max_data_xfer_size < DATA_BYTES_MAX as u64 {
            let why = format!("max_data_xfer_size is {max_data_xfer_size:#x}, {DATA_BYTES_MAX:#x} is the least");
            return Err(malformed(&why));
        }
        Ok(Self { max_msg_fds: max_msg_fds.min(DESCRIPTORS_MAX as u64) as usize })
    }

    /// The body of the answer: our version, 0.0, and our limits.
    pub fn answer() -> Vec<u8> {
        let limits = json!({ "capabilities": {
            "max_msg_fds": DESCRIPTORS_MAX, "max_data_xfer_size": DATA_BYTES_MAX,
            "max_dma_maps": REGIONS_MAX, "pgsizes": PAGE_BYTES, "write_multiple": true,
        } });
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(limits.to_string().as_bytes());
        bytes.push(0);
        bytes
    }
}
