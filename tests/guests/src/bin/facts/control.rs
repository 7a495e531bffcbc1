//! Control registers: what may change changes, also where the hypervisor holds bits of its own, and what may not is refused.

use guests::{
    attempt, check, read_register,
    trap::{GP, Trap},
    write_register,
};

const CR0_MP: u64 = 1 << 1;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR4_TSD: u64 = 1 << 2;
const CR4_DE: u64 = 1 << 3;
const CR4_PAE: u64 = 1 << 5;
const CR4_PGE: u64 = 1 << 7;
const CR4_VMXE: u64 = 1 << 13;

pub(crate) fn run() {
    bits_toggle();
    refused();
    caching();
    priority();
    word_forms();
}

fn bits_toggle() {
    for (name, bit) in [("mp", CR0_MP), ("ne", CR0_NE), ("wp", CR0_WP), ("am", CR0_AM)] {
        let old = read_register!("cr0");
        // SAFETY: none of these matters to code at privilege level 0 that writes only writable pages.
        let (other, back) = unsafe {
            let _ = write_register!("cr0", old ^ bit);
            let other = read_register!("cr0");
            let _ = write_register!("cr0", old);
            (other, read_register!("cr0"))
        };
        check!(
            format_args!("cr0-{name}-toggles"),
            other == old ^ bit && back == old,
            "{old:x} {other:x} {back:x}"
        );
    }
    for (name, bit) in [("tsd", CR4_TSD), ("de", CR4_DE), ("pge", CR4_PGE)] {
        let old = read_register!("cr4");
        // SAFETY: likewise.
        let (other, back) = unsafe {
            let _ = write_register!("cr4", old ^ bit);
            let other = read_register!("cr4");
            let _ = write_register!("cr4", old);
            (other, read_register!("cr4"))
        };
        check!(
            format_args!("cr4-{name}-toggles"),
            other == old ^ bit && back == old,
            "{old:x} {other:x} {back:x}"
        );
    }
    let cr4 = read_register!("cr4");
    check!("cr4-hides-vmxe", cr4 & CR4_VMXE == 0, "{cr4:#x}");
}

/// Long mode needs PAE; the rest is reserved or not offered.
fn refused() {
    let cr4 = read_register!("cr4");
    for (name, value) in [
        ("without-pae", cr4 & !CR4_PAE),
        ("vmxe", cr4 | CR4_VMXE),
        ("bit-15", cr4 | 1 << 15),
        ("bit-31", cr4 | 1 << 31),
        ("bit-63", cr4 | 1 << 63),
    ] {
        // SAFETY: it is refused.
        let refused = unsafe { write_register!("cr4", value) };
        let now = read_register!("cr4");
        let is_as_before = refused == Err(Trap { vector: GP, error: 0 }) && now == cr4;
        check!(format_args!("cr4-refuses-{name}"), is_as_before, "{refused:x?} {now:x}");
    }
}

/// Linux does this when it sets MTRRs and the PAT.
fn caching() {
    let old = read_register!("cr0");
    // SAFETY: caches off and on again; memory keeps its contents.
    let (off, invalidated, back) = unsafe {
        let _ = write_register!("cr0", (old | CR0_CD) & !CR0_NW);
        let off = read_register!("cr0");
        let invalidated = attempt!("wbinvd");
        let _ = write_register!("cr0", old);
        (off, invalidated, read_register!("cr0"))
    };
    check!(
        "cr0-cd-toggles",
        off == (old | CR0_CD) & !CR0_NW && back == old,
        "{old:x} {off:x} {back:x}"
    );
    check!("wbinvd-goes-on", invalidated.is_ok(), "{invalidated:x?}");
}

fn priority() {
    use guests::apic::{self, register};
    apic::enable();
    for class in [0, 5, 15, 0] {
        // SAFETY: interrupts are off.
        let written = unsafe { write_register!("cr8", class) };
        let (read, task) = (read_register!("cr8"), apic::read(register::TASK_PRIORITY));
        let agree = written.is_ok() && read == class && u64::from(task) == class << 4;
        check!("cr8-is-the-task-priority", agree, "{class}: {written:x?} {read:x} {task:x}");
    }
    apic::write(register::TASK_PRIORITY, 0x73);
    let class = read_register!("cr8");
    check!("cr8-shows-the-task-priority", class == 7, "{class}");
    apic::write(register::TASK_PRIORITY, 0);
}

/// SMSW, LMSW and CLTS.
fn word_forms() {
    const TS: u64 = 1 << 3;
    let old = read_register!("cr0");
    let (word, set, cleared): (u64, u64, u64);
    // SAFETY: TS is clear again at the end.
    unsafe {
        core::arch::asm!("smsw rax", "mov {word}, rax", "or eax, 8", "lmsw ax", "mov {set}, cr0", "clts",
            "mov {cleared}, cr0", word = out(reg) word, set = out(reg) set, cleared = out(reg) cleared,
            out("rax") _, options(nomem, nostack));
    }
    check!("smsw-reads-cr0", word & 0xffff == old & 0xffff, "{word:x} {old:x}");
    check!("lmsw-sets-ts", set == old | TS, "{set:x} {old:x}");
    check!("clts-clears-ts", cleared == old & !TS, "{cleared:x} {old:x}");
}
