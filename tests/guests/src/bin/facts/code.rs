//! Instructions that exit where decoding them is hard: across two pages that are not neighbours in memory, and at an address
//! whose bytes change between one execution and the next.

use core::arch::asm;

use guests::{
    apic, attempt, check, cpu,
    paging::{self, Page, bit},
    trap::{PF, Trap},
};

use crate::{
    mmio::{COUNT, WINDOW},
    port::SCRATCH,
};

const VIEW: u64 = paging::FREE + 0x20_0000;
/// The view's first page is the second frame.
static FRAMES: [Page; 2] = [const { Page::new() }; 2];

const RET: u8 = 0xc3;

/// RAX, RCX and RDX.
type Registers = [u64; 3];

struct Sample {
    name: &'static str,
    bytes: &'static [u8],
    before: Registers,
}

const SAMPLES: &[Sample] = &[
    Sample { name: "cpuid", bytes: &[0x0f, 0xa2], before: [0x4000_0000, 0, 0] },
    Sample { name: "rdmsr", bytes: &[0x0f, 0x32], before: [0, apic::APIC_BASE_MSR as u64, 0] },
    Sample { name: "wrmsr", bytes: &[0x0f, 0x30], before: [0, apic::TSC_DEADLINE_MSR as u64, 0] },
    Sample { name: "in-imm8", bytes: &[0xe4, 0x71], before: [0, 0, 0] },
    Sample { name: "out-ax", bytes: &[0x66, 0xef], before: [0, 0, SCRATCH as u64] },
    Sample { name: "in-eax-prefixed", bytes: &[0x3e, 0x48, 0xed], before: [0, 0, 0xcf8] },
    Sample { name: "mov-cr8", bytes: &[0x44, 0x0f, 0x20, 0xc0], before: [0, 0, 0] },
    Sample { name: "xsetbv", bytes: &[0x0f, 0x01, 0xd1], before: [0b111, 0, 0] },
    // mov eax, [rdi + disp32]; mov dword [rdi + disp8], imm32; lock or with imm32; movzx.
    Sample { name: "mmio-load", bytes: &[0x8b, 0x87, 0, 0, 0, 0], before: [0, 0, 0] },
    Sample {
        name: "mmio-store",
        bytes: &[0xc7, 0x47, 0x00, 0x78, 0x56, 0x01, 0x00],
        before: [0, 0, 0],
    },
    Sample {
        name: "mmio-lock-or",
        bytes: &[0xf0, 0x81, 0x0f, 0x01, 0x00, 0x00, 0x00],
        before: [0, 0, 0],
    },
    Sample { name: "mmio-movzx", bytes: &[0x0f, 0xb7, 0x44, 0x27, 0x00], before: [0, 0, 0] },
];

/// Calls the code at `at` with registers, RDI being the window of the I/O APIC.
fn call(at: u64, [mut rax, mut rcx, mut rdx]: Registers) -> Registers {
    // SAFETY: the code there is one of the samples and a RET.
    unsafe {
        asm!("mov r12, rbx", "call {at}", "mov rbx, r12", at = in(reg) at, in("rdi") WINDOW, out("r12") _,
            inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx);
    }
    [rax, rcx, rdx]
}

/// Puts code at an offset into the view.
fn place(offset: usize, bytes: &[u8]) {
    for (at, byte) in (offset..).zip(bytes) {
        FRAMES[usize::from(at < 4096)].put(at % 4096, &[*byte]);
    }
}

pub(crate) fn run() {
    paging::map(VIEW, FRAMES[1].gpa(), bit::PRESENT | bit::WRITABLE);
    paging::map(VIEW + 4096, FRAMES[0].gpa(), bit::PRESENT | bit::WRITABLE);
    apic::write_io_apic(0x10 + 2 * 23, apic::MASKED | 0x2233);
    crossing();
    into_an_absent_page();
    changing();
    changing_ahead();
}

fn crossing() {
    cpu::out8(0x70, 0x40);
    for sample in SAMPLES {
        let mut code = [0; 16];
        code[..sample.bytes.len()].copy_from_slice(sample.bytes);
        code[sample.bytes.len()] = RET;
        let code = &code[..=sample.bytes.len()];
        place(0x100, code);
        let expected = call(VIEW + 0x100, sample.before);
        let mut wrong = 0;
        for split in 1..=sample.bytes.len() {
            place(4096 - split, code);
            wrong += usize::from(call(VIEW + 4096 - split as u64, sample.before) != expected);
        }
        check!(
            format_args!("crossing-{}", sample.name),
            wrong == 0,
            "{wrong} of {} splits",
            sample.bytes.len()
        );
    }
}

/// A fetch from a page that is not there is the guest's page fault, of the second page.
fn into_an_absent_page() {
    const AT: u64 = VIEW + 4095;
    place(4095, &[0x0f, 0xa2, RET]);
    paging::map(VIEW + 4096, 0, 0);
    paging::invalidate(VIEW + 4096);
    // SAFETY: the jump's first fetch faults.
    let fault =
        unsafe { attempt!("jmp r14", in("r14") AT, out("rax") _, out("rcx") _, out("rdx") _) };
    let address = guests::read_register!("cr2");
    check!(
        "crossing-into-an-absent-page",
        fault.is_err_and(|trap: Trap| trap.vector == PF) && address == VIEW + 4096,
        "{fault:x?} {address:#x}"
    );
    paging::map(VIEW + 4096, FRAMES[0].gpa(), bit::PRESENT | bit::WRITABLE);
    paging::invalidate(VIEW + 4096);
}

/// One address, another exit each time.
fn changing() {
    apic::write(apic::register::TIMER_INITIAL, 0);
    let mut wrong = 0;
    for round in 0..200_u32 {
        let sample = &SAMPLES[round as usize % SAMPLES.len()];
        place(0x200, sample.bytes);
        place(0x200 + sample.bytes.len(), &[RET]);
        place(0x300, sample.bytes);
        place(0x300 + sample.bytes.len(), &[RET]);
        wrong += u32::from(call(VIEW + 0x200, sample.before) != call(VIEW + 0x300, sample.before));
    }
    check!("changing-code-is-seen", wrong == 0, "{wrong} of 200");
    // SAFETY: the initial count of a masked timer.
    let count =
        unsafe { core::ptr::with_exposed_provenance::<u32>(COUNT as usize).read_volatile() };
    check!("changing-code-leaves-the-rest", count == 0, "{count:#x}");
}

/// The instruction right before writes the one that exits (SDM 3A 9.1.3 asks for a jump or a serializing instruction between
/// them; a fresh page entry by RET is one).
fn changing_ahead() {
    let mut wrong = 0;
    for port in 0..100_u64 {
        // mov byte [rip + 1], 0x71; in al, 0x00; ret: the port's number is written just ahead.
        let number = if port % 2 == 0 { 0x71 } else { 0x70 };
        place(0x400, &[0xc6, 0x05, 0x03, 0, 0, 0, number, 0xeb, 0x00, 0xe4, 0x00, RET]);
        let [rax, ..] = call(VIEW + 0x400, [0, 0, 0]);
        place(0x500, &[0xe4, number, RET]);
        let [expected, ..] = call(VIEW + 0x500, [0, 0, 0]);
        wrong += u64::from(rax != expected);
    }
    check!("changing-code-just-ahead", wrong == 0, "{wrong} of 100");
}
