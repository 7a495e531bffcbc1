//! The control registers that Kerf's own address space depends on (SDM vol. 3, 2.5 and 4.1).

use core::arch::asm;

use hw::{CpuidBus, Hpa, MsrBus};
use paging::PageSize;
use x86_spec::cpu::{Cr0, Cr4, Efer};
use x86_spec::msr;

use crate::platform::{CpuId, Msrs};

/// CPUID 8000_0001h, EDX: pages of 1 GiB.
const PDPE1GB: u32 = 1 << 26;
/// CPUID 7, EBX: supervisor-mode execution prevention.
const SMEP: u32 = 1 << 7;
/// CPUID 7, EBX: supervisor-mode access prevention.
const SMAP: u32 = 1 << 20;

/// Whether the CPU translates five levels.
pub(super) fn has_five_levels() -> bool {
    cr4().contains(Cr4::LA57)
}

/// The largest page the CPU maps.
pub(super) fn largest_page() -> PageSize {
    let extended = CpuId.cpuid(0x8000_0000, 0).eax;
    let has_1g = extended >= 0x8000_0001 && CpuId.cpuid(0x8000_0001, 0).edx & PDPE1GB != 0;
    if has_1g { PageSize::Size1G } else { PageSize::Size2M }
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
    let cr0: u64;
    // SAFETY: write protection takes rights away only: nothing here writes to a page that is mapped read-only. Alignment
    // checks concern user mode.
    unsafe {
        asm!("mov {}, cr0", out(reg) cr0, options(nomem, nostack, preserves_flags));
        let cr0 = cr0 | Cr0::WP.bits();
        asm!("mov cr0, {}", in(reg) cr0, options(nostack, preserves_flags));
    }
}

/// Moves onto the page tables at `root`, then forbids the use of user pages where the CPU can: there are none, so any
/// would be a forgery.
///
/// # Safety
/// The tables map everything that is used, at the same addresses as the present ones.
pub(super) unsafe fn enter(root: Hpa) {
    let features = if CpuId.cpuid(0, 0).eax >= 7 { CpuId.cpuid(7, 0).ebx } else { 0 };
    let mut wanted = cr4();
    wanted.set(Cr4::SMEP, features & SMEP != 0);
    wanted.set(Cr4::SMAP, features & SMAP != 0);
    wanted.remove(Cr4::PCIDE);
    // SAFETY: the caller answers for the tables. The protections concern user pages, of which these tables have none;
    // with PCIDE clear the low bits of CR3 choose caching, and zero is write-back.
    unsafe {
        asm!("mov cr3, {}", in(reg) root.raw(), options(nostack, preserves_flags));
        asm!("mov cr4, {}", in(reg) wanted.bits(), options(nostack, preserves_flags));
    }
}

fn cr4() -> Cr4 {
    let cr4: u64;
    // SAFETY: reading CR4 at privilege 0 has no effect.
    unsafe { asm!("mov {}, cr4", out(reg) cr4, options(nomem, nostack, preserves_flags)) };
    Cr4::from_bits_retain(cr4)
}
