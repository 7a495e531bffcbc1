//! How fast the clocks run.
//!
//! The CPU may say what its TSC counts (CPUID 15h and 16h), and may be wrong about it: emulators and hypervisors pass
//! the leaf of one machine on to another. So what it says is checked against a counter of known frequency, where one
//! counts. Every wait ends: a counter that stands still is skipped.

use firmware::Machine;
use hw::CpuidBus;
use x86_spec::apic::{Lvt, lapic as reg};
use x86_spec::cpuid;

use super::counters::Counter;
use super::lapic::Lapic;
use crate::platform::{CpuId, rdtsc};

/// How fast the clocks of a CPU run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Ticks of the TSC in a second.
    pub(crate) tsc_hz: u64,
    /// Ticks of the local APIC's timer in a second, undivided.
    pub(crate) apic_hz: u64,
}

/// One measurement: ticks of both clocks over the same time.
#[derive(Clone, Copy, Debug)]
struct Window {
    tsc: u64,
    apic: u64,
    /// Ticks of the counter, and its frequency.
    ticks: u64,
    hz: u64,
}

/// Part of a second that a measurement takes: 10 ms, by which the 1 µs that reading a counter takes is 1 in 10,000.
const MEASURE: u64 = 100;
/// Part of a second that checking a claim takes.
const CHECK: u64 = 1000;
/// Reads of a counter in a row that show the same value before it is taken to stand still.
const STILL_READS: u32 = 100_000;
/// Reads after which a measurement is given up: at a microsecond each ten seconds, a thousand times what it should take.
/// A counter may claim a frequency that it is far from.
const MOST_READS: u32 = 10_000_000;
/// Further tries at reading all clocks at once.
const MOMENT_TRIES: u32 = 7;
/// A claim may be off by one part in this many.
const TOLERANCE: u64 = 50;
/// What is assumed where nothing is known.
pub(super) const ASSUMED_HZ: u64 = 1_000_000_000;

/// Finds the rates.
pub(super) fn run(machine: &Machine, lapic: &Lapic) -> Rates {
    // Masked, it only counts.
    lapic.write(reg::LVT_TIMER, Lvt::MASKED | u32::from(super::TIMER));
    let claimed = claimed_hz();
    let part = if claimed.is_some() { CHECK } else { MEASURE };
    let found = Counter::all(machine).find_map(|counter| {
        let window = measure(&counter, lapic, part);
        if window.is_none() {
            log::warn!("the {} stands still or is far too slow; not used", counter.name);
        }
        window.map(|window| (counter, window))
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
            let longer = measure(&counter, lapic, MEASURE).unwrap_or(window);
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

impl Window {
    fn tsc_hz(&self) -> u64 {
        (u128::from(self.tsc) * u128::from(self.hz) / u128::from(self.ticks)) as u64
    }

    fn agrees_with(&self, hz: u64) -> bool {
        self.tsc_hz().abs_diff(hz) <= hz / TOLERANCE
    }

    fn rates_at(&self, tsc_hz: u64) -> Rates {
        let apic_hz = u128::from(self.apic) * u128::from(tsc_hz) / u128::from(self.tsc.max(1));
        Rates { tsc_hz: tsc_hz.max(1), apic_hz: (apic_hz as u64).max(1) }
    }
}

/// Counts both clocks for one `part`-th of a second by `counter`; `None` where it stands still or takes forever.
fn measure(counter: &Counter, lapic: &Lapic, part: u64) -> Option<Window> {
    let mut clocks = Clocks { counter, lapic, last: counter.read(), ticks: 0 };
    lapic.write(reg::TIMER_INITIAL, u32::MAX);
    let start = clocks.moment();
    let wanted = start.ticks + counter.hz / part;
    let mut still = 0;
    for read in 0.. {
        let before = clocks.last;
        if clocks.ticks() >= wanted {
            break;
        }
        still = if clocks.last == before { still + 1 } else { 0 };
        if still == STILL_READS || read == MOST_READS {
            return None;
        }
    }
    let end = clocks.moment();
    lapic.write(reg::TIMER_INITIAL, 0);
    Some(Window {
        tsc: end.tsc.wrapping_sub(start.tsc),
        apic: start.apic.saturating_sub(end.apic).into(),
        ticks: end.ticks - start.ticks,
        hz: counter.hz,
    })
}

/// The clocks while they are compared.
struct Clocks<'a> {
    counter: &'a Counter,
    lapic: &'a Lapic,
    /// What the counter last showed, and its ticks until then.
    last: u64,
    ticks: u64,
}

/// What all clocks show at one moment.
#[derive(Clone, Copy)]
struct Moment {
    tsc: u64,
    ticks: u64,
    /// It counts down.
    apic: u32,
}

impl Clocks<'_> {
    /// The counter's ticks until now. Asked often enough for the narrowest counter not to go round in between.
    fn ticks(&mut self) -> u64 {
        let now = self.counter.read();
        self.ticks += now.wrapping_sub(self.last) & self.counter.mask;
        self.last = now;
        self.ticks
    }

    /// Reads all clocks as nearly at once as a few tries find it: what holds the CPU up between two reads (firmware, or a
    /// host below) would be time for one clock and none for the other.
    fn moment(&mut self) -> Moment {
        let mut read = || {
            let tsc = rdtsc();
            let moment =
                Moment { tsc, ticks: self.ticks(), apic: self.lapic.read(reg::TIMER_CURRENT) };
            (rdtsc().wrapping_sub(tsc), moment)
        };
        let first = read();
        let later = (0..MOMENT_TRIES).map(|_| read());
        later.fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
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
    let apic = apic.saturating_sub(lapic.read(reg::TIMER_CURRENT)).into();
    lapic.write(reg::TIMER_INITIAL, 0);
    Window { tsc, apic, ticks: tsc, hz: tsc_hz }.rates_at(tsc_hz)
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
