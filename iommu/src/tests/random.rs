//! Random sequences against a plain map: what devices reach is what was granted, at every moment.

use std::collections::BTreeMap;

use hw::{DeviceTables, Hpa, Iova, PAGE_SIZE};
use paging::Rights;
use proptest::prelude::*;

use super::*;
use crate::{Route, Source, Target};

#[derive(Clone, Debug)]
enum Op {
    Attach { function: usize, pasid: u32, space: usize },
    Detach { at: usize },
    Map { space: usize, page: u64, pages: u64, write: bool },
    Unmap { space: usize, page: u64, pages: u64, wait: bool },
    Dma { function: usize, pasid: u32, page: u64, write: bool },
    Route { function: usize, vector: u8 },
    Retarget { at: usize, vector: u8 },
    Unroute { at: usize },
    Tick,
}

const FUNCTIONS: [Function; 3] = [NIC, DISK, Function { segment: 0, rid: RequesterId(0x0301) }];
const SPACES: usize = 2;
const BASE: u64 = 0x20_0000;

fn op() -> impl Strategy<Value = Op> {
    let function = || 0..FUNCTIONS.len();
    let range = || (0..SPACES, 0..600u64, prop_oneof![1..4u64, Just(512)]);
    prop_oneof![
        2 => (function(), 0..3u32, 0..SPACES).prop_map(|(function, pasid, space)| Op::Attach { function, pasid, space }),
        1 => (0..8usize).prop_map(|at| Op::Detach { at }),
        3 => (range(), any::<bool>()).prop_map(|((space, page, pages), write)| Op::Map { space, page, pages, write }),
        2 => (range(), any::<bool>()).prop_map(|((space, page, pages), wait)| Op::Unmap { space, page, pages, wait }),
        6 => (function(), 0..3u32, 0..620u64, any::<bool>()).prop_map(|(function, pasid, page, write)| Op::Dma { function, pasid, page, write }),
        1 => (function(), any::<u8>()).prop_map(|(function, vector)| Op::Route { function, vector }),
        1 => (0..8usize, any::<u8>()).prop_map(|(at, vector)| Op::Retarget { at, vector }),
        1 => (0..8usize).prop_map(|at| Op::Unroute { at }),
        1 => Just(Op::Tick),
    ]
}

/// What was granted, and what is being taken away: the latter may be reached or not.
#[derive(Default)]
struct Reference {
    spaces: [BTreeMap<u64, (u64, bool)>; SPACES],
    leaving: [BTreeMap<u64, Vec<(u64, bool)>>; SPACES],
    attached: Vec<(usize, u32, usize, Attachment)>,
    detaching: Vec<(usize, u32, usize)>,
    routes: Vec<(usize, u8, Route)>,
}

struct Play {
    machine: Machine,
    iommu: Iommu<ModelHw>,
    spaces: Vec<SpaceId>,
    reference: Reference,
    pending: Vec<Pending>,
}

impl Play {
    /// Waits until nothing is under way.
    fn settle(&mut self) {
        for pending in self.pending.drain(..) {
            retire(&self.machine, &mut self.iommu, pending);
        }
        self.reference.leaving = Default::default();
        self.reference.detaching.clear();
    }

    fn step(&mut self, op: Op) {
        let scalable = self.iommu.pasid_bits(NIC) > 0;
        match op {
            Op::Attach { function, pasid: raw, space } => {
                let pasid = (raw != 0 && scalable).then(|| pasid(raw));
                let raw = pasid.map_or(0, Pasid::raw);
                let attach =
                    Attach { pasid, ..Attach::new(FUNCTIONS[function], self.spaces[space]) };
                let free =
                    !self.reference.attached.iter().any(|(f, p, ..)| (*f, *p) == (function, raw));
                match self.iommu.attach(attach) {
                    Ok(attachment) => {
                        assert!(free, "attached twice");
                        self.reference.attached.push((function, raw, space, attachment));
                    }
                    Err(why) => {
                        let busy = matches!(why, crate::AttachError::Busy(_));
                        assert!(!free || busy && !self.reference.detaching.is_empty(), "{why:?}");
                    }
                }
            }
            Op::Detach { at } if at < self.reference.attached.len() => {
                let (function, pasid, space, attachment) = self.reference.attached.swap_remove(at);
                self.pending.push(self.iommu.detach(attachment));
                self.reference.detaching.push((function, pasid, space));
            }
            Op::Map { space, page, pages, write } => self.map(space, page, pages, write),
            Op::Unmap { space, page, pages, wait } => {
                let iova = Iova::new(BASE + page * PAGE_SIZE);
                let unmapped = self.iommu.unmap(self.spaces[space], iova, pages * PAGE_SIZE);
                self.pending.push(unmapped.expect("frames"));
                for page in page..page + pages {
                    if let Some(old) = self.reference.spaces[space].remove(&page) {
                        self.reference.leaving[space].entry(page).or_default().push(old);
                    }
                }
                if wait {
                    self.settle();
                }
            }
            Op::Dma { function, pasid, page, write } => self.dma(function, pasid, page, write),
            Op::Route { function, vector } => {
                let target = Target::Cpu { apic_id: 1, vector };
                let route = self.iommu.route(Source::Function(FUNCTIONS[function]), &[target]);
                self.reference.routes.push((function, vector, route.expect("entries")));
            }
            Op::Retarget { at, vector } if at < self.reference.routes.len() => {
                let (_, old, route) = &mut self.reference.routes[at];
                let target = Target::Cpu { apic_id: 1, vector };
                *old = vector;
                let pending = self.iommu.retarget(route, 0, target).expect("an entry");
                retire(&self.machine, &mut self.iommu, pending);
            }
            Op::Unroute { at } if at < self.reference.routes.len() => {
                let (.., route) = self.reference.routes.swap_remove(at);
                self.pending.push(self.iommu.unroute(route));
            }
            Op::Tick => {
                self.machine.clock.relax();
                self.iommu.work();
            }
            _ => {}
        }
        self.interrupts();
    }

    fn map(&mut self, space: usize, page: u64, pages: u64, write: bool) {
        let hpa = self.machine.memory.clone().alloc_run(pages.next_power_of_two()).expect("frames");
        let rights = if write { Rights::RW } else { Rights::R };
        let iova = Iova::new(BASE + page * PAGE_SIZE);
        let mapped = self.iommu.map(self.spaces[space], iova, hpa, pages * PAGE_SIZE, rights);
        let free = !self.reference.spaces[space].keys().any(|p| (page..page + pages).contains(p));
        assert_eq!(mapped.is_ok(), free);
        if free {
            for offset in 0..pages {
                let to = (hpa.raw() + offset * PAGE_SIZE, write);
                self.reference.spaces[space].insert(page + offset, to);
            }
        }
    }

    fn dma(&mut self, function: usize, pasid: u32, page: u64, write: bool) {
        let scalable = self.iommu.pasid_bits(NIC) > 0;
        let pasid = if scalable { pasid } else { 0 };
        let request = Request {
            rid: FUNCTIONS[function].rid,
            pasid: (pasid != 0).then_some(pasid),
            address: BASE + page * PAGE_SIZE,
            write,
        };
        let got = self.machine.unit(0).dma(request).ok().map(Hpa::raw);
        let reference = &self.reference;
        let now = reference.attached.iter().find(|(f, p, ..)| (*f, *p) == (function, pasid));
        let now = now.map(|(_, _, space, _)| *space);
        let before = reference.detaching.iter().filter(|(f, p, _)| (*f, *p) == (function, pasid));
        let reach = |(to, writable): &(u64, bool)| (*writable || !write).then_some(*to);
        let granted = now.and_then(|space| reference.spaces[space].get(&page)).and_then(reach);
        let mut allowed: Vec<u64> = granted.into_iter().collect();
        for space in now.into_iter().chain(before.map(|(.., space)| *space)) {
            allowed.extend(reference.spaces[space].get(&page).and_then(reach));
            allowed.extend(
                reference.leaving[space].get(&page).into_iter().flatten().filter_map(reach),
            );
        }
        match got {
            Some(hpa) => {
                assert!(allowed.contains(&hpa), "{request:?} reached {hpa:#x}, {allowed:x?}")
            }
            // What is granted while something is leaving may meet what is still cached of the latter.
            None => {
                assert!(granted.is_none() || !self.pending.is_empty(), "{request:?} was refused")
            }
        }
    }

    fn interrupts(&self) {
        for (owner, vector, route) in &self.reference.routes {
            for (index, function) in FUNCTIONS.iter().enumerate() {
                let message = route.message();
                let message = models::vtd::Message { address: message.address, data: message.data };
                let got = self.machine.unit(0).interrupt(function.rid, message);
                let wanted = models::vtd::Delivery::Remapped { vector: *vector, destination: 1 };
                assert_eq!(got.is_ok(), index == *owner);
                assert!(got.is_err() || got == Ok(wanted));
            }
        }
    }
}

fn play(kind: usize, ops: Vec<Op>) {
    let kinds = every_kind();
    let (_, profile, mode) = kinds[kind % kinds.len()];
    let (machine, mut iommu) = start(profile, mode);
    let spaces: Vec<_> = (0..SPACES).map(|_| iommu.create_space().expect("a domain")).collect();
    let mut play =
        Play { machine, iommu, spaces, reference: Reference::default(), pending: vec![] };
    for op in ops {
        play.step(op);
    }
    while let Some((.., attachment)) = play.reference.attached.pop() {
        play.pending.push(play.iommu.detach(attachment));
    }
    while let Some((.., route)) = play.reference.routes.pop() {
        play.pending.push(play.iommu.unroute(route));
    }
    play.settle();
    for space in play.spaces.clone() {
        let pending = play.iommu.destroy_space(space).expect("attached nowhere");
        retire(&play.machine, &mut play.iommu, pending);
    }
    let counts = play.iommu.counts();
    assert_eq!(
        (counts.spaces, counts.functions, counts.interrupts, counts.teardowns),
        (0, 0, 0, 0)
    );
    play.machine.assert_clean();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn devices_reach_what_was_granted_and_nothing_else(
        kind in 0..17usize,
        ops in prop::collection::vec(op(), 1..60),
    ) {
        play(kind, ops);
    }
}
