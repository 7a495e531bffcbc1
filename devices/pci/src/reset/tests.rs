//! Resets of functions that do as they should, and of others.

use std::rc::Rc;

use hw::RequesterId;
use proptest::prelude::*;

use super::*;
use crate::enumerate::enumerate;
use crate::model::{Device, Machine, at};

const PLACE: Function = at(1, 0, 0);

/// With everything that a reset clears: a BAR, MSI-X on, controls that the machine has set.
fn device() -> Device {
    let mut device = Device::endpoint(0x8086, 0x10c9)
        .bar64(0, 0x12_3400_0000, 0x4000)
        .register(0x18, 0xfe00_0000, 0xffff_f000)
        .register(spec::ROM, 0xfec0_0001, 0xffff_0001)
        .express(0, express::FLR)
        .capability(capability::MSIX, 0xa0)
        .acs();
    device.put(0xa4, Width::W4, 0x2000);
    device.put(spec::COMMAND, Width::W2, 0x0107);
    device.put(spec::INTERRUPT_LINE, Width::W1, 11);
    for (offset, value) in [(0x48, 0x2810), (0x68, 0x0400), (0xa2, 0x8000), (0x106, 0x1d)] {
        device.put(offset, Width::W2, value);
    }
    device.allow(0xa2, Width::W2, 0xc000);
    device
}

/// What a reset does: all that can be written is 0, and the function does not answer at once.
fn clear(device: &mut Device, busy_reads: u32) {
    for (byte, writable) in device.bytes.iter_mut().zip(&device.writable) {
        *byte &= !writable;
    }
    device.busy_reads = busy_reads;
}

fn resets_by(mut device: Device, register: u16, value: u32, busy_reads: u32) -> Device {
    device.hook = Some(Rc::new(move |device: &mut Device, offset, written| {
        let struck = offset == register && written & value == value;
        if struck {
            let command = device.peek(spec::COMMAND, Width::W2);
            assert_eq!(command, 0x0400, "it is silent before");
            clear(device, busy_reads);
        }
        struck
    }));
    device
}

fn found(device: Device) -> (Machine, FunctionInfo) {
    let machine = Machine::new([(PLACE, device)]);
    let found = enumerate(&machine, 0, 1..=1).remove(0);
    machine.writes.borrow_mut().clear();
    (machine, found)
}

#[test]
fn a_function_comes_back_in_its_place_and_silent() {
    let (machine, info) = found(resets_by(device(), 0x48, 0x8000, 5));
    assert_eq!(info.reset, Reset::Flr);
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    let word = |offset| machine.peek(PLACE, offset, Width::W2);
    assert_eq!(word(spec::COMMAND), 0x0503, "decodes, sends nothing");
    assert_eq!([word(0x48), word(0x68), word(0x106)], [0x2810, 0x0400, 0x1d]);
    assert_eq!(word(0xa2), 0, "no interrupt is left");
    let place = [0x10, 0x14, 0x18, spec::ROM].map(|offset| machine.peek(PLACE, offset, Width::W4));
    assert_eq!(place, [0x3400_000c, 0x12, 0xfe00_0000, 0xfec0_0000]);
    assert_eq!(machine.peek(PLACE, spec::INTERRUPT_LINE, Width::W1), 11);
    assert!((100_000_000..110_000_000).contains(&machine.now.get()), "{}", machine.now.get());
}

#[test]
fn bars_come_back_as_they_were_found() {
    let (machine, info) = found(resets_by(device(), 0x48, 0x8000, 0));
    machine.devices.borrow_mut().get_mut(&PLACE).unwrap().put(0x10, Width::W4, 0x1000_000c);
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    assert_eq!(machine.peek(PLACE, 0x10, Width::W4), 0x3400_000c);
}

#[test]
fn requests_are_waited_for_but_not_for_ever() {
    let mut busy = device();
    busy.put(0x4a, Width::W2, express::TRANSACTIONS_PENDING.into());
    let (machine, info) = found(resets_by(busy, 0x48, 0x8000, 0));
    let mut resetting = Resetting::start(&machine, &info, &machine).unwrap();
    assert_eq!(machine.peek(PLACE, spec::COMMAND, Width::W2), 0x0400);
    let struck = || machine.writes.borrow().iter().any(|write| write.1 == 0x48);
    assert_eq!(resetting.poll(&machine, &machine), None);
    assert!(!struck());
    machine.devices.borrow_mut().get_mut(&PLACE).unwrap().put(0x4a, Width::W2, 0);
    assert_eq!(resetting.poll(&machine, &machine), None);
    assert!(struck());
    machine.devices.borrow_mut().get_mut(&PLACE).unwrap().put(0x4a, Width::W2, 0x20);
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    assert!(machine.now.get() >= DRAIN_NS + FLR_NS);
}

#[test]
fn a_function_is_not_spoken_to_while_it_resets() {
    let (machine, info) = found(resets_by(device(), 0x48, 0x8000, 0));
    let mut resetting = Resetting::start(&machine, &info, &machine).unwrap();
    assert_eq!(resetting.poll(&machine, &machine), None);
    let before = machine.accesses.get();
    machine.now.set(FLR_NS - 1);
    assert_eq!(resetting.poll(&machine, &machine), None);
    assert_eq!(machine.accesses.get(), before);
    machine.now.set(FLR_NS);
    assert_eq!(resetting.poll(&machine, &machine), None);
    assert_eq!(resetting.poll(&machine, &machine), Some(Ok(())));
}

#[test]
fn a_function_that_never_comes_back_is_given_up() {
    let (machine, info) = found(resets_by(device(), 0x48, 0x8000, u32::MAX));
    assert_eq!(reset(&machine, &info, &machine), Err(ResetError::NotReady));
    assert!((1_100_000_000..1_200_000_000).contains(&machine.now.get()));
    assert_eq!(machine.writes.borrow().last().map(|write| write.1), Some(0x48));
}

#[test]
fn another_function_in_its_place_is_not_given_its_registers() {
    let (machine, info) = found(device());
    machine.devices.borrow_mut().get_mut(&PLACE).unwrap().put(spec::DEVICE, Width::W2, 0x1234);
    assert_eq!(reset(&machine, &info, &machine), Err(ResetError::NotReady));
}

#[test]
fn a_function_that_is_gone_is_said_to_be() {
    let (machine, info) = found(device());
    machine.devices.borrow_mut().clear();
    assert_eq!(reset(&machine, &info, &machine), Err(ResetError::Gone));
}

#[test]
fn a_function_without_any_reset_is_said_to_be() {
    let (machine, info) = found(Device::endpoint(0x8086, 1));
    assert_eq!(reset(&machine, &info, &machine), Err(ResetError::None));
    assert!(machine.writes.borrow().is_empty());
}

#[test]
fn conventional_functions_reset_by_advanced_features() {
    let mut device = Device::endpoint(0x8086, 1)
        .register(0x10, 0xfe00_0000, 0xffff_f000)
        .capability(capability::ADVANCED_FEATURES, 0x90);
    device.put(0x93, Width::W1, 3);
    let (machine, info) = found(resets_by(device, 0x94, 1, 2));
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    assert_eq!(machine.peek(PLACE, 0x10, Width::W4), 0xfe00_0000);
}

#[test]
fn others_reset_by_sleeping() {
    let mut device = Device::endpoint(0x8086, 1)
        .register(0x10, 0xfe00_0000, 0xffff_f000)
        .capability(capability::POWER, 0x90);
    device.put(0x94, Width::W2, 0x8100);
    device.allow(0x94, Width::W2, 0x0103);
    let (machine, info) = found(resets_by(device, 0x94, 3, 0));
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    let power = |write: &&(Function, u16, u32)| write.1 == 0x94;
    let written =
        machine.writes.borrow().iter().filter(power).map(|write| write.2).collect::<Vec<_>>();
    assert_eq!(written, [0x0103, 0], "an event that is pending is not lost");
    assert_eq!(machine.peek(PLACE, 0x10, Width::W4), 0xfe00_0000);
    assert!(machine.now.get() >= 2 * POWER_NS);
}

#[test]
fn sizes_of_bars_come_back_before_their_addresses() {
    let mut device = device().extended(extended::RESIZABLE_BAR, 0x200);
    device.put(0x208, Width::W4, 0x0540);
    device.put(0x210, Width::W4, 0x0301);
    device.allow(0x208, Width::W4, 0x1f00);
    device.allow(0x210, Width::W4, 0x1f00);
    let (machine, info) = found(resets_by(device, 0x48, 0x8000, 0));
    assert_eq!(reset(&machine, &info, &machine), Ok(()));
    let sizes = [0x208, 0x210].map(|offset| machine.peek(PLACE, offset, Width::W4));
    assert_eq!(sizes, [0x0540, 0x0301]);
    let writes = machine.writes.borrow();
    let first = |offset| writes.iter().position(|write| write.1 == offset);
    assert!(first(0x210) < first(0x10) && first(0x210).is_some());
    let last = writes.last().map(|write| (write.0.rid, write.1));
    assert_eq!(last, Some((RequesterId::new(1, 0, 0), spec::COMMAND)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn whatever_registers_say_a_reset_ends_in_silence(
        machine in crate::enumerate::tests::garbage(),
    ) {
        for info in enumerate(&machine, 0, 0..=7) {
            // Bus mastering can be turned off here, as anywhere.
            let mut devices = machine.devices.borrow_mut();
            devices.get_mut(&info.function).unwrap().allow(spec::COMMAND, Width::W2, 0x0407);
            drop(devices);
            let start = machine.now.get();
            let done = reset(&machine, &info, &machine);
            prop_assert!(machine.now.get() - start < 1_300_000_000);
            let command = machine.peek(info.function, spec::COMMAND, Width::W2) as u16;
            prop_assert!(done == Err(ResetError::None) || command & COMMAND_MASTER == 0);
            if let Some(msi) = info.msi {
                msi.set(&machine, info.function, u64::MAX, u16::MAX);
                msi.mask(&machine, info.function, msi.pending(&machine, info.function));
            }
        }
    }
}
