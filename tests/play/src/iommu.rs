//! The IOMMU driver on the model, beside a plain map of what was granted: at every moment devices reach what was granted, or
//! what is just being taken away, and nothing else.

use std::collections::BTreeMap;

use arbitrary::{Result, Unstructured};
use hw::{Clock, Deadline, Function, Hpa, Iova, PAGE_SIZE, Pasid, RequesterId};
use iommu::{
    Attach, AttachError, Attachment, Iommu, Mode, Pending, Retired, Route, Source, SpaceId, Target,
};
use models::Machine;
use models::vtd::{Delivery, Message, Profile, Request};
use paging::Rights;

use crate::start::{self, ModelHw};

/// Two functions of one device, and one of another bus.
const FUNCTIONS: [Function; 3] = [
    Function { segment: 0, rid: RequesterId::new(3, 0, 0) },
    Function { segment: 0, rid: RequesterId::new(4, 0x1f, 7) },
    Function { segment: 0, rid: RequesterId::new(3, 0, 1) },
];
const SPACES: usize = 2;
/// Where pages are numbered from: the end of one 2 MiB page, and all of the next.
const BASE: u64 = 0x20_0000;
const PAGES: u64 = 600;
/// Frames of nobody, which mappings lead to: a model of memory holds tables only.
const DATA: u64 = 0x10_0000_0000;
/// Root and context tables that stay for good: of two buses, in two halves.
const KEPT_TABLES: u64 = 4;
/// A script's length in steps.
const MOST: usize = 256;

/// What was granted, and what is being taken away: the latter may be reached or not.
#[derive(Default)]
struct Reference {
    spaces: [BTreeMap<u64, Leaf>; SPACES],
    leaving: [BTreeMap<u64, Vec<Leaf>>; SPACES],
    attached: Vec<(usize, u32, usize, Attachment)>,
    detaching: Vec<(usize, u32, usize)>,
    routes: Vec<(usize, u8, Route)>,
    unrouted: Vec<Message>,
}

/// A page, and whether it may be written to.
type Leaf = (u64, bool);

struct Play {
    machine: Machine,
    iommu: Iommu<ModelHw>,
    spaces: [SpaceId; SPACES],
    reference: Reference,
    pending: Vec<Pending>,
    next_data: u64,
}

/// Every kind of unit, and the mode it is used in.
fn kinds() -> Vec<(Profile, Mode)> {
    let all = Profile::every_kind().into_iter().map(|(_, profile)| (profile, Mode::Auto));
    let others =
        [(Profile::scalable_second(), Mode::Legacy), (Profile::nested(), Mode::ScalableFirst)];
    all.chain(others).collect()
}

/// Plays a script.
pub(crate) fn play(script: &[u8]) {
    let mut script = Unstructured::new(script);
    // The only error is that a script makes no sense, which none does.
    let _ = play_all(&mut script);
}

fn play_all(script: &mut Unstructured<'_>) -> Result<()> {
    let (profile, mode) = *script.choose(&kinds())?;
    let machine = Machine::new(&[profile]);
    let config = iommu::Config { mode, ..start::CONFIG };
    let iommu = start::start(&machine, &start::dmar_of(1), config).expect("a unit that works");
    let kept = machine.memory.live_frames() + KEPT_TABLES;
    let mut play = Play::new(machine, iommu);
    for _ in 0..MOST {
        if script.is_empty() {
            break;
        }
        play.step(script)?;
        play.interrupts();
    }
    play.end(kept);
    Ok(())
}

impl Play {
    fn new(machine: Machine, mut iommu: Iommu<ModelHw>) -> Self {
        let spaces = std::array::from_fn(|_| iommu.create_space().expect("a domain"));
        let reference = Reference::default();
        Self { machine, iommu, spaces, reference, pending: Vec::new(), next_data: DATA }
    }

    fn step(&mut self, script: &mut Unstructured<'_>) -> Result<()> {
        match script.int_in_range(0..=23)? {
            0..=1 => {
                let (function, pasid) = self.place(script)?;
                let space = script.choose_index(SPACES)?;
                self.attach(function, pasid, space);
            }
            2 if !self.reference.attached.is_empty() => {
                let at = script.choose_index(self.reference.attached.len())?;
                let (function, pasid, space, attachment) = self.reference.attached.swap_remove(at);
                self.pending.push(self.iommu.detach(attachment));
                self.reference.detaching.push((function, pasid, space));
            }
            3..=5 => {
                let (space, page, pages) = range(script)?;
                self.map(space, page, pages, script.arbitrary()?);
            }
            6..=7 => {
                let (space, page, pages) = range(script)?;
                self.unmap(space, page, pages);
            }
            8 => {
                let (space, page, pages) = range(script)?;
                self.protect(space, page, pages, script.arbitrary()?);
            }
            9..=14 => {
                let request = self.request(script)?;
                self.dma(request);
            }
            15 => {
                let (function, vector) =
                    (script.choose_index(FUNCTIONS.len())?, script.arbitrary()?);
                let source = Source::Function(FUNCTIONS[function]);
                let route = self.iommu.route(source, &[Target::Cpu { apic_id: 1, vector }]);
                self.reference.routes.push((function, vector, route.expect("entries")));
            }
            16 if !self.reference.routes.is_empty() => {
                let at = script.choose_index(self.reference.routes.len())?;
                let (_, old, route) = &mut self.reference.routes[at];
                *old = script.arbitrary()?;
                let target = Target::Cpu { apic_id: 1, vector: *old };
                let pending = self.iommu.retarget(route, 0, target).expect("an entry");
                retire(&self.machine, &mut self.iommu, pending);
            }
            17 if !self.reference.routes.is_empty() => {
                let at = script.choose_index(self.reference.routes.len())?;
                let (.., route) = self.reference.routes.swap_remove(at);
                self.unroute(route);
            }
            18 => {
                self.machine.clock.relax();
                self.iommu.work();
            }
            19..=20 => self.settle(),
            21 => self.machine.unit(0).slow_down(script.int_in_range(0..=3)?),
            22 => {
                let request = self.request(script)?.0;
                self.machine.unit(0).no_rivals();
                self.machine.unit(0).rival(request);
            }
            23 => self.renew(script.choose_index(SPACES)?),
            _ => {}
        }
        Ok(())
    }

    /// A function, and the PASID of a request; 0 for none.
    fn place(&self, script: &mut Unstructured<'_>) -> Result<(usize, u32)> {
        let (function, pasid) =
            (script.choose_index(FUNCTIONS.len())?, script.int_in_range(0..=2)?);
        // The last is in another table of the directory, or in another half of it.
        let pasid = if pasid == 2 { 0x1_0041 } else { pasid };
        Ok((function, if self.iommu.pasid_bits(FUNCTIONS[0]) > 16 { pasid } else { 0 }))
    }

    /// A request, and its function and page as they are numbered here.
    fn request(&self, script: &mut Unstructured<'_>) -> Result<(Request, usize, u64)> {
        let (function, pasid) = self.place(script)?;
        let page = script.int_in_range(0..=PAGES + 19)?;
        let request = Request {
            rid: FUNCTIONS[function].rid,
            pasid: (pasid != 0).then_some(pasid),
            address: BASE + page * PAGE_SIZE,
            write: script.arbitrary()?,
        };
        Ok((request, function, page))
    }

    fn attach(&mut self, function: usize, pasid: u32, space: usize) {
        let named = (pasid != 0).then(|| Pasid::try_new(pasid).expect("20 bits"));
        let attach = Attach::new(FUNCTIONS[function], self.spaces[space]);
        let reference = &mut self.reference;
        let free = !reference.attached.iter().any(|(f, p, ..)| (*f, *p) == (function, pasid));
        match self.iommu.attach(Attach { pasid: named, ..attach }) {
            Ok(attachment) => {
                assert!(free, "attached twice");
                reference.attached.push((function, pasid, space, attachment));
            }
            Err(why) => {
                let busy = matches!(why, AttachError::Busy(_)) && !reference.detaching.is_empty();
                assert!(!free || busy, "{why:?}");
            }
        }
    }

    fn map(&mut self, space: usize, page: u64, pages: u64, write: bool) {
        let bytes = pages * PAGE_SIZE;
        let hpa = self.next_data.next_multiple_of(bytes.next_power_of_two());
        self.next_data = hpa + bytes;
        let rights = if write { Rights::RW } else { Rights::R };
        let iova = Iova::new(BASE + page * PAGE_SIZE);
        let mapped = self.iommu.map(self.spaces[space], iova, Hpa::new(hpa), bytes, rights);
        let leaves = &mut self.reference.spaces[space];
        let free = leaves.range(page..page + pages).next().is_none();
        assert_eq!(mapped.is_ok(), free, "{mapped:?}");
        if free {
            leaves.extend((0..pages).map(|n| (page + n, (hpa + n * PAGE_SIZE, write))));
        }
    }

    fn unmap(&mut self, space: usize, page: u64, pages: u64) {
        let iova = Iova::new(BASE + page * PAGE_SIZE);
        let unmapped = self.iommu.unmap(self.spaces[space], iova, pages * PAGE_SIZE);
        self.pending.push(unmapped.expect("frames"));
        for page in page..page + pages {
            if let Some(old) = self.reference.spaces[space].remove(&page) {
                self.reference.leaving[space].entry(page).or_default().push(old);
            }
        }
    }

    fn protect(&mut self, space: usize, page: u64, pages: u64, write: bool) {
        let iova = Iova::new(BASE + page * PAGE_SIZE);
        let rights = if write { Rights::RW } else { Rights::R };
        let done = self.iommu.protect(self.spaces[space], iova, pages * PAGE_SIZE, rights);
        let leaves = &mut self.reference.spaces[space];
        let whole = leaves.range(page..page + pages).count() as u64 == pages;
        assert_eq!(done.is_ok(), whole, "{done:?}");
        let Ok(pending) = done else { return };
        self.pending.push(pending);
        for (page, leaf) in leaves.range_mut(page..page + pages) {
            self.reference.leaving[space].entry(*page).or_default().push(*leaf);
            leaf.1 = write;
        }
    }

    fn unroute(&mut self, route: Route) {
        self.reference.unrouted.push(message(&route));
        self.pending.push(self.iommu.unroute(route));
    }

    /// Another space in the place of one that is attached nowhere.
    fn renew(&mut self, space: usize) {
        if self.reference.attached.iter().any(|(_, _, at, _)| *at == space) {
            let refused = self.iommu.destroy_space(self.spaces[space]);
            assert!(refused.is_err(), "destroyed while it is attached");
            return;
        }
        self.settle();
        let pending = self.iommu.destroy_space(self.spaces[space]).expect("attached nowhere");
        retire(&self.machine, &mut self.iommu, pending);
        self.spaces[space] = self.iommu.create_space().expect("a domain");
        self.reference.spaces[space].clear();
    }

    /// Waits until nothing is under way; what was taken away is out of reach from then on.
    fn settle(&mut self) {
        for pending in self.pending.drain(..) {
            retire(&self.machine, &mut self.iommu, pending);
        }
        self.reference.leaving = Default::default();
        self.reference.detaching.clear();
        for gone in std::mem::take(&mut self.reference.unrouted) {
            if !self.reference.routes.iter().any(|(.., route)| message(route) == gone) {
                for function in FUNCTIONS {
                    let got = self.machine.unit(0).interrupt(function.rid, gone);
                    assert!(
                        got.is_err(),
                        "{gone:x?} of {function} was unrouted, and sent: {got:?}"
                    );
                }
            }
        }
    }

    fn dma(&mut self, (request, function, page): (Request, usize, u64)) {
        let place = (function, request.pasid.unwrap_or(0));
        let got = self.machine.unit(0).dma(request).ok().map(Hpa::raw);
        let reference = &self.reference;
        let now = reference.attached.iter().find(|(f, p, ..)| (*f, *p) == place);
        let now = now.map(|(_, _, space, _)| *space);
        let before = reference.detaching.iter().filter(|(f, p, _)| (*f, *p) == place);
        let reach = |(to, writable): &Leaf| (*writable || !request.write).then_some(*to);
        let granted = now.and_then(|space| reference.spaces[space].get(&page)).and_then(reach);
        let mut allowed: Vec<u64> = granted.into_iter().collect();
        for space in now.into_iter().chain(before.map(|(.., space)| *space)) {
            allowed.extend(reference.spaces[space].get(&page).and_then(reach));
            let leaving = reference.leaving[space].get(&page).into_iter().flatten();
            allowed.extend(leaving.filter_map(reach));
        }
        match got {
            Some(hpa) => {
                assert!(allowed.contains(&hpa), "{request:x?} reached {hpa:#x}, not {allowed:x?}")
            }
            // What is granted while something is leaving may meet what is still cached of the latter.
            None => {
                assert!(granted.is_none() || !self.pending.is_empty(), "{request:x?} was refused")
            }
        }
    }

    /// Every route leads its own function, and no other, to its vector.
    fn interrupts(&self) {
        for (owner, vector, route) in &self.reference.routes {
            for (index, function) in FUNCTIONS.iter().enumerate() {
                let got = self.machine.unit(0).interrupt(function.rid, message(route));
                let wanted = Delivery::Remapped { vector: *vector, destination: 1 };
                assert_eq!(got.ok(), (index == *owner).then_some(wanted), "{function}");
            }
        }
    }

    /// Gives everything back, and leaves no trace.
    fn end(mut self, kept: u64) {
        while let Some((.., attachment)) = self.reference.attached.pop() {
            self.pending.push(self.iommu.detach(attachment));
        }
        while let Some((.., route)) = self.reference.routes.pop() {
            self.unroute(route);
        }
        self.settle();
        for space in self.spaces {
            let pending = self.iommu.destroy_space(space).expect("attached nowhere");
            retire(&self.machine, &mut self.iommu, pending);
        }
        let counts = self.iommu.counts();
        let left = (counts.spaces, counts.functions, counts.interrupts, counts.teardowns);
        assert_eq!(left, (0, 0, 0, 0), "left: spaces, functions, interrupts, teardowns");
        let live = self.machine.memory.live_frames();
        assert!(live <= kept, "{live} frames are left, {kept} at most were to be");
        self.machine.assert_clean();
    }
}

/// A space, a first page and how many.
fn range(script: &mut Unstructured<'_>) -> Result<(usize, u64, u64)> {
    let space = script.choose_index(SPACES)?;
    // Often where a page of 2 MiB begins or ends.
    let page = match script.int_in_range(0..=3)? {
        0 => 0,
        1 => 512,
        _ => script.int_in_range(0..=PAGES - 1)?,
    };
    let pages = script.int_in_range(1..=5)?;
    Ok((space, page, if pages < 4 { pages } else { 512 }))
}

fn message(route: &Route) -> Message {
    let message = route.message();
    Message { address: message.address, data: message.data }
}

fn retire(machine: &Machine, iommu: &mut Iommu<ModelHw>, pending: Pending) -> Retired {
    let deadline = Deadline::after_ns(&machine.clock, 10_000_000);
    pending.wait(iommu, deadline).expect("a unit that answers")
}
