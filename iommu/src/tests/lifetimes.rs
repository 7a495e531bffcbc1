//! Attach, map, unmap, detach: what devices reach, and when it is used again.

use hw::{DeviceTables, Gpa, Hpa, Iova, PAGE_SIZE, TableMemory};
use models::Machine;
use models::vtd::Profile;
use paging::Rights;

use super::*;
use crate::{AttachError, MapError, Stage};

const IOVA: u64 = 0x4000_0000;

#[test]
fn an_unmap_of_any_size_costs_one_invalidation_and_one_wait() {
    on_every_kind(|machine, iommu| {
        let space = iommu.create_space().expect("a domain");
        let attachment = iommu.attach(Attach::new(NIC, space)).expect("free");
        for bytes in [PAGE_SIZE, 2 << 20, 1 << 30] {
            let at = Iova::new(4 << 30);
            iommu.map(space, at, Hpa::new(1 << 30), bytes, Rights::RW).expect("free");
            let before = iommu.descriptors();
            let pending = iommu.unmap(space, at, bytes).expect("mapped");
            retire(machine, iommu, pending);
            assert_eq!(iommu.descriptors() - before, 2, "{bytes:#x}");
        }
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
    });
}

#[test]
fn a_device_reaches_what_it_was_granted_and_nothing_beside_it() {
    on_every_kind(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, IOVA);
        assert_eq!(machine.dma_read(read(NIC, IOVA + 0x1008)), Ok(data.raw() + 0x1008));
        assert_eq!(machine.dma_write(write(NIC, IOVA), 7), Ok(data));
        assert_eq!(machine.memory.peek(data), 7);
        assert!(machine.dma_read(read(NIC, IOVA + 4 * PAGE_SIZE)).is_err());
        assert!(machine.dma_read(read(NIC, IOVA - 8)).is_err());
        assert!(machine.dma_read(read(DISK, IOVA)).is_err());
        // Mapped while attached, and after it was tried in vain.
        let more = machine.memory.data(1);
        iommu
            .map(space, Iova::new(IOVA + 4 * PAGE_SIZE), more, PAGE_SIZE, Rights::R)
            .expect("free");
        assert_eq!(machine.dma_read(read(NIC, IOVA + 4 * PAGE_SIZE)), Ok(more.raw()));
        assert!(machine.dma_write(write(NIC, IOVA + 4 * PAGE_SIZE), 1).is_err());
    });
}

#[test]
fn one_space_serves_functions_and_one_function_serves_spaces() {
    on_scalable(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, IOVA);
        let _shared = iommu.attach(Attach::new(DISK, space)).expect("free");
        assert_eq!(machine.dma_read(read(DISK, IOVA)), Ok(data.raw()));
        let mut kept = Vec::new();
        for raw in [1, 63, 64, 0x7fff] {
            let other = machine.memory.data(1);
            let space = iommu.create_space().expect("a domain");
            iommu.map(space, Iova::new(IOVA), other, PAGE_SIZE, Rights::RW).expect("free");
            let attach = Attach { pasid: Some(pasid(raw)), ..Attach::new(NIC, space) };
            kept.push(iommu.attach(attach).expect("free"));
            let request = Request { pasid: Some(raw), ..read(NIC, IOVA) };
            assert_eq!(machine.dma_read(request), Ok(other.raw()), "PASID {raw}");
        }
        assert_eq!(machine.dma_read(read(NIC, IOVA)), Ok(data.raw()));
        let absent = Request { pasid: Some(2), ..read(NIC, IOVA) };
        assert!(machine.dma_read(absent).is_err());
        let other_function = Request { pasid: Some(1), ..read(DISK, IOVA) };
        assert!(machine.dma_read(other_function).is_err());
    });
}

#[test]
fn directories_grow_under_the_feet_of_running_devices() {
    on_scalable(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, IOVA);
        let mut kept = Vec::new();
        for raw in [5, 0x8000, 0xf_ffff] {
            let attach = Attach { pasid: Some(pasid(raw)), ..Attach::new(NIC, space) };
            kept.push(iommu.attach(attach).expect("free"));
            for raw in [None, Some(5)] {
                let request = Request { pasid: raw, ..read(NIC, IOVA) };
                assert_eq!(machine.dma_read(request), Ok(data.raw()));
            }
        }
        // The unit learns of the new directory when it has forgotten the old entry.
        while iommu.counts().teardowns > 0 {
            iommu.work();
            machine.clock.relax();
        }
        let request = Request { pasid: Some(0xf_ffff), ..read(NIC, IOVA) };
        assert_eq!(machine.dma_read(request), Ok(data.raw()));
    });
}

#[test]
fn unmapped_memory_is_given_back_only_when_no_device_reaches_it() {
    on_every_kind(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, IOVA);
        let request = write(NIC, IOVA + PAGE_SIZE);
        assert!(machine.dma_write(request, 1).is_ok());
        let pending = iommu.unmap(space, Iova::new(IOVA), 4 * PAGE_SIZE).expect("mapped");
        assert!(machine.dma_write(request, 2).is_ok(), "the model forgot by itself");
        machine.unit(0).rival(request);
        let pending = pending.poll(iommu).expect_err("a unit that takes no time");
        retire(machine, iommu, pending);
        assert!(machine.dma_write(request, 3).is_err());
        machine.memory.clone().free_run(data, 4);
        assert_eq!(iommu.translate(space, Iova::new(IOVA)), None);
    });
}

#[test]
fn giving_memory_back_early_is_seen() {
    let (machine, mut iommu) = start(Profile::legacy(), Mode::Auto);
    let (space, _kept, data) = granted(&machine, &mut iommu, NIC, IOVA);
    assert!(machine.dma_write(write(NIC, IOVA), 1).is_ok());
    let pending = iommu.unmap(space, Iova::new(IOVA), 4 * PAGE_SIZE).expect("mapped");
    machine.memory.clone().free_run(data, 4);
    assert!(!machine.unit(0).violations().is_empty());
    retire(&machine, &mut iommu, pending);
}

#[test]
fn detach_waits_for_invalidation_and_gives_everything_back() {
    on_every_kind(|machine, iommu| {
        let (space, attachment, data) = granted(machine, iommu, NIC, IOVA);
        assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
        machine.unit(0).rival(read(NIC, IOVA));
        let pending = iommu.detach(attachment);
        assert_eq!(iommu.attach(Attach::new(NIC, space)), Err(AttachError::Busy(NIC)));
        retire(machine, iommu, pending);
        // Nobody else is attached, so even what the space still maps may go: no cache may hold it.
        machine.memory.clone().free_run(data, 4);
        assert!(machine.dma_read(read(NIC, IOVA)).is_err());
        let other = machine.memory.data(1);
        let another = iommu.create_space().expect("a domain");
        iommu.map(another, Iova::new(IOVA), other, PAGE_SIZE, Rights::RW).expect("free");
        let again = iommu.attach(Attach::new(NIC, another)).expect("free again");
        assert_eq!(machine.dma_read(read(NIC, IOVA)), Ok(other.raw()));
        assert_eq!(iommu.destroy_space(another).err(), Some(MapError::Attached));
        let pending = iommu.detach(again);
        machine.unit(0).no_rivals();
        retire(machine, iommu, pending);
        for space in [space, another] {
            let pending = iommu.destroy_space(space).expect("attached nowhere");
            retire(machine, iommu, pending);
        }
        assert_eq!(
            iommu.counts(),
            crate::Counts { units: 1, spaces: 0, functions: 0, interrupts: 0, teardowns: 0 }
        );
    });
}

#[test]
fn cycles_of_everything_lose_no_frame() {
    on_every_kind(|machine, iommu| {
        let mut cycle = || {
            let (space, attachment, data) = granted(machine, iommu, NIC, IOVA);
            assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
            let unmapped = iommu.unmap(space, Iova::new(IOVA), 4 * PAGE_SIZE).expect("mapped");
            let detached = iommu.detach(attachment);
            let destroyed = iommu.destroy_space(space).expect("attached nowhere");
            for pending in [detached, destroyed, unmapped] {
                retire(machine, iommu, pending);
            }
            machine.memory.clone().free_run(data, 4);
            machine.memory.live_frames()
        };
        let once = cycle();
        for _ in 0..20 {
            assert_eq!(cycle(), once);
        }
    });
}

#[test]
fn large_pages_are_used_split_and_invalidated() {
    on_every_kind(|machine, iommu| {
        let data = machine.memory.clone().alloc_run(1024).expect("frames");
        let space = iommu.create_space().expect("a domain");
        iommu.map(space, Iova::new(1 << 30), data, 4 << 20, Rights::RW).expect("free");
        let _kept = iommu.attach(Attach::new(NIC, space)).expect("free");
        let page = iommu.translate(space, Iova::new(1 << 30)).expect("mapped").page;
        assert_eq!(page, paging::PageSize::Size2M);
        let dma = |offset: u64| machine.unit(0).dma(read(NIC, (1 << 30) + offset));
        assert_eq!(dma(0x12_3000), Ok(data.wrapping_add(0x12_3000)));
        let hole = Iova::new((1 << 30) + 0x12_3000);
        let pending = iommu.unmap(space, hole, PAGE_SIZE).expect("mapped");
        retire(machine, iommu, pending);
        assert!(dma(0x12_3000).is_err());
        assert_eq!(dma(0x12_4000), Ok(data.wrapping_add(0x12_4000)));
        assert_eq!(dma(0x20_0000), Ok(data.wrapping_add(0x20_0000)));
    });
}

#[test]
fn rights_that_were_taken_away_bind() {
    on_every_kind(|machine, iommu| {
        let (space, _kept, _) = granted(machine, iommu, NIC, IOVA);
        assert!(machine.dma_write(write(NIC, IOVA), 1).is_ok());
        let pending =
            iommu.protect(space, Iova::new(IOVA), 4 * PAGE_SIZE, Rights::R).expect("mapped");
        retire(machine, iommu, pending);
        assert!(machine.dma_write(write(NIC, IOVA), 2).is_err());
        assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
    });
}

#[test]
fn unmaps_go_out_together() {
    on_every_kind(|machine, iommu| {
        let data = machine.memory.data(256);
        let space = iommu.create_space().expect("a domain");
        iommu.map(space, Iova::new(IOVA), data, 256 * PAGE_SIZE, Rights::RW).expect("free");
        let _kept = iommu.attach(Attach::new(NIC, space)).expect("free");
        let tails = || {
            let regs = machine.regs(0);
            let stores = regs.inner().stores();
            stores.iter().filter(|(offset, _)| *offset == 0x88).count()
        };
        for page in 0..256 {
            assert!(machine.unit(0).dma(read(NIC, IOVA + page * PAGE_SIZE)).is_ok());
        }
        let before = tails();
        let mut pending: Vec<_> = (0..256)
            .step_by(2)
            .map(|page| {
                let iova = Iova::new(IOVA + page * PAGE_SIZE);
                iommu.unmap(space, iova, PAGE_SIZE).expect("mapped")
            })
            .collect();
        assert_eq!(tails(), before, "an unmap went out by itself");
        retire(machine, iommu, pending.pop().expect("many"));
        for pending in pending {
            assert!(pending.poll(iommu).is_ok(), "one flush was for all");
        }
        assert_eq!(tails(), before + 1);
        for page in 0..256 {
            let reached = machine.unit(0).dma(read(NIC, IOVA + page * PAGE_SIZE)).is_ok();
            assert_eq!(reached, page % 2 == 1, "page {page}");
        }
    });
}

#[test]
fn a_queue_goes_round_and_round() {
    on_every_kind(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, IOVA);
        for _ in 0..300 {
            let pending = iommu.unmap(space, Iova::new(IOVA), PAGE_SIZE).expect("mapped");
            retire(machine, iommu, pending);
            assert!(machine.dma_read(read(NIC, IOVA)).is_err());
            iommu.map(space, Iova::new(IOVA), data, PAGE_SIZE, Rights::RW).expect("free");
            assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
        }
    });
}

#[test]
fn more_teardowns_than_a_queue_holds_wait_for_room() {
    on_every_kind(|machine, iommu| {
        let mut pending = Vec::new();
        for device in 0..100u8 {
            let function =
                Function { segment: 0, rid: RequesterId::new(9, device >> 3, device & 7) };
            let (space, attachment, _) = granted(machine, iommu, function, IOVA);
            assert!(machine.dma_read(read(function, IOVA)).is_ok());
            pending.push(iommu.detach(attachment));
            pending.push(iommu.destroy_space(space).expect("attached nowhere"));
        }
        for pending in pending {
            retire(machine, iommu, pending);
        }
        assert_eq!(iommu.counts().functions, 0);
    });
}

#[test]
fn dma_never_goes_into_the_interrupt_range() {
    on_every_kind(|machine, iommu| {
        let data = machine.memory.data(4);
        let space = iommu.create_space().expect("a domain");
        for (iova, bytes) in
            [(0xfee0_0000, PAGE_SIZE), (0xfedf_f000, 2 * PAGE_SIZE), (0xfeef_f000, PAGE_SIZE)]
        {
            let refused = iommu.map(space, Iova::new(iova), data, bytes, Rights::RW);
            assert_eq!(refused, Err(MapError::InterruptRange));
        }
        iommu.map(space, Iova::new(0xfedf_f000), data, PAGE_SIZE, Rights::RW).expect("below");
        iommu.map(space, Iova::new(0xfef0_0000), data, PAGE_SIZE, Rights::RW).expect("above");
        let end = iommu.iova_end();
        let refused = iommu.map(space, end, data, PAGE_SIZE, Rights::RW);
        assert_eq!(refused, Err(MapError::TooWide(end.raw())));
    });
}

#[test]
fn what_is_attached_twice_or_wrongly_is_refused_by_name() {
    let (machine, mut iommu) = start(Profile::scalable_second(), Mode::Auto);
    let (space, _kept, _) = granted(&machine, &mut iommu, NIC, IOVA);
    let plain = Attach::new(NIC, space);
    assert_eq!(iommu.attach(plain), Err(AttachError::Attached(NIC, None)));
    let with_tlb = Attach { device_tlb: Some(4), pasid: Some(pasid(1)), ..plain };
    assert_eq!(iommu.attach(with_tlb), Err(AttachError::DeviceTlb));
    let zero = Attach { pasid: Some(pasid(0)), ..plain };
    assert_eq!(iommu.attach(zero), Err(AttachError::Unsupported));
    let nested = Attach { first_stage: Some(Gpa::ZERO), ..Attach::new(DISK, space) };
    assert_eq!(iommu.attach(nested), Err(AttachError::Unsupported));
    let elsewhere = Function { segment: 5, ..NIC };
    let refused = iommu.attach(Attach::new(elsewhere, space));
    assert_eq!(refused, Err(AttachError::NoUnit(elsewhere)));
    let (_, mut legacy) = start(Profile::legacy(), Mode::Auto);
    let space = legacy.create_space().expect("a domain");
    let refused = legacy.attach(Attach { pasid: Some(pasid(1)), ..Attach::new(NIC, space) });
    assert_eq!(refused, Err(AttachError::Unsupported));
    machine.assert_clean();
}

#[test]
fn running_out_of_frames_leaves_nothing_behind() {
    on_every_kind(|machine, iommu| {
        // Context tables stay once made, so they are made first.
        let (space, attachment, _) = granted(machine, iommu, NIC, IOVA);
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
        let live = machine.memory.live_frames();
        let mut frames = 0;
        loop {
            machine.memory.limit(Some(frames));
            let attached = iommu.attach(Attach::new(NIC, space));
            machine.memory.limit(None);
            match attached {
                Ok(attachment) => {
                    let pending = iommu.detach(attachment);
                    retire(machine, iommu, pending);
                    break;
                }
                Err(why) => assert_eq!(why, AttachError::OutOfFrames),
            }
            assert!(machine.dma_read(read(NIC, IOVA)).is_err());
            assert_eq!(machine.memory.live_frames(), live);
            frames += 1;
        }
        assert_eq!(machine.memory.live_frames(), live);
    });
}

#[test]
fn a_device_tlb_is_invalidated_after_the_iotlb() {
    on_every_kind(|machine, iommu| {
        let data = machine.memory.data(4);
        let space = iommu.create_space().expect("a domain");
        iommu.map(space, Iova::new(IOVA), data, 4 * PAGE_SIZE, Rights::RW).expect("free");
        let attach = Attach { device_tlb: Some(8), ..Attach::new(NIC, space) };
        let attachment = iommu.attach(attach).expect("free");
        let by_tlb = |address| machine.unit(0).dma_by_device_tlb(write(NIC, address));
        assert_eq!(by_tlb(IOVA + 8), Ok(data.wrapping_add(8)));
        assert_eq!(by_tlb(IOVA + 0x1000), Ok(data.wrapping_add(0x1000)));
        let pending = iommu.unmap(space, Iova::new(IOVA), PAGE_SIZE).expect("mapped");
        assert!(by_tlb(IOVA).is_ok(), "the device forgot by itself");
        machine.unit(0).rival(write(NIC, IOVA));
        machine.unit(0).rival(write(NIC, IOVA + 0x1000));
        retire(machine, iommu, pending);
        assert!(by_tlb(IOVA).is_err());
        assert!(by_tlb(IOVA + 0x1000).is_ok());
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
        assert!(by_tlb(IOVA + 0x1000).is_err());
        machine.memory.clone().free_run(data, 4);
        // Others may not use what they say was translated.
        let (_, _kept, _) = granted(machine, iommu, DISK, IOVA);
        assert!(machine.unit(0).ask(read(DISK, IOVA + 0x1000)).is_err());
    });
}

#[test]
fn a_guests_first_stage_lies_above_the_space() {
    let (machine, mut iommu) = start(Profile::nested(), Mode::Auto);
    assert_eq!(iommu.stage(), Stage::Second);
    // Guest memory: page 0 to 3 are its tables, page 4 its data; guest physical 10000h is the first.
    let guest = machine.memory.data(8);
    let mut memory = machine.memory.clone();
    let gpa = |page: u64| 0x1_0000 + page * PAGE_SIZE;
    for (page, next) in [(0, 1), (1, 2), (2, 3), (3, 4)] {
        for word in 0..512 {
            memory.store(guest.wrapping_add(page * PAGE_SIZE), word, 0);
        }
        memory.store(guest.wrapping_add(page * PAGE_SIZE), 0, gpa(next) | 0x7);
    }
    let space = iommu.create_space().expect("a domain");
    iommu.map(space, Iova::new(gpa(0)), guest, 8 * PAGE_SIZE, Rights::RW).expect("free");
    let first_stage = Some(Gpa::new(gpa(0)));
    let attach = Attach { pasid: Some(pasid(9)), first_stage, ..Attach::new(NIC, space) };
    let attachment = iommu.attach(attach).expect("free");
    let request = Request { pasid: Some(9), ..write(NIC, 0x18) };
    let reached = guest.wrapping_add(4 * PAGE_SIZE + 0x18);
    assert_eq!(machine.unit(0).dma(request), Ok(reached));
    // Taking the guest's page away binds for what came through its own tables.
    let pending = iommu.unmap(space, Iova::new(gpa(4)), PAGE_SIZE).expect("mapped");
    retire(&machine, &mut iommu, pending);
    assert!(machine.unit(0).dma(request).is_err());
    let pending = iommu.detach(attachment);
    retire(&machine, &mut iommu, pending);
    machine.assert_clean();
}

#[test]
fn dirty_pages_are_told_once_until_they_are_written_again() {
    for (profile, mode) in
        [(Profile::scalable_second(), Mode::Auto), (Profile::scalable_first(), Mode::Auto)]
    {
        let (machine, mut iommu) = start(profile, mode);
        let (space, _kept, _) = granted(&machine, &mut iommu, NIC, IOVA);
        let take = |iommu: &mut Iommu<ModelHw>| {
            let mut told = Vec::new();
            let whole = (Iova::new(IOVA), 4 * PAGE_SIZE);
            let pending =
                iommu.take_dirty(space, whole.0, whole.1, |at, _| told.push(at.raw() - IOVA));
            retire(&machine, iommu, pending.expect("they are kept"));
            told
        };
        // The first stage's pages count as dirty from the start.
        take(&mut iommu);
        assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
        assert!(machine.dma_write(write(NIC, IOVA + 0x2000), 1).is_ok());
        assert_eq!(take(&mut iommu), [0x2000]);
        assert_eq!(take(&mut iommu), [] as [u64; 0]);
        assert!(machine.dma_write(write(NIC, IOVA + 0x2000), 2).is_ok());
        assert_eq!(take(&mut iommu), [0x2000]);
        machine.assert_clean();
    }
    let (_, mut legacy) = start(Profile::legacy(), Mode::Auto);
    let space = legacy.create_space().expect("a domain");
    let refused = legacy.take_dirty(space, Iova::ZERO, PAGE_SIZE, |_, _| {});
    assert_eq!(refused.err(), Some(MapError::NoDirtyBits));
}

#[test]
fn domains_run_out_by_name() {
    let few = Profile { cap: Profile::legacy().cap.with_nd(0), ..Profile::legacy() };
    let machine = Machine::new(&[few]);
    let mut iommu = start_with(&machine, &dmar(1), config());
    let spaces: Vec<_> = (1..16).map(|_| iommu.create_space().expect("one of 15")).collect();
    assert_eq!(iommu.create_space().err(), Some(MapError::OutOfDomains));
    let last = *spaces.last().expect("15");
    let pending = iommu.destroy_space(last).expect("attached nowhere");
    retire(&machine, &mut iommu, pending);
    assert!(iommu.create_space().is_ok());
    assert_eq!(iommu.translate(last, Iova::ZERO), None);
    assert_eq!(
        iommu.map(last, Iova::ZERO, Hpa::ZERO, PAGE_SIZE, Rights::R),
        Err(MapError::NoSpace)
    );
    machine.assert_clean();
}

#[test]
fn one_pasid_is_detached_while_the_function_goes_on_with_others() {
    on_scalable(|machine, iommu| {
        let (_, _kept, _) = granted(machine, iommu, NIC, IOVA);
        let data = machine.memory.data(1);
        let space = iommu.create_space().expect("a domain");
        iommu.map(space, Iova::new(IOVA), data, PAGE_SIZE, Rights::RW).expect("free");
        let attach = Attach { pasid: Some(pasid(7)), ..Attach::new(NIC, space) };
        let attachment = iommu.attach(attach).expect("free");
        let request = Request { pasid: Some(7), ..write(NIC, IOVA) };
        assert!(machine.dma_write(request, 1).is_ok());
        machine.unit(0).rival(request);
        let pending = iommu.detach(attachment);
        retire(machine, iommu, pending);
        machine.memory.clone().free_run(data, 1);
        assert!(machine.dma_write(request, 2).is_err());
        assert!(machine.dma_read(read(NIC, IOVA)).is_ok());
    });
}

#[test]
fn small_address_masks_are_respected() {
    for mamv in [0, 2] {
        let profile = Profile::legacy();
        let profile = Profile { cap: profile.cap.with_mamv(mamv), ..profile };
        let (machine, mut iommu) = start(profile, Mode::Auto);
        let data = machine.memory.data(64);
        let space = iommu.create_space().expect("a domain");
        iommu.map(space, Iova::new(IOVA), data, 64 * PAGE_SIZE, Rights::RW).expect("free");
        let _kept = iommu.attach(Attach::new(NIC, space)).expect("free");
        for (first, pages) in [(0, 4), (8, 8), (32, 32)] {
            let dma = |page| machine.unit(0).dma(read(NIC, IOVA + page * PAGE_SIZE)).is_ok();
            assert!((first..first + pages).all(dma));
            let iova = Iova::new(IOVA + first * PAGE_SIZE);
            let pending = iommu.unmap(space, iova, pages * PAGE_SIZE).expect("mapped");
            retire(&machine, &mut iommu, pending);
            assert!(!(first..first + pages).any(dma));
        }
        machine.assert_clean();
    }
}

#[test]
fn a_pasid_is_in_force_though_its_directory_had_to_grow() {
    on_scalable(|machine, iommu| {
        let (space, _kept, data) = granted(machine, iommu, NIC, 0x1000);
        assert_eq!(machine.unit(0).dma(read(NIC, 0x1000)), Ok(data), "now its context is cached");
        let far = pasid(0x4000);
        let attach = Attach { pasid: Some(far), ..Attach::new(NIC, space) };
        let _kept = iommu.attach(attach).expect("free");
        let request = Request { pasid: Some(far.raw()), ..read(NIC, 0x1000) };
        assert_eq!(machine.unit(0).dma(request), Ok(data));
    });
}
