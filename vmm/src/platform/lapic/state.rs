//! A local APIC's state as words, to be saved and restored.

use x86_spec::apic::{APIC_BASE_ADDRESS, ApicBase, Esr, Icr, Lvt, Svr};

use super::registers::{SVR_WRITABLE, lvt_writable};
use super::timer::Timer;
use super::{LocalApic, VectorSet};
use x86_spec::apic::lapic as offset_of;

/// How many words there are.
pub(crate) const WORDS: usize = 30;

/// The local vector table's registers in the order of the words.
const LVT: [u16; 6] = [
    offset_of::LVT_TIMER,
    offset_of::LVT_THERMAL,
    offset_of::LVT_PMC,
    offset_of::LVT_LINT0,
    offset_of::LVT_LINT1,
    offset_of::LVT_ERROR,
];

impl LocalApic {
    /// Its state. Moments are in the guest's TSC.
    pub(crate) fn to_words(&self) -> [u64; WORDS] {
        let lvt = &self.lvt;
        let [i0, i1, i2, i3] = self.isr.0;
        let [t0, t1, t2, t3] = self.tmr.0;
        let [r0, r1, r2, r3] = self.irr.0;
        [
            self.base.bits(),
            self.tpr.into(),
            self.ldr.into(),
            self.dfr.into(),
            self.svr.bits().into(),
            self.esr.bits().into(),
            self.errors.bits().into(),
            self.icr.0,
            lvt.timer.0.into(),
            lvt.thermal.0.into(),
            lvt.pmc.0.into(),
            lvt.lint0.0.into(),
            lvt.lint1.0.into(),
            lvt.error.0.into(),
            self.timer.initial().into(),
            self.timer.divide().into(),
            // No timer fires at 0: that moment is past when it is armed.
            self.timer.fires_at().unwrap_or(0),
            self.nmi.into(),
            i0,
            i1,
            i2,
            i3,
            t0,
            t1,
            t2,
            t3,
            r0,
            r1,
            r2,
            r3,
        ]
    }

    /// The local APIC `id` in this state; `None` where it is one that no local APIC of this machine has.
    pub(crate) fn from_words(id: u32, words: &[u64; WORDS]) -> Option<Self> {
        let [base, tpr, ldr, dfr, svr, esr, errors, icr, rest @ ..] = *words;
        let [timer, thermal, pmc, lint0, lint1, error, initial, divide, fires_at, nmi, rest @ ..] =
            rest;
        let [i0, i1, i2, i3, t0, t1, t2, t3, r0, r1, r2, r3] = rest;
        let mut apic = Self::new(id, id == 0);
        apic.base = base_of(base, apic.base & ApicBase::BSP)?;
        apic.tpr = u8::try_from(tpr).ok()?;
        apic.ldr = within(ldr, 0xff00_0000)?;
        apic.dfr = within(dfr, u32::MAX).filter(|dfr| !dfr & 0x0fff_ffff == 0)?;
        apic.svr = Svr::from_bits_retain(within(svr, SVR_WRITABLE)?);
        apic.esr = Esr::from_bits(within(esr, u32::MAX)?)?;
        apic.errors = Esr::from_bits(within(errors, u32::MAX)?)?;
        apic.icr = Icr(icr);
        let entries = [timer, thermal, pmc, lint0, lint1, error];
        for (register, word) in LVT.into_iter().zip(entries) {
            *apic.lvt_mut(register)? = Lvt(within(word, lvt_writable(register)?)?);
        }
        apic.timer = Timer::restored(
            within(initial, u32::MAX)?,
            within(divide, 0b1011)?,
            (fires_at != 0).then_some(fires_at),
        );
        apic.nmi = within(nmi, 1)? != 0;
        apic.isr = set_of([i0, i1, i2, i3])?;
        apic.tmr = set_of([t0, t1, t2, t3])?;
        apic.irr = set_of([r0, r1, r2, r3])?;
        Some(apic)
    }
}

fn within(word: u64, bits: u32) -> Option<u32> {
    u32::try_from(word).ok().filter(|value| value & !bits == 0)
}

fn set_of(words: [u64; 4]) -> Option<VectorSet> {
    Some(VectorSet(words)).filter(|set| !set.has_illegal())
}

/// IA32_APIC_BASE, where it says of the bootstrap processor what is true and selects a mode that exists.
fn base_of(word: u64, bootstrap: ApicBase) -> Option<ApicBase> {
    let base = ApicBase::from_bits_retain(word);
    let flags = ApicBase::BSP | ApicBase::EN | ApicBase::EXTD;
    let is_known = word & !(APIC_BASE_ADDRESS | flags.bits()) == 0;
    let has_mode = base.contains(ApicBase::EN) || !base.contains(ApicBase::EXTD);
    (is_known && has_mode && base & ApicBase::BSP == bootstrap).then_some(base)
}
