//! MOVDIR64B (SDM vol. 2): what it moves by which addresses, and its faults. The same whether the CPU has it or Kerf
//! emulates it.

#![no_std]
#![no_main]

use core::sync::atomic::Ordering::Relaxed;

use guests::{
    attempt, check, cpu, nowhere,
    paging::{self, FREE, Page, bit},
    read_register,
    trap::{GP, PF, Trap, UD},
};

guests::guest!("movdir64b", run);

const SS: u8 = 12;
const FS_BASE: u32 = 0xc000_0100;
const WP: u64 = 1 << 16;
const BYTES: usize = 64;

static SOURCE: [Page; 2] = [const { Page::new() }; 2];
static TARGET: Page = Page::new();
/// Where destinations are in [`TARGET`].
const AT: u64 = 1024;
const UNTOUCHED: u64 = 0xeeee_eeee_eeee_eeee;

fn run() {
    check!("cpuid-offers-it", cpu::cpuid(7, 0).ecx >> 28 & 1 == 1);
    moves();
    addresses();
    faults();
    undefined();
    devices();
}

/// The byte of the sources at an offset from the first page's start.
const fn pattern(at: usize) -> u8 {
    (at * 7 + at / 256) as u8
}

fn prepare() {
    for (index, page) in SOURCE.iter().enumerate() {
        for at in 0..4096 {
            page.put(at, &[pattern(4096 * index + at)]);
        }
    }
    for word in TARGET.words() {
        word.store(UNTOUCHED, Relaxed);
    }
}

fn source(at: usize) -> u64 {
    SOURCE[0].gpa() + at as u64
}

fn target() -> u64 {
    TARGET.gpa() + AT
}

/// Whether the target has the 64 bytes of the sources at an offset, and nothing else.
fn holds(at: usize) -> bool {
    let first = AT as usize / 8;
    TARGET.words().iter().enumerate().all(|(index, word)| {
        let expected = match index.checked_sub(first) {
            Some(part) if part < BYTES / 8 => {
                let byte = |byte| pattern(at + 8 * part + byte);
                u64::from_le_bytes(core::array::from_fn(byte))
            }
            _ => UNTOUCHED,
        };
        word.load(Relaxed) == expected
    })
}

fn is_untouched() -> bool {
    TARGET.words().iter().all(|word| word.load(Relaxed) == UNTOUCHED)
}

/// `movdir64b rdi, [rsi]`.
fn block(to: u64, from: u64) -> Result<(), Trap> {
    // SAFETY: writes 64 bytes of `TARGET` or of nothing.
    unsafe { attempt!("movdir64b rdi, [rsi]", in("rdi") to, in("rsi") from) }
}

fn moves() {
    for (name, at) in [("aligned", 64), ("unaligned", 1001), ("across-pages", 4096 - 31)] {
        prepare();
        let moved = block(target(), source(at));
        check!(name, moved == Ok(()) && holds(at), "{moved:?}");
    }
    prepare();
    let flags: u64;
    // SAFETY: as for `block`; the flags are the ones that were there.
    let moved = unsafe {
        attempt!("pushfq; or qword ptr [rsp], 0x8d5; popfq; movdir64b rdi, [rsi]; pushfq; pop rax",
            in("rdi") target(), in("rsi") source(8), out("rax") flags)
    };
    check!("flags-stay", moved == Ok(()) && flags & 0x8d5 == 0x8d5 && holds(8), "{flags:#x}");
}

fn addresses() {
    prepare();
    // SAFETY: as for `block`.
    let moved = unsafe {
        attempt!("movdir64b r9, [r10 + r12 * 4 + 0x10]", in("r9") target(), in("r10") source(0),
            in("r12") 0x40_u64)
    };
    check!("extended-registers", moved == Ok(()) && holds(0x110), "{moved:?}");
    prepare();
    // SAFETY: likewise.
    let moved = unsafe {
        attempt!("movdir64b rdi, [rip + {source} + 0x20]", in("rdi") target(), source = sym SOURCE)
    };
    check!("rip-relative", moved == Ok(()) && holds(0x20), "{moved:?}");
    prepare();
    let high = 0xabcd_0000_0000_0000;
    // SAFETY: likewise; all of it lies below 4 GiB.
    let moved = unsafe {
        attempt!("movdir64b edi, [esi]", in("rdi") target() | high, in("rsi") source(3) | high)
    };
    check!("32-bit-addresses", moved == Ok(()) && holds(3), "{moved:?}");
    prepare();
    // SAFETY: nothing else uses FS.
    let set = unsafe { cpu::write_msr(FS_BASE, 0x40) };
    // SAFETY: as for `block`.
    let moved =
        unsafe { attempt!("movdir64b rdi, fs:[rsi]", in("rdi") target(), in("rsi") source(0)) };
    check!("segment-of-the-source-alone", set == Ok(()) && moved == Ok(()) && holds(0x40));
}

fn faults() {
    prepare();
    let trap = |vector, error| Err(Trap { vector, error });
    let is = |name: &str, got: Result<(), Trap>, expected| {
        check!(name, got == expected && is_untouched(), "{got:?}");
    };
    let not_canonical = 1 << 63;
    is("not-aligned", block(target() + 8, source(0)), trap(GP, 0));
    is("destination-not-canonical", block(not_canonical, source(0)), trap(GP, 0));
    is("source-not-canonical", block(target(), not_canonical), trap(GP, 0));
    // SAFETY: faults.
    let stack = unsafe {
        attempt!("movdir64b rdi, [rsp + rsi]", in("rdi") target(), in("rsi") not_canonical)
    };
    is("by-the-stack-segment", stack, trap(SS, 0));
    page_faults();
}

fn page_faults() {
    let trap = |error| Err(Trap { vector: PF, error });
    let is = |name: &str, got: Result<(), Trap>, expected, address: u64| {
        let cr2 = read_register!("cr2");
        check!(
            name,
            got == expected && cr2 == address && is_untouched(),
            "{got:?} at {cr2:#x} not {address:#x}"
        );
    };
    paging::map(FREE, SOURCE[0].gpa(), bit::PRESENT | bit::WRITABLE);
    let absent = FREE + 4096;
    is("source-absent", block(target(), absent + 8), trap(0), absent + 8);
    is("source-ends-absent", block(target(), absent - 8), trap(0), absent);
    is("destination-absent", block(absent + 128, source(0)), trap(2), absent + 128);
    let cr0 = read_register!("cr0");
    // SAFETY: no code or stack lies in read-only pages.
    let protected = unsafe { guests::write_register!("cr0", cr0 | WP) };
    let read_only = FREE + 0x2000;
    let entry = paging::map(read_only, TARGET.gpa(), bit::PRESENT);
    is("destination-read-only", block(read_only + AT, source(0)), trap(3), read_only + AT);
    check!("reading-is-no-writing", protected == Ok(()) && entry.load(Relaxed) & bit::DIRTY == 0);
    let entry = paging::map(read_only, TARGET.gpa(), bit::PRESENT | bit::WRITABLE);
    paging::invalidate(read_only);
    let moved = block(read_only + AT, FREE + 5);
    let marks = bit::ACCESSED | bit::DIRTY;
    check!(
        "pages-are-marked",
        moved == Ok(()) && holds(5) && entry.load(Relaxed) & marks == marks,
        "{moved:?}"
    );
}

/// An encoding with RDI and RSI that point where MOVDIR64B may write and read.
macro_rules! encoding {
    ($bytes:literal) => {
        // SAFETY: raises #UD.
        unsafe { attempt!(concat!(".byte ", $bytes), in("rdi") target(), in("rsi") source(0)) }
    };
}

fn undefined() {
    prepare();
    for (name, got) in [
        ("with-lock", encoding!("0xf0, 0x66, 0x0f, 0x38, 0xf8, 0x3e")),
        ("without-66", encoding!("0x0f, 0x38, 0xf8, 0x3e")),
        ("of-a-register", encoding!("0x66, 0x0f, 0x38, 0xf8, 0xfe")),
        ("ud2", encoding!("0x0f, 0x0b")),
        ("another-opcode", encoding!("0x66, 0x0f, 0x38, 0xfe, 0x3e")),
    ] {
        check!(name, got == Err(Trap { vector: UD, error: 0 }) && is_untouched(), "{got:?}");
    }
}

fn devices() {
    prepare();
    check!("to-nothing", block(nowhere::PAGE, source(0)) == Ok(()));
    let moved = block(target(), nowhere::PAGE);
    let first = AT as usize / 8;
    let ones = TARGET.words()[first..first + 8].iter().all(|word| word.load(Relaxed) == u64::MAX);
    check!("from-nothing", moved == Ok(()) && ones, "{moved:?}");
}
