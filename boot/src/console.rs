//! Where messages go: the firmware's console, the debug port of emulators, and the first serial port.
//!
//! Firmware often sends its console to the serial port as well. Then the port is left to it, lest every line come
//! twice; `ConOut`, the variable that lists the console's devices (UEFI 2.10, 3.3), tells. Every probe has an end: a
//! machine without any of the devices only stays silent.

use core::{
    fmt::{self, Write},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
};

use uefi::{
    cstr16,
    proto::device_path::{DeviceSubType, DeviceType},
    runtime::{self, VariableVendor},
    system,
};

use crate::port;

/// The first serial port's registers.
const SERIAL: u16 = 0x3f8;
/// QEMU's and Bochs's debug port. It reads as its own number where it exists.
const DEBUG: u16 = 0xe9;
/// Reads of the line status before the transmitter counts as stuck: far more than a character's time at 9600 baud.
const MAX_POLLS: u32 = 100_000;

static FIRMWARE: AtomicBool = AtomicBool::new(false);
static SERIAL_DIRECT: AtomicBool = AtomicBool::new(false);
static DEBUG_PORT: AtomicBool = AtomicBool::new(false);

/// Finds out which consoles there are.
pub(crate) fn start() {
    FIRMWARE.store(true, Relaxed);
    // SAFETY: the port is the debug port or nothing; no device has an effect on reading it.
    DEBUG_PORT.store(unsafe { port::read(DEBUG) } == DEBUG as u8, Relaxed);
    SERIAL_DIRECT.store(!firmware_uses_serial() && start_serial(), Relaxed);
}

/// Says that boot services are gone, and the firmware's console with them.
pub(crate) fn leave_firmware() {
    FIRMWARE.store(false, Relaxed);
}

/// Prints a line with the program's name in front.
pub(crate) fn line(text: fmt::Arguments<'_>) {
    part(format_args!("kerf-boot: {text}\n"));
}

/// Prints a part of a line as it is.
pub(crate) fn part(text: fmt::Arguments<'_>) {
    // No console reports errors that anything could be done about.
    if FIRMWARE.load(Relaxed) {
        let _ = system::with_stdout(|output| output.write_fmt(text));
    }
    let _ = Ports.write_fmt(text);
}

/// Serial port and debug port.
struct Ports;

impl Write for Ports {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if DEBUG_PORT.load(Relaxed) {
                // SAFETY: found by `start`; it only prints.
                unsafe { port::write(DEBUG, byte) };
            }
            if byte == b'\n' {
                send_serial(b'\r');
            }
            send_serial(byte);
        }
        Ok(())
    }
}

/// Whether the console's devices include a UART.
fn firmware_uses_serial() -> bool {
    let Ok((paths, _)) =
        runtime::get_variable_boxed(cstr16!("ConOut"), &VariableVendor::GLOBAL_VARIABLE)
    else {
        return false;
    };
    // Nodes of type, subtype, and length in two bytes (UEFI 2.10, 10.3.1).
    let mut rest: &[u8] = &paths;
    while let [kind, subtype, low, high, ..] = *rest {
        if (DeviceType(kind), DeviceSubType(subtype))
            == (DeviceType::MESSAGING, DeviceSubType::MESSAGING_UART)
        {
            return true;
        }
        let bytes = usize::from(u16::from_le_bytes([low, high])).max(4);
        rest = rest.get(bytes..).unwrap_or_default();
    }
    false
}

/// Sets the serial port to 115200 8N1; false where there is none.
fn start_serial() -> bool {
    // Offsets: 0 divisor low, 1 interrupt enable or divisor high, 2 FIFO control, 3 line control, 4 modem control,
    // 7 scratch.
    let setup = [(1, 0), (3, 0x80), (0, 1), (1, 0), (3, 0x03), (2, 0x07), (4, 0x03), (7, 0x5a)];
    // SAFETY: the registers of a 16550 or nothing at all; neither touches memory.
    unsafe {
        for (offset, value) in setup {
            port::write(SERIAL + offset, value);
        }
        port::read(SERIAL + 7) == 0x5a && port::read(SERIAL + 5) != 0xff
    }
}

fn send_serial(byte: u8) {
    if !SERIAL_DIRECT.load(Relaxed) {
        return;
    }
    for _ in 0..MAX_POLLS {
        // SAFETY: the registers of the 16550 that `start` found; neither touches memory.
        unsafe {
            if port::read(SERIAL + 5) & 0x20 != 0 {
                port::write(SERIAL, byte);
                return;
            }
        }
    }
    SERIAL_DIRECT.store(false, Relaxed);
}
