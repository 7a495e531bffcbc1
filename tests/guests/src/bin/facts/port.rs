//! Ports: every IN and OUT form against registers whose value is known: the UART's scratch register, PCI's CONFIG_ADDRESS
//! and the host bridge behind it, the RTC's memory.

use core::arch::asm;

use guests::{check, console::uart, cpu, nowhere};

/// The UART's scratch register: keeps what is written.
pub(crate) const SCRATCH: u16 = uart::BASE + 7;
/// PCI's CONFIG_ADDRESS and CONFIG_DATA.
pub(crate) const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
/// Enables CONFIG_DATA; bus, device, function and register 0.
const HOST_BRIDGE: u32 = 1 << 31;
const RTC_INDEX: u16 = 0x70;
const RTC_DATA: u16 = 0x71;
/// A byte of the RTC's memory.
const RTC_RAM: u8 = 0x40;

pub(crate) fn run() {
    let kept = [0_u8, 0x5a, 0x80, 0xff].map(|value| {
        cpu::out8(SCRATCH, value);
        cpu::in8(SCRATCH) == value
    });
    check!("port-out8-in8", kept == [true; 4], "{kept:?}");
    widths();
    immediate();
    rest_of_rax();
    pm_timer_moves();
    flags_are_kept();
}

fn widths() {
    cpu::out32(CONFIG_ADDRESS, HOST_BRIDGE);
    let address = cpu::in32(CONFIG_ADDRESS);
    check!("port-out32-in32", address == HOST_BRIDGE, "{address:#x}");
    let id = cpu::in32(CONFIG_DATA);
    check!("port-host-bridge", id & 0xffff != 0xffff && id != 0, "{id:#x}");
    let halves = [cpu::in16(CONFIG_DATA), cpu::in16(CONFIG_DATA + 2)];
    check!("port-in16", halves == [id as u16, (id >> 16) as u16], "{halves:x?} of {id:#x}");
    let bytes = [0, 1, 2, 3].map(|byte| cpu::in8(CONFIG_DATA + byte));
    check!("port-in8-of-dword", bytes == id.to_le_bytes(), "{bytes:x?} of {id:#x}");
    cpu::out32(CONFIG_ADDRESS, HOST_BRIDGE | 0x1f << 11);
    let absent = cpu::in32(CONFIG_DATA);
    check!("port-absent-function", absent == u32::MAX, "{absent:#x}");
    cpu::out16(nowhere::PORT, 0);
    let missing = cpu::in16(nowhere::PORT);
    check!("port-out16-nowhere", missing == u16::MAX, "{missing:#x}");
}

fn immediate() {
    let (byte, after): (u64, u64);
    // SAFETY: the RTC's index and memory.
    unsafe {
        asm!("mov al, {ram}", "out 0x70, al", "mov al, 0xc3", "out 0x71, al", "mov rax, -1", "in al, 0x71",
            ram = const RTC_RAM, out("rax") byte, options(nostack));
        asm!("mov rax, -1", "in eax, 0xf0", out("rax") after, options(nostack));
    }
    check!("port-immediate-out8-in8", byte == u64::MAX ^ 0x3c, "{byte:#x}");
    check!("port-immediate-in32", after == 0xffff_ffff, "{after:#x}");
    cpu::out8(RTC_INDEX, RTC_RAM);
    let again = cpu::in8(RTC_DATA);
    check!("port-rtc-memory", again == 0xc3, "{again:#x}");
}

/// 8 and 16 bits leave the rest of RAX alone, 32 clear its upper half.
fn rest_of_rax() {
    cpu::out8(SCRATCH, 0x77);
    cpu::out32(CONFIG_ADDRESS, HOST_BRIDGE);
    let expected = cpu::in32(CONFIG_DATA);
    let (byte, half, word): (u64, u64, u64);
    // SAFETY: reads ports that have no effect.
    unsafe {
        asm!("in al, dx", in("dx") SCRATCH, inout("rax") 0x1122_3344_5566_0000_u64 => byte, options(nostack));
        asm!("in ax, dx", in("dx") CONFIG_DATA, inout("rax") 0x1122_3344_5566_0000_u64 => half, options(nostack));
        asm!("in eax, dx", in("dx") CONFIG_DATA, inout("rax") u64::MAX => word, options(nostack));
    }
    check!("port-in8-keeps-the-rest", byte == 0x1122_3344_5566_0077, "{byte:#x}");
    let want = 0x1122_3344_5566_0000 | u64::from(expected & 0xffff);
    check!("port-in16-keeps-the-rest", half == want, "{half:#x}");
    check!("port-in32-clears-the-rest", word == u64::from(expected), "{word:#x}");
}

/// It counts 3.58 MHz (ACPI 6.5, 4.8.2.1), and the TSC what the hypervisor's leaf says.
fn pm_timer_moves() {
    const TIMER: u16 = 0x608;
    let khz = u64::from(cpu::cpuid(0x4000_0010, 0).eax);
    let (start, from) = (cpu::in32(TIMER), cpu::tsc());
    while cpu::tsc() < from + khz * 10 {}
    let (ticks, passed) = (cpu::in32(TIMER).wrapping_sub(start), cpu::tsc() - from);
    let expected = passed * 3_579_545 / (khz * 1000);
    let off = expected.abs_diff(ticks.into());
    check!("port-pm-timer-agrees-with-the-tsc", off * 50 < expected, "{ticks} for {expected}");
}

fn flags_are_kept() {
    const ARITHMETIC: u64 = 0x8d5;
    let flags = [0, ARITHMETIC].map(|set| {
        let flags: u64;
        // SAFETY: flags that compiled code does not rely on, around ports that have no effect.
        unsafe {
            asm!("push {0}", "popfq", "in al, dx", "out dx, al", "pushfq", "pop {0}",
                inout(reg) set | 2 => flags, in("dx") SCRATCH, out("al") _);
        }
        flags & ARITHMETIC == set
    });
    check!("port-keeps-flags", flags == [true; 2], "{flags:?}");
}
