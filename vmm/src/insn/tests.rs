//! The decoders against `iced-x86`, and the arithmetic against wide integers.

use super::alu::{Binary, Bit, Unary};
use super::exiting::Plain;
use super::mmio::{Operation, Place, Source};
use super::*;
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind};
use proptest::prelude::*;
use std::vec::Vec;
use vcpu::Gpr;

fn reference(bytes: &[u8], mode: Mode) -> Instruction {
    let bits = match mode {
        Mode::Bits16 => 16,
        Mode::Bits32 => 32,
        Mode::Bits64 => 64,
    };
    Decoder::with_ip(bits, bytes, 0x1000, DecoderOptions::NONE).decode()
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![Just(Mode::Bits16), Just(Mode::Bits32), Just(Mode::Bits64)]
}

fn prefixes() -> impl Strategy<Value = Vec<u8>> {
    let prefix = prop_oneof![
        4 => Just(0x66u8),
        4 => Just(0x67),
        2 => prop::sample::select(&[0x26u8, 0x2e, 0x36, 0x3e, 0x64, 0x65][..]),
        1 => prop::sample::select(&[0xf0u8, 0xf2, 0xf3][..]),
        6 => 0x40u8..=0x4f,
    ];
    prop::collection::vec(prefix, 0..4)
}

/// An opcode from the tables of this decoder or near them, and whatever follows.
fn encoding() -> impl Strategy<Value = Vec<u8>> {
    let one = prop_oneof![
        (0u8..=0x3f).prop_map(|opcode| std::vec![opcode]),
        (0x60u8..=0x6f).prop_map(|opcode| std::vec![opcode]),
        (0x80u8..=0x8f).prop_map(|opcode| std::vec![opcode]),
        (0xa0u8..=0xaf).prop_map(|opcode| std::vec![opcode]),
        prop::sample::select(&[0xc6u8, 0xc7, 0xf6, 0xf7, 0xfe, 0xff][..])
            .prop_map(|opcode| std::vec![opcode]),
        (0xa0u8..=0xc3).prop_map(|opcode| std::vec![0x0f, opcode]),
        (0xb0u8..=0xbf).prop_map(|opcode| std::vec![0x0f, opcode]),
        (0xf0u8..=0xff).prop_map(|opcode| std::vec![0x0f, 0x38, opcode]),
        any::<u8>().prop_map(|opcode| std::vec![opcode]),
        any::<u8>().prop_map(|opcode| std::vec![0x0f, opcode]),
    ];
    (prefixes(), one, prop::collection::vec(any::<u8>(), 12))
        .prop_map(|(prefixes, opcode, rest)| [prefixes, opcode, rest].concat())
}

fn register_of(register: iced_x86::Register) -> (Gpr, u64, bool) {
    use iced_x86::Register as R;
    let high = matches!(register, R::AH | R::CH | R::DH | R::BH);
    let number = if high {
        register as u32 - R::AH as u32
    } else {
        register.full_register() as u32 - R::RAX as u32
    };
    (Gpr::from_low_bits(number as u8), register.size() as u64, high)
}

fn same_register(ours: Register, theirs: iced_x86::Register) -> bool {
    (ours.gpr, ours.width.bytes(), ours.high) == register_of(theirs)
}

/// Whether the reference names an instruction that [`mmio::decode`] must know.
fn is_ours(insn: &Instruction) -> bool {
    use Mnemonic as M;
    if insn.is_invalid() || insn.code().encoding() != iced_x86::EncodingKind::Legacy {
        return false;
    }
    let general = (0..insn.op_count())
        .all(|op| insn.op_kind(op) != OpKind::Register || insn.op_register(op).is_gpr());
    let memory = (0..insn.op_count()).any(|op| insn.op_kind(op) == OpKind::Memory);
    match insn.mnemonic() {
        M::Mov
        | M::Movzx
        | M::Movsx
        | M::Movsxd
        | M::Movnti
        | M::Movdiri
        | M::Movdir64b
        | M::Xchg
        | M::And
        | M::Or
        | M::Xor
        | M::Add
        | M::Sub
        | M::Adc
        | M::Sbb
        | M::Cmp
        | M::Test
        | M::Bt
        | M::Bts
        | M::Btr
        | M::Btc
        | M::Not
        | M::Neg
        | M::Inc
        | M::Dec
        | M::Cmpxchg
        | M::Xadd => memory && general,
        M::Stosb
        | M::Stosw
        | M::Stosd
        | M::Stosq
        | M::Movsb
        | M::Movsw
        | M::Movsq
        | M::Lodsb
        | M::Lodsw
        | M::Lodsd
        | M::Lodsq => true,
        M::Movsd => {
            insn.op_count() == 2
                && general
                && insn.op_kind(0) != OpKind::Register
                && insn.is_string_instruction()
        }
        _ => false,
    }
}

fn check_operand(ours: &MemoryOperand, insn: &Instruction, context: &str) {
    use iced_x86::Register as R;
    let segment = match insn.memory_segment() {
        R::ES => SegmentRegister::Es,
        R::CS => SegmentRegister::Cs,
        R::SS => SegmentRegister::Ss,
        R::DS => SegmentRegister::Ds,
        R::FS => SegmentRegister::Fs,
        _ => SegmentRegister::Gs,
    };
    // In 64-bit mode the reference reports overrides that mean nothing.
    let flat = |segment| !matches!(segment, SegmentRegister::Fs | SegmentRegister::Gs);
    if insn.code_size() != iced_x86::CodeSize::Code64 || !flat(ours.segment) || !flat(segment) {
        assert_eq!(ours.segment, segment, "{context}");
    }
    let base = insn.memory_base();
    if ours.rip_relative {
        assert!(matches!(base, R::RIP | R::EIP), "{context}");
        let next = 0x1000 + insn.len() as u64;
        let target = ours.displacement.wrapping_add(next) & ours.address_width.mask();
        assert_eq!(target, insn.memory_displacement64(), "{context}");
        return;
    }
    let expected = (base != R::None).then(|| register_of(base).0);
    let index = (insn.memory_index() != R::None).then(|| {
        (register_of(insn.memory_index()).0, insn.memory_index_scale().trailing_zeros() as u8)
    });
    assert_eq!((ours.base, ours.index), (expected, index), "{context}");
    let mask = ours.address_width.mask();
    assert_eq!(ours.displacement & mask, insn.memory_displacement64() & mask, "{context}");
}

fn check_source(ours: Source, insn: &Instruction, op: u32, width: Width, context: &str) {
    match ours {
        Source::Register(register) => {
            assert!(same_register(register, insn.op_register(op)), "{context}");
        }
        Source::Immediate(value) => {
            assert_eq!(value & width.mask(), insn.immediate(op) & width.mask(), "{context}");
        }
    }
}

fn check_mmio(bytes: &[u8], mode: Mode) {
    let insn = reference(bytes, mode);
    let context = std::format!("{bytes:02x?} {mode:?} {:?} {:?}", insn.code(), insn.mnemonic());
    let ours = match mmio::decode(bytes, mode) {
        Ok(ours) => ours,
        Err(_) => {
            assert!(!is_ours(&insn), "not decoded: {context}");
            return;
        }
    };
    assert!(is_ours(&insn), "decoded as {ours:?}: {context}");
    assert_eq!(usize::from(ours.len), insn.len(), "{context}");
    let parts = if ours.operation == Operation::MoveLine { 8 } else { 1 };
    assert_eq!(parts * ours.width.bytes(), insn.memory_size().size() as u64, "{context}");
    match ours.place {
        Place::Operand(operand) => check_operand(&operand, &insn, &context),
        Place::Line { source, destination } => {
            check_operand(&source, &insn, &context);
            assert!(same_register(destination, insn.op_register(0)), "{context}");
        }
        Place::String { rep, .. } => {
            assert_eq!(rep, insn.has_rep_prefix() || insn.has_repne_prefix(), "{context}");
        }
    }
    check_operation(&ours, &insn, &context);
}

fn check_operation(ours: &mmio::Instruction, insn: &Instruction, context: &str) {
    use Mnemonic as M;
    let width = ours.width;
    let mnemonics: &[M] = match ours.operation {
        Operation::Load(register) => {
            assert!(same_register(register, insn.op_register(0)), "{context}");
            &[M::Mov, M::Movzx]
        }
        Operation::LoadSigned(register) => {
            assert!(same_register(register, insn.op_register(0)), "{context}");
            &[M::Movsx, M::Movsxd]
        }
        Operation::Store(source) => {
            check_source(source, insn, 1, width, context);
            &[M::Mov, M::Movnti, M::Movdiri]
        }
        Operation::Exchange(register) => {
            let op = u32::from(insn.op_kind(0) == OpKind::Memory);
            assert!(same_register(register, insn.op_register(op)), "{context}");
            &[M::Xchg]
        }
        Operation::IntoMemory(op, source) => {
            check_source(source, insn, 1, width, context);
            &[binary_mnemonic(op)]
        }
        Operation::IntoRegister(op, register) => {
            assert!(same_register(register, insn.op_register(0)), "{context}");
            &[binary_mnemonic(op)]
        }
        Operation::Unary(op) => match op {
            Unary::Not => &[M::Not],
            Unary::Neg => &[M::Neg],
            Unary::Inc => &[M::Inc],
            Unary::Dec => &[M::Dec],
        },
        Operation::Bit(op, source) => {
            let width = if matches!(source, Source::Immediate(_)) { Width::W1 } else { width };
            check_source(source, insn, 1, width, context);
            match op {
                Bit::Test => &[M::Bt],
                Bit::Set => &[M::Bts],
                Bit::Reset => &[M::Btr],
                Bit::Complement => &[M::Btc],
            }
        }
        Operation::CompareExchange(register) => {
            assert!(same_register(register, insn.op_register(1)), "{context}");
            &[M::Cmpxchg]
        }
        Operation::ExchangeAdd(register) => {
            assert!(same_register(register, insn.op_register(1)), "{context}");
            &[M::Xadd]
        }
        Operation::MoveString => &[M::Movsb, M::Movsw, M::Movsd, M::Movsq],
        Operation::StoreString => &[M::Stosb, M::Stosw, M::Stosd, M::Stosq],
        Operation::MoveLine => &[M::Movdir64b],
        Operation::LoadString => &[M::Lodsb, M::Lodsw, M::Lodsd, M::Lodsq],
    };
    assert!(mnemonics.contains(&insn.mnemonic()), "{:?}: {context}", ours.operation);
}

const fn binary_mnemonic(op: Binary) -> Mnemonic {
    match op {
        Binary::Add => Mnemonic::Add,
        Binary::Or => Mnemonic::Or,
        Binary::Adc => Mnemonic::Adc,
        Binary::Sbb => Mnemonic::Sbb,
        Binary::And => Mnemonic::And,
        Binary::Sub => Mnemonic::Sub,
        Binary::Xor => Mnemonic::Xor,
        Binary::Cmp => Mnemonic::Cmp,
        Binary::Test => Mnemonic::Test,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4_096) })]

    #[test]
    fn memory_instructions_decode_as_the_reference_does(bytes in encoding(), mode in mode()) {
        check_mmio(&bytes, mode);
    }

    #[test]
    fn no_bytes_disturb_the_decoders(bytes in prop::collection::vec(any::<u8>(), 0..20), mode in mode()) {
        let _ = mmio::decode(&bytes, mode);
        let _ = exiting::length(&bytes, mode, Plain::Cpuid);
        let _ = exiting::mov_control(&bytes, mode);
        let _ = exiting::port(&bytes, mode);
    }

    #[test]
    fn exiting_instructions_have_the_reference_length(
        prefixes in prefixes(),
        (opcode, plain, mnemonic) in prop::sample::select(EXITING),
        rest in prop::collection::vec(any::<u8>(), 3),
        mode in mode(),
    ) {
        let bytes = [&prefixes[..], opcode, &rest[..]].concat();
        let insn = reference(&bytes, mode);
        // In 16- and 32-bit modes 40 to 4F are INC and DEC.
        if insn.mnemonic() == mnemonic {
            prop_assert_eq!(exiting::length(&bytes, mode, plain), Ok(insn.len() as u8), "{:02x?}", bytes);
        } else if !insn.is_invalid() && !is_relative(&insn) {
            prop_assert_eq!(exiting::length(&bytes, mode, plain), Err(DecodeError::Mismatch), "{:02x?}", bytes);
        }
    }

    #[test]
    fn port_instructions_decode_as_the_reference_does(
        prefixes in prefixes(),
        opcode in prop_oneof![0x6cu8..=0x6f, 0xe0u8..=0xef],
        rest in prop::collection::vec(any::<u8>(), 2),
        mode in mode(),
    ) {
        use Mnemonic as M;
        let bytes = [&prefixes[..], &[opcode], &rest[..]].concat();
        let insn = reference(&bytes, mode);
        let (write, string) = match insn.mnemonic() {
            M::In => (false, false),
            M::Out => (true, false),
            M::Insb | M::Insw | M::Insd => (false, true),
            M::Outsb | M::Outsw | M::Outsd => (true, true),
            _ => {
                prop_assert_eq!(exiting::port(&bytes, mode), Err(DecodeError::Mismatch));
                return Ok(());
            }
        };
        let ours = exiting::port(&bytes, mode).unwrap();
        let width = if string {
            insn.memory_size().size()
        } else {
            insn.op_register(u32::from(write)).size()
        };
        prop_assert_eq!(
            (usize::from(ours.len), ours.write, ours.string, ours.width.bytes() as usize),
            (insn.len(), write, string, width),
            "{:02x?}", bytes
        );
        prop_assert_eq!(ours.rep, string && (insn.has_rep_prefix() || insn.has_repne_prefix()));
    }

    #[test]
    fn control_register_moves_decode_as_the_reference_does(
        prefixes in prefixes(),
        opcode in 0x1fu8..=0x23,
        modrm in 0xc0u8..=0xff,
        mode in mode(),
    ) {
        use iced_x86::Register as R;
        let bytes = [&prefixes[..], &[0x0f, opcode, modrm, 0, 0, 0, 0, 0]].concat();
        let insn = reference(&bytes, mode);
        let (control, general, write) = if insn.is_invalid() || insn.mnemonic() != Mnemonic::Mov {
            return Ok(());
        } else if insn.op_register(0).is_cr() {
            (insn.op_register(0), insn.op_register(1), true)
        } else if insn.op_register(1).is_cr() {
            (insn.op_register(1), insn.op_register(0), false)
        } else {
            return Ok(());
        };
        let ours = exiting::mov_control(&bytes, mode).unwrap();
        prop_assert_eq!(usize::from(ours.len), insn.len());
        prop_assert_eq!(u32::from(ours.control), control as u32 - R::CR0 as u32);
        prop_assert_eq!((ours.gpr, ours.write), (register_of(general).0, write));
    }

    #[test]
    fn sums_and_their_flags_are_those_of_wide_integers(
        left: u64, right: u64, rflags: u64,
        width in prop::sample::select(&[Width::W1, Width::W2, Width::W4, Width::W8][..]),
    ) {
        for op in [Binary::Add, Binary::Adc, Binary::Sub, Binary::Sbb, Binary::Cmp] {
            check_sum(op, left, right, rflags, width);
        }
    }
}

const EXITING: &[(&[u8], Plain, Mnemonic)] = &[
    (&[0x0f, 0xa2], Plain::Cpuid, Mnemonic::Cpuid),
    (&[0x0f, 0x32], Plain::Rdmsr, Mnemonic::Rdmsr),
    (&[0x0f, 0x30], Plain::Wrmsr, Mnemonic::Wrmsr),
    (&[0xf4], Plain::Hlt, Mnemonic::Hlt),
    (&[0x0f, 0x01, 0xc1], Plain::Hypercall, Mnemonic::Vmcall),
    (&[0x0f, 0x01, 0xd9], Plain::Hypercall, Mnemonic::Vmmcall),
    (&[0x0f, 0x01, 0xd1], Plain::Xsetbv, Mnemonic::Xsetbv),
    (&[0x0f, 0x08], Plain::Idle, Mnemonic::Invd),
    (&[0x0f, 0x09], Plain::Idle, Mnemonic::Wbinvd),
];

/// Forms that the reference gives another name because of a prefix, though a CPU without that extension runs the plain
/// one: WBNOINVD, VMGEXIT and the like.
fn is_relative(insn: &Instruction) -> bool {
    insn.has_rep_prefix() || insn.has_repne_prefix() || {
        use Mnemonic as M;
        matches!(insn.mnemonic(), M::Wbnoinvd | M::Vmgexit)
    }
}

fn check_sum(op: Binary, left: u64, right: u64, rflags: u64, width: Width) {
    let bits = 8 * width.bytes() as u32;
    let modulus = 1i128 << bits;
    let (unsigned_left, unsigned_right) =
        (i128::from(left & width.mask()), i128::from(right & width.mask()));
    let signed = |value: i128| if value >= modulus / 2 { value - modulus } else { value };
    let carry = i128::from(rflags & 1);
    let extra = if matches!(op, Binary::Adc | Binary::Sbb) { carry } else { 0 };
    let sign = if matches!(op, Binary::Add | Binary::Adc) { 1 } else { -1 };
    let whole = unsigned_left + sign * (unsigned_right + extra);
    let whole_signed = signed(unsigned_left) + sign * (signed(unsigned_right) + extra);
    let nibble = (unsigned_left & 15) + sign * ((unsigned_right & 15) + extra);
    let result = whole.rem_euclid(modulus);

    let (ours, flags) = alu::binary(op, left, right, width, rflags);
    assert_eq!(i128::from(ours), result);
    let expect = |flag: Rflags, value: bool| {
        assert_eq!(
            flags & flag.bits() != 0,
            value,
            "{op:?} {left:#x} {right:#x} {width:?} {flag:?}"
        );
    };
    expect(Rflags::CF, !(0..modulus).contains(&whole));
    expect(Rflags::AF, !(0..16).contains(&nibble));
    expect(Rflags::ZF, result == 0);
    expect(Rflags::SF, result >= modulus / 2);
    expect(Rflags::OF, signed(result) != whole_signed);
    expect(Rflags::PF, (result as u8).count_ones().is_multiple_of(2));
    let others = !alu::ARITHMETIC.bits();
    assert_eq!(flags & others, rflags & others);
}

#[test]
fn logic_clears_carry_and_overflow() {
    let all = alu::ARITHMETIC.bits();
    let (result, flags) = alu::binary(Binary::Xor, 0xff, 0x7f, Width::W1, all);
    assert_eq!((result, flags), (0x80, Rflags::SF.bits()));
    let (result, flags) = alu::binary(Binary::Test, 0xf0, 0x0f, Width::W4, all);
    assert_eq!((result, flags), (0, (Rflags::ZF | Rflags::PF).bits()));
}

#[test]
fn increments_leave_the_carry() {
    let (result, flags) = alu::unary(Unary::Inc, 0xff, Width::W1, 0);
    assert_eq!((result, flags), (0, (Rflags::ZF | Rflags::PF | Rflags::AF).bits()));
    let (result, flags) = alu::unary(Unary::Dec, 0, Width::W2, Rflags::CF.bits());
    let expected = Rflags::CF | Rflags::SF | Rflags::PF | Rflags::AF;
    assert_eq!((result, flags), (0xffff, expected.bits()));
    assert_eq!(alu::unary(Unary::Not, 1, Width::W1, 0x202), (0xfe, 0x202));
    assert_eq!(alu::unary(Unary::Neg, 0, Width::W4, 1).1 & 1, 0);
}

#[test]
fn bit_offsets_wrap_at_the_width() {
    assert_eq!(alu::bit(Bit::Test, 0x10, 36, Width::W4, 0), (0x10, 1));
    assert_eq!(alu::bit(Bit::Set, 0, 17, Width::W2, 1), (2, 0));
    assert_eq!(alu::bit(Bit::Complement, 1, 0, Width::W8, 0), (0, 1));
}

#[test]
fn an_instruction_cut_short_is_incomplete() {
    assert_eq!(mmio::decode(&[0x89], Mode::Bits64), Err(DecodeError::Incomplete));
    assert_eq!(mmio::decode(&[0x66; 14], Mode::Bits64), Err(DecodeError::Incomplete));
    assert_eq!(mmio::decode(&[0x66; 20], Mode::Bits64), Err(DecodeError::TooLong));
    assert_eq!(exiting::length(&[0x0f], Mode::Bits64, Plain::Cpuid), Err(DecodeError::Incomplete));
}
