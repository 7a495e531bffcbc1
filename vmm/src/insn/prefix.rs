//! Legacy prefixes and REX (SDM vol. 2, 2.1.1 and 2.2.1).

use hw::Width;

use super::{Cursor, DecodeError, Mode};

/// A segment register by the number that encodings give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum SegmentRegister {
    Es,
    Cs,
    Ss,
    Ds,
    Fs,
    Gs,
}

/// F2 or F3, whichever came last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// F2.
    WhileNotEqual,
    /// F3: REP, REPE.
    WhileEqual,
}

/// What stands before an opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// The mode that the instruction is decoded for.
    pub mode: Mode,
    /// 66.
    pub operand_size: bool,
    /// 67.
    pub address_size: bool,
    /// F0.
    pub lock: bool,
    /// F2 or F3.
    pub repeat: Option<Repeat>,
    /// A segment override that counts in this mode.
    pub segment: Option<SegmentRegister>,
    /// The REX prefix, where one stands right before the opcode.
    pub rex: Option<u8>,
}

impl Prefixes {
    pub(super) fn parse(cursor: &mut Cursor<'_>, mode: Mode) -> Result<Self, DecodeError> {
        let mut prefixes = Self {
            mode,
            operand_size: false,
            address_size: false,
            lock: false,
            repeat: None,
            segment: None,
            rex: None,
        };
        while let Some(byte) = cursor.peek() {
            if mode == Mode::Bits64 && byte & 0xf0 == 0x40 {
                prefixes.rex = Some(byte);
            } else if prefixes.legacy(byte) {
                // A REX that anything but the opcode follows is ignored (SDM vol. 2, 2.2.1).
                prefixes.rex = None;
            } else {
                break;
            }
            cursor.byte()?;
        }
        Ok(prefixes)
    }

    /// Takes `byte` in if it is a legacy prefix.
    fn legacy(&mut self, byte: u8) -> bool {
        let flat = self.mode == Mode::Bits64;
        match byte {
            0x66 => self.operand_size = true,
            0x67 => self.address_size = true,
            0xf0 => self.lock = true,
            0xf2 => self.repeat = Some(Repeat::WhileNotEqual),
            0xf3 => self.repeat = Some(Repeat::WhileEqual),
            0x64 => self.segment = Some(SegmentRegister::Fs),
            0x65 => self.segment = Some(SegmentRegister::Gs),
            // In 64-bit mode the other four are accepted and mean nothing (SDM vol. 2, 2.1.1).
            0x26 | 0x2e | 0x36 | 0x3e if flat => {}
            0x26 => self.segment = Some(SegmentRegister::Es),
            0x2e => self.segment = Some(SegmentRegister::Cs),
            0x36 => self.segment = Some(SegmentRegister::Ss),
            0x3e => self.segment = Some(SegmentRegister::Ds),
            _ => return false,
        }
        true
    }

    const fn rex_bit(&self, bit: u8) -> bool {
        matches!(self.rex, Some(rex) if rex & (1 << bit) != 0)
    }

    pub(super) const fn rex_w(&self) -> bool {
        self.rex_bit(3)
    }

    /// REX.R, as bit 3 of a register number.
    pub(super) const fn rex_r(&self) -> u8 {
        (self.rex_bit(2) as u8) << 3
    }

    /// REX.X, likewise.
    pub(super) const fn rex_x(&self) -> u8 {
        (self.rex_bit(1) as u8) << 3
    }

    /// REX.B, likewise.
    pub(super) const fn rex_b(&self) -> u8 {
        (self.rex_bit(0) as u8) << 3
    }

    /// The operand size of an instruction that is not of bytes (SDM vol. 1, 3.6.1).
    #[must_use]
    pub const fn operand_width(&self) -> Width {
        if self.rex_w() {
            return Width::W8;
        }
        match (self.mode, self.operand_size) {
            (Mode::Bits16, false) | (Mode::Bits32 | Mode::Bits64, true) => Width::W2,
            (Mode::Bits16, true) | (Mode::Bits32 | Mode::Bits64, false) => Width::W4,
        }
    }

    /// The address size (SDM vol. 1, 3.6.1).
    #[must_use]
    pub const fn address_width(&self) -> Width {
        match (self.mode, self.address_size) {
            (Mode::Bits64, false) => Width::W8,
            (Mode::Bits64 | Mode::Bits16, true) | (Mode::Bits32, false) => Width::W4,
            (Mode::Bits32, true) | (Mode::Bits16, false) => Width::W2,
        }
    }
}
