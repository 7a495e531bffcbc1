//! [`Msi`]: the MSI capability (PCIe 6.0, 7.7.1), and what both kinds of message-signalled interrupt have in common.

use alloc::boxed::Box;
use alloc::vec::Vec;

use ::pci::spec::capability::msi;
use x86_spec::apic::MsiMessage;

use super::Targets;
use super::config::ConfigSpace;
use super::endpoint::{Capability, Endpoint, Route, Slot, Source};

/// Message control, in the upper half of the first register: on; the exponents of how many vectors are offered and used.
const ENABLE: u32 = (msi::ENABLE as u32) << 16;
const OFFERED: u16 = 16 + msi::CAPABLE_SHIFT;
const USED: u16 = 16 + msi::ENABLED_SHIFT;
const EXPONENT: u32 = msi::LOG2 as u32;

/// A function's vectors of MSI.
#[derive(Debug)]
pub(super) struct Msi {
    registers: Registers,
    told: Vec<Slot>,
}

/// Where the registers are that not every capability has at the same place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registers {
    at: u16,
    control: u16,
}

impl Registers {
    /// Whether a capability is long enough for what it says of itself.
    pub(super) fn of(capability: &Capability) -> Option<Self> {
        let control = match capability.bytes.get(2..4)? {
            &[low, high] => u16::from_le_bytes([low, high]),
            _ => return None,
        };
        let is_whole = capability.bytes.len() >= msi::bytes(control).into();
        is_whole.then_some(Self { at: capability.offset, control })
    }

    const fn is_64bit(self) -> bool {
        self.control & msi::WIDE != 0
    }

    const fn is_maskable(self) -> bool {
        self.control & msi::MASKABLE != 0
    }

    /// A register from the data on.
    const fn behind_address(self, register: u16) -> u16 {
        self.at + register + if self.is_64bit() { 4 } else { 0 }
    }

    const fn end(self) -> u16 {
        self.at + msi::bytes(self.control)
    }

    /// Makes writable what is, in a capability that has been put there; off, as after reset. How many vectors it offers.
    pub(super) fn define(self, config: &mut ConfigSpace) -> u32 {
        let exponent = (config.dword(self.at) >> OFFERED & EXPONENT).min(5);
        let (offer, writable) = (exponent << OFFERED, ENABLE | EXPONENT << USED);
        config.define_part(self.at, writable | EXPONENT << OFFERED, offer, writable);
        config.define(self.at + msi::ADDRESS, 0, !3);
        if self.is_64bit() {
            config.define(self.at + msi::ADDRESS_HIGH, 0, u32::MAX);
        }
        config.define_part(self.behind_address(msi::DATA), 0xffff, 0, 0xffff);
        if self.is_maskable() {
            config.define(self.behind_address(msi::MASK), 0, u32::MAX >> (32 - (1 << exponent)));
            config.define(self.behind_address(msi::PENDING), 0, 0);
        }
        1 << exponent
    }
}

impl Msi {
    /// Takes over a capability that has been put into `config`.
    pub(super) fn new(registers: Registers, config: &mut ConfigSpace) -> Self {
        let count = registers.define(config) as usize;
        Self { registers, told: alloc::vec![Slot::Off; count] }
    }

    /// Whether the register is one of its own.
    pub(super) const fn covers(&self, offset: u16) -> bool {
        self.registers.at <= offset && offset < self.registers.end()
    }

    /// Its pending bits, if that is what the register holds.
    pub(super) fn pending(&self, offset: u16, endpoint: &dyn Endpoint) -> Option<u32> {
        let is_it = self.registers.is_maskable()
            && offset & !3 == self.registers.behind_address(msi::PENDING);
        let all = (0_u8..).map(Source::Msi).zip(&self.told);
        is_it.then(|| pending_bits(all, endpoint))
    }

    /// Tells the endpoint what has changed. `allowed`: the function can send them at all.
    pub(super) fn update(
        &mut self,
        config: &ConfigSpace,
        allowed: bool,
        endpoint: &mut Box<dyn Endpoint>,
        targets: Targets<'_>,
    ) {
        let registers = self.registers;
        let control = config.dword(registers.at);
        let used = if allowed && control & ENABLE != 0 {
            1_u32 << (control >> USED & EXPONENT).min(control >> OFFERED & EXPONENT)
        } else {
            0
        };
        let high =
            if registers.is_64bit() { config.dword(registers.at + msi::ADDRESS_HIGH) } else { 0 };
        let address = u64::from(high) << 32 | u64::from(config.dword(registers.at + msi::ADDRESS));
        let data = u32::from(config.word(registers.behind_address(msi::DATA)));
        let mask = if registers.is_maskable() {
            config.dword(registers.behind_address(msi::MASK))
        } else {
            0
        };
        for (vector, told) in (0_u8..).zip(&mut self.told) {
            let index = u32::from(vector);
            let message = MsiMessage { address, data: data & !(used.saturating_sub(1)) | index };
            let message = (index < used).then_some(message);
            tell(told, message, mask >> index & 1 != 0, Source::Msi(vector), endpoint, targets);
        }
    }
}

/// Tells an endpoint what the guest made of an interrupt, if anything has changed. `message` where it is on, be it masked.
///
/// What is masked keeps the route that it had: one that the guest is about to change, by several writes, counts once it is
/// unmasked.
pub(super) fn tell(
    told: &mut Slot,
    message: Option<MsiMessage>,
    masked: bool,
    source: Source,
    endpoint: &mut Box<dyn Endpoint>,
    targets: Targets<'_>,
) {
    let message = message.filter(|message| MsiMessage::is_interrupt_address(message.address));
    let state = match (message, masked, *told) {
        (None, ..) | (_, true, Slot::Off) => Slot::Off,
        (_, true, Slot::On(route) | Slot::Masked(route)) => Slot::Masked(route),
        (Some(message), false, _) => {
            let message = message.into();
            Slot::On(Route { message, vcpu: targets(&message).unwrap_or(0) })
        }
    };
    if state != *told {
        *told = state;
        endpoint.interrupt(source, state);
    }
}

/// The pending bits of up to 32 interrupts: of those that are masked the endpoint is asked.
pub(super) fn pending_bits<'a>(
    all: impl Iterator<Item = (Source, &'a Slot)>,
    endpoint: &dyn Endpoint,
) -> u32 {
    let is_pending =
        |(source, told): (_, &_)| matches!(told, Slot::Masked(_)) && endpoint.pending(source);
    all.take(32)
        .enumerate()
        .fold(0, |bits, (index, one)| bits | u32::from(is_pending(one)) << index)
}
