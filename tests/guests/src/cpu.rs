//! Instructions, wrapped: CPUID, MSRs, ports, hypercalls, time, and halting.

use core::arch::asm;

use crate::{attempt, trap::Trap};

/// What CPUID returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Cpuid {
    pub eax: u32,
    pub ebx: u32,
    pub ecx: u32,
    pub edx: u32,
}

/// CPUID of `leaf` and `subleaf`.
#[must_use]
pub fn cpuid(leaf: u32, subleaf: u32) -> Cpuid {
    let found = core::arch::x86_64::__cpuid_count(leaf, subleaf);
    Cpuid { eax: found.eax, ebx: found.ebx, ecx: found.ecx, edx: found.edx }
}

/// IN of 8 bits.
#[must_use]
pub fn in8(port: u16) -> u8 {
    let value;
    // SAFETY: reading a port changes no memory of this program; what the device does is the test's business.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// IN of 16 bits.
#[must_use]
pub fn in16(port: u16) -> u16 {
    let value;
    // SAFETY: as for `in8`.
    unsafe {
        asm!("in ax, dx", in("dx") port, out("ax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// IN of 32 bits.
#[must_use]
pub fn in32(port: u16) -> u32 {
    let value;
    // SAFETY: as for `in8`.
    unsafe {
        asm!("in eax, dx", in("dx") port, out("eax") value, options(nomem, nostack, preserves_flags))
    };
    value
}

/// OUT of 8 bits.
pub fn out8(port: u16, value: u8) {
    // SAFETY: no device that a guest finds writes to memory on its own.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags))
    };
}

/// OUT of 16 bits.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for `out8`.
    unsafe {
        asm!("out dx, ax", in("dx") port, in("ax") value, options(nomem, nostack, preserves_flags))
    };
}

/// OUT of 32 bits.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for `out8`.
    unsafe {
        asm!("out dx, eax", in("dx") port, in("eax") value, options(nomem, nostack, preserves_flags))
    };
}

/// RDMSR.
///
/// # Errors
/// The exception that it raised, usually #GP.
pub fn read_msr(msr: u32) -> Result<u64, Trap> {
    let (mut low, mut high) = (0_u32, 0_u32);
    // SAFETY: reads a register; an exception comes back as an error.
    unsafe { attempt!("rdmsr", in("ecx") msr, inout("eax") low, inout("edx") high) }?;
    Ok(u64::from(high) << 32 | u64::from(low))
}

/// WRMSR.
///
/// # Errors
/// The exception that it raised, usually #GP.
///
/// # Safety
/// The register must not move memory, code or stack out from under the program.
pub unsafe fn write_msr(msr: u32, value: u64) -> Result<(), Trap> {
    // SAFETY: the caller's promise; an exception comes back as an error.
    unsafe {
        attempt!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32)
    }
}

/// RDMSR of a register that there is: an exception ends the guest. Any CPU may call it at any time.
#[must_use]
pub fn read_existing_msr(msr: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a register.
    unsafe {
        asm!("rdmsr", in("ecx") msr, out("eax") low, out("edx") high, options(nomem, nostack))
    };
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR, likewise.
///
/// # Safety
/// As for [`write_msr`].
pub unsafe fn write_existing_msr(msr: u32, value: u64) {
    // SAFETY: the caller's promise.
    unsafe {
        asm!("wrmsr", in("ecx") msr, in("eax") value as u32, in("edx") (value >> 32) as u32, options(nostack))
    };
}

/// Whether hypercalls are VMMCALL (AMD and its licensee) rather than VMCALL.
#[must_use]
pub fn uses_vmmcall() -> bool {
    [*b"AuthenticAMD", *b"HygonGenuine"].contains(&vendor(0))
}

/// The twelve characters that CPUID `leaf` spells: EBX, EDX, ECX for leaf 0, EBX, ECX, EDX for a hypervisor's.
#[must_use]
pub fn vendor(leaf: u32) -> [u8; 12] {
    let found = cpuid(leaf, 0);
    let words = if leaf == 0 {
        [found.ebx, found.edx, found.ecx]
    } else {
        [found.ebx, found.ecx, found.edx]
    };
    let mut text = [0; 12];
    for (four, word) in text.chunks_exact_mut(4).zip(words) {
        four.copy_from_slice(&word.to_le_bytes());
    }
    text
}

/// Hypercall `number`: RAX, arguments in RDI, RSI, RDX, result in RAX.
///
/// # Errors
/// The exception that it raised: #UD where no hypervisor is.
pub fn hypercall(number: u64, arguments: [u64; 3]) -> Result<u64, Trap> {
    let mut rax = number;
    let [rdi, rsi, rdx] = arguments;
    if uses_vmmcall() {
        // SAFETY: the hypercalls that exist write no memory of the guest.
        unsafe {
            attempt!("vmmcall", inout("rax") rax, in("rdi") rdi, in("rsi") rsi, in("rdx") rdx)
        }?;
    } else {
        // SAFETY: likewise.
        unsafe {
            attempt!("vmcall", inout("rax") rax, in("rdi") rdi, in("rsi") rsi, in("rdx") rdx)
        }?;
    }
    Ok(rax)
}

/// RDTSC, in order with the instructions before it.
#[must_use]
pub fn tsc() -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reads a counter.
    unsafe { asm!("lfence", "rdtsc", out("eax") low, out("edx") high, options(nomem, nostack)) };
    u64::from(high) << 32 | u64::from(low)
}

/// Opens interrupts for as long as it takes `ticks` of the TSC to pass.
pub fn listen(ticks: u64) {
    let end = tsc() + ticks;
    // SAFETY: the IDT is loaded; handlers return to where they were called.
    unsafe { asm!("sti", options(nostack)) };
    while tsc() < end {
        core::hint::spin_loop();
    }
    // SAFETY: as before.
    unsafe { asm!("cli", options(nostack)) };
}

/// Halts until an interrupt has been served; interrupts are off before and after.
pub fn halt() {
    // SAFETY: as in `listen`. STI holds interrupts back for one instruction, so none is lost before HLT.
    unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
}

/// Whether the CPU has XSAVE and AVX.
#[must_use]
pub fn has_avx() -> bool {
    const XSAVE: u32 = 1 << 26;
    const AVX: u32 = 1 << 28;
    cpuid(1, 0).ecx & (XSAVE | AVX) == XSAVE | AVX
}

/// CR0.MP, CR0.NE, CR4.OSFXSR and OSXMMEXCPT; with AVX also CR4.OSXSAVE and XCR0 = x87, SSE, AVX.
pub fn enable_vector_registers() {
    let (cr0, cr4): (u64, u64);
    // SAFETY: reads registers.
    unsafe {
        asm!("mov {}, cr0", "mov {}, cr4", out(reg) cr0, out(reg) cr4, options(nomem, nostack))
    };
    let cr0 = cr0 & !0b1100 | 0b10_0010;
    let cr4 = cr4 | 0b110_0000_0000 | u64::from(has_avx()) << 18;
    // SAFETY: only adds the right to use the registers; compiled code uses none of them.
    unsafe {
        asm!("mov cr0, {}", "mov cr4, {}", "fninit", in(reg) cr0, in(reg) cr4, options(nostack));
        if has_avx() {
            asm!("xsetbv", in("ecx") 0, in("eax") 0b111, in("edx") 0, options(nostack));
        }
    }
}

/// Reads a control or debug register by its name.
#[macro_export]
macro_rules! read_register {
    ($name:literal) => {{
        let value: u64;
        // SAFETY: reads a register at privilege level 0.
        unsafe { ::core::arch::asm!(concat!("mov {}, ", $name), out(reg) value, options(nomem, nostack)) };
        value
    }};
}

/// Writes a control or debug register by its name; gives the exception, if any. To be called where the value is one under
/// which the program goes on.
#[macro_export]
macro_rules! write_register {
    ($name:literal, $value:expr) => {
        $crate::attempt!(concat!("mov ", $name, ", {value}"), value = in(reg) $value)
    };
}
