//! The first guest: the machine answers as Kerf says it does. Identification, hypercalls, what is not there, and vector
//! registers that survive exits.

#![no_std]
#![no_main]

use core::arch::asm;

use guests::{
    boot_params, check,
    cpu::{self, cpuid},
    nowhere, println,
    trap::{GP, Trap, UD},
};

guests::guest!("hello", run);

fn run() {
    println!("hello from a guest");
    zero_page_is_filled_in();
    exceptions_are_caught();
    hypervisor_names_itself();
    hypercalls_answer();
    unknown_msrs_fault();
    unknown_ports_read_all_ones();
    unmapped_memory_reads_all_ones();
    vector_registers_survive_exits();
}

/// Documentation/arch/x86/zero-page.rst.
fn zero_page_is_filled_in() {
    let page = boot_params();
    check!("zero-page-has-setup-header", &page[0x202..0x206] == b"HdrS");
    check!("zero-page-names-a-loader", page[0x210] != 0, "type_of_loader 0");
    check!("zero-page-has-memory-map", page[0x1e8] > 0, "no E820 entries");
}

fn exceptions_are_caught() {
    // SAFETY: UD2 does nothing but raise #UD, which comes back as an error.
    let trap = unsafe { guests::attempt!("ud2") };
    check!("ud2-raises-ud", trap == Err(Trap { vector: UD, error: 0 }), "{trap:?}");
}

fn hypervisor_names_itself() {
    const HYPERVISOR: u32 = 1 << 31;
    check!("cpuid-hypervisor-bit", cpuid(1, 0).ecx & HYPERVISOR != 0);
    let signature = cpu::vendor(0x4000_0000);
    check!("cpuid-signature", signature == *b"KerfKerfKerf", "{}", signature.escape_ascii());
}

fn hypercalls_answer() {
    let version = cpu::hypercall(0, [0; 3]);
    check!(
        "hypercall-version",
        version.is_ok_and(|version| version != 0 && version != u64::MAX),
        "{version:x?}"
    );
    let unknown = cpu::hypercall(0x7fff_ffff_ffff_fff0, [1, 2, 3]);
    check!("hypercall-unknown", unknown == Ok(u64::MAX), "{unknown:x?}");
}

fn unknown_msrs_fault() {
    const FAULT: Trap = Trap { vector: GP, error: 0 };
    for msr in nowhere::MSRS {
        let read = cpu::read_msr(msr);
        check!("unknown-msr-read-gp", read == Err(FAULT), "{msr:#x}: {read:x?}");
        // SAFETY: nothing is behind the number.
        let write = unsafe { cpu::write_msr(msr, 1) };
        check!("unknown-msr-write-gp", write == Err(FAULT), "{msr:#x}: {write:x?}");
    }
}

fn unknown_ports_read_all_ones() {
    cpu::out8(nowhere::PORT, 0);
    cpu::out32(nowhere::PORT, 0);
    let read = cpu::in8(nowhere::PORT);
    check!("unknown-port-in8", read == u8::MAX, "{read:#x}");
    let read = cpu::in16(nowhere::PORT);
    check!("unknown-port-in16", read == u16::MAX, "{read:#x}");
    let read = cpu::in32(nowhere::PORT);
    check!("unknown-port-in32", read == u32::MAX, "{read:#x}");
}

fn unmapped_memory_reads_all_ones() {
    let page = nowhere::PAGE;
    let (byte, half, word, quad): (u64, u64, u64, u64);
    let (zero_extended, sign_extended): (u64, u64);
    // SAFETY: the page is mapped and nothing is behind it: writes go nowhere, reads give a value.
    unsafe {
        // Written first, so that a write that went somewhere would be read back.
        asm!(
            "mov byte ptr [{page} + 0x11], 0",
            "mov word ptr [{page} + 0x22], 0",
            "mov dword ptr [{page} + 0x44], 0",
            "mov qword ptr [{page} + 0x88], 0",
            page = in(reg) page,
            options(nostack)
        );
        // RAX is 0 before each: 8 and 16 bits leave the rest alone, 32 bits clear the upper half (SDM 1 3.4.1.1).
        asm!("xor eax, eax", "mov al, [{page} + 0x11]", page = in(reg) page, out("rax") byte, options(nostack));
        asm!("xor eax, eax", "mov ax, [{page} + 0x22]", page = in(reg) page, out("rax") half, options(nostack));
        asm!("mov rax, -1", "mov eax, [{page} + 0x44]", page = in(reg) page, out("rax") word, options(nostack));
        asm!("xor eax, eax", "mov rax, [{page} + 0x88]", page = in(reg) page, out("rax") quad, options(nostack));
        asm!("xor eax, eax", "movzx eax, byte ptr [{page}]", page = in(reg) page, out("rax") zero_extended, options(nostack));
        asm!("xor eax, eax", "movsx rax, word ptr [{page}]", page = in(reg) page, out("rax") sign_extended, options(nostack));
    }
    check!("unmapped-mov8", byte == 0xff, "{byte:#x}");
    check!("unmapped-mov16", half == 0xffff, "{half:#x}");
    check!("unmapped-mov32", word == 0xffff_ffff, "{word:#x}");
    check!("unmapped-mov64", quad == u64::MAX, "{quad:#x}");
    check!("unmapped-movzx", zero_extended == 0xff, "{zero_extended:#x}");
    check!("unmapped-movsx", sign_extended == u64::MAX, "{sign_extended:#x}");
}

/// Sixteen registers of 32 bytes, MXCSR and the x87 control word, loaded, carried across exits and compared.
fn vector_registers_survive_exits() {
    let pattern: [[u64; 4]; 16] = core::array::from_fn(|register| {
        core::array::from_fn(|quad| 0x1111_2222_3333_0000 * (quad as u64 + 1) + register as u64)
    });
    let mut found = [[0_u64; 4]; 16];
    // Round up, all masked; extended precision, round down, all masked: neither is what FNINIT and reset leave.
    let (mxcsr, control) = (0x5f80_u32, 0x077f_u16);
    let (mut mxcsr_found, mut control_found) = (0_u32, 0_u16);
    let avx = cpu::has_avx();
    // SAFETY: compiled code has no vector registers, so they are this function's. The exits in between print nothing.
    unsafe {
        asm!("ldmxcsr [{}]", "fldcw [{}]", in(reg) &mxcsr, in(reg) &control, options(nostack));
        load(&pattern, avx);
        for _ in 0..100 {
            let _ = cpuid(0, 0);
            let _ = cpu::in8(nowhere::PORT);
            let _ = cpu::hypercall(0, [0; 3]);
            let _ = cpu::read_msr(nowhere::MSRS[0]);
        }
        store(&mut found, avx);
        asm!("stmxcsr [{}]", "fnstcw [{}]", in(reg) &mut mxcsr_found, in(reg) &mut control_found, options(nostack));
    }
    let quads = if avx { 4 } else { 2 };
    let kept = pattern.iter().zip(&found).all(|(want, have)| want[..quads] == have[..quads]);
    check!(if avx { "ymm-kept-across-exits" } else { "xmm-kept-across-exits" }, kept, "{found:x?}");
    check!("mxcsr-kept-across-exits", mxcsr_found == mxcsr, "{mxcsr_found:#x}");
    check!("x87-control-kept-across-exits", control_found == control, "{control_found:#x}");
}

/// The instruction for each of 16 registers; `\\r` is the register's number, 32 bytes apart in memory.
macro_rules! for_each_register {
    ($instruction:literal, $base:expr) => {
        asm!(
            ".irp r, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
            $instruction,
            ".endr",
            base = in(reg) $base,
            options(nostack)
        )
    };
}

/// # Safety
/// Nobody else uses the vector registers.
unsafe fn load(pattern: &[[u64; 4]; 16], avx: bool) {
    // SAFETY: reads 16 times 32 bytes of `pattern`; the caller gives up the registers.
    unsafe {
        if avx {
            for_each_register!("vmovdqu ymm\\r, [{base} + 32 * \\r]", pattern);
        } else {
            for_each_register!("movdqu xmm\\r, [{base} + 32 * \\r]", pattern);
        }
    }
}

/// # Safety
/// `avx` is whether the CPU has it.
unsafe fn store(found: &mut [[u64; 4]; 16], avx: bool) {
    // SAFETY: writes 16 times 32 bytes, or half of each, of `found`.
    unsafe {
        if avx {
            for_each_register!("vmovdqu [{base} + 32 * \\r], ymm\\r", found);
        } else {
            for_each_register!("movdqu [{base} + 32 * \\r], xmm\\r", found);
        }
    }
}
