//! What this CPU's VT-x can do, read once, and whether that is enough.

use hw::{CpuidBus, Msr, MsrBus};
use x86_spec::msr;
use x86_spec::vmx::capability::{self, Allowed, Basic, EptVpid, FeatureControl};
use x86_spec::vmx::control::{Primary, Secondary};

use crate::Unsupported;

/// The VMX capability registers, and what else decides which fields are valid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capabilities {
    pub(super) basic: Basic,
    pub(super) pin_based: Allowed,
    pub(super) primary: Allowed,
    pub(super) secondary: Allowed,
    pub(super) exit: Allowed,
    pub(super) entry: Allowed,
    pub(super) misc: u64,
    pub(super) cr0: Fixed,
    pub(super) cr4: Fixed,
    pub(super) ept_vpid: EptVpid,
    /// Bits of a physical address.
    pub(super) physical_bits: u8,
    /// Bits of a linear address: 48, or 57 where the CPU has five-level paging.
    pub(super) linear_bits: u8,
    /// RDTSCP or RDPID exist, hence IA32_TSC_AUX.
    pub(super) tsc_aux: bool,
}

/// What a control register may hold in VMX operation (SDM vol. 3, A.7 and A.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    /// Bits that are one.
    pub(super) must: u64,
    /// Bits outside are zero.
    pub(super) may: u64,
}

impl Fixed {
    /// `value`, made valid.
    pub(super) const fn adjust(self, value: u64) -> u64 {
        (value | self.must) & self.may
    }

    /// Whether the CPU accepts `value`, apart from the bits of `exempt`.
    pub(super) const fn permits(self, value: u64, exempt: u64) -> bool {
        (value | exempt) & self.must == self.must && value & !self.may == 0
    }
}

impl Capabilities {
    /// Reads them. Reads only; nothing on the CPU changes.
    ///
    /// # Errors
    /// [`Unsupported`] where there is no VT-x, the firmware locked it off, or a register of the minimum is missing.
    pub(super) fn read(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Result<Self, Unsupported> {
        let features = cpuid.cpuid(1, 0);
        if features.ecx & 1 << 5 == 0 {
            return Err(Unsupported::NoExtension);
        }
        let feature_control = read(msrs, msr::FEATURE_CONTROL, "IA32_FEATURE_CONTROL")?;
        let feature_control = FeatureControl::from_bits_retain(feature_control);
        if feature_control.contains(FeatureControl::LOCK)
            && !feature_control.contains(FeatureControl::VMX_OUTSIDE_SMX)
        {
            return Err(Unsupported::LockedByFirmware("IA32_FEATURE_CONTROL"));
        }
        let basic = Basic(read(msrs, capability::BASIC, "IA32_VMX_BASIC")?);
        if !basic.has_true_controls() {
            return Err(Unsupported::Missing("IA32_VMX_TRUE controls"));
        }
        let allowed = |register, name| read(msrs, register, name).map(Allowed::from_msr);
        let primary = allowed(capability::TRUE_PRIMARY, "IA32_VMX_TRUE_PROCBASED_CTLS")?;
        if primary.may & Primary::ACTIVATE_SECONDARY.bits() == 0 {
            return Err(Unsupported::Missing("secondary processor-based controls"));
        }
        let secondary = allowed(capability::SECONDARY, "IA32_VMX_PROCBASED_CTLS2")?;
        if secondary.may & Secondary::ENABLE_EPT.bits() == 0 {
            return Err(Unsupported::Missing("EPT"));
        }
        let ept_vpid = read(msrs, capability::EPT_VPID, "IA32_VMX_EPT_VPID_CAP")?;
        let fixed = |must, may, name| {
            Ok::<_, Unsupported>(Fixed {
                must: read(msrs, must, name)?,
                may: read(msrs, may, name)?,
            })
        };
        Ok(Self {
            basic,
            pin_based: allowed(capability::TRUE_PIN_BASED, "IA32_VMX_TRUE_PINBASED_CTLS")?,
            primary,
            secondary,
            exit: allowed(capability::TRUE_EXIT, "IA32_VMX_TRUE_EXIT_CTLS")?,
            entry: allowed(capability::TRUE_ENTRY, "IA32_VMX_TRUE_ENTRY_CTLS")?,
            misc: read(msrs, capability::MISC, "IA32_VMX_MISC")?,
            cr0: fixed(capability::CR0_FIXED0, capability::CR0_FIXED1, "IA32_VMX_CR0_FIXED")?,
            cr4: fixed(capability::CR4_FIXED0, capability::CR4_FIXED1, "IA32_VMX_CR4_FIXED")?,
            ept_vpid: EptVpid::from_bits_retain(ept_vpid),
            physical_bits: physical_bits(cpuid),
            linear_bits: if has_la57(cpuid) { 57 } else { 48 },
            tsc_aux: has_tsc_aux(cpuid),
        })
    }

    /// Names the first feature of the minimum that the EPT and VPID capabilities lack. The controls have their own
    /// test, [`super::controls::Controls::plan`].
    pub(super) fn require_ept(&self) -> Result<(), Unsupported> {
        let minimum = [
            (EptVpid::WRITE_BACK, "EPT tables in write-back memory"),
            (EptVpid::FOUR_LEVELS, "EPT of four levels"),
            (EptVpid::PAGES_2M, "EPT pages of 2 MiB"),
        ];
        match minimum.iter().find(|(feature, _)| !self.ept_vpid.contains(*feature)) {
            Some((_, name)) => Err(Unsupported::Missing(name)),
            None => Ok(()),
        }
    }

    /// Whether `linear` is canonical on this CPU.
    pub(super) const fn is_canonical(&self, linear: u64) -> bool {
        let unused = 64 - self.linear_bits as u32;
        ((linear << unused) as i64 >> unused) as u64 == linear
    }

    /// Whether `physical` fits the CPU's physical addresses, and those of VMX structures where `structure` is set.
    pub(super) const fn is_physical(&self, physical: u64, structure: bool) -> bool {
        let bits =
            if structure && self.basic.addresses_are_32_bit() { 32 } else { self.physical_bits };
        bits >= 64 || physical >> bits == 0
    }
}

fn read(msrs: &impl MsrBus, register: Msr, name: &'static str) -> Result<u64, Unsupported> {
    msrs.read(register).map_err(|_| Unsupported::Missing(name))
}

fn physical_bits(cpuid: &impl CpuidBus) -> u8 {
    if cpuid.cpuid(0x8000_0000, 0).eax < 0x8000_0008 {
        return 36;
    }
    cpuid.cpuid(0x8000_0008, 0).eax as u8
}

fn has_la57(cpuid: &impl CpuidBus) -> bool {
    cpuid.cpuid(0, 0).eax >= 7 && cpuid.cpuid(7, 0).ecx & 1 << 16 != 0
}

fn has_tsc_aux(cpuid: &impl CpuidBus) -> bool {
    let rdtscp = cpuid.cpuid(0x8000_0001, 0).edx & 1 << 27 != 0;
    rdtscp || (cpuid.cpuid(0, 0).eax >= 7 && cpuid.cpuid(7, 0).ecx & 1 << 22 != 0)
}
