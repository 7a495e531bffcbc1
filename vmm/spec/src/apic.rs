//! Interrupt controllers as bits: the local APIC's registers (SDM vol. 3, chapter 11 "APIC"; APM vol. 2, chapter 16), the
//! I/O APIC's (82093AA datasheet, 3), and message-signalled interrupts (SDM vol. 3, 11.11).
//!
//! One numbering serves both modes: a register of the xAPIC page at offset `o` is MSR `0x800 + o / 16` in x2APIC mode
//! ([`x2apic_msr`]).

use bitflags::bitflags;
use hw::Msr;

/// Physical address of the local APIC's page after reset.
pub const DEFAULT_LAPIC_BASE: u64 = 0xfee0_0000;
/// Physical address of the first I/O APIC by convention; the MADT says where it really is.
pub const DEFAULT_IOAPIC_BASE: u64 = 0xfec0_0000;
/// Bytes of the local APIC's page.
pub const LAPIC_BYTES: u64 = 0x1000;
/// Bytes that an I/O APIC decodes.
pub const IOAPIC_BYTES: u64 = 0x1000;

/// Offsets of the local APIC's registers in its page (SDM vol. 3, table 11-1).
pub mod lapic {
    /// APIC ID: bits 31:24 in xAPIC mode, all 32 in x2APIC mode.
    pub const ID: u16 = 0x20;
    /// Version.
    pub const VERSION: u16 = 0x30;
    /// Task priority.
    pub const TPR: u16 = 0x80;
    /// Arbitration priority; absent from current CPUs and from x2APIC mode.
    pub const APR: u16 = 0x90;
    /// Processor priority, read-only.
    pub const PPR: u16 = 0xa0;
    /// End of interrupt, write-only.
    pub const EOI: u16 = 0xb0;
    /// Remote read; absent from x2APIC mode.
    pub const RRD: u16 = 0xc0;
    /// Logical destination; read-only in x2APIC mode.
    pub const LDR: u16 = 0xd0;
    /// Destination format; absent from x2APIC mode.
    pub const DFR: u16 = 0xe0;
    /// Spurious-interrupt vector.
    pub const SVR: u16 = 0xf0;
    /// First of eight in-service registers.
    pub const ISR: u16 = 0x100;
    /// First of eight trigger-mode registers.
    pub const TMR: u16 = 0x180;
    /// First of eight interrupt-request registers.
    pub const IRR: u16 = 0x200;
    /// Error status: a write latches, a read shows what was latched.
    pub const ESR: u16 = 0x280;
    /// LVT of corrected machine checks.
    pub const LVT_CMCI: u16 = 0x2f0;
    /// Interrupt command, low half; in x2APIC mode all 64 bits.
    pub const ICR_LOW: u16 = 0x300;
    /// Interrupt command, high half: the destination. Absent from x2APIC mode.
    pub const ICR_HIGH: u16 = 0x310;
    /// LVT of the timer.
    pub const LVT_TIMER: u16 = 0x320;
    /// LVT of the thermal sensor.
    pub const LVT_THERMAL: u16 = 0x330;
    /// LVT of the performance counters.
    pub const LVT_PMC: u16 = 0x340;
    /// LVT of the pin LINT0.
    pub const LVT_LINT0: u16 = 0x350;
    /// LVT of the pin LINT1.
    pub const LVT_LINT1: u16 = 0x360;
    /// LVT of the APIC's own errors.
    pub const LVT_ERROR: u16 = 0x370;
    /// Timer: initial count.
    pub const TIMER_INITIAL: u16 = 0x380;
    /// Timer: current count, read-only.
    pub const TIMER_CURRENT: u16 = 0x390;
    /// Timer: divide configuration.
    pub const TIMER_DIVIDE: u16 = 0x3e0;
    /// Self-IPI; only in x2APIC mode.
    pub const SELF_IPI: u16 = 0x3f0;
}

/// The MSR of the register at `offset` of the page, in x2APIC mode (SDM vol. 3, 11.12.1.2).
#[must_use]
pub const fn x2apic_msr(offset: u16) -> Msr {
    Msr(0x800 + (offset >> 4) as u32)
}

/// The offset in the page of an x2APIC MSR; `None` outside 0x800 to 0x8ff.
#[must_use]
pub const fn x2apic_offset(msr: Msr) -> Option<u16> {
    match msr.0 {
        0x800..=0x8ff => Some(((msr.0 - 0x800) << 4) as u16),
        _ => None,
    }
}

bitflags! {
    /// IA32_APIC_BASE (SDM vol. 3, 11.4.4 and 11.12.1). Bits 12 and up, to the physical address width, are the base.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ApicBase: u64 {
        /// This CPU is the bootstrap processor.
        const BSP = 1 << 8;
        /// x2APIC mode; needs `EN`.
        const EXTD = 1 << 10;
        /// The APIC is on.
        const EN = 1 << 11;
        /// The rest: base and reserved bits.
        const _ = !0;
    }

    /// Error status register (SDM vol. 3, 11.5.3).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct Esr: u32 {
        /// A redirectible IPI where the model supports none.
        const REDIRECTIBLE_IPI = 1 << 4;
        /// An illegal vector was sent.
        const SEND_ILLEGAL_VECTOR = 1 << 5;
        /// An illegal vector was received, or stands in an LVT entry that fired.
        const RECEIVE_ILLEGAL_VECTOR = 1 << 6;
        /// A reserved register was accessed.
        const ILLEGAL_REGISTER = 1 << 7;
    }

    /// Spurious-interrupt vector register (SDM vol. 3, 11.9). Bits 7:0 are the vector.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Svr: u32 {
        /// The APIC is enabled by software.
        const APIC_ENABLED = 1 << 8;
        /// Focus-processor checking is off.
        const FOCUS_DISABLED = 1 << 9;
        /// No EOI broadcast to I/O APICs; only where the version register offers it.
        const SUPPRESS_EOI_BROADCAST = 1 << 12;
        /// The rest: the vector and reserved bits.
        const _ = !0;
    }
}

/// Bits of [`ApicBase`] that hold the physical base.
pub const APIC_BASE_ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How an interrupt is to be delivered (SDM vol. 3, 11.6.1): the same codes in ICR, LVT, redirection entries and MSI data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DeliveryMode {
    /// To the destination, by vector.
    Fixed = 0,
    /// To the destination that runs at the lowest priority.
    LowestPriority = 1,
    /// System-management interrupt.
    Smi = 2,
    /// Reserved (remote read, of old).
    Reserved = 3,
    /// Non-maskable interrupt.
    Nmi = 4,
    /// INIT.
    Init = 5,
    /// Start-up; only in the ICR.
    Startup = 6,
    /// As from an 8259A; not in the ICR.
    ExtInt = 7,
}

impl DeliveryMode {
    /// The mode of the low three bits of `bits`.
    #[must_use]
    pub const fn from_low_bits(bits: u32) -> Self {
        match bits & 7 {
            0 => Self::Fixed,
            1 => Self::LowestPriority,
            2 => Self::Smi,
            3 => Self::Reserved,
            4 => Self::Nmi,
            5 => Self::Init,
            6 => Self::Startup,
            _ => Self::ExtInt,
        }
    }
}

/// What the local timer does when its count or deadline is reached (SDM vol. 3, 11.5.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TimerMode {
    /// Counts down once.
    OneShot = 0,
    /// Counts down and starts again.
    Periodic = 1,
    /// Fires when the TSC reaches IA32_TSC_DEADLINE.
    TscDeadline = 2,
    /// Reserved.
    Reserved = 3,
}

/// An entry of the local vector table (SDM vol. 3, 11.5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Lvt(pub u32);

impl Lvt {
    /// Delivery status, read-only.
    pub const DELIVERY_STATUS: u32 = 1 << 12;
    /// Active low; LINT0 and LINT1 only.
    pub const ACTIVE_LOW: u32 = 1 << 13;
    /// Remote IRR, read-only; LINT0 and LINT1 only.
    pub const REMOTE_IRR: u32 = 1 << 14;
    /// Level-triggered; LINT0 and LINT1 only.
    pub const LEVEL: u32 = 1 << 15;
    /// Masked.
    pub const MASKED: u32 = 1 << 16;
    /// Shift of the timer mode's two bits; the timer only.
    pub const TIMER_MODE_SHIFT: u32 = 17;

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The delivery mode.
    #[must_use]
    pub const fn delivery_mode(self) -> DeliveryMode {
        DeliveryMode::from_low_bits(self.0 >> 8)
    }

    /// Whether the entry is masked.
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// The timer's mode.
    #[must_use]
    pub const fn timer_mode(self) -> TimerMode {
        match (self.0 >> Self::TIMER_MODE_SHIFT) & 3 {
            0 => TimerMode::OneShot,
            1 => TimerMode::Periodic,
            2 => TimerMode::TscDeadline,
            _ => TimerMode::Reserved,
        }
    }

    /// An unmasked timer entry.
    #[must_use]
    pub const fn timer(vector: u8, mode: TimerMode) -> Self {
        Self(vector as u32 | (mode as u32) << Self::TIMER_MODE_SHIFT)
    }
}

/// A short form of an IPI's destination (SDM vol. 3, 11.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum Shorthand {
    None = 0,
    ToSelf = 1,
    AllIncludingSelf = 2,
    AllExcludingSelf = 3,
}

/// The interrupt command register (SDM vol. 3, 11.6.1 and 11.12.9): low half the command, high half the destination, in
/// bits 63:56 in xAPIC mode and in 63:32 in x2APIC mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Icr(pub u64);

impl Icr {
    /// The destination is logical.
    pub const LOGICAL: u64 = 1 << 11;
    /// Delivery status: still being sent. Read-only; absent in x2APIC mode.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    /// Assert, as opposed to de-assert.
    pub const ASSERT: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Bits of the low half that software can write.
    pub const WRITABLE_LOW: u32 = 0x000c_cfff;

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The delivery mode.
    #[must_use]
    pub const fn delivery_mode(self) -> DeliveryMode {
        DeliveryMode::from_low_bits((self.0 >> 8) as u32)
    }

    /// Whether the destination is logical.
    #[must_use]
    pub const fn is_logical(self) -> bool {
        self.0 & Self::LOGICAL != 0
    }

    /// The shorthand of the destination.
    #[must_use]
    pub const fn shorthand(self) -> Shorthand {
        match (self.0 >> 18) & 3 {
            0 => Shorthand::None,
            1 => Shorthand::ToSelf,
            2 => Shorthand::AllIncludingSelf,
            _ => Shorthand::AllExcludingSelf,
        }
    }

    /// The destination in x2APIC mode.
    #[must_use]
    pub const fn x2apic_destination(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The destination in xAPIC mode.
    #[must_use]
    pub const fn xapic_destination(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// A command to one physical destination, in x2APIC layout.
    #[must_use]
    pub const fn x2apic(destination: u32, mode: DeliveryMode, vector: u8) -> Self {
        Self((destination as u64) << 32 | Self::ASSERT | (mode as u64) << 8 | vector as u64)
    }

    /// A command to one physical destination, in xAPIC layout: write the high half first.
    #[must_use]
    pub const fn xapic(destination: u8, mode: DeliveryMode, vector: u8) -> Self {
        Self((destination as u64) << 56 | Self::ASSERT | (mode as u64) << 8 | vector as u64)
    }
}

/// The divisor that the divide configuration register's bits 3, 1 and 0 select (SDM vol. 3, figure 11-10).
#[must_use]
pub const fn timer_divisor(divide_configuration: u32) -> u32 {
    let code = (divide_configuration & 3) | (divide_configuration >> 1 & 4);
    1 << ((code + 1) & 7)
}

/// The I/O APIC (82093AA datasheet, 3.1 and 3.2).
pub mod ioapic {
    /// Offset of the index register.
    pub const IOREGSEL: u64 = 0x00;
    /// Offset of the data window.
    pub const IOWIN: u64 = 0x10;
    /// Offset of the EOI register, from version 0x20 on.
    pub const EOI: u64 = 0x40;

    /// Index: ID in bits 27:24.
    pub const ID: u8 = 0;
    /// Index: version in bits 7:0, highest redirection entry in 23:16.
    pub const VERSION: u8 = 1;
    /// Index: arbitration ID in bits 27:24.
    pub const ARBITRATION: u8 = 2;
    /// Index of the low half of redirection entry 0; entry `n` is at `REDIRECTION + 2 n`.
    pub const REDIRECTION: u8 = 0x10;
}

/// An entry of the I/O APIC's redirection table (82093AA datasheet, 3.2.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct RedirectionEntry(pub u64);

impl RedirectionEntry {
    /// The destination is logical.
    pub const LOGICAL: u64 = 1 << 11;
    /// Delivery status, read-only.
    pub const DELIVERY_STATUS: u64 = 1 << 12;
    /// Active low.
    pub const ACTIVE_LOW: u64 = 1 << 13;
    /// Remote IRR, read-only: a level-triggered interrupt was accepted and not yet ended.
    pub const REMOTE_IRR: u64 = 1 << 14;
    /// Level-triggered.
    pub const LEVEL: u64 = 1 << 15;
    /// Masked.
    pub const MASKED: u64 = 1 << 16;
    /// Bits that software can write.
    pub const WRITABLE: u64 = 0xff00_0000_0001_afff;

    /// The entry as after reset: masked.
    #[must_use]
    pub const fn reset() -> Self {
        Self(Self::MASKED)
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// The delivery mode.
    #[must_use]
    pub const fn delivery_mode(self) -> DeliveryMode {
        DeliveryMode::from_low_bits((self.0 >> 8) as u32)
    }

    /// Whether the destination is logical.
    #[must_use]
    pub const fn is_logical(self) -> bool {
        self.0 & Self::LOGICAL != 0
    }

    /// Whether the pin is level-triggered.
    #[must_use]
    pub const fn is_level(self) -> bool {
        self.0 & Self::LEVEL != 0
    }

    /// Whether the entry is masked.
    #[must_use]
    pub const fn is_masked(self) -> bool {
        self.0 & Self::MASKED != 0
    }

    /// Whether a level-triggered interrupt was accepted and not yet ended.
    #[must_use]
    pub const fn remote_irr(self) -> bool {
        self.0 & Self::REMOTE_IRR != 0
    }

    /// The destination.
    #[must_use]
    pub const fn destination(self) -> u8 {
        (self.0 >> 56) as u8
    }
}

/// A message-signalled interrupt in compatibility format (SDM vol. 3, 11.11): a 32-bit write of `data` to `address`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsiMessage {
    /// `0xfee` in bits 31:20, destination in 19:12, redirection hint 3, logical 2.
    pub address: u64,
    /// Vector 7:0, delivery mode 10:8, assert 14, level 15.
    pub data: u32,
}

impl MsiMessage {
    /// What an MSI address has in bits 31:20.
    pub const ADDRESS_BASE: u64 = 0xfee0_0000;
    /// The redirection hint: the destination that runs at the lowest priority.
    pub const REDIRECTION_HINT: u64 = 1 << 3;
    /// The destination is logical.
    pub const LOGICAL: u64 = 1 << 2;
    /// Level-triggered.
    pub const LEVEL: u32 = 1 << 15;
    /// Assert, as opposed to de-assert; level-triggered messages only.
    pub const ASSERT: u32 = 1 << 14;

    /// An edge-triggered message to one physical destination.
    #[must_use]
    pub const fn fixed(destination: u8, vector: u8) -> Self {
        Self { address: Self::ADDRESS_BASE | (destination as u64) << 12, data: vector as u32 }
    }

    /// Whether the address is one that interrupts are sent to.
    #[must_use]
    pub const fn is_interrupt_address(address: u64) -> bool {
        address >> 20 == Self::ADDRESS_BASE >> 20
    }

    /// The destination.
    #[must_use]
    pub const fn destination(self) -> u8 {
        (self.address >> 12) as u8
    }

    /// Whether the destination is logical.
    #[must_use]
    pub const fn is_logical(self) -> bool {
        self.address & Self::LOGICAL != 0
    }

    /// The vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.data as u8
    }

    /// The delivery mode.
    #[must_use]
    pub const fn delivery_mode(self) -> DeliveryMode {
        DeliveryMode::from_low_bits(self.data >> 8)
    }

    /// Whether the message is level-triggered.
    #[must_use]
    pub const fn is_level(self) -> bool {
        self.data & Self::LEVEL != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn divide_configuration_selects_the_divisor_of_the_figure() {
        let divisors = [0b0000, 0b0001, 0b0010, 0b0011, 0b1000, 0b1001, 0b1010, 0b1011];
        assert_eq!(divisors.map(timer_divisor), [2, 4, 8, 16, 32, 64, 128, 1]);
    }

    #[test]
    fn x2apic_msrs_and_offsets_are_inverse() {
        assert_eq!(x2apic_msr(lapic::EOI), Msr(0x80b));
        assert_eq!(x2apic_msr(lapic::SELF_IPI), Msr(0x83f));
        for number in 0x800..=0x8ff {
            let offset = x2apic_offset(Msr(number)).unwrap();
            assert_eq!(x2apic_msr(offset), Msr(number));
        }
        assert_eq!(x2apic_offset(Msr(0x7ff)), None);
        assert_eq!(x2apic_offset(Msr(0x900)), None);
    }

    #[test]
    fn commands_carry_destination_mode_and_vector() {
        let icr = Icr::x2apic(0x1234, DeliveryMode::Nmi, 7);
        assert_eq!(icr.x2apic_destination(), 0x1234);
        assert_eq!(icr.delivery_mode(), DeliveryMode::Nmi);
        assert_eq!((icr.vector(), icr.shorthand()), (7, Shorthand::None));
        assert_eq!(Icr::xapic(3, DeliveryMode::Fixed, 0x31).xapic_destination(), 3);
    }

    #[test]
    fn writable_bits_of_a_redirection_entry_exclude_the_status_bits() {
        let status = RedirectionEntry::DELIVERY_STATUS | RedirectionEntry::REMOTE_IRR;
        assert_eq!(RedirectionEntry::WRITABLE & status, 0);
        assert!(RedirectionEntry::reset().is_masked());
    }

    #[test]
    fn a_message_names_its_destination_and_vector() {
        let message = MsiMessage::fixed(5, 0x41);
        assert_eq!((message.address, message.data), (0xfee0_5000, 0x41));
        assert!(MsiMessage::is_interrupt_address(message.address));
        assert!(!MsiMessage::is_interrupt_address(0xfed0_0000));
    }
}
