//! How Kerf ends, and how it tells whoever started the machine.

use core::fmt;

use hw::{Port, PortBus, Width};

use crate::platform::{self, Ports};
use crate::{acpi, console};

/// QEMU's isa-debug-exit: a byte `v` written there ends the emulator with status `2 * v + 1`. Elsewhere nothing answers.
const EXIT_PORT: Port = Port(0xf4);

/// How a guest ended, all of them together, or Kerf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The guest powered itself off.
    PowerOff,
    /// The monitor stopped it.
    Stopped,
    /// It ended by the test port, with this status.
    Exit(u8),
    /// It asked for a reset, which is no clean end.
    Reset,
    /// It crashed.
    Crashed,
    /// It could not be started.
    NotStarted,
    /// Kerf itself failed, or it could not start.
    Panic,
}

impl Verdict {
    const fn status(self) -> u8 {
        match self {
            Self::PowerOff | Self::Stopped => 0,
            Self::Exit(status) => status,
            Self::NotStarted => 0x7c,
            Self::Crashed => 0x7f,
            Self::Panic => 0x7e,
            Self::Reset => 0x7d,
        }
    }

    /// How bad it is.
    const fn weight(self) -> u8 {
        match self {
            Self::PowerOff => 0,
            Self::Stopped => 1,
            Self::Exit(0) => 2,
            Self::Exit(_) => 3,
            Self::Reset => 4,
            Self::NotStarted => 5,
            Self::Crashed => 6,
            Self::Panic => 7,
        }
    }

    /// The worse of two.
    pub(crate) const fn worse(self, other: Self) -> Self {
        if self.weight() < other.weight() { other } else { self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PowerOff => f.write_str("poweroff"),
            Self::Stopped => f.write_str("stopped"),
            Self::Exit(status) => write!(f, "exit {status}"),
            Self::Reset => f.write_str("reset"),
            Self::Crashed => f.write_str("crashed"),
            Self::NotStarted => f.write_str("not started"),
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
    if matches!(verdict, Verdict::PowerOff | Verdict::Stopped) {
        acpi::power_off();
    }
    platform::halt_forever()
}

/// Restarts the machine: by the way that its tables name, by the chipset's reset port, by the keyboard controller, and if
/// nothing else does it by a triple fault.
pub(crate) fn reboot() -> ! {
    /// PCI chipsets' reset control (ICH9 datasheet, 13.7.5): bit 1 chooses a hard reset, bit 2 does it.
    const RESET_CONTROL: Port = Port(0xcf9);
    /// The keyboard controller's command port, and the command that pulses its output 0, the reset line (8042).
    const KEYBOARD: Port = Port(0x64);
    const PULSE_RESET: u32 = 0xfe;
    platform::interrupts_off();
    console::say(format_args!("rebooting"));
    console::drain();
    acpi::reset();
    for (port, value) in [(RESET_CONTROL, 2), (RESET_CONTROL, 6), (KEYBOARD, PULSE_RESET)] {
        Ports.write(port, Width::W1, value);
        pause();
    }
    platform::triple_fault()
}

/// Long enough for a machine to reset itself.
fn pause() {
    let since = platform::rdtsc();
    while platform::rdtsc().wrapping_sub(since) < 100_000_000 {
        core::hint::spin_loop();
    }
}
