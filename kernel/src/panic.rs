//! Kerf's own panic: always a bug, or the hardware's failure, and always told.

use core::fmt;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::start::{self, TrapFrame};
use crate::{console, power, report};

/// Timer interrupts until a panic that was asked for; 0 for none.
static TEST: AtomicU32 = AtomicU32::new(0);
/// Of them, from the start of the guests: they are well under way then.
const TEST_TICKS: u32 = 5;

/// Where Kerf's command line has the word `panic-test`, has a later timer interrupt panic: so the panic can be tested.
pub(crate) fn test_if_asked(command_line: &str) {
    if command_line.split_whitespace().any(|word| word == "panic-test") {
        TEST.store(TEST_TICKS, Ordering::Relaxed);
    }
}

/// A timer interrupt came.
pub(crate) fn tick() {
    if TEST.load(Ordering::Relaxed) != 0 && TEST.fetch_sub(1, Ordering::Relaxed) == 1 {
        panic!("panic-test on the command line");
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let frame = TrapFrame::here();
    match info.location() {
        Some(at) => die(format_args!("{} at {}:{}", info.message(), at.file(), at.line()), &frame),
        None => die(format_args!("{}", info.message()), &frame),
    }
}

/// The end: says why, with all that may help to find out.
pub(crate) fn die(why: fmt::Arguments<'_>, frame: &TrapFrame) -> ! {
    let stopped = start::stop_others();
    console::emergency();
    if let Some((others, stopped)) = stopped.filter(|(others, _)| *others != 0) {
        log::error!("{stopped} of {others} other CPUs stopped");
    }
    let cpu = start::current();
    log::error!("{why}, on CPU {}, APIC ID {:#x}", cpu.number, cpu.apic_id());
    log::error!("{frame}");
    start::backtrace(frame, |address, name| match name {
        Some((name, offset)) => log::error!("  at {address:#x} {name}+{offset:#x}"),
        None => log::error!("  at {address:#x}"),
    });
    report::last_exits();
    console::say(format_args!("PANIC"));
    power::stop(power::Verdict::Panic)
}
