//! I/O port space.

use core::arch::asm;

use hw::{Port, PortBus, Width};

/// The machine's I/O ports.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ports;

impl PortBus for Ports {
    fn read(&self, port: Port, width: Width) -> u32 {
        let value: u32;
        // SAFETY: IN transfers into a register and touches no memory. What the device does with it is the concern of the
        // kernel's drivers, each of which owns its ports; guests' accesses never get here.
        unsafe {
            match width {
                Width::W1 => asm!("in al, dx", "movzx eax, al", in("dx") port.0, out("eax") value,
                    options(nomem, nostack, preserves_flags)),
                Width::W2 => asm!("in ax, dx", "movzx eax, ax", in("dx") port.0, out("eax") value,
                    options(nomem, nostack, preserves_flags)),
                Width::W4 | Width::W8 => asm!("in eax, dx", in("dx") port.0, out("eax") value,
                    options(nomem, nostack, preserves_flags)),
            }
        }
        value
    }

    fn write(&self, port: Port, width: Width, value: u32) {
        // SAFETY: as for reading; none of the devices that the drivers reach by ports is told to do DMA.
        unsafe {
            match width {
                Width::W1 => asm!("out dx, al", in("dx") port.0, in("al") value as u8,
                    options(nomem, nostack, preserves_flags)),
                Width::W2 => asm!("out dx, ax", in("dx") port.0, in("ax") value as u16,
                    options(nomem, nostack, preserves_flags)),
                Width::W4 | Width::W8 => asm!("out dx, eax", in("dx") port.0, in("eax") value,
                    options(nomem, nostack, preserves_flags)),
            }
        }
    }
}
