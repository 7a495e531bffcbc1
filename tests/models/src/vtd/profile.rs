//! Sets of capabilities.

use iommu_spec::registers::{Cap, Ecap};

/// What a unit can do.
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    /// Capabilities.
    pub cap: Cap,
    /// Extended capabilities.
    pub ecap: Ecap,
    /// Polls until a command is in force.
    pub latency: u32,
}

impl Profile {
    /// Every kind of unit, with its name.
    #[must_use]
    pub fn every_kind() -> Vec<(&'static str, Self)> {
        let first = Self::scalable_first();
        let qemu = |cap: u64, ecap| Self::qemu(0x80d2_008c_222f_0606 | cap, ecap);
        vec![
            ("QEMU legacy", qemu(0, 0x00f0_0f5e)),
            ("QEMU second", qemu(0, 0x4998_80f0_0f5e)),
            ("QEMU first", qemu(1 << 56, 0x8998_00f0_0f5e)),
            ("legacy", Self::legacy()),
            ("legacy without snooping", Self::legacy().incoherent()),
            ("legacy with a write buffer", Self::legacy().write_buffered()),
            ("legacy in caching mode", Self::legacy().caching()),
            ("old", Self::legacy().incoherent().write_buffered().caching()),
            ("second", Self::scalable_second()),
            ("second without snooping", Self::scalable_second().incoherent()),
            ("second in caching mode", Self::scalable_second().caching()),
            ("first", first),
            ("first without snooping", first.incoherent()),
            ("first in caching mode", first.caching()),
            ("both", Self::nested()),
        ]
    }

    /// Legacy translation with three and four levels, all page sizes, coherent, interrupt remapping with 32-bit
    /// destinations, device TLBs, eight fault records.
    #[must_use]
    pub fn legacy() -> Self {
        let cap = Cap::default()
            .with_nd(6)
            .with_sagaw(0b0110)
            .with_mgaw(47)
            .with_fro(0x22)
            .with_sslps(3)
            .with_psi(true)
            .with_mamv(18)
            .with_nfr(7)
            .with_plmr(true)
            .with_phmr(true)
            .with_dwd(true)
            .with_drd(true);
        let ecap = Ecap::default()
            .with_c(true)
            .with_qi(true)
            .with_dt(true)
            .with_ir(true)
            .with_eim(true)
            .with_mhmv(15)
            .with_iro(0x50);
        Self { cap, ecap, latency: 3 }
    }

    fn scalable() -> Self {
        let legacy = Self::legacy();
        let ecap = legacy.ecap.with_smts(true).with_pasid(true).with_pss(19).with_smpwcs(true);
        Self { ecap, ..legacy }
    }

    /// Scalable mode with the second stage, and its accessed and dirty bits.
    #[must_use]
    pub fn scalable_second() -> Self {
        let base = Self::scalable();
        Self { ecap: base.ecap.with_ssts(true).with_ssads(true).with_sc(true), ..base }
    }

    /// Scalable mode with the first stage only.
    #[must_use]
    pub fn scalable_first() -> Self {
        let base = Self::scalable();
        Self { ecap: base.ecap.with_fsts(true), cap: base.cap.with_fs1gp(true), ..base }
    }

    /// Scalable mode with both stages, one above the other too.
    #[must_use]
    pub fn nested() -> Self {
        let base = Self::scalable_second();
        Self {
            ecap: base.ecap.with_fsts(true).with_nest(true),
            cap: base.cap.with_fs1gp(true),
            ..base
        }
    }

    /// What QEMU 11.1's intel-iommu says of itself, read from its registers: legacy, with the second stage, or with the first
    /// (`fsts=on`). It claims not to snoop, and has one fault record.
    #[must_use]
    pub fn qemu(cap: u64, ecap: u64) -> Self {
        Self { cap: Cap([cap]), ecap: Ecap([ecap]), latency: 0 }
    }

    /// The same without snooping: what is not written back is not seen.
    #[must_use]
    pub fn incoherent(self) -> Self {
        Self { ecap: self.ecap.with_c(false).with_smpwcs(false), ..self }
    }

    /// The same with a write buffer that must be flushed.
    #[must_use]
    pub fn write_buffered(self) -> Self {
        Self { cap: self.cap.with_rwbf(true), ..self }
    }

    /// The same in caching mode: absence is cached.
    #[must_use]
    pub fn caching(self) -> Self {
        Self { cap: self.cap.with_cm(true), ..self }
    }

    /// The same with posted interrupts.
    #[must_use]
    pub fn posting(self) -> Self {
        Self { cap: self.cap.with_pi(true), ..self }
    }
}
