//! Operands: registers, and ModRM with its SIB and displacement (SDM vol. 2, 2.1.3 to 2.1.5 and 2.2.1).

use hw::Width;
use vcpu::{CpuContext, Gpr, Vcpu};

use super::{Cursor, DecodeError, Mode, Prefixes, SegmentRegister};

/// A general-purpose register at one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Register {
    /// Which.
    pub gpr: Gpr,
    /// How much of it.
    pub width: Width,
    /// Bits 15:8 rather than 7:0: AH, CH, DH, BH.
    pub high: bool,
}

impl Register {
    /// The register that `number` names at `width`: without REX, 4 to 7 are AH to BH among the bytes.
    pub(super) const fn new(number: u8, width: Width, prefixes: &Prefixes) -> Self {
        if matches!(width, Width::W1) && prefixes.rex.is_none() && number & 0xc == 4 {
            Self { gpr: Gpr::from_low_bits(number & 3), width, high: true }
        } else {
            Self { gpr: Gpr::from_low_bits(number), width, high: false }
        }
    }

    /// RAX at `width`.
    pub(super) const fn accumulator(width: Width) -> Self {
        Self { gpr: Gpr::Rax, width, high: false }
    }

    /// Its value, zero-extended.
    #[must_use]
    pub fn read<V: Vcpu>(self, vcpu: &V) -> u64 {
        let value = vcpu.gpr(self.gpr);
        let value = if self.high { value >> 8 } else { value };
        value & self.width.mask()
    }

    /// Writes the low part of `value`: 8 and 16 bits leave the others alone, 32 clear the upper half (SDM vol. 1, 3.4.1.1).
    pub fn write<V: Vcpu>(self, vcpu: &mut V, value: u64) {
        let old = vcpu.gpr(self.gpr);
        let mask = self.width.mask();
        let new = match self.width {
            Width::W1 if self.high => (old & !0xff00) | ((value & 0xff) << 8),
            Width::W1 | Width::W2 => (old & !mask) | (value & mask),
            Width::W4 | Width::W8 => value & mask,
        };
        vcpu.set_gpr(self.gpr, new);
    }
}

/// An operand in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// Its segment, overrides and defaults taken into account.
    pub segment: SegmentRegister,
    /// Base register.
    pub base: Option<Gpr>,
    /// Index register, and the power of two that scales it.
    pub index: Option<(Gpr, u8)>,
    /// Displacement, sign-extended.
    pub displacement: u64,
    /// The displacement counts from the next instruction.
    pub rip_relative: bool,
    /// Where the effective address wraps.
    pub address_width: Width,
}

impl MemoryOperand {
    /// The offset in its segment, for an instruction of `len` bytes at the context's RIP.
    pub fn offset<V: Vcpu>(&self, vcpu: &V, context: &CpuContext, len: u8) -> u64 {
        let mut address = self.displacement;
        if self.rip_relative {
            address = address.wrapping_add(context.rip).wrapping_add(u64::from(len));
        }
        if let Some(base) = self.base {
            address = address.wrapping_add(vcpu.gpr(base));
        }
        if let Some((index, shift)) = self.index {
            address = address.wrapping_add(vcpu.gpr(index) << shift);
        }
        address & self.address_width.mask()
    }

    /// Likewise the linear address.
    pub fn linear<V: Vcpu>(&self, vcpu: &V, context: &CpuContext, len: u8) -> u64 {
        linear(context, self.segment, self.offset(vcpu, context, len))
    }
}

/// The linear address of `offset` in a segment: flat but for FS and GS in 64-bit mode, else 32 bits wide.
pub(crate) fn linear(context: &CpuContext, segment: SegmentRegister, offset: u64) -> u64 {
    let long = Mode::of(context) == Mode::Bits64;
    let base = match segment {
        SegmentRegister::Fs => context.fs_base,
        SegmentRegister::Gs => context.gs_base,
        _ if long => 0,
        SegmentRegister::Es => context.es.base,
        SegmentRegister::Cs => context.cs.base,
        SegmentRegister::Ss => context.ss.base,
        SegmentRegister::Ds => context.ds.base,
    };
    let address = base.wrapping_add(offset);
    if long { address } else { address & Width::W4.mask() }
}

/// A ModRM byte with what belongs to it.
pub(super) struct ModRm {
    /// The `reg` field, REX.R included: a register or an opcode's extension.
    pub(super) reg: u8,
    /// The operand in memory, or `None` where `rm` names a register.
    pub(super) memory: Option<MemoryOperand>,
}

impl ModRm {
    pub(super) fn parse(cursor: &mut Cursor<'_>, prefixes: &Prefixes) -> Result<Self, DecodeError> {
        let byte = cursor.byte()?;
        let (mode, reg, rm) = (byte >> 6, (byte >> 3) & 7, byte & 7);
        let memory = match (mode, prefixes.address_width()) {
            (3, _) => None,
            (_, Width::W1 | Width::W2) => Some(memory16(cursor, prefixes, mode, rm)?),
            (_, Width::W4 | Width::W8) => Some(memory32(cursor, prefixes, mode, rm)?),
        };
        Ok(Self { reg: reg | prefixes.rex_r(), memory })
    }

    /// The opcode's extension: `reg` without REX.R.
    pub(super) const fn extension(&self) -> u8 {
        self.reg & 7
    }
}

/// 16-bit addressing (SDM vol. 2, table 2-1).
fn memory16(
    cursor: &mut Cursor<'_>,
    prefixes: &Prefixes,
    mode: u8,
    rm: u8,
) -> Result<MemoryOperand, DecodeError> {
    let (base, index) = match rm {
        0 => (Some(Gpr::Rbx), Some((Gpr::Rsi, 0))),
        1 => (Some(Gpr::Rbx), Some((Gpr::Rdi, 0))),
        2 => (Some(Gpr::Rbp), Some((Gpr::Rsi, 0))),
        3 => (Some(Gpr::Rbp), Some((Gpr::Rdi, 0))),
        4 => (Some(Gpr::Rsi), None),
        5 => (Some(Gpr::Rdi), None),
        6 if mode == 0 => (None, None),
        6 => (Some(Gpr::Rbp), None),
        _ => (Some(Gpr::Rbx), None),
    };
    let displacement = match mode {
        0 if rm == 6 => cursor.signed(Width::W2)?,
        0 => 0,
        1 => cursor.signed(Width::W1)?,
        _ => cursor.signed(Width::W2)?,
    };
    Ok(MemoryOperand {
        segment: prefixes.segment.unwrap_or(default_segment(base)),
        base,
        index,
        displacement,
        rip_relative: false,
        address_width: Width::W2,
    })
}

/// 32- and 64-bit addressing (SDM vol. 2, tables 2-2, 2-3 and 2-7).
fn memory32(
    cursor: &mut Cursor<'_>,
    prefixes: &Prefixes,
    mode: u8,
    rm: u8,
) -> Result<MemoryOperand, DecodeError> {
    let (mut base, mut index, mut rip_relative, mut wide) = (None, None, false, false);
    if rm == 4 {
        let sib = cursor.byte()?;
        let number = ((sib >> 3) & 7) | prefixes.rex_x();
        if number != 4 {
            index = Some((Gpr::from_low_bits(number), sib >> 6));
        }
        if mode == 0 && sib & 7 == 5 {
            wide = true;
        } else {
            base = Some(Gpr::from_low_bits((sib & 7) | prefixes.rex_b()));
        }
    } else if mode == 0 && rm == 5 {
        wide = true;
        rip_relative = prefixes.mode == Mode::Bits64;
    } else {
        base = Some(Gpr::from_low_bits(rm | prefixes.rex_b()));
    }
    let displacement = match mode {
        0 if !wide => 0,
        1 => cursor.signed(Width::W1)?,
        _ => cursor.signed(Width::W4)?,
    };
    Ok(MemoryOperand {
        segment: prefixes.segment.unwrap_or(default_segment(base)),
        base,
        index,
        displacement,
        rip_relative,
        address_width: prefixes.address_width(),
    })
}

/// The stack's segment where the base is a stack pointer (SDM vol. 1, table 3-5).
const fn default_segment(base: Option<Gpr>) -> SegmentRegister {
    match base {
        Some(Gpr::Rsp | Gpr::Rbp) => SegmentRegister::Ss,
        _ => SegmentRegister::Ds,
    }
}
