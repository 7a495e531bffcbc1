//! The control registers that Kerf's own address space depends on (SDM vol. 3, 2.5 and 4.1).

use core::arch::asm;

use hw::{CpuidBus, CpuidResult, Hpa, MsrBus};
use paging::PageSize;
use x86_spec::cpu::{Cr0, Cr4, Efer};
use x86_spec::cpuid::{self, ExtendedEdx, Leaf1Edx, Leaf7Ebx};
use x86_spec::msr;

use crate::platform::{CpuId, Msrs};

/// What all CPUs have alike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Registers {
    pub(crate) cr0: Cr0,
    pub(crate) cr4: Cr4,
    pub(crate) efer: Efer,
}

impl Registers {
    /// The calling CPU's, without what virtualization turns on for each CPU by itself.
    pub(crate) fn current() -> Self {
        let efer = Efer::from_bits_retain(Msrs.read(msr::EFER).unwrap_or_default());
        Self { cr0: cr0(), cr4: cr4() - Cr4::VMXE, efer: efer - Efer::SVME }
    }
}

/// Whether the CPU translates five levels.
pub(super) fn has_five_levels() -> bool {
    cr4().contains(Cr4::LA57)
}

/// The largest page the CPU maps.
pub(super) fn largest_page() -> PageSize {
    let features = extended(cpuid::EXTENDED_1).map_or(0, |leaf| leaf.edx);
    let has_1g = ExtendedEdx::from_bits_retain(features).contains(ExtendedEdx::PAGE_1GB);
    if has_1g { PageSize::Size1G } else { PageSize::Size2M }
}

/// The first address that the CPU cannot put on its bus: an entry with more bits faults when it is used (SDM vol. 3,
/// 4.1.4).
pub(super) fn physical_end() -> u64 {
    /// What a CPU has that does not tell.
    const DEFAULT_BITS: u32 = 36;
    let bits = extended(cpuid::ADDRESS_WIDTHS).map_or(DEFAULT_BITS, |leaf| leaf.eax & 0xff);
    1 << bits.clamp(DEFAULT_BITS, 52)
}

/// An extended leaf, where the CPU has it.
fn extended(leaf: u32) -> Option<CpuidResult> {
    let highest = CpuId.cpuid(cpuid::EXTENDED, 0).eax;
    (highest >= leaf).then(|| CpuId.cpuid(leaf, 0))
}

/// Lets page-table entries mean what [`paging::format::Host`] says: no-execute, write protection, the attribute table.
pub(super) fn prepare() {
    let efer = Msrs.read(msr::EFER).unwrap_or_default();
    let wanted = efer | Efer::NXE.bits();
    let written = [(msr::EFER, wanted), (msr::PAT, paging::format::PAT)]
        .into_iter()
        .try_for_each(|(msr, value)| Msrs.write(msr, value));
    if let Err(why) = written {
        log::warn!("the CPU refused {why:x?}; memory types or no-execute may not hold");
    }
    let cr0 = cr0() | Cr0::WP;
    // SAFETY: write protection takes rights away only: nothing here writes to a page that is mapped read-only.
    unsafe { asm!("mov cr0, {}", in(reg) cr0.bits(), options(nostack, preserves_flags)) };
}

/// Gives the calling CPU the address space at `root`, and another CPU's registers.
///
/// # Safety
/// The tables map everything that is used, at the same addresses as the present ones.
pub(super) unsafe fn join(root: Hpa, registers: &Registers) {
    let Registers { cr0, cr4, efer } = registers;
    // EFER first: the tables forbid execution.
    if Msrs.write(msr::EFER, efer.bits()).is_err() {
        log::warn!("a CPU refused EFER {:#x}, which another has", efer.bits());
    }
    prepare();
    // SAFETY: the caller answers for the tables; the registers are those that the boot CPU runs this code with.
    unsafe {
        asm!("mov cr0, {}", in(reg) cr0.bits(), options(nostack, preserves_flags));
        asm!("mov cr3, {}", in(reg) root.raw(), options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) cr4.bits(), options(nostack, preserves_flags));
    }
}

/// Moves onto the page tables at `root`, then forbids the use of user pages where the CPU can: there are none, so any
/// would be a forgery.
///
/// # Safety
/// The tables map everything that is used, at the same addresses as the present ones.
pub(super) unsafe fn enter(root: Hpa) {
    let highest = CpuId.cpuid(cpuid::VENDOR, 0).eax;
    let has_leaf = highest >= cpuid::EXTENDED_FEATURES;
    let features = if has_leaf { CpuId.cpuid(cpuid::EXTENDED_FEATURES, 0).ebx } else { 0 };
    let features = Leaf7Ebx::from_bits_retain(features);
    let mut wanted = cr4();
    wanted.set(Cr4::SMEP, features.contains(Leaf7Ebx::SMEP));
    wanted.set(Cr4::SMAP, features.contains(Leaf7Ebx::SMAP));
    wanted.remove(Cr4::PCIDE);
    let features = Leaf1Edx::from_bits_retain(CpuId.cpuid(cpuid::FEATURES, 0).edx);
    wanted.set(Cr4::MCE, features.contains(Leaf1Edx::MCE));
    // SAFETY: the caller answers for the tables. The protections concern user pages, of which these tables have none;
    // with PCIDE clear the low bits of CR3 choose caching, and zero is write-back.
    unsafe {
        asm!("mov cr3, {}", in(reg) root.raw(), options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) wanted.bits(), options(nostack, preserves_flags));
    }
}

fn cr0() -> Cr0 {
    let cr0: u64;
    // SAFETY: reading CR0 at privilege 0 has no effect.
    unsafe { asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags)) };
    Cr0::from_bits_retain(cr0)
}

fn cr4() -> Cr4 {
    let cr4: u64;
    // SAFETY: reading CR4 at privilege 0 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    Cr4::from_bits_retain(cr4)
}
