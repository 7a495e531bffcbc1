//! [`CoreState`]: a virtual CPU's own part, to be kept and taken up again, on this machine or another: local APIC, clock and
//! what the CPU does. Its registers are in [`vcpu::VcpuState`]; counters and the last exits stay behind.
//!
//! The bytes are 64-bit little-endian words: [`MAGIC`] with the version in the upper half, index, activity (bit 8: an event
//! was given since the last entry), the local APIC's words, and the clock's two. Moments are in the guest's TSC.

use alloc::vec::Vec;

use vcpu::{StateError, Vcpu};

use crate::cpu::{Activity, Core};
use crate::exit::Retries;
use crate::platform::lapic::{LocalApic, STATE_WORDS};
use crate::vm::Vm;

/// The first word's lower half.
const MAGIC: u32 = u32::from_le_bytes(*b"KCOR");

/// What [`Core::save`] gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreState {
    index: u32,
    activity: Activity,
    injected: bool,
    lapic: [u64; STATE_WORDS],
    clock: [u64; 2],
}

impl CoreState {
    /// The version of the form in bytes. Others are refused.
    pub const VERSION: u32 = 1;

    /// Its form in bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let head = u64::from(MAGIC) | u64::from(Self::VERSION) << 32;
        let activity = self.activity as u64 | u64::from(self.injected) << 8;
        let words = [head, self.index.into(), activity];
        let words = words.iter().chain(&self.lapic).chain(&self.clock);
        words.flat_map(|word| word.to_le_bytes()).collect()
    }

    /// The reverse of [`CoreState::to_bytes`].
    ///
    /// # Errors
    /// [`StateError`] where the bytes are not of this form. The local APIC's values are looked at by [`Core::restore`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let (words, rest) = bytes.as_chunks();
        let mut words = words.iter().map(|word| u64::from_le_bytes(*word));
        let mut next = || words.next().ok_or(StateError::Length);
        let head = next()?;
        if head as u32 != MAGIC {
            return Err(StateError::NotAState);
        }
        if head >> 32 != u64::from(Self::VERSION) {
            return Err(StateError::Version((head >> 32) as u32));
        }
        let index = u32::try_from(next()?).map_err(|_| StateError::Value("index"))?;
        let word = next()?;
        let (activity, injected) = (Activity::of(word & !0x100), word & 0x100 != 0);
        let activity = activity.ok_or(StateError::Value("activity"))?;
        let mut state = Self { index, activity, injected, lapic: [0; STATE_WORDS], clock: [0; 2] };
        for word in state.lapic.iter_mut().chain(&mut state.clock) {
            *word = next()?;
        }
        if words.next().is_some() || !rest.is_empty() { Err(StateError::Length) } else { Ok(state) }
    }
}

impl Core {
    /// Its state, with all that was sent to it until now. Called while it does not run, just before or after
    /// [`Vcpu::save`].
    pub fn save<V: Vcpu>(&mut self, vm: &Vm, vcpu: &mut V) -> CoreState {
        self.read_mail(vm, vcpu);
        CoreState {
            index: self.index,
            activity: self.activity,
            injected: self.injected,
            lapic: self.lapic.to_words(),
            clock: self.pvclock.to_words(),
        }
    }

    /// Takes up a state, as [`Vcpu::restore`] does the registers. What was sent and not yet taken stays.
    ///
    /// # Errors
    /// [`StateError::Value`] where it is another virtual CPU's, or none; nothing is changed then.
    pub fn restore(&mut self, state: &CoreState, vm: &Vm) -> Result<(), StateError> {
        if state.index != self.index {
            return Err(StateError::Value("index"));
        }
        self.lapic = LocalApic::from_words(self.index, &state.lapic)
            .ok_or(StateError::Value("local APIC"))?;
        self.pvclock.restore(state.clock);
        vm.publish_address(self.index, &self.lapic);
        match (self.activity.is_deep(), state.activity.is_deep()) {
            (true, false) => vm.wake(),
            (false, true) => {
                vm.sleep_deeply();
            }
            _ => {}
        }
        self.activity = state.activity;
        self.tsc_offset = vm.tsc_offset();
        self.retries = Retries::default();
        (self.settled, self.injected, self.window) = (false, state.injected, None);
        Ok(())
    }
}
