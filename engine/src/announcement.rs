//! What tells a network where a guest is that has just arrived: a reverse ARP request from its address to everybody, as
//! vhost-user's SEND_RARP asks for. Nobody answers it; bridges and switches learn from its sender.

/// A whole frame.
pub type Announcement = [u8; 60];

/// The announcement of a guest with this address. (RFC 903; the shortest Ethernet frame, without its check sequence)
pub fn of(mac: [u8; 6]) -> Announcement {
    // Hardware Ethernet, protocol IPv4, their lengths, "request reverse".
    const REQUEST: [u8; 8] = [0, 1, 0x08, 0x00, 6, 4, 0, 3];
    let mut frame = [0; 60];
    frame[..6].fill(0xff);
    frame[6..12].copy_from_slice(&mac);
    frame[12..14].copy_from_slice(&[0x80, 0x35]);
    frame[14..22].copy_from_slice(&REQUEST);
    // Sender and target are the guest, whose protocol addresses nobody knows.
    frame[22..28].copy_from_slice(&mac);
    frame[32..38].copy_from_slice(&mac);
    frame
}

#[cfg(all(test, not(loom)))]
mod tests {
    #[test]
    fn an_announcement_is_a_reverse_arp_request() {
        let frame = super::of([2, 0, 0, 0, 0, 9]);
        let expected = [
            0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 9, 0x80, 0x35, // Ethernet
            0, 1, 8, 0, 6, 4, 0, 3, // types, lengths, operation
            2, 0, 0, 0, 0, 9, 0, 0, 0, 0, // sender
            2, 0, 0, 0, 0, 9, 0, 0, 0, 0, // target
        ];
        assert_eq!(frame[..expected.len()], expected);
        assert!(frame[expected.len()..].iter().all(|byte| *byte == 0));
    }
}
