//! Descriptors of the invalidation queue (6.5.2). A queue has descriptors of 128 or of 256 bits; scalable mode needs the
//! latter, whose upper half is zero in all but page group responses.

use hw::{Hpa, Pasid, RequesterId, words};

words! {
    /// Any descriptor; which fields it has depends on [`Descriptor::kind`].
    Descriptor[4] {
        bit6, with_bit6: bool = 0[6]: "IOTLB: drain writes. Wait: fence, nothing behind it starts before it is done.";
        bit7, with_bit7: bool = 0[7]: "IOTLB: drain reads. Wait: drain page requests.";
        bit4, with_bit4: bool = 0[4]: "Interrupt entries: by index rather than all. Wait: raise the completion event.";
        bit5, with_bit5: bool = 0[5]: "Wait: write the status.";
        ih, with_ih: bool = 1[6]: "IOTLB: only leaves have changed.";
        dev_s, with_dev_s: bool = 1[0]: "Device TLB: the address says how much.";
        pdev_s, with_pdev_s: bool = 1[11]: "Device TLB with PASID: the address says how much.";
        pdev_g, with_pdev_g: bool = 1[0]: "Device TLB with PASID: whatever the PASID.";
        kind, with_kind: u8 = 0[3:0]: "Low bits of the type, one of [`kind`]; [`Descriptor::type_high`] are zero in all of them.";
        type_high, with_type_high: u8 = 0[11:9]: "Bits 6:4 of the type.";
        granularity, with_granularity: u8 = 0[5:4]: "Granularity; what it means depends on the type.";
        did, with_did: u16 = 0[31:16]: "The domain; in a device TLB's with PASID, the source.";
        sid, with_sid: u16 = 0[47:32]: "Context: the source. Device TLB: the source.";
        fm, with_fm: u8 = 0[49:48]: "Context: function bits to ignore.";
        pasid, with_pasid: u32 = 0[51:32]: "With PASID: the PASID.";
        am, with_am: u8 = 1[5:0]: "Address mask: 2^n pages.";
        im, with_im: u8 = 0[31:27]: "Interrupt entries: 2^n of them.";
        iidx, with_iidx: u16 = 0[47:32]: "Interrupt entries: the first.";
        dev_qdep, with_dev_qdep: u8 = 0[20:16]: "Device TLB: invalidations that it takes at once.";
        pdev_qdep, with_pdev_qdep: u8 = 0[8:4]: "Device TLB with PASID: as before.";
        pfsid_low, with_pfsid_low: u8 = 0[15:12]: "Bits 3:0 of the physical function's source ID, of which a virtual one shares the invalidation credit.";
        pfsid_high, with_pfsid_high: u16 = 0[63:52]: "Bits 15:4 of it.";
        code, with_code: u8 = 0[15:12]: "Page group response: one of [`response`].";
        index, with_index: u16 = 1[11:3]: "Page group response: the group.";
        status, with_status: u32 = 0[63:32]: "Wait: what is written.";
        address, with_address: Hpa = 1[63:12]: "The page.";
        status_address, with_status_address: Hpa = 1[63:2]: "Wait: where the status is written.";
    }
}

/// Types of descriptors (6.5.2).
pub mod kind {
    /// Context cache (6.5.2.1).
    pub const CONTEXT: u8 = 1;
    /// IOTLB (6.5.2.3).
    pub const IOTLB: u8 = 2;
    /// Device TLB (6.5.2.5).
    pub const DEVICE_TLB: u8 = 3;
    /// Interrupt entry cache (6.5.2.7).
    pub const INTERRUPT_ENTRY: u8 = 4;
    /// Wait (6.5.2.8).
    pub const WAIT: u8 = 5;
    /// IOTLB by PASID (6.5.2.4).
    pub const PASID_IOTLB: u8 = 6;
    /// PASID cache (6.5.2.2).
    pub const PASID_CACHE: u8 = 7;
    /// Device TLB by PASID (6.5.2.6).
    pub const PASID_DEVICE_TLB: u8 = 8;
    /// Page group response (7.6.1).
    pub const PAGE_GROUP_RESPONSE: u8 = 9;
}

/// Codes of page group responses (7.6.1; PCIe ATS 1.1, 4.2.1).
pub mod response {
    /// All pages are there.
    pub const SUCCESS: u8 = 0;
    /// Some are not.
    pub const INVALID: u8 = 1;
    /// The request cannot be answered, nor later ones.
    pub const FAILURE: u8 = 0xf;
}

/// Granularities of context cache and IOTLB invalidations.
pub mod granularity {
    /// Everything.
    pub const GLOBAL: u8 = 1;
    /// One domain.
    pub const DOMAIN: u8 = 2;
    /// One source (context cache) or pages of one domain (IOTLB).
    pub const SELECTIVE: u8 = 3;
    /// PASID cache: one domain.
    pub const PASID_CACHE_DOMAIN: u8 = 0;
    /// PASID cache: one PASID of one domain.
    pub const PASID_CACHE_PASID: u8 = 1;
    /// PASID cache: everything.
    pub const PASID_CACHE_GLOBAL: u8 = 3;
    /// IOTLB by PASID: all of one PASID of one domain.
    pub const PASID_IOTLB_ALL: u8 = 2;
    /// IOTLB by PASID: pages of it.
    pub const PASID_IOTLB_PAGES: u8 = 3;
}

impl Descriptor {
    const fn new(kind: u8) -> Self {
        Self([0; 4]).with_kind(kind)
    }

    /// All of the context cache.
    #[must_use]
    pub const fn context_global() -> Self {
        Self::new(kind::CONTEXT).with_granularity(granularity::GLOBAL)
    }

    /// The context cache for one function; `did` is its domain in legacy mode, 0 in scalable.
    #[must_use]
    pub const fn context(rid: RequesterId, did: u16) -> Self {
        Self::new(kind::CONTEXT)
            .with_granularity(granularity::SELECTIVE)
            .with_sid(rid.0)
            .with_did(did)
    }

    /// All of the PASID cache.
    #[must_use]
    pub const fn pasid_global() -> Self {
        Self::new(kind::PASID_CACHE).with_granularity(granularity::PASID_CACHE_GLOBAL)
    }

    /// The PASID cache for one PASID in one domain.
    #[must_use]
    pub const fn pasid_cache(pasid: Pasid, did: u16) -> Self {
        Self::new(kind::PASID_CACHE)
            .with_granularity(granularity::PASID_CACHE_PASID)
            .with_pasid(pasid.raw())
            .with_did(did)
    }

    /// All of the IOTLB, drained.
    #[must_use]
    pub const fn iotlb_global(drain: Drain) -> Self {
        drain.of(Self::new(kind::IOTLB).with_granularity(granularity::GLOBAL))
    }

    /// A domain's part of the IOTLB, drained.
    #[must_use]
    pub const fn iotlb_domain(did: u16, drain: Drain) -> Self {
        drain.of(Self::new(kind::IOTLB).with_granularity(granularity::DOMAIN).with_did(did))
    }

    /// 2^`am` pages of a domain from `address`, which has that alignment; `leaves` if no table above them has changed.
    #[must_use]
    pub const fn iotlb_pages(did: u16, address: u64, am: u8, leaves: bool, drain: Drain) -> Self {
        let all = Self::new(kind::IOTLB).with_granularity(granularity::SELECTIVE).with_did(did);
        drain.of(all.with_address(Hpa::new(address)).with_am(am).with_ih(leaves))
    }

    /// All first-stage translations of a PASID in a domain.
    #[must_use]
    pub const fn pasid_iotlb(pasid: Pasid, did: u16) -> Self {
        Self::new(kind::PASID_IOTLB)
            .with_granularity(granularity::PASID_IOTLB_ALL)
            .with_pasid(pasid.raw())
            .with_did(did)
    }

    /// 2^`am` pages of them, as in [`Descriptor::iotlb_pages`].
    #[must_use]
    pub const fn pasid_iotlb_pages(
        pasid: Pasid,
        did: u16,
        address: u64,
        am: u8,
        leaves: bool,
    ) -> Self {
        Self::pasid_iotlb(pasid, did)
            .with_granularity(granularity::PASID_IOTLB_PAGES)
            .with_address(Hpa::new(address))
            .with_am(am)
            .with_ih(leaves)
    }

    /// What a device's own TLB holds of 2^`am` pages from `address`.
    #[must_use]
    pub const fn device_tlb(rid: RequesterId, queue_depth: u8, address: u64, am: u8) -> Self {
        Self::new(kind::DEVICE_TLB)
            .with_sid(rid.0)
            .with_dev_qdep(queue_depth)
            .with_pfsid_low(rid.0 as u8)
            .with_pfsid_high(rid.0 >> 4)
            .with_address(sized(address, am))
            .with_dev_s(am > 0)
    }

    /// What a device's own TLB holds of 2^`am` pages of a PASID from `address`.
    #[must_use]
    pub const fn pasid_device_tlb(
        rid: RequesterId,
        pasid: Pasid,
        queue_depth: u8,
        address: u64,
        am: u8,
    ) -> Self {
        Self::new(kind::PASID_DEVICE_TLB)
            .with_did(rid.0)
            .with_pasid(pasid.raw())
            .with_pdev_qdep(queue_depth)
            .with_pfsid_low(rid.0 as u8)
            .with_pfsid_high(rid.0 >> 4)
            .with_address(sized(address, am))
            .with_pdev_s(am > 0)
    }

    /// Answers a device's request for the pages of group `index`.
    #[must_use]
    pub const fn page_group_response(
        rid: RequesterId,
        pasid: Option<Pasid>,
        index: u16,
        code: u8,
    ) -> Self {
        let all = Self::new(kind::PAGE_GROUP_RESPONSE).with_did(rid.0).with_code(code);
        let all = all.with_index(index);
        match pasid {
            Some(pasid) => all.with_bit4(true).with_pasid(pasid.raw()),
            None => all,
        }
    }

    /// All of the interrupt entry cache.
    #[must_use]
    pub const fn interrupt_global() -> Self {
        Self::new(kind::INTERRUPT_ENTRY)
    }

    /// 2^`im` interrupt entries from `index`.
    #[must_use]
    pub const fn interrupt_entries(index: u16, im: u8) -> Self {
        Self::new(kind::INTERRUPT_ENTRY).with_bit4(true).with_iidx(index).with_im(im)
    }

    /// Writes `status` to the doubleword at `address` when all before it is done. With `fence`, nothing behind it starts
    /// earlier.
    #[must_use]
    pub const fn wait(status: u32, address: Hpa, fence: bool) -> Self {
        Self::new(kind::WAIT)
            .with_bit5(true)
            .with_bit6(fence)
            .with_status(status)
            .with_status_address(address)
    }
}

/// Whether an IOTLB invalidation also waits for requests under way: [`crate::registers::Cap::drd`] and `dwd` say what
/// the unit can drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Reads.
    pub reads: bool,
    /// Writes.
    pub writes: bool,
}

impl Drain {
    const fn of(self, descriptor: Descriptor) -> Descriptor {
        descriptor.with_bit7(self.reads).with_bit6(self.writes)
    }
}

/// How a device TLB is told a size (PCIe ATS 1.1, 3.3): the lowest clear bit above bit 11 says where the offset ends.
const fn sized(address: u64, am: u8) -> Hpa {
    if am == 0 {
        return Hpa::new(address);
    }
    let bytes = if am >= 52 { 0 } else { 1u64 << (12 + am) };
    let offset = bytes.wrapping_sub(1);
    Hpa::new(address & !offset | offset >> 1)
}

const _: () = assert!(size_of::<Descriptor>() == 32);
