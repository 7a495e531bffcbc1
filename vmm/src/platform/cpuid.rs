//! What CPUID tells the guest: a table made once from the host's answers.

use hw::{CpuidBus, CpuidResult};

/// What the table depends on besides the host's CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuidOptions {
    /// The guest's TSC, in kHz.
    pub tsc_khz: u32,
    /// The local APIC timer's bus clock, in kHz.
    pub apic_khz: u32,
    /// XCR0 bits the guest may have, where the host has them; 0 hides XSAVE.
    pub xcr0_allowed: u64,
    /// Whether the backend handles INVPCID and process-context identifiers.
    pub pcid: bool,
}

/// What the answer depends on at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuidState {
    /// CR4.
    pub cr4: u64,
    /// XCR0.
    pub xcr0: u64,
    /// The CPU's APIC ID.
    pub apic_id: u32,
}

/// The guest's CPUID.
#[derive(Clone, Debug)]
pub struct CpuidTable {}

impl CpuidTable {
    /// Makes the table.
    #[must_use]
    pub fn new(host: &impl CpuidBus, options: &CpuidOptions) -> Self {
        let _ = (host, options);
        Self {}
    }

    /// XCR0 bits that the guest may set; 0 where it has no XSAVE.
    #[must_use]
    pub fn xcr0_allowed(&self) -> u64 {
        0
    }

    /// CPUID.
    #[must_use]
    pub fn cpuid(&self, leaf: u32, subleaf: u32, state: &CpuidState) -> CpuidResult {
        let _ = (leaf, subleaf, state);
        CpuidResult::default()
    }
}
