//! A PCI Express function as its host sees it, whatever it is a function of: configuration space, MSI-X, INTx, its VFs.
//!
//! Registers and capabilities are those of the PCI Local Bus and PCI Express Base specifications, in the letters of Linux's
//! `pci_regs.h`.

pub mod capability;
pub mod config_space;
pub mod intx;
pub mod msix;
pub mod sriov;

pub use config_space::ConfigSpace;
pub use intx::Intx;
pub use msix::Msix;
pub use sriov::Sriov;
