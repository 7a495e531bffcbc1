//! How Kerf ends, and how it tells whoever started the machine.

use core::fmt;

use hw::{Port, PortBus, Width};

use crate::platform::{self, Ports};
use crate::{acpi, console};

/// QEMU's isa-debug-exit: a byte `v` written there ends the emulator with status `2 * v + 1`. Elsewhere nothing answers.
const EXIT_PORT: Port = Port(0xf4);

/// Why Kerf stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// All guests powered off.
    PowerOff,
    /// A guest ended by the test port, with this status.
    Exit(u8),
    /// A guest asked for a reset, which is no clean end.
    Reset,
    /// A guest crashed.
    Crashed,
    /// Kerf itself did, or it could not start.
    Panic,
}

impl Verdict {
    const fn status(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Exit(status) => status,
            Self::Crashed => 0x7f,
            Self::Panic => 0x7e,
            Self::Reset => 0x7d,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("poweroff"),
            Self::Exit(status) => write!(f, "exit {status}"),
            Self::Reset => f.write_str("reset"),
            Self::Crashed => f.write_str("crashed"),
            Self::Panic => f.write_str("panic"),
        }
    }
}

/// Lets the console drain and tells the emulator the verdict. Where there is none to hear it, powers the machine off after a
/// clean end, and halts after any other, so that the machine can be looked at.
pub(crate) fn stop(verdict: Verdict) -> ! {
    platform::interrupts_off();
    console::drain();
    Ports.write(EXIT_PORT, Width::W1, u32::from(verdict.status()));
    if verdict == Verdict::PowerOff {
        acpi::power_off();
    }
    platform::halt_forever()
}
