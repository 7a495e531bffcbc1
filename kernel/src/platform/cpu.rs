//! CPUID, model-specific registers, and the few instructions that stop and start a CPU.

use core::arch::x86_64::__cpuid_count;
use core::arch::{asm, naked_asm};

use hw::{CpuidBus, CpuidResult, Msr, MsrBus, MsrFault};
use x86_spec::cpuid;

/// CPUID of the calling CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CpuId;

impl CpuidBus for CpuId {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let got = __cpuid_count(leaf, subleaf);
        CpuidResult { eax: got.eax, ebx: got.ebx, ecx: got.ecx, edx: got.edx }
    }
}

/// The CPU's vendor, as leaf 0 spells it.
pub(crate) fn vendor() -> [u8; 12] {
    let leaf = CpuId.cpuid(cpuid::VENDOR, 0);
    let mut text = [b'?'; 12];
    for (to, from) in text.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        to.copy_from_slice(&from.to_le_bytes());
    }
    text
}

/// Model-specific registers of the calling CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Msrs;

impl MsrBus for Msrs {
    fn read(&self, msr: Msr) -> Result<u64, MsrFault> {
        let mut value = 0;
        match rdmsr(msr.0, &mut value) {
            0 => Ok(value),
            _ => Err(MsrFault(msr)),
        }
    }

    fn write(&self, msr: Msr, value: u64) -> Result<(), MsrFault> {
        match wrmsr(msr.0, value) {
            0 => Ok(()),
            _ => Err(MsrFault(msr)),
        }
    }
}

/// RDMSR that survives #GP: 0 where it succeeded, 1 where it faulted. The exception handler finds the instruction in
/// `.ex_table` and goes on at the second address.
#[unsafe(naked)]
extern "sysv64" fn rdmsr(msr: u32, into: &mut u64) -> u32 {
    naked_asm!(
        "mov ecx, edi",
        "2:",
        "rdmsr",
        "shl rdx, 32",
        "or rax, rdx",
        "mov [rsi], rax",
        "xor eax, eax",
        "ret",
        "3:",
        "mov eax, 1",
        "ret",
        ".pushsection .ex_table, \"a\"",
        ".quad 2b, 3b",
        ".popsection",
    )
}

/// WRMSR, likewise.
#[unsafe(naked)]
extern "sysv64" fn wrmsr(msr: u32, value: u64) -> u32 {
    naked_asm!(
        "mov ecx, edi",
        "mov eax, esi",
        "mov rdx, rsi",
        "shr rdx, 32",
        "2:",
        "wrmsr",
        "xor eax, eax",
        "ret",
        "3:",
        "mov eax, 1",
        "ret",
        ".pushsection .ex_table, \"a\"",
        ".quad 2b, 3b",
        ".popsection",
    )
}

/// Whether the CPU writes 64 bytes at once (MOVDIR64B).
pub(crate) fn has_movdir64b() -> bool {
    const FEATURES: u32 = 7;
    CpuId.cpuid(FEATURES, 0).ecx >> 28 & 1 != 0
}

/// The word at an address that may not be mapped, or be none.
pub(crate) fn probe(address: u64) -> Option<u64> {
    let mut value = 0;
    // SAFETY: a fault is answered, as for RDMSR. Whatever can be read may be, for it is only shown.
    (unsafe { probe_word(address, &mut value) } == 0).then_some(value)
}

/// A load that survives #GP and #PF.
///
/// # Safety
/// The address is that of memory, or of nothing.
#[unsafe(naked)]
unsafe extern "sysv64" fn probe_word(address: u64, into: &mut u64) -> u32 {
    naked_asm!(
        "2:",
        "mov rax, [rdi]",
        "mov [rsi], rax",
        "xor eax, eax",
        "ret",
        "3:",
        "mov eax, 1",
        "ret",
        ".pushsection .ex_table, \"a\"",
        ".quad 2b, 3b",
        ".popsection",
    )
}

/// Takes the interrupts that are pending, and none that come later.
pub(crate) fn interrupts_on_briefly() {
    // SAFETY: handlers preserve all registers and touch only what is theirs. The NOP stands because STI holds interrupts
    // back for one instruction.
    unsafe { asm!("sti", "nop", "cli") };
}

/// Waits for an interrupt, and takes it. One that became pending since interrupts were turned off is not slept over: STI
/// takes effect only after HLT has begun.
pub(crate) fn wait_for_interrupt() {
    // SAFETY: as above.
    unsafe { asm!("sti", "hlt", "cli") };
}

/// Turns interrupts off.
pub(crate) fn interrupts_off() {
    // SAFETY: holding interrupts back is always allowed.
    unsafe { asm!("cli", options(nomem, nostack)) };
}

/// Shuts the CPU down, which resets a PC: no exception can be delivered by an empty table (SDM vol. 3, 6.15).
pub(crate) fn triple_fault() -> ! {
    let empty = [0u16; 5];
    // SAFETY: nothing is to run after this; the operand is ten readable bytes.
    unsafe { asm!("lidt [{}]", "int3", in(reg) empty.as_ptr(), options(readonly, nostack)) };
    halt_forever()
}

/// The end.
pub(crate) fn halt_forever() -> ! {
    loop {
        // SAFETY: with interrupts off HLT ends only by NMI or SMI; then it is done again.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}
