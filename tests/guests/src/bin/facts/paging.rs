//! The guest's own page tables under nested paging: protection, no-execute, page faults' error codes and CR2, accessed and
//! dirty bits, translations that are forgotten when they must be.

use core::sync::atomic::Ordering::Relaxed;

use guests::{
    attempt, check, cpu,
    paging::{self, Page, bit},
    read_register,
    trap::{PF, Trap},
    write_register,
};

const VIEW: u64 = paging::FREE + 0x30_0000;
static FRAMES: [Page; 3] = [const { Page::new() }; 3];

const CR0_WP: u64 = 1 << 16;
const CR4_PGE: u64 = 1 << 7;
const EFER: u32 = 0xc000_0080;
const EFER_NXE: u64 = 1 << 11;
const GLOBAL: u64 = 1 << 8;

const PRESENT: u32 = 1 << 0;
const WRITE: u32 = 1 << 1;
const RESERVED: u32 = 1 << 3;
const FETCH: u32 = 1 << 4;

const READ_WRITE: u64 = bit::PRESENT | bit::WRITABLE;

fn remap(frame: usize, bits: u64) {
    paging::map(VIEW, FRAMES[frame].gpa(), bits);
    paging::invalidate(VIEW);
}

fn read(gva: u64) -> Result<u64, Trap> {
    let mut value = 0_u64;
    // SAFETY: reads one of the frames, or faults.
    unsafe { attempt!("mov {value}, [{gva}]", value = inout(reg) value, gva = in(reg) gva) }?;
    Ok(value)
}

fn write(gva: u64, value: u64) -> Result<(), Trap> {
    // SAFETY: writes one of the frames, or faults.
    unsafe { attempt!("mov [{gva}], {value}", value = in(reg) value, gva = in(reg) gva) }
}

fn execute(gva: u64) -> Result<(), Trap> {
    // SAFETY: `jmp r14` is there, back to here.
    unsafe { attempt!("lea r14, [rip + 33f]; jmp {gva}; 33: nop", gva = in(reg) gva, out("r14") _) }
}

fn fault(error: u32) -> Trap {
    Trap { vector: PF, error }
}

/// A reserved bit was set. (QEMU 11.1 does not say then that the page is present.)
fn is_reserved(trap: Trap) -> bool {
    trap.vector == PF && trap.error & !PRESENT == RESERVED
}

pub(crate) fn run() {
    for (value, frame) in (1..).zip(&FRAMES) {
        frame.words()[0].store(value << 32 | 0x00e6_ff41, Relaxed);
    }
    absent();
    write_protection();
    no_execute();
    reserved_bits();
    accessed_and_dirty();
    remapping();
    global_pages();
    root_switch();
}

fn absent() {
    paging::map(VIEW, 0, 0);
    paging::invalidate(VIEW);
    let found = [read(VIEW + 0x123), write(VIEW + 0x456, 0).map(|()| 0)];
    let address = read_register!("cr2");
    check!("page-fault-absent", found == [Err(fault(0)), Err(fault(WRITE))], "{found:x?}");
    check!("page-fault-cr2", address == VIEW + 0x456, "{address:#x}");
    let _ = cpu::cpuid(0, 0);
    let _ = cpu::in8(crate::port::SCRATCH);
    let kept = read_register!("cr2");
    check!("page-fault-cr2-kept-across-exits", kept == VIEW + 0x456, "{kept:#x}");
    remap(0, READ_WRITE);
    let found = read(VIEW);
    check!("page-becomes-present", found == Ok(FRAMES[0].words()[0].load(Relaxed)), "{found:x?}");
}

fn write_protection() {
    remap(0, bit::PRESENT);
    let cr0 = read_register!("cr0");
    // SAFETY: nobody else depends on WP.
    let (free, protected) = unsafe {
        let _ = write_register!("cr0", cr0 & !CR0_WP);
        let free = write(VIEW + 8, 7);
        let _ = write_register!("cr0", cr0 | CR0_WP);
        let protected = write(VIEW + 8, 8);
        let _ = write_register!("cr0", cr0);
        (free, protected)
    };
    check!("write-protection-off", free.is_ok(), "{free:x?}");
    check!("write-protection-on", protected == Err(fault(PRESENT | WRITE)), "{protected:x?}");
    let value = FRAMES[0].words()[1].load(Relaxed);
    check!("write-protection-protects", value == 7, "{value}");
}

fn no_execute() {
    remap(0, READ_WRITE);
    let plain = execute(VIEW);
    check!("execute-without-nx", plain.is_ok(), "{plain:x?}");
    let efer = cpu::read_msr(EFER).unwrap_or(0);
    // SAFETY: gives bit 63 of entries its meaning; none has it yet.
    let enabled = unsafe { cpu::write_msr(EFER, efer | EFER_NXE) };
    remap(0, READ_WRITE | bit::NO_EXECUTE);
    let (found, data) = (execute(VIEW), read(VIEW));
    check!(
        "nx-forbids-fetches",
        enabled.is_ok() && found == Err(fault(PRESENT | FETCH)),
        "{enabled:x?} {found:x?}"
    );
    check!("nx-allows-data", data.is_ok(), "{data:x?}");
    // SAFETY: as before. Then the bit is reserved.
    let _ = unsafe { cpu::write_msr(EFER, efer & !EFER_NXE) };
    paging::invalidate(VIEW);
    let found = read(VIEW);
    check!("nx-is-reserved-without-nxe", found.is_err_and(is_reserved), "{found:x?}");
    remap(0, READ_WRITE);
    // SAFETY: as before.
    let _ = unsafe { cpu::write_msr(EFER, efer) };
}

/// Bits from MAXPHYADDR, as CPUID gives it, to 51.
fn reserved_bits() {
    let width = cpu::cpuid(0x8000_0008, 0).eax & 0xff;
    if width < 52 {
        remap(0, READ_WRITE | 1 << width);
        let found = read(VIEW);
        check!("reserved-bit-at-maxphyaddr", found.is_err_and(is_reserved), "{found:x?}");
    } else {
        check!("reserved-bit-at-maxphyaddr", true);
    }
    remap(0, READ_WRITE);
}

fn accessed_and_dirty() {
    const BOTH: u64 = bit::ACCESSED | bit::DIRTY;
    let entry = paging::map(VIEW, FRAMES[0].gpa(), READ_WRITE);
    paging::invalidate(VIEW);
    let mut marks = [entry.load(Relaxed) & BOTH, 0, 0];
    let _ = read(VIEW);
    marks[1] = entry.load(Relaxed) & BOTH;
    let _ = write(VIEW + 8, 0);
    marks[2] = entry.load(Relaxed) & BOTH;
    check!("accessed-and-dirty", marks == [0, bit::ACCESSED, BOTH], "{marks:x?}");
}

/// INVLPG, right after another frame was put in place, each time.
fn remapping() {
    let mut wrong = 0;
    for round in 0..300_usize {
        let frame = round % 3;
        remap(frame, READ_WRITE);
        wrong += u32::from(read(VIEW).map(|value| value >> 32) != Ok(frame as u64 + 1));
    }
    check!("invlpg-forgets", wrong == 0, "{wrong} of 300");
    let mut wrong = 0;
    for round in 0..300_usize {
        let frame = round % 3;
        paging::map(VIEW, FRAMES[frame].gpa(), READ_WRITE);
        reload_root();
        wrong += u32::from(read(VIEW).map(|value| value >> 32) != Ok(frame as u64 + 1));
    }
    check!("cr3-write-forgets", wrong == 0, "{wrong} of 300");
}

fn reload_root() {
    // SAFETY: the same tables.
    let _ = unsafe { write_register!("cr3", paging::root()) };
}

/// Turning CR4.PGE off and on forgets global translations.
fn global_pages() {
    let cr4 = read_register!("cr4");
    let mut wrong = 0;
    // SAFETY: no other page is global.
    let _ = unsafe { write_register!("cr4", cr4 | CR4_PGE) };
    for round in 0..50_usize {
        let frame = round % 3;
        paging::map(VIEW, FRAMES[frame].gpa(), READ_WRITE | GLOBAL);
        // SAFETY: likewise.
        unsafe {
            let _ = write_register!("cr4", cr4 & !CR4_PGE);
            let _ = write_register!("cr4", cr4 | CR4_PGE);
        }
        wrong += u32::from(read(VIEW).map(|value| value >> 32) != Ok(frame as u64 + 1));
    }
    check!("cr4-pge-forgets-global-pages", wrong == 0, "{wrong} of 50");
    remap(0, READ_WRITE);
    // SAFETY: as it was.
    let _ = unsafe { write_register!("cr4", cr4) };
}

/// Two roots that differ in one page, switched back and forth with exits between.
fn root_switch() {
    static OTHER: [Page; 4] = [const { Page::new() }; 4];
    // The same tables but for the free part, which has only the page at VIEW, in another frame.
    let root = paging::root();
    // SAFETY: the root table is a page of the guest's own that is mapped one to one.
    let own = unsafe { &*core::ptr::with_exposed_provenance::<Page>(root as usize) };
    for (to, from) in OTHER[0].words().iter().zip(own.words()) {
        to.store(from.load(Relaxed), Relaxed);
    }
    let index = |level: u32| (VIEW >> level) as usize & 511;
    let link = READ_WRITE | bit::USER;
    OTHER[0].words()[index(39)].store(OTHER[1].gpa() | link, Relaxed);
    OTHER[1].words()[index(30)].store(OTHER[2].gpa() | link, Relaxed);
    OTHER[2].words()[index(21)].store(OTHER[3].gpa() | link, Relaxed);
    OTHER[3].words()[index(12)].store(FRAMES[1].gpa() | READ_WRITE, Relaxed);
    remap(0, READ_WRITE);
    let mut wrong = 0;
    for round in 0..100_u64 {
        let other = round % 2;
        // SAFETY: both map code, stack and statics alike.
        let _ = unsafe { write_register!("cr3", if other == 1 { OTHER[0].gpa() } else { root }) };
        let _ = cpu::cpuid(0, 0);
        wrong += u32::from(read(VIEW).map(|value| value >> 32) != Ok(other + 1));
    }
    reload_root();
    check!("cr3-switch-changes-the-view", wrong == 0, "{wrong} of 100");
}
