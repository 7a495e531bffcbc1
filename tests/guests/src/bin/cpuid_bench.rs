//! What exits cost: `BENCH name n` is the number of TSC ticks (on the deterministic beds: of instructions) by which an
//! iteration is longer than one of the empty loop; the instruction itself is included. The least of five runs counts.

#![no_std]
#![no_main]

use core::arch::asm;

use guests::{apic, check, cpu, nowhere, println};

guests::guest!("cpuid_bench", run);

const ROUNDS: u64 = 1000;
const RUNS: usize = 5;

/// Ticks for 1000 rounds of a loop around the instructions, with the operands of `asm!`; R12 counts.
macro_rules! measure {
    ($($instruction:literal),* $(; $($operands:tt)*)?) => {{
        let mut least = u64::MAX;
        for _ in 0..RUNS {
            let start = cpu::tsc();
            asm!(
                "mov r12d, {rounds}",
                "22:",
                $($instruction,)*
                "dec r12d",
                "jnz 22b",
                rounds = const ROUNDS,
                out("r12") _,
                $($($operands)*)?
            );
            least = least.min(cpu::tsc() - start);
        }
        least
    }};
}

fn run() {
    // SAFETY: CPUID, IN, reads and hypercall 0 change nothing; writing 0 to the deadline stops a timer that does not run.
    unsafe {
        // RBX is the compiler's own: kept in R13 around the loop's body, which the empty loop does as well.
        let empty = measure!();
        let report = |name: &str, ticks: u64| {
            let per_round = ticks.saturating_sub(empty) / ROUNDS;
            println!("BENCH {name} {per_round}");
            check!(name, ticks > empty, "{ticks} ticks, the empty loop {empty}");
        };
        let cpuid = measure!(
            "mov r13, rbx", "xor eax, eax", "xor ecx, ecx", "cpuid", "mov rbx, r13";
            out("r13") _, out("rax") _, out("rcx") _, out("rdx") _);
        report("cpuid", cpuid);
        if cpu::hypercall(0, [0; 3]).is_err() {
            check!("hypercall", false, "raises an exception");
        } else if cpu::uses_vmmcall() {
            let hypercall = measure!("xor eax, eax", "vmmcall"; out("rax") _);
            report("hypercall", hypercall);
        } else {
            let hypercall = measure!("xor eax, eax", "vmcall"; out("rax") _);
            report("hypercall", hypercall);
        }
        let port = measure!("in al, dx"; in("dx") nowhere::PORT, out("al") _);
        report("unknown-port-in", port);
        if let Err(trap) = cpu::write_msr(apic::TSC_DEADLINE_MSR, 0) {
            check!("wrmsr", false, "raises {trap:x?}");
        } else {
            let wrmsr =
                measure!("wrmsr"; in("ecx") apic::TSC_DEADLINE_MSR, in("eax") 0, in("edx") 0);
            report("wrmsr", wrmsr);
        }
        let unmapped = measure!("mov eax, [{page}]"; page = in(reg) nowhere::PAGE, out("eax") _);
        report("unmapped-read", unmapped);
        let apic_read =
            measure!("mov eax, [{id}]"; id = in(reg) apic::LOCAL_APIC_GPA + 0x20, out("eax") _);
        report("apic-read", apic_read);
    }
}
