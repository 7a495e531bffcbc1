//! The paravirtual clock that Linux guests of every distribution know from KVM (Linux, Documentation/virt/kvm/x86/msr.rst
//! and cpuid.rst): two MSRs by which a guest names memory, and what is written there tells it the TSC's rate and the time.
//!
//! Why: without it Linux measures its TSC by timing three reads of the PM timer at a stretch and gives up where they take
//! longer than 50,000 cycles (`pit_hpet_ptimer_calibrate_cpu`). Where an exit costs thousands of cycles, as on an emulator
//! or a loaded host, that fails now and then, and a guest of another vendor than Intel then has no timer at all. The
//! signature at 0x40000000 stays Kerf's: a guest that looks for this interface scans on in steps of 0x100.
//!
//! The guest's TSC never changes its rate, so each structure is written once, when the guest asks for it.

use hw::{Gpa, Msr};

use crate::GuestMemory;

/// MSR_KVM_WALL_CLOCK_NEW: where to write the wall-clock time at which system time was 0.
const WALL_CLOCK: Msr = Msr(0x4b56_4d00);
/// MSR_KVM_SYSTEM_TIME_NEW: where the time structure is; bit 0 enables it.
const SYSTEM_TIME: Msr = Msr(0x4b56_4d01);
/// [`SYSTEM_TIME`]: enabled.
const ENABLE: u64 = 1 << 0;
/// Flags of the time structure, PVCLOCK_TSC_STABLE_BIT: every CPU reads the same time.
const TSC_STABLE: u8 = 1 << 0;
/// A version that says "not being written".
const VERSION: u32 = 2;

/// The clock of one virtual CPU.
#[derive(Clone, Debug)]
pub(crate) struct PvClock {
    scale: Scale,
    wall_clock: u64,
    system_time: u64,
}

/// Nanoseconds in a TSC tick: `2^shift * mul / 2^32`, with the highest bit of `mul` set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Scale {
    mul: u32,
    shift: i8,
}

impl Scale {
    /// The scale of a TSC at `tsc_khz`.
    fn new(tsc_khz: u32) -> Self {
        // Nanoseconds in a tick with 64 fraction bits: between 2^51 (4 THz) and 2^84 (1 kHz).
        let ratio = (1_000_000u128 << 64) / u128::from(tsc_khz.max(1));
        let top = 127 - ratio.leading_zeros() as i32;
        Self { mul: (ratio >> (top - 31)) as u32, shift: (top - 63) as i8 }
    }

    /// Nanoseconds in `ticks`, as a guest computes them.
    fn nanoseconds(self, ticks: u64) -> u64 {
        let bits = u32::from(self.shift.unsigned_abs());
        let shifted =
            if self.shift < 0 { ticks.checked_shr(bits) } else { ticks.checked_shl(bits) };
        let shifted = shifted.unwrap_or(0);
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }
}

impl PvClock {
    /// The clock of a guest whose TSC runs at `tsc_khz` and read 0 when its system time was 0.
    pub(crate) fn new(tsc_khz: u32) -> Self {
        Self { scale: Scale::new(tsc_khz), wall_clock: 0, system_time: 0 }
    }

    /// What the guest wrote.
    pub(crate) const fn to_words(&self) -> [u64; 2] {
        [self.wall_clock, self.system_time]
    }

    /// Takes up what the guest wrote; the structures are in its memory.
    pub(crate) const fn restore(&mut self, [wall_clock, system_time]: [u64; 2]) {
        (self.wall_clock, self.system_time) = (wall_clock, system_time);
    }

    /// Whether `msr` is one of the clock's.
    pub(crate) const fn owns_msr(msr: Msr) -> bool {
        matches!(msr, WALL_CLOCK | SYSTEM_TIME)
    }

    /// RDMSR: what was written last.
    pub(crate) const fn read_msr(&self, msr: Msr) -> u64 {
        if msr.0 == WALL_CLOCK.0 { self.wall_clock } else { self.system_time }
    }

    /// WRMSR when the guest's TSC reads `now` and the time is `unix_time` seconds. An address without memory is the
    /// guest's own loss: it finds no time there.
    pub(crate) fn write_msr(
        &mut self,
        msr: Msr,
        value: u64,
        now: u64,
        unix_time: u64,
        memory: &impl GuestMemory,
    ) {
        let elapsed = self.scale.nanoseconds(now);
        let written = if msr == WALL_CLOCK {
            self.wall_clock = value;
            memory.write(Gpa::new(value), &wall_clock(unix_time, elapsed))
        } else {
            self.system_time = value;
            if value & ENABLE == 0 {
                return;
            }
            memory.write(Gpa::new(value & !ENABLE), &self.time(now, elapsed))
        };
        if let Err(absent) = written {
            log::debug!("a guest's clock would be at {}, where it has no memory", absent.0);
        }
    }

    /// `struct pvclock_vcpu_time_info`, 32 bytes.
    fn time(&self, now: u64, elapsed: u64) -> [u8; 32] {
        let mut bytes = [0; 32];
        let [v0, v1, v2, v3] = VERSION.to_le_bytes();
        let fields = [v0, v1, v2, v3, 0, 0, 0, 0]
            .into_iter()
            .chain(now.to_le_bytes())
            .chain(elapsed.to_le_bytes())
            .chain(self.scale.mul.to_le_bytes())
            .chain([self.scale.shift.cast_unsigned(), TSC_STABLE]);
        bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
        bytes
    }
}

/// `struct pvclock_wall_clock`, 12 bytes: the time at which system time was 0.
fn wall_clock(unix_time: u64, elapsed: u64) -> [u8; 12] {
    const BILLION: u64 = 1_000_000_000;
    let start = unix_time.saturating_mul(BILLION).saturating_sub(elapsed);
    let mut bytes = [0; 12];
    let fields = VERSION
        .to_le_bytes()
        .into_iter()
        .chain(((start / BILLION) as u32).to_le_bytes())
        .chain(((start % BILLION) as u32).to_le_bytes());
    bytes.iter_mut().zip(fields).for_each(|(byte, field)| *byte = field);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bench::Memory;

    /// What Linux makes of a scale (`pvclock_tsc_khz`).
    fn khz_by_the_guest(scale: Scale) -> u64 {
        let khz = (1_000_000u64 << 32) / u64::from(scale.mul);
        if scale.shift < 0 { khz << scale.shift.unsigned_abs() } else { khz >> scale.shift }
    }

    #[test]
    fn a_guest_gets_the_rate_back() {
        for khz in [1_000, 100_000, 999_999, 1_000_000, 1_995_268, 2_000_000, 5_300_000] {
            let scale = Scale::new(khz);
            assert!(scale.mul >= 1 << 31);
            assert!(khz_by_the_guest(scale).abs_diff(khz.into()) <= 1, "{khz}: {scale:?}");
            let second = scale.nanoseconds(u64::from(khz) * 1000);
            assert!(second.abs_diff(1_000_000_000) <= 2, "{khz}: {second}");
        }
        assert_eq!(Scale::new(1_000_000), Scale { mul: 1 << 31, shift: 1 });
    }

    #[test]
    fn the_structures_have_the_documented_bytes() {
        let memory = Memory::new(0x3000);
        let mut clock = PvClock::new(1_000_000);
        clock.write_msr(SYSTEM_TIME, 0x1000 | ENABLE, 5_000, 0, &memory);
        assert_eq!(memory.get::<4>(0x1000), VERSION.to_le_bytes());
        assert_eq!(memory.get_u64(0x1008), 5_000, "TSC");
        assert_eq!(memory.get_u64(0x1010), 5_000, "nanoseconds");
        assert_eq!(memory.get::<4>(0x1018), (1u32 << 31).to_le_bytes());
        assert_eq!(memory.get::<4>(0x101c), [1, TSC_STABLE, 0, 0]);
        clock.write_msr(WALL_CLOCK, 0x2000, 250_000_000, 1_700_000_001, &memory);
        assert_eq!(memory.get::<4>(0x2004), 1_700_000_000u32.to_le_bytes());
        assert_eq!(memory.get::<4>(0x2008), 750_000_000u32.to_le_bytes());
        assert_eq!(clock.read_msr(WALL_CLOCK), 0x2000);
        assert_eq!(clock.read_msr(SYSTEM_TIME), 0x1001);
    }

    #[test]
    fn a_clock_that_is_off_or_outside_memory_writes_nothing() {
        let memory = Memory::new(0x1000);
        let mut clock = PvClock::new(1_000_000);
        clock.write_msr(SYSTEM_TIME, 0x800, 5_000, 0, &memory);
        assert_eq!(memory.get::<32>(0x800), [0; 32]);
        clock.write_msr(SYSTEM_TIME, 0xfff0_0000 | ENABLE, 5_000, 0, &memory);
        clock.write_msr(WALL_CLOCK, u64::MAX, 5_000, 0, &memory);
    }
}
