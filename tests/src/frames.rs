//! Frames that can be told apart: addresses, a number, and contents that follow from both. A frame that arrives is made
//! again from what it says of itself and compared byte by byte.

/// A station's address.
pub type Mac = [u8; 6];

/// To everybody.
pub const BROADCAST: Mac = [0xff; 6];

/// Addresses, a protocol for experiments, the number.
pub const LEN_MIN: usize = 22;

/// The address of a station by its number.
pub fn mac(station: u16) -> Mac {
    let [high, low] = station.to_be_bytes();
    [2, 0, 0, 0, high, low]
}

/// Frame `number` from one station to another, of `len_bytes`, [`LEN_MIN`] at least.
pub fn frame(to: Mac, from: Mac, number: u64, len_bytes: usize) -> Vec<u8> {
    assert!(len_bytes >= LEN_MIN);
    let mut frame = Vec::with_capacity(len_bytes);
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x88, 0xb5]);
    frame.extend(number.to_le_bytes());
    let seed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(from[5]) << 8 ^ u64::from(to[5]);
    frame.extend((LEN_MIN..len_bytes).map(|at| (seed.rotate_left(at as u32) as u8).wrapping_add(at as u8)));
    frame
}

/// A frame that arrived, as it says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// To whom.
    pub to: Mac,
    /// From whom.
    pub from: Mac,
    /// Which one.
    pub number: u64,
}

/// Reads a frame and checks every byte of it.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn check(bytes: &[u8]) -> Result<Heard, String> {
    if bytes.len() < LEN_MIN {
        return Err(format!("a frame of {} bytes", bytes.len()));
    }
    let mac = |at: usize| bytes[at..at + 6].try_into().expect("six bytes");
    let heard =
        Heard { to: mac(0), from: mac(6), number: u64::from_le_bytes(bytes[14..22].try_into().expect("eight")) };
    let sent = frame(heard.to, heard.from, heard.number, bytes.len());
    match bytes.iter().zip(&sent).position(|(got, sent)| got != sent) {
        None => Ok(heard),
        Some(at) => Err(format!("{heard:?} of {} bytes has changed at byte {at}", bytes.len())),
    }
}
