//! The world switch.
//!
//! ```text
//!   CLGI                     nothing, not even an NMI, is taken from here on
//!   STI                      with V_INTR_MASKING the host's IF decides whether a physical interrupt ends the run; GIF
//!                            still holds it back, so none is taken on the host's side of VMRUN
//!   VMLOAD guest             FS, GS, TR, LDTR, KernelGSbase, system-call MSRs
//!   VMRUN                    switches the rest and sets GIF; #VMEXIT switches back and clears GIF
//!   VMSAVE guest
//!   VMLOAD host              GS again points at the CPU's own data, TR at its stacks for NMI and machine check
//!   CLI
//!   STGI                     a pending NMI is taken here, by the host's handler on a whole host; a pending interrupt
//!                            waits for the caller to open interrupts
//! ```
//!
//! VMLOAD of the host's state must come before STGI: an NMI taken between the two would find the guest's GS and TR.
//! The host's own state is stored once, when a virtual CPU is loaded: it does not change while Kerf runs.
//!
//! UNSAFETY: the guest's registers come and go through [`GuestRegisters`]; to the compiler this is one block of assembly
//! that loses every register, which saves what is in use around it and nothing else.

use core::arch::asm;
use core::mem::offset_of;

use x86_spec::svm::Vmcb;

use super::insn::Owned;
use crate::Gpr;

/// The general-purpose registers that VMRUN does not switch, by [`Gpr`] number. RAX and RSP are in the VMCB.
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct GuestRegisters {
    pub(super) gprs: [u64; 16],
}

/// Offset of a register in [`GuestRegisters`].
const fn slot(register: Gpr) -> usize {
    offset_of!(GuestRegisters, gprs) + 8 * register as usize
}

/// Runs the guest of `guest` until it leaves.
#[inline]
pub(super) fn enter(registers: &mut GuestRegisters, guest: &mut Owned<Vmcb>, host: &Owned<Vmcb>) {
    // SAFETY: (1) EFER.SVME is set and VM_HSAVE_PA holds a page: a `Svm` exists, which made these structures, and the
    // caller runs on its CPU. (2) The VMCB intercepts what would harm the host, and its nested page tables hold what the
    // guest may reach; both are the backend's and the caller's to see to before. (3) `host` was stored by VMSAVE on this
    // CPU when the virtual CPU was loaded. (4) Every general-purpose register is declared lost or kept on the stack, and
    // interrupts are off before and after. (5) `registers` is the caller's alone, and long enough for every slot.
    unsafe {
        asm!(
        // These two cannot be declared.
        "push rbx",
        "push rbp",
        "push rdi",
        "push rdx",
        "clgi",
        "sti",
        "vmload rax",
        "mov rcx, [rdi + {rcx}]",
        "mov rdx, [rdi + {rdx}]",
        "mov rbx, [rdi + {rbx}]",
        "mov rbp, [rdi + {rbp}]",
        "mov rsi, [rdi + {rsi}]",
        "mov r8, [rdi + {r8}]",
        "mov r9, [rdi + {r9}]",
        "mov r10, [rdi + {r10}]",
        "mov r11, [rdi + {r11}]",
        "mov r12, [rdi + {r12}]",
        "mov r13, [rdi + {r13}]",
        "mov r14, [rdi + {r14}]",
        "mov r15, [rdi + {r15}]",
        "mov rdi, [rdi + {rdi}]",
        "vmrun rax",
        // RAX and RSP are the host's again: VMRUN kept them in the host save area.
        "vmsave rax",
        "mov rax, rdi",
        "mov rdi, [rsp + 8]",
        "mov [rdi + {rdi}], rax",
        "mov [rdi + {rcx}], rcx",
        "mov [rdi + {rdx}], rdx",
        "mov [rdi + {rbx}], rbx",
        "mov [rdi + {rbp}], rbp",
        "mov [rdi + {rsi}], rsi",
        "mov [rdi + {r8}], r8",
        "mov [rdi + {r9}], r9",
        "mov [rdi + {r10}], r10",
        "mov [rdi + {r11}], r11",
        "mov [rdi + {r12}], r12",
        "mov [rdi + {r13}], r13",
        "mov [rdi + {r14}], r14",
        "mov [rdi + {r15}], r15",
        "pop rax",
        "vmload rax",
        "cli",
        "stgi",
        "pop rdi",
        "pop rbp",
        "pop rbx",
        rcx = const slot(Gpr::Rcx),
        rdx = const slot(Gpr::Rdx),
        rbx = const slot(Gpr::Rbx),
        rbp = const slot(Gpr::Rbp),
        rsi = const slot(Gpr::Rsi),
        r8 = const slot(Gpr::R8),
        r9 = const slot(Gpr::R9),
        r10 = const slot(Gpr::R10),
        r11 = const slot(Gpr::R11),
        r12 = const slot(Gpr::R12),
        r13 = const slot(Gpr::R13),
        r14 = const slot(Gpr::R14),
        r15 = const slot(Gpr::R15),
        rdi = const slot(Gpr::Rdi),
        inout("rdi") core::ptr::from_mut(registers) => _,
        inout("rax") guest.hpa().raw() => _,
        inout("rdx") host.hpa().raw() => _,
        out("rcx") _,
        out("rsi") _,
        out("r8") _,
        out("r9") _,
        out("r10") _,
        out("r11") _,
        out("r12") _,
        out("r13") _,
        out("r14") _,
        out("r15") _,
        );
    }
}

const _: () = assert!(slot(Gpr::Rcx) == 8 && slot(Gpr::Rdi) == 56 && slot(Gpr::R15) == 120);
const _: () = assert!(size_of::<GuestRegisters>() == 128);
