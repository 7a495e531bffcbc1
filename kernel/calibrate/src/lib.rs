//! How fast the clocks of a CPU run, measured by a counter of known frequency.
//!
//! Every measurement ends: a counter that stands still or is far too slow is found out ([`Fault`]). Away from the machine,
//! so that the tests can bring counters that do.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

/// Reads of a counter in a row that show the same value before it is taken to stand still.
const STILL_READS: u32 = 100_000;
/// Reads after which a measurement is given up: at a microsecond each ten seconds, a thousand times what it should take.
/// A counter may claim a frequency that it is far from.
const MOST_READS: u32 = 10_000_000;
/// Further tries at reading all clocks at once.
const MOMENT_TRIES: u32 = 7;
/// A claim may be off by one part in this many.
const TOLERANCE: u64 = 50;

/// How fast the clocks of a CPU run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Ticks of the TSC in a second.
    pub tsc_hz: u64,
    /// Ticks of the local APIC's timer in a second, undivided.
    pub apic_hz: u64,
}

/// The clocks that are compared.
pub trait Clocks {
    /// The counter of known frequency: counts up.
    fn counter(&self) -> u64;
    /// The TSC.
    fn tsc(&self) -> u64;
    /// The local timer: counts down, from its highest value at the measurement's start.
    fn timer(&self) -> u32;
}

/// A counter's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Its frequency.
    pub hz: u64,
    /// It counts modulo this plus one.
    pub mask: u64,
}

/// Why a counter measures nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It stands still.
    Still,
    /// It is far slower than it should be.
    Slow,
}

/// One measurement: ticks of all clocks over the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Of the TSC.
    pub tsc: u64,
    /// Of the local timer.
    pub timer: u64,
    /// Of the counter, and its frequency.
    pub ticks: u64,
    /// The counter's frequency.
    pub hz: u64,
}

impl Window {
    /// The TSC's frequency by the counter.
    #[must_use]
    pub fn tsc_hz(&self) -> u64 {
        (u128::from(self.tsc) * u128::from(self.hz) / u128::from(self.ticks.max(1))) as u64
    }

    /// Whether the TSC's frequency may be `hz`.
    #[must_use]
    pub fn agrees_with(&self, hz: u64) -> bool {
        self.tsc_hz().abs_diff(hz) <= hz / TOLERANCE
    }

    /// The rates, where the TSC's is known.
    #[must_use]
    pub fn rates_at(&self, tsc_hz: u64) -> Rates {
        let timer = u128::from(self.timer) * u128::from(tsc_hz) / u128::from(self.tsc.max(1));
        Rates { tsc_hz: tsc_hz.max(1), apic_hz: (timer as u64).max(1) }
    }
}

/// Compares the clocks for one `part`-th of a second. The local timer was started just before.
///
/// # Errors
/// [`Fault`] where the counter stands still or takes forever.
pub fn measure(clocks: &impl Clocks, scale: Scale, part: u64) -> Result<Window, Fault> {
    let mut reader = Reader { clocks, mask: scale.mask, last: clocks.counter(), ticks: 0 };
    let start = reader.moment();
    let wanted = start.ticks + scale.hz / part;
    let mut still = 0;
    for read in 0.. {
        let before = reader.last;
        if reader.ticks() >= wanted {
            break;
        }
        still = if reader.last == before { still + 1 } else { 0 };
        if still == STILL_READS {
            return Err(Fault::Still);
        }
        if read == MOST_READS {
            return Err(Fault::Slow);
        }
    }
    let end = reader.moment();
    Ok(Window {
        tsc: end.tsc.wrapping_sub(start.tsc),
        timer: start.timer.saturating_sub(end.timer).into(),
        ticks: end.ticks - start.ticks,
        hz: scale.hz,
    })
}

/// The clocks while they are compared.
struct Reader<'a, C> {
    clocks: &'a C,
    mask: u64,
    /// What the counter last showed, and its ticks until then.
    last: u64,
    ticks: u64,
}

/// What all clocks show at one moment.
#[derive(Clone, Copy)]
struct Moment {
    tsc: u64,
    ticks: u64,
    timer: u32,
}

impl<C: Clocks> Reader<'_, C> {
    /// The counter's ticks until now. Asked often enough for the narrowest counter not to go round in between.
    fn ticks(&mut self) -> u64 {
        let now = self.clocks.counter();
        self.ticks += now.wrapping_sub(self.last) & self.mask;
        self.last = now;
        self.ticks
    }

    /// Reads all clocks as nearly at once as a few tries find it: what holds the CPU up between two reads (firmware, or a
    /// host below) would be time for one clock and none for the other.
    fn moment(&mut self) -> Moment {
        let mut read = || {
            let tsc = self.clocks.tsc();
            let moment = Moment { tsc, ticks: self.ticks(), timer: self.clocks.timer() };
            (self.clocks.tsc().wrapping_sub(tsc), moment)
        };
        let first = read();
        let later = (0..MOMENT_TRIES).map(|_| read());
        later.fold(first, |best, next| if next.0 < best.0 { next } else { best }).1
    }
}
