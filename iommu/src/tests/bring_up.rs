//! From whatever firmware left to a machine that denies everything.

use hw::{DeviceTables, Hpa, Iova, PAGE_SIZE, TableMemory};
use iommu_spec::dmar::scope;
use iommu_spec::fault::reason;
use iommu_spec::registers::command;
use models::Machine;
use models::vtd::{Message, Profile};
use paging::Rights;

use super::*;
use crate::dmar::{ReservedRegion, Scope};
use crate::{AttachError, Event, Stage, UnitError};

const COMPATIBLE: Message = Message { address: 0xfee0_0000, data: 0x41 };

#[test]
fn a_function_without_owner_neither_reads_nor_writes_nor_interrupts() {
    on_every_kind(|machine, iommu| {
        for function in [NIC, DISK] {
            assert!(machine.dma_read(read(function, 0x1000)).is_err());
            assert!(machine.dma_write(write(function, 0x1_0000_0000), 1).is_err());
            let interrupt = machine.unit(0).interrupt(function.rid, COMPATIBLE);
            assert_eq!(interrupt, Err(reason::COMPATIBILITY));
            let remappable = Message { address: 0xfee0_0010, data: 0 };
            let interrupt = machine.unit(0).interrupt(function.rid, remappable);
            assert_eq!(interrupt, Err(reason::IRTE_ABSENT));
        }
        assert!(iommu.take_events().is_empty());
    });
}

#[test]
fn modes_are_chosen_by_capability() {
    let stage = |profile, mode| start(profile, mode).1.stage();
    assert_eq!(stage(Profile::legacy(), Mode::Auto), Stage::Second);
    assert_eq!(stage(Profile::scalable_first(), Mode::Auto), Stage::First);
    assert_eq!(stage(Profile::scalable_first(), Mode::Legacy), Stage::Second);
    assert_eq!(stage(Profile::nested(), Mode::ScalableFirst), Stage::First);
    let bits = |profile, mode| start(profile, mode).1.pasid_bits(NIC);
    assert_eq!(bits(Profile::scalable_second(), Mode::Auto), 20);
    assert_eq!(bits(Profile::scalable_second(), Mode::Legacy), 0);
}

#[test]
fn widths_and_page_sizes_are_those_that_all_units_have() {
    let narrow = Profile { cap: Profile::legacy().cap.with_sagaw(0b0010), ..Profile::legacy() };
    let small = Profile { cap: Profile::legacy().cap.with_sslps(0), ..Profile::legacy() };
    let machine = Machine::new(&[narrow, small]);
    let mut iommu = start_with(&machine, &dmar(2), config());
    assert_eq!(iommu.iova_end(), Iova::new(1 << 39));
    let space = iommu.create_space().expect("a domain");
    let data = machine.memory.data(512);
    iommu.map(space, Iova::ZERO, data, 2 << 20, Rights::RW).expect("free");
    let page = iommu.translate(space, Iova::ZERO).expect("mapped").page;
    assert_eq!(page, paging::PageSize::Size4K);
    let one = Function { segment: 1, ..NIC };
    let _kept = (iommu.attach(Attach::new(NIC, space)), iommu.attach(Attach::new(one, space)));
    let seen = |unit: usize| machine.unit(unit).dma(read(NIC, 0x5000));
    assert_eq!(seen(0), Ok(data.wrapping_add(0x5000)));
    assert_eq!(seen(1), Ok(data.wrapping_add(0x5000)));
    machine.assert_clean();
}

/// A machine that firmware leaves with everything on.
fn left_on(profile: Profile, eime: bool) -> Machine {
    let machine = Machine::new(&[profile]);
    let frames = machine.memory.data(4);
    for word in 0..2048 {
        machine.memory.clone().store(frames, word, 0);
    }
    machine.unit(0).dirty_hand_over(frames, eime);
    machine
}

#[test]
fn what_firmware_left_on_stays_on_while_it_is_taken_over() {
    let machine = left_on(Profile::legacy(), true);
    assert!(machine.dma_write(write(NIC, 0x1000), 1).is_err());
    let mut iommu = start_with(&machine, &dmar(1), config());
    assert!(iommu.take_events().is_empty());
    let commands = machine.regs(0);
    let commands = commands.inner().stores();
    let commands = commands.iter().filter(|(offset, _)| *offset == 0x18);
    for (_, value) in commands {
        let on = command::TE | command::IRE;
        assert_eq!(*value as u32 & on, on, "something was off: {value:#x}");
    }
    let mut faults = 0;
    iommu.drain_faults(|_| faults += 1);
    assert_eq!(faults, 0, "an old fault survived");
    // The protected regions are gone: only the tables decide.
    let (_, _kept, data) = granted(&machine, &mut iommu, NIC, 0x1000);
    assert_eq!(machine.dma_read(read(NIC, 0x1000)), Ok(data.raw()));
    machine.assert_clean();
}

#[test]
fn what_firmwares_tables_let_through_is_forgotten() {
    let machine = Machine::new(&[Profile::legacy()]);
    let frames = machine.memory.data(8);
    let page = |n: u64| frames.wrapping_add(n * PAGE_SIZE);
    let mut memory = machine.memory.clone();
    for word in 0..7 * 512 {
        memory.store(frames, word, 0);
    }
    // Three levels to one page, and an interrupt entry for the same function.
    memory.store(page(0), 6, page(3).raw() | 1);
    memory.store(page(3), 1, 1 << 8 | 1);
    memory.store(page(3), 0, page(4).raw() | 1);
    memory.store(page(4), 0, page(5).raw() | 3);
    memory.store(page(5), 0, page(6).raw() | 3);
    memory.store(page(6), 1, page(7).raw() | 3);
    let entry = iommu_spec::interrupt::Irte::remapped(0x51, 1).from_function(NIC.rid);
    memory.store(page(1), 1, entry.0[1]);
    memory.store(page(1), 0, entry.0[0]);
    machine.unit(0).dirty_hand_over(frames, true);
    let remappable = Message { address: 0xfee0_0010, data: 0 };
    assert_eq!(machine.unit(0).dma(read(NIC, 0x1000)), Ok(page(7)));
    assert!(machine.unit(0).interrupt(NIC.rid, remappable).is_ok());
    let _iommu = start_with(&machine, &dmar(1), config());
    assert!(machine.unit(0).dma(read(NIC, 0x1000)).is_err());
    let absent = Err(reason::IRTE_ABSENT);
    assert_eq!(machine.unit(0).interrupt(NIC.rid, remappable), absent);
    memory.free_run(frames, 8);
    machine.assert_clean();
}

#[test]
fn a_change_of_mode_turns_translation_off_and_says_so() {
    let machine = left_on(Profile::scalable_second(), false);
    let mut iommu = start_with(&machine, &dmar(1), config());
    let gap = Event::TranslationGap { registers: Hpa::new(0xfed9_0000) };
    assert_eq!(iommu.take_events(), [gap]);
    assert!(machine.dma_write(write(NIC, 0x1000), 1).is_err());
    machine.assert_clean();
}

#[test]
fn protected_regions_hold_until_translation_does() {
    let machine = left_on(Profile::legacy(), true);
    start_with(&machine, &dmar(1), config());
    let regs = machine.regs(0);
    let stores = regs.inner().stores();
    let at = |offset: u64, wanted: u32| {
        stores.iter().position(|(o, v)| (*o, *v as u32 & wanted) == (offset, wanted))
    };
    let given_up = stores.iter().position(|(offset, value)| (*offset, value >> 31) == (0x64, 0));
    assert!(at(0x18, command::SRTP).expect("a root") < given_up.expect("regions off"));
    machine.assert_clean();
}

#[test]
fn tables_are_set_before_what_uses_them() {
    let (machine, _iommu) = start(Profile::scalable_second(), Mode::Auto);
    let regs = machine.regs(0);
    let stores = regs.inner().stores();
    let first = |bit: u32| {
        stores.iter().position(|(offset, value)| *offset == 0x18 && *value as u32 & bit != 0)
    };
    let order = [command::QIE, command::SRTP, command::SIRTP, command::IRE, command::TE];
    let places: Vec<_> = order.iter().map(|bit| first(*bit).expect("given")).collect();
    assert!(places.is_sorted(), "{places:?}");
    machine.assert_clean();
}

#[test]
fn a_unit_that_is_not_there_does_not_stop_the_others() {
    let machine = Machine::new(&[Profile::legacy(), Profile::legacy()]);
    machine.regs(1).vanish();
    let mut iommu = start_with(&machine, &dmar(2), config());
    let registers = Hpa::new(0xfed9_1000);
    assert_eq!(iommu.take_events(), [Event::UnitLost { registers, why: UnitError::Absent }]);
    let (_, _kept, data) = granted(&machine, &mut iommu, NIC, 0x1000);
    assert_eq!(machine.dma_read(read(NIC, 0x1000)), Ok(data.raw()));
    let behind = Function { segment: 1, ..NIC };
    assert!(!iommu.covers(behind) && iommu.covers(NIC));
    let space = iommu.create_space().expect("a domain");
    let refused = iommu.attach(Attach::new(behind, space));
    assert_eq!(refused, Err(AttachError::NoUnit(behind)));
    machine.assert_clean();
}

#[test]
fn a_unit_that_ignores_a_command_is_lost_in_bounded_time() {
    for bit in [command::QIE, command::SRTP, command::SIRTP, command::IRE, command::TE] {
        let machine = Machine::new(&[Profile::legacy(), Profile::legacy()]);
        machine.regs(0).stick(0x1c, bit.into(), 0);
        let mut iommu = start_with(&machine, &dmar(2), config());
        let events = iommu.take_events();
        let lost = |event: &Event| matches!(event, Event::UnitLost { why: UnitError::Command(b), .. } if *b == bit);
        assert!(events.iter().any(lost), "{bit:#x}: {events:?}");
        assert!(now(&machine) < 1_000_000_000);
        assert_eq!(iommu.counts().units, 1);
    }
}

#[test]
fn a_queue_that_does_not_answer_is_found_at_once() {
    let machine = Machine::new(&[Profile::legacy(), Profile::legacy()]);
    machine.regs(0).deafen(0x88);
    let mut iommu = start_with(&machine, &dmar(2), config());
    let registers = Hpa::new(0xfed9_0000);
    assert_eq!(iommu.take_events(), [Event::UnitLost { registers, why: UnitError::QueueStalled }]);
}

#[test]
fn no_unit_at_all_is_an_error() {
    let machine = Machine::new(&[Profile::legacy()]);
    machine.regs(0).vanish();
    let open = |_: &UnitEntry| Some(machine.regs(0));
    let (memory, clock) = (machine.memory.clone(), machine.clock.clone());
    let none = Iommu::<ModelHw>::start(memory, clock, &dmar(1), &|_| None, config(), open);
    assert_eq!(none.err(), Some(crate::StartError::NoUnits));
}

fn reserved(offset: usize, start: u64, bytes: u64, path: (u8, u8)) -> ReservedRegion {
    let scope = Scope { offset: 8, kind: scope::ENDPOINT, id: 0, start_bus: 3, path: vec![path] };
    ReservedRegion { offset, segment: 0, start: Hpa::new(start), bytes, scopes: vec![scope] }
}

#[test]
fn reserved_regions_are_reached_from_the_first_moment_and_nothing_beside_them() {
    for (_, profile, mode) in every_kind() {
        let machine = Machine::new(&[profile]);
        let mut table = dmar(1);
        // Two regions of one device that overlap.
        table.reserved.push(reserved(48, 0x7000_0000, 4 * PAGE_SIZE, (0, 0)));
        table.reserved.push(reserved(80, 0x7000_2000, 4 * PAGE_SIZE, (0, 0)));
        let mut iommu = start_with(&machine, &table, Config { mode, ..config() });
        assert!(iommu.take_events().is_empty());
        let dma = |address| machine.unit(0).dma(write(NIC, address));
        for page in 0..6 {
            assert_eq!(
                dma(0x7000_0000 + page * PAGE_SIZE),
                Ok(Hpa::new(0x7000_0000 + page * PAGE_SIZE))
            );
        }
        assert!(dma(0x7000_6000).is_err() && dma(0x6fff_f000).is_err());
        let before = iommu.counts();
        let space = iommu.create_space().expect("a domain");
        assert_eq!(iommu.attach(Attach::new(NIC, space)), Err(AttachError::Reserved(NIC)));
        assert!(iommu.is_reserved(NIC) && !iommu.is_reserved(DISK));
        let released = iommu.release_reserved(NIC).expect("it has one");
        assert!(!iommu.is_reserved(NIC));
        retire(&machine, &mut iommu, released);
        assert!(dma(0x7000_0000).is_err());
        assert_eq!((before.spaces, iommu.counts().spaces), (1, 1));
        let _kept = iommu.attach(Attach::new(NIC, space)).expect("free now");
        machine.assert_clean();
    }
}

#[test]
fn scopes_lead_through_bridges_and_absent_ones_are_told() {
    let machine = Machine::new(&[Profile::legacy(), Profile::legacy()]);
    let mut table = dmar(2);
    let scope = |offset, kind, path: &[(u8, u8)]| Scope {
        offset,
        kind,
        id: 2,
        start_bus: 0,
        path: path.to_vec(),
    };
    let first = table.units.first_mut().expect("two");
    first.include_all = false;
    first.scopes.push(scope(1, scope::ENDPOINT, &[(0x1c, 0), (0, 1)]));
    first.scopes.push(scope(2, scope::BRIDGE, &[(0x1d, 0)]));
    first.scopes.push(scope(3, scope::ENDPOINT, &[(0x1e, 0), (0, 0)]));
    first.scopes.push(scope(4, scope::IO_APIC, &[(0x1f, 7)]));
    table.units.last_mut().expect("two").segment = 0;
    let bridges = |function: Function| match function.rid.device() {
        0x1c => Some((5, 5)),
        0x1d => Some((6, 9)),
        _ => None,
    };
    let open = |entry: &UnitEntry| {
        Some(machine.regs((entry.registers.raw() - 0xfed9_0000) as usize / 0x1000))
    };
    let (memory, clock) = (machine.memory.clone(), machine.clock.clone());
    let mut iommu =
        Iommu::<ModelHw>::start(memory, clock, &table, &bridges, config(), open).expect("units");
    assert_eq!(iommu.take_events(), [Event::ScopeAbsent(3)]);
    let unit = |bus, device, function| {
        iommu.unit_of(Function { segment: 0, rid: RequesterId::new(bus, device, function) })
    };
    assert_eq!(unit(5, 0, 1), Some(0));
    assert_eq!(unit(5, 0, 0), Some(1));
    assert_eq!([unit(0, 0x1d, 0), unit(6, 3, 0), unit(9, 0, 0)], [Some(0); 3]);
    assert_eq!([unit(10, 0, 0), unit(0x3, 0, 0)], [Some(1); 2]);
    assert_eq!(iommu.unit_of(Function { segment: 7, ..NIC }), None);
    machine.assert_clean();
}

#[test]
fn a_unit_without_interrupt_remapping_is_told() {
    let plain = Profile { ecap: Profile::legacy().ecap.with_ir(false), ..Profile::legacy() };
    let (machine, mut iommu) = start(plain, Mode::Auto);
    let told = Event::NoInterruptRemapping { registers: Hpa::new(0xfed9_0000) };
    assert_eq!(iommu.take_events(), [told]);
    assert!(!iommu.x2apic_allowed());
    let (_, _kept, data) = granted(&machine, &mut iommu, NIC, 0x1000);
    assert_eq!(machine.dma_read(read(NIC, 0x1000)), Ok(data.raw()));
    machine.assert_clean();
}
