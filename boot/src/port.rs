//! Port I/O for the consoles that need no firmware.

use core::arch::asm;

/// Reads a byte from a port.
///
/// # Safety
/// Reading the port must have no effect on memory.
pub(crate) unsafe fn read(port: u16) -> u8 {
    let value;
    // SAFETY: the caller vouches for the port.
    unsafe {
        asm!("in al, dx", in("dx") port, out("al") value, options(nomem, nostack, preserves_flags));
    }
    value
}

/// Writes a byte to a port.
///
/// # Safety
/// Writing the port must have no effect on memory.
pub(crate) unsafe fn write(port: u16, value: u8) {
    // SAFETY: the caller vouches for the port.
    unsafe {
        asm!("out dx, al", in("dx") port, in("al") value, options(nomem, nostack, preserves_flags));
    }
}
