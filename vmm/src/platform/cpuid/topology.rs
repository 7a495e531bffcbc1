//! Where the guest's CPUs sit: one package of cores with one thread each, whose APIC IDs count from 0.

use hw::CpuidResult;

/// Level types of leaf 0xb (SDM vol. 2A, table 3-8).
const LEVEL_SMT: u32 = 1 << 8;
const LEVEL_CORE: u32 = 2 << 8;
/// A cache of this level or above is shared by the package.
const SHARED_LEVEL: u32 = 3;

/// The topology of a guest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Topology {
    vcpus: u32,
}

impl Topology {
    pub(super) const fn new(vcpus: u32) -> Self {
        Self { vcpus: if vcpus == 0 { 1 } else { vcpus } }
    }

    /// Whether there is more than one CPU.
    pub(super) const fn is_multiple(self) -> bool {
        self.vcpus > 1
    }

    /// Bits of an APIC ID that number the CPU in the package.
    const fn id_bits(self) -> u32 {
        self.vcpus.next_power_of_two().trailing_zeros()
    }

    /// One less than the IDs that the package could have, at most `limit`.
    fn last_id(self, limit: u32) -> u32 {
        (self.vcpus.next_power_of_two() - 1).min(limit)
    }

    /// EBX 23:16 of leaf 1: IDs of the package.
    pub(super) fn ids_in_leaf_1(self) -> u32 {
        (self.last_id(0xfe) + 1) << 16
    }

    /// Leaf 0xb.
    pub(super) const fn levels(self, subleaf: u32, apic_id: u32) -> CpuidResult {
        let (shift, threads, level) = match subleaf {
            0 => (0, 1, LEVEL_SMT),
            1 => (self.id_bits(), self.vcpus & 0xffff, LEVEL_CORE),
            _ => (0, 0, 0),
        };
        CpuidResult { eax: shift, ebx: threads, ecx: level | subleaf & 0xff, edx: apic_id }
    }

    /// A subleaf of leaf 4 (Intel) or 0x8000_001d (AMD): who shares the cache, and how many cores there are.
    pub(super) fn cache(self, host: CpuidResult, with_cores: bool) -> CpuidResult {
        let level = host.eax >> 5 & 7;
        let sharers = if level >= SHARED_LEVEL { self.last_id(0xfff) } else { 0 };
        let cores = if with_cores { self.last_id(0x3f) } else { 0 };
        CpuidResult { eax: host.eax & 0x3fff | sharers << 14 | cores << 26, ..host }
    }

    /// ECX of leaf 0x8000_0008 (AMD): cores, and bits of the ID.
    pub(super) fn core_count(self) -> u32 {
        (self.vcpus - 1).min(0xff) | self.id_bits() << 12
    }

    /// Leaf 0x8000_001e (AMD): APIC ID, core and node.
    pub(super) const fn ids(self, apic_id: u32) -> CpuidResult {
        CpuidResult { eax: apic_id, ebx: apic_id & 0xff, ecx: 0, edx: 0 }
    }
}
