//! The privileged instructions of this backend, one function each.
//!
//! UNSAFETY: instructions that change the CPU's state or read its tables. Nothing outside [`super`] can call them; each
//! says what its callers owe.

use core::arch::asm;

use hw::{Hpa, Hva, Msr};
use x86_spec::cpu::Cr4;
use x86_spec::msr;

use super::fields::{Fields, FieldsMut};
use super::setup::HostState;

/// What a VMX instruction answered (SDM vol. 3, 31.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VmFail;

/// The current VMCS of the calling CPU.
#[derive(Clone, Copy, Debug)]
pub(super) struct Current;

impl Fields for Current {
    #[inline(always)]
    fn raw(&self, encoding: u32) -> u64 {
        let value;
        // SAFETY: VMREAD changes flags and its destination only. Where there is no current VMCS or no such field, it
        // fails and the value is what was in the register: nothing that Kerf's safety rests on is read so.
        unsafe {
            asm!("vmread {}, {}", out(reg) value, in(reg) u64::from(encoding),
                options(nostack, nomem));
        }
        value
    }
}

impl FieldsMut for Current {
    #[inline(always)]
    fn set_raw(&mut self, encoding: u32, value: u64) {
        if cfg!(debug_assertions) {
            let failed: u8;
            // SAFETY: as below.
            unsafe {
                asm!("vmwrite {}, {}", "setna {}", in(reg) u64::from(encoding), in(reg) value,
                    out(reg_byte) failed, options(nostack));
            }
            assert!(failed == 0, "VMWRITE of a field that this CPU does not have");
            return;
        }
        // SAFETY: VMWRITE changes the VMCS, which takes effect at the next entry only; what Kerf's own safety rests on
        // there, the host state and the controls, is written by `setup` from what this CPU reported.
        unsafe {
            asm!("vmwrite {}, {}", in(reg) u64::from(encoding), in(reg) value,
                options(nostack));
        }
    }
}

/// Sets CR4.VMXE and what else CR0 and CR4 need, then VMXON with the region at `region`.
pub(super) fn vmxon(cr0_must: u64, cr4_must: u64, region: Hpa) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: (1) the bits set are those that the capability registers demand (NE, PG, PE; VMXE): a 64-bit kernel has
    // the others set, and NE concerns floating point alone. (2) The region is a page of the backend's own, with the
    // revision in its first word, never used for anything else. (3) IA32_FEATURE_CONTROL was checked.
    unsafe {
        asm!(
            "mov {t}, cr0",
            "or {t}, {cr0}",
            "mov cr0, {t}",
            "mov {t}, cr4",
            "or {t}, {cr4}",
            "mov cr4, {t}",
            "vmxon [{region}]",
            "setna {failed}",
            t = out(reg) _,
            cr0 = in(reg) cr0_must,
            cr4 = in(reg) cr4_must | Cr4::VMXE.bits(),
            region = in(reg) &region.raw(),
            failed = lateout(reg_byte) failed,
            options(nostack),
        );
    }
    check(failed)
}

/// VMCLEAR.
pub(super) fn vmclear(vmcs: Hpa) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: the VMCS is a page of a virtual CPU's own; clearing it writes back what the CPU cached of it.
    unsafe {
        asm!("vmclear [{}]", "setna {}", in(reg) &vmcs.raw(), out(reg_byte) failed,
            options(nostack));
    }
    check(failed)
}

/// VMPTRLD.
pub(super) fn vmptrld(vmcs: Hpa) -> Result<(), VmFail> {
    let failed: u8;
    // SAFETY: the VMCS is a page of a virtual CPU's own, with the revision in its first word.
    unsafe {
        asm!("vmptrld [{}]", "setna {}", in(reg) &vmcs.raw(), out(reg_byte) failed,
            options(nostack));
    }
    check(failed)
}

/// VMPTRST: the current VMCS, `None` where there is none.
pub(super) fn vmptrst() -> Option<Hpa> {
    let mut vmcs = u64::MAX;
    // SAFETY: stores eight bytes at the address of a local variable.
    unsafe { asm!("vmptrst [{}]", in(reg) &mut vmcs, options(nostack)) }
    (vmcs != u64::MAX).then_some(Hpa::new(vmcs))
}

/// INVEPT of the given type.
pub(super) fn invept(kind: u64, ept_pointer: u64) {
    let descriptor = [ept_pointer, 0];
    // SAFETY: drops cached translations; a type that the CPU lacks only fails.
    unsafe { asm!("invept {}, [{}]", in(reg) kind, in(reg) &descriptor, options(nostack)) }
}

/// INVVPID of the given type.
pub(super) fn invvpid(kind: u64, vpid: u16) {
    let descriptor = [u64::from(vpid), 0];
    // SAFETY: as for `invept`.
    unsafe { asm!("invvpid {}, [{}]", in(reg) kind, in(reg) &descriptor, options(nostack)) }
}

fn check(failed: u8) -> Result<(), VmFail> {
    match failed {
        0 => Ok(()),
        _ => Err(VmFail),
    }
}

/// Writes the revision into the first word of a VMXON region or VMCS.
pub(super) fn write_revision(page: Hva, revision: u32) {
    // SAFETY: the page is the caller's own from `HostPages`, not yet given to the CPU.
    unsafe {
        core::ptr::with_exposed_provenance_mut::<u32>(page.raw() as usize).write_volatile(revision);
    }
}

/// Fills a page with the 512 words of `word`.
pub(super) fn write_page(page: Hva, word: impl Fn(usize) -> u64) {
    let words = core::ptr::with_exposed_provenance_mut::<u64>(page.raw() as usize);
    for index in 0..512 {
        // SAFETY: the page is the caller's own from `HostPages`, aligned to and as long as 4 KiB.
        unsafe { words.add(index).write_volatile(word(index)) }
    }
}

/// RDMSR of a register that this CPU has.
pub(super) fn rdmsr(msr: Msr) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: callers name registers that every 64-bit CPU has, or whose feature they have checked.
    unsafe {
        asm!("rdmsr", in("ecx") msr.0, out("eax") low, out("edx") high, options(nostack, nomem));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR of a register that this CPU has, of a value it takes, and that Kerf's own code does not depend on.
pub(super) fn wrmsr(msr: Msr, value: u64) {
    // SAFETY: callers write the guest's share of the registers only ([`super::vcpu::HELD`]), with values that the CPU
    // itself gave or that were checked to be canonical where that is demanded.
    unsafe {
        asm!("wrmsr", in("ecx") msr.0, in("eax") value as u32, in("edx") (value >> 32) as u32,
            options(nostack, nomem));
    }
}

/// CR2.
pub(super) fn read_cr2() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack, nomem)) }
    value
}

/// Sets CR2, which the host uses in its own page-fault handler only, after a fault of its own.
pub(super) fn write_cr2(value: u64) {
    // SAFETY: see above.
    unsafe { asm!("mov cr2, {}", in(reg) value, options(nostack, nomem)) }
}

/// CR4.
pub(super) fn read_cr4() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, cr4", out(reg) value, options(nostack, nomem)) }
    value
}

/// DR0 to DR3 and DR6.
pub(super) fn read_debug() -> [u64; 5] {
    let mut values = [0; 5];
    // SAFETY: reads registers; DR7.GD is clear while the host runs.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", "mov {}, dr6",
            out(reg) values[0], out(reg) values[1], out(reg) values[2], out(reg) values[3],
            out(reg) values[4], options(nostack, nomem));
    }
    values
}

/// Sets DR0 to DR3 and DR6. An exit clears DR7, so that they do nothing while the host runs.
pub(super) fn write_debug(values: &[u64; 5]) {
    // SAFETY: the addresses came from the guest by MOV DR or are zero, and DR6 holds 32 bits.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", "mov dr6, {}",
            in(reg) values[0], in(reg) values[1], in(reg) values[2], in(reg) values[3],
            in(reg) values[4], options(nostack, nomem));
    }
}

/// DR6.
pub(super) fn read_dr6() -> u64 {
    let value;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, dr6", out(reg) value, options(nostack, nomem)) }
    value
}

/// Sets DR6; `value` has no bit above 31.
pub(super) fn write_dr6(value: u64) {
    // SAFETY: DR6 only reports.
    unsafe { asm!("mov dr6, {}", in(reg) value & 0xffff_ffff, options(nostack, nomem)) }
}

/// Runs the host's NMI handler, as the NMI itself would have done; its IRET ends the blocking of NMIs.
pub(super) fn call_nmi_handler() {
    // SAFETY: the host's interrupt descriptor table has a handler at vector 2 that returns with IRET.
    unsafe { asm!("int 2") }
}

/// Runs the host's machine-check handler.
pub(super) fn call_machine_check_handler() {
    // SAFETY: the host's interrupt descriptor table has a handler at vector 18.
    unsafe { asm!("int 18") }
}

/// GDTR or IDTR as SGDT and SIDT store them.
#[repr(C, packed)]
#[derive(Default)]
struct Table {
    limit: u16,
    base: u64,
}

/// The calling CPU's state, as exits are to restore it.
pub(super) fn host_state() -> HostState {
    let mut state = HostState {
        cr4: read_cr4(),
        pat: rdmsr(msr::PAT),
        efer: rdmsr(msr::EFER),
        fs_base: rdmsr(msr::FS_BASE),
        gs_base: rdmsr(msr::GS_BASE),
        sysenter_cs: rdmsr(msr::SYSENTER_CS) as u32,
        sysenter_esp: rdmsr(msr::SYSENTER_ESP),
        sysenter_eip: rdmsr(msr::SYSENTER_EIP),
        ..HostState::default()
    };
    let (mut gdtr, mut idtr) = (Table::default(), Table::default());
    // SAFETY: reads registers, and stores the two tables' registers in local variables of their layout.
    unsafe {
        asm!("mov {}, cr0", out(reg) state.cr0, options(nostack, nomem));
        asm!("mov {}, cr3", out(reg) state.cr3, options(nostack, nomem));
        asm!("mov {:x}, es", out(reg) state.es, options(nostack, nomem));
        asm!("mov {:x}, cs", out(reg) state.cs, options(nostack, nomem));
        asm!("mov {:x}, ss", out(reg) state.ss, options(nostack, nomem));
        asm!("mov {:x}, ds", out(reg) state.ds, options(nostack, nomem));
        asm!("mov {:x}, fs", out(reg) state.fs, options(nostack, nomem));
        asm!("mov {:x}, gs", out(reg) state.gs, options(nostack, nomem));
        asm!("str {:x}", out(reg) state.tr, options(nostack, nomem));
        asm!("sgdt [{}]", in(reg) &mut gdtr, options(nostack));
        asm!("sidt [{}]", in(reg) &mut idtr, options(nostack));
    }
    state.gdtr_base = gdtr.base;
    state.idtr_base = idtr.base;
    state.tr_base = task_segment_base(&gdtr, state.tr);
    state
}

/// Base of the task-state segment `selector` names (SDM vol. 3, figure 8-4); 0 where the table does not have it.
fn task_segment_base(gdtr: &Table, selector: u16) -> u64 {
    let offset = u64::from(selector & !7);
    if offset == 0 || offset + 15 > u64::from(gdtr.limit) {
        return 0;
    }
    let address = (gdtr.base + offset) as usize;
    // SAFETY: the CPU itself walks this table for every interrupt: it is mapped and, for its limit, whole.
    let [low, high] =
        unsafe { core::ptr::with_exposed_provenance::<[u64; 2]>(address).read_unaligned() };
    (low >> 16 & 0xff_ffff) | (low >> 56 << 24) | (high << 32)
}
