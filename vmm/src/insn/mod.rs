//! x86 instruction decoding (SDM vol. 2, chapter 2; APM vol. 3, chapter 1), for two purposes:
//! - [`exiting`]: that the bytes at RIP really are the instruction an exit speaks of, and how long it is, where the CPU
//!   does not give the length (SVM without next-RIP);
//! - [`mmio`]: what an instruction that touched a device page wants to do.
//!
//! The bytes are an allegation: another virtual CPU may have changed them since the exit. So a decoder never assumes
//! what it expects; bytes that do not bear an exit out are a [`DecodeError`], and the guest is simply entered again.
//! [`alu`] computes results and flags. All of it is pure: no allocation, no panic, whatever the bytes.

pub mod alu;
pub mod exiting;
pub mod mmio;
mod operand;
mod prefix;
pub(crate) mod quick;
#[cfg(test)]
mod tests;

pub(crate) use operand::linear;
pub use operand::{MemoryOperand, Register};
pub use prefix::{Prefixes, Repeat, SegmentRegister};

use hw::Width;
use vcpu::CpuContext;
use x86_spec::cpu::{Cr0, Efer, Rflags};

/// The longest instruction (SDM vol. 2, 2.3.11).
pub const MAX_BYTES: usize = 15;

/// The operating mode as far as encodings depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Real mode, virtual-8086 mode, or a code segment with D clear.
    Bits16,
    /// A code segment with D set.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

impl Mode {
    /// The mode a virtual CPU is in (SDM vol. 3, 5.2.1).
    #[must_use]
    pub fn of(context: &CpuContext) -> Self {
        const L: u32 = 1 << 13;
        const D: u32 = 1 << 14;
        if context.efer & Efer::LMA.bits() != 0 && context.cs.access & L != 0 {
            Self::Bits64
        } else if context.cr0 & Cr0::PE.bits() == 0
            || context.rflags & Rflags::VM.bits() != 0
            || context.cs.access & D == 0
        {
            Self::Bits16
        } else {
            Self::Bits32
        }
    }
}

/// Why bytes do not bear out what is said of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeError {
    /// The instruction goes on past the bytes that could be fetched.
    Incomplete,
    /// More than [`MAX_BYTES`]: the CPU would have raised #GP.
    TooLong,
    /// Another instruction than expected, or one that this decoder does not know.
    Mismatch,
}

/// A position in the bytes.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: u8,
}

impl<'a> Cursor<'a> {
    const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn byte(&mut self) -> Result<u8, DecodeError> {
        let at = usize::from(self.at);
        if at >= MAX_BYTES {
            return Err(DecodeError::TooLong);
        }
        let byte = self.bytes.get(at).copied().ok_or(DecodeError::Incomplete)?;
        self.at += 1;
        Ok(byte)
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(usize::from(self.at)).copied()
    }

    /// A little-endian field of `width`, zero-extended.
    fn unsigned(&mut self, width: Width) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in 0..width.bytes() {
            value |= u64::from(self.byte()?) << (8 * shift);
        }
        Ok(value)
    }

    /// A little-endian field of `width`, sign-extended.
    fn signed(&mut self, width: Width) -> Result<u64, DecodeError> {
        self.unsigned(width).map(|value| sign_extend(value, width))
    }

    /// An immediate of an operand of `width`: four bytes, sign-extended, for eight (SDM vol. 2, 2.2.1.5).
    fn immediate(&mut self, width: Width) -> Result<u64, DecodeError> {
        self.signed(width.min(Width::W4))
    }
}

/// The low `width` of `value` as a signed number, extended to 64 bits.
#[must_use]
pub(crate) const fn sign_extend(value: u64, width: Width) -> u64 {
    let unused = 64 - 8 * width as u32;
    (((value << unused) as i64) >> unused) as u64
}
