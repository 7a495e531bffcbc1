//! Where Kerf speaks: serial ports, the emulators' debug port, the screen, and a ring in memory that a debugger can read.
//! Each is probed, and none is needed. The log writes `kerf: ` lines; what a guest sends goes out as it is.
//!
//! What guests print is shown on the screen only where there is no serial port, or the configuration names the screen:
//! drawing costs more than all else that a guest's output does.

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use config::Console as Wanted;
use consoles::{Ring, Screen, Setup, Uart};
use firmware::{SerialPort, SerialRegisters};
use hw::{Port, PortBus, Width};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use crate::platform::{self, COM1, Framebuffer, Ports, UartRegisters};
use crate::{mem, power, start};

/// The port whose bytes QEMU and Bochs print; it reads as itself there.
const DEBUG_PORT: Port = Port(0xe9);

/// All outputs.
struct Console {
    /// COM1, and the port that the firmware uses where it is another.
    uarts: [Option<Uart<UartRegisters>>; 2],
    debug_port: bool,
    screen: Option<Screen<Framebuffer>>,
    /// The screen shows what guests print.
    guests_on_screen: bool,
    /// The last byte written ended no line.
    mid_line: bool,
}

static CONSOLE: Mutex<Console> = Mutex::new(Console {
    uarts: [None, None],
    debug_port: false,
    screen: None,
    guests_on_screen: false,
    mid_line: false,
});
/// The outputs that are wanted, once the configuration is known.
static WANTED: Mutex<Option<Vec<Wanted>>> = Mutex::new(None);
/// The latest of what was written, for whoever looks into memory.
static HISTORY: Mutex<Ring<{ 16 << 10 }>> = Mutex::new(Ring::new());
/// Bytes kept of what was typed.
const TYPED_BYTES: usize = 1024;
/// What was typed and no guest has read yet.
static TYPED: Mutex<Ring<TYPED_BYTES>> = Mutex::new(Ring::new());

/// Finds the outputs that need no memory and no tables, and makes the log write to them.
pub(crate) fn init() {
    let mut console = CONSOLE.lock();
    console.uarts[0] = Uart::probe(COM1, Setup::Baud115200);
    console.debug_port = Ports.read(DEBUG_PORT, Width::W1) == u32::from(DEBUG_PORT.0);
    drop(console);
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Keeps to the outputs that the configuration names; `None` for all that there are.
pub(crate) fn select(wanted: Option<&[Wanted]>) {
    let Some(wanted) = wanted else { return };
    let mut console = CONSOLE.lock();
    if !wanted.contains(&Wanted::Serial) {
        console.uarts = [None, None];
    }
    console.debug_port &= wanted.contains(&Wanted::DebugPort);
    *WANTED.lock() = Some(wanted.to_vec());
}

/// Adds the screen, and the serial port that the firmware uses, as far as they are there and wanted.
pub(crate) fn extend(screen: &boot_info::Framebuffer, serial: Option<SerialPort>) {
    let wanted = WANTED.lock();
    let is_named = |output| wanted.as_ref().is_some_and(|wanted| wanted.contains(&output));
    let is_wanted = |output| wanted.is_none() || is_named(output);
    let mut uart = serial.filter(|_| is_wanted(Wanted::Serial)).and_then(firmware_uart);
    let pixels = if is_wanted(Wanted::Screen) { mem::map_screen(screen) } else { None };
    let mut console = CONSOLE.lock();
    // Where it is the only one, it shows what was said before.
    if let (Some(uart), None) = (&mut uart, &console.uarts[0]) {
        // If it has gone already, the next line will tell.
        let _ = HISTORY.lock().bytes().try_for_each(|byte| uart.send(&[byte]));
    }
    console.uarts[1] = uart;
    console.guests_on_screen =
        is_named(Wanted::Screen) || console.uarts.iter().flatten().count() == 0;
    let pixels = pixels.and_then(|pixels| Screen::new(pixels, screen.width, screen.height));
    if let Some(mut screen) = pixels {
        HISTORY.lock().bytes().for_each(|byte| screen.write(&[byte]));
        console.screen = Some(screen);
    }
}

/// The firmware's serial port, where it is another than COM1 and answers.
fn firmware_uart(port: SerialPort) -> Option<Uart<UartRegisters>> {
    const REGISTERS: u64 = 8;
    let registers = match port.registers {
        SerialRegisters::Port(first) => {
            let is_com1 = matches!(COM1, UartRegisters::Ports(com1) if com1 == first);
            (!is_com1).then_some(UartRegisters::Ports(first))
        }
        SerialRegisters::Memory(first) => {
            let block = mem::map_mmio(first, REGISTERS * u64::from(port.stride))?;
            let width = Width::try_new(port.access.into())?;
            Some(UartRegisters::Memory(block, port.stride, width))
        }
    };
    let uart = Uart::probe(registers?, Setup::Keep);
    if uart.is_none() {
        log::warn!("the serial port that the firmware names does not answer");
    }
    uart
}

/// Whether COM1 is there, and another port that the firmware uses.
pub(crate) fn has_uarts() -> [bool; 2] {
    CONSOLE.lock().uarts.each_ref().map(Option::is_some)
}

/// Writes bytes as they are: a guest's console.
pub(crate) fn write(bytes: &[u8]) {
    let mut console = CONSOLE.lock();
    let on_screen = console.guests_on_screen;
    console.put(bytes, on_screen);
}

/// Writes a line of Kerf's own, whatever the level of the log is.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    // A guest's line is not continued by one of ours.
    if console.mid_line {
        let on_screen = console.guests_on_screen;
        console.put(b"\r\n", on_screen);
    }
    // Writing to the console cannot fail.
    let _ = writeln!(console, "kerf: {words}");
}

/// The next byte that was typed.
pub(crate) fn read() -> Option<u8> {
    TYPED.lock().pop()
}

/// Whether there is one.
pub(crate) fn has_typed() -> bool {
    !TYPED.lock().is_empty()
}

/// The latest of what was written.
pub(crate) fn history() -> Vec<u8> {
    HISTORY.lock().bytes().collect()
}

/// Lets those UARTs raise interrupts whose interrupts arrive.
pub(crate) fn use_interrupts(arrive: [bool; 2]) {
    let mut console = CONSOLE.lock();
    let uarts = console.uarts.iter_mut().zip(arrive);
    uarts
        .filter(|(_, arrive)| *arrive)
        .filter_map(|(uart, _)| uart.as_mut())
        .for_each(Uart::use_interrupts);
}

/// The UART's interrupt: takes what was received, and sends more. Bytes that no one reads for long are dropped, as a UART
/// does. Whoever was interrupted holds none of the locks: see [`crate::irq`].
pub(crate) fn serve() {
    let mut console = CONSOLE.lock();
    let mut typed = TYPED.lock();
    for uart in console.uarts.iter_mut().flatten() {
        uart.serve(TYPED_BYTES, |byte| {
            typed.try_push(byte);
        });
    }
}

/// Waits until everything is on the wire, within bounds, and does so for whatever is written afterwards.
pub(crate) fn drain() {
    CONSOLE.lock().uarts.iter_mut().flatten().for_each(Uart::drain);
}

/// For the last words of a CPU that may hold the lock itself: takes it away from whoever has it. If the last words are
/// what fails, there are few others: the second time it says so and stops, and the third time it only halts.
pub(crate) fn emergency() {
    /// How often it came to this.
    static FAILURES: AtomicU32 = AtomicU32::new(0);
    platform::interrupts_off();
    let failures = FAILURES.fetch_add(1, Ordering::Relaxed);
    if failures > 1 {
        platform::halt_forever();
    }
    if CONSOLE.is_locked() {
        start::break_lock(&CONSOLE);
    }
    if HISTORY.is_locked() {
        start::break_lock(&HISTORY);
    }
    drain();
    if failures == 1 {
        say(format_args!("PANIC"));
        power::stop(power::Verdict::Panic);
    }
}

impl Console {
    fn put(&mut self, bytes: &[u8], on_screen: bool) {
        let Some(&last) = bytes.last() else { return };
        self.mid_line = last != b'\n';
        if let Some(screen) = self.screen.as_mut().filter(|_| on_screen) {
            screen.write(bytes);
        }
        if self.debug_port {
            bytes.iter().for_each(|&byte| Ports.write(DEBUG_PORT, Width::W1, byte.into()));
        }
        let mut history = HISTORY.lock();
        bytes.iter().for_each(|&byte| history.push(byte));
        drop(history);
        for index in 0..self.uarts.len() {
            if let Some(uart) = &mut self.uarts[index]
                && uart.send(bytes).is_err()
            {
                self.uarts[index] = None;
                self.put(
                    b"\r\nkerf: warning: a serial port has gone; the other outputs go on\r\n",
                    true,
                );
            }
        }
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    self.put(line.as_bytes(), true);
                    self.put(b"\r\n", true);
                }
                None => self.put(part.as_bytes(), true),
            }
        }
        Ok(())
    }
}

/// The log's back end.
struct Lines;

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let severity = match record.level() {
            Level::Error => "error: ",
            Level::Warn => "warning: ",
            Level::Info => "",
            Level::Debug => "debug: ",
            Level::Trace => "trace: ",
        };
        say(format_args!("{severity}{}", record.args()));
    }

    fn flush(&self) {
        drain();
    }
}
