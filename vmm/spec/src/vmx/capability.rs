//! VMX capability registers (SDM vol. 3, appendix A) and IA32_FEATURE_CONTROL.

use bitflags::bitflags;
use hw::Msr;

macro_rules! msrs {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        $($(#[$doc])* pub const $name: Msr = Msr($number);)*
    };
}

msrs! {
    /// IA32_VMX_BASIC (A.1).
    BASIC = 0x480;
    /// IA32_VMX_MISC (A.6).
    MISC = 0x485;
    /// CR0 bits that must be one in VMX operation (A.7).
    CR0_FIXED0 = 0x486;
    /// CR0 bits that may be one.
    CR0_FIXED1 = 0x487;
    /// CR4 bits that must be one (A.8).
    CR4_FIXED0 = 0x488;
    /// CR4 bits that may be one.
    CR4_FIXED1 = 0x489;
    /// Secondary processor-based controls (A.3.3).
    SECONDARY = 0x48b;
    /// EPT and VPID capabilities (A.10).
    EPT_VPID = 0x48c;
    /// Pin-based controls, without the default-1 class (A.3.1).
    TRUE_PIN_BASED = 0x48d;
    /// Primary processor-based controls, likewise (A.3.2).
    TRUE_PRIMARY = 0x48e;
    /// Exit controls, likewise (A.4).
    TRUE_EXIT = 0x48f;
    /// Entry controls, likewise (A.5).
    TRUE_ENTRY = 0x490;
}

bitflags! {
    /// IA32_FEATURE_CONTROL (SDM vol. 4, table 2-2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct FeatureControl: u64 {
        /// No more writes until reset.
        const LOCK = 1 << 0;
        /// VMXON outside SMX.
        const VMX_OUTSIDE_SMX = 1 << 2;
        const _ = !0;
    }

    /// IA32_VMX_EPT_VPID_CAP (A.10).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EptVpid: u64 {
        /// Entries that allow execution alone.
        const EXECUTE_ONLY = 1 << 0;
        /// Four levels of tables.
        const FOUR_LEVELS = 1 << 6;
        /// Tables in uncacheable memory.
        const UNCACHEABLE = 1 << 8;
        /// Tables in write-back memory.
        const WRITE_BACK = 1 << 14;
        /// Pages of 2 MiB.
        const PAGES_2M = 1 << 16;
        /// Pages of 1 GiB.
        const PAGES_1G = 1 << 17;
        /// INVEPT.
        const INVEPT = 1 << 20;
        /// Accessed and dirty flags.
        const ACCESSED_DIRTY = 1 << 21;
        /// INVEPT of one context.
        const INVEPT_SINGLE = 1 << 25;
        /// INVEPT of all contexts.
        const INVEPT_ALL = 1 << 26;
        /// INVVPID.
        const INVVPID = 1 << 32;
        /// INVVPID of one address.
        const INVVPID_ADDRESS = 1 << 40;
        /// INVVPID of one context.
        const INVVPID_SINGLE = 1 << 41;
        /// INVVPID of all contexts.
        const INVVPID_ALL = 1 << 42;
        const _ = !0;
    }
}

/// IA32_VMX_BASIC (A.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Basic(pub u64);

impl Basic {
    /// What the first word of a VMXON region or VMCS holds.
    #[must_use]
    pub const fn revision(self) -> u32 {
        self.0 as u32 & 0x7fff_ffff
    }

    /// Bytes of a VMXON region or VMCS, at most 4096.
    #[must_use]
    pub const fn region_bytes(self) -> u32 {
        (self.0 >> 32) as u32 & 0x1fff
    }

    /// Whether the addresses of VMX structures are limited to 32 bits.
    #[must_use]
    pub const fn addresses_are_32_bit(self) -> bool {
        self.0 & 1 << 48 != 0
    }

    /// Whether SMM can have a monitor of its own.
    #[must_use]
    pub const fn has_dual_monitor(self) -> bool {
        self.0 & 1 << 49 != 0
    }

    /// Whether the `TRUE_` registers exist.
    #[must_use]
    pub const fn has_true_controls(self) -> bool {
        self.0 & 1 << 55 != 0
    }

    /// Whether any exception can be delivered with or without an error code.
    #[must_use]
    pub const fn error_code_is_free(self) -> bool {
        self.0 & 1 << 56 != 0
    }
}

/// What one control field may hold (A.2): `must` bits are one, bits outside `may` are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct Allowed {
    pub must: u32,
    pub may: u32,
}

impl Allowed {
    /// From the capability register: 31:0 allowed-0, 63:32 allowed-1.
    #[must_use]
    pub const fn from_msr(value: u64) -> Self {
        Self { must: value as u32, may: (value >> 32) as u32 }
    }

    /// Whether the CPU accepts `controls`.
    #[must_use]
    pub const fn permits(self, controls: u32) -> bool {
        controls & self.must == self.must && controls & !self.may == 0
    }
}
