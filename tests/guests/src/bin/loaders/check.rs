//! What a PVH or Multiboot loader left: registers, command line, two modules, memory map, ACPI tables.

use core::sync::atomic::{AtomicU32, Ordering};

use guests::{check, println};

/// What `xtask/src/suite/loaders.rs` gives.
const COMMAND_LINE: &[u8] = b"protocol test";
const MODULES: [(&[u8], &[u8]); 2] = [(b"first", b"the first module"), (b"second", b"the second")];
const MEMORY: u64 = 64 << 20;

const MULTIBOOT: u32 = 0x2bad_b002;
const PVH: u32 = 0x336e_c578;

unsafe extern "C" {
    /// EAX and EBX at the entry.
    safe static start_registers: [AtomicU32; 2];
}

/// The Multiboot header and the 32-bit entry: long mode on tables of its own below 16 KiB, then the 64-bit entry that all
/// guests have, with the boot information where Linux has its zero page.
macro_rules! entry {
    ($flags:path) => {
        core::arch::global_asm!(
            ".pushsection .start32, \"ax\"",
            ".balign 4",
            "multiboot_header:",
            ".long 0x1badb002, {flags}, -(0x1badb002 + {flags})",
            ".long multiboot_header, setup, edata, end, start_32",
            ".code32",
            ".globl start_32",
            "start_32:",
            "mov [start_registers], eax",
            "mov [start_registers + 4], ebx",
            "mov esp, 0x7000",
            "cld",
            "mov edi, 0x1000",
            "mov ecx, 0xc00",
            "xor eax, eax",
            "rep stosd",
            "mov dword ptr [0x1000], 0x2003",
            "mov dword ptr [0x2000], 0x3003",
            "mov edi, 0x3000",
            "mov eax, 0x83",
            "mov ecx, 512",
            "2:",
            "mov [edi], eax",
            "add eax, 0x200000",
            "add edi, 8",
            "dec ecx",
            "jnz 2b",
            "mov eax, 0x1000",
            "mov cr3, eax",
            "mov eax, cr4",
            "or eax, 0x20",
            "mov cr4, eax",
            "mov ecx, 0xc0000080",
            "rdmsr",
            "or eax, 0x100",
            "wrmsr",
            "mov eax, cr0",
            "or eax, 0x80000000",
            "mov cr0, eax",
            "lgdt [3f]",
            "push 0x10",
            "lea eax, [5f]",
            "push eax",
            "retf",
            ".code64",
            "5:",
            "mov esi, ebx",
            "jmp guest_entry",
            ".balign 8",
            "4: .quad 0, 0, 0x00af9b000000ffff",
            "3: .word 23",
            ".quad 4b",
            ".popsection",
            ".pushsection .data, \"aw\"",
            ".balign 8",
            ".globl start_registers",
            "start_registers: .quad 0",
            ".popsection",
            flags = const $flags,
        );
    };
}
pub(crate) use entry;

pub(crate) fn run() {
    let [eax, ebx] = [&start_registers[0], &start_registers[1]];
    let (eax, info) = (eax.load(Ordering::Relaxed), u64::from(ebx.load(Ordering::Relaxed)));
    if eax == MULTIBOOT {
        println!("started by Multiboot");
        multiboot(info);
    } else {
        println!("started by PVH");
        check!("pvh-magic", u32_at(info) == PVH, "{:#x}", u32_at(info));
        pvh(info);
    }
    let found = (0xe_0000..0x10_0000).step_by(16).find(|&at| bytes(at, 8) == b"RSD PTR ");
    check!("acpi-tables-are-where-pcs-have-them", found.is_some());
}

/// Multiboot Specification 0.6.96, 3.3.
fn multiboot(info: u64) {
    let field = |offset| u64::from(u32_at(info + offset));
    check!("information-is-marked", field(0) & 0x4d == 0x4d, "flags {:#x}", field(0));
    check!("memory-sizes", (field(4), field(8)) == (640, (MEMORY >> 10) - 1024));
    command_line(field(16));
    check!("modules-are-counted", field(20) == MODULES.len() as u64, "{}", field(20));
    for (at, expected) in (field(24)..).step_by(16).zip(MODULES) {
        let word = |offset| u64::from(u32_at(at + offset));
        module(word(0), word(4) - word(0), word(8), expected);
    }
    let mut at = field(48);
    let mut ram = 0;
    while at < field(48) + field(44) {
        if u32_at(at + 20) == 1 {
            ram += u64_at(at + 12);
        }
        at += 4 + u64::from(u32_at(at));
    }
    check!("memory-map-is-all-ram", ram == MEMORY - (0x10_0000 - 0xa_0000), "{ram:#x}");
}

/// Xen, start_info.h.
fn pvh(info: u64) {
    check!("pvh-version", u32_at(info + 4) == 1);
    check!("modules-are-counted", u32_at(info + 12) == MODULES.len() as u32);
    for (at, expected) in (u64_at(info + 16)..).step_by(32).zip(MODULES) {
        module(u64_at(at), u64_at(at + 8), u64_at(at + 16), expected);
    }
    command_line(u64_at(info + 24));
    check!("rsdp-is-named", bytes(u64_at(info + 32), 8) == b"RSD PTR ");
    let map = u64_at(info + 40);
    let entries = (0..u64::from(u32_at(info + 48))).map(|index| map + 24 * index);
    let ram: u64 = entries.filter(|at| u32_at(at + 16) == 1).map(|at| u64_at(at + 8)).sum();
    check!("memory-map-is-all-ram", ram == MEMORY - (0x10_0000 - 0xa_0000), "{ram:#x}");
}

fn command_line(at: u64) {
    let text = text(at);
    check!("command-line", text == COMMAND_LINE, "{}", text.escape_ascii());
}

fn module(start: u64, length: u64, name: u64, (named, expected): (&[u8], &[u8])) {
    check!("module-is-page-aligned", start.is_multiple_of(4096), "{start:#x}");
    check!("module-is-whole", length == expected.len() as u64 && bytes(start, length) == expected);
    check!("module-is-named", text(name) == named, "{}", text(name).escape_ascii());
}

/// A text up to its zero.
fn text(at: u64) -> &'static [u8] {
    let whole = bytes(at, 256);
    whole.split(|byte| *byte == 0).next().unwrap_or_default()
}

fn u32_at(at: u64) -> u32 {
    bytes(at, 4).try_into().map_or(0, u32::from_le_bytes)
}

fn u64_at(at: u64) -> u64 {
    bytes(at, 8).try_into().map_or(0, u64::from_le_bytes)
}

/// Memory that the loader filled and nobody writes; nothing where the address is no memory's.
fn bytes(at: u64, length: u64) -> &'static [u8] {
    if at == 0 || at.saturating_add(length) > MEMORY {
        return &[];
    }
    // SAFETY: it is RAM, mapped one to one, which nobody writes once the guest runs: neither its own image nor its stack
    // is boot information.
    unsafe {
        core::slice::from_raw_parts(
            core::ptr::with_exposed_provenance(at as usize),
            length as usize,
        )
    }
}
