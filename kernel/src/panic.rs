//! Kerf's own panic: always a bug, always told.

use core::panic::PanicInfo;

use crate::{console, power};

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    console::emergency();
    match info.location() {
        Some(at) => log::error!("{} at {}:{}", info.message(), at.file(), at.line()),
        None => log::error!("{}", info.message()),
    }
    console::say(format_args!("PANIC"));
    power::stop(power::Verdict::Panic)
}
