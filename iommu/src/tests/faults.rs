//! Faults: told once, attributed, counted.

use iommu_spec::fault::reason;
use models::vtd::{self, Profile};

use super::*;
use crate::Fault;

fn drain(iommu: &mut Iommu<ModelHw>) -> Vec<Fault> {
    let mut faults = Vec::new();
    iommu.drain_faults(|fault| faults.push(fault));
    faults
}

#[test]
fn a_fault_says_who_where_and_why() {
    let (machine, mut iommu) = start(Profile::scalable_second(), Mode::Auto);
    let (_, _kept, _) = granted(&machine, &mut iommu, NIC, 0x1000);
    let request = Request { pasid: Some(77), ..write(NIC, 0x5678) };
    assert_eq!(machine.dma_write(request, 1), Err(reason::DIRECTORY_ABSENT));
    assert!(machine.dma_read(read(DISK, 0x9000)).is_err());
    let message = vtd::Message { address: 0xfee0_0010 | 5 << 5, data: 0 };
    assert!(machine.unit(0).interrupt(DISK.rid, message).is_err());
    let faults = drain(&mut iommu);
    let told: Vec<String> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "0000:03:00.0 PASID 0x4d write to 0x5000 blocked: the PASID has no owner (0x51)",
            "0000:04:1f.7 read of 0x9000 blocked: the bus has no root entry (0x39)",
            "0000:04:1f.7 interrupt entry 0x5 blocked: the interrupt entry has no owner (0x22)",
        ]
    );
    assert!(drain(&mut iommu).is_empty());
    machine.assert_clean();
}

#[test]
fn the_fault_event_comes_as_programmed_and_again_after_draining() {
    on_every_kind(|machine, iommu| {
        for _ in 0..3 {
            assert!(machine.dma_read(read(NIC, 0x1000)).is_err());
            let message = vtd::Message { address: MESSAGE.address, data: MESSAGE.data };
            assert_eq!(machine.unit(0).messages(), [message]);
            assert!(machine.dma_read(read(NIC, 0x2000)).is_err());
            assert!(machine.unit(0).messages().is_empty());
            // A unit with one record has lost the second.
            assert!(!drain(iommu).is_empty());
        }
    });
}

#[test]
fn records_that_overflow_are_used_again() {
    for records in [1u64, 8] {
        let profile = Profile::legacy();
        let profile = Profile { cap: profile.cap.with_nfr(records as u8 - 1), ..profile };
        let (machine, mut iommu) = start(profile, Mode::Auto);
        for round in 0..5 {
            for page in 0..records + 3 {
                assert!(machine.dma_read(read(NIC, page << 12)).is_err());
            }
            let told: Vec<u64> =
                drain(&mut iommu).iter().map(|fault| fault.address >> 12).collect();
            assert_eq!(told, (0..records).collect::<Vec<_>>(), "round {round}");
        }
        machine.assert_clean();
    }
}

#[test]
fn a_storm_is_told_and_quarantine_ends_it() {
    on_every_kind(|machine, iommu| {
        let (_, attachment, _) = granted(machine, iommu, NIC, 0x1000);
        let mut storm = false;
        for _ in 0..4 {
            assert!(machine.dma_read(read(NIC, 0x9_9000)).is_err());
            storm |= drain(iommu).iter().any(|fault| fault.storm);
        }
        assert!(storm);
        let pending = iommu.quarantine(NIC);
        retire(machine, iommu, pending);
        assert!(machine.dma_read(read(NIC, 0x1000)).is_err(), "what was granted is cut off");
        assert!(machine.dma_read(read(NIC, 0x9_9000)).is_err());
        assert!(drain(iommu).is_empty(), "a function in quarantine is silent");
        machine.clock.advance(2_000_000_000);
        assert!(machine.dma_read(read(DISK, 0x9_9000)).is_err());
        assert!(!drain(iommu).iter().any(|fault| fault.storm), "another function, another second");
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
        assert!(machine.dma_read(read(NIC, 0x9_9000)).is_err());
        assert!(drain(iommu).is_empty(), "it is silent until it is released");
        iommu.release_quarantine(NIC).expect("nothing attached");
        let (_, _kept, data) = granted(machine, iommu, NIC, 0x1000);
        assert_eq!(machine.dma_read(read(NIC, 0x1000)), Ok(data.raw()));
    });
}
