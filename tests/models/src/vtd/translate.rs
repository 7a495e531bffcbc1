//! From a request to host memory: context, PASID, IOTLB; what is missing is walked for (3.4, 3.5).

use hw::{Hpa, RequesterId};
use iommu_spec::context::translation_type;
use iommu_spec::context::{ContextEntry, RootEntry, ScalableContextEntry, ScalableRootEntry};
use iommu_spec::fault::reason;
use iommu_spec::pasid::{DirectoryEntry, PasidEntry, pgtt};
use iommu_spec::registers::command;
use iommu_spec::{INTERRUPT_END, INTERRUPT_START};

use super::{Request, Translation, Unit, Violation, page_of};
use crate::memory::DeviceMemory;

/// A request that is not let through.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blocked {
    pub(super) reason: u8,
    /// Not to be recorded: fault processing is disabled on the way.
    silent: bool,
}

/// What the tables say of a request's address space.
#[derive(Clone, Copy)]
pub(super) struct Space {
    pub(super) did: u16,
    /// Tag of what goes through a first stage.
    pub(super) pasid: Option<u32>,
    pub(super) first: Option<u64>,
    /// Root and levels.
    pub(super) second: Option<(u64, u8)>,
    pub(super) snoop: bool,
    pub(super) dirty: bool,
}

fn blocked(reason: u8, silent: bool) -> Blocked {
    Blocked { reason, silent }
}

impl<M: DeviceMemory> Unit<M> {
    /// A device sends a request. The address it reaches, or the reason of the fault, which is on record then unless the
    /// tables say otherwise.
    ///
    /// # Errors
    /// The reason ([`iommu_spec::fault::reason`]).
    pub fn dma(&mut self, request: Request) -> Result<Hpa, u8> {
        self.observe();
        self.quiet_dma(request).map_err(|why| {
            if !why.silent {
                let Request { rid, pasid, address, write } = request;
                self.record(rid, pasid, address, why.reason, !write);
            }
            why.reason
        })
    }

    /// A device asks for a translation and keeps it in its own TLB (4.1).
    ///
    /// # Errors
    /// The reason.
    pub fn ask(&mut self, request: Request) -> Result<Hpa, u8> {
        self.observe();
        self.may_use_device_tlb(request.rid).map_err(|why| why.reason)?;
        let hpa = self.quiet_dma(request).map_err(|why| why.reason)?;
        self.fill_device_tlb(request, hpa);
        Ok(hpa)
    }

    pub(super) fn fill_device_tlb(&mut self, request: Request, hpa: Hpa) {
        let key = (request.rid.0, request.pasid, request.address & !0xfff);
        self.caches.device.insert(key, (page_of(hpa), request.write));
    }

    /// A device uses what its own TLB holds, or asks.
    ///
    /// # Errors
    /// The reason.
    pub fn dma_by_device_tlb(&mut self, request: Request) -> Result<Hpa, u8> {
        self.observe();
        let key = (request.rid.0, request.pasid, request.address & !0xfff);
        match self.caches.device.get(&key).copied() {
            Some((page, write)) if write || !request.write => {
                self.may_use_device_tlb(request.rid).map_err(|why| why.reason)?;
                Ok(Hpa::new(page | request.address & 0xfff))
            }
            _ => self.ask(request),
        }
    }

    pub(super) fn quiet_dma(&mut self, request: Request) -> Result<Hpa, Blocked> {
        if (INTERRUPT_START..INTERRUPT_END).contains(&request.address) {
            return Err(blocked(reason::INTERRUPT_RANGE, false));
        }
        if !self.has(command::TE) {
            let held = self.is_protected(request.address);
            return if held { Err(blocked(0, true)) } else { Ok(Hpa::new(request.address)) };
        }
        let context = self.context(request.rid)?;
        let (space, silent) = match self.scalable() {
            false => (self.legacy_space(context, request)?, context[0] & 2 != 0),
            true => self.scalable_space(context, request)?,
        };
        let known = self.caches.iotlb.iter().find(|t| {
            t.did == space.did
                && t.pasid == space.pasid
                && (t.first..t.first + t.bytes).contains(&request.address)
        });
        let known = match known {
            Some(known) => *known,
            None => self.fill(space, request).map_err(|reason| blocked(reason, silent))?,
        };
        let refused = if request.write { !known.write } else { !known.read };
        let Some(hpa) = known.hpa.filter(|_| !refused) else {
            return Err(blocked(self.no_right(space, request.write), silent));
        };
        Ok(Hpa::new(hpa + (request.address - known.first)))
    }

    fn fill(&mut self, space: Space, request: Request) -> Result<Translation, u8> {
        let found = self.walk(space, request.address, request.write);
        if let Err(reason) = found {
            // Caching mode: absence is remembered (6.1).
            if self.profile.cap.cm() {
                self.caches.iotlb.push(Translation {
                    did: space.did,
                    pasid: space.pasid,
                    nested: false,
                    first: request.address & !0xfff,
                    bytes: hw::PAGE_SIZE,
                    hpa: None,
                    read: false,
                    write: false,
                });
            }
            return Err(reason);
        }
        let page = found?;
        let first = request.address & !(page.bytes - 1);
        let hpa = page.hpa & !(page.bytes - 1);
        if (INTERRUPT_START..INTERRUPT_END).contains(&hpa) {
            self.violation(Violation::InterruptRangeMapped { iova: request.address });
            return Err(reason::INTERRUPT_RANGE);
        }
        let translation = Translation {
            did: space.did,
            pasid: space.pasid,
            nested: space.first.is_some() && space.second.is_some(),
            first,
            bytes: page.bytes,
            hpa: Some(hpa),
            read: page.read,
            write: page.write,
        };
        self.caches.iotlb.push(translation);
        Ok(translation)
    }

    fn no_right(&self, space: Space, write: bool) -> u8 {
        match (self.scalable(), space.first.is_some(), write) {
            (false, _, true) => reason::WRITE,
            (false, _, false) => reason::READ,
            (true, true, true) => reason::FIRST_WRITE,
            (true, true, false) => reason::FIRST_ABSENT,
            (true, false, _) => reason::SECOND_RIGHTS,
        }
    }

    pub(super) fn may_use_device_tlb(&mut self, rid: RequesterId) -> Result<(), Blocked> {
        let context = self.context(rid)?;
        let allowed = match self.scalable() {
            true => ScalableContextEntry(context).dte(),
            false => ContextEntry([context[0], context[1]]).tt() == translation_type::DEVICE_TLB,
        };
        if allowed { Ok(()) } else { Err(blocked(reason::BLOCKED, false)) }
    }

    /// The context entry, from the cache or from memory.
    fn context(&mut self, rid: RequesterId) -> Result<[u64; 4], Blocked> {
        let absent = match self.scalable() {
            true => reason::SCALABLE_CONTEXT_ABSENT,
            false => reason::CONTEXT_ABSENT,
        };
        let entry = match self.caches.context.get(&rid.0) {
            Some(entry) => *entry,
            None => {
                let entry = self.read_context(rid)?;
                if entry[0] & 1 != 0 || self.profile.cap.cm() {
                    self.caches.context.insert(rid.0, entry);
                }
                entry
            }
        };
        if entry[0] & 1 == 0 {
            return Err(blocked(absent, entry[0] & 2 != 0));
        }
        Ok(entry)
    }

    fn read_context(&mut self, rid: RequesterId) -> Result<[u64; 4], Blocked> {
        let snoop = self.profile.ecap.c();
        let scalable = self.scalable();
        let root_at = self.root.rta().raw() + 16 * u64::from(rid.bus());
        let lost = blocked(if scalable { 0x38 } else { 0x08 }, false);
        let root = self.words(root_at, snoop).ok_or(lost)?;
        if !scalable {
            let root = RootEntry(root);
            if !root.p() {
                return Err(blocked(reason::ROOT_ABSENT, false));
            }
            let at = root.ctp().raw() + 16 * u64::from(rid.devfn());
            let [low, high] = self.words(at, snoop).ok_or(blocked(0x09, false))?;
            if low & 1 != 0 && (low & 0xff0 != 0 || high & !0x00ff_ff7f != 0) {
                self.violation(Violation::ReservedBits { hpa: at });
                return Err(blocked(0x0b, low & 2 != 0));
            }
            return Ok([low, high, 0, 0]);
        }
        let root = ScalableRootEntry(root);
        let (present, table) = match rid.devfn() < 0x80 {
            true => (root.lp(), root.lctp()),
            false => (root.up(), root.uctp()),
        };
        if !present {
            return Err(blocked(reason::SCALABLE_ROOT_ABSENT, false));
        }
        let at = table.raw() + 32 * u64::from(rid.devfn() & 0x7f);
        let entry: [u64; 4] = self.words(at, snoop).ok_or(blocked(0x40, false))?;
        let reserved = entry[0] & 0x1e0 | entry[1] & !0x1f_ffff | entry[2] | entry[3];
        if entry[0] & 1 != 0 && reserved != 0 {
            self.violation(Violation::ReservedBits { hpa: at });
            return Err(blocked(0x42, entry[0] & 2 != 0));
        }
        Ok(entry)
    }

    fn legacy_space(&mut self, context: [u64; 4], request: Request) -> Result<Space, Blocked> {
        let entry = ContextEntry([context[0], context[1]]);
        if request.pasid.is_some() {
            return Err(blocked(0x31, entry.fpd()));
        }
        self.check_domain(entry.did());
        let levels = entry.aw() + 2;
        if self.profile.cap.sagaw() >> (entry.aw()) & 1 == 0 || entry.tt() > 1 {
            return Err(blocked(reason::CONTEXT_INVALID, entry.fpd()));
        }
        Ok(Space {
            did: entry.did(),
            pasid: None,
            first: None,
            second: Some((entry.ssptptr().raw(), levels)),
            snoop: self.profile.ecap.c(),
            dirty: false,
        })
    }

    fn scalable_space(
        &mut self,
        context: [u64; 4],
        request: Request,
    ) -> Result<(Space, bool), Blocked> {
        let context = ScalableContextEntry(context);
        if request.pasid.is_some() && !context.paside() {
            return Err(blocked(reason::PASID_OFF, context.fpd()));
        }
        let pasid = request.pasid.unwrap_or(context.rid_pasid());
        let key = (request.rid.0, pasid);
        let entry = match self.caches.pasid.get(&key) {
            Some(entry) => PasidEntry(*entry),
            None => {
                let entry = self.read_pasid(context, pasid)?;
                if entry.p() || self.profile.cap.cm() {
                    self.caches.pasid.insert(key, entry.0);
                }
                entry
            }
        };
        let silent = context.fpd() || entry.fpd();
        if !entry.p() {
            return Err(blocked(reason::PASID_ABSENT, silent));
        }
        self.check_domain(entry.did());
        let ecap = self.profile.ecap;
        let second = Some((entry.ssptptr().raw(), entry.aw() + 2));
        let first = Some(entry.fsptptr().raw());
        let (first, second, offered) = match entry.pgtt() {
            pgtt::FIRST => (first, None, ecap.fsts() && entry.aw() == 2),
            pgtt::SECOND => (None, second, ecap.ssts()),
            pgtt::NESTED => (first, second, ecap.nest()),
            _ => (None, None, false),
        };
        let width = second.is_none() || self.profile.cap.sagaw() >> entry.aw() & 1 != 0;
        if !offered || !width {
            return Err(blocked(reason::PASID_INVALID, silent));
        }
        let space = Space {
            did: entry.did(),
            pasid: first.map(|_| pasid),
            first,
            second,
            snoop: entry.pwsnp(),
            dirty: entry.ssade(),
        };
        Ok((space, silent))
    }

    fn read_pasid(
        &mut self,
        context: ScalableContextEntry,
        pasid: u32,
    ) -> Result<PasidEntry, Blocked> {
        let snoop = self.profile.ecap.c();
        if pasid >> 6 >= 1 << (context.pdts() + 7) {
            return Err(blocked(reason::PASID_TOO_LARGE, context.fpd()));
        }
        let at = context.pasiddirptr().raw() + 8 * u64::from(pasid >> 6);
        let directory = DirectoryEntry(self.words(at, snoop).ok_or(blocked(0x50, context.fpd()))?);
        let silent = context.fpd() || directory.fpd();
        if !directory.p() {
            return Err(blocked(reason::DIRECTORY_ABSENT, silent));
        }
        let at = directory.smptblptr().raw() + 64 * u64::from(pasid & 63);
        let entry = PasidEntry(self.words(at, snoop).ok_or(blocked(0x58, silent))?);
        let ecap = self.profile.ecap;
        let unoffered = entry.ssade() && !ecap.ssads()
            || entry.pwsnp() && !ecap.smpwcs()
            || entry.pgsnp() && !ecap.sc()
            || entry.sre();
        let reserved = entry.0[0] & 0xc20 | entry.0[1] & 0xf87f_0000 | entry.0[2] & 0xf02;
        let rest = entry.0[3..].iter().any(|&word| word != 0);
        if entry.p() && (unoffered || reserved != 0 || rest) {
            self.violation(Violation::ReservedBits { hpa: at });
            return Err(blocked(0x5a, silent));
        }
        Ok(entry)
    }

    fn check_domain(&mut self, did: u16) {
        let bits = 4 + 2 * u32::from(self.profile.cap.nd());
        if self.profile.cap.cm() && did == 0 || u32::from(did) >> bits.min(16) != 0 {
            self.violation(Violation::BadDomain(did));
        }
    }
}
