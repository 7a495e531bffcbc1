//! Power management: the ACPI PM timer, the sleep registers of the hardware-reduced model (ACPI 6.5, 4.8.3.3 and 4.8.3.7),
//! and the ports by which PCs are reset.

use hw::{Port, Width};

use crate::platform::{PortWindow, part_of_dword};

/// Its ports.
pub const PORTS: PortWindow = PortWindow { first: Port(0x600), count: 0x10 };
/// Offset of the sleep control register, one byte.
pub const SLEEP_CONTROL: u64 = 0;
/// Offset of the sleep status register, one byte.
pub const SLEEP_STATUS: u64 = 1;
/// Offset of the PM timer, four bytes; the very port it has on the chip sets that PCs come with.
pub const TIMER: u64 = 8;
/// Sleep type of S5, as the DSDT's `\_S5` says.
pub const SLEEP_TYPE_S5: u8 = 5;
/// The reset control register of PCI chip sets: bit 2 resets.
pub const RESET_CONTROL: Port = Port(0xcf9);
/// What to write to [`RESET_CONTROL`] for a whole reset.
pub const RESET_VALUE: u8 = 6;
/// The keyboard controller's command port: command 0xfe pulses the reset line.
pub const KEYBOARD_COMMAND: Port = Port(0x64);

/// The PM timer's frequency in Hz (ACPI 6.5, 4.8.2.1).
pub const TIMER_HZ: u64 = 3_579_545;

/// What the guest asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerRequest {
    /// Sleep state S5.
    PowerOff,
    /// Reset of the whole machine.
    Reset,
}

/// Whether a write to `port` resets the machine: [`RESET_CONTROL`] and [`KEYBOARD_COMMAND`].
#[must_use]
pub fn reset_by_port(port: Port, width: Width, value: u64) -> Option<PowerRequest> {
    let resets = match port {
        RESET_CONTROL => value & 4 != 0,
        KEYBOARD_COMMAND => value & 0xff == 0xfe,
        _ => false,
    };
    (resets && width == Width::W1).then_some(PowerRequest::Reset)
}

/// The power-management block.
#[derive(Clone, Debug)]
pub struct PowerManagement {
    /// PM timer ticks in a TSC tick, times 2^64.
    scale: u64,
}

impl PowerManagement {
    /// The block for a guest whose TSC runs at `tsc_khz`, at least 4 MHz (a timer faster than its source is none).
    #[must_use]
    pub fn new(tsc_khz: u32) -> Self {
        let tsc_hz = u128::from(tsc_khz.max(4_000)) * 1000;
        let scale = (u128::from(TIMER_HZ) << 64) / tsc_hz;
        Self { scale: u64::try_from(scale).unwrap_or(u64::MAX) }
    }

    /// The PM timer, all 32 bits of it.
    #[must_use]
    pub fn timer(&self, now: u64) -> u32 {
        ((u128::from(now) * u128::from(self.scale)) >> 64) as u32
    }

    /// Reads a register.
    pub fn read(&self, offset: u64, width: Width, now: u64) -> u64 {
        match offset {
            SLEEP_CONTROL | SLEEP_STATUS => 0,
            TIMER..0xc => part_of_dword(self.timer(now), offset, width),
            _ => width.mask(),
        }
    }

    /// Writes a register.
    pub fn write(&self, offset: u64, _width: Width, value: u64, _now: u64) -> Option<PowerRequest> {
        let enable = value & 1 << 5 != 0;
        let sleep_type = (value >> 2 & 7) as u8;
        let off = offset == SLEEP_CONTROL && enable && sleep_type == SLEEP_TYPE_S5;
        off.then_some(PowerRequest::PowerOff)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_timer_counts_its_frequency_in_a_second_of_tsc() {
        for tsc_khz in [1_000_000, 2_112_004, 3_000_000, 100_000] {
            let pm = PowerManagement::new(tsc_khz);
            let second = u64::from(tsc_khz) * 1000;
            let counted = pm.read(TIMER, Width::W4, second);
            assert!((TIMER_HZ - 1..=TIMER_HZ).contains(&counted), "{tsc_khz}: {counted}");
        }
    }

    #[test]
    fn the_timer_wraps_at_32_bits() {
        let pm = PowerManagement::new(1_000_000);
        let wrap = (1_u64 << 32) * 1_000_000_000 / TIMER_HZ;
        assert!(pm.timer(wrap - 1000) > 0xffff_0000);
        assert!(pm.timer(wrap + 1000) < 0x1_0000);
    }

    #[test]
    fn only_s5_with_sleep_enable_powers_off() {
        let pm = PowerManagement::new(1_000_000);
        assert_eq!(pm.write(SLEEP_CONTROL, Width::W1, 0x34, 0), Some(PowerRequest::PowerOff));
        for value in [0, 0x14, 0x20, 0x24, 0x30] {
            assert_eq!(pm.write(SLEEP_CONTROL, Width::W1, value, 0), None);
        }
        assert_eq!(pm.write(SLEEP_STATUS, Width::W1, 0x34, 0), None);
    }

    #[test]
    fn the_pc_reset_ports_reset() {
        let reset = Some(PowerRequest::Reset);
        assert_eq!(reset_by_port(RESET_CONTROL, Width::W1, RESET_VALUE.into()), reset);
        assert_eq!(reset_by_port(RESET_CONTROL, Width::W1, 2), None);
        assert_eq!(reset_by_port(KEYBOARD_COMMAND, Width::W1, 0xfe), reset);
        assert_eq!(reset_by_port(KEYBOARD_COMMAND, Width::W1, 0xd1), None);
        assert_eq!(reset_by_port(Port(0x60), Width::W1, 0xfe), None);
    }

    proptest! {
        #[test]
        fn no_access_panics(tsc_khz: u32, offset: u64, width in 0_u32..4, value: u64, now: u64) {
            let pm = PowerManagement::new(tsc_khz);
            let width = Width::try_new(1 << width).unwrap();
            prop_assert!(pm.read(offset, width, now) <= width.mask());
            pm.write(offset, width, value, now);
        }
    }
}
