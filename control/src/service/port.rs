//! From the configuration's ports to the engine's.

use std::path::Path;
use std::sync::Arc;

use virtnet_engine::PortConfig;
use virtnet_engine::frame::offload;
use virtnet_engine::port::pcap::{Capture, Format, Pace, PcapConfig, RecordConfig, ReplayConfig};
use virtnet_engine::port::source::SourceConfig;
use virtnet_engine::port::tap::TapConfig;

use super::netdevs::Netdevs;
use crate::config::{self, Pcap, Port, Source};
use crate::device::Spec;

/// Where a source's frames say they come from and go to.
const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0xff, 0, 1];
const DESTINATION_MAC: [u8; 6] = [0xff; 6];

/// The engine's port for a device.
///
/// # Errors
/// A capture cannot be read, a netdev cannot be had.
pub fn of(port: &Port, spec: &Spec, netdevs: &mut Netdevs) -> anyhow::Result<PortConfig> {
    Ok(match port {
        Port::Switch => PortConfig::Switch,
        Port::Loopback => PortConfig::Loopback,
        Port::Sink => PortConfig::Sink,
        Port::Source(source) => PortConfig::Source(source_config(source)),
        Port::Pcap(pcap) => PortConfig::Pcap(pcap_config(pcap)?),
        Port::Tap(tap) => {
            let interface = netdevs.take(&tap.name)?;
            let (features, takes) = (spec.features(), takes(tap.offload));
            PortConfig::Tap(TapConfig { interface, features, takes, mtu: spec.mtu, up: true })
        }
    })
}

/// What those at a TAP take unfinished.
pub fn takes(offload: bool) -> u64 {
    if offload { offload::TO_GUEST } else { 0 }
}

fn pcap_config(pcap: &Pcap) -> anyhow::Result<PcapConfig> {
    let replay = |path: &Path| {
        let capture = Arc::new(Capture::load(path)?);
        let pace = match pcap.pace {
            config::Pace::Captured => Pace::AsCaptured,
            config::Pace::Fast => Pace::AsFastAsPossible,
            config::Pace::Rate(fps) => Pace::Rate(fps),
        };
        anyhow::Ok(ReplayConfig { capture, pace, repeat: pcap.repeat })
    };
    let record = |path: &Path| {
        let classic = path.extension().is_some_and(|extension| extension == "pcap");
        RecordConfig { path: path.into(), format: if classic { Format::Pcap } else { Format::PcapNg } }
    };
    Ok(PcapConfig {
        replay: pcap.replay.as_deref().map(replay).transpose()?,
        record: pcap.record.as_deref().map(record),
    })
}

fn source_config(source: &Source) -> SourceConfig {
    SourceConfig {
        templates: source.frame_bytes.cycle().into_iter().map(template).collect(),
        rate_fps: source.rate_fps,
        stamp_offset: None,
        count: source.count,
    }
}

/// A UDP datagram over IPv4 that fills a frame of `len_bytes`, 64 or more.
fn template(len_bytes: u16) -> Vec<u8> {
    const ETHERNET_BYTES: u16 = 14;
    const IPV4_BYTES: u16 = 20;
    let mut frame = Vec::with_capacity(len_bytes.into());
    frame.extend_from_slice(&DESTINATION_MAC);
    frame.extend_from_slice(&SOURCE_MAC);
    frame.extend_from_slice(&[0x08, 0x00]);
    let datagram_bytes = (len_bytes - ETHERNET_BYTES).to_be_bytes();
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 1, 198, 18, 0, 2];
    ip[2..4].copy_from_slice(&datagram_bytes);
    let sum: u32 = ip.chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(folded as u16)).to_be_bytes());
    frame.extend_from_slice(&ip);
    // Ports 49152 and 9 (discard); a UDP checksum of 0 says there is none.
    let udp_bytes = (len_bytes - ETHERNET_BYTES - IPV4_BYTES).to_be_bytes();
    frame.extend_from_slice(&[0xc0, 0x00, 0, 9, udp_bytes[0], udp_bytes[1], 0, 0]);
    frame.resize(len_bytes.into(), 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_a_datagram_with_a_good_checksum() {
        for len_bytes in [64, 594, 1518, 9216] {
            let frame = template(len_bytes);
            assert_eq!(frame.len(), usize::from(len_bytes));
            let words = frame[14..34].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let sum: u32 = words.sum();
            assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff);
            assert_eq!(frame[16..18], (len_bytes - 14).to_be_bytes());
            assert_eq!(frame[38..40], (len_bytes - 34).to_be_bytes());
        }
    }
}
