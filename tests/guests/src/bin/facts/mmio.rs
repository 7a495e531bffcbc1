//! Device memory: every form of instruction that Linux uses on it, and their neighbours. The oracle is the CPU: each form
//! runs on a cell of RAM and on a device register that holds the same, and must leave registers, flags and register alike.
//!
//! The registers: for 1 and 2 bytes an entry of the I/O APIC's redirection table through its window, for 4 bytes the local
//! APIC's initial count, for any width the hole, which holds ones and keeps nothing.

use core::arch::asm;

use guests::{
    apic::{self, register},
    check, cpu, nowhere,
};

use crate::msr;

/// The window of the I/O APIC.
pub(crate) const WINDOW: u64 = apic::IO_APIC_GPA + 0x10;
/// What it shows: the low half of the last entry, which is masked.
const ENTRY: u8 = 0x10 + 2 * 23;
/// Bits of its low 16 that software can write.
const ENTRY_WRITABLE: u64 = 0xafff;
/// The timer's initial count: 32 bits to write and read, while the timer is masked.
pub(crate) const COUNT: u64 = apic::LOCAL_APIC_GPA + 0x380;
const HOLE: u64 = nowhere::PAGE + 0x328;

const CARRY: u64 = 1 << 0;
/// CF, PF, AF, ZF, SF, OF.
const ALL: u64 = 0x8d5;
/// Without AF, which logic leaves undefined.
const LOGIC: u64 = 0x8c5;

/// What an instruction works with besides memory.
#[derive(Clone, Copy, Debug, PartialEq)]
struct State {
    rax: u64,
    rcx: u64,
    rdx: u64,
    flags: u64,
}

/// An instruction on the memory at RDI.
struct Form {
    text: &'static str,
    width: u8,
    /// The flags that it defines or leaves alone.
    flags: u64,
    run: fn(State, u64) -> State,
}

macro_rules! form {
    ($width:literal $flags:ident $text:expr) => {
        Form {
            text: $text,
            width: $width,
            flags: $flags,
            run: |State { mut rax, mut rcx, mut rdx, mut flags }, at| {
                // SAFETY: touches only the cell or the device register at `at`.
                unsafe {
                    asm!("push {flags}", "popfq", $text, "pushfq", "pop {flags}", flags = inout(reg) flags,
                        inout("rax") rax, inout("rcx") rcx, inout("rdx") rdx, in("rdi") at, in("rsi") 4_u64,
                        in("r12") at, in("r13") at, out("r8") _, out("r9") _, out("r14") _, out("r15") _);
                }
                State { rax, rcx, rdx, flags }
            },
        }
    };
}

/// Forms given as width, flags, text.
macro_rules! forms {
    ($name:ident: $($width:literal $flags:ident $text:literal),* $(,)?) => {
        const $name: &[Form] = &[$(form!($width $flags $text)),*];
    };
}

/// All forms of an operation with two operands.
macro_rules! operations {
    ($name:ident: $($flags:ident $op:literal),*) => {
        const $name: &[&[Form]] = &[$(&[
            form!(1 $flags concat!($op, " [rdi], dl")),
            form!(1 $flags concat!($op, " [rdi], dh")),
            form!(2 $flags concat!($op, " [rdi], dx")),
            form!(4 $flags concat!($op, " [rdi], edx")),
            form!(8 $flags concat!($op, " [rdi], rdx")),
            form!(1 $flags concat!($op, " dl, [rdi]")),
            form!(1 $flags concat!($op, " dh, [rdi]")),
            form!(2 $flags concat!($op, " dx, [rdi]")),
            form!(4 $flags concat!($op, " edx, [rdi]")),
            form!(8 $flags concat!($op, " rdx, [rdi]")),
            form!(1 $flags concat!($op, " byte ptr [rdi], 0x81")),
            form!(2 $flags concat!($op, " word ptr [rdi], -2")),
            form!(2 $flags concat!($op, " word ptr [rdi], 0x2481")),
            form!(4 $flags concat!($op, " dword ptr [rdi], -2")),
            form!(4 $flags concat!($op, " dword ptr [rdi], 0x12345678")),
            form!(8 $flags concat!($op, " qword ptr [rdi], -2")),
            form!(8 $flags concat!($op, " qword ptr [rdi], -0x12345678")),
        ]),*];
    };
}

forms! { MOVES:
    1 ALL "mov al, [rdi]", 1 ALL "mov ah, [rdi]", 1 ALL "mov dh, [rdi]", 2 ALL "mov ax, [rdi]", 4 ALL "mov eax, [rdi]",
    8 ALL "mov rax, [rdi]",
    1 ALL "mov [rdi], al", 1 ALL "mov [rdi], dh", 2 ALL "mov [rdi], cx", 4 ALL "mov [rdi], edx", 8 ALL "mov [rdi], rdx",
    1 ALL "mov byte ptr [rdi], 0x9c", 2 ALL "mov word ptr [rdi], 0xa9c3", 4 ALL "mov dword ptr [rdi], 0x89abcdef",
    8 ALL "mov qword ptr [rdi], -0x7654321",
    1 ALL "movzx ax, byte ptr [rdi]", 1 ALL "movzx eax, byte ptr [rdi]", 1 ALL "movzx rax, byte ptr [rdi]",
    2 ALL "movzx eax, word ptr [rdi]", 2 ALL "movzx rax, word ptr [rdi]",
    1 ALL "movsx ax, byte ptr [rdi]", 1 ALL "movsx eax, byte ptr [rdi]", 1 ALL "movsx rax, byte ptr [rdi]",
    2 ALL "movsx eax, word ptr [rdi]", 2 ALL "movsx rax, word ptr [rdi]", 4 ALL "movsxd rax, dword ptr [rdi]",
    4 ALL "movnti [rdi], edx", 8 ALL "movnti [rdi], rdx",
    4 ALL "mov eax, [rdi + rsi * 4 - 16]", 4 ALL "mov eax, [r12]", 4 ALL "mov eax, [r13]", 4 ALL "mov r8d, [rdi]; mov eax, r8d",
    4 ALL "lea r14, [rdi - 0x12345678]; mov eax, [r14 + 0x12345678]", 4 ALL "lea r15, [rdi + 0x70]; mov eax, [r15 - 0x70]",
    4 ALL "mov eax, [edi]", 4 ALL "mov [rdi + rsi * 8 - 32], ecx", 4 ALL "mov [r13], edx",
    1 ALL "mov sil, 0x6d; mov [rdi], sil; mov esi, 4", 1 ALL "mov r9b, [rdi]; mov al, r9b",
    4 ALL "mov eax, cs:[rdi]", 4 ALL "mov eax, ss:[rdi]",
}

forms! { EXCHANGES:
    1 ALL "xchg [rdi], al", 1 ALL "xchg [rdi], dh", 2 ALL "xchg [rdi], ax", 4 ALL "xchg [rdi], eax", 8 ALL "xchg [rdi], rax",
    1 ALL "cmpxchg [rdi], cl", 2 ALL "cmpxchg [rdi], cx", 4 ALL "cmpxchg [rdi], ecx", 8 ALL "cmpxchg [rdi], rcx",
    1 ALL "lock cmpxchg [rdi], dh", 4 ALL "lock cmpxchg [rdi], edx", 8 ALL "lock cmpxchg [rdi], rdx",
    1 ALL "xadd [rdi], al", 2 ALL "xadd [rdi], cx", 4 ALL "xadd [rdi], edx", 4 ALL "lock xadd [rdi], eax", 8 ALL "xadd [rdi], rdx",
}

forms! { REST:
    4 ALL "lock add [rdi], edx", 4 LOGIC "lock or [rdi], edx", 4 LOGIC "lock and [rdi], edx", 4 LOGIC "lock xor dword ptr [rdi], 1",
    4 ALL "lock sub [rdi], edx", 4 ALL "lock inc dword ptr [rdi]", 4 ALL "lock dec dword ptr [rdi]",
    1 LOGIC "test [rdi], dl", 2 LOGIC "test [rdi], dx", 4 LOGIC "test [rdi], edx", 8 LOGIC "test [rdi], rdx",
    1 LOGIC "test byte ptr [rdi], 0x81", 2 LOGIC "test word ptr [rdi], 0x8001", 4 LOGIC "test dword ptr [rdi], 0x80000001",
    8 LOGIC "test qword ptr [rdi], -8",
    1 ALL "inc byte ptr [rdi]", 2 ALL "inc word ptr [rdi]", 4 ALL "inc dword ptr [rdi]", 8 ALL "inc qword ptr [rdi]",
    1 ALL "dec byte ptr [rdi]", 2 ALL "dec word ptr [rdi]", 4 ALL "dec dword ptr [rdi]", 8 ALL "dec qword ptr [rdi]",
    1 ALL "not byte ptr [rdi]", 2 ALL "not word ptr [rdi]", 4 ALL "not dword ptr [rdi]", 8 ALL "not qword ptr [rdi]",
    1 ALL "neg byte ptr [rdi]", 2 ALL "neg word ptr [rdi]", 4 ALL "neg dword ptr [rdi]", 8 ALL "neg qword ptr [rdi]",
    2 CARRY "bt [rdi], cx", 4 CARRY "bt [rdi], ecx", 8 CARRY "bt [rdi], rcx", 4 CARRY "bt dword ptr [rdi], 31",
    2 CARRY "bts [rdi], cx", 4 CARRY "bts [rdi], ecx", 8 CARRY "bts [rdi], rcx", 4 CARRY "bts dword ptr [rdi], 30",
    2 CARRY "btr [rdi], cx", 4 CARRY "btr [rdi], ecx", 8 CARRY "btr [rdi], rcx", 4 CARRY "btr dword ptr [rdi], 31",
    2 CARRY "btc [rdi], cx", 4 CARRY "btc [rdi], ecx", 8 CARRY "btc [rdi], rcx", 4 CARRY "btc dword ptr [rdi], 5",
    4 CARRY "lock bts dword ptr [rdi], 9", 4 CARRY "lock btr [rdi], ecx",
}

operations! { OPERATIONS:
    ALL "add", LOGIC "or", ALL "adc", ALL "sbb", LOGIC "and", ALL "sub", LOGIC "xor", ALL "cmp"
}

pub(crate) fn run() {
    apic::enable();
    // One-shot, masked: the count can be written and nothing comes of it.
    apic::write(register::LVT_TIMER, apic::MASKED | 0xee);
    let operations = OPERATIONS.iter().copied().flatten();
    for form in MOVES.iter().chain(EXCHANGES).chain(REST).chain(operations) {
        let outcome = compare(form);
        check!(format_args!("mmio {}", form.text), outcome.is_ok(), "{outcome:x?}");
    }
    apic::write(register::TIMER_INITIAL, 0);
    moffs();
    segments();
    partial_registers();
    flags_decide();
}

/// The first difference between RAM and a device: which, the device's state and contents, RAM's.
type Difference = (&'static str, State, u64, State, u64);

fn compare(form: &Form) -> Result<(), Difference> {
    let mask = if form.width == 8 { u64::MAX } else { (1 << (8 * form.width)) - 1 };
    let states = [
        State { rax: 0x1122_3344_5566_7788, rcx: 5, rdx: 0xfedc_ba98_7654_3210, flags: 2 },
        State { rax: 0xa595, rcx: 0x8009 & 0xf, rdx: 0x0102_8304_8506_8788, flags: ALL | 2 },
    ];
    for state in states {
        in_hole(form, mask, state)?;
        // CMPXCHG takes its other way where RAX holds what is in memory.
        in_hole(form, mask, State { rax: mask, ..state })?;
        match form.width {
            1 | 2 => in_window(form, mask & ENTRY_WRITABLE, state)?,
            4 => {
                in_count(form, state)?;
                in_count(form, State { rax: 0x8765_4321, ..state })?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Runs `form` on RAM that holds `value`.
fn on_ram(form: &Form, value: u64, state: State) -> (State, u64) {
    let cell = core::hint::black_box([value, 0]);
    let after = (form.run)(state, core::ptr::from_ref(&cell).expose_provenance() as u64);
    (after, core::hint::black_box(&cell)[0])
}

fn alike(form: &Form, one: State, other: State) -> bool {
    let mask = |state: State| State { flags: state.flags & form.flags, ..state };
    mask(one) == mask(other)
}

fn in_hole(form: &Form, mask: u64, state: State) -> Result<(), Difference> {
    let (expected, _) = on_ram(form, mask, state);
    let found = (form.run)(state, HOLE);
    if alike(form, expected, found) { Ok(()) } else { Err(("hole", found, mask, expected, mask)) }
}

fn in_window(form: &Form, mask: u64, state: State) -> Result<(), Difference> {
    const VALUE: u64 = 0xa595;
    apic::write_io_apic(ENTRY, apic::MASKED | VALUE as u32);
    let (expected, ram) = on_ram(form, VALUE, state);
    let found = (form.run)(state, WINDOW);
    let register = u64::from(apic::read_io_apic(ENTRY));
    let same = (ram ^ register) & mask == 0 && alike(form, expected, found);
    if same { Ok(()) } else { Err(("window", found, register, expected, ram)) }
}

fn in_count(form: &Form, state: State) -> Result<(), Difference> {
    const VALUE: u64 = 0x8765_4321;
    apic::write(register::TIMER_INITIAL, VALUE as u32);
    let (expected, ram) = on_ram(form, VALUE, state);
    let found = (form.run)(state, COUNT);
    let register = u64::from(apic::read(register::TIMER_INITIAL));
    let same = ram == register && alike(form, expected, found);
    if same { Ok(()) } else { Err(("count", found, register, expected, ram)) }
}

/// MOV between the accumulator and an address in the instruction.
fn moffs() {
    let (byte, half, word, quad): (u64, u64, u64, u64);
    // SAFETY: the hole.
    unsafe {
        asm!("xor eax, eax", "movabs byte ptr [{hole}], al", "movabs word ptr [{hole}], ax",
            "movabs dword ptr [{hole}], eax", "movabs qword ptr [{hole}], rax",
            hole = const HOLE, out("rax") _, options(nostack));
        asm!("xor eax, eax", "movabs al, byte ptr [{hole}]", hole = const HOLE, out("rax") byte, options(nostack));
        asm!("xor eax, eax", "movabs ax, word ptr [{hole}]", hole = const HOLE, out("rax") half, options(nostack));
        asm!("xor eax, eax", "movabs eax, dword ptr [{hole}]", hole = const HOLE, out("rax") word, options(nostack));
        asm!("xor eax, eax", "movabs rax, qword ptr [{hole}]", hole = const HOLE, out("rax") quad, options(nostack));
    }
    check!(
        "mmio moffs",
        [byte, half, word, quad] == [0xff, 0xffff, 0xffff_ffff, u64::MAX],
        "{byte:x} {half:x} {word:x} {quad:x}"
    );
}

/// FS and GS add their bases.
fn segments() {
    apic::write_io_apic(ENTRY, apic::MASKED | 0x21);
    let (fs, gs): (u32, u32);
    // SAFETY: FS and GS are not in use; their bases are 0 again at the end.
    unsafe {
        let _ = cpu::write_msr(msr::FS_BASE, apic::IO_APIC_GPA);
        let _ = cpu::write_msr(msr::GS_BASE, WINDOW - 0x1000);
        asm!("mov {:e}, fs:[0x10]", "mov {:e}, gs:[{}]", out(reg) fs, out(reg) gs, in(reg) 0x1000_u64, options(nostack));
        let _ = cpu::write_msr(msr::FS_BASE, 0);
        let _ = cpu::write_msr(msr::GS_BASE, 0);
    }
    let expected = apic::MASKED | 0x21;
    check!("mmio fs and gs", [fs, gs] == [expected; 2], "{fs:#x} {gs:#x}");
}

/// A register's bytes by themselves.
fn partial_registers() {
    apic::write_io_apic(ENTRY, apic::MASKED | 0xa321);
    let (mut bytes, mut halves) = ([0_u8; 4], [0_u16; 2]);
    for (offset, byte) in (0..).zip(&mut bytes) {
        // SAFETY: reads a device register.
        *byte = unsafe {
            core::ptr::with_exposed_provenance::<u8>((WINDOW + offset) as usize).read_volatile()
        };
    }
    for (offset, half) in (0..).step_by(2).zip(&mut halves) {
        // SAFETY: likewise.
        *half = unsafe {
            core::ptr::with_exposed_provenance::<u16>((WINDOW + offset) as usize).read_volatile()
        };
    }
    check!("mmio bytes of a register", bytes == [0x21, 0xa3, 1, 0], "{bytes:x?}");
    check!("mmio halves of a register", halves == [0xa321, 1], "{halves:x?}");
}

/// Conditional jumps right after a compare with a device register, as drivers have them.
fn flags_decide() {
    apic::write_io_apic(ENTRY, apic::MASKED | 0x80);
    let (above, negative): (u8, u8);
    // SAFETY: reads a device register.
    unsafe {
        asm!("cmp byte ptr [{at}], 0x7f", "seta {above}", "cmp byte ptr [{at}], 0", "sets {negative}",
            at = in(reg) WINDOW, above = out(reg_byte) above, negative = out(reg_byte) negative, options(nostack));
    }
    check!("mmio flags decide", [above, negative] == [1, 1], "{above} {negative}");
}
