//! String instructions on ports and on device memory: elements, direction, counts, and pages that do not follow each other.

use core::arch::asm;

use guests::{
    apic::{self, register},
    check, cpu, nowhere,
    paging::{self, Page, bit},
};

use crate::{
    mmio::COUNT,
    port::{CONFIG_ADDRESS, SCRATCH},
};

const HOLE: u64 = nowhere::PAGE + 0x100;

/// Where two frames are mapped in the wrong order.
const VIEW: u64 = paging::FREE + 0x10_0000;
static FRAMES: [Page; 2] = [const { Page::new() }; 2];

pub(crate) fn run() {
    to_and_from_ports();
    across_pages();
    backwards_and_nothing();
    into_devices();
    out_of_devices();
}

fn to_and_from_ports() {
    let text = *b"the last byte stays: Q";
    let (rsi, rcx): (u64, u64);
    // SAFETY: the scratch register.
    unsafe {
        asm!("rep outsb", in("dx") SCRATCH, inout("rsi") text.as_ptr() => rsi, inout("rcx") text.len() => rcx, options(nostack));
    }
    let moved = rsi - text.as_ptr().addr() as u64;
    let last = cpu::in8(SCRATCH);
    check!(
        "strings-rep-outsb",
        (moved, rcx, last) == (text.len() as u64, 0, b'Q'),
        "{moved} {rcx} {last:#x}"
    );

    let mut bytes = [0_u8; 24];
    let (rdi, rcx): (u64, u64);
    // SAFETY: 20 bytes of `bytes`.
    unsafe {
        asm!("rep insb", in("dx") SCRATCH, inout("rdi") bytes.as_mut_ptr() => rdi, inout("rcx") 20_u64 => rcx, options(nostack));
    }
    let moved = rdi - bytes.as_ptr().addr() as u64;
    let filled = bytes[..20] == [b'Q'; 20] && bytes[20..] == [0; 4];
    check!("strings-rep-insb", filled && (moved, rcx) == (20, 0), "{moved} {rcx} {bytes:x?}");

    let address = 0x8000_0008_u32;
    let mut found = [0_u32; 3];
    // SAFETY: CONFIG_ADDRESS, and `found`.
    unsafe {
        asm!("outsd", in("dx") CONFIG_ADDRESS, inout("rsi") &address => _, options(nostack));
        asm!("insd", "insd", in("dx") CONFIG_ADDRESS, inout("rdi") &mut found => _, options(nostack));
    }
    check!("strings-outsd-insd", found == [address, address, 0], "{found:x?}");
    let mut half = [0_u16; 2];
    // SAFETY: `half`.
    unsafe { asm!("insw", in("dx") 0xcfe_u16, inout("rdi") &mut half => _, options(nostack)) };
    check!("strings-insw", half == [0x0600, 0], "{half:x?}");
}

fn across_pages() {
    // The second page of the view lies before the first in memory.
    let writable = bit::PRESENT | bit::WRITABLE;
    let [first, second] = [&FRAMES[1], &FRAMES[0]];
    let entries = [
        paging::map(VIEW, first.gpa(), writable),
        paging::map(VIEW + 4096, second.gpa(), writable),
    ];
    cpu::out8(SCRATCH, 0xa7);
    // SAFETY: 64 bytes of the two frames.
    unsafe {
        asm!("rep insb", in("dx") SCRATCH, inout("rdi") VIEW + 4096 - 32 => _, inout("rcx") 64_u64 => _, options(nostack));
    }
    use core::sync::atomic::Ordering::Relaxed;
    let word = |page: &Page, index: usize| page.words()[index].load(Relaxed);
    let filled = [
        word(first, 507),
        word(first, 508),
        word(first, 511),
        word(second, 0),
        word(second, 3),
        word(second, 4),
    ];
    let full = 0xa7a7_a7a7_a7a7_a7a7;
    check!(
        "strings-rep-insb-across-pages",
        filled == [0, full, full, full, full, 0],
        "{filled:x?}"
    );
    let marked = entries.map(|entry| entry.load(Relaxed) & (bit::ACCESSED | bit::DIRTY));
    check!(
        "strings-mark-accessed-and-dirty",
        marked == [bit::ACCESSED | bit::DIRTY; 2],
        "{marked:x?}"
    );
    // One element that lies across the two pages.
    cpu::out32(CONFIG_ADDRESS, 0x8000_1234);
    // SAFETY: 4 bytes of the two frames.
    unsafe {
        asm!("insd", in("dx") CONFIG_ADDRESS, inout("rdi") VIEW + 4096 - 2 => _, options(nostack))
    };
    let parts = (word(first, 511) >> 48, word(second, 0) & 0xffff);
    check!("strings-insd-across-pages", parts == (0x1234, 0x8000), "{parts:x?}");
}

fn backwards_and_nothing() {
    let mut bytes = [0_u8; 8];
    cpu::out8(SCRATCH, 0x3c);
    let end = bytes.as_mut_ptr().wrapping_add(6);
    let rdi: u64;
    // SAFETY: 4 bytes of `bytes`, downwards; the direction flag is clear again.
    unsafe {
        asm!("std", "rep insb", "cld", in("dx") SCRATCH, inout("rdi") end => rdi, inout("rcx") 4_u64 => _, options(nostack));
    }
    let moved = (end.addr() as u64).wrapping_sub(rdi);
    let filled = bytes == [0, 0, 0, 0x3c, 0x3c, 0x3c, 0x3c, 0];
    check!("strings-backwards", filled && moved == 4, "{moved} {bytes:x?}");
    let (rsi, rdi): (u64, u64);
    // SAFETY: a count of 0 touches nothing.
    unsafe {
        asm!("rep outsb", "rep insb", in("dx") SCRATCH, inout("rsi") 0x1234_u64 => rsi, inout("rdi") 0x5678_u64 => rdi,
            in("rcx") 0_u64, options(nostack));
    }
    let scratch = cpu::in8(SCRATCH);
    check!(
        "strings-count-of-0",
        (rsi, rdi, scratch) == (0x1234, 0x5678, 0x3c),
        "{rsi:x} {rdi:x} {scratch:x}"
    );
}

fn into_devices() {
    let (rdi, rcx): (u64, u64);
    // SAFETY: the initial count of the masked timer, and what follows it, which takes no write.
    unsafe {
        asm!("rep stosd", in("eax") 0x0f1e_2d3c, inout("rdi") COUNT => rdi, inout("rcx") 3_u64 => rcx, options(nostack));
    }
    let count = apic::read(register::TIMER_INITIAL);
    check!(
        "strings-rep-stosd",
        (rdi, rcx, count) == (COUNT + 12, 0, 0x0f1e_2d3c),
        "{rdi:x} {rcx} {count:x}"
    );
    let source = 0x7b6a_5948_u32;
    let (rsi, rdi): (u64, u64);
    // SAFETY: likewise.
    unsafe {
        asm!("movsd", inout("rsi") &source => rsi, inout("rdi") COUNT => rdi, options(nostack))
    };
    let moved = (rsi - core::ptr::from_ref(&source).addr() as u64, rdi - COUNT);
    let count = apic::read(register::TIMER_INITIAL);
    check!("strings-movsd-to-a-device", moved == (4, 4) && count == source, "{moved:?} {count:x}");
    let mut ends = [0_u64; 4];
    // SAFETY: the hole.
    unsafe {
        asm!("stosb", inout("rdi") HOLE => ends[0], in("al") 0_u8, options(nostack));
        asm!("stosw", inout("rdi") HOLE => ends[1], in("ax") 0_u16, options(nostack));
        asm!("stosq", inout("rdi") HOLE => ends[2], in("rax") 0_u64, options(nostack));
        asm!("std", "stosq", "cld", inout("rdi") HOLE => ends[3], in("rax") 0_u64, options(nostack));
    }
    let moved = ends.map(|end| end.wrapping_sub(HOLE) as i64);
    check!("strings-stos-widths", moved == [1, 2, 8, -8], "{moved:?}");
    apic::write(register::TIMER_INITIAL, 0);
}

fn out_of_devices() {
    apic::write(register::TIMER_INITIAL, 0x1357_9bdf);
    let mut words = [0_u32; 3];
    let (rsi, rax): (u64, u64);
    // SAFETY: `words`, and the registers from the initial count on.
    unsafe {
        asm!("movsd", inout("rsi") COUNT => _, inout("rdi") &mut words => _, options(nostack));
        asm!("lodsd", inout("rsi") COUNT => rsi, out("rax") rax, options(nostack));
    }
    check!("strings-movsd-from-a-device", words == [0x1357_9bdf, 0, 0], "{words:x?}");
    check!("strings-lodsd", (rsi, rax) == (COUNT + 4, 0x1357_9bdf), "{rsi:x} {rax:x}");
    let mut bytes = [0_u8; 12];
    let rcx: u64;
    // SAFETY: `bytes`, and the hole.
    unsafe {
        asm!("rep movsb", inout("rsi") HOLE => _, inout("rdi") bytes.as_mut_ptr() => _, inout("rcx") 9_u64 => rcx, options(nostack));
    }
    check!(
        "strings-rep-movsb-from-a-hole",
        rcx == 0 && bytes[..9] == [0xff; 9] && bytes[9..] == [0; 3],
        "{bytes:x?}"
    );
    let rcx: u64;
    // SAFETY: the hole, within it.
    unsafe {
        asm!("rep movsq", inout("rsi") HOLE => _, inout("rdi") HOLE + 0x200 => _, inout("rcx") 3_u64 => rcx, options(nostack));
    }
    check!("strings-rep-movsq-within-a-hole", rcx == 0, "{rcx}");
    apic::write(register::TIMER_INITIAL, 0);
}
