//! The instructions with an operand in memory that drivers use on device registers.
//!
//! [`decode`] says what one wants; carrying it out at the guest physical address that faulted is `crate::mmio`'s.

use hw::Width;

use super::alu::{Binary, Bit, Unary};
use super::operand::ModRm;
use super::{Cursor, DecodeError, MemoryOperand, Mode, Prefixes, Register, SegmentRegister};

/// A decoded access to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its length.
    pub len: u8,
    /// What it does.
    pub operation: Operation,
    /// Bytes of the operand in memory; of a line, of each of its parts.
    pub width: Width,
    /// Where that operand is.
    pub place: Place,
}

/// Where the operand in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a ModRM operand or a `moffs`.
    Operand(MemoryOperand),
    /// A string instruction's: `source` at `segment:[RSI]`, the destination at `ES:[RDI]`.
    String {
        /// The segment of the source.
        segment: SegmentRegister,
        /// Where RSI, RDI and RCX wrap.
        address_width: Width,
        /// RCX counts.
        rep: bool,
    },
    /// MOVDIR64B's: the destination at `ES:[destination]`.
    Line {
        /// The source.
        source: MemoryOperand,
        /// The offset of the destination.
        destination: Register,
    },
}

/// What is combined with the operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A register.
    Register(Register),
    /// A number, sign-extended.
    Immediate(u64),
}

/// What an instruction does with its operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// MOV, MOVZX: into the register, zero-extended to its width.
    Load(Register),
    /// MOVSX, MOVSXD: into the register, sign-extended to its width.
    LoadSigned(Register),
    /// MOV, MOVNTI, MOVDIRI.
    Store(Source),
    /// XCHG.
    Exchange(Register),
    /// The operand in memory is the destination, if there is one: `m OP= source`.
    IntoMemory(Binary, Source),
    /// The register is the destination, if there is one: `r OP= m`.
    IntoRegister(Binary, Register),
    /// NOT, NEG, INC, DEC.
    Unary(Unary),
    /// BT, BTS, BTR, BTC.
    Bit(Bit, Source),
    /// CMPXCHG with the register as the new value.
    CompareExchange(Register),
    /// XADD.
    ExchangeAdd(Register),
    /// MOVS.
    MoveString,
    /// STOS.
    StoreString,
    /// LODS.
    LoadString,
    /// MOVDIR64B.
    MoveLine,
}

impl Operation {
    /// Whether the operand in memory is written (CMPXCHG always writes; SDM vol. 2, CMPXCHG).
    #[must_use]
    pub const fn writes(self) -> bool {
        match self {
            Self::Load(_) | Self::LoadSigned(_) | Self::IntoRegister(..) | Self::LoadString => {
                false
            }
            Self::IntoMemory(op, _) => op.writes(),
            Self::Bit(op, _) => !matches!(op, Bit::Test),
            Self::Store(_)
            | Self::Exchange(_)
            | Self::Unary(_)
            | Self::CompareExchange(_)
            | Self::ExchangeAdd(_)
            | Self::MoveString
            | Self::StoreString
            | Self::MoveLine => true,
        }
    }

    /// Whether LOCK may stand before it (SDM vol. 2, LOCK).
    const fn lockable(self) -> bool {
        match self {
            Self::IntoMemory(op, _) => op.writes(),
            Self::Bit(op, _) => !matches!(op, Bit::Test),
            Self::Exchange(_)
            | Self::Unary(_)
            | Self::CompareExchange(_)
            | Self::ExchangeAdd(_) => true,
            _ => false,
        }
    }
}

/// Decodes an instruction that accessed memory.
///
/// # Errors
/// [`DecodeError::Mismatch`] where the bytes have no operand in memory or are none of the known ones.
pub fn decode(bytes: &[u8], mode: Mode) -> Result<Instruction, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let prefixes = Prefixes::parse(&mut cursor, mode)?;
    let opcode = cursor.byte()?;
    let mut decoder = Decoder { cursor, prefixes };
    let (operation, width, place) = match opcode {
        0x0f => decoder.two_byte()?,
        0xa0..=0xa3 => decoder.moffs(opcode)?,
        0xa4 | 0xa5 | 0xaa..=0xad => decoder.string(opcode)?,
        _ => decoder.one_byte(opcode)?,
    };
    if prefixes.lock && !operation.lockable() {
        return Err(DecodeError::Mismatch);
    }
    Ok(Instruction { len: decoder.cursor.at, operation, width, place })
}

type Parts = (Operation, Width, Place);

struct Decoder<'a> {
    cursor: Cursor<'a>,
    prefixes: Prefixes,
}

impl Decoder<'_> {
    /// The operand size of an opcode whose bit 0 tells bytes from the rest.
    const fn width(&self, opcode: u8) -> Width {
        if opcode & 1 == 0 { Width::W1 } else { self.prefixes.operand_width() }
    }

    fn modrm(&mut self) -> Result<(ModRm, Place), DecodeError> {
        let modrm = ModRm::parse(&mut self.cursor, &self.prefixes)?;
        let place = modrm.memory.map(Place::Operand).ok_or(DecodeError::Mismatch)?;
        Ok((modrm, place))
    }

    const fn register(&self, modrm: &ModRm, width: Width) -> Register {
        Register::new(modrm.reg, width, &self.prefixes)
    }

    fn immediate(&mut self, width: Width) -> Result<Source, DecodeError> {
        self.cursor.immediate(width).map(Source::Immediate)
    }

    fn one_byte(&mut self, opcode: u8) -> Result<Parts, DecodeError> {
        let width = self.width(opcode);
        if opcode == 0x82 && self.prefixes.mode == Mode::Bits64 {
            return Err(DecodeError::Mismatch);
        }
        if opcode == 0x63 {
            return self.move_signed_doubleword();
        }
        let (modrm, place) = match opcode {
            0x00..=0x3f if opcode & 7 < 4 => self.modrm()?,
            0x80..=0x8b | 0xc6 | 0xc7 | 0xf6 | 0xf7 | 0xfe | 0xff => self.modrm()?,
            _ => return Err(DecodeError::Mismatch),
        };
        let register = self.register(&modrm, width);
        let operation = match (opcode, modrm.extension()) {
            (0x00..=0x3f, _) => {
                let op = Binary::from_low_bits(opcode >> 3);
                if opcode & 2 == 0 {
                    Operation::IntoMemory(op, Source::Register(register))
                } else {
                    Operation::IntoRegister(op, register)
                }
            }
            (0x80..=0x83, extension) => {
                let from = if opcode == 0x81 { width } else { Width::W1 };
                Operation::IntoMemory(Binary::from_low_bits(extension), self.immediate(from)?)
            }
            (0x84 | 0x85, _) => Operation::IntoMemory(Binary::Test, Source::Register(register)),
            (0x86 | 0x87, _) => Operation::Exchange(register),
            (0x88 | 0x89, _) => Operation::Store(Source::Register(register)),
            (0x8a | 0x8b, _) => Operation::Load(register),
            (0xc6 | 0xc7, 0) => Operation::Store(self.immediate(width)?),
            (0xf6 | 0xf7, 0 | 1) => Operation::IntoMemory(Binary::Test, self.immediate(width)?),
            (0xf6 | 0xf7, 2) => Operation::Unary(Unary::Not),
            (0xf6 | 0xf7, 3) => Operation::Unary(Unary::Neg),
            (0xfe | 0xff, 0) => Operation::Unary(Unary::Inc),
            (0xfe | 0xff, 1) => Operation::Unary(Unary::Dec),
            _ => return Err(DecodeError::Mismatch),
        };
        Ok((operation, width, place))
    }

    /// MOVSXD, in 64-bit mode only (elsewhere the opcode is ARPL).
    fn move_signed_doubleword(&mut self) -> Result<Parts, DecodeError> {
        if self.prefixes.mode != Mode::Bits64 {
            return Err(DecodeError::Mismatch);
        }
        let (modrm, place) = self.modrm()?;
        let to = self.prefixes.operand_width();
        Ok((Operation::LoadSigned(self.register(&modrm, to)), to.min(Width::W4), place))
    }

    fn two_byte(&mut self) -> Result<Parts, DecodeError> {
        let opcode = self.cursor.byte()?;
        if opcode == 0x38 {
            return self.direct_store();
        }
        let known = match opcode {
            0xa3 | 0xab | 0xb3 | 0xbb | 0xba | 0xb0 | 0xb1 | 0xc0 | 0xc1 => true,
            0xb6 | 0xb7 | 0xbe | 0xbf => true,
            // With a mandatory prefix this is no instruction.
            0xc3 => !self.prefixes.operand_size && self.prefixes.repeat.is_none(),
            _ => false,
        };
        if !known {
            return Err(DecodeError::Mismatch);
        }
        let (modrm, place) = self.modrm()?;
        let whole = self.prefixes.operand_width();
        let register = self.register(&modrm, whole);
        let (operation, width) = match (opcode, modrm.extension()) {
            (0xa3, _) => (Operation::Bit(Bit::Test, Source::Register(register)), whole),
            (0xab, _) => (Operation::Bit(Bit::Set, Source::Register(register)), whole),
            (0xb3, _) => (Operation::Bit(Bit::Reset, Source::Register(register)), whole),
            (0xbb, _) => (Operation::Bit(Bit::Complement, Source::Register(register)), whole),
            (0xba, extension) => {
                let op = match extension {
                    4 => Bit::Test,
                    5 => Bit::Set,
                    6 => Bit::Reset,
                    7 => Bit::Complement,
                    _ => return Err(DecodeError::Mismatch),
                };
                (Operation::Bit(op, self.immediate(Width::W1)?), whole)
            }
            (0xb0 | 0xb1, _) => {
                let width = self.width(opcode);
                (Operation::CompareExchange(self.register(&modrm, width)), width)
            }
            (0xc0 | 0xc1, _) => {
                let width = self.width(opcode);
                (Operation::ExchangeAdd(self.register(&modrm, width)), width)
            }
            (0xc3, _) => {
                let width = if self.prefixes.rex_w() { Width::W8 } else { Width::W4 };
                (Operation::Store(Source::Register(self.register(&modrm, width))), width)
            }
            (0xb6, _) => (Operation::Load(register), Width::W1),
            (0xb7, _) => (Operation::Load(register), Width::W2),
            (0xbe, _) => (Operation::LoadSigned(register), Width::W1),
            _ => (Operation::LoadSigned(register), Width::W2),
        };
        Ok((operation, width, place))
    }

    /// MOVDIRI and MOVDIR64B: other mandatory prefixes make other instructions of them.
    fn direct_store(&mut self) -> Result<Parts, DecodeError> {
        let opcode = self.cursor.byte()?;
        let is_line = opcode == 0xf8;
        if !matches!(opcode, 0xf8 | 0xf9)
            || self.prefixes.operand_size != is_line
            || self.prefixes.repeat.is_some()
        {
            return Err(DecodeError::Mismatch);
        }
        let modrm = ModRm::parse(&mut self.cursor, &self.prefixes)?;
        let source = modrm.memory.ok_or(DecodeError::Mismatch)?;
        if is_line {
            let destination = self.register(&modrm, self.prefixes.address_width());
            return Ok((Operation::MoveLine, Width::W8, Place::Line { source, destination }));
        }
        let width = if self.prefixes.rex_w() { Width::W8 } else { Width::W4 };
        let value = Source::Register(self.register(&modrm, width));
        Ok((Operation::Store(value), width, Place::Operand(source)))
    }

    /// MOV between the accumulator and an address in the instruction, as wide as the address size.
    fn moffs(&mut self, opcode: u8) -> Result<Parts, DecodeError> {
        let address_width = self.prefixes.address_width();
        let displacement = self.cursor.unsigned(address_width)?;
        let width = self.width(opcode);
        let accumulator = Register::accumulator(width);
        let operation = if opcode & 2 == 0 {
            Operation::Load(accumulator)
        } else {
            Operation::Store(Source::Register(accumulator))
        };
        let operand = MemoryOperand {
            segment: self.prefixes.segment.unwrap_or(SegmentRegister::Ds),
            base: None,
            index: None,
            displacement,
            rip_relative: false,
            address_width,
        };
        Ok((operation, width, Place::Operand(operand)))
    }

    fn string(&mut self, opcode: u8) -> Result<Parts, DecodeError> {
        let operation = match opcode {
            0xa4 | 0xa5 => Operation::MoveString,
            0xaa | 0xab => Operation::StoreString,
            _ => Operation::LoadString,
        };
        let place = Place::String {
            segment: self.prefixes.segment.unwrap_or(SegmentRegister::Ds),
            address_width: self.prefixes.address_width(),
            rep: self.prefixes.repeat.is_some(),
        };
        Ok((operation, self.width(opcode), place))
    }
}
