//! Interrupt entries: who may use them, where they lead, when they are used again.

use hw::{DeviceTables, TableMemory};
use iommu_spec::dmar::scope;
use iommu_spec::fault::reason;
use iommu_spec::interrupt::PostedDescriptor;
use models::vtd::{self, Delivery, Profile};

use super::*;
use crate::dmar::Scope;
use crate::{Route, RouteError, Source, Target};

fn send(machine: &Machine, function: Function, route: &Route, number: u32) -> Result<Delivery, u8> {
    let message = route.message();
    let message = vtd::Message { address: message.address, data: message.data + number };
    machine.unit(0).interrupt(function.rid, message)
}

const fn cpu(apic_id: u32, vector: u8) -> Target {
    Target::Cpu { apic_id, vector }
}

const fn arrives(destination: u32, vector: u8) -> Result<Delivery, u8> {
    Ok(Delivery::Remapped { vector, destination })
}

#[test]
fn only_the_source_of_a_route_may_use_it() {
    on_every_kind(|machine, iommu| {
        let route = iommu.route(Source::Function(NIC), &[cpu(0x1234, 0x51)]).expect("entries");
        assert_eq!(send(machine, NIC, &route, 0), arrives(0x1234, 0x51));
        assert_eq!(send(machine, DISK, &route, 0), Err(reason::SOURCE));
        let next = vtd::Message { address: route.message().address + 0x20, data: 0 };
        assert_eq!(machine.unit(0).interrupt(NIC.rid, next), Err(reason::IRTE_ABSENT));
        let past = vtd::Message { address: 0xfee0_0010 | 0x7fff << 5, data: 0 };
        assert_eq!(machine.unit(0).interrupt(NIC.rid, past), Err(reason::INDEX));
        let bridge = Function { segment: 0, rid: RequesterId::new(0, 0x1e, 0) };
        let behind = Source::Buses { bridge, first: 3, last: 4 };
        let shared = iommu.route(behind, &[cpu(1, 0x52)]).expect("entries");
        assert_eq!(send(machine, NIC, &shared, 0), arrives(1, 0x52));
        assert_eq!(send(machine, DISK, &shared, 0), arrives(1, 0x52));
        let other = Function { segment: 0, rid: RequesterId::new(5, 0, 0) };
        assert_eq!(send(machine, other, &shared, 0), Err(reason::SOURCE));
    });
}

#[test]
fn entries_are_used_again_only_after_the_unit_has_forgotten_them() {
    on_every_kind(|machine, iommu| {
        let route = iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]).expect("entries");
        let message = route.message();
        assert_eq!(send(machine, NIC, &route, 0), arrives(1, 0x51));
        let pending = iommu.unroute(route);
        let meanwhile = iommu.route(Source::Function(DISK), &[cpu(2, 0x61)]).expect("entries");
        assert_ne!(meanwhile.message(), message, "an entry in use was given away");
        retire(machine, iommu, pending);
        let old = vtd::Message { address: message.address, data: message.data };
        assert_eq!(machine.unit(0).interrupt(NIC.rid, old), Err(reason::IRTE_ABSENT));
        let again = iommu.route(Source::Function(DISK), &[cpu(2, 0x62)]).expect("entries");
        assert_eq!(again.message(), message);
        assert_eq!(send(machine, DISK, &again, 0), arrives(2, 0x62));
        for route in [again, meanwhile] {
            let pending = iommu.unroute(route);
            retire(machine, iommu, pending);
        }
        assert_eq!(iommu.counts().interrupts, 0);
    });
}

#[test]
fn what_is_polled_together_shares_a_wait() {
    on_every_kind(|_, iommu| {
        let route = |number| iommu.route(Source::Function(NIC), &[cpu(number, 0x51)]);
        let routes: Vec<Route> = (0..8).map(route).collect::<Result<_, _>>().expect("entries");
        let mut list: Vec<_> = routes.into_iter().map(|route| (iommu.unroute(route), ())).collect();
        let before = iommu.descriptors();
        for _ in 0..100 {
            iommu.poll_all(&mut list);
            iommu.clock.relax();
        }
        assert!(list.is_empty());
        assert_eq!((iommu.descriptors() - before, iommu.counts().interrupts), (9, 0));
    });
}

#[test]
fn a_block_of_vectors_has_one_message() {
    on_every_kind(|machine, iommu| {
        let _one = iommu.route(Source::Function(DISK), &[cpu(9, 0x41)]).expect("entries");
        let targets: Vec<Target> = (0..3).map(|n| cpu(n, 0x50 + n as u8)).collect();
        let route = iommu.route(Source::Function(NIC), &targets).expect("entries");
        for number in 0..3 {
            let wanted = arrives(number, 0x50 + number as u8);
            assert_eq!(send(machine, NIC, &route, number), wanted);
        }
        assert_eq!(send(machine, NIC, &route, 3), Err(reason::IRTE_ABSENT));
        let moved = iommu.retarget(&route, 1, cpu(7, 0x99)).expect("two of four");
        retire(machine, iommu, moved);
        assert_eq!(send(machine, NIC, &route, 1), arrives(7, 0x99));
        assert_eq!(send(machine, NIC, &route, 2), arrives(2, 0x52));
        assert_eq!(iommu.retarget(&route, 4, cpu(7, 0x99)).err(), Some(RouteError::OutOfEntries));
    });
}

#[test]
fn a_retargeted_interrupt_is_never_lost() {
    on_every_kind(|machine, iommu| {
        let route = iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]).expect("entries");
        assert_eq!(send(machine, NIC, &route, 0), arrives(1, 0x51));
        let pending = iommu.retarget(&route, 0, cpu(2, 0x61)).expect("an entry");
        assert_eq!(send(machine, NIC, &route, 0), arrives(1, 0x51), "the model forgot by itself");
        retire(machine, iommu, pending);
        assert_eq!(send(machine, NIC, &route, 0), arrives(2, 0x61));
    });
}

#[test]
fn posted_interrupts_land_in_the_descriptor_and_notify_once() {
    for profile in [Profile::legacy().posting(), Profile::scalable_second().posting().incoherent()]
    {
        let (machine, mut iommu) = start(profile, Mode::Auto);
        let mut memory = machine.memory.clone();
        let page = memory.alloc_run(1).expect("a frame");
        let descriptor = page.wrapping_add(64);
        let fresh = PostedDescriptor::default().with_nv(0xf2).with_ndst(3);
        for (index, word) in fresh.0.iter().enumerate() {
            memory.store(page, 8 + index, *word);
        }
        let posted = Target::Posted { descriptor, vector: 0x83, urgent: false };
        let route = iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]).expect("entries");
        assert_eq!(send(&machine, NIC, &route, 0), arrives(1, 0x51));
        let pending = iommu.retarget(&route, 0, posted).expect("it posts");
        retire(&machine, &mut iommu, pending);
        assert_eq!(send(&machine, NIC, &route, 0), Ok(Delivery::Posted(Some((0xf2, 3)))));
        assert_eq!(send(&machine, NIC, &route, 0), Ok(Delivery::Posted(None)));
        assert_eq!(memory.peek(descriptor.wrapping_add(16)), 1 << 3);
        assert_eq!(send(&machine, DISK, &route, 0), Err(reason::SOURCE));
        // The descriptor's memory is freed only when no entry leads there.
        let pending = iommu.unroute(route);
        retire(&machine, &mut iommu, pending);
        memory.free_run(page, 1);
        machine.assert_clean();
    }
}

#[test]
fn what_a_unit_cannot_do_is_refused() {
    let (machine, mut iommu) = start(Profile::legacy(), Mode::Auto);
    let posted = Target::Posted { descriptor: Hpa::new(0x1000), vector: 1, urgent: false };
    let refused = iommu.route(Source::Function(NIC), &[posted]);
    assert_eq!(refused, Err(RouteError::Unsupported));
    assert_eq!(iommu.route(Source::IoApic(9), &[cpu(1, 0x51)]), Err(RouteError::NoUnit));
    assert_eq!(iommu.counts().interrupts, 0);
    machine.assert_clean();
}

#[test]
fn without_x2apic_destinations_have_eight_bits_in_their_own_place() {
    let machine = Machine::new(&[Profile::legacy()]);
    let mut iommu = start_with(&machine, &dmar(1), Config { x2apic: false, ..config() });
    let route = iommu.route(Source::Function(NIC), &[cpu(0x42, 0x51)]).expect("entries");
    assert_eq!(send(&machine, NIC, &route, 0), arrives(0x4200, 0x51));
    let wide = iommu.route(Source::Function(NIC), &[cpu(0x100, 0x51)]);
    assert_eq!(wide, Err(RouteError::Unsupported));
    machine.assert_clean();
}

#[test]
fn tables_fill_up_by_name() {
    let (machine, mut iommu) = start(Profile::legacy(), Mode::Auto);
    let mut routes = Vec::new();
    while let Ok(route) = iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]) {
        routes.push(route);
    }
    assert_eq!(routes.len(), 512);
    let full = iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]);
    assert_eq!(full, Err(RouteError::OutOfEntries));
    let pending = iommu.unroute(routes.pop().expect("many"));
    retire(&machine, &mut iommu, pending);
    assert!(iommu.route(Source::Function(NIC), &[cpu(1, 0x51)]).is_ok());
    machine.assert_clean();
}

#[test]
fn io_apics_send_as_their_scope_says() {
    let machine = Machine::new(&[Profile::legacy()]);
    let mut table = dmar(1);
    let path = vec![(0x1f, 7)];
    let scope = Scope { offset: 0, kind: scope::IO_APIC, id: 8, start_bus: 0xf0, path };
    table.units.first_mut().expect("one").scopes.push(scope);
    let mut iommu = start_with(&machine, &table, config());
    let target = Target::CpuLevel { apic_id: 1, vector: 0x31 };
    let route = iommu.route(Source::IoApic(8), &[target]).expect("entries");
    let sender = Function { segment: 0, rid: RequesterId::new(0xf0, 0x1f, 7) };
    assert_eq!(send(&machine, sender, &route, 0), arrives(1, 0x31));
    assert_eq!(send(&machine, NIC, &route, 0), Err(reason::SOURCE));
    assert_eq!(route.redirection(0x31, true, true, false), 0x0001_0000_0000_a031);
    machine.assert_clean();
}
