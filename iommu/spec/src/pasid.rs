//! PASID directory and table entries (9.5, 9.6): bits 19:6 of a PASID choose the directory's entry, 5:0 the table's.

use hw::{Hpa, words};

/// log2 of the entries of a PASID table.
pub const TABLE_SHIFT: u32 = 6;
/// Words of a PASID table entry.
pub const ENTRY_WORDS: usize = 8;

words! {
    /// A PASID directory entry (9.5).
    DirectoryEntry[1] {
        p, with_p: bool = 0[0]: "Present.";
        fpd, with_fpd: bool = 0[1]: "Faults are not recorded.";
        smptblptr, with_smptblptr: Hpa = 0[63:12]: "The PASID table.";
    }
}

words! {
    /// A PASID table entry (9.6).
    PasidEntry[8] {
        p, with_p: bool = 0[0]: "Present.";
        fpd, with_fpd: bool = 0[1]: "Faults are not recorded.";
        ssade, with_ssade: bool = 0[9]: "Second stage: accessed and dirty bits are set.";
        pwsnp, with_pwsnp: bool = 1[23]: "Page walks are snooped.";
        pgsnp, with_pgsnp: bool = 1[24]: "Requests are snooped whatever they ask.";
        sre, with_sre: bool = 2[0]: "Supervisor requests are taken.";
        wpe, with_wpe: bool = 2[4]: "Write protection binds supervisors.";
        eafe, with_eafe: bool = 2[7]: "Extended accessed flags.";
        aw, with_aw: u8 = 0[4:2]: "Levels of the second stage, less two.";
        pgtt, with_pgtt: u8 = 0[8:6]: "Translation type, one of [`pgtt`].";
        did, with_did: u16 = 1[15:0]: "The domain.";
        fspm, with_fspm: u8 = 2[3:2]: "First stage: 0 four levels, 1 five.";
        ssptptr, with_ssptptr: Hpa = 0[63:12]: "The second stage's root.";
        fsptptr, with_fsptptr: Hpa = 2[63:12]: "The first stage's root.";
    }
}

/// PASID-granular translation types (9.6).
pub mod pgtt {
    /// First stage only.
    pub const FIRST: u8 = 1;
    /// Second stage only.
    pub const SECOND: u8 = 2;
    /// First stage, whose addresses go through the second.
    pub const NESTED: u8 = 3;
    /// None.
    pub const PASS_THROUGH: u8 = 4;
}

impl PasidEntry {
    /// Translates by the second stage at `root`, of `levels` levels.
    #[must_use]
    pub const fn second_stage(root: Hpa, levels: u8, did: u16) -> Self {
        Self([0; 8])
            .with_p(true)
            .with_pgtt(pgtt::SECOND)
            .with_ssptptr(root)
            .with_aw(levels - 2)
            .with_did(did)
    }

    /// Translates by the four-level first stage at `root`. The second stage's width must be a supported one although it
    /// is not used: QEMU 11.1 checks it.
    #[must_use]
    pub const fn first_stage(root: Hpa, did: u16) -> Self {
        Self([0; 8]).with_p(true).with_pgtt(pgtt::FIRST).with_fsptptr(root).with_aw(2).with_did(did)
    }

    /// Translates by the four-level first stage at `first`, a guest-physical address, and then by the second stage.
    #[must_use]
    pub const fn nested(first: Hpa, second: Hpa, levels: u8, did: u16) -> Self {
        Self::second_stage(second, levels, did).with_pgtt(pgtt::NESTED).with_fsptptr(first)
    }
}

const _: () = assert!(size_of::<DirectoryEntry>() == 8);
const _: () = assert!(size_of::<PasidEntry>() == 64);
