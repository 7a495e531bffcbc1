//! Machine-check banks (SDM vol. 3, chapter 16; APM vol. 2, chapter 9).

use core::fmt;

use bitflags::bitflags;
use hw::Msr;

/// Registers of a bank, from 0x400: control, status, address, miscellaneous.
const FIRST: u32 = 0x400;
/// IA32_MCG_CAP bits 7:0: the number of banks.
pub const CAP_BANKS: u64 = 0xff;
/// IA32_MCG_CAP: there is IA32_MCG_CTL.
pub const CAP_CONTROL: u64 = 1 << 8;

/// Register `n` of a bank: 0 control, 1 status, 2 address, 3 miscellaneous.
#[must_use]
const fn register(bank: u8, n: u32) -> Msr {
    Msr(FIRST + 4 * bank as u32 + n)
}

/// IA32_MCi_CTL: which errors are told of.
#[must_use]
pub const fn control(bank: u8) -> Msr {
    register(bank, 0)
}

/// IA32_MCi_STATUS.
#[must_use]
pub const fn status(bank: u8) -> Msr {
    register(bank, 1)
}

/// IA32_MCi_ADDR.
#[must_use]
pub const fn address(bank: u8) -> Msr {
    register(bank, 2)
}

/// IA32_MCi_MISC.
#[must_use]
pub const fn misc(bank: u8) -> Msr {
    register(bank, 3)
}

bitflags! {
    /// IA32_MCi_STATUS (SDM vol. 3, 16.3.2.2). Bits 15:0 are the error's code, 31:16 the model's own.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status: u64 {
        /// Action required: the instruction cannot go on.
        const AR = 1 << 55;
        /// It was signalled.
        const S = 1 << 56;
        /// The CPU's state may be corrupt.
        const PCC = 1 << 57;
        /// The address register holds one.
        const ADDRV = 1 << 58;
        /// The miscellaneous register holds something.
        const MISCV = 1 << 59;
        /// Telling of it was enabled.
        const EN = 1 << 60;
        /// It was not corrected.
        const UC = 1 << 61;
        /// Another came before it was read.
        const OVER = 1 << 62;
        /// There is an error.
        const VAL = 1 << 63;
        /// The codes.
        const _ = !0;
    }
}

/// What a bank holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank {
    /// Its number.
    pub number: u8,
    /// Its status.
    pub status: Status,
    /// Its address, where the status says so.
    pub address: Option<u64>,
    /// Its miscellaneous register, where the status says so.
    pub misc: Option<u64>,
}

impl Bank {
    /// Reads a bank by `read`; `None` where it holds no error.
    pub fn read(number: u8, read: impl Fn(Msr) -> Option<u64>) -> Option<Self> {
        let found = Status::from_bits_retain(read(status(number))?);
        let has = |flag, register| if found.contains(flag) { read(register) } else { None };
        found.contains(Status::VAL).then(|| Self {
            number,
            status: found,
            address: has(Status::ADDRV, address(number)),
            misc: has(Status::MISCV, misc(number)),
        })
    }
}

/// What kind of error a code stands for (SDM vol. 3, 16.9).
#[must_use]
pub const fn kind(code: u16) -> &'static str {
    // Bit 12 says how corrected errors are counted.
    match code & 0xefff {
        0 => "no error",
        1 => "unclassified error",
        2 => "microcode ROM parity error",
        3 => "error told by another agent",
        4 => "redundancy check error",
        5 => "internal parity error",
        6 => "SMM handler code access violation",
        0x400 => "internal timer error",
        0xe0b => "I/O error",
        0x401..=0x7ff => "internal error",
        0xc..=0xf => "cache hierarchy error",
        0x10..=0x1f => "TLB error",
        0x80..=0xff => "memory controller error",
        0x100..=0x1ff => "cache error",
        0x280..=0x2ff => "extended memory error",
        0x800..=0xfff => "bus or interconnect error",
        _ => "unknown error",
    }
}

impl fmt::Display for Bank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let raw = self.status.bits();
        let corrected = if self.status.contains(Status::UC) { "uncorrected" } else { "corrected" };
        write!(f, "bank {}: {corrected} {}", self.number, kind(raw as u16))?;
        for (flag, words) in [
            (Status::PCC, ", the CPU's state may be corrupt"),
            (Status::AR, ", action required"),
            (Status::OVER, ", others were lost"),
        ] {
            if self.status.contains(flag) {
                f.write_str(words)?;
            }
        }
        write!(f, "; status {raw:#018x}")?;
        for (name, value) in [("address", self.address), ("misc", self.misc)] {
            if let Some(value) = value {
                write!(f, " {name} {value:#x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn a_bank_without_a_valid_error_is_none() {
        assert_eq!(Bank::read(0, |_| Some(!0 >> 1)), None);
        assert_eq!(Bank::read(0, |_| None), None);
    }

    #[test]
    fn registers_that_hold_nothing_are_not_read() {
        let read = |msr: Msr| match msr.0 {
            0x411 => Some(1 << 63 | 1 << 58 | 1 << 61 | 0x9f),
            0x412 => Some(0x1234_5000),
            other => panic!("{other:#x} was read"),
        };
        let bank = Bank::read(4, read).unwrap();
        assert_eq!((bank.address, bank.misc), (Some(0x1234_5000), None));
        assert_eq!(
            bank.to_string(),
            "bank 4: uncorrected memory controller error; status 0xa40000000000009f address 0x12345000"
        );
    }

    #[test]
    fn compound_codes_are_told_apart_by_their_highest_bits() {
        for (code, told) in [
            (0x0005, "internal parity error"),
            (0x0010, "TLB error"),
            (0x0150, "cache error"),
            (0x1150, "cache error"),
            (0x0400, "internal timer error"),
            (0x0e0b, "I/O error"),
            (0x0800, "bus or interconnect error"),
        ] {
            assert_eq!(kind(code), told, "{code:#x}");
        }
    }
}
