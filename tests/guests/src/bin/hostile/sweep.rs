//! Everything of a kind, one after the other: MSRs, ports, configuration registers, hypercalls, addresses.

use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use guests::{
    apic, attempt, check, console, cpu, nowhere,
    paging::{self, bit},
    println,
    trap::{GP, Trap, on_interrupt},
};

use crate::Numbers;

const FAULT: Trap = Trap { vector: GP, error: 0 };

/// Reads each, writes back what was read, and its opposite: #GP(0) or nothing.
pub(crate) fn msrs() {
    // What would take the ground from under this program: EFER and what SYSENTER and the segment bases do not; the local APIC's
    // base moves its page, its x2APIC mode takes it away.
    const KEPT: [u32; 3] = [0xc000_0080, apic::APIC_BASE_MSR, apic::TSC_DEADLINE_MSR];
    let ranges = [
        0..0x2000,
        0x4000_0000..0x4000_0200,
        0x4b56_4d00..0x4b56_4d10,
        0xc000_0000..0xc000_2000,
        0xc001_0000..0xc001_2000,
        0x8000_0000..0x8000_0010,
        0xffff_fff0..0xffff_ffff,
    ];
    let (mut known, mut other) = (0, 0);
    for msr in ranges.into_iter().flatten() {
        match cpu::read_msr(msr) {
            Ok(value) if !KEPT.contains(&msr) => {
                known += 1;
                for value in [!value, value] {
                    // SAFETY: none of the registers left is in use by this program; its page tables name PAT's first entry,
                    // which is put back.
                    let written = unsafe { cpu::write_msr(msr, value) };
                    other += u32::from(written.is_err_and(|trap| trap != FAULT));
                }
            }
            Ok(_) => known += 1,
            Err(trap) => {
                // SAFETY: what cannot be read holds nothing of this program's.
                let written = unsafe { cpu::write_msr(msr, u64::from(msr)) };
                other += u32::from(trap != FAULT || written.is_err_and(|trap| trap != FAULT));
            }
        }
    }
    check!("msrs-raise-nothing-but-gp", other == 0, "{other} other exceptions");
    check!("msrs-are-few", (20..400).contains(&known), "{known} of 33,000 can be read");
}

/// Every port, 8 bits, read and written with zeros and ones; some with 16 and 32.
pub(crate) fn ports() {
    /// Power, reset and end of the machine.
    const ENDS: [u16; 4] = [0x64, 0xf4, 0x600, 0xcf9];
    println!("ports");
    console::drain();
    for port in (0..=u16::MAX).filter(|port| !ENDS.contains(port)) {
        let _ = cpu::in8(port);
        cpu::out8(port, if port & 1 == 0 { 0 } else { 0xff });
        if port < 0x1000 && !ENDS.iter().any(|end| (port..port.saturating_add(4)).contains(end)) {
            let _ = cpu::in16(port);
            let _ = cpu::in32(port);
            cpu::out16(port, u16::MAX);
            cpu::out32(port, 0);
            cpu::out32(port, u32::MAX);
        }
    }
    console::init();
    println!("");
    check!("ports-survived", true);
}

/// Ones into every register of every function by CONFIG_ADDRESS, and into ECAM, at all widths: nothing changes.
pub(crate) fn pci() {
    const ADDRESS: u16 = 0xcf8;
    const DATA: u16 = 0xcfc;
    const ECAM: u64 = 0xe000_0000;
    let read = |address: u32| {
        cpu::out32(ADDRESS, 1 << 31 | address);
        cpu::in32(DATA)
    };
    let before = [0, 4, 8, 12].map(read);
    for function in 0..256_u32 {
        let registers = if function == 0 { 64 } else { 4 };
        for register in 0..registers {
            cpu::out32(ADDRESS, 1 << 31 | function << 8 | register << 2);
            cpu::out32(DATA, u32::MAX);
            cpu::out16(DATA + 2, 0);
            cpu::out8(DATA + 3, 0xff);
        }
    }
    for bus in 1..256_u32 {
        let found = read(bus << 16);
        if found != u32::MAX {
            check!("pci-other-buses-are-empty", false, "bus {bus}: {found:#x}");
        }
    }
    for function in 0..256_u64 {
        let registers = if function == 0 { 1024 } else { 8 };
        for register in 0..registers {
            // SAFETY: configuration space, mapped one to one.
            unsafe {
                let at = (ECAM | function << 12 | register << 2) as usize;
                core::ptr::with_exposed_provenance_mut::<u32>(at).write_volatile(u32::MAX);
                core::ptr::with_exposed_provenance_mut::<u8>(at + 1).write_volatile(0);
                core::ptr::with_exposed_provenance_mut::<u16>(at + 2).write_volatile(0x5a5a);
            }
        }
    }
    let after = [0, 4, 8, 12].map(read);
    check!(
        "pci-registers-stay",
        before == after && before[0] != u32::MAX,
        "{before:x?} {after:x?}"
    );
}

/// Numbers and arguments at random: the unknown ones say so.
pub(crate) fn hypercalls() {
    let mut numbers = Numbers::new(7);
    let mut wrong = 0;
    for round in 0..20_000 {
        let number = if round % 2 == 0 {
            0x1_0000 + numbers.below(u64::MAX >> 12)
        } else {
            numbers.next() | 1 << 40
        };
        let arguments = [numbers.next(), numbers.next(), numbers.next()];
        wrong += u32::from(cpu::hypercall(number, arguments) != Ok(u64::MAX));
    }
    check!("hypercalls-unknown", wrong == 0, "{wrong} of 20,000");
    for number in 0..256 {
        // Small numbers may mean something; the machine goes on whatever it is.
        let _ = cpu::hypercall(number, [numbers.next(), numbers.next(), numbers.next()]);
    }
    let version = cpu::hypercall(0, [0; 3]);
    check!(
        "hypercalls-still-answered",
        version.is_ok_and(|version| version != u64::MAX),
        "{version:x?}"
    );
}

/// Holes of the low 4 GiB at all widths and places within their pages; not over a page's end.
pub(crate) fn holes() {
    let mut numbers = Numbers::new(3);
    let mut wrong = 0;
    for round in 0..20_000_u64 {
        let page = nowhere::PAGE + numbers.below(0x1000) * 0x1000;
        let at = page + numbers.below(0x1000 - 8);
        let value = numbers.next();
        // SAFETY: nothing is there.
        let found = unsafe {
            match round % 4 {
                0 => write_read::<u8>(at, value as u8).into(),
                1 => write_read::<u16>(at, value as u16).into(),
                2 => write_read::<u32>(at, value as u32).into(),
                _ => write_read::<u64>(at, value),
            }
        };
        let width = 8 << (round % 4);
        wrong += u32::from(found != u64::MAX >> (64 - width));
    }
    check!("holes-hold-nothing", wrong == 0, "{wrong} of 20,000");
    // All of the devices' pages, also where no register is, and off their alignment.
    static STRAY: AtomicU32 = AtomicU32::new(0);
    for vector in 32..=255 {
        on_interrupt(vector, || _ = STRAY.fetch_add(1, Relaxed));
    }
    for (page, kept) in [(apic::IO_APIC_GPA, 0x1000), (apic::LOCAL_APIC_GPA, 0x300)] {
        for offset in 0..kept - 8 {
            // SAFETY: device registers that move no memory.
            unsafe {
                let _ = write_read::<u8>(page + offset, 0xff);
                let _ = write_read::<u16>(page + offset, 0);
                let _ = write_read::<u32>(page + offset, u32::MAX);
                let _ = write_read::<u64>(page + offset, 0);
            }
        }
    }
    cpu::listen(100_000);
    check!("devices-survived", true);
}

/// # Safety
/// Nothing of the program's is there.
unsafe fn write_read<T: Copy>(at: u64, value: T) -> T {
    let pointer = core::ptr::with_exposed_provenance_mut::<T>(at as usize);
    // SAFETY: the caller's promise; devices take any alignment.
    unsafe {
        let mut read = value;
        core::arch::asm!("", options(nostack));
        match size_of::<T>() {
            1 => {
                core::arch::asm!("mov al, [{v}]", "mov [{p}], al", "mov al, [{p}]", "mov [{v}], al", p = in(reg) pointer, v = in(reg) &mut read, out("al") _)
            }
            2 => {
                core::arch::asm!("mov ax, [{v}]", "mov [{p}], ax", "mov ax, [{p}]", "mov [{v}], ax", p = in(reg) pointer, v = in(reg) &mut read, out("ax") _)
            }
            4 => {
                core::arch::asm!("mov eax, [{v}]", "mov [{p}], eax", "mov eax, [{p}]", "mov [{v}], eax", p = in(reg) pointer, v = in(reg) &mut read, out("eax") _)
            }
            _ => {
                core::arch::asm!("mov rax, [{v}]", "mov [{p}], rax", "mov rax, [{p}]", "mov [{v}], rax", p = in(reg) pointer, v = in(reg) &mut read, out("rax") _)
            }
        }
        read
    }
}

const VIEW: u64 = paging::FREE;

/// One page wherever it is, read and, where it is none of this machine's, written. What was read.
fn probe(gpa: u64, write: bool) -> Result<u64, Trap> {
    paging::map(VIEW, gpa & !0xfff, bit::PRESENT | bit::WRITABLE);
    paging::invalidate(VIEW);
    let at = VIEW | gpa & 0xff8;
    let mut value = 0_u64;
    // SAFETY: reads; writes only where no memory of the program's is.
    unsafe {
        attempt!("mov {value}, [{at}]", value = inout(reg) value, at = in(reg) at)?;
        if write {
            attempt!("mov [{at}], {value}", value = in(reg) !value, at = in(reg) at)?;
        }
    }
    Ok(value)
}

/// The whole guest-physical width. Outside of this machine's RAM and devices, every read gives ones and every write is lost: so
/// no memory of Kerf's or a neighbour's was there.
pub(crate) fn memory() {
    const RAM_END: u64 = 8 << 20;
    const CANARY: u64 = 0x6b65_7266_c0a1_b1e5;
    let width = cpu::cpuid(0x8000_0008, 0).eax & 0xff;
    let top = 1_u64 << width;
    let (mut probes, mut wrong, mut first) = (0_u32, 0_u32, None);
    let mut look = |gpa: u64| {
        // Devices from 0xe000_0000 on below 4 GiB.
        if gpa < RAM_END || (0xe000_0000..1 << 32).contains(&gpa) || gpa >= top {
            return;
        }
        probes += 1;
        let found = [probe(gpa, true), probe(gpa, false)];
        if found != [Ok(u64::MAX); 2] {
            wrong += 1;
            first.get_or_insert((gpa, found[0]));
        }
    };
    // Every page around the end of RAM; every 2 MiB up to 4 GiB and around it; GiBs; around every power of two.
    (RAM_END..RAM_END + (2 << 20)).step_by(4096).for_each(&mut look);
    (RAM_END..5 << 30).step_by(2 << 20).for_each(|gpa| look(gpa | gpa >> 9 & 0xff8));
    (0..top).step_by(((top >> 12).max(1 << 30)) as usize).for_each(&mut look);
    for bit in 23..width {
        for page in 0..64_u64 {
            look((1 << bit) + (page << 12));
            look((1 << bit) - (page << 12) - 8);
        }
    }
    (0..64_u64).for_each(|page| look(top - 8 - (page << 12)));
    check!("memory-outside-is-not-there", wrong == 0, "{wrong} of {probes}, the first {first:x?}");
    check!("memory-was-looked-at", probes > 5000, "{probes}");
    // One's own RAM holds no canary either: no page of another machine's was handed on.
    let mut canaries = 0;
    for gpa in (0x30_0000..RAM_END).step_by(8) {
        // SAFETY: RAM of this machine, mapped one to one.
        let value =
            unsafe { core::ptr::with_exposed_provenance::<u64>(gpa as usize).read_volatile() };
        canaries += u32::from(value & !0xff_ffff == CANARY & !0xff_ffff);
    }
    check!("memory-has-no-canaries", canaries == 0, "{canaries}");
    // Bits above the width are reserved.
    if width < 52 {
        let found = probe(top, false);
        check!(
            "memory-ends-at-the-width",
            found.is_err_and(|trap| trap.vector == 14),
            "{found:x?}"
        );
    }
}
