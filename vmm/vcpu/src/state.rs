//! A virtual CPU's whole state, apart from any CPU: what [`Vcpu::save`](crate::Vcpu::save) gives and
//! [`Vcpu::restore`](crate::Vcpu::restore) takes, and its versioned form in bytes.
//!
//! The bytes are 64-bit little-endian words: [`MAGIC`] with the version in the upper half, the fields in the order of
//! [`visit`], and last the XSAVE image with its length in words. What comes in by [`VcpuState::from_bytes`] may be
//! anything: the form is checked there, the values by `restore`.

use alloc::vec::Vec;

use hw::Msr;
use x86_spec::msr;
use x86_spec::segment::{DescriptorTable, Segment};

use crate::Registers;

/// The first word's lower half.
const MAGIC: u32 = u32::from_le_bytes(*b"KVCP");
/// Longer images do not exist: every component that XCR0 could name, AMX included.
const XSAVE_WORDS_LIMIT: u64 = 16 * 1024 / 8;

/// The registers that RDMSR reads and the rest of [`VcpuState`] does not hold, in the order of [`VcpuState::msrs`].
pub const STATE_MSRS: [Msr; 13] = [
    msr::PAT,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::KERNEL_GS_BASE,
    msr::SYSENTER_CS,
    msr::SYSENTER_ESP,
    msr::SYSENTER_EIP,
    msr::TSC_AUX,
    msr::DEBUGCTL,
    msr::SPEC_CTRL,
    msr::VIRT_SPEC_CTRL,
];

/// A virtual CPU, whole, but for its time-stamp counter: whoever restores it knows how much time has passed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VcpuState {
    /// General-purpose, control and segment registers.
    pub registers: Registers,
    /// DR0 to DR3 and DR6.
    pub debug: [u64; 5],
    /// By the index of [`STATE_MSRS`]; 0 where the CPU lacks the register.
    pub msrs: [u64; STATE_MSRS.len()],
    /// XCR0.
    pub xcr0: u64,
    /// FPU, SSE and later components in XSAVE's standard format (SDM vol. 1, 13.4).
    pub xsave: Vec<u64>,
    /// What is due.
    pub events: Events,
}

/// What is due at a virtual CPU's next entry, and what holds it off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Goes in first: laid out as the VMCB's EVENTINJ (APM vol. 2, 15.20) and, but for the error code in the upper half,
    /// as the VMCS's entry interruption information (SDM vol. 3, table 25-17). 0: nothing.
    pub first: u64,
    /// Length of the instruction that raised it, where one did.
    pub first_len: u8,
    /// An exit cut its delivery short.
    pub cut_short: bool,
    /// An interrupt that a fault overtook, likewise as a word.
    pub overtaken: u64,
    /// An NMI waits.
    pub nmi: bool,
    /// NMIs are blocked until the next IRET.
    pub nmi_blocked: bool,
    /// The shadow of STI.
    pub sti_shadow: bool,
    /// The shadow of MOV SS or POP SS.
    pub mov_ss_shadow: bool,
    /// A triple fault is due.
    pub shutdown: bool,
    /// In HLT, which the guest runs without an exit.
    pub halted: bool,
    /// Debug exceptions that the shadow holds off (SDM vol. 3, 25.4.2).
    pub pending_debug: u64,
}

/// Why a state cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateError {
    /// These bytes are no state of a virtual CPU.
    NotAState,
    /// They are of this version, which is not [`VcpuState::VERSION`].
    Version(u32),
    /// They end too early, or go on too long.
    Length,
    /// A field holds what no CPU can; the text is its name.
    Value(&'static str),
    /// The guest may not have, or this CPU lacks, an XSAVE component that the image holds.
    Components,
    /// The register does not exist here, or not with this value.
    Msr(Msr),
}

impl VcpuState {
    /// The version of the form in bytes. Others are refused.
    pub const VERSION: u32 = 2;

    /// Its form in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::with_capacity(1024 + 8 * self.xsave.len()));
        let mut head = u64::from(MAGIC) | u64::from(Self::VERSION) << 32;
        let _ = writer.word(&mut head);
        // A copy, as one list of fields serves both ways.
        let mut state = self.clone();
        let _ = visit(&mut state, &mut writer);
        writer.0
    }

    /// The reverse of [`VcpuState::to_bytes`].
    ///
    /// # Errors
    /// [`StateError`] where the bytes are not of this form.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let mut reader = Reader(bytes);
        let mut head = 0;
        reader.word(&mut head)?;
        if head as u32 != MAGIC {
            return Err(StateError::NotAState);
        }
        if head >> 32 != u64::from(Self::VERSION) {
            return Err(StateError::Version((head >> 32) as u32));
        }
        let mut state = Self::default();
        visit(&mut state, &mut reader)?;
        if reader.0.is_empty() { Ok(state) } else { Err(StateError::Length) }
    }
}

/// One direction: puts a word out, or takes one in.
trait Words {
    fn word(&mut self, word: &mut u64) -> Result<(), StateError>;
}

struct Writer(Vec<u8>);

impl Words for Writer {
    fn word(&mut self, word: &mut u64) -> Result<(), StateError> {
        self.0.extend_from_slice(&word.to_le_bytes());
        Ok(())
    }
}

struct Reader<'a>(&'a [u8]);

impl Words for Reader<'_> {
    fn word(&mut self, word: &mut u64) -> Result<(), StateError> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(StateError::Length)?;
        *word = u64::from_le_bytes(*bytes);
        self.0 = rest;
        Ok(())
    }
}

/// Every field in order.
fn visit(state: &mut VcpuState, words: &mut impl Words) -> Result<(), StateError> {
    let VcpuState { registers, debug, msrs, xcr0, xsave, events } = state;
    let Registers {
        gprs,
        rip,
        rflags,
        cr0,
        cr2,
        cr3,
        cr4,
        efer,
        dr7,
        cs,
        ds,
        es,
        fs,
        gs,
        ss,
        tr,
        ldtr,
        gdtr,
        idtr,
    } = registers;
    for word in gprs.iter_mut().chain([rip, rflags, cr0, cr2, cr3, cr4, efer, dr7]) {
        words.word(word)?;
    }
    for segment in [cs, ds, es, fs, gs, ss, tr, ldtr] {
        visit_segment(segment, words)?;
    }
    for DescriptorTable { base, limit } in [gdtr, idtr] {
        words.word(base)?;
        let mut word = u64::from(*limit);
        words.word(&mut word)?;
        *limit = u16::try_from(word).map_err(|_| StateError::Value("descriptor-table limit"))?;
    }
    for word in debug.iter_mut().chain(msrs).chain([xcr0]) {
        words.word(word)?;
    }
    visit_events(events, words)?;
    let mut count = xsave.len() as u64;
    words.word(&mut count)?;
    if count > XSAVE_WORDS_LIMIT {
        return Err(StateError::Value("length of the XSAVE image"));
    }
    xsave.resize(count as usize, 0);
    xsave.iter_mut().try_for_each(|word| words.word(word))
}

fn visit_segment(segment: &mut Segment, words: &mut impl Words) -> Result<(), StateError> {
    words.word(&mut segment.base)?;
    let mut word = u64::from(segment.limit) << 32 | u64::from(segment.selector);
    words.word(&mut word)?;
    if word & 0xffff_0000 != 0 {
        return Err(StateError::Value("segment selector"));
    }
    (segment.limit, segment.selector) = ((word >> 32) as u32, word as u16);
    let mut access = u64::from(segment.access);
    words.word(&mut access)?;
    segment.access = u32::try_from(access).map_err(|_| StateError::Value("segment attributes"))?;
    Ok(())
}

fn visit_events(events: &mut Events, words: &mut impl Words) -> Result<(), StateError> {
    let Events {
        first,
        first_len,
        cut_short,
        overtaken,
        nmi,
        nmi_blocked,
        sti_shadow,
        mov_ss_shadow,
        shutdown,
        halted,
        pending_debug,
    } = events;
    for word in [first, overtaken, pending_debug] {
        words.word(word)?;
    }
    let flags = [cut_short, nmi, nmi_blocked, sti_shadow, mov_ss_shadow, shutdown, halted];
    let mut word = u64::from(*first_len);
    for (bit, flag) in (8..).zip(&flags) {
        word |= u64::from(**flag) << bit;
    }
    words.word(&mut word)?;
    if word >> (8 + flags.len()) != 0 {
        return Err(StateError::Value("events"));
    }
    *first_len = word as u8;
    for (bit, flag) in (8..).zip(flags) {
        *flag = word >> bit & 1 != 0;
    }
    Ok(())
}

/// What a state's event words may hold (SDM vol. 3, 27.2.1.3).
pub(crate) fn check_events(events: &Events) -> Result<(), StateError> {
    const VALID: u64 = 1 << 31;
    const ERROR_CODE: u64 = 1 << 11;
    let is_sound = |word: u64, kinds: &[u64]| {
        let (vector, kind) = (word & 0xff, word >> 8 & 7);
        let error_code = word & ERROR_CODE != 0;
        word == 0
            || word & VALID != 0
                && word & 0x7fff_f000 == 0
                && kinds.contains(&kind)
                && (kind != 2 || vector == 2)
                && (!matches!(kind, 3 | 5 | 6) || vector < 32)
                && (!error_code || kind == 3)
                && (error_code || word >> 32 == 0)
    };
    if !is_sound(events.first, &[0, 2, 3, 4, 5, 6]) || events.first_len > 15 {
        return Err(StateError::Value("pending event"));
    }
    if !is_sound(events.overtaken, &[0]) {
        return Err(StateError::Value("overtaken interrupt"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some_state() -> VcpuState {
        let mut state = VcpuState { xcr0: 7, xsave: (0..104).collect(), ..VcpuState::default() };
        for (value, gpr) in (1..).zip(&mut state.registers.gprs) {
            *gpr = value << 40;
        }
        state.registers.cs = Segment { selector: 0x10, base: 5, limit: !0, access: 0x1a09b };
        state.registers.idtr = DescriptorTable { base: 0x1000, limit: 0xfff };
        state.debug[4] = 0xffff_0ff0;
        state.msrs = core::array::from_fn(|index| index as u64);
        state.events = Events {
            first: 0x8000_0b0e | 2 << 32,
            first_len: 3,
            overtaken: 0x8000_0040,
            halted: true,
            mov_ss_shadow: true,
            pending_debug: 1 << 14,
            ..Events::default()
        };
        state
    }

    #[test]
    fn a_state_comes_back_from_its_bytes() {
        let state = some_state();
        assert_eq!(VcpuState::from_bytes(&state.to_bytes()), Ok(state));
        let empty = VcpuState::default();
        assert_eq!(VcpuState::from_bytes(&empty.to_bytes()), Ok(empty));
    }

    #[test]
    fn what_is_no_state_of_this_version_is_refused() {
        let bytes = some_state().to_bytes();
        assert_eq!(VcpuState::from_bytes(&[]), Err(StateError::Length));
        assert_eq!(VcpuState::from_bytes(&bytes[1..]), Err(StateError::NotAState));
        assert_eq!(VcpuState::from_bytes(&bytes[..bytes.len() - 8]), Err(StateError::Length));
        assert_eq!(VcpuState::from_bytes(&[&bytes[..], &[0]].concat()), Err(StateError::Length));
        let mut newer = bytes.clone();
        newer[4] += 1;
        assert_eq!(VcpuState::from_bytes(&newer), Err(StateError::Version(3)));
        // The image's length is the last word before it.
        let mut endless = bytes.clone();
        let at = bytes.len() - 8 * 105;
        endless[at..at + 8].fill(0xff);
        assert!(matches!(VcpuState::from_bytes(&endless), Err(StateError::Value(_))));
    }

    #[test]
    fn every_byte_counts() {
        let state = some_state();
        let bytes = state.to_bytes();
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x40;
            assert_ne!(VcpuState::from_bytes(&other), Ok(state.clone()), "byte {at}");
        }
    }

    #[test]
    fn events_that_no_entry_accepts_are_refused() {
        let check = |first| check_events(&Events { first, ..Events::default() });
        for good in [0, 0x8000_0040, 0x8000_0202, 0x8000_0b0d, 0x8000_0b0e | 7 << 32, 0x8000_0603] {
            assert_eq!(check(good), Ok(()), "{good:#x}");
        }
        for bad in [0x40, 0x8000_0140, 0x8000_0203, 0x8000_0b20, 0x8000_0840, 0x8000_1040, 1 << 32]
        {
            assert!(check(bad).is_err(), "{bad:#x}");
        }
        let nmi = Events { overtaken: 0x8000_0202, ..Events::default() };
        assert!(check_events(&nmi).is_err(), "only an interrupt can be overtaken");
    }
}
