//! Counters of known frequency, by which the TSC's is found: the ACPI timer, the HPET, and channel 2 of the PIT.

use firmware::Machine;
use hw::{Port, PortBus, Width};

use crate::mem;
use crate::platform::{Mmio, Ports};

/// A counter that counts up, modulo `mask + 1`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counter {
    /// For messages.
    pub(super) name: &'static str,
    /// Its frequency.
    pub(super) hz: u64,
    /// Its width.
    pub(super) mask: u64,
    source: Source,
}

#[derive(Clone, Copy, Debug)]
enum Source {
    AcpiTimer(Port),
    Hpet(Mmio),
    Pit,
}

// HPET registers (HPET specification 1.0a, 2.3).
const HPET_BYTES: u64 = 0x400;
const HPET_PERIOD: u64 = 0x004;
const HPET_CONFIG: u64 = 0x010;
const HPET_COUNTER: u64 = 0x0f0;
/// HPET configuration: count.
const HPET_ENABLE: u32 = 1;
/// The longest period that the specification allows, in femtoseconds.
const HPET_LONGEST_PERIOD: u32 = 100_000_000;

const PIT_CHANNEL2: Port = Port(0x42);
const PIT_COMMAND: Port = Port(0x43);
/// Bit 0 gates channel 2, bit 1 lets it drive the speaker.
const PIT_GATE: Port = Port(0x61);

impl Counter {
    /// All that the machine may have, the best first. Whether they count is for the caller to see.
    pub(super) fn all(machine: &Machine) -> impl Iterator<Item = Self> {
        let acpi = machine.pm_timer.map(|timer| Self {
            name: "ACPI timer",
            hz: 3_579_545,
            mask: (1 << timer.bits) - 1,
            source: Source::AcpiTimer(timer.port),
        });
        let hpet = machine.hpet;
        let hpet = move || hpet.and_then(|at| Self::hpet(mem::map_mmio(at, HPET_BYTES)?));
        // The later ones are touched only when they are asked for.
        acpi.into_iter()
            .chain(core::iter::once_with(hpet).flatten())
            .chain(core::iter::once_with(Self::pit))
    }

    fn hpet(registers: Mmio) -> Option<Self> {
        let period = registers.read32(HPET_PERIOD);
        if period == 0 || period > HPET_LONGEST_PERIOD {
            return None;
        }
        let config = registers.read32(HPET_CONFIG);
        registers.write32(HPET_CONFIG, config | HPET_ENABLE);
        Some(Self {
            name: "HPET",
            hz: 1_000_000_000_000_000 / u64::from(period),
            mask: u32::MAX.into(),
            source: Source::Hpet(registers),
        })
    }

    /// Sets channel 2 of the PIT counting down from 65536, over and over.
    fn pit() -> Self {
        /// Channel 2, low byte then high, rate generator.
        const MODE: u32 = 0b1011_0100;
        let gate = Ports.read(PIT_GATE, Width::W1);
        Ports.write(PIT_GATE, Width::W1, gate & !0b11 | 0b01);
        Ports.write(PIT_COMMAND, Width::W1, MODE);
        Ports.write(PIT_CHANNEL2, Width::W1, 0);
        Ports.write(PIT_CHANNEL2, Width::W1, 0);
        Self { name: "PIT", hz: 1_193_182, mask: 0xffff, source: Source::Pit }
    }

    /// Its value now.
    pub(super) fn read(&self) -> u64 {
        match self.source {
            Source::AcpiTimer(port) => u64::from(Ports.read(port, Width::W4)) & self.mask,
            Source::Hpet(registers) => registers.read32(HPET_COUNTER).into(),
            Source::Pit => {
                /// Latch the count of channel 2.
                const LATCH: u32 = 0b1000_0000;
                Ports.write(PIT_COMMAND, Width::W1, LATCH);
                let low = Ports.read(PIT_CHANNEL2, Width::W1);
                let high = Ports.read(PIT_CHANNEL2, Width::W1);
                // It counts down.
                u64::from(low | high << 8).wrapping_neg() & self.mask
            }
        }
    }
}
