//! One virtual machine's worth of small facts, one `PASS name` each: what ports, MSRs, CPUID, device memory, timers, vector
//! registers, debugging, self-modifying code, privilege and paging modes do in a guest, against what the manuals say or
//! what the CPU itself does without an exit. Nothing that is printed depends on the CPU: the transcript is the same on VT-x
//! and on SVM.

#![no_std]
#![no_main]

mod code;
mod control;
mod cpuid;
mod debug;
mod fpu;
mod mmio;
mod modes;
mod msr;
mod paging;
mod port;
mod strings;
mod timer;
mod user;
mod views;

guests::guest!("facts", run);

fn run() {
    port::run();
    msr::run();
    cpuid::run();
    control::run();
    mmio::run();
    strings::run();
    timer::run();
    fpu::run();
    debug::run();
    code::run();
    paging::run();
    user::run();
    views::run();
    modes::run();
}
