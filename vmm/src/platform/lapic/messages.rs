//! Messages between local APICs: how they are addressed, sent and taken (SDM vol. 3, 11.6).

use x86_spec::apic::{DeliveryMode, Esr, Icr, Shorthand};

use super::{Effect, LocalApic, Mode, VectorSet};
use crate::platform::InterruptMessage;

/// What decides whether a message is for a local APIC, in a word that other CPUs may read: the logical ID of xAPIC mode in
/// bits 7:0, and flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) u32);

impl Address {
    const XAPIC: u32 = 1 << 8;
    const X2APIC: u32 = 1 << 9;
    /// The cluster model, as opposed to the flat one.
    const CLUSTER: u32 = 1 << 10;
    /// Enabled by software.
    const ENABLED: u32 = 1 << 11;

    const fn has(self, flag: u32) -> bool {
        self.0 & flag != 0
    }

    /// Whether the local APIC takes interrupts with a vector.
    pub(crate) const fn is_enabled(self) -> bool {
        self.has(Self::ENABLED)
    }

    /// Whether a message is for the local APIC `id` (SDM vol. 3, 11.6.2).
    pub(crate) const fn takes(self, id: u32, message: &InterruptMessage) -> bool {
        let destination = message.destination;
        if !self.has(Self::XAPIC | Self::X2APIC) {
            false
        } else if destination == u32::MAX {
            true
        } else if self.has(Self::X2APIC) {
            let own = x2apic_logical_id(id);
            let logically = destination >> 16 == own >> 16 && destination & own & 0xffff != 0;
            if message.logical { logically } else { destination == id }
        } else if destination == 0xff {
            true
        } else if !message.logical {
            destination == id & 0xff
        } else {
            let own = self.0 & 0xff;
            let is_cluster = self.has(Self::CLUSTER);
            let mask = if is_cluster { 0x0f } else { 0xff };
            (!is_cluster || destination >> 4 == own >> 4) && destination & own & mask != 0
        }
    }
}

pub(super) const fn x2apic_logical_id(id: u32) -> u32 {
    (id >> 4) << 16 | 1 << (id & 15)
}

impl LocalApic {
    /// By what addresses messages reach it.
    pub(crate) fn address(&self) -> Address {
        let mode = match self.mode() {
            Mode::Disabled => 0,
            Mode::Xapic => Address::XAPIC,
            Mode::X2apic => Address::X2APIC,
        };
        let cluster = if self.dfr >> 28 == 0 { Address::CLUSTER } else { 0 };
        let enabled = if self.is_enabled() { Address::ENABLED } else { 0 };
        Address(self.ldr >> 24 | mode | cluster | enabled)
    }

    /// Takes an interrupt if it is for this APIC; says whether it was.
    pub fn accept(&mut self, message: InterruptMessage) -> bool {
        let ours = self.address().takes(self.id, &message);
        if ours {
            self.take(&message);
        }
        ours
    }

    /// Takes interrupts that others sent, edge- and level-triggered ones.
    pub(crate) fn request_all(&mut self, edges: VectorSet, levels: VectorSet) {
        let all = edges.union(levels);
        if all.is_empty() || !self.is_enabled() {
            return;
        }
        if all.has_illegal() {
            self.report(Esr::RECEIVE_ILLEGAL_VECTOR);
        }
        let all = all.legal();
        self.irr = self.irr.union(all);
        self.tmr = self.tmr.without(all).union(levels.legal());
    }

    /// Takes an interrupt that is for this APIC. INIT and start-up are the machine's business, not the APIC's; nothing
    /// raises SMI, and there is no 8259A to ask for an ExtINT vector.
    fn take(&mut self, message: &InterruptMessage) {
        match message.mode {
            DeliveryMode::Fixed | DeliveryMode::LowestPriority => {
                self.request(message.vector, message.level);
            }
            DeliveryMode::Nmi => self.nmi = true,
            _ => {}
        }
    }

    /// Sends what the ICR now says; the APIC's own copy is taken at once.
    pub(super) fn send(&mut self) -> Effect {
        let icr = self.icr;
        let mode = icr.delivery_mode();
        let level = icr.0 & Icr::LEVEL != 0;
        let is_deassert = mode == DeliveryMode::Init && level && icr.0 & Icr::ASSERT == 0;
        let has_vector = matches!(mode, DeliveryMode::Fixed | DeliveryMode::LowestPriority);
        if has_vector && icr.vector() < 16 {
            self.report(Esr::SEND_ILLEGAL_VECTOR);
            return Effect::None;
        }
        if is_deassert {
            return Effect::None;
        }
        let destination = match self.mode() {
            Mode::X2apic => icr.x2apic_destination(),
            _ => icr.xapic_destination().into(),
        };
        let logical = icr.is_logical();
        // IPIs are edge-triggered, whatever the level bit says (SDM vol. 3, 11.6.1).
        let message =
            InterruptMessage { destination, logical, mode, vector: icr.vector(), level: false };
        match icr.shorthand() {
            Shorthand::ToSelf => {
                if has_vector {
                    self.take(&message);
                }
                Effect::None
            }
            Shorthand::AllIncludingSelf => {
                self.take(&message);
                Effect::Send { message, broadcast: true }
            }
            Shorthand::AllExcludingSelf => Effect::Send { message, broadcast: true },
            Shorthand::None => {
                let only_self = !logical && destination == self.id;
                // Who has the lowest priority is found among all of them.
                let finds_taker = mode == DeliveryMode::LowestPriority && !only_self;
                if !finds_taker && self.accept(message) && only_self {
                    return Effect::None;
                }
                Effect::Send { message, broadcast: false }
            }
        }
    }
}
