//! What the tables say, put together.

use alloc::vec::Vec;

use hw::{Hpa, Port};

use crate::aml;
use crate::bytes::{self, u8, u16, u32};
use crate::tables::{
    self, Brought, HEADER_BYTES, PhysicalMemory, Problem, Signature, Table, Trouble,
};

/// The machine, as far as Kerf needs to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// APIC IDs of the CPUs that are on, in the order of the MADT. Empty where there is no MADT.
    pub cpus: Vec<u32>,
    /// The I/O APICs. Empty where there is no MADT.
    pub io_apics: Vec<IoApic>,
    /// Where ISA interrupts arrive that arrive elsewhere than at the pin of their own number.
    overrides: Vec<(u8, Line)>,
    /// The ACPI timer, where it is in I/O space.
    pub pm_timer: Option<PmTimer>,
    /// The registers of the first HPET.
    pub hpet: Option<Hpa>,
    /// The serial port that the firmware uses.
    pub serial: Option<SerialPort>,
    /// How the machine is powered off.
    pub power_off: Option<PowerOff>,
    /// What the boot volume changed in the tables.
    pub brought: Vec<Brought>,
    /// What to write where to reset the machine, where that is a port (ACPI 6.5, 4.8.3.6).
    pub reset: Option<(Port, u8)>,
    /// Where PCI configuration space is memory. Empty where there is no MCFG.
    pub ecam: Vec<Ecam>,
    /// The DMAR table, which says where the IOMMUs are.
    pub dmar: Option<&'static [u8]>,
}

/// A window of PCI configuration space (PCI Firmware 3.3, 4.1.2): 1 MiB for each bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ecam {
    /// Where bus 0 of the segment is, or would be.
    pub base: Hpa,
    /// The segment.
    pub segment: u16,
    /// Its first and last bus.
    pub buses: (u8, u8),
}

/// An I/O APIC (ACPI 6.5, 5.2.12.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoApic {
    /// Its ID.
    pub id: u8,
    /// Its registers.
    pub registers: Hpa,
    /// The global system interrupt of its first pin.
    pub first_gsi: u32,
}

/// An interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Global system interrupt: the number of the pin over all I/O APICs.
    pub gsi: u32,
    /// Active low.
    pub active_low: bool,
    /// Level-triggered.
    pub level: bool,
}

/// The ACPI timer (ACPI 6.5, 4.8.3.3): 3.579545 MHz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PmTimer {
    /// Its port.
    pub port: Port,
    /// Its bits: 24 or 32.
    pub bits: u8,
}

/// A 16550 (Serial Port Console Redirection Table, version 1.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialPort {
    /// Its first register.
    pub registers: SerialRegisters,
    /// Bytes from one register to the next.
    pub stride: u8,
    /// Bytes of an access: 1, 2 or 4.
    pub access: u8,
    /// Its interrupt, where it has one.
    pub interrupt: Option<Line>,
}

/// Where a serial port's registers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SerialRegisters {
    /// In I/O space.
    Port(Port),
    /// In memory space.
    Memory(Hpa),
}

/// What to write to power off (ACPI 6.5, 4.8.3.2 and 7.4.2): the 16-bit values, to the ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PowerOff {
    /// PM1a control.
    pub a: (Port, u16),
    /// PM1b control, where there is one.
    pub b: Option<(Port, u16)>,
}

impl Machine {
    /// Where ISA interrupt `irq` arrives: at the pin of its number, edge-triggered and active high, unless the MADT says
    /// otherwise.
    #[must_use]
    pub fn isa(&self, irq: u8) -> Line {
        let listed = self.overrides.iter().find(|(from, _)| *from == irq);
        listed.map_or(Line { gsi: irq.into(), active_low: false, level: false }, |(_, to)| *to)
    }

    /// The line with this global system interrupt, as the MADT has it; else as an ISA interrupt's.
    fn line(&self, gsi: u32) -> Line {
        let listed = self.overrides.iter().find(|(_, line)| line.gsi == gsi);
        listed.map_or(Line { gsi, active_low: false, level: false }, |(_, line)| *line)
    }
}

/// Reads the machine's tables. `files` are tables that the boot volume brought: each takes the place of the firmware's of
/// the same signature, and the same OEM table ID where there may be several, or is added.
pub fn read(
    memory: &impl PhysicalMemory,
    rsdp: Option<Hpa>,
    files: &[&'static [u8]],
    mut report: impl FnMut(Problem),
) -> Machine {
    let (tables, brought) = tables::all(memory, rsdp, files, &mut report);
    let find = |signature: &[u8; 4]| tables.iter().find(|table| table.signature.0 == *signature);
    let mut machine = Machine { brought, ..Machine::default() };
    if let Some(madt) = find(b"APIC") {
        read_madt(&mut machine, madt, &mut report);
    }
    if let Some(fadt) = find(b"FACP") {
        machine.pm_timer = pm_timer(fadt, &mut report);
        machine.power_off = power_off(memory, fadt, &tables, &mut report);
        machine.reset = reset(fadt);
    }
    if let Some(spcr) = find(b"SPCR") {
        machine.serial = serial_port(&machine, spcr, &mut report);
    }
    if let Some(mcfg) = find(b"MCFG") {
        read_mcfg(&mut machine, mcfg, &mut report);
    }
    machine.dmar = find(b"DMAR").map(|dmar| dmar.bytes);
    if let Some(hpet) = find(b"HPET") {
        // A generic address (ACPI 6.5, 5.2.3.2) at 40; HPET specification 1.0a, 3.2.4.
        const ADDRESS: usize = 40;
        machine.hpet = match u8(hpet.bytes, ADDRESS) {
            Some(0) => bytes::address(hpet.bytes, ADDRESS + 4),
            _ => None,
        };
        if machine.hpet.is_none() {
            report(hpet.problem(Trouble::Field(ADDRESS)));
        }
    }
    machine
}

/// Multiple APIC description table (ACPI 6.5, 5.2.12).
fn read_madt(machine: &mut Machine, madt: &Table, report: &mut impl FnMut(Problem)) {
    const ENTRIES: usize = HEADER_BYTES + 8;
    let mut at = ENTRIES;
    while at < madt.bytes.len() {
        let length = u8(madt.bytes, at + 1).map_or(0, usize::from);
        let entry = madt.bytes.get(at..at + length).filter(|entry| entry.len() >= 2);
        let Some(entry) = entry else {
            report(madt.problem(Trouble::Entry(at)));
            return;
        };
        if read_madt_entry(machine, entry).is_none() {
            report(madt.problem(Trouble::Field(at)));
        }
        at += length;
    }
}

/// One entry, `None` where it is too short for its type.
fn read_madt_entry(machine: &mut Machine, entry: &[u8]) -> Option<()> {
    /// Flags of a processor: it is on.
    const ENABLED: u32 = 1;
    match u8(entry, 0)? {
        0 => {
            let (id, flags) = (u8(entry, 3)?, u32(entry, 4)?);
            // The ID of all CPUs at once is no CPU's (SDM vol. 3, 11.6.2.1).
            if flags & ENABLED != 0 && id != u8::MAX {
                machine.cpus.push(id.into());
            }
        }
        1 => machine.io_apics.push(IoApic {
            id: u8(entry, 2)?,
            registers: Hpa::new(u32(entry, 4)?.into()),
            first_gsi: u32(entry, 8)?,
        }),
        2 => {
            let (irq, gsi, flags) = (u8(entry, 3)?, u32(entry, 4)?, u16(entry, 8)?);
            // Polarity 3 is low, trigger mode 3 is level; 0 is the ISA bus's own way.
            let line = Line { gsi, active_low: flags & 3 == 3, level: flags >> 2 & 3 == 3 };
            machine.overrides.push((irq, line));
        }
        9 => {
            let (id, flags) = (u32(entry, 4)?, u32(entry, 8)?);
            if flags & ENABLED != 0 && id != u32::MAX && !machine.cpus.contains(&id) {
                machine.cpus.push(id);
            }
        }
        _ => {}
    }
    Some(())
}

/// Memory-mapped configuration space (PCI Firmware 3.3, 4.1.2).
fn read_mcfg(machine: &mut Machine, mcfg: &Table, report: &mut impl FnMut(Problem)) {
    const ENTRIES: usize = HEADER_BYTES + 8;
    const ENTRY_BYTES: usize = 16;
    for at in (ENTRIES..mcfg.bytes.len()).step_by(ENTRY_BYTES) {
        let ecam = || {
            let base = bytes::address(mcfg.bytes, at)?;
            let buses = (u8(mcfg.bytes, at + 10)?, u8(mcfg.bytes, at + 11)?);
            let is_sound = buses.0 <= buses.1 && base.is_aligned(1 << 20);
            is_sound.then_some(Ecam { base, segment: u16(mcfg.bytes, at + 8)?, buses })
        };
        match ecam() {
            Some(ecam) => machine.ecam.push(ecam),
            None => report(mcfg.problem(Trouble::Field(at))),
        }
    }
}

/// An I/O port from a generic address at `extended` of the FADT, or else from the 32-bit field at `legacy`.
fn fadt_port(fadt: &Table, extended: usize, legacy: usize) -> Option<Port> {
    const SYSTEM_IO: u8 = 1;
    let in_io = u8(fadt.bytes, extended) == Some(SYSTEM_IO);
    let wide = bytes::u64(fadt.bytes, extended + 4).filter(|&raw| in_io && raw != 0);
    let raw = wide.or_else(|| u32(fadt.bytes, legacy).map(u64::from).filter(|&raw| raw != 0))?;
    u16::try_from(raw).ok().map(Port)
}

/// The ACPI timer (ACPI 6.5, 5.2.9).
fn pm_timer(fadt: &Table, report: &mut impl FnMut(Problem)) -> Option<PmTimer> {
    const FLAGS: usize = 112;
    const TMR_VAL_EXT: u32 = 1 << 8;
    const PM_TMR_BLK: usize = 76;
    let Some(flags) = u32(fadt.bytes, FLAGS) else {
        report(fadt.problem(Trouble::Field(FLAGS)));
        return None;
    };
    let port = fadt_port(fadt, 208, PM_TMR_BLK)?;
    Some(PmTimer { port, bits: if flags & TMR_VAL_EXT != 0 { 32 } else { 24 } })
}

/// The serial port, where it is a 16550; nothing is said of other kinds, which are as good.
fn serial_port(
    machine: &Machine,
    spcr: &Table,
    report: &mut impl FnMut(Problem),
) -> Option<SerialPort> {
    const INTERFACE: usize = 36;
    /// A generic address (ACPI 6.5, 5.2.3.2): space, width in bits, offset, access size, address.
    const ADDRESS: usize = 40;
    const INTERRUPT: usize = 52;
    /// Full 16550, the subset that debuggers use, and one that the generic address describes wholly.
    const KINDS: [u8; 3] = [0, 1, 0x12];
    let field = |at| u8(spcr.bytes, at);
    if !KINDS.contains(&field(INTERFACE)?) {
        return None;
    }
    let at = bytes::address(spcr.bytes, ADDRESS + 4);
    let registers = at.and_then(|at| match field(ADDRESS)? {
        0 => Some(SerialRegisters::Memory(at)),
        1 => u16::try_from(at.raw()).ok().map(|port| SerialRegisters::Port(Port(port))),
        _ => None,
    });
    let (Some(registers), Some(bits), Some(size)) =
        (registers, field(ADDRESS + 1), field(ADDRESS + 3))
    else {
        report(spcr.problem(Trouble::Field(ADDRESS)));
        return None;
    };
    let stride = match bits {
        16 => 2,
        32 => 4,
        _ => 1,
    };
    // Access size: 1 byte, 2 word, 3 double word; 0 says nothing.
    let access = match size {
        1..=3 => 1 << (size - 1),
        _ => stride,
    };
    let interrupt = match field(INTERRUPT) {
        Some(kind) if kind & 2 != 0 => u32(spcr.bytes, INTERRUPT + 2).map(|gsi| machine.line(gsi)),
        Some(kind) if kind & 1 != 0 => field(INTERRUPT + 1).map(|irq| machine.isa(irq)),
        _ => None,
    };
    Some(SerialPort { registers, stride: stride.max(access), access, interrupt })
}

/// How to reset (ACPI 6.5, 5.2.9): RESET_REG_SUP, RESET_REG in I/O space, RESET_VALUE.
fn reset(fadt: &Table) -> Option<(Port, u8)> {
    const RESET_REG_SUP: u32 = 1 << 10;
    let is_supported = u32(fadt.bytes, 112)? & RESET_REG_SUP != 0;
    let is_port = u8(fadt.bytes, 116) == Some(1);
    let port = u16::try_from(bytes::u64(fadt.bytes, 120)?).ok().map(Port);
    port.filter(|_| is_supported && is_port).zip(u8(fadt.bytes, 128))
}

/// How to power off: `\_S5` of the DSDT says which values.
fn power_off(
    memory: &impl PhysicalMemory,
    fadt: &Table,
    tables: &[Table],
    report: &mut impl FnMut(Problem),
) -> Option<PowerOff> {
    /// PM1 control: do it.
    const SLP_EN: u16 = 1 << 13;
    const SLP_TYP_SHIFT: u16 = 10;
    let a = fadt_port(fadt, 172, 64)?;
    let b = fadt_port(fadt, 184, 68);
    let replaced = tables.iter().find(|table| table.signature == Signature(*b"DSDT")).copied();
    let dsdt = replaced.or_else(|| {
        let narrow = u32(fadt.bytes, 40).filter(|&raw| raw != 0).map(|raw| Hpa::new(raw.into()));
        Table::at(memory, bytes::address(fadt.bytes, 140).or(narrow)?, report)
    })?;
    let (type_a, type_b) = aml::s5(dsdt.bytes)?;
    let value = |kind: u8| SLP_EN | u16::from(kind & 7) << SLP_TYP_SHIFT;
    Some(PowerOff { a: (a, value(type_a)), b: b.map(|port| (port, value(type_b))) })
}
