//! MSRs: those that a 64-bit kernel uses keep what is written, in the CPU as in the hypervisor; wrong values and unknown
//! registers raise #GP(0); MTRRs are absent in the way that says "everything is write-back".

use core::arch::asm;

use guests::{
    apic, check, cpu,
    trap::{GP, Trap},
};

const EFER: u32 = 0xc000_0080;
const STAR: u32 = 0xc000_0081;
const LSTAR: u32 = 0xc000_0082;
const CSTAR: u32 = 0xc000_0083;
const SFMASK: u32 = 0xc000_0084;
pub(crate) const FS_BASE: u32 = 0xc000_0100;
pub(crate) const GS_BASE: u32 = 0xc000_0101;
const KERNEL_GS_BASE: u32 = 0xc000_0102;
const TSC_AUX: u32 = 0xc000_0103;
const SYSENTER_CS: u32 = 0x174;
const SYSENTER_ESP: u32 = 0x175;
const SYSENTER_EIP: u32 = 0x176;
const PAT: u32 = 0x277;
const MTRR_CAP: u32 = 0xfe;
const MTRR_DEF_TYPE: u32 = 0x2ff;
const MTRR_FIX_64K: u32 = 0x250;
const MTRR_PHYSICAL_BASE_0: u32 = 0x200;
const MISC_ENABLE: u32 = 0x1a0;
const MICROCODE: u32 = 0x8b;
const MCG_CAP: u32 = 0x179;
const TSC: u32 = 0x10;
const SPEC_CTRL: u32 = 0x48;
const PRED_CMD: u32 = 0x49;
const FLUSH_CMD: u32 = 0x10b;
const VIRT_SPEC_CTRL: u32 = 0xc001_011f;
const XSS: u32 = 0xda0;

const FAULT: Trap = Trap { vector: GP, error: 0 };

pub(crate) fn run() {
    registers_keep_values();
    efer();
    pat();
    memory_types();
    wrong_values_fault();
    fixed_registers();
    speculation();
    no_supervisor_states();
    time_stamp_counter();
    upper_halves();
    segment_bases_work();
    rdtscp();
}

/// # Safety
/// As for [`cpu::write_msr`].
unsafe fn write(msr: u32, value: u64) -> Result<(), Trap> {
    // SAFETY: the caller's promise.
    unsafe { cpu::write_msr(msr, value) }
}

fn registers_keep_values() {
    let registers = [
        ("star", STAR, 0x0023_0010_1234_5678),
        ("lstar", LSTAR, 0xffff_8000_1234_5678),
        ("cstar", CSTAR, 0x0000_7fff_ffff_f000),
        ("sfmask", SFMASK, 0x4_7700),
        ("sysenter-cs", SYSENTER_CS, 0x10),
        ("sysenter-esp", SYSENTER_ESP, 0xffff_ffff_8000_0000),
        ("sysenter-eip", SYSENTER_EIP, 0x1234_5678_9abc),
        ("kernel-gs-base", KERNEL_GS_BASE, 0xffff_8765_4321_0000),
        ("fs-base", FS_BASE, 0x1234_5678),
        ("gs-base", GS_BASE, 0xffff_ffff_ffff_0000),
        ("tsc-aux", TSC_AUX, 0xdead_beef),
    ];
    for (name, msr, value) in registers {
        let old = cpu::read_msr(msr);
        // SAFETY: none of these is in use by the guest's own code.
        let written = unsafe { write(msr, value) };
        let read = cpu::read_msr(msr);
        check!(
            format_args!("msr-{name}-keeps-its-value"),
            old.is_ok() && written.is_ok() && read == Ok(value),
            "before {old:x?}, write {written:x?}, read {read:x?}"
        );
        // SAFETY: as before.
        let _ = unsafe { write(msr, old.unwrap_or(0)) };
    }
}

fn efer() {
    const SCE: u64 = 1;
    const LME_LMA: u64 = 0x500;
    let old = cpu::read_msr(EFER).unwrap_or(0);
    check!("msr-efer-long-mode", old & LME_LMA == LME_LMA && old & !0xd01 == 0, "{old:#x}");
    for value in [old ^ SCE, old] {
        // SAFETY: SYSCALL is not used yet.
        let written = unsafe { write(EFER, value) };
        let read = cpu::read_msr(EFER);
        check!(
            if value == old { "msr-efer-sce-back" } else { "msr-efer-sce-toggles" },
            written.is_ok() && read == Ok(value),
            "{written:x?} {read:x?}"
        );
    }
    // SAFETY: refused: reserved bits, and leaving long mode while paging is on.
    let refused = unsafe { [write(EFER, old | 1 << 40), write(EFER, old & !0x100)] };
    check!("msr-efer-refuses", refused == [Err(FAULT); 2], "{refused:x?}");
    let read = cpu::read_msr(EFER);
    check!("msr-efer-kept-when-refused", read == Ok(old), "{read:x?}");
}

fn pat() {
    const RESET: u64 = 0x0007_0406_0007_0406;
    let old = cpu::read_msr(PAT);
    check!("pat-as-after-reset", old == Ok(RESET), "{old:x?}");
    // Linux's: write-combining in slot 1, write-protect in 5.
    const LINUX: u64 = 0x0407_0506_0007_0106;
    // SAFETY: entry 0, the only one that the page tables name but for devices, stays write-back.
    let written = unsafe { write(PAT, LINUX) };
    let read = cpu::read_msr(PAT);
    check!("pat-keeps-its-value", written.is_ok() && read == Ok(LINUX), "{written:x?} {read:x?}");
    // SAFETY: as before.
    let _ = unsafe { write(PAT, RESET) };
}

/// No MTRR in CPUID; the registers that kernels read all the same say: no ranges, write-back everywhere.
fn memory_types() {
    let edx = cpu::cpuid(1, 0).edx;
    check!("mtrr-not-in-cpuid", edx & 1 << 12 == 0, "{edx:#x}");
    let cap = cpu::read_msr(MTRR_CAP);
    check!("mtrr-cap-has-no-ranges", cap == Ok(0), "{cap:x?}");
    let default = cpu::read_msr(MTRR_DEF_TYPE);
    check!("mtrr-default-is-write-back", default == Ok(0x806), "{default:x?}");
    let ranges = [MTRR_FIX_64K, MTRR_PHYSICAL_BASE_0].map(cpu::read_msr);
    check!("mtrr-ranges-fault", ranges == [Err(FAULT); 2], "{ranges:x?}");
}

/// Only of registers that the hypervisor keeps: QEMU 11.1 lets a guest write what is not canonical, or no memory type, into
/// those that pass by it, and Bochs 3.0 bits 63:32 of TSC_AUX.
fn wrong_values_fault() {
    // SAFETY: refused: a reserved bit; x2APIC mode of an APIC that is off.
    let refused =
        unsafe { [0xfee0_0902, 0xfee0_0500].map(|value| write(apic::APIC_BASE_MSR, value)) };
    check!("msr-reserved-bits-gp", refused == [Err(FAULT); 2], "{refused:x?}");
    let x2apic = [0x802, 0x803, 0x808, 0x830, 0x83f].map(cpu::read_msr);
    check!("msr-x2apic-gp-in-xapic-mode", x2apic == [Err(FAULT); 5], "{x2apic:x?}");
    // VMX and SVM are not offered, nor is what belongs to them.
    let nested = [0x480, 0x48f, 0xc001_0114, 0xc001_0117].map(cpu::read_msr);
    check!("msr-no-nesting", nested == [Err(FAULT); 4], "{nested:x?}");
}

fn fixed_registers() {
    let misc = cpu::read_msr(MISC_ENABLE);
    check!("msr-misc-enable", misc.is_ok_and(|misc| misc & 1 != 0), "{misc:x?}");
    let microcode = cpu::read_msr(MICROCODE);
    check!("msr-microcode", microcode.is_ok(), "{microcode:x?}");
    let banks = cpu::read_msr(MCG_CAP);
    check!("msr-no-machine-check-banks", banks.is_ok_and(|banks| banks & 0xff == 0), "{banks:x?}");
}

/// Registers that hold speculation back are there if and only if CPUID says so, and then keep what it offers.
fn speculation() {
    let leaf_7 = cpu::cpuid(7, 0).edx;
    let has_widths = cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0008;
    let amd = if has_widths { cpu::cpuid(0x8000_0008, 0).ebx } else { 0 };
    // IBRS, STIBP, SSBD.
    let bits = [(26, 14), (27, 15), (31, 24)];
    let has = |bit: usize| leaf_7 & 1 << bits[bit].0 != 0 || amd & 1 << bits[bit].1 != 0;
    let offered = (0..3).filter(|&bit| has(bit)).fold(0, |all, bit| all | 1 << bit);
    let registers = [
        ("msr-spec-ctrl-as-cpuid-says", SPEC_CTRL, offered),
        ("msr-virt-spec-ctrl-as-cpuid-says", VIRT_SPEC_CTRL, u64::from(amd >> 25 & 1) << 2),
    ];
    for (name, msr, bits) in registers {
        let old = cpu::read_msr(msr);
        // SAFETY: slows down at the most.
        let written = [bits, 0].map(|value| unsafe { (write(msr, value), cpu::read_msr(msr)) });
        let expected = match bits {
            0 => [(Err(FAULT), Err(FAULT)); 2],
            _ => [(Ok(()), Ok(bits)), (Ok(()), Ok(0))],
        };
        let starts = if bits == 0 { Err(FAULT) } else { Ok(0) };
        check!(name, old == starts && written == expected, "{bits:#x}: {old:x?} {written:x?}");
    }
    let commands = [
        ("msr-pred-cmd-as-cpuid-says", PRED_CMD, leaf_7 & 1 << 26 != 0 || amd & 1 << 12 != 0),
        ("msr-flush-cmd-as-cpuid-says", FLUSH_CMD, leaf_7 & 1 << 28 != 0),
    ];
    for (name, msr, exists) in commands {
        // SAFETY: drops what the CPU has cached.
        let given = unsafe { write(msr, 1) };
        let read = cpu::read_msr(msr);
        let expected = if exists { Ok(()) } else { Err(FAULT) };
        check!(name, given == expected && read == Err(FAULT), "{given:x?} {read:x?}");
    }
}

/// Neither XSAVES nor the register that would say what it saves.
fn no_supervisor_states() {
    let eax = cpu::cpuid(0xd, 1).eax;
    let read = cpu::read_msr(XSS);
    // SAFETY: refused.
    let written = [0, 1 << 8, 1 << 11].map(|value| unsafe { write(XSS, value) });
    check!(
        "msr-no-xss",
        eax & 1 << 3 == 0 && read == Err(FAULT) && written == [Err(FAULT); 3],
        "{eax:#x} {read:x?} {written:x?}"
    );
}

fn time_stamp_counter() {
    let before = cpu::tsc();
    let read = cpu::read_msr(TSC).unwrap_or(0);
    let after = cpu::tsc();
    check!("msr-tsc-is-rdtsc", before <= read && read <= after, "{before} {read} {after}");
}

/// RDMSR clears the upper halves of RAX and RDX.
fn upper_halves() {
    let (rax, rdx): (u64, u64);
    // SAFETY: reads a register that exists.
    unsafe {
        asm!("rdmsr", in("ecx") PAT, inout("rax") u64::MAX => rax, inout("rdx") u64::MAX => rdx, options(nostack));
    }
    check!("msr-rdmsr-clears-upper-halves", (rax | rdx) >> 32 == 0, "{rax:#x} {rdx:#x}");
    let (rax, rdx): (u64, u64);
    // SAFETY: likewise; this one the hypervisor answers.
    unsafe {
        asm!("rdmsr", in("ecx") apic::APIC_BASE_MSR, inout("rax") u64::MAX => rax,
            inout("rdx") u64::MAX => rdx, options(nostack));
    }
    check!("msr-rdmsr-exit-clears-upper-halves", (rax | rdx) >> 32 == 0, "{rax:#x} {rdx:#x}");
}

fn segment_bases_work() {
    let words = [0x1111_u64, 0x2222, 0x3333, 0x4444];
    let (fs, gs): (u64, u64);
    // SAFETY: FS and GS are not in use; afterwards their bases are 0 again.
    unsafe {
        let _ = write(FS_BASE, words.as_ptr().addr() as u64);
        let _ = write(GS_BASE, words.as_ptr().addr() as u64 + 16);
        let _ = cpu::cpuid(0, 0);
        asm!("mov {}, fs:[8]", "mov {}, gs:[8]", out(reg) fs, out(reg) gs, options(readonly, nostack));
        asm!("swapgs", options(nostack));
    }
    check!("msr-segment-bases-work", [fs, gs] == [0x2222, 0x4444], "{fs:#x} {gs:#x}");
    let swapped = [cpu::read_msr(GS_BASE), cpu::read_msr(KERNEL_GS_BASE)];
    let expected = [Ok(0), Ok(words.as_ptr().addr() as u64 + 16)];
    check!("msr-swapgs", swapped == expected, "{swapped:x?}");
    // SAFETY: as before.
    unsafe {
        let _ = write(FS_BASE, 0);
        let _ = write(KERNEL_GS_BASE, 0);
        let _ = write(GS_BASE, 0);
    }
}

fn rdtscp() {
    if cpu::cpuid(0x8000_0001, 0).edx & 1 << 27 == 0 {
        return check!("msr-rdtscp-shows-tsc-aux", false, "RDTSCP is not offered");
    }
    let aux: u32;
    // SAFETY: nobody else uses TSC_AUX.
    unsafe {
        let _ = write(TSC_AUX, 0x0bad_cafe);
        let _ = cpu::cpuid(0, 0);
        asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux, options(nomem, nostack));
        let _ = write(TSC_AUX, 0);
    }
    check!("msr-rdtscp-shows-tsc-aux", aux == 0x0bad_cafe, "{aux:#x}");
}
