//! The first serial port's registers, as the driver crate wants them.

use uart_16550::Uart16550;
use uart_16550::backend::PioBackend;

/// I/O port of COM1's first register.
const COM1: u16 = 0x3f8;

/// COM1, which may be there or not: nothing is read or written yet.
pub(crate) const fn com1() -> Uart16550<PioBackend> {
    // SAFETY: a PC has COM1's eight registers, or nothing, at these ports for as long as it runs, and neither touches
    // memory. The console alone drives them.
    match unsafe { Uart16550::new_port(COM1) } {
        Ok(uart) => uart,
        Err(_) => panic!("eight registers fit below the last port"),
    }
}
