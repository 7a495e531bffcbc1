//! The FPU: XCR0, #NM, and registers that stay through exits, halts and interrupts. (YMM through exits is the `hello`
//! guest's.)

use core::arch::asm;

use guests::{
    apic, attempt, check, cpu, read_register,
    trap::{GP, NM, Trap, UD, on_interrupt},
    write_register,
};

const TS: u64 = 1 << 3;
const TIMER: u8 = 0x42;
const INTERVAL: u64 = 100_000;

pub(crate) fn run() {
    wrong_xcr0_faults();
    task_switched_raises_nm();
    avx_needs_xcr0();
    x87_stack_survives();
    ymm_survives_halts();
    xsave_image_is_whole();
}

fn wrong_xcr0_faults() {
    let fault = Err(Trap { vector: GP, error: 0 });
    for (name, value) in [
        ("0", 0_u64),
        ("without-x87", 0b10),
        ("avx-without-sse", 0b101),
        ("unknown", 1 << 62 | 0b11),
    ] {
        // SAFETY: refused.
        let refused = unsafe {
            attempt!("xsetbv", in("ecx") 0, in("eax") value as u32, in("edx") (value >> 32) as u32)
        };
        check!(format_args!("xsetbv-refuses-{name}"), refused == fault, "{refused:x?}");
    }
    // SAFETY: refused: there is no XCR1.
    let refused = unsafe { attempt!("xsetbv", in("ecx") 1, in("eax") 0b111, in("edx") 0) };
    check!("xsetbv-refuses-xcr1", refused == fault, "{refused:x?}");
    let xcr0: u32;
    // SAFETY: reads a register.
    unsafe { asm!("xgetbv", in("ecx") 0, out("eax") xcr0, out("edx") _, options(nomem, nostack)) };
    check!("xgetbv-reads-xcr0", xcr0 == 0b111, "{xcr0:#x}");
}

fn task_switched_raises_nm() {
    let cr0 = read_register!("cr0");
    // SAFETY: TS is clear again at the end; XMM0 is nobody's.
    let (sse, x87, kept, after) = unsafe {
        let _ = write_register!("cr0", cr0 | TS);
        let _ = cpu::cpuid(0, 0);
        let kept = read_register!("cr0") & TS != 0;
        let sse = attempt!("pxor xmm0, xmm0");
        let x87 = attempt!("fnop");
        asm!("clts", options(nomem, nostack));
        (sse, x87, kept, attempt!("pxor xmm0, xmm0"))
    };
    let fault = Err(Trap { vector: NM, error: 0 });
    check!("ts-kept-across-exits", kept);
    check!("ts-raises-nm", (sse, x87) == (fault, fault), "{sse:x?} {x87:x?}");
    check!("clts-ends-nm", after.is_ok(), "{after:x?}");
}

fn avx_needs_xcr0() {
    // SAFETY: YMM0 is nobody's; XCR0 is whole again at the end.
    let (without, with) = unsafe {
        asm!("xsetbv", in("ecx") 0, in("eax") 0b011, in("edx") 0, options(nomem, nostack));
        let without = attempt!("vpxor ymm0, ymm0, ymm0");
        asm!("xsetbv", in("ecx") 0, in("eax") 0b111, in("edx") 0, options(nomem, nostack));
        (without, attempt!("vxorps ymm0, ymm0, ymm0"))
    };
    check!("avx-ud-without-xcr0", without == Err(Trap { vector: UD, error: 0 }), "{without:x?}");
    check!("avx-runs-with-xcr0", with.is_ok(), "{with:x?}");
}

fn x87_stack_survives() {
    let mut found = [0_u64; 8];
    // SAFETY: compiled code has no x87 registers.
    unsafe {
        asm!(
            "fninit",
            "fld1",
            "fldpi",
            "fldl2e",
            "fldz",
            "fldlg2",
            "fldln2",
            "fldl2t",
            options(nostack)
        );
        for _ in 0..20 {
            let _ = cpu::cpuid(0, 0);
            let _ = cpu::in8(crate::port::SCRATCH);
            let _ = cpu::read_msr(apic::APIC_BASE_MSR);
        }
        for cell in &mut found[..7] {
            asm!("fstp qword ptr [{}]", in(reg) cell, options(nostack));
        }
        asm!("fninit", options(nostack));
    }
    let expected = [
        core::f64::consts::LOG2_10,
        core::f64::consts::LN_2,
        core::f64::consts::LOG10_2,
        0.0,
        core::f64::consts::LOG2_E,
        core::f64::consts::PI,
        1.0,
        0.0,
    ];
    check!("x87-stack-kept-across-exits", found == expected.map(f64::to_bits), "{found:x?}");
}

/// While the CPU waits in HLT, its registers may be anyone's: they must be this guest's again afterwards.
fn ymm_survives_halts() {
    on_interrupt(TIMER, || {});
    apic::use_tsc_deadline(TIMER);
    let (low, high) = ([0x1111_u64, 0x2222, 0x3333, 0x4444], [0x5555_u64, 0x6666, 0x7777, 0x8888]);
    let (mut low_found, mut high_found) = ([0_u64; 4], [0_u64; 4]);
    // SAFETY: compiled code has no vector registers, nor do the handlers.
    unsafe {
        asm!("vmovdqu ymm0, [{}]", "vmovdqu ymm15, [{}]", in(reg) &low, in(reg) &high, options(nostack));
        for _ in 0..20 {
            let _ = apic::set_deadline(cpu::tsc() + INTERVAL);
            cpu::halt();
        }
        asm!("vmovdqu [{}], ymm0", "vmovdqu [{}], ymm15", in(reg) &mut low_found, in(reg) &mut high_found, options(nostack));
    }
    check!(
        "ymm-kept-across-halts",
        (low_found, high_found) == (low, high),
        "{low_found:x?} {high_found:x?}"
    );
    let _ = apic::set_deadline(0);
}

/// XSAVE writes what was loaded, and XRSTOR brings it back, with exits between.
fn xsave_image_is_whole() {
    #[repr(C, align(64))]
    struct Area([u64; 128]);
    let mut area = Area([0; 128]);
    let pattern = [0xaaaa_u64, 0xbbbb, 0xcccc, 0xdddd];
    let mut found = [0_u64; 4];
    // SAFETY: the area holds 832 bytes and more; YMM3 is nobody's.
    unsafe {
        asm!("vmovdqu ymm3, [{}]", in(reg) &pattern, options(nostack));
        let _ = cpu::cpuid(0, 0);
        asm!("xsave [{}]", in(reg) &mut area, in("eax") 0b111, in("edx") 0, options(nostack));
        asm!("vpxor xmm3, xmm3, xmm3", options(nostack));
        let _ = cpu::cpuid(0, 0);
        asm!("xrstor [{}]", in(reg) &area, in("eax") 0b111, in("edx") 0, options(nostack));
        let _ = cpu::cpuid(0, 0);
        asm!("vmovdqu [{}], ymm3", in(reg) &mut found, options(nostack));
    }
    let in_use = area.0[64] & 0b110;
    check!("xsave-knows-what-is-in-use", in_use == 0b110, "{in_use:#x}");
    check!("xrstor-brings-it-back", found == pattern, "{found:x?}");
}
