//! The rules of APM vol. 2, 15.5.1 that VMRUN checks, in the manual's order. The CPU only says that one is broken; this
//! says which.

use x86_spec::cpu::{Cr0, Cr4, Efer};
use x86_spec::svm::{EventWord, IOPM_BYTES, Intercept4, MSRPM_BYTES, NP_ENABLE, Vmcb};

/// Bits of EFER with a meaning (APM vol. 2, 3.1.7).
const EFER_KNOWN: u64 = 0x0036_fd01;
/// Bit 11 of `attributes` is G, 10 D/B, 9 L.
const ATTRIBUTES_L_AND_D: u16 = 1 << 9 | 1 << 10;

/// The first rule that `vmcb` breaks on a CPU whose physical addresses have `physical_bits` bits.
pub(super) fn broken_rule(vmcb: &Vmcb, physical_bits: u8) -> Option<&'static str> {
    let rules = state_rules(vmcb, physical_bits).into_iter();
    rules
        .chain(control_rules(vmcb, physical_bits))
        .find(|(broken, _)| *broken)
        .map(|(_, rule)| rule)
}

fn state_rules(vmcb: &Vmcb, physical_bits: u8) -> [(bool, &'static str); 10] {
    let save = &vmcb.save;
    let (cr0, cr4) = (Cr0::from_bits_retain(save.cr0), Cr4::from_bits_retain(save.cr4));
    let efer = Efer::from_bits_retain(save.efer);
    let long_paging = efer.contains(Efer::LME) && cr0.contains(Cr0::PG);
    let l_and_d = save.cs.attributes & ATTRIBUTES_L_AND_D == ATTRIBUTES_L_AND_D;
    [
        (!efer.contains(Efer::SVME), "EFER.SVME is zero (APM 15.5.1)"),
        (
            cr0.contains(Cr0::NW) && !cr0.contains(Cr0::CD),
            "CR0.CD is zero and CR0.NW is set (APM 15.5.1)",
        ),
        (save.cr0 >> 32 != 0, "CR0[63:32] are not zero (APM 15.5.1)"),
        (
            efer.contains(Efer::LMA) && save.cr3 >> physical_bits != 0,
            "CR3 holds an address wider than the CPU's (APM 15.5.1)",
        ),
        (save.dr6 >> 32 != 0, "DR6[63:32] are not zero (APM 15.5.1)"),
        (save.dr7 >> 32 != 0, "DR7[63:32] are not zero (APM 15.5.1)"),
        (save.efer & !EFER_KNOWN != 0, "reserved bits of EFER are set (APM 15.5.1)"),
        (
            long_paging && !cr4.contains(Cr4::PAE),
            "EFER.LME and CR0.PG are set and CR4.PAE is zero (APM 15.5.1)",
        ),
        (
            long_paging && !cr0.contains(Cr0::PE),
            "EFER.LME and CR0.PG are set and CR0.PE is zero (APM 15.5.1)",
        ),
        (
            long_paging && cr4.contains(Cr4::PAE) && l_and_d,
            "EFER.LME, CR0.PG, CR4.PAE, CS.L and CS.D are all set (APM 15.5.1)",
        ),
    ]
}

fn control_rules(vmcb: &Vmcb, physical_bits: u8) -> [(bool, &'static str); 7] {
    let control = &vmcb.control;
    let past_memory =
        |address: u64, bytes: usize| (address + bytes as u64 - 1) >> physical_bits != 0;
    let nested = control.nested_control & NP_ENABLE != 0;
    [
        (
            control.intercept4 & Intercept4::VMRUN.bits() == 0,
            "the VMRUN intercept is clear (APM 15.5.1)",
        ),
        (
            past_memory(control.msrpm_base_pa & !0xfff, MSRPM_BYTES),
            "the MSR permission map lies past physical memory (APM 15.5.1)",
        ),
        (
            past_memory(control.iopm_base_pa & !0xfff, IOPM_BYTES),
            "the I/O permission map lies past physical memory (APM 15.5.1)",
        ),
        (is_illegal(EventWord(control.event_injection)), "EVENTINJ is illegal (APM 15.20)"),
        (control.guest_asid == 0, "ASID is zero (APM 15.5.1)"),
        (
            nested && (control.n_cr3 & 0xfff != 0 || control.n_cr3 >> physical_bits != 0),
            "reserved bits of nCR3 are set (APM 15.25.3)",
        ),
        (nested && !super::state::is_pat(vmcb.save.g_pat), "G_PAT is illegal (APM 15.25.4)"),
    ]
}

/// A valid event that no CPU can raise: a reserved type, or an exception that is none.
fn is_illegal(event: EventWord) -> bool {
    let kind_is_reserved = !matches!(
        event.kind(),
        EventWord::INTERRUPT | EventWord::NMI | EventWord::EXCEPTION | EventWord::SOFTWARE
    );
    let no_exception =
        event.kind() == EventWord::EXCEPTION && (event.vector() == 2 || event.vector() > 31);
    event.is_valid() && (kind_is_reserved || no_exception)
}
