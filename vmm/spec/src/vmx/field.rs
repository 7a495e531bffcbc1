//! Encodings of VMCS fields, typed by their width (SDM vol. 3, 25.11.2 and appendix B).
//!
//! A field's type says what VMREAD gives and VMWRITE takes: [`Field16`], [`Field32`], [`Field64`], [`Natural`]. The
//! encoding holds the same width in bits 14:13; that both agree is checked when the constant is built.

/// A VMCS field of some width.
pub trait Field: Copy {
    /// What it holds.
    type Value: Copy;
    /// What VMREAD and VMWRITE call it.
    fn encoding(self) -> u32;
    /// The value in what VMREAD returned.
    fn from_raw(raw: u64) -> Self::Value;
    /// The value as VMWRITE takes it.
    fn to_raw(value: Self::Value) -> u64;
}

macro_rules! width {
    ($(#[$doc:meta])* $name:ident, $value:ty, $code:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The field with this encoding, whose width code must be this type's.
            ///
            /// # Panics
            /// Where the encoding is of another width; for constants, when building.
            #[must_use]
            pub const fn new(encoding: u32) -> Self {
                assert!(encoding >> 13 & 3 == $code, "the encoding is of another width");
                assert!(encoding & !0x6ffe == 0, "reserved bits, or the high half of a field");
                Self(encoding)
            }

            /// What VMREAD and VMWRITE call it.
            #[must_use]
            pub const fn encoding(self) -> u32 {
                self.0
            }
        }

        impl Field for $name {
            type Value = $value;
            #[inline]
            fn encoding(self) -> u32 {
                self.0
            }
            #[inline]
            fn from_raw(raw: u64) -> $value {
                raw as $value
            }
            #[inline]
            fn to_raw(value: $value) -> u64 {
                u64::from(value)
            }
        }
    };
}

width!(
    /// A field of 16 bits.
    Field16, u16, 0
);
width!(
    /// A field of 64 bits, in every mode.
    Field64, u64, 1
);
width!(
    /// A field of 32 bits.
    Field32, u32, 2
);
width!(
    /// A field as wide as the CPU's registers: 64 bits here.
    Natural, u64, 3
);

macro_rules! fields {
    ($($(#[$doc:meta])* $name:ident: $width:ident = $encoding:literal;)*) => {
        $($(#[$doc])* pub const $name: $width = $width::new($encoding);)*
    };
}

/// A segment register, numbered as in the encodings of its fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum SegmentRegister {
    Es = 0,
    Cs = 1,
    Ss = 2,
    Ds = 3,
    Fs = 4,
    Gs = 5,
    Ldtr = 6,
    Tr = 7,
}

impl SegmentRegister {
    /// All, in order of their numbers.
    pub const ALL: [Self; 8] =
        [Self::Es, Self::Cs, Self::Ss, Self::Ds, Self::Fs, Self::Gs, Self::Ldtr, Self::Tr];

    /// The guest's selector.
    #[must_use]
    pub const fn selector(self) -> Field16 {
        Field16::new(0x0800 + 2 * self as u32)
    }

    /// The guest's limit, granularity applied.
    #[must_use]
    pub const fn limit(self) -> Field32 {
        Field32::new(0x4800 + 2 * self as u32)
    }

    /// The guest's access rights (SDM vol. 3, table 25-2).
    #[must_use]
    pub const fn access(self) -> Field32 {
        Field32::new(0x4814 + 2 * self as u32)
    }

    /// The guest's base.
    #[must_use]
    pub const fn base(self) -> Natural {
        Natural::new(0x6806 + 2 * self as u32)
    }
}

/// Control fields (SDM vol. 3, 25.6 to 25.8).
pub mod control {
    use super::{Field16, Field32, Field64, Natural};

    fields! {
        /// Virtual-processor identifier.
        VPID: Field16 = 0x0000;
        /// MSR bitmaps.
        MSR_BITMAP: Field64 = 0x2004;
        /// Where an exit stores MSRs.
        EXIT_MSR_STORE_ADDRESS: Field64 = 0x2006;
        /// Where an exit loads MSRs from.
        EXIT_MSR_LOAD_ADDRESS: Field64 = 0x2008;
        /// Where an entry loads MSRs from.
        ENTRY_MSR_LOAD_ADDRESS: Field64 = 0x200a;
        /// Added to the time-stamp counter.
        TSC_OFFSET: Field64 = 0x2010;
        /// The virtual-APIC page.
        VIRTUAL_APIC_ADDRESS: Field64 = 0x2012;
        /// The page whose accesses are APIC accesses.
        APIC_ACCESS_ADDRESS: Field64 = 0x2014;
        /// Posted-interrupt descriptor.
        POSTED_INTERRUPT_DESCRIPTOR: Field64 = 0x2016;
        /// EPT pointer.
        EPT_POINTER: Field64 = 0x201a;
        /// XSAVES components that exit.
        XSS_EXITING_BITMAP: Field64 = 0x202c;
        /// What the time-stamp counter is multiplied by; 48 bits are fraction.
        TSC_MULTIPLIER: Field64 = 0x2032;
        /// Pin-based controls.
        PIN_BASED: Field32 = 0x4000;
        /// Primary processor-based controls.
        PRIMARY: Field32 = 0x4002;
        /// Exceptions that exit.
        EXCEPTION_BITMAP: Field32 = 0x4004;
        /// Which bits of a page fault's error code count.
        PAGE_FAULT_MASK: Field32 = 0x4006;
        /// What they are compared with.
        PAGE_FAULT_MATCH: Field32 = 0x4008;
        /// CR3-target values in use.
        CR3_TARGET_COUNT: Field32 = 0x400a;
        /// Exit controls.
        EXIT: Field32 = 0x400c;
        /// MSRs to store on exit.
        EXIT_MSR_STORE_COUNT: Field32 = 0x400e;
        /// MSRs to load on exit.
        EXIT_MSR_LOAD_COUNT: Field32 = 0x4010;
        /// Entry controls.
        ENTRY: Field32 = 0x4012;
        /// MSRs to load on entry.
        ENTRY_MSR_LOAD_COUNT: Field32 = 0x4014;
        /// The event to deliver on entry.
        ENTRY_INTERRUPTION_INFO: Field32 = 0x4016;
        /// Its error code.
        ENTRY_EXCEPTION_ERROR_CODE: Field32 = 0x4018;
        /// The length of the instruction that raised it.
        ENTRY_INSTRUCTION_LENGTH: Field32 = 0x401a;
        /// TPR threshold.
        TPR_THRESHOLD: Field32 = 0x401c;
        /// Secondary processor-based controls.
        SECONDARY: Field32 = 0x401e;
        /// CR0 bits that the host owns.
        CR0_MASK: Natural = 0x6000;
        /// CR4 bits that the host owns.
        CR4_MASK: Natural = 0x6002;
        /// What the guest reads in them.
        CR0_SHADOW: Natural = 0x6004;
        /// Likewise for CR4.
        CR4_SHADOW: Natural = 0x6006;
    }
}

/// Read-only fields about the last exit (SDM vol. 3, 25.9).
pub mod info {
    use super::{Field32, Field64, Natural};

    fields! {
        /// Guest-physical address of an EPT violation or misconfiguration.
        GUEST_PHYSICAL_ADDRESS: Field64 = 0x2400;
        /// Why the last VMX instruction failed.
        INSTRUCTION_ERROR: Field32 = 0x4400;
        /// Exit reason.
        EXIT_REASON: Field32 = 0x4402;
        /// The event that exited.
        EXIT_INTERRUPTION_INFO: Field32 = 0x4404;
        /// Its error code.
        EXIT_INTERRUPTION_ERROR_CODE: Field32 = 0x4406;
        /// The event whose delivery the exit cut short.
        IDT_VECTORING_INFO: Field32 = 0x4408;
        /// Its error code.
        IDT_VECTORING_ERROR_CODE: Field32 = 0x440a;
        /// Length of the instruction that exited.
        EXIT_INSTRUCTION_LENGTH: Field32 = 0x440c;
        /// More about that instruction.
        EXIT_INSTRUCTION_INFO: Field32 = 0x440e;
        /// Exit qualification.
        EXIT_QUALIFICATION: Natural = 0x6400;
        /// Guest-linear address.
        GUEST_LINEAR_ADDRESS: Natural = 0x640a;
    }
}

/// Guest-state fields (SDM vol. 3, 25.4), less those of [`SegmentRegister`].
pub mod guest {
    use super::{Field32, Field64, Natural};

    fields! {
        /// VMCS link pointer.
        LINK_POINTER: Field64 = 0x2800;
        /// IA32_DEBUGCTL.
        DEBUGCTL: Field64 = 0x2802;
        /// IA32_PAT.
        PAT: Field64 = 0x2804;
        /// IA32_EFER.
        EFER: Field64 = 0x2806;
        /// First of the four page-directory-pointer entries of PAE paging.
        PDPTE0: Field64 = 0x280a;
        /// Second.
        PDPTE1: Field64 = 0x280c;
        /// Third.
        PDPTE2: Field64 = 0x280e;
        /// Fourth.
        PDPTE3: Field64 = 0x2810;
        /// GDTR limit.
        GDTR_LIMIT: Field32 = 0x4810;
        /// IDTR limit.
        IDTR_LIMIT: Field32 = 0x4812;
        /// Interruptibility state.
        INTERRUPTIBILITY: Field32 = 0x4824;
        /// Activity state.
        ACTIVITY: Field32 = 0x4826;
        /// SYSENTER code segment.
        SYSENTER_CS: Field32 = 0x482a;
        /// What the preemption timer counts down from.
        PREEMPTION_TIMER: Field32 = 0x482e;
        /// CR0.
        CR0: Natural = 0x6800;
        /// CR3.
        CR3: Natural = 0x6802;
        /// CR4.
        CR4: Natural = 0x6804;
        /// GDTR base.
        GDTR_BASE: Natural = 0x6816;
        /// IDTR base.
        IDTR_BASE: Natural = 0x6818;
        /// DR7.
        DR7: Natural = 0x681a;
        /// RSP.
        RSP: Natural = 0x681c;
        /// RIP.
        RIP: Natural = 0x681e;
        /// RFLAGS.
        RFLAGS: Natural = 0x6820;
        /// Pending debug exceptions.
        PENDING_DEBUG: Natural = 0x6822;
        /// SYSENTER stack pointer.
        SYSENTER_ESP: Natural = 0x6824;
        /// SYSENTER instruction pointer.
        SYSENTER_EIP: Natural = 0x6826;
    }
}

/// Host-state fields (SDM vol. 3, 25.5).
pub mod host {
    use super::{Field16, Field32, Field64, Natural};

    fields! {
        /// ES.
        ES: Field16 = 0x0c00;
        /// CS.
        CS: Field16 = 0x0c02;
        /// SS.
        SS: Field16 = 0x0c04;
        /// DS.
        DS: Field16 = 0x0c06;
        /// FS.
        FS: Field16 = 0x0c08;
        /// GS.
        GS: Field16 = 0x0c0a;
        /// TR.
        TR: Field16 = 0x0c0c;
        /// IA32_PAT.
        PAT: Field64 = 0x2c00;
        /// IA32_EFER.
        EFER: Field64 = 0x2c02;
        /// SYSENTER code segment.
        SYSENTER_CS: Field32 = 0x4c00;
        /// CR0.
        CR0: Natural = 0x6c00;
        /// CR3.
        CR3: Natural = 0x6c02;
        /// CR4.
        CR4: Natural = 0x6c04;
        /// FS base.
        FS_BASE: Natural = 0x6c06;
        /// GS base.
        GS_BASE: Natural = 0x6c08;
        /// TR base.
        TR_BASE: Natural = 0x6c0a;
        /// GDTR base.
        GDTR_BASE: Natural = 0x6c0c;
        /// IDTR base.
        IDTR_BASE: Natural = 0x6c0e;
        /// SYSENTER stack pointer.
        SYSENTER_ESP: Natural = 0x6c10;
        /// SYSENTER instruction pointer.
        SYSENTER_EIP: Natural = 0x6c12;
        /// RSP.
        RSP: Natural = 0x6c14;
        /// RIP.
        RIP: Natural = 0x6c16;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodings as two other implementations of the manual have them (Linux `vmx.h`, Bochs `vmx.h`), where ours are
    /// computed rather than written out.
    #[test]
    fn computed_encodings_match_the_second_source() {
        assert_eq!(SegmentRegister::Es.selector().encoding(), 0x0800);
        assert_eq!(SegmentRegister::Tr.selector().encoding(), 0x080e);
        assert_eq!(SegmentRegister::Ldtr.limit().encoding(), 0x480c);
        assert_eq!(SegmentRegister::Tr.limit().encoding(), 0x480e);
        assert_eq!(SegmentRegister::Cs.access().encoding(), 0x4816);
        assert_eq!(SegmentRegister::Tr.access().encoding(), 0x4822);
        assert_eq!(SegmentRegister::Gs.base().encoding(), 0x6810);
        assert_eq!(SegmentRegister::Tr.base().encoding(), 0x6814);
    }
}
