//! Where a CPU sits: package, core, thread, read from its APIC ID (SDM vol. 3, 9.9.3; APM vol. 3, appendix E.5).

use hw::CpuidBus;

use crate::cpuid::{self, Leaf1Edx};

/// Where a logical CPU sits. Two CPUs with the same package and core are SMT siblings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// The package (socket).
    pub package: u32,
    /// The core in it.
    pub core: u32,
    /// The thread of the core.
    pub smt: u32,
}

/// Types of levels in leaves 0Bh and 1Fh, ECX bits 15:8.
const INVALID: u32 = 0;
const SMT: u32 = 1;
/// Subleaves of a leaf: there are six types of levels yet.
const MOST_LEVELS: u32 = 16;

impl Topology {
    /// The calling CPU's, whose APIC ID this is.
    pub fn of(cpu: &impl CpuidBus, apic_id: u32) -> Self {
        let highest = cpu.cpuid(cpuid::VENDOR, 0).eax;
        let known = |leaf: &u32| highest >= *leaf && cpu.cpuid(*leaf, 0).ebx & 0xffff != 0;
        let (smt, package) = match [cpuid::TOPOLOGY_2, cpuid::TOPOLOGY].into_iter().find(known) {
            Some(leaf) => shifts(cpu, leaf),
            None => old_shifts(cpu),
        };
        let below = |shift: u32| 1u32.checked_shl(shift).map_or(u32::MAX, |bit| bit - 1);
        Self {
            package: apic_id.checked_shr(package).unwrap_or(0),
            core: (apic_id & below(package)).checked_shr(smt).unwrap_or(0),
            smt: apic_id & below(smt.min(package)),
        }
    }
}

/// How many bits of the ID name the thread, and how many the place in the package.
fn shifts(cpu: &impl CpuidBus, leaf: u32) -> (u32, u32) {
    let (mut smt, mut package) = (0, 0);
    for level in 0..MOST_LEVELS {
        let found = cpu.cpuid(leaf, level);
        match found.ecx >> 8 & 0xff {
            INVALID => break,
            SMT => smt = found.eax & 0x1f,
            _ => {}
        }
        package = found.eax & 0x1f;
    }
    (smt, package)
}

/// The same of CPUs that lack those leaves.
fn old_shifts(cpu: &impl CpuidBus) -> (u32, u32) {
    let bits = |count: u32| count.max(1).next_power_of_two().trailing_zeros();
    let leaf = cpu.cpuid(cpuid::FEATURES, 0);
    let threads = match Leaf1Edx::from_bits_retain(leaf.edx).contains(Leaf1Edx::HTT) {
        true => leaf.ebx >> 16 & 0xff,
        false => 1,
    };
    let has_caches = cpu.cpuid(cpuid::VENDOR, 0).eax >= cpuid::CACHES;
    let intel_cores = if has_caches { cpu.cpuid(cpuid::CACHES, 0).eax >> 26 } else { 0 };
    let has_amd = cpu.cpuid(cpuid::EXTENDED, 0).eax >= cpuid::ADDRESS_WIDTHS;
    let amd_cores = if has_amd { cpu.cpuid(cpuid::ADDRESS_WIDTHS, 0).ecx & 0xff } else { 0 };
    let package = bits(threads);
    (package.saturating_sub(bits(intel_cores.max(amd_cores) + 1)), package)
}

#[cfg(test)]
mod tests {
    use hw::CpuidResult;

    use super::*;

    struct Leaves(&'static [(u32, u32, [u32; 4])]);

    impl CpuidBus for Leaves {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
            let found = self.0.iter().find(|(l, s, _)| (*l, *s) == (leaf, subleaf));
            let [eax, ebx, ecx, edx] = found.map_or([0; 4], |(.., registers)| *registers);
            CpuidResult { eax, ebx, ecx, edx }
        }
    }

    #[test]
    fn leaf_1f_goes_before_leaf_0b_and_its_last_level_ends_the_package() {
        let cpu = Leaves(&[
            (0, 0, [0x1f, 0, 0, 0]),
            (0x0b, 0, [1, 2, 0x100, 0]),
            (0x1f, 0, [1, 2, 0x100, 0]),
            (0x1f, 1, [4, 16, 0x201, 0]),
            (0x1f, 2, [6, 64, 0x502, 0]),
        ]);
        // From the top: package 2, core 0x1d in five bits, thread 1.
        let found = Topology::of(&cpu, 2 << 6 | 0x1d << 1 | 1);
        assert_eq!(found, Topology { package: 2, core: 0x1d, smt: 1 });
    }

    #[test]
    fn without_the_leaves_counts_of_threads_and_cores_tell() {
        let cpu = Leaves(&[
            (0, 0, [4, 0, 0, 0]),
            (1, 0, [0, 8 << 16, 0, 1 << 28]),
            (4, 0, [3 << 26, 0, 0, 0]),
        ]);
        assert_eq!(Topology::of(&cpu, 0xf), Topology { package: 1, core: 3, smt: 1 });
    }

    #[test]
    fn a_cpu_that_tells_nothing_is_a_package_of_its_own() {
        let cpu = Leaves(&[(0, 0, [1, 0, 0, 0])]);
        assert_eq!(Topology::of(&cpu, 5), Topology { package: 5, core: 0, smt: 0 });
    }
}
