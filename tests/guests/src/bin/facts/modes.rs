//! Every mode of the CPU on one way: from long mode down to compatibility mode, protected mode without paging, with 32-bit
//! paging, with PAE, to real mode, and back up. In each, the same things are done that exit: CPUID, ports, device memory,
//! MSRs, string I/O through the page tables of that mode, an injected #GP, an interrupt.

use core::{
    arch::{asm, global_asm},
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use guests::{apic, check};

/// Where the way down runs: below 1 MiB, so that real mode reaches it.
const CODE: usize = 0x8000;
/// What each mode found: 64 bytes for each.
const REPORTS: usize = 0x9000;
const MODES: [&str; 5] = ["compatibility", "protected", "paging-32", "paging-pae", "real"];
const TABLES: usize = 0xb000;

/// A mode's findings.
#[repr(C)]
struct Report {
    /// CPUID 0x4000_0000, EBX.
    signature: AtomicU32,
    /// The UART's scratch register after the mode's number was written to it.
    scratch: AtomicU32,
    /// The I/O APIC's version register.
    device: AtomicU32,
    /// The low half of IA32_APIC_BASE.
    apic_base: AtomicU32,
    /// Two bytes of REP INSB, seen one to one.
    string: AtomicU32,
    /// #GPs after an unknown RDMSR, with the right place on the stack.
    faults: AtomicU32,
    /// Interrupts to oneself.
    interrupts: AtomicU32,
    cr0: AtomicU32,
    /// RAX of an unknown hypercall; 1 where that is VMMCALL's or VMCALL's.
    hypercall: AtomicU32,
    /// EFER with LME set, without paging and PAE.
    efer: AtomicU32,
    _rest: [AtomicU32; 6],
}

global_asm!(
    ".pushsection .rodata.modes, \"a\"",
    ".globl guest_modes",
    ".globl guest_modes_end",
    ".globl guest_modes_fault32",
    ".globl guest_modes_interrupt32",
    ".globl guest_modes_fault16",
    ".globl guest_modes_interrupt16",
    "guest_modes:",
    "push rbx; push rbp; push r12; push r13; push r14; push r15",
    "mov [{own_rsp}], rsp",
    "mov rax, cr3; mov [{own_cr3}], rax",
    "sgdt [{own_gdt}]; sidt [{own_idt}]",
    "lgdt [{gdt_pointer}]",
    "push 0x08",
    ".byte 0x68; .long {code} + (2f - guest_modes)",
    "retfq",
    ".code32",
    "2:",
    "mov eax, 0x10; mov ds, eax; mov es, eax; mov ss, eax; mov fs, eax",
    "mov esp, 0x9ff0",
    // Compatibility mode: no 32-bit IDT in long mode, so neither fault nor interrupt.
    "mov ebp, {reports}; xor ebx, ebx; mov esi, 0",
    "call modes_probe",
    "lidt [{idt_pointer}]",
    // Paging off, long mode off.
    "mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax",
    "mov ecx, 0xc0000080; rdmsr; and eax, 0xfffffeff; wrmsr",
    "mov ebp, {reports} + 0x40; xor esi, esi",
    "call modes_probe; call modes_events",
    // Long mode wanted before PAE is: legal, and nothing happens yet.
    "mov eax, cr4; and eax, 0xffffffdf; or eax, 0x10; mov cr4, eax",
    "mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr",
    "mov eax, 0x40000000; xor ecx, ecx; cpuid",
    "mov ecx, 0xc0000080; rdmsr; mov [{reports} + 0x40 + 36], eax; and eax, 0xfffffeff; wrmsr",
    // 32-bit paging with 4 MiB pages; 1 GiB shows 0.
    "mov eax, {tables}; mov cr3, eax",
    "mov eax, cr0; or eax, 0x80000000; mov cr0, eax",
    "mov ebp, {reports} + 0x80; mov esi, 0x40000000",
    "call modes_probe; call modes_events",
    "mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax",
    // PAE.
    "mov eax, cr4; or eax, 0x20; mov cr4, eax",
    "mov eax, {tables} + 0x1000; mov cr3, eax",
    "mov eax, cr0; or eax, 0x80000000; mov cr0, eax",
    "mov ebp, {reports} + 0xc0; mov esi, 0x40000000",
    "call modes_probe; call modes_events",
    "mov eax, cr0; and eax, 0x7fffffff; mov cr0, eax",
    // Real mode; FS keeps its limit of 4 GiB.
    ".byte 0xea; .long {code} + (3f - guest_modes); .word 0x18",
    ".code16",
    "3:",
    "mov ax, 0x20; mov ds, ax; mov es, ax; mov ss, ax",
    "lidt [{ivt_pointer}]",
    "mov eax, cr0; and eax, 0xfffffffe; mov cr0, eax",
    ".byte 0x66, 0xea; .long {code} + (4f - guest_modes); .word 0",
    "4:",
    "xor ax, ax; mov ds, ax; mov es, ax; mov ss, ax",
    "mov sp, 0x9ff0",
    "mov ebp, {reports} + 0x100",
    "mov eax, 0x40000000; xor ecx, ecx; cpuid; mov ds:[bp], ebx",
    "mov dx, 0x3ff; mov al, 0x14; out dx, al; xor eax, eax; in al, dx; mov ds:[bp + 4], eax",
    "mov eax, 1; mov edi, 0xfec00000; mov fs:[edi], eax; mov eax, fs:[edi + 16]; mov ds:[bp + 8], eax",
    "mov ecx, 0x1b; rdmsr; mov ds:[bp + 12], eax",
    "mov di, {reports} + 0x110; mov cx, 2; mov dx, 0x3ff; cld; rep insb",
    "mov eax, cr0; mov ds:[bp + 28], eax",
    "mov ecx, 0x12345678; rdmsr",
    "mov eax, 0x40050; mov edi, 0xfee00300; mov fs:[edi], eax; sti; nop; nop; cli",
    "mov eax, 0x40050; mov edi, 0xfee00300; mov fs:[edi], eax; sti; hlt; cli",
    "mov eax, -16",
    "mov di, {is_amd}; cmp byte ptr ds:[di], 0; je 5f",
    "vmmcall; jmp 6f",
    "5: vmcall",
    "6: mov ds:[bp + 32], eax",
    // Back up.
    "mov eax, cr0; or eax, 1; mov cr0, eax",
    ".byte 0x66, 0xea; .long {code} + (7f - guest_modes); .word 0x08",
    ".code32",
    "7:",
    "mov eax, 0x10; mov ds, eax; mov es, eax; mov ss, eax",
    "mov eax, [{own_cr3}]; mov cr3, eax",
    "mov ecx, 0xc0000080; rdmsr; or eax, 0x100; wrmsr",
    "mov eax, cr0; or eax, 0x80000000; mov cr0, eax",
    ".byte 0xea; .long {code} + (8f - guest_modes); .word 0x28",
    ".code64",
    "8:",
    "mov rsp, [{own_rsp}]",
    "lgdt [{own_gdt}]; lidt [{own_idt}]",
    "mov eax, 0x18; mov ds, eax; mov es, eax; mov ss, eax",
    "xor eax, eax; mov fs, eax",
    "push 0x10; lea rax, [rip + guest_modes_back]; push rax; retfq",
    "guest_modes_back: pop r15; pop r14; pop r13; pop r12; pop rbp; pop rbx",
    "ret",
    ".code32",
    // EBP: the report; ESI: where the page tables show physical 0.
    "modes_probe:",
    "mov eax, 0x40000000; xor ecx, ecx; cpuid; mov [ebp], ebx",
    "mov edx, 0x3ff; mov eax, ebp; shr eax, 6; and al, 7; or al, 0x10; out dx, al; xor eax, eax; in al, dx; mov [ebp + 4], eax",
    "mov dword ptr [0xfec00000], 1; mov eax, [0xfec00010]; mov [ebp + 8], eax",
    "mov ecx, 0x1b; rdmsr; mov [ebp + 12], eax",
    "mov edx, 0x3ff; lea edi, [esi + ebp + 16]; mov ecx, 2; cld; rep insb",
    "mov eax, cr0; mov [ebp + 28], eax",
    "mov eax, -16",
    "cmp byte ptr [{is_amd}], 0; je 5f",
    "vmmcall; jmp 6f",
    "5: vmcall",
    "6: mov [ebp + 32], eax",
    "ret",
    "modes_events:",
    "mov ecx, 0x12345678; rdmsr",
    "mov dword ptr [0xfee00300], 0x40050; sti; nop; nop; cli",
    "mov dword ptr [0xfee00300], 0x40050; sti; hlt; cli",
    "ret",
    "guest_modes_fault32:",
    // Error code 0, and the place of an RDMSR.
    "push eax; mov eax, [esp + 8]; cmp dword ptr [esp + 4], 0; jne 2f",
    "cmp word ptr [eax], 0x320f; jne 2f; inc dword ptr [ebp + 20]",
    "2: add dword ptr [esp + 8], 2; pop eax; add esp, 4; iretd",
    "guest_modes_interrupt32:",
    "inc dword ptr [ebp + 24]; mov dword ptr [0xfee000b0], 0; iretd",
    ".code16",
    // No error code in real mode.
    "guest_modes_fault16:",
    "push eax; push si; mov si, sp; mov si, ss:[si + 6]",
    "cmp word ptr [si], 0x320f; jne 2f; inc dword ptr ds:[bp + 20]",
    "2: mov si, sp; add word ptr ss:[si + 6], 2; pop si; pop eax; .byte 0xcf",
    "guest_modes_interrupt16:",
    "inc dword ptr ds:[bp + 24]; push edi; mov edi, 0xfee000b0; mov dword ptr fs:[edi], 0; pop edi; .byte 0xcf",
    ".code64",
    "guest_modes_end:",
    ".popsection",
    gdt_pointer = const 0xa080,
    idt_pointer = const 0xa090,
    ivt_pointer = const 0xa0a0,
    own_gdt = const 0xa0b0,
    own_idt = const 0xa0c0,
    own_rsp = const 0xa0d0,
    own_cr3 = const 0xa0d8,
    is_amd = const 0xa0e0,
    code = const CODE,
    reports = const REPORTS,
    tables = const TABLES,
);

unsafe extern "C" {
    static guest_modes: u8;
    static guest_modes_end: u8;
    static guest_modes_fault32: u8;
    static guest_modes_interrupt32: u8;
    static guest_modes_fault16: u8;
    static guest_modes_interrupt16: u8;
}

/// Memory below 1 MiB, which is the guest's from the loader's hand-over on.
fn low(at: usize, words: impl IntoIterator<Item = u32>) {
    for (word, value) in words.into_iter().enumerate() {
        // SAFETY: RAM that holds nothing of the program's, mapped one to one.
        unsafe {
            core::ptr::with_exposed_provenance_mut::<u32>(at + 4 * word).write_volatile(value)
        };
    }
}

fn low64(at: usize, words: impl IntoIterator<Item = u64>) {
    low(at, words.into_iter().flat_map(|word| [word as u32, (word >> 32) as u32]));
}

/// Where a label of the way down is in its copy.
fn copied(label: *const u8) -> usize {
    CODE + label.addr() - (&raw const guest_modes).addr()
}

fn prepare() {
    let bytes = (&raw const guest_modes_end).addr() - (&raw const guest_modes).addr();
    // SAFETY: copies code into free RAM.
    unsafe {
        core::ptr::copy_nonoverlapping(
            &raw const guest_modes,
            core::ptr::with_exposed_provenance_mut(CODE),
            bytes,
        );
    }
    low(REPORTS, [0; 0x140 / 4]);
    // Code of 32 bits, data, code of 16 bits, data of 16 bits, code of 64 bits.
    low64(
        0xa000,
        [
            0,
            0x00cf_9b00_0000_ffff,
            0x00cf_9300_0000_ffff,
            0x0000_9b00_0000_ffff,
            0x0000_9300_0000_ffff,
            0x00af_9b00_0000_ffff,
        ],
    );
    let pointer = |at, limit: u64, base: u64| low64(at, [limit | base << 16, base >> 48]);
    pointer(0xa080, 6 * 8 - 1, 0xa000);
    pointer(0xa090, 0x51 * 8 - 1, 0xa400);
    pointer(0xa0a0, 0x3ff, 0);
    low(0xa0e0, [guests::cpu::uses_vmmcall().into()]);
    let gate = |vector: usize, label: *const u8| {
        let to = copied(label) as u64;
        low64(0xa400 + 8 * vector, [to & 0xffff | 0x08 << 16 | 0x8e00 << 32 | (to >> 16) << 48]);
    };
    gate(13, &raw const guest_modes_fault32);
    gate(0x50, &raw const guest_modes_interrupt32);
    low(4 * 13, [copied(&raw const guest_modes_fault16) as u32]);
    low(4 * 0x50, [copied(&raw const guest_modes_interrupt16) as u32]);
    // 32-bit paging: 4 MiB pages one to one, but 1 GiB shows 0; then PAE's likewise, of 2 MiB.
    let shown = |gva: u64| if gva >> 30 == 1 { gva - (1 << 30) } else { gva };
    let uncached = |gva: u64| if gva >= 3 << 30 { 0x18 } else { 0 };
    low(
        TABLES,
        (0..1024).map(|index| index << 22).map(|gva| (shown(gva) | uncached(gva) | 0x83) as u32),
    );
    low64(TABLES + 0x1000, (0..4).map(|index| (TABLES as u64 + 0x2000 + index * 0x1000) | 1));
    low64(
        TABLES + 0x2000,
        (0..2048).map(|index| index << 21).map(|gva| shown(gva) | uncached(gva) | 0x83),
    );
}

pub(crate) fn run() {
    apic::enable();
    prepare();
    // SAFETY: the way down comes back with stack and callee-saved registers as they were; interrupts are off.
    unsafe {
        asm!("call {}", in(reg) CODE, out("rax") _, out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    check!("modes-back-in-long-mode", true);
    // SAFETY: the reports were written by the way down, which is over.
    let reports: &[Report; 5] = unsafe { &*core::ptr::with_exposed_provenance(REPORTS) };
    for (number, (mode, report)) in (0..).zip(MODES.iter().zip(reports)) {
        judge(number, mode, report);
    }
}

fn judge(number: u32, mode: &str, report: &Report) {
    let has = |name: &str, found: &AtomicU32, expected: u32| {
        let found = found.load(Relaxed);
        check!(
            format_args!("modes-{mode}-{name}"),
            found == expected,
            "{found:#x}, not {expected:#x}"
        );
    };
    // Real mode's number is written out, the others' is the report's place.
    let scratch = 0x10 | (if mode == "real" { 4 } else { (REPORTS as u32 >> 6 & 7) + number });
    has("cpuid", &report.signature, u32::from_le_bytes(*b"Kerf"));
    has("ports", &report.scratch, scratch);
    has("device-memory", &report.device, apic::read_io_apic(1));
    has("msr", &report.apic_base, 0xfee0_0900);
    has("string", &report.string, scratch << 8 | scratch);
    if mode != "compatibility" {
        has("gp", &report.faults, 1);
        has("interrupts", &report.interrupts, 2);
    }
    has("hypercall", &report.hypercall, u32::MAX);
    if mode == "protected" {
        let efer = report.efer.load(Relaxed);
        check!("modes-protected-long-mode-before-pae", efer & 0x500 == 0x100, "{efer:#x}");
    }
    let cr0 = report.cr0.load(Relaxed);
    let expected = match mode {
        "compatibility" | "paging-32" | "paging-pae" => 0x8000_0001,
        "protected" => 1,
        _ => 0,
    };
    check!(format_args!("modes-{mode}-cr0"), cr0 & 0x8000_0001 == expected, "{cr0:#x}");
}
