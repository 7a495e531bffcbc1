//! From the boot application's jump to Rust, and what a CPU needs to run Kerf at all: stacks, descriptor tables,
//! per-CPU data, and an answer to every exception.
//!
//! Neighbours: [`crate::irq`] handles the vectors from 32 up, [`crate::mem`] leaves the guard pages named here unmapped.

mod backtrace;
mod bring_up;
mod entry;
mod exception;
mod gdt;
mod idt;
mod machine_check;
mod percpu;
mod stack;
mod stop;
mod trampoline;

pub(crate) use backtrace::{backtrace, set_symbols};
pub(crate) use bring_up::{bring_up, cpus};
pub(crate) use exception::{TrapFrame, break_lock, nmi_count};
pub(crate) use percpu::{PerCpu, current};
pub(crate) use stack::boot_guards;
pub(crate) use stop::stop_others;
