//! The I/O APIC: 24 pins, each with an entry of the redirection table (82093AA datasheet; EOI register of version 0x20 as
//! in the ICH's I/O APIC).
//!
//! [`IoApic`] gets the state of its pins from devices, and turns it into [`InterruptMessage`]s for
//! [local APICs](crate::platform::lapic).

use hw::Width;
use x86_spec::apic::{DeliveryMode, RedirectionEntry, ioapic as at};

use crate::platform::{InterruptMessage, part_of_dword, with_part};

/// How many pins it has.
pub const PIN_COUNT: u8 = 24;
/// Version 0x20, and the number of the highest pin.
const VERSION: u32 = (PIN_COUNT as u32 - 1) << 16 | 0x20;
/// Bits of the ID register that software can write.
const ID_WRITABLE: u32 = 0x0f00_0000;

/// An I/O APIC.
#[derive(Clone, Debug)]
pub struct IoApic {
    select: u8,
    id: u32,
    entries: [RedirectionEntry; PIN_COUNT as usize],
    /// Pins whose device wants an interrupt.
    asserted: u32,
    /// Edges not yet sent.
    edges: u32,
    /// Pins whose entry sends as long as the pin is asserted: level-triggered, unmasked, no remote IRR.
    open_levels: u32,
}

impl Default for IoApic {
    fn default() -> Self {
        Self::new()
    }
}

impl IoApic {
    /// An I/O APIC as after reset: everything masked.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            select: 0,
            id: 0,
            entries: [RedirectionEntry::reset(); PIN_COUNT as usize],
            asserted: 0,
            edges: 0,
            open_levels: 0,
        }
    }

    /// Reads its page.
    pub fn read(&mut self, offset: u64, width: Width, _now: u64) -> u64 {
        let register = match offset & !3 {
            at::IOREGSEL => self.select.into(),
            at::IOWIN => self.read_selected(),
            _ => 0,
        };
        part_of_dword(register, offset, width)
    }

    /// Writes its page.
    pub fn write(&mut self, offset: u64, width: Width, value: u64, _now: u64) {
        match offset & !3 {
            at::IOREGSEL => {
                self.select = with_part(self.select.into(), offset, width, value) as u8;
            }
            at::IOWIN => {
                let merged = with_part(self.read_selected(), offset, width, value);
                self.write_selected(merged);
            }
            at::EOI if offset == at::EOI => self.end_of_interrupt(value as u8),
            _ => {}
        }
    }

    /// The pin and, shifted right by 32 where odd, the half of its entry that the index register selects.
    fn selected_entry(&self) -> Option<(u8, bool)> {
        let index = self.select.checked_sub(at::REDIRECTION)?;
        (index >> 1 < PIN_COUNT).then_some((index >> 1, index & 1 != 0))
    }

    fn entry(&self, pin: u8) -> RedirectionEntry {
        self.entries.get(usize::from(pin)).copied().unwrap_or(RedirectionEntry::reset())
    }

    fn read_selected(&self) -> u32 {
        match self.select {
            at::ID | at::ARBITRATION => self.id,
            at::VERSION => VERSION,
            _ => self
                .selected_entry()
                .map_or(0, |(pin, high)| (self.entry(pin).0 >> if high { 32 } else { 0 }) as u32),
        }
    }

    fn write_selected(&mut self, value: u32) {
        if self.select == at::ID {
            self.id = value & ID_WRITABLE;
        }
        let Some((pin, high)) = self.selected_entry() else { return };
        let old = self.entry(pin).0;
        let merged = if high {
            old & 0xffff_ffff | u64::from(value) << 32
        } else {
            old & !0xffff_ffff | u64::from(value)
        };
        let status = old & !RedirectionEntry::WRITABLE;
        let mut new = RedirectionEntry(merged & RedirectionEntry::WRITABLE | status);
        if !new.is_level() {
            // Drivers end a level-triggered interrupt by hand by a round trip through edge mode.
            new.0 &= !RedirectionEntry::REMOTE_IRR;
        }
        self.set_entry(pin, new);
    }

    fn set_entry(&mut self, pin: u8, entry: RedirectionEntry) {
        let Some(slot) = self.entries.get_mut(usize::from(pin)) else { return };
        *slot = entry;
        let bit = 1 << pin;
        let open = entry.is_level() && !entry.is_masked() && !entry.remote_irr();
        self.open_levels = if open { self.open_levels | bit } else { self.open_levels & !bit };
        if entry.is_level() || entry.is_masked() {
            self.edges &= !bit;
        }
    }

    /// Sets the signal at a pin: `asserted` says that its device wants an interrupt, whatever the polarity. An edge at a
    /// masked pin is lost (82093AA, 3.2.4).
    pub fn set_pin(&mut self, pin: u8, asserted: bool) {
        if pin >= PIN_COUNT {
            return;
        }
        let bit = 1 << pin;
        let rises = asserted && self.asserted & bit == 0;
        self.asserted = if asserted { self.asserted | bit } else { self.asserted & !bit };
        if rises {
            let entry = self.entry(pin);
            if !entry.is_level() && !entry.is_masked() {
                self.edges |= bit;
            }
        }
    }

    /// A local APIC ended the level-triggered interrupt `vector`.
    pub fn end_of_interrupt(&mut self, vector: u8) {
        for pin in 0..PIN_COUNT {
            let entry = self.entry(pin);
            if entry.is_level() && entry.remote_irr() && entry.vector() == vector {
                self.set_entry(pin, RedirectionEntry(entry.0 & !RedirectionEntry::REMOTE_IRR));
            }
        }
    }

    /// The next interrupt to deliver to local APICs. Ask until `None` after every write, pin change and end of interrupt.
    pub fn take_message(&mut self) -> Option<InterruptMessage> {
        let ready = self.edges | self.asserted & self.open_levels;
        let pin = ready.checked_ilog2()? as u8;
        let entry = self.entry(pin);
        self.edges &= !(1 << pin);
        if entry.is_level() {
            self.set_entry(pin, RedirectionEntry(entry.0 | RedirectionEntry::REMOTE_IRR));
        }
        let vectored =
            matches!(entry.delivery_mode(), DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        let message = InterruptMessage::from(entry);
        // Only a vectored interrupt has an end to be told of.
        Some(InterruptMessage { level: message.level && vectored, ..message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn program(apic: &mut IoApic, pin: u8, entry: u64) {
        for (half, value) in [(1, entry >> 32), (0, entry & 0xffff_ffff)] {
            apic.write(at::IOREGSEL, Width::W4, u64::from(at::REDIRECTION + 2 * pin + half), 0);
            apic.write(at::IOWIN, Width::W4, value, 0);
        }
    }

    fn look(apic: &mut IoApic, index: u8) -> u32 {
        apic.write(at::IOREGSEL, Width::W4, index.into(), 0);
        apic.read(at::IOWIN, Width::W4, 0) as u32
    }

    #[test]
    fn reset_masks_every_pin_and_the_version_counts_them() {
        let mut apic = IoApic::new();
        assert_eq!(look(&mut apic, at::VERSION), 0x0017_0020);
        for pin in 0..PIN_COUNT {
            assert_eq!(look(&mut apic, at::REDIRECTION + 2 * pin), 0x1_0000);
        }
        assert_eq!(look(&mut apic, at::REDIRECTION + 2 * PIN_COUNT), 0);
    }

    #[test]
    fn an_edge_is_sent_once() {
        let mut apic = IoApic::new();
        program(&mut apic, 4, 5 << 56 | 0x34);
        apic.set_pin(4, true);
        apic.set_pin(4, true);
        let message = apic.take_message().unwrap();
        assert_eq!((message.destination, message.vector, message.level), (5, 0x34, false));
        assert_eq!(apic.take_message(), None);
        apic.set_pin(4, false);
        apic.set_pin(4, true);
        assert!(apic.take_message().is_some());
    }

    #[test]
    fn an_edge_at_a_masked_pin_is_lost_and_a_level_is_not() {
        let mut apic = IoApic::new();
        apic.set_pin(4, true);
        apic.set_pin(5, true);
        program(&mut apic, 4, 0x34);
        program(&mut apic, 5, RedirectionEntry::LEVEL | 0x35);
        assert_eq!(apic.take_message().map(|message| message.vector), Some(0x35));
        assert_eq!(apic.take_message(), None);
    }

    #[test]
    fn a_level_is_sent_again_only_after_its_end() {
        let mut apic = IoApic::new();
        program(&mut apic, 9, RedirectionEntry::LEVEL | 0x40);
        apic.set_pin(9, true);
        assert!(apic.take_message().unwrap().level);
        assert_eq!(apic.take_message(), None);
        assert_ne!(
            u64::from(look(&mut apic, at::REDIRECTION + 18)) & RedirectionEntry::REMOTE_IRR,
            0
        );
        apic.end_of_interrupt(0x41);
        assert_eq!(apic.take_message(), None);
        apic.end_of_interrupt(0x40);
        assert!(apic.take_message().is_some());
        apic.set_pin(9, false);
        apic.write(at::EOI, Width::W4, 0x40, 0);
        assert_eq!(apic.take_message(), None);
    }

    #[test]
    fn a_round_trip_through_edge_mode_clears_remote_irr() {
        let mut apic = IoApic::new();
        program(&mut apic, 9, RedirectionEntry::LEVEL | 0x40);
        apic.set_pin(9, true);
        assert!(apic.take_message().is_some());
        program(&mut apic, 9, RedirectionEntry::MASKED | 0x40);
        program(&mut apic, 9, RedirectionEntry::LEVEL | 0x40);
        assert!(apic.take_message().is_some(), "still asserted");
    }

    #[test]
    fn status_bits_cannot_be_written() {
        let mut apic = IoApic::new();
        program(&mut apic, 0, u64::MAX);
        let low = look(&mut apic, at::REDIRECTION);
        assert_eq!(low, 0x1_afff);
        assert_eq!(look(&mut apic, at::REDIRECTION + 1), 0xff00_0000);
    }

    proptest! {
        #[test]
        fn no_access_panics_and_messages_end(
            accesses in proptest::collection::vec(
                (0_u8..4, 0_u64..0x1000, 0_u32..4, any::<u64>(), any::<u8>()), 0..200),
        ) {
            let mut apic = IoApic::new();
            for (kind, offset, width, value, pin) in accesses {
                let width = Width::try_new(1 << width).unwrap();
                match kind {
                    0 => { apic.read(offset & 0x5f, width, 0); }
                    1 => apic.write(offset & 0x5f, width, value, 0),
                    2 => apic.set_pin(pin, value & 1 != 0),
                    _ => apic.end_of_interrupt(pin),
                }
                let sent = core::iter::from_fn(|| apic.take_message()).take(100).count();
                prop_assert!(sent <= usize::from(PIN_COUNT));
            }
        }
    }
}
