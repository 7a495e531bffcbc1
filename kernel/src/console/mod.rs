//! Where Kerf speaks: COM1, the emulators' debug port, and a ring in memory that a debugger can read. Each is probed, and
//! none is needed. The log writes `kerf: ` lines; what a guest sends goes out as it is.

mod ring;
mod uart;

use alloc::vec::Vec;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicU32, Ordering};

use hw::{Port, PortBus, Width};
use log::{Level, LevelFilter, Log, Metadata, Record};
use spin::Mutex;

use crate::platform::{self, Ports};
use crate::{power, start};
use ring::Ring;
use uart::Uart;

/// The port whose bytes QEMU and Bochs print; it reads as itself there.
const DEBUG_PORT: Port = Port(0xe9);

/// All outputs.
struct Console {
    uart: Option<Uart>,
    debug_port: bool,
    /// The last byte written ended no line.
    mid_line: bool,
}

static CONSOLE: Mutex<Console> =
    Mutex::new(Console { uart: None, debug_port: false, mid_line: false });
/// The latest of what was written, for whoever looks into memory.
static HISTORY: Mutex<Ring<{ 16 << 10 }>> = Mutex::new(Ring::new());
/// Bytes kept of what was typed.
const TYPED_BYTES: usize = 1024;
/// What was typed and no guest has read yet.
static TYPED: Mutex<Ring<TYPED_BYTES>> = Mutex::new(Ring::new());

/// Finds the outputs, and makes the log write to them.
pub(crate) fn init() {
    let mut console = CONSOLE.lock();
    console.uart = Uart::probe();
    console.debug_port = Ports.read(DEBUG_PORT, Width::W1) == u32::from(DEBUG_PORT.0);
    drop(console);
    if log::set_logger(&Lines).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}

/// Whether there is a UART.
pub(crate) fn has_uart() -> bool {
    CONSOLE.lock().uart.is_some()
}

/// Writes bytes as they are: a guest's console.
pub(crate) fn write(bytes: &[u8]) {
    CONSOLE.lock().put(bytes);
}

/// Writes a line of Kerf's own, whatever the level of the log is.
pub(crate) fn say(words: fmt::Arguments<'_>) {
    let mut console = CONSOLE.lock();
    // A guest's line is not continued by one of ours.
    let start = if console.mid_line { "\n" } else { "" };
    // Writing to the console cannot fail.
    let _ = writeln!(console, "{start}kerf: {words}");
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

/// Lets received bytes raise the UART's interrupt.
pub(crate) fn enable_receive() {
    if let Some(uart) = &mut CONSOLE.lock().uart {
        uart.interrupt_on_receive();
    }
}

/// The UART's interrupt: takes what was received. Bytes that no one reads for long are dropped, as a UART does. Whoever
/// was interrupted holds none of the locks: see [`crate::irq`].
pub(crate) fn receive() {
    if let Some(uart) = &mut CONSOLE.lock().uart {
        let mut typed = TYPED.lock();
        uart.receive(TYPED_BYTES, |byte| {
            typed.try_push(byte);
        });
    }
}

/// Waits until everything is on the wire, within bounds.
pub(crate) fn drain() {
    if let Some(uart) = &mut CONSOLE.lock().uart {
        uart.drain();
    }
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
    if failures == 1 {
        say(format_args!("PANIC"));
        power::stop(power::Verdict::Panic);
    }
}

impl Console {
    fn put(&mut self, bytes: &[u8]) {
        let Some(&last) = bytes.last() else { return };
        if let Some(uart) = &mut self.uart {
            uart.send(bytes);
        }
        if self.debug_port {
            bytes.iter().for_each(|&byte| Ports.write(DEBUG_PORT, Width::W1, byte.into()));
        }
        let mut history = HISTORY.lock();
        bytes.iter().for_each(|&byte| history.push(byte));
        self.mid_line = last != b'\n';
    }
}

impl Write for Console {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for part in text.split_inclusive('\n') {
            match part.strip_suffix('\n') {
                Some(line) => {
                    self.put(line.as_bytes());
                    self.put(b"\r\n");
                }
                None => self.put(part.as_bytes()),
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
