//! Units and devices that do not do what they should.

use hw::Iova;
use models::vtd::Profile;
use paging::Rights;

use super::*;
use crate::{AttachError, Event, UnitError};

const REGISTERS: Hpa = Hpa::new(0xfed9_0000);

fn with_tlb(
    machine: &Machine,
    iommu: &mut Iommu<ModelHw>,
    function: Function,
) -> (SpaceId, Attachment) {
    let data = machine.memory.data(1);
    let space = iommu.create_space().expect("a domain");
    iommu.map(space, Iova::new(0x1000), data, PAGE_SIZE, Rights::RW).expect("free");
    let attach = Attach { device_tlb: Some(1), ..Attach::new(function, space) };
    let attachment = iommu.attach(attach).expect("free");
    assert!(machine.unit(0).dma_by_device_tlb(write(function, 0x1000)).is_ok());
    (space, attachment)
}

#[test]
fn a_silent_device_tlb_quarantines_its_function_and_stops_nobody_else() {
    on_every_kind(|machine, iommu| {
        let (nic, attachment) = with_tlb(machine, iommu, NIC);
        let (disk, _kept) = with_tlb(machine, iommu, DISK);
        machine.unit(0).silence(NIC.rid);
        let from_nic = iommu.unmap(nic, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
        let from_nic = from_nic.poll(iommu).expect_err("under way");
        let from_disk = iommu.unmap(disk, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
        retire(machine, iommu, from_disk);
        retire(machine, iommu, from_nic);
        assert_eq!(iommu.take_events(), [Event::DeviceTimeout(NIC)]);
        // What the device still has cached it cannot use any more.
        assert!(machine.unit(0).dma_by_device_tlb(write(NIC, 0x1000)).is_err());
        let refused = iommu.attach(Attach { pasid: None, ..Attach::new(NIC, disk) });
        assert_eq!(refused, Err(AttachError::Quarantined(NIC)));
        // Leaving does not hang on the device, which is silent still.
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
        assert!(iommu.take_events().is_empty(), "it was asked again");
    });
}

#[test]
fn nothing_is_freed_before_a_silent_device_is_cut_off() {
    let (machine, mut iommu) = start(Profile::legacy(), Mode::Auto);
    // So slow that the driver sees every state of the queue.
    machine.unit(0).slow_down(9);
    let (nic, _attachment) = with_tlb(&machine, &mut iommu, NIC);
    let (disk, _kept) = with_tlb(&machine, &mut iommu, DISK);
    machine.unit(0).silence(NIC.rid);
    let from_nic = iommu.unmap(nic, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
    let mut from_nic = from_nic.poll(&mut iommu).expect_err("under way");
    let from_disk = iommu.unmap(disk, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
    let from_disk = from_disk.poll(&mut iommu).expect_err("under way");
    while let Err(pending) = from_nic.poll(&mut iommu) {
        machine.clock.relax();
        from_nic = pending;
    }
    assert!(machine.unit(0).dma_by_device_tlb(write(NIC, 0x1000)).is_err());
    retire(&machine, &mut iommu, from_disk);
    machine.assert_clean();
}

#[test]
fn a_rejected_descriptor_is_made_up_for() {
    on_every_kind(|machine, iommu| {
        let (space, _kept, _) = granted(machine, iommu, NIC, 0x1000);
        assert!(machine.dma_read(read(NIC, 0x1000)).is_ok());
        machine.unit(0).reject(1);
        let pending = iommu.unmap(space, Iova::new(0x1000), 4 * PAGE_SIZE).expect("mapped");
        retire(machine, iommu, pending);
        assert!(machine.dma_read(read(NIC, 0x1000)).is_err());
        assert_eq!(iommu.take_events(), [Event::QueueError { registers: REGISTERS }]);
    });
}

#[test]
fn a_unit_that_rejects_everything_is_lost() {
    let (machine, mut iommu) = start(Profile::scalable_second(), Mode::Auto);
    let (space, _kept, _) = granted(&machine, &mut iommu, NIC, 0x1000);
    machine.unit(0).reject(1000);
    let pending = iommu.unmap(space, Iova::new(0x1000), 4 * PAGE_SIZE).expect("mapped");
    let deadline = Deadline::after_ns(&machine.clock, 1_000_000_000);
    let pending = pending.wait(&mut iommu, deadline).expect_err("never done");
    assert!(pending.is_lost(&iommu));
    core::mem::forget(pending);
    let lost = Event::UnitLost { registers: REGISTERS, why: UnitError::QueueRejected };
    assert!(iommu.take_events().contains(&lost));
}

#[test]
fn a_unit_that_vanishes_takes_its_frames_along_and_nothing_else() {
    for (_, profile, mode) in every_kind() {
        let machine = Machine::new(&[profile, profile]);
        let mut iommu = start_with(&machine, &dmar(2), Config { mode, ..config() });
        let (space, attachment, _) = granted(&machine, &mut iommu, NIC, 0x1000);
        let behind = Function { segment: 1, ..DISK };
        let other = iommu.create_space().expect("a domain");
        let elsewhere = iommu.attach(Attach::new(behind, other)).expect("free");
        let live = machine.memory.live_frames();
        machine.regs(0).vanish();
        let unmapped = iommu.unmap(space, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
        let begun = now(&machine);
        let deadline = Deadline::after_ns(&machine.clock, 10_000_000_000);
        let unmapped = unmapped.wait(&mut iommu, deadline).expect_err("never done");
        assert!(unmapped.is_lost(&iommu));
        assert!(now(&machine) - begun < 2_000_000_000, "it was waited for too long");
        core::mem::forget(unmapped);
        let detached = iommu.detach(attachment);
        assert!(detached.is_lost(&iommu));
        core::mem::forget(detached);
        assert!(matches!(iommu.take_events().as_slice(), [Event::UnitLost { .. }]));
        assert_eq!(machine.memory.live_frames(), live, "what the unit may walk was freed");
        let refused = iommu.attach(Attach::new(NIC, other));
        assert_eq!(refused, Err(AttachError::UnitLost(NIC)));
        // The other unit goes on.
        let pending = iommu.detach(elsewhere);
        retire(&machine, &mut iommu, pending);
    }
}

#[test]
fn a_space_on_two_units_is_retired_when_both_have_forgotten_it() {
    for (_, profile, mode) in every_kind() {
        let machine = Machine::new(&[profile, profile]);
        let mut iommu = start_with(&machine, &dmar(2), Config { mode, ..config() });
        let (space, _kept, _) = granted(&machine, &mut iommu, NIC, 0x1000);
        let behind = Function { segment: 1, ..NIC };
        let _other = iommu.attach(Attach::new(behind, space)).expect("free");
        let dma = |unit: usize| machine.unit(unit).dma(read(NIC, 0x1000));
        assert!(dma(0).is_ok() && dma(1).is_ok());
        machine.regs(1).deafen(0x88);
        let pending = iommu.unmap(space, Iova::new(0x1000), PAGE_SIZE).expect("mapped");
        let deadline = Deadline::after_ns(&machine.clock, 1_000_000);
        let pending = pending.wait(&mut iommu, deadline).expect_err("one is late");
        assert!(dma(0).is_err() && dma(1).is_ok());
        assert!(!pending.is_lost(&iommu));
        core::mem::forget(pending);
        machine.assert_clean();
    }
}
