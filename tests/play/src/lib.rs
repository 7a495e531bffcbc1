//! Scripts, which are any bytes, played on parts of Kerf as they run on the host: each target makes of a script what a
//! machine, a device or a guest does, and panics where something is not as it must be. Property tests here play random
//! scripts and all kept ones; `tests/fuzz` has libFuzzer look for new ones.

#![forbid(unsafe_code)]

mod iommu;
mod pci;
mod start;
#[cfg(test)]
mod tests;

/// Plays a script.
pub type Target = fn(&[u8]);

/// All targets.
pub const TARGETS: [(&str, Target); 5] = [
    ("dmar", start::dmar),
    ("bring_up", start::bring_up),
    ("config_space", pci::config_space),
    ("msix", pci::msix),
    ("iommu", iommu::play),
];
