//! CPUID: what Kerf's policy says of any host, and that what is not shown is not there.

use core::arch::asm;

use guests::{
    attempt, check,
    cpu::{self, cpuid},
    read_register,
    trap::{GP, Trap, UD},
    write_register,
};

const OSXSAVE: u64 = 1 << 18;

const INVALID: Result<(), Trap> = Err(Trap { vector: UD, error: 0 });
const PROTECTED: Result<(), Trap> = Err(Trap { vector: GP, error: 0 });

pub(crate) fn run() {
    leaves();
    hidden_features();
    hidden_instructions();
    mirrored_bits();
    topology();
    xsave_sizes();
    registers();
}

fn leaves() {
    let max = cpuid(0, 0).eax;
    check!("cpuid-basic-leaves", (0xd..=0x20).contains(&max), "{max:#x}");
    let extended = cpuid(0x8000_0000, 0).eax;
    check!(
        "cpuid-extended-leaves",
        (0x8000_0008..0x8000_0030).contains(&extended),
        "{extended:#x}"
    );
    let hypervisor = cpuid(0x4000_0000, 0).eax;
    check!("cpuid-hypervisor-leaves", hypervisor == 0x4000_0010, "{hypervisor:#x}");
    let khz = cpuid(0x4000_0010, 0).eax;
    check!("cpuid-tsc-frequency", (10_000..100_000_000).contains(&khz), "{khz}");
    let widths = cpuid(0x8000_0008, 0).eax;
    let (physical, linear) = (widths & 0xff, widths >> 8 & 0xff);
    check!("cpuid-address-widths", (36..=52).contains(&physical) && linear == 48, "{widths:#x}");
    for leaf in [0x4000_00ff, 0x5000_0000, 0x7fff_ffff] {
        let nothing = cpuid(leaf, 0);
        let is_empty = nothing == cpu::Cpuid { eax: 0, ebx: 0, ecx: 0, edx: 0 };
        check!("cpuid-unknown-leaves-are-empty", is_empty, "{leaf:#x}: {nothing:x?}");
    }
    let power = cpuid(0x8000_0007, 0).edx;
    check!("cpuid-invariant-tsc", power & 1 << 8 != 0, "{power:#x}");
}

fn hidden_features() {
    let (ecx, edx) = (cpuid(1, 0).ecx, cpuid(1, 0).edx);
    for (name, bit) in [("monitor", 3), ("vmx", 5), ("smx", 6), ("pdcm", 15)] {
        check!(format_args!("cpuid-hides-{name}"), ecx & 1 << bit == 0, "{ecx:#x}");
    }
    for (name, bit) in
        [("fpu", 0), ("tsc", 4), ("msr", 5), ("pae", 6), ("apic", 9), ("pat", 16), ("sse2", 26)]
    {
        check!(format_args!("cpuid-shows-{name}"), edx & 1 << bit != 0, "{edx:#x}");
    }
    for (name, bit) in [("x2apic", 21), ("tsc-deadline", 24), ("xsave", 26), ("avx", 28)] {
        check!(format_args!("cpuid-shows-{name}"), ecx & 1 << bit != 0, "{ecx:#x}");
    }
    let ecx = cpuid(0x8000_0001, 0).ecx;
    check!("cpuid-hides-svm", ecx & 1 << 2 == 0, "{ecx:#x}");
    let svm = cpuid(0x8000_000a, 0);
    check!("cpuid-svm-leaf-is-empty", svm.eax | svm.ebx | svm.edx == 0, "{svm:x?}");
    let edx = cpuid(0x8000_0001, 0).edx;
    for (name, bit) in [("syscall", 11), ("nx", 20), ("rdtscp", 27), ("long-mode", 29)] {
        check!(format_args!("cpuid-shows-{name}"), edx & 1 << bit != 0, "{edx:#x}");
    }
}

/// What is hidden is refused, too.
fn hidden_instructions() {
    let operand = 0_u64;
    // SAFETY: each raises an exception.
    unsafe {
        let vmxon = attempt!("vmxon [{operand}]", operand = in(reg) &operand);
        check!("hidden-vmxon-ud", vmxon == INVALID, "{vmxon:x?}");
        let vmread = attempt!("vmread rax, rax", out("rax") _);
        check!("hidden-vmread-ud", vmread == INVALID, "{vmread:x?}");
        let vmptrld = attempt!("vmptrld [{operand}]", operand = in(reg) &operand);
        check!("hidden-vmptrld-ud", vmptrld == INVALID, "{vmptrld:x?}");
        let vmrun = attempt!("vmrun rax", in("rax") 0);
        check!("hidden-vmrun-ud", vmrun == INVALID, "{vmrun:x?}");
        let clgi = attempt!("clgi");
        check!("hidden-clgi-ud", clgi == INVALID, "{clgi:x?}");
        let stgi = attempt!("stgi");
        check!("hidden-stgi-ud", stgi == INVALID, "{stgi:x?}");
        let monitor = attempt!("monitor", in("rax") &operand, in("ecx") 0, in("edx") 0);
        check!("hidden-monitor-ud", monitor == INVALID, "{monitor:x?}");
        let mwait = attempt!("mwait", in("eax") 0, in("ecx") 0);
        check!("hidden-mwait-ud", mwait == INVALID, "{mwait:x?}");
        let rdpmc = attempt!("rdpmc", in("ecx") 0x7fff, out("eax") _, out("edx") _);
        check!("hidden-rdpmc-gp", rdpmc == PROTECTED, "{rdpmc:x?}");
    }
}

/// OSXSAVE shows CR4's bit at once; XGETBV and XSETBV go by it.
fn mirrored_bits() {
    const BIT: u32 = 1 << 27;
    let cr4 = read_register!("cr4");
    let on = cpuid(1, 0).ecx & BIT != 0;
    // SAFETY: nobody uses AVX here.
    let (off, xgetbv, xsetbv) = unsafe {
        let _ = write_register!("cr4", cr4 & !OSXSAVE);
        let off = cpuid(1, 0).ecx & BIT == 0;
        let xgetbv = attempt!("xgetbv", in("ecx") 0, out("eax") _, out("edx") _);
        let xsetbv = attempt!("xsetbv", in("ecx") 0, in("eax") 0b111, in("edx") 0);
        let _ = write_register!("cr4", cr4);
        (off, xgetbv, xsetbv)
    };
    check!("cpuid-osxsave-mirrors-cr4", on && off, "{on} {off}");
    check!("cpuid-xgetbv-ud-without-osxsave", xgetbv == INVALID, "{xgetbv:x?}");
    check!("cpuid-xsetbv-ud-without-osxsave", xsetbv == INVALID, "{xsetbv:x?}");
}

fn topology() {
    let id = guests::apic::id();
    let initial = cpuid(1, 0).ebx >> 24;
    check!("cpuid-initial-apic-id", initial == id, "{initial} {id}");
    let level = cpuid(0xb, 0);
    check!("cpuid-x2apic-id", level.edx == id && level.ecx >> 8 & 0xff == 1, "{level:x?}");
}

/// Leaf 0xd: EBX is the size for XCR0 as it is, ECX for all that could be set.
fn xsave_sizes() {
    let [small, large] = [0b11, 0b111].map(|xcr0| {
        // SAFETY: nobody keeps vector state here.
        unsafe {
            asm!("xsetbv", in("ecx") 0, in("eax") xcr0, in("edx") 0, options(nomem, nostack))
        };
        cpuid(0xd, 0)
    });
    check!("cpuid-xsave-size-without-avx", small.ebx == 576, "{small:x?}");
    check!("cpuid-xsave-size-with-avx", large.ebx == 832, "{large:x?}");
    check!("cpuid-xsave-size-at-most", small.ecx == large.ecx && large.ecx >= 832, "{large:x?}");
    let avx = cpuid(0xd, 2);
    check!("cpuid-xsave-avx-place", (avx.eax, avx.ebx) == (256, 576), "{avx:x?}");
}

/// All four registers are written whole; no flag changes.
fn registers() {
    const ARITHMETIC: u64 = 0x8d5;
    let (rax, rcx, rdx, rbx, flags): (u64, u64, u64, u64, u64);
    // SAFETY: RBX, which belongs to the compiler, is put back.
    unsafe {
        asm!("mov r8, rbx", "mov rbx, -1", "push r9", "popfq", "cpuid", "pushfq", "pop r9",
            "xchg r8, rbx", inout("r9") ARITHMETIC | 2 => flags, inout("rax") !0xffff_ffff_u64 => rax,
            inout("rcx") !0xffff_ffff_u64 => rcx, inout("rdx") u64::MAX => rdx, out("r8") rbx);
    }
    check!(
        "cpuid-clears-upper-halves",
        (rax | rbx | rcx | rdx) >> 32 == 0,
        "{rax:x} {rbx:x} {rcx:x} {rdx:x}"
    );
    check!("cpuid-keeps-flags", flags & ARITHMETIC == ARITHMETIC, "{flags:#x}");
}
