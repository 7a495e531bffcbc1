//! The machine behind the traits of [`hw`]: I/O ports, model-specific registers, CPUID, memory-mapped registers and the
//! time-stamp counter. All are zero-sized or plain data: using one costs the instruction and nothing else.

mod cpu;
mod mmio;
mod ports;
mod screen;
mod tsc;
mod uart;

pub(crate) use cpu::{
    CpuId, Msrs, halt_forever, has_movdir64b, interrupts_off, interrupts_on_briefly, probe,
    triple_fault, vendor, wait_for_interrupt,
};
pub(crate) use mmio::Mmio;
pub(crate) use ports::Ports;
pub(crate) use screen::Framebuffer;
pub(crate) use tsc::{Tsc, rdtsc};
pub(crate) use uart::{COM1, UartRegisters};
