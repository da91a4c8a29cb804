//! The firmware's settings: entries of mlxconfig's names, each with a default, a value in effect since the last start and
//! one for the next.
//!
//! What is set is for the next boot; a start brings it into effect ([`Store::apply`]). Nobody but a start changes what is in
//! effect, so the controller reads its [`Limits`] once.

mod entry;
mod file;
mod kind;
mod limits;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod values;

pub use entry::{Entry, EntryError};
pub use kind::Kind;
pub use limits::{Combination, Limits, MSIX_MIN, PciIds, Profile};
pub use store::{Store, StoreError};
pub use table::{assignments, entries, table};
