//! The instructions that exit by themselves: proof that the bytes are one of them, and its length.
//!
//! Redundant prefixes are legal and counted. LOCK is not: with it these instructions raise #UD and never exit (but for
//! AMD's `LOCK MOV CR0`, which is MOV CR8 outside 64-bit mode; APM vol. 3, MOV CRn).

use hw::Width;
use vcpu::Gpr;

use super::{Cursor, DecodeError, Mode, Prefixes, SegmentRegister};

/// An instruction that exits without operands that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plain {
    /// `0F A2`.
    Cpuid,
    /// `0F 32`.
    Rdmsr,
    /// `0F 30`.
    Wrmsr,
    /// `F4`.
    Hlt,
    /// VMCALL, `0F 01 C1`, or VMMCALL, `0F 01 D9`.
    Hypercall,
    /// `0F 01 D1`.
    Xsetbv,
    /// INVD or WBINVD.
    Idle,
}

/// MOV to or from a control register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MovControl {
    /// Its length.
    pub len: u8,
    /// The control register's number.
    pub control: u8,
    /// The general-purpose register.
    pub gpr: Gpr,
    /// To the control register.
    pub write: bool,
}

/// IN, OUT, INS or OUTS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortInstruction {
    /// Its length.
    pub len: u8,
    /// OUT or OUTS.
    pub write: bool,
    /// One, two or four bytes.
    pub width: Width,
    /// The port, where the instruction holds it; else it is in DX.
    pub immediate: Option<u8>,
    /// INS or OUTS.
    pub string: bool,
    /// A string instruction with a REP prefix.
    pub rep: bool,
    /// The segment of OUTS's source.
    pub segment: SegmentRegister,
    /// Address size of a string instruction.
    pub address_width: Width,
}

/// The length of `expected`, if the bytes are just that.
///
/// # Errors
/// [`DecodeError::Mismatch`] where they are another instruction.
pub fn length(bytes: &[u8], mode: Mode, expected: Plain) -> Result<u8, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let prefixes = Prefixes::parse(&mut cursor, mode)?;
    let found = match cursor.byte()? {
        0xf4 => Plain::Hlt,
        0x0f => match cursor.byte()? {
            0xa2 => Plain::Cpuid,
            0x32 => Plain::Rdmsr,
            0x30 => Plain::Wrmsr,
            0x08 | 0x09 => Plain::Idle,
            0x01 => match cursor.byte()? {
                0xc1 | 0xd9 => Plain::Hypercall,
                0xd1 => Plain::Xsetbv,
                _ => return Err(DecodeError::Mismatch),
            },
            _ => return Err(DecodeError::Mismatch),
        },
        _ => return Err(DecodeError::Mismatch),
    };
    if found == expected && !prefixes.lock { Ok(cursor.at) } else { Err(DecodeError::Mismatch) }
}

/// MOV CRn (SDM vol. 2, MOV — Move to/from Control Registers): `0F 20` and `0F 22`; the `mod` field is ignored.
///
/// # Errors
/// [`DecodeError::Mismatch`] where the bytes are another instruction.
pub fn mov_control(bytes: &[u8], mode: Mode) -> Result<MovControl, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let prefixes = Prefixes::parse(&mut cursor, mode)?;
    if cursor.byte()? != 0x0f {
        return Err(DecodeError::Mismatch);
    }
    let write = match cursor.byte()? {
        0x20 => false,
        0x22 => true,
        _ => return Err(DecodeError::Mismatch),
    };
    let modrm = cursor.byte()?;
    let reg = ((modrm >> 3) & 7) | prefixes.rex_r();
    let control = match (prefixes.lock, reg) {
        (false, reg) => reg,
        (true, 0) => 8,
        (true, _) => return Err(DecodeError::Mismatch),
    };
    Ok(MovControl {
        len: cursor.at,
        control,
        gpr: Gpr::from_low_bits((modrm & 7) | prefixes.rex_b()),
        write,
    })
}

/// IN (`E4 E5 EC ED`), OUT (`E6 E7 EE EF`), INS (`6C 6D`) and OUTS (`6E 6F`).
///
/// # Errors
/// [`DecodeError::Mismatch`] where the bytes are another instruction.
pub fn port(bytes: &[u8], mode: Mode) -> Result<PortInstruction, DecodeError> {
    let mut cursor = Cursor::new(bytes);
    let prefixes = Prefixes::parse(&mut cursor, mode)?;
    let opcode = cursor.byte()?;
    let string = opcode & 0xfc == 0x6c;
    if prefixes.lock || !(string || matches!(opcode, 0xe4..=0xe7 | 0xec..=0xef)) {
        return Err(DecodeError::Mismatch);
    }
    let immediate = if matches!(opcode, 0xe4..=0xe7) { Some(cursor.byte()?) } else { None };
    Ok(PortInstruction {
        len: cursor.at,
        write: opcode & 2 != 0,
        // No port access has eight bytes: REX.W changes nothing here.
        width: if opcode & 1 == 0 { Width::W1 } else { prefixes.operand_width().min(Width::W4) },
        immediate,
        string,
        rep: string && prefixes.repeat.is_some(),
        segment: prefixes.segment.unwrap_or(SegmentRegister::Ds),
        address_width: prefixes.address_width(),
    })
}
