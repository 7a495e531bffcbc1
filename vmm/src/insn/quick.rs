//! The few encodings that frequent exits nearly always have, in 64-bit mode, straight from eight bytes of code. What is not
//! among them is for the decoders that know them all.

use hw::Width;
use vcpu::Gpr;

use super::exiting::Plain;

/// The length of `expected` where the code begins with just that, without prefixes.
#[inline(always)]
pub(crate) fn length(code: u64, expected: Plain) -> Option<u8> {
    let (matches, len) = match expected {
        Plain::Cpuid => (code & 0xffff == 0xa20f, 2),
        Plain::Wrmsr => (code & 0xffff == 0x300f, 2),
        Plain::Rdmsr => (code & 0xffff == 0x320f, 2),
        Plain::Hlt => (code & 0xff == 0xf4, 1),
        Plain::Hypercall => (matches!(code & 0xff_ffff, 0xc1_010f | 0xd9_010f), 3),
        Plain::Xsetbv | Plain::Idle => (false, 0),
    };
    matches.then_some(len)
}

/// MOV between a register and memory, of four or eight bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Move {
    pub(crate) len: u8,
    pub(crate) gpr: Gpr,
    pub(crate) width: Width,
    /// From the register to memory.
    pub(crate) store: bool,
    /// The linear address.
    pub(crate) address: u64,
}

/// Takes `89` or `8B` apart, with REX or without (SDM vol. 2, tables 2-2 and 2-3); of the operands, those whose address has
/// a base and no index, or neither.
#[inline(always)]
pub(crate) fn mov(mut code: u64, gpr: impl Fn(Gpr) -> u64) -> Option<Move> {
    const REX_W: u8 = 8;
    const REX_R: u8 = 4;
    const REX_X: u8 = 2;
    const REX_B: u8 = 1;
    let (mut len, mut rex) = (2, 0);
    if code & 0xf0 == 0x40 {
        rex = code as u8;
        code >>= 8;
        len = 3;
    }
    if code & 0xfd != 0x89 {
        return None;
    }
    let store = code & 2 == 0;
    let modrm = (code >> 8) as u8;
    let (mode, rm) = (modrm >> 6, modrm & 7);
    let mut displacement = code >> 16;
    let mut base = Some(Gpr::from_low_bits(rm | (rex & REX_B) << 3));
    let mut has_dword = mode == 2;
    if rm == 4 {
        let sib = displacement as u8;
        displacement >>= 8;
        len += 1;
        if sib & 0x38 != 0x20 || rex & REX_X != 0 {
            return None;
        }
        base = Some(Gpr::from_low_bits(sib & 7 | (rex & REX_B) << 3));
        if mode == 0 && sib & 7 == 5 {
            (base, has_dword) = (None, true);
        }
    } else if mode == 0 && rm == 5 {
        return None;
    }
    let displacement = if has_dword {
        len += 4;
        displacement as i32 as u64
    } else {
        match mode {
            0 => 0,
            1 => {
                len += 1;
                displacement as i8 as u64
            }
            _ => return None,
        }
    };
    Some(Move {
        len,
        gpr: Gpr::from_low_bits(modrm >> 3 & 7 | (rex & REX_R) << 1),
        width: if rex & REX_W != 0 { Width::W8 } else { Width::W4 },
        store,
        address: displacement.wrapping_add(base.map_or(0, gpr)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::insn::mmio::{self, Operation, Place, Source};
    use crate::insn::{Mode, exiting};
    use proptest::prelude::*;
    use vcpu::scripted::ScriptedVcpu;
    use vcpu::{CpuContext, Registers, Vcpu};

    /// In 64-bit mode, with RIP at 0x1000 and other values in all registers.
    fn vcpu() -> (ScriptedVcpu, CpuContext) {
        let cs = x86_spec::segment::Segment::flat(8, x86_spec::segment::Segment::CODE64);
        let gprs = core::array::from_fn(|n| 0x1111_0000_0000 * n as u64 + 0x10);
        let vcpu = ScriptedVcpu::new(Registers {
            gprs,
            rip: 0x1000,
            efer: 0x500,
            cs,
            ..Default::default()
        });
        let context = vcpu.context();
        (vcpu, context)
    }

    fn agrees(bytes: [u8; 8]) -> Option<Move> {
        let (vcpu, context) = vcpu();
        let quick = mov(u64::from_le_bytes(bytes), |gpr| vcpu.gpr(gpr));
        if let Some(found) = quick {
            let whole = mmio::decode(&bytes, Mode::Bits64).expect("the other decoder knows it");
            let Place::Operand(operand) = whole.place else { panic!("{bytes:x?}") };
            let (register, store) = match whole.operation {
                Operation::Load(register) => (register, false),
                Operation::Store(Source::Register(register)) => (register, true),
                other => panic!("{bytes:x?}: {other:?}"),
            };
            assert_eq!((found.len, found.width), (whole.len, whole.width), "{bytes:x?}");
            assert_eq!((found.gpr, found.store), (register.gpr, store), "{bytes:x?}");
            assert_eq!(found.address, operand.linear(&vcpu, &context, whole.len), "{bytes:x?}");
        }
        quick
    }

    #[test]
    fn what_drivers_use_is_among_them() {
        for bytes in [
            &[0x8b, 0x02][..],                           // mov eax, [rdx]
            &[0x89, 0x87, 0xb0, 0x00, 0x00, 0x00],       // mov [rdi + 0xb0], eax
            &[0x89, 0x04, 0x25, 0xb0, 0xd0, 0x5f, 0xff], // mov [0xffffffffff5fd0b0], eax
            &[0x48, 0x8b, 0x40, 0x08],                   // mov rax, [rax + 8]
            &[0x45, 0x89, 0x4c, 0x24, 0x10],             // mov [r12 + 0x10], r9d
        ] {
            let mut code = [0x90; 8];
            code[..bytes.len()].copy_from_slice(bytes);
            assert!(
                agrees(code).is_some_and(|mov| usize::from(mov.len) == bytes.len()),
                "{bytes:x?}"
            );
        }
        assert_eq!(agrees([0x8b, 0x05, 0, 0, 0, 0, 0, 0]), None, "relative to RIP");
        assert_eq!(agrees([0x8b, 0xc1, 0, 0, 0, 0, 0, 0]), None, "between registers");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn both_decoders_agree_on_moves(mut bytes: [u8; 8], rex in prop::option::of(0x40_u8..0x50), opcode in 0x88_u8..0x8c) {
            let at = usize::from(rex.is_some());
            bytes[0] = rex.unwrap_or(0);
            bytes[at] = opcode;
            agrees(bytes);
        }

        #[test]
        fn both_decoders_agree_on_lengths(bytes: [u8; 8], start in 0_usize..6) {
            let starts: [&[u8]; 6] =
                [&[0x0f, 0xa2], &[0x0f, 0x30], &[0x0f, 0x32], &[0xf4], &[0x0f, 0x01, 0xc1], &[0x0f, 0x01]];
            let mut code = bytes;
            code[..starts[start].len()].copy_from_slice(starts[start]);
            for plain in [Plain::Cpuid, Plain::Wrmsr, Plain::Rdmsr, Plain::Hlt, Plain::Hypercall, Plain::Xsetbv, Plain::Idle] {
                if let Some(len) = length(u64::from_le_bytes(code), plain) {
                    prop_assert_eq!(exiting::length(&code, Mode::Bits64, plain), Ok(len));
                }
            }
        }
    }
}
