//! Results and flags of the integer instructions (SDM vol. 2, each instruction; vol. 1, appendix A).

use hw::Width;
use x86_spec::cpu::Rflags;

/// A two-operand operation, numbered as the opcodes number them, and TEST.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Binary {
    Add,
    Or,
    Adc,
    Sbb,
    And,
    Sub,
    Xor,
    Cmp,
    Test,
}

impl Binary {
    /// The operation of three opcode bits: bits 5:3 of `00` to `3F`, the extension of `80` to `83`.
    pub(super) const fn from_low_bits(bits: u8) -> Self {
        match bits & 7 {
            0 => Self::Add,
            1 => Self::Or,
            2 => Self::Adc,
            3 => Self::Sbb,
            4 => Self::And,
            5 => Self::Sub,
            6 => Self::Xor,
            _ => Self::Cmp,
        }
    }

    /// Whether the result goes anywhere.
    #[must_use]
    pub const fn writes(self) -> bool {
        !matches!(self, Self::Cmp | Self::Test)
    }
}

/// A one-operand operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Unary {
    Not,
    Neg,
    Inc,
    Dec,
}

/// A bit operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Bit {
    Test,
    Set,
    Reset,
    Complement,
}

/// CF, PF, AF, ZF, SF and OF.
pub const ARITHMETIC: Rflags = Rflags::CF
    .union(Rflags::PF)
    .union(Rflags::AF)
    .union(Rflags::ZF)
    .union(Rflags::SF)
    .union(Rflags::OF);

/// `left OP right` at `width`, and RFLAGS after it. AF, which the logical operations leave undefined, is cleared there.
#[must_use]
pub fn binary(op: Binary, left: u64, right: u64, width: Width, rflags: u64) -> (u64, u64) {
    let carry = rflags & Rflags::CF.bits();
    match op {
        Binary::Add => add(left, right, 0, width, rflags),
        Binary::Adc => add(left, right, carry, width, rflags),
        Binary::Sub | Binary::Cmp => subtract(left, right, 0, width, rflags),
        Binary::Sbb => subtract(left, right, carry, width, rflags),
        Binary::And | Binary::Test => logic(left & right, width, rflags),
        Binary::Or => logic(left | right, width, rflags),
        Binary::Xor => logic(left ^ right, width, rflags),
    }
}

/// `OP value` at `width`, and RFLAGS after it. INC and DEC leave CF, NOT all of them.
#[must_use]
pub fn unary(op: Unary, value: u64, width: Width, rflags: u64) -> (u64, u64) {
    let carry = Rflags::CF.bits();
    let keeping_carry = |(result, flags): (u64, u64)| (result, (flags & !carry) | (rflags & carry));
    match op {
        Unary::Not => (!value & width.mask(), rflags),
        Unary::Neg => subtract(0, value, 0, width, rflags),
        Unary::Inc => keeping_carry(add(value, 1, 0, width, rflags)),
        Unary::Dec => keeping_carry(subtract(value, 1, 0, width, rflags)),
    }
}

/// The operation on bit `offset` (modulo the width) of `value`, and RFLAGS after it: CF is the bit as it was.
#[must_use]
pub fn bit(op: Bit, value: u64, offset: u64, width: Width, rflags: u64) -> (u64, u64) {
    let offset = offset % (8 * width.bytes());
    let bit = 1 << offset;
    let result = match op {
        Bit::Test => value,
        Bit::Set => value | bit,
        Bit::Reset => value & !bit,
        Bit::Complement => value ^ bit,
    };
    (result, (rflags & !Rflags::CF.bits()) | ((value >> offset) & 1))
}

fn add(left: u64, right: u64, carry: u64, width: Width, rflags: u64) -> (u64, u64) {
    let (left, right) = (left & width.mask(), right & width.mask());
    let result = left.wrapping_add(right).wrapping_add(carry) & width.mask();
    let carries = (left & right) | ((left | right) & !result);
    let overflow = (left ^ result) & (right ^ result);
    (result, with_carries(result, carries, left ^ right ^ result, overflow, width, rflags))
}

fn subtract(left: u64, right: u64, borrow: u64, width: Width, rflags: u64) -> (u64, u64) {
    let (left, right) = (left & width.mask(), right & width.mask());
    let result = left.wrapping_sub(right).wrapping_sub(borrow) & width.mask();
    let borrows = (!left & right) | ((!left | right) & result);
    let overflow = (left ^ right) & (left ^ result);
    (result, with_carries(result, borrows, left ^ right ^ result, overflow, width, rflags))
}

fn logic(result: u64, width: Width, rflags: u64) -> (u64, u64) {
    let result = result & width.mask();
    (result, with_carries(result, 0, 0, 0, width, rflags))
}

/// RFLAGS from the carries out of each bit, the sums' parity for AF, and the overflow into the sign.
fn with_carries(
    result: u64,
    carries: u64,
    auxiliary: u64,
    overflow: u64,
    width: Width,
    rflags: u64,
) -> u64 {
    let sign = 8 * width.bytes() - 1;
    let mut flags = Rflags::empty();
    flags.set(Rflags::CF, (carries >> sign) & 1 != 0);
    flags.set(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    flags.set(Rflags::AF, auxiliary & 0x10 != 0);
    flags.set(Rflags::ZF, result == 0);
    flags.set(Rflags::SF, (result >> sign) & 1 != 0);
    flags.set(Rflags::OF, (overflow >> sign) & 1 != 0);
    (rflags & !ARITHMETIC.bits()) | flags.bits()
}
