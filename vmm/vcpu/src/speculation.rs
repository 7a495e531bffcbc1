//! The registers by which software holds speculation back, as a guest can have them. IA32_SPEC_CTRL and AMD's VIRT_SPEC_CTRL
//! keep the guest's value for as long as it is loaded: Kerf itself runs under what the guest has chosen, which can hold
//! speculation back but not widen it, as Kerf's own choice is 0. So they cost nothing at entries and exits. IA32_PRED_CMD and
//! IA32_FLUSH_CMD are commands without a state; guests give them without an exit.

use hw::{CpuidBus, MsrBus};
use x86_spec::cpuid::{self, Leaf7Edx};
use x86_spec::msr;

/// IA32_PRED_CMD: IBPB.
pub(crate) const IBPB: u64 = 1 << 0;
/// IA32_FLUSH_CMD: L1D_FLUSH.
pub(crate) const L1D_FLUSH: u64 = 1 << 0;
/// CPUID 8000_0008, EBX (APM vol. 3, appendix E.4.7).
const AMD_IBPB: u32 = 1 << 12;
const AMD_IBRS: u32 = 1 << 14;
const AMD_STIBP: u32 = 1 << 15;
/// How IBRS and STIBP are best used: always on (16, 17), IBRS preferred (18), IBRS for the same mode too (19).
const AMD_ADVICE: u32 = 0xf << 16;
const AMD_SSBD: u32 = 1 << 24;
const AMD_VIRT_SSBD: u32 = 1 << 25;
/// There is nothing for SSBD to hold back.
const AMD_SSB_NO: u32 = 1 << 26;
const AMD_PSFD: u32 = 1 << 28;
/// VIRT_SPEC_CTRL: SSBD.
const VIRT_SSBD: u64 = 1 << 2;

/// Which of these registers a CPU has, and what it says of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speculation {
    /// Bits of IA32_SPEC_CTRL; 0 where there is no such register.
    pub(crate) spec_ctrl: u64,
    /// Bits of VIRT_SPEC_CTRL, likewise.
    pub(crate) virt_spec_ctrl: u64,
    /// There is IA32_PRED_CMD.
    pub(crate) pred_cmd: bool,
    /// There is IA32_FLUSH_CMD.
    pub(crate) flush_cmd: bool,
    /// What CPUID tells a guest of them: leaf 7, EDX.
    pub leaf_7_edx: u32,
    /// Leaf 8000_0008, EBX.
    pub widths_ebx: u32,
}

impl Speculation {
    /// No such register.
    pub const NONE: Self = Self {
        spec_ctrl: 0,
        virt_spec_ctrl: 0,
        pred_cmd: false,
        flush_cmd: false,
        leaf_7_edx: 0,
        widths_ebx: 0,
    };

    /// Asks CPUID (SDM vol. 2, leaf 7; APM vol. 3, E.4.7), and tries the registers: some CPUs, and emulators of them, lack what
    /// they name. Speculation is not held back afterwards.
    pub(crate) fn probe(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Self {
        let has_leaf = cpuid.cpuid(cpuid::VENDOR, 0).eax >= cpuid::EXTENDED_FEATURES;
        let leaf = |subleaf| cpuid.cpuid(cpuid::EXTENDED_FEATURES, subleaf);
        let edx = if has_leaf { leaf(0).edx } else { 0 };
        let has_controls = has_leaf && leaf(0).eax >= 2;
        let controls = if has_controls { leaf(2).edx } else { 0 };
        let ebx = match cpuid.cpuid(cpuid::EXTENDED, 0).eax {
            cpuid::ADDRESS_WIDTHS..=0x8fff_ffff => cpuid.cpuid(cpuid::ADDRESS_WIDTHS, 0).ebx,
            _ => 0,
        };
        let intel = Leaf7Edx::from_bits_retain(edx);
        // SDM vol. 4, table 2-2; APM vol. 2, 3.2.9.
        let bits = [
            (intel.contains(Leaf7Edx::SPEC_CTRL) || ebx & AMD_IBRS != 0, 1 << 0),
            (intel.contains(Leaf7Edx::STIBP) || ebx & AMD_STIBP != 0, 1 << 1),
            (intel.contains(Leaf7Edx::SSBD) || ebx & AMD_SSBD != 0, 1 << 2),
            (controls & 1 << 1 != 0, 0b11 << 3),
            (controls & 1 << 2 != 0, 0b11 << 5),
            (controls & 1 << 0 != 0 || ebx & AMD_PSFD != 0, 1 << 7),
            (controls & 1 << 3 != 0, 1 << 8),
            (controls & 1 << 4 != 0, 1 << 10),
        ];
        let bits = bits.into_iter().filter(|(has, _)| *has).fold(0, |all, (_, bit)| all | bit);
        let tried = |named: bool, msr, value| named && msrs.write(msr, value).is_ok();
        let ibpb = intel.contains(Leaf7Edx::SPEC_CTRL) || ebx & AMD_IBPB != 0;
        let mut found = Self {
            spec_ctrl: if tried(bits != 0, msr::SPEC_CTRL, 0) { bits } else { 0 },
            pred_cmd: tried(ibpb, msr::PRED_CMD, IBPB),
            flush_cmd: tried(intel.contains(Leaf7Edx::FLUSH_L1D), msr::FLUSH_CMD, L1D_FLUSH),
            ..Self::NONE
        };
        if tried(ebx & AMD_VIRT_SSBD != 0, msr::VIRT_SPEC_CTRL, 0) {
            found.virt_spec_ctrl = VIRT_SSBD;
        }
        let mut shown = Leaf7Edx::empty();
        // Its bit in CPUID stands for both registers.
        shown.set(Leaf7Edx::SPEC_CTRL, found.pred_cmd && found.spec_ctrl != 0);
        shown.set(Leaf7Edx::STIBP | Leaf7Edx::SSBD, found.spec_ctrl != 0);
        shown.set(Leaf7Edx::FLUSH_L1D, found.flush_cmd);
        found.leaf_7_edx = edx & shown.bits();
        let shown = [
            (found.pred_cmd, AMD_IBPB),
            (found.spec_ctrl != 0, AMD_IBRS | AMD_STIBP | AMD_ADVICE | AMD_SSBD | AMD_PSFD),
            (found.virt_spec_ctrl != 0, AMD_VIRT_SSBD),
            (true, AMD_SSB_NO),
        ];
        let shown = shown.into_iter().filter(|(has, _)| *has).fold(0, |all, (_, bit)| all | bit);
        found.widths_ebx = ebx & shown;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw::{CpuidResult, Msr, MsrFault};

    /// A CPU with these answers to leaf 7 and 8000_0008, and these registers.
    struct Cpu(u32, u32, &'static [Msr]);

    impl CpuidBus for Cpu {
        fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
            let found = CpuidResult::default();
            match (leaf, subleaf) {
                (0, _) => CpuidResult { eax: 7, ..found },
                (7, 0) => CpuidResult { edx: self.0, ..found },
                (0x8000_0000, _) => CpuidResult { eax: 0x8000_0008, ..found },
                (0x8000_0008, _) => CpuidResult { ebx: self.1, ..found },
                _ => found,
            }
        }
    }

    impl MsrBus for Cpu {
        fn read(&self, msr: Msr) -> Result<u64, MsrFault> {
            Err(MsrFault(msr))
        }

        fn write(&self, msr: Msr, _: u64) -> Result<(), MsrFault> {
            if self.2.contains(&msr) { Ok(()) } else { Err(MsrFault(msr)) }
        }
    }

    const ALL: [Msr; 4] = [msr::SPEC_CTRL, msr::PRED_CMD, msr::FLUSH_CMD, msr::VIRT_SPEC_CTRL];

    fn probe(cpu: &Cpu) -> Speculation {
        Speculation::probe(cpu, cpu)
    }

    #[test]
    fn a_guest_is_shown_what_answers() {
        let none = probe(&Cpu(0, 0, &ALL));
        assert_eq!(none, Speculation::NONE);
        // Bit 29 is for capabilities, which are not shown.
        let intel = probe(&Cpu(0xfc00_0000, 0, &ALL));
        assert_eq!((intel.spec_ctrl, intel.leaf_7_edx), (0b111, 0x9c00_0000));
        assert!(intel.pred_cmd && intel.flush_cmd && intel.virt_spec_ctrl == 0);
        let partial = probe(&Cpu(0xfc00_0000, 0, &ALL[1..2]));
        assert_eq!((partial.spec_ctrl, partial.leaf_7_edx, partial.pred_cmd), (0, 0, true));
        let amd = probe(&Cpu(0, !0, &ALL));
        assert_eq!((amd.spec_ctrl, amd.virt_spec_ctrl, amd.widths_ebx), (0x87, 4, 0x170f_d000));
        let silent = probe(&Cpu(0, !0, &[]));
        assert_eq!((silent.spec_ctrl, silent.widths_ebx), (0, AMD_SSB_NO));
    }
}
