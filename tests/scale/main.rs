//! Many devices on few workers: who is idle costs nothing and misses nothing, who floods takes nothing from who does not,
//! who is moved to another worker loses nothing, and whose notifications are held back misses none.

mod fairness;
mod moderation;
mod moving;
mod parking;

use virtnet_rings::Layout;
use virtnet_rings::guest::net::NicOptions;
use virtnet_tests::Guest;

const LAYOUTS: [Layout; 2] = [Layout::Split, Layout::Packed];

/// A guest that kicks.
fn guest(station: u16, layout: Layout) -> Guest {
    let options = NicOptions { layout, size: 64, ..NicOptions::default() };
    Guest::with_memory(station, options, 1 << 20).with_kicks()
}
