//! Guests that write anything anywhere, and functions that say anything of themselves.

use super::*;
use proptest::prelude::*;

fn any_width() -> impl Strategy<Value = Width> {
    prop::sample::select(std::vec![Width::W1, Width::W2, Width::W4, Width::W8])
}

fn any_capability() -> impl Strategy<Value = Capability> {
    let id = prop::sample::select(std::vec![1, 5, 0x10, 0x11, 9]);
    (any::<u8>(), id, prop::collection::vec(any::<u8>(), 0..70)).prop_map(
        |(offset, id, mut bytes)| {
            if let Some(first) = bytes.first_mut() {
                *first = id;
            }
            Capability { offset: offset.into(), bytes }
        },
    )
}

fn any_shape() -> impl Strategy<Value = Shape> {
    let bar = prop::option::of((0_u64..1 << 25, any::<bool>(), any::<bool>()));
    let bars = prop::array::uniform6(bar);
    let capabilities = || prop::collection::vec(any_capability(), 0..6);
    let through = prop::collection::vec((0..0x1200_u16, 0..0x20_u16), 0..4);
    (bars, capabilities(), capabilities(), through, any::<bool>()).prop_map(
        |(bars, capabilities, mut extended, through, is_nvme)| {
            for capability in &mut extended {
                capability.offset *= 16;
            }
            let bar = |(bytes, is_64bit, prefetchable)| BarShape { bytes, is_64bit, prefetchable };
            let through = through.into_iter().map(|(start, bytes)| start..start + bytes).collect();
            let base = if is_nvme { nvme() } else { Shape { capabilities, extended, ..nvme() } };
            Shape { bars: bars.map(|found| found.map(bar)), through, ..base }
        },
    )
}

/// An access: to configuration space of bus 0 or 1, or to a BAR's memory; one of few registers, mostly.
fn any_access() -> impl Strategy<Value = (u8, u64, Width, u64)> {
    let offset = prop_oneof![0..0x100_u64, 0..0x1000_u64, any::<u64>()];
    let value = prop_oneof![any::<u64>(), Just(u64::MAX), Just(6), 0xc000_0000..0xe000_0000_u64];
    (0..5_u8, offset, any_width(), value)
}

/// What the endpoint has been told is in keeping with itself.
#[derive(Default)]
struct Model {
    placed: std::collections::BTreeMap<u8, u64>,
}

impl Model {
    fn check(&mut self, bench: &Bench, plan: &Plan, shape: &Shape) -> Result<(), TestCaseError> {
        for told in bench.told() {
            match told {
                Told::Place(bar, None) => prop_assert!(self.placed.remove(&bar).is_some()),
                Told::Place(bar, Some(at)) => {
                    let bytes = shape.bar(bar).unwrap().guest_bytes();
                    prop_assert!(at % bytes == 0 && plan.has(at, bytes));
                    let free = self.placed.iter().all(|(other, start)| {
                        let other = shape.bar(*other).unwrap().guest_bytes();
                        start + other <= at || at + bytes <= *start
                    });
                    prop_assert!(free && self.placed.insert(bar, at).is_none());
                }
                Told::ConfigWrite(offset, width, _) => {
                    prop_assert!(offset >= 0x40 && u64::from(offset) % width.bytes() == 0);
                    let bytes = offset..offset + width.bytes() as u16;
                    let is_passed = |at| shape.through.iter().any(|range| range.contains(&at));
                    prop_assert!(bytes.clone().all(is_passed));
                }
                Told::BarWrite(bar, offset, ..) => {
                    prop_assert!(offset < shape.bar(bar).unwrap().guest_bytes());
                }
                Told::Interrupt(_, Slot::On(route) | Slot::Masked(route)) => {
                    prop_assert_eq!(route.vcpu, 1);
                }
                Told::Interrupt(..) | Told::Master(_) => {}
                Told::Reset => prop_assert!(self.placed.is_empty()),
            }
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_access_panics_or_reaches_beyond(
        shape in any_shape(),
        accesses in prop::collection::vec(any_access(), 0..80),
    ) {
        let shapes = [shape.clone()];
        let Ok(plan) = Plan::new(&GuestLayout::new(4 << 30), 40, &shapes) else { return Ok(()) };
        let mut bench = Bench::of(&shapes);
        let mut model = Model::default();
        for (place, at, width, value) in accesses {
            let page = at % 0x1000 / width.bytes() * width.bytes();
            match place {
                0 | 1 => {
                    bench.write(place, 8 * (1 - place), page as u16, width, value);
                    let read = bench.read(place, 8 * (1 - place), page as u16, width);
                    prop_assert!(read <= width.mask());
                }
                2 => {
                    bench.pci.write(at % 9, width.min(Width::W4), value, &|_| Some(1));
                    let read = bench.pci.read(at % 9, width.min(Width::W4));
                    prop_assert!(read <= width.mask());
                }
                _ => {
                    let placed = bench.pci.placed.get((at >> 32) as usize % 7).copied();
                    let base = placed.map_or(at, |placed| placed.start + at % placed.bytes);
                    let gpa = Gpa::new(base / width.bytes() * width.bytes());
                    let _ = bench.pci.write_memory(gpa, width, value, &|_| Some(1));
                    let read = bench.pci.read_memory(gpa, width);
                    prop_assert_eq!(read.is_some(), placed.is_some());
                }
            }
            model.check(&bench, &plan, &shape)?;
        }
        let secondary = bench.read(0, 8, 0x19, Width::W1) as u8;
        if secondary != 0 {
            prop_assert_eq!(bench.read(secondary, 0, 0, Width::W4), 0x0010_1b36);
            prop_assert_eq!(bench.read(secondary, 0, 8, Width::W4), 0x0108_0202);
        }
        bench.pci.reset();
        model.check(&bench, &plan, &shape)?;
        prop_assert!(model.placed.is_empty());
    }

    #[test]
    fn chains_end(shape in any_shape()) {
        let shapes = [shape];
        prop_assume!(Plan::new(&GuestLayout::new(4 << 30), 40, &shapes).is_ok());
        let mut bench = Bench::of(&shapes);
        let (mut at, mut last) = (bench.read(1, 0, 0x34, Width::W1) as u16, 0x3c);
        while at != 0 {
            prop_assert!(at > last && at % 4 == 0);
            last = at;
            at = bench.read(1, 0, at + 1, Width::W1) as u16;
        }
        (at, last) = (0x100, 0);
        while at != 0 {
            prop_assert!(at > last && at % 4 == 0);
            last = at;
            at = (bench.get(at) >> 20) as u16;
        }
    }
}
