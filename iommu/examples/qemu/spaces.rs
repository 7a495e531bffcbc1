//! What functions with PASIDs are given: spaces with memory of their own.

use hw::{DeviceTables as _, Function, Hpa, Iova, PAGE_SIZE, Pasid};
use iommu::{Attach, Attachment, SpaceId};
use paging::Rights;

use crate::machine::{ECAM, Machine};

/// The PASID capability's control register.
pub(crate) const PASID_CONTROL: u64 = 0x106;
/// What every space maps, and where.
pub(crate) const IOVA: u64 = 0x4000_0000;
pub(crate) const FRAMES: u64 = 4;

/// Where a function's extended configuration space is.
pub(crate) fn config(function: Function) -> u64 {
    ECAM + u64::from(function.rid.0) * PAGE_SIZE
}

pub(crate) fn pasid(raw: u32) -> Pasid {
    Pasid::try_new(raw).expect("20 bits")
}

/// What a PASID reaches.
pub(crate) struct Granted {
    pub(crate) space: SpaceId,
    pub(crate) attachment: Attachment,
    pub(crate) data: Hpa,
}

impl Machine {
    /// A space with memory of its own, for a PASID of a function's or for its requests without. QEMU asks for the latter's
    /// entry before it looks at any other.
    pub(crate) fn grant(&mut self, function: Function, raw: Option<u32>) -> Granted {
        let Self { iommu, memory, .. } = self;
        let data = memory.alloc_run(FRAMES).expect("frames");
        let space = iommu.create_space().expect("a domain");
        let bytes = FRAMES * PAGE_SIZE;
        iommu.map(space, Iova::new(IOVA), data, bytes, Rights::RW).expect("free");
        let attach = Attach { pasid: raw.map(pasid), ..Attach::new(function, space) };
        Granted { space, attachment: iommu.attach(attach).expect("free"), data }
    }

    pub(crate) fn revoke(&mut self, granted: Granted) -> (SpaceId, Hpa) {
        let pending = self.iommu.detach(granted.attachment);
        self.retire(pending);
        (granted.space, granted.data)
    }

    pub(crate) fn free(&mut self, (space, data): (SpaceId, Hpa)) {
        let pending = self.iommu.destroy_space(space).expect("attached nowhere");
        self.retire(pending);
        self.memory.free_run(data, FRAMES);
    }

    pub(crate) fn take_back(&mut self, granted: impl IntoIterator<Item = Granted>) {
        for granted in granted {
            let gone = self.revoke(granted);
            self.free(gone);
        }
    }
}
