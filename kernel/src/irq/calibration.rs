//! Finding how fast the clocks run.
//!
//! The CPU may say what its TSC counts (CPUID 15h and 16h), and may be wrong about it: emulators and hypervisors pass
//! the leaf of one machine on to another. So what it says is checked against a counter of known frequency, where one
//! counts ([`calibrate`]). A counter that stands still is told of and skipped.

use calibrate::{Clocks, Fault, Rates, Scale, Window, measure};
use firmware::Machine;
use hw::CpuidBus;
use x86_spec::apic::{Lvt, lapic as reg};
use x86_spec::cpuid;

use super::counters::Counter;
use super::lapic::Lapic;
use crate::platform::{CpuId, rdtsc};

/// Part of a second that a measurement takes: 10 ms, by which the 1 µs that reading a counter takes is 1 in 10,000.
const MEASURE: u64 = 100;
/// Part of a second that checking a claim takes.
const CHECK: u64 = 1000;
/// Reads of the TSC until it must have moved on by that.
const MOST_READS: u32 = 10_000_000;
/// What is assumed where nothing is known.
pub(super) const ASSUMED_HZ: u64 = 1_000_000_000;

/// Finds the rates.
pub(super) fn run(machine: &Machine, lapic: &Lapic) -> Rates {
    // Masked, it only counts.
    lapic.write(reg::LVT_TIMER, Lvt::MASKED | u32::from(super::TIMER));
    let claimed = claimed_hz();
    let part = if claimed.is_some() { CHECK } else { MEASURE };
    let found = Counter::all(machine).find_map(|counter| match compare(&counter, lapic, part) {
        Ok(window) => Some((counter, window)),
        Err(why) => {
            let why = match why {
                Fault::Still => "stands still",
                Fault::Slow => "is far slower than it should be",
            };
            log::warn!("the {} {why}; it is not used", counter.name);
            None
        }
    });
    match (claimed, found) {
        (Some(hz), Some((_, window))) if window.agrees_with(hz) => window.rates_at(hz),
        (Some(hz), Some((counter, window))) => {
            log::warn!(
                "CPUID claims a TSC of {} kHz, the {} shows {} kHz; the latter is used",
                hz / 1000,
                counter.name,
                window.tsc_hz() / 1000
            );
            let longer = compare(&counter, lapic, MEASURE).unwrap_or(window);
            longer.rates_at(longer.tsc_hz())
        }
        (None, Some((counter, window))) => {
            log::debug!("the TSC was measured by the {}", counter.name);
            window.rates_at(window.tsc_hz())
        }
        (claimed, None) => {
            let hz = claimed.unwrap_or(ASSUMED_HZ);
            if claimed.is_none() {
                log::warn!("no counter counts: the TSC is assumed to run at {} kHz", hz / 1000);
            }
            by_tsc(hz, lapic)
        }
    }
}

/// Counts both clocks for one `part`-th of a second by `counter`.
fn compare(counter: &Counter, lapic: &Lapic, part: u64) -> Result<Window, Fault> {
    lapic.write(reg::TIMER_INITIAL, u32::MAX);
    let scale = Scale { hz: counter.hz, mask: counter.mask };
    let window = measure(&Compared { counter, lapic }, scale, part);
    lapic.write(reg::TIMER_INITIAL, 0);
    window
}

/// The clocks that are compared.
struct Compared<'a> {
    counter: &'a Counter,
    lapic: &'a Lapic,
}

impl Clocks for Compared<'_> {
    fn counter(&self) -> u64 {
        self.counter.read()
    }

    fn tsc(&self) -> u64 {
        rdtsc()
    }

    fn timer(&self) -> u32 {
        self.lapic.read(reg::TIMER_CURRENT)
    }
}

/// Counts the local timer by a TSC of known frequency.
fn by_tsc(tsc_hz: u64, lapic: &Lapic) -> Rates {
    lapic.write(reg::TIMER_INITIAL, u32::MAX);
    let (start, apic) = (rdtsc(), lapic.read(reg::TIMER_CURRENT));
    for _ in 0..MOST_READS {
        if rdtsc().wrapping_sub(start) >= tsc_hz / CHECK {
            break;
        }
        core::hint::spin_loop();
    }
    let tsc = rdtsc().wrapping_sub(start);
    let timer = apic.saturating_sub(lapic.read(reg::TIMER_CURRENT)).into();
    lapic.write(reg::TIMER_INITIAL, 0);
    Window { tsc, timer, ticks: tsc, hz: tsc_hz }.rates_at(tsc_hz)
}

/// What CPUID says of the TSC's frequency (SDM vol. 3, 19.7.3): crystal times ratio; where it does not tell the crystal,
/// the crystal is what makes the ratio give the base frequency.
fn claimed_hz() -> Option<u64> {
    /// CPUID 16h: frequencies of the processor in MHz.
    const FREQUENCIES: u32 = 0x16;
    let highest = CpuId.cpuid(cpuid::VENDOR, 0).eax;
    if highest < cpuid::TSC {
        return None;
    }
    let ratio = CpuId.cpuid(cpuid::TSC, 0);
    let (denominator, numerator) = (u64::from(ratio.eax), u64::from(ratio.ebx));
    if denominator == 0 || numerator == 0 {
        return None;
    }
    if ratio.ecx != 0 {
        return Some(u64::from(ratio.ecx) * numerator / denominator).filter(|&hz| hz != 0);
    }
    let has_leaf = highest >= FREQUENCIES;
    let base_mhz = if has_leaf { u64::from(CpuId.cpuid(FREQUENCIES, 0).eax & 0xffff) } else { 0 };
    (base_mhz != 0).then_some(base_mhz * 1_000_000)
}
