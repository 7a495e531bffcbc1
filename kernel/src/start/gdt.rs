//! Global descriptor table and task-state segment of one CPU (SDM vol. 3, 3.4.5 and 8.7).

use core::arch::asm;
use core::mem::size_of;

/// Selector of the 64-bit code segment.
pub(super) const CODE: u16 = 0x08;
/// Selector of the data segment.
const DATA: u16 = 0x10;
/// Selector of the task-state segment.
const TASK: u16 = 0x18;

/// The 64-bit task-state segment: stacks, and an I/O map that allows nothing.
#[derive(Debug)]
#[repr(C, packed(4))]
pub(super) struct Tss {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    /// Stacks by IST number, from 1.
    pub(super) ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

const _: () = assert!(size_of::<Tss>() == 104);

impl Tss {
    pub(super) const fn new() -> Self {
        Self {
            reserved0: 0,
            rsp: [0; 3],
            reserved1: 0,
            ist: [0; 7],
            reserved2: 0,
            reserved3: 0,
            io_map: size_of::<Self>() as u16,
        }
    }
}

/// Null, code, data, and the two words of the task-state segment's descriptor.
#[derive(Debug)]
#[repr(C, align(16))]
pub(super) struct Gdt([u64; 5]);

impl Gdt {
    pub(super) const fn new() -> Self {
        // Accessed bits are set, so that the CPU need not write to them.
        Self([0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0, 0])
    }

    /// Points the task-state descriptor at `tss`: present, available 64-bit TSS.
    pub(super) fn set_task(&mut self, tss: *const Tss) {
        let base = tss as u64;
        let limit = size_of::<Tss>() as u64 - 1;
        self.0[3] = limit | (base & 0xff_ffff) << 16 | 0x89 << 40 | (base >> 24 & 0xff) << 56;
        self.0[4] = base >> 32;
    }
}

/// What LGDT and LIDT take.
#[repr(C, packed(2))]
pub(super) struct TablePointer {
    pub(super) limit: u16,
    pub(super) base: u64,
}

/// Loads the table, the segment registers and the task register. FS and GS are left with base 0.
///
/// # Safety
/// The table and its TSS live, unmoved, as long as the CPU runs; their stacks are good.
pub(super) unsafe fn load(gdt: *const Gdt) {
    let pointer = TablePointer { limit: size_of::<Gdt>() as u16 - 1, base: gdt as u64 };
    // SAFETY: the descriptors are those of `Gdt::new`: flat code and data as the CPU runs now, and the caller's TSS.
    unsafe {
        asm!(
            "lgdt [{pointer}]",
            "push {code}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ds, {data:e}",
            "mov es, {data:e}",
            "mov ss, {data:e}",
            "xor {scratch:e}, {scratch:e}",
            "mov fs, {scratch:e}",
            "mov gs, {scratch:e}",
            "lldt {scratch:x}",
            "ltr {task:x}",
            pointer = in(reg) &raw const pointer,
            code = const CODE as u64,
            data = in(reg) u32::from(DATA),
            task = in(reg) TASK,
            scratch = out(reg) _,
        );
    }
}
