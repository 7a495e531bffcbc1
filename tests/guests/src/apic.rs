//! The local APIC, as xAPIC or x2APIC, and the I/O APIC (SDM 3A chapter 12; 82093AA data sheet).

use core::sync::atomic::{AtomicBool, Ordering};

use crate::cpu;

/// IA32_APIC_BASE.
pub const APIC_BASE_MSR: u32 = 0x1b;
/// IA32_TSC_DEADLINE.
pub const TSC_DEADLINE_MSR: u32 = 0x6e0;
/// Where the local APIC's page is after reset.
pub const LOCAL_APIC_GPA: u64 = 0xfee0_0000;
/// Where the first I/O APIC's page is on every PC.
pub const IO_APIC_GPA: u64 = 0xfec0_0000;
/// Delivered for an interrupt that went away; takes no end of interrupt.
pub const SPURIOUS_VECTOR: u8 = 0xff;

/// Registers, by offset in the xAPIC page.
pub mod register {
    #![allow(missing_docs)]
    pub const ID: u32 = 0x20;
    pub const VERSION: u32 = 0x30;
    pub const TASK_PRIORITY: u32 = 0x80;
    pub const LOGICAL_DESTINATION: u32 = 0xd0;
    pub const END_OF_INTERRUPT: u32 = 0xb0;
    pub const SPURIOUS: u32 = 0xf0;
    /// 32 vectors each, 16 bytes apart.
    pub const IN_SERVICE: u32 = 0x100;
    pub const REQUEST: u32 = 0x200;
    pub const ERROR_STATUS: u32 = 0x280;
    pub const INTERRUPT_COMMAND_LOW: u32 = 0x300;
    pub const INTERRUPT_COMMAND_HIGH: u32 = 0x310;
    pub const LVT_TIMER: u32 = 0x320;
    pub const LVT_ERROR: u32 = 0x370;
    pub const TIMER_INITIAL: u32 = 0x380;
    pub const TIMER_CURRENT: u32 = 0x390;
    pub const TIMER_DIVIDE: u32 = 0x3e0;
}

/// LVT: masked.
pub const MASKED: u32 = 1 << 16;
/// LVT timer: mode TSC-deadline.
const TSC_DEADLINE_MODE: u32 = 0b10 << 17;
const X2APIC_MODE: u64 = 1 << 10;

static X2APIC: AtomicBool = AtomicBool::new(false);

fn mmio(page: u64, offset: u32) -> *mut u32 {
    core::ptr::with_exposed_provenance_mut((page + u64::from(offset)) as usize)
}

/// Reads a register.
#[must_use]
pub fn read(register: u32) -> u32 {
    if X2APIC.load(Ordering::Relaxed) {
        return cpu::read_existing_msr(0x800 + (register >> 4)) as u32;
    }
    // SAFETY: a device register in a page that is mapped one to one and holds no memory.
    unsafe { mmio(LOCAL_APIC_GPA, register).read_volatile() }
}

/// Writes a register.
pub fn write(register: u32, value: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        // SAFETY: the local APIC's registers move no memory.
        return unsafe { cpu::write_existing_msr(0x800 + (register >> 4), value.into()) };
    }
    // SAFETY: as in `read`.
    unsafe { mmio(LOCAL_APIC_GPA, register).write_volatile(value) };
}

/// Enables it by its spurious-interrupt register, all priorities open.
pub fn enable() {
    crate::trap::on_interrupt(SPURIOUS_VECTOR, || {});
    write(register::SPURIOUS, 0x100 | u32::from(SPURIOUS_VECTOR));
    write(register::TASK_PRIORITY, 0);
}

/// Switches it to x2APIC mode; there is no way back but a reset.
///
/// # Errors
/// The exception where the CPU has no such mode.
pub fn switch_to_x2apic() -> Result<(), crate::trap::Trap> {
    let base = cpu::read_msr(APIC_BASE_MSR)?;
    // SAFETY: moves the registers from memory to MSRs; the page they were in holds nothing else.
    unsafe { cpu::write_msr(APIC_BASE_MSR, base | X2APIC_MODE) }?;
    X2APIC.store(true, Ordering::Relaxed);
    Ok(())
}

/// This CPU's APIC identifier.
#[must_use]
pub fn id() -> u32 {
    let id = read(register::ID);
    if X2APIC.load(Ordering::Relaxed) { id } else { id >> 24 }
}

pub(crate) fn end_of_interrupt() {
    write(register::END_OF_INTERRUPT, 0);
}

/// Lets the timer deliver `vector` at the deadlines that [`set_deadline`] gives.
pub fn use_tsc_deadline(vector: u8) {
    write(register::LVT_TIMER, TSC_DEADLINE_MODE | u32::from(vector));
}

/// One interrupt once the TSC has reached `tsc`; 0 takes it back.
///
/// # Errors
/// The exception where there is no such timer.
pub fn set_deadline(tsc: u64) -> Result<(), crate::trap::Trap> {
    // SAFETY: a timer moves no memory.
    unsafe { cpu::write_msr(TSC_DEADLINE_MSR, tsc) }
}

/// Says that another CPU's local APIC, which [`switch_to_x2apic`] has not been called on, was switched as well.
pub fn use_x2apic_here() {
    let base = cpu::read_existing_msr(APIC_BASE_MSR);
    // SAFETY: moves the registers from memory to MSRs; the page they were in holds nothing else.
    unsafe { cpu::write_existing_msr(APIC_BASE_MSR, base | X2APIC_MODE) };
}

/// Sends an interrupt command: its low half, and the destination's identifier, physical or logical.
pub fn command(destination: u32, low: u32) {
    if X2APIC.load(Ordering::Relaxed) {
        let value = u64::from(destination) << 32 | u64::from(low);
        // SAFETY: moves no memory.
        return unsafe { cpu::write_existing_msr(0x830, value) };
    }
    write(register::INTERRUPT_COMMAND_HIGH, destination << 24);
    write(register::INTERRUPT_COMMAND_LOW, low);
}

/// Sends `vector` to this CPU.
pub fn send_to_self(vector: u8) {
    const SELF: u32 = 0b01 << 18;
    write(register::INTERRUPT_COMMAND_LOW, SELF | u32::from(vector));
}

/// Reads a register of the I/O APIC.
#[must_use]
pub fn read_io_apic(index: u8) -> u32 {
    // SAFETY: device registers: the index, then the window.
    unsafe {
        mmio(IO_APIC_GPA, 0).write_volatile(index.into());
        mmio(IO_APIC_GPA, 0x10).read_volatile()
    }
}

/// Writes a register of the I/O APIC.
pub fn write_io_apic(index: u8, value: u32) {
    // SAFETY: as in `read_io_apic`.
    unsafe {
        mmio(IO_APIC_GPA, 0).write_volatile(index.into());
        mmio(IO_APIC_GPA, 0x10).write_volatile(value);
    }
}

/// Routes an edge-triggered input of the I/O APIC to this CPU as `vector`, or masks it.
pub fn route(input: u8, vector: Option<u8>) {
    let entry = 0x10 + 2 * input;
    write_io_apic(entry, MASKED);
    if let Some(vector) = vector {
        write_io_apic(entry + 1, id() << 24);
        write_io_apic(entry, vector.into());
    }
}
