//! Frames for tests.

/// Between two stations whose addresses are all 2s.
pub fn ethernet(tags: &[[u8; 4]], ethertype: u16, packet: &[u8]) -> Vec<u8> {
    [&[2; 12], tags.concat().as_slice(), &ethertype.to_be_bytes(), packet].concat()
}

/// With `options` bytes of options.
pub fn ipv4(
    source: [u8; 4],
    destination: [u8; 4],
    options: usize,
    fragment: u16,
    protocol: u8,
    payload: &[u8],
) -> Vec<u8> {
    let len = (20 + options + payload.len()) as u16;
    let [l0, l1] = len.to_be_bytes();
    let [f0, f1] = fragment.to_be_bytes();
    let start = [0x40 | (5 + options / 4) as u8, 0, l0, l1, 0, 0, f0, f1, 64, protocol, 0, 0];
    ethernet(&[], 0x0800, &[&start, &source[..], &destination, &vec![1; options], payload].concat())
}

/// Without extension headers, unless they are in `payload`.
pub fn ipv6(source: [u16; 8], destination: [u16; 8], next: u8, payload: &[u8]) -> Vec<u8> {
    let bytes = |address: [u16; 8]| address.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<u8>>();
    let [l0, l1] = (payload.len() as u16).to_be_bytes();
    let packet = [&[0x60, 0, 0, 0, l0, l1, next, 64], &bytes(source)[..], &bytes(destination), payload].concat();
    ethernet(&[], 0x86dd, &packet)
}

/// The first bytes of TCP, and all of UDP.
pub fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes(), [0; 2], [0; 2]].concat()
}
