//! The switch: SFs and uplinks meet in it.

pub mod fdb;
