//! Text on the first serial port, polled: [`print!`](crate::print) and [`println!`](crate::println).

use core::fmt;

use crate::cpu;

/// The port's registers (16550D data sheet, section 8.0), DLAB clear.
pub mod uart {
    /// The first serial port.
    pub const BASE: u16 = 0x3f8;
    /// Transmit and receive.
    pub const DATA: u16 = BASE;
    /// IER.
    pub const INTERRUPT_ENABLE: u16 = BASE + 1;
    /// IIR when read, FCR when written.
    pub const INTERRUPT_IDENTIFICATION: u16 = BASE + 2;
    /// LCR.
    pub const LINE_CONTROL: u16 = BASE + 3;
    /// MCR.
    pub const MODEM_CONTROL: u16 = BASE + 4;
    /// LSR.
    pub const LINE_STATUS: u16 = BASE + 5;

    /// LSR: the transmitter's holding register is empty.
    pub const THRE: u8 = 1 << 5;
    /// LSR: the shift register is, too.
    pub const TEMT: u8 = 1 << 6;
}

/// A port that is absent or stuck loses characters instead of stopping the guest.
const POLLS: u32 = 1_000_000;

/// 8 data bits, no parity, FIFOs on, interrupts off.
pub fn init() {
    cpu::out8(uart::INTERRUPT_ENABLE, 0);
    cpu::out8(uart::LINE_CONTROL, 0x03);
    cpu::out8(uart::INTERRUPT_IDENTIFICATION, 0x07);
    cpu::out8(uart::MODEM_CONTROL, 0x03);
}

/// Waits until the last character has left.
pub fn drain() {
    wait(uart::TEMT);
}

fn wait(status: u8) {
    for _ in 0..POLLS {
        if cpu::in8(uart::LINE_STATUS) & status != 0 {
            return;
        }
    }
}

struct Console;

impl fmt::Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                wait(uart::THRE);
                cpu::out8(uart::DATA, b'\r');
            }
            wait(uart::THRE);
            cpu::out8(uart::DATA, byte);
        }
        Ok(())
    }
}

/// Prints; `println!` is what to use.
pub fn write(text: fmt::Arguments<'_>) {
    // The console itself never fails.
    let _ = fmt::Write::write_fmt(&mut Console, text);
}

/// Prints on the console.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::console::write(::core::format_args!($($text)*)) };
}

/// Prints a line on the console.
#[macro_export]
macro_rules! println {
    ($($text:tt)*) => { $crate::console::write(::core::format_args!("{}\n", ::core::format_args!($($text)*))) };
}
