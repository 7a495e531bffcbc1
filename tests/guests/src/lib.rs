//! What the small guests share. A guest is a program of one fact: it runs on the bare virtual machine that Kerf's Linux
//! loader starts it in, prints `PASS name` or `FAIL name` for each of its [`check!`]s, ends with `GUEST-DONE name` and
//! leaves through port 0xf4 with status 0 if all of them passed, 1 if not.
//!
//! A new guest is a file in `src/bin`, a `[[bin]]` entry, and a line in xtask's suite:
//!
//! ```ignore
//! guests::guest!("name", run);
//! fn run() {
//!     guests::check!("cpuid-has-a-vendor", guests::cpu::cpuid(0, 0).ebx != 0);
//! }
//! ```
//!
//! `guest.ld` makes it a bzImage, so `target/x86_64-unknown-none/release/name` is what `kernel` in `kerf.toml` names. The
//! rooms: [`console`] prints, [`cpu`] wraps instructions, [`trap`] catches exceptions and interrupts, [`apic`] drives the
//! local and the I/O APIC, [`paging`] maps pages, [`smp`] starts the other CPUs. Interrupts are off until a guest turns them
//! on; the target has no SSE in compiled code, so the vector registers belong to the guest's own assembly.

#![no_std]

pub mod apic;
pub mod console;
pub mod cpu;
pub mod paging;
pub mod smp;
mod start;
pub mod trap;

pub use start::{boot_params, command_line, exit};

use core::sync::atomic::{AtomicBool, Ordering};

/// An I/O port and a physical page where nothing is.
pub mod nowhere {
    /// Of 8, 16 and 32 bits: reads give all ones.
    pub const PORT: u16 = 0xf8f0;
    /// Guest-physical; below the APICs, above the RAM of any test guest.
    pub const PAGE: u64 = 0xd000_0000;
    /// Numbers that no CPU implements: one outside of what an MSR bitmap covers, one inside.
    pub const MSRS: [u32; 2] = [0x1234_5678, 0x1fff];
}

static FAILED: AtomicBool = AtomicBool::new(false);

/// Names the guest and the function that does its work.
#[macro_export]
macro_rules! guest {
    ($name:literal, $run:path) => {
        #[unsafe(no_mangle)]
        extern "C" fn guest_main() -> ! {
            $run();
            $crate::finish($name)
        }
    };
}

/// Prints `PASS name` or `FAIL name`; a format and arguments after the condition are shown with a failure.
#[macro_export]
macro_rules! check {
    ($name:expr, $holds:expr) => {
        $crate::report($name, $holds, ::core::format_args!(""))
    };
    ($name:expr, $holds:expr, $($detail:tt)+) => {
        $crate::report($name, $holds, ::core::format_args!($($detail)+))
    };
}

/// What [`check!`] does.
pub fn report(name: impl core::fmt::Display, holds: bool, detail: core::fmt::Arguments<'_>) {
    if holds {
        println!("PASS {name}");
    } else {
        FAILED.store(true, Ordering::Relaxed);
        println!("FAIL {name} {detail}");
    }
}

/// Ends the guest with the verdict of its checks.
pub fn finish(name: &str) -> ! {
    println!("GUEST-DONE {name}");
    exit(u8::from(FAILED.load(Ordering::Relaxed)))
}

#[cfg(target_os = "none")]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    println!("FAIL panic {info}");
    exit(1)
}
