//! Root and context entries (9.1 to 9.4).
//!
//! ```text
//! legacy     root[bus] ──► context[devfn]                                 16 bytes each
//! scalable   root[bus] ──► lower (devfn < 80h) or upper context[devfn & 7fh]  32 bytes each ──► PASID directory
//! ```

use hw::{Hpa, words};

words! {
    /// A legacy root entry (9.1).
    RootEntry[2] {
        p, with_p: bool = 0[0]: "Present.";
        ctp, with_ctp: Hpa = 0[63:12]: "The context table of the bus.";
    }
}

words! {
    /// A scalable root entry (9.2).
    ScalableRootEntry[2] {
        lp, with_lp: bool = 0[0]: "The lower half is present.";
        up, with_up: bool = 1[0]: "The upper half is present.";
        lctp, with_lctp: Hpa = 0[63:12]: "The context table of devices 0 to 15.";
        uctp, with_uctp: Hpa = 1[63:12]: "The context table of devices 16 to 31.";
    }
}

words! {
    /// A legacy context entry (9.3).
    ContextEntry[2] {
        p, with_p: bool = 0[0]: "Present.";
        fpd, with_fpd: bool = 0[1]: "Faults are not recorded; counts in absent entries too.";
        tt, with_tt: u8 = 0[3:2]: "Translation type, one of [`translation_type`].";
        aw, with_aw: u8 = 1[2:0]: "Levels of the second stage, less two.";
        did, with_did: u16 = 1[23:8]: "The domain.";
        ssptptr, with_ssptptr: Hpa = 0[63:12]: "The second stage's root.";
    }
}

/// What legacy context entries let through (9.3).
pub mod translation_type {
    /// Untranslated requests only, translated.
    pub const UNTRANSLATED: u8 = 0;
    /// As before, and translation requests and translated requests of a device TLB.
    pub const DEVICE_TLB: u8 = 1;
    /// Untranslated requests, as they are.
    pub const PASS_THROUGH: u8 = 2;
}

impl ContextEntry {
    /// Translates by the second stage at `root`, of `levels` levels.
    #[must_use]
    pub const fn second_stage(root: Hpa, levels: u8, did: u16, device_tlb: bool) -> Self {
        let tt =
            if device_tlb { translation_type::DEVICE_TLB } else { translation_type::UNTRANSLATED };
        Self([0; 2]).with_p(true).with_tt(tt).with_ssptptr(root).with_aw(levels - 2).with_did(did)
    }
}

words! {
    /// A scalable context entry (9.4).
    ScalableContextEntry[4] {
        p, with_p: bool = 0[0]: "Present.";
        fpd, with_fpd: bool = 0[1]: "Faults are not recorded; counts in absent entries too.";
        dte, with_dte: bool = 0[2]: "A device TLB may ask and use what it was told.";
        paside, with_paside: bool = 0[3]: "Requests with a PASID are taken.";
        pre, with_pre: bool = 0[4]: "Page requests are taken.";
        pdts, with_pdts: u8 = 0[11:9]: "The PASID directory has 2^(n+7) entries.";
        rid_pasid, with_rid_pasid: u32 = 1[19:0]: "The PASID of requests without one.";
        pasiddirptr, with_pasiddirptr: Hpa = 0[63:12]: "The PASID directory.";
    }
}

impl ScalableContextEntry {
    /// Translates by a PASID directory of 2^(`pdts` + 7) entries; requests without a PASID use PASID 0.
    #[must_use]
    pub const fn directory(directory: Hpa, pdts: u8, paside: bool, dte: bool) -> Self {
        Self([0; 4])
            .with_p(true)
            .with_pasiddirptr(directory)
            .with_pdts(pdts)
            .with_paside(paside)
            .with_dte(dte)
    }
}

const _: () = assert!(size_of::<RootEntry>() == 16);
const _: () = assert!(size_of::<ScalableRootEntry>() == 16);
const _: () = assert!(size_of::<ContextEntry>() == 16);
const _: () = assert!(size_of::<ScalableContextEntry>() == 32);
