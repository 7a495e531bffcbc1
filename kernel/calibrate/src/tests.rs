//! Clocks of a model, sound and not.

use std::cell::Cell;

use super::*;

const TSC_HZ: u64 = 2_000_000_000;
const TIMER_HZ: u64 = 25_000_000;
/// The ACPI timer's.
const SCALE: Scale = Scale { hz: 3_579_545, mask: 0xff_ffff };

/// A machine on which time passes by reading clocks.
struct Model {
    /// In nanoseconds.
    now: Cell<u64>,
    counter_hz: u64,
    /// When the counter stops.
    stops: u64,
    /// Every so many reads of the counter something holds the CPU up for a millisecond.
    held_up: u64,
    reads: Cell<u64>,
    mask: u64,
}

impl Model {
    fn sound() -> Self {
        Self {
            now: Cell::new(0),
            counter_hz: SCALE.hz,
            stops: u64::MAX,
            held_up: u64::MAX,
            reads: Cell::new(0),
            mask: SCALE.mask,
        }
    }

    fn pass(&self, ns: u64) -> u64 {
        self.now.set(self.now.get() + ns);
        self.now.get()
    }
}

fn ticks(ns: u64, hz: u64) -> u64 {
    (u128::from(ns) * u128::from(hz) / 1_000_000_000) as u64
}

impl Clocks for Model {
    fn counter(&self) -> u64 {
        self.reads.set(self.reads.get() + 1);
        let shown = ticks(self.pass(1000).min(self.stops), self.counter_hz) & self.mask;
        if self.reads.get().is_multiple_of(self.held_up) {
            self.pass(1_000_000);
        }
        shown
    }

    fn tsc(&self) -> u64 {
        ticks(self.pass(10), TSC_HZ)
    }

    fn timer(&self) -> u32 {
        u32::MAX - ticks(self.pass(500), TIMER_HZ) as u32
    }
}

fn is_right(window: &Window) -> bool {
    let rates = window.rates_at(window.tsc_hz());
    window.agrees_with(TSC_HZ)
        && rates.tsc_hz.abs_diff(TSC_HZ) < TSC_HZ / 1000
        && rates.apic_hz.abs_diff(TIMER_HZ) < TIMER_HZ / 500
}

#[test]
fn clocks_are_measured_by_a_sound_counter() {
    let window = measure(&Model { now: Cell::new(77_777), ..Model::sound() }, SCALE, 100).unwrap();
    assert!(is_right(&window), "{window:?}");
    assert!(!window.agrees_with(TSC_HZ / 2) && !window.agrees_with(TSC_HZ * 11 / 10));
}

#[test]
fn a_counter_that_goes_round_is_followed() {
    let model = Model { mask: 0xfff, ..Model::sound() };
    let window = measure(&model, Scale { mask: 0xfff, ..SCALE }, 100).unwrap();
    assert!(is_right(&window), "{window:?}");
}

#[test]
fn a_counter_that_stands_still_is_given_up_in_time() {
    let model = Model { stops: 0, ..Model::sound() };
    assert_eq!(measure(&model, SCALE, 100), Err(Fault::Still));
    assert!(model.now.get() < 1_000_000_000);
}

#[test]
fn a_counter_that_stops_amid_the_measurement_is_given_up() {
    let model = Model { stops: 3_000_000, ..Model::sound() };
    assert_eq!(measure(&model, SCALE, 100), Err(Fault::Still));
}

#[test]
fn a_counter_far_slower_than_it_claims_is_given_up() {
    let model = Model { counter_hz: 200, ..Model::sound() };
    assert_eq!(measure(&model, SCALE, 100), Err(Fault::Slow));
}

#[test]
fn what_holds_the_cpu_up_between_two_reads_does_no_harm() {
    let model = Model { held_up: 3, ..Model::sound() };
    let window = measure(&model, SCALE, 100).unwrap();
    assert!(is_right(&window), "{window:?}");
}
