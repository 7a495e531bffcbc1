//! ACPI tables that describe the platform to the guest: RSDP, XSDT, FADT, MADT, MCFG and DSDT (ACPI 6.5, 5.2).
//!
//! The platform is of the hardware-reduced kind (ACPI 6.5, 3.11.1 and 4.1): no SCI, no fixed events, no legacy interrupt
//! controller and timer. What remains is named here by the constants of its device: [`uart`](crate::platform::uart),
//! [`rtc`](crate::platform::rtc), [`pm`](crate::platform::pm), [`pci`](crate::pci).

mod host_bridge;

use alloc::{format, vec::Vec};

use acpi_tables::{
    Aml,
    aml::{Device, EISAName, IO, Interrupt, Name, Package, Path, ResourceTemplate, Scope, ZERO},
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace as Space, GAS},
    mcfg::MCFG,
    rsdp::Rsdp,
    sdt::Sdt,
    xsdt::XSDT,
};
use hw::{Gpa, Port};
use x86_spec::apic::{DEFAULT_IOAPIC_BASE, DEFAULT_LAPIC_BASE};

use crate::{
    pci,
    platform::{PortWindow, gsi, pm, rtc, uart},
};

/// Where the tables are put: the top 128 KiB below 1 MiB, where an RSDP is also searched (ACPI 6.5, 5.2.5.1).
pub const TABLES_BASE: Gpa = Gpa::new(0xe_0000);
/// Bytes there.
pub const TABLES_BYTES: u64 = 0x2_0000;
/// APIC ID of the I/O APIC: its register says the same after reset.
const IOAPIC_ID: u8 = 0;
const OEM_ID: [u8; 6] = *b"KERF  ";
const OEM_TABLE_ID: [u8; 8] = *b"KERFVM  ";
const OEM_REVISION: u32 = 1;

/// FADT boot architecture: no VGA (ACPI 6.5, table 5.10). No 8042, and legacy devices only as the DSDT lists them.
const BOOT_ARCHITECTURE: u16 = 1 << 2;

/// All tables as one block of guest memory.
#[derive(Clone, Debug)]
pub struct AcpiTables {
    /// What to copy to [`TABLES_BASE`].
    pub bytes: Vec<u8>,
    /// Address of the RSDP within.
    pub rsdp: Gpa,
}

/// The block as it grows.
struct Block(Vec<u8>);

impl Block {
    /// Appends a table; its address.
    fn append(&mut self, table: &[u8]) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(16), 0);
        let address = TABLES_BASE.raw() + self.0.len() as u64;
        self.0.extend_from_slice(table);
        address
    }
}

/// Makes the tables of a machine with `cpu_count` CPUs, whose APIC IDs count from 0, and PCI like that. They fit
/// [`TABLES_BYTES`] up to about 2,000 CPUs.
#[must_use]
pub fn tables(cpu_count: u32, pci: &pci::Plan) -> AcpiTables {
    let rsdp_bytes = Rsdp::len().next_multiple_of(16);
    let mut block = Block(alloc::vec![0; rsdp_bytes]);
    let dsdt = block.append(dsdt(cpu_count, pci).as_slice());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    xsdt.add_entry(block.append(&serialized(&fadt(dsdt).finalize())));
    xsdt.add_entry(block.append(madt(cpu_count).as_slice()));
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(pci::ECAM_BASE.raw(), 0, 0, pci.buses() - 1);
    xsdt.add_entry(block.append(&serialized(&mcfg)));
    let xsdt = block.append(&serialized(&xsdt));
    let rsdp = serialized(&Rsdp::new(OEM_ID, xsdt));
    for (byte, value) in block.0.iter_mut().zip(rsdp) {
        *byte = value;
    }
    AcpiTables { bytes: block.0, rsdp: TABLES_BASE }
}

fn serialized(table: &dyn Aml) -> Vec<u8> {
    let mut bytes = Vec::new();
    table.to_aml_bytes(&mut bytes);
    bytes
}

fn byte_register(port: Port) -> GAS {
    GAS::new(Space::SystemIo, 8, 0, AccessSize::ByteAccess, port.0.into())
}

/// Port `offset` of the power-management block.
fn pm_port(offset: u64) -> Port {
    Port(pm::PORTS.first.0 + offset as u16)
}

/// FADT (ACPI 6.5, 5.2.9). The fixed hardware blocks but the PM timer's stay empty.
fn fadt(dsdt: u64) -> FADTBuilder {
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::Wbinvd)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::TmrValExt)
        .flag(Flags::ResetRegSup)
        .flag(Flags::Headless)
        .flag(Flags::HwReducedAcpi);
    fadt.century = rtc::CENTURY;
    fadt.iapc_boot_arch = BOOT_ARCHITECTURE.into();
    fadt.reset_reg = byte_register(pm::RESET_CONTROL);
    fadt.reset_value = pm::RESET_VALUE;
    fadt.pm_tmr_len = 4;
    fadt.x_pm_tmr_blk =
        GAS::new(Space::SystemIo, 32, 0, AccessSize::DwordAccess, pm_port(pm::TIMER).0.into());
    fadt.sleep_control_reg = byte_register(pm_port(pm::SLEEP_CONTROL));
    fadt.sleep_status_reg = byte_register(pm_port(pm::SLEEP_STATUS));
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(*b"Kerf\0\0\0\0").into();
    fadt
}

/// MADT (ACPI 6.5, 5.2.12): local APICs, one I/O APIC whose pins are the global system interrupts, NMI at LINT1. No
/// PCAT_COMPAT: there is no 8259.
fn madt(cpu_count: u32) -> Sdt {
    let mut madt = Sdt::new(*b"APIC", 44, 5, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    madt.write_u32(36, DEFAULT_LAPIC_BASE as u32);
    // Appended as a whole: the table sums itself up at every change.
    let mut structures = Vec::new();
    let mut append = |parts: &[&[u8]]| structures.extend(parts.concat());
    let enabled = 1_u32.to_le_bytes();
    for id in 0..cpu_count {
        match u8::try_from(id) {
            // 255 is the broadcast.
            Ok(short) if short != 0xff => append(&[&[0, 8, short, short], &enabled]),
            _ => append(&[&[9, 16, 0, 0], &id.to_le_bytes(), &enabled, &id.to_le_bytes()]),
        }
    }
    let ioapic = (DEFAULT_IOAPIC_BASE as u32).to_le_bytes();
    append(&[&[1, 12, IOAPIC_ID, 0], &ioapic, &[0; 4]]);
    append(&[&[4, 6, 0xff, 0, 0, 1]]);
    if cpu_count > 0xff {
        append(&[&[10, 12, 0, 0], &u32::MAX.to_le_bytes(), &[1, 0, 0, 0]]);
    }
    madt.append_slice(&structures);
    madt.update_checksum();
    madt
}

/// DSDT: `\_S5`, the PCI host bridge, the UART, the RTC and the CPUs.
fn dsdt(cpu_count: u32, pci: &pci::Plan) -> Sdt {
    let mut body = Vec::new();
    let package = Package::new(alloc::vec![&pm::SLEEP_TYPE_S5, &ZERO, &ZERO, &ZERO]);
    Name::new("_S5_".into(), &package).to_aml_bytes(&mut body);
    let mut scope = Vec::new();
    host_bridge::describe(&mut scope, pci);
    device(&mut scope, "COM1", "PNP0501", uart::PORTS, Some(gsi::UART));
    device(&mut scope, "RTC_", "PNP0B00", rtc::PORTS, None);
    for id in 0..cpu_count {
        let hid = Name::new("_HID".into(), &"ACPI0007");
        let uid = Name::new("_UID".into(), &id);
        // Four characters name 4,096 CPUs; more have no device, and Linux needs none.
        if id < 0x1000 {
            let path = Path::new(&format!("C{id:03X}"));
            Device::new(path, alloc::vec![&hid, &uid]).to_aml_bytes(&mut scope);
        }
    }
    body.extend(Scope::raw("\\_SB_".into(), scope));
    let mut dsdt = Sdt::new(*b"DSDT", 36, 2, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&body);
    dsdt.update_checksum();
    dsdt
}

/// A device with fixed ports and at most one interrupt, edge-triggered and active high as on ISA.
fn device(scope: &mut Vec<u8>, name: &str, hid: &str, ports: PortWindow, interrupt: Option<u8>) {
    let (first, count) = (ports.first.0, ports.count as u8);
    let ports = IO::new(first, first, 1, count);
    let interrupt = interrupt.map(|pin| Interrupt::new(true, true, false, false, pin.into()));
    let mut resources: Vec<&dyn Aml> = alloc::vec![&ports];
    if let Some(interrupt) = &interrupt {
        resources.push(interrupt);
    }
    let resources = ResourceTemplate::new(resources);
    let hid = EISAName::new(hid);
    let hid = Name::new("_HID".into(), &hid);
    let uid = Name::new("_UID".into(), &ZERO);
    let crs = Name::new("_CRS".into(), &resources);
    Device::new(name.into(), alloc::vec![&hid, &uid, &crs]).to_aml_bytes(scope);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loader::GuestLayout;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, byte| sum.wrapping_add(*byte))
    }

    fn u64_at(bytes: &[u8], offset: usize) -> u64 {
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    /// The table at `address`, its length and check sum verified.
    fn table(tables: &AcpiTables, address: u64) -> &[u8] {
        let rest = &tables.bytes[(address - TABLES_BASE.raw()) as usize..];
        let length = u32::from_le_bytes(rest[4..8].try_into().unwrap());
        let table = &rest[..length as usize];
        assert_eq!(sum(table), 0, "check sum of {:?}", &table[..4]);
        table
    }

    /// FADT, MADT and DSDT by the way an operating system finds them.
    fn found(tables: &AcpiTables) -> [&[u8]; 3] {
        let rsdp = &tables.bytes[(tables.rsdp.raw() - TABLES_BASE.raw()) as usize..][..36];
        assert_eq!(&rsdp[..8], b"RSD PTR ");
        assert_eq!((sum(&rsdp[..20]), sum(rsdp), rsdp[15]), (0, 0, 2));
        let xsdt = table(tables, u64_at(rsdp, 24));
        assert_eq!(xsdt.len(), 36 + 3 * 8);
        let fadt = table(tables, u64_at(xsdt, 36));
        let madt = table(tables, u64_at(xsdt, 44));
        [fadt, madt, table(tables, u64_at(fadt, 140))]
    }

    #[test]
    fn tables_are_found_from_the_rsdp_with_sound_sums() {
        let tables = tables(1, &pci::Plan::default());
        let [fadt, madt, dsdt] = found(&tables);
        assert_eq!([&fadt[..4], &madt[..4], &dsdt[..4]], [b"FACP", b"APIC", b"DSDT"]);
        assert_eq!(fadt.len(), 276);
    }

    #[test]
    fn the_mcfg_names_a_window_that_the_dsdt_reserves() {
        let tables = tables(1, &pci::Plan::default());
        let xsdt = table(&tables, u64_at(&tables.bytes[..36], 24));
        let mcfg = table(&tables, u64_at(xsdt, 52));
        assert_eq!((&mcfg[..4], mcfg.len()), (&b"MCFG"[..], 60));
        assert_eq!((u64_at(mcfg, 44), u64_at(mcfg, 52)), (0xe000_0000, 0));
        // Memory32Fixed (ACPI 6.5, 6.4.3.4), writable.
        let reserved = [0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x10, 0];
        let [_, _, dsdt] = found(&tables);
        assert!(dsdt.windows(12).any(|window| window == reserved));
    }

    #[test]
    fn the_host_bridge_has_buses_and_windows_as_planned() {
        let shapes = [pci::Shape::default(), pci::Shape::default()];
        let plan = pci::Plan::new(&GuestLayout::new(5 << 30), 39, &shapes).unwrap();
        let tables = tables(1, &plan);
        let [.., dsdt] = found(&tables);
        let has = |bytes: &[u8]| dsdt.windows(bytes.len()).any(|window| window == bytes);
        // WordBusNumber (ACPI 6.5, 6.4.3.5.3): buses 0 to 2.
        assert!(has(&[0x88, 13, 0, 2, 0xc, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0]));
        // QWordMemory (6.4.3.5.1): ends fixed, not cacheable, writable.
        let window = |first: u64, last: u64| {
            let numbers = [0, first, last, 0, last - first + 1];
            let numbers = numbers.iter().flat_map(|number| number.to_le_bytes());
            [0x8a, 43, 0, 0, 0xc, 1].into_iter().chain(numbers).collect::<Vec<u8>>()
        };
        assert!(has(&window(0xc000_0000, 0xdfff_ffff)));
        assert!(has(&window(6 << 30, (1 << 39) - 1)));
        let xsdt = table(&tables, u64_at(&tables.bytes[..36], 24));
        let mcfg = table(&tables, u64_at(xsdt, 52));
        assert_eq!(mcfg[54..56], [0, 2], "the same buses");
        // Memory32Fixed of as many.
        assert!(has(&[0x86, 9, 0, 1, 0, 0, 0, 0xe0, 0, 0, 0x30, 0]));
        // No window of ports: WordIO has resource type 1.
        assert!(!has(&[0x88, 13, 0, 1]));
    }

    #[test]
    fn the_fadt_is_hardware_reduced_and_names_the_ports() {
        let tables = tables(1, &pci::Plan::default());
        let [fadt, ..] = found(&tables);
        let flags = u32::from_le_bytes(fadt[112..116].try_into().unwrap());
        assert_ne!(flags & 1 << 20, 0);
        assert_eq!((fadt[116], u64_at(fadt, 120), fadt[128]), (1, 0xcf9, 6));
        assert_eq!((fadt[208], u64_at(fadt, 212)), (1, 0x608), "PM timer");
        assert_eq!((u64_at(fadt, 248), u64_at(fadt, 260)), (0x600, 0x601), "sleep registers");
    }

    #[test]
    fn cpus_past_the_broadcast_id_get_x2apic_structures() {
        let tables = tables(300, &pci::Plan::default());
        let [_, madt, _] = found(&tables);
        let mut rest = &madt[44..];
        let mut kinds = [0; 16];
        while let [kind, length, ..] = rest {
            kinds[usize::from(*kind)] += 1;
            rest = &rest[usize::from(*length)..];
        }
        assert_eq!((kinds[0], kinds[9], kinds[1]), (255, 45, 1));
    }

    #[test]
    fn two_thousand_cpus_fit() {
        assert!(tables(2000, &pci::Plan::default()).bytes.len() as u64 <= TABLES_BYTES);
    }
}
