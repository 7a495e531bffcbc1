//! Loading Linux: a bzImage entered in 64-bit mode (Linux, Documentation/arch/x86/boot.rst, "64-bit boot protocol", and
//! zero-page.rst).
//!
//! What goes where: GDT, boot parameters, page tables and command line in the first 640 KiB, ACPI tables at
//! [`acpi::TABLES_BASE`], the kernel where it prefers to be, the RAM disk as high as it may.

use alloc::{vec, vec::Vec};
use core::fmt;

use hw::{Gpa, PAGE_SIZE, PAGE_SIZE_2M};
use images::bzimage::{self, BzImage};
use vcpu::{Gpr, Registers};
use x86_spec::{
    cpu::{Cr0, Cr4, Efer, Rflags},
    segment::{DescriptorTable, Segment},
};

use crate::{
    GuestMemory, NoMemory,
    loader::GuestLayout,
    platform::acpi::{self, AcpiTables},
};

/// The GDT, below it the first stack.
const GDT: Gpa = Gpa::new(0x8000);
/// `boot_params`, the zero page.
const BOOT_PARAMS: Gpa = Gpa::new(0x9000);
/// PML4, PDPT and four page directories.
const PAGE_TABLES: Gpa = Gpa::new(0xa000);
/// The command line.
const COMMAND_LINE: Gpa = Gpa::new(0x1_0000);
/// Where memory ends that PCs have below VGA and ROM.
const LOW_END: u64 = 0xa_0000;
/// Where memory goes on behind them.
const HIGH_MEMORY: u64 = 0x10_0000;
/// Identity-mapped at entry.
const MAPPED_GIB: u64 = 4;

/// Selectors that the protocol prescribes.
const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const BOOT_TR: u16 = 0x20;

/// Offsets in `boot_params` (zero-page.rst).
mod field {
    pub(super) const ACPI_RSDP: usize = 0x070;
    pub(super) const E820_COUNT: usize = 0x1e8;
    pub(super) const VIDEO_MODE: usize = 0x1fa;
    pub(super) const LOADER_TYPE: usize = 0x210;
    pub(super) const RAMDISK_START: usize = 0x218;
    pub(super) const RAMDISK_BYTES: usize = 0x21c;
    pub(super) const COMMAND_LINE: usize = 0x228;
    /// Where the space for the setup header ends.
    pub(super) const HEADER_END: usize = 0x290;
    pub(super) const E820_TABLE: usize = 0x2d0;
}

/// A boot loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xff;
/// `vid_mode`: leave the screen as it is.
const VIDEO_NORMAL: u16 = 0xffff;

/// What to boot.
#[derive(Clone, Copy, Debug)]
pub struct LinuxImage<'a> {
    /// The bzImage, whole.
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The command line.
    pub cmdline: &'a str,
}

/// Why a kernel cannot be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoadError {
    /// The kernel file is not what it should be.
    Kernel(bzimage::Error),
    /// The kernel needs more memory than there is below 3 GiB.
    KernelTooBig {
        /// Bytes of memory below 3 GiB that it needs, with what lies below it.
        needed: u64,
        /// Bytes there are.
        available: u64,
    },
    /// The RAM disk does not fit above the kernel.
    InitrdTooBig {
        /// Its length in bytes.
        bytes: u64,
        /// Bytes of room for it.
        room: u64,
    },
    /// The command line is longer than the kernel takes.
    CommandLineTooLong {
        /// Its length in bytes.
        bytes: usize,
        /// The longest that the kernel takes.
        most: usize,
    },
    /// The ACPI tables are larger than the place for them: too many CPUs.
    AcpiTooBig,
    /// The layout names RAM that the guest's memory does not have.
    NoMemory(NoMemory),
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kernel(error) => write!(f, "kernel: {error}"),
            Self::KernelTooBig { needed, available } => write!(
                f,
                "kernel: it needs {} MiB of memory, the guest has {} MiB below 3 GiB",
                needed.div_ceil(1 << 20),
                available >> 20
            ),
            Self::InitrdTooBig { bytes, room } => write!(
                f,
                "initrd: its {} MiB do not fit into the {} MiB of memory above the kernel",
                bytes.div_ceil(1 << 20),
                room >> 20
            ),
            Self::CommandLineTooLong { bytes, most } => {
                write!(f, "cmdline: {bytes} bytes, but this kernel takes at most {most}")
            }
            Self::AcpiTooBig => write!(f, "the ACPI tables do not fit below 1 MiB: too many CPUs"),
            Self::NoMemory(NoMemory(gpa)) => write!(f, "the guest has no memory at {gpa}"),
        }
    }
}

impl core::error::Error for LoadError {}

impl From<bzimage::Error> for LoadError {
    fn from(error: bzimage::Error) -> Self {
        Self::Kernel(error)
    }
}

impl From<NoMemory> for LoadError {
    fn from(error: NoMemory) -> Self {
        Self::NoMemory(error)
    }
}

/// Loads `image` and the ACPI tables `acpi` into `memory`, which is all zeroes, and gives the registers with which the
/// bootstrap CPU starts.
///
/// # Errors
/// [`LoadError`] says which file does not fit and why.
pub fn load(
    memory: &impl GuestMemory,
    layout: &GuestLayout,
    image: &LinuxImage<'_>,
    acpi: &AcpiTables,
) -> Result<Registers, LoadError> {
    let header = bzimage::parse(image.kernel)?;
    let kernel = kernel_address(&header, layout)?;
    let initrd = match image.initrd {
        Some(bytes) => Some((initrd_address(&header, layout, kernel, bytes.len() as u64)?, bytes)),
        None => None,
    };
    if acpi.bytes.len() as u64 > acpi::TABLES_BYTES {
        return Err(LoadError::AcpiTooBig);
    }

    memory.write(acpi::TABLES_BASE, &acpi.bytes)?;
    memory.write(COMMAND_LINE, &command_line(&header, image.cmdline)?)?;
    memory.write(GDT, &gdt())?;
    memory.write(PAGE_TABLES, &identity_page_tables())?;
    let code = image.kernel.get(header.kernel.clone()).unwrap_or_default();
    memory.write(kernel, code)?;
    if let Some((address, bytes)) = initrd {
        memory.write(address, bytes)?;
    }

    let mut params = BootParams::new();
    params.copy_header(image.kernel, &header);
    params.set(field::LOADER_TYPE, &[LOADER_UNDEFINED]);
    params.set(field::VIDEO_MODE, &VIDEO_NORMAL.to_le_bytes());
    params.set(field::ACPI_RSDP, &acpi.rsdp.raw().to_le_bytes());
    params.set(field::COMMAND_LINE, &low_address(COMMAND_LINE));
    if let Some((address, bytes)) = initrd {
        params.set(field::RAMDISK_START, &low_address(address));
        params.set(field::RAMDISK_BYTES, &(bytes.len() as u32).to_le_bytes());
    }
    params.set_memory_map(layout);
    memory.write(BOOT_PARAMS, &params.0)?;
    Ok(registers(kernel))
}

/// An address below 4 GiB as a 32-bit field.
fn low_address(gpa: Gpa) -> [u8; 4] {
    (gpa.raw() as u32).to_le_bytes()
}

/// Where the kernel goes: where it prefers to, or as low as its alignment allows.
fn kernel_address(header: &BzImage<'_>, layout: &GuestLayout) -> Result<Gpa, LoadError> {
    let available = layout.low.end().raw();
    let end_at = |start: u64| start.saturating_add(header.init_size.into());
    let preferred = header.pref_address;
    if preferred >= HIGH_MEMORY && end_at(preferred) <= available {
        return Ok(Gpa::new(preferred));
    }
    let alignment = u64::from(header.kernel_alignment).max(PAGE_SIZE);
    let lowest = HIGH_MEMORY.next_multiple_of(alignment);
    if header.relocatable && end_at(lowest) <= available {
        return Ok(Gpa::new(lowest));
    }
    let needed = end_at(if header.relocatable { lowest } else { preferred });
    Err(LoadError::KernelTooBig { needed, available })
}

/// Where the RAM disk goes: as high as RAM and the kernel's limit allow, page-aligned.
fn initrd_address(
    header: &BzImage<'_>,
    layout: &GuestLayout,
    kernel: Gpa,
    bytes: u64,
) -> Result<Gpa, LoadError> {
    let floor = kernel.raw() + u64::from(header.init_size);
    let ceiling = layout.low.end().raw().min(u64::from(header.initrd_addr_max) + 1);
    let room = ceiling.saturating_sub(floor);
    ceiling
        .checked_sub(bytes)
        .map(|start| Gpa::new(start).align_down(PAGE_SIZE))
        .filter(|start| start.raw() >= floor)
        .ok_or(LoadError::InitrdTooBig { bytes, room })
}

/// The command line with its terminating zero.
fn command_line(header: &BzImage<'_>, text: &str) -> Result<Vec<u8>, LoadError> {
    let room = (LOW_END - COMMAND_LINE.raw() - 1) as usize;
    let most = (header.cmdline_size as usize).min(room);
    if text.len() > most {
        return Err(LoadError::CommandLineTooLong { bytes: text.len(), most });
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// Null, an unused entry, the flat code and data segments, and a task-state segment that no one ever uses, two entries
/// wide.
fn gdt() -> Vec<u8> {
    let entries: [u64; 6] =
        [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff, 0x0000_8b00_0000_0067, 0];
    entries.iter().flat_map(|entry| entry.to_le_bytes()).collect()
}

/// Page tables that map the first [`MAPPED_GIB`] to themselves by 2 MiB pages.
fn identity_page_tables() -> Vec<u8> {
    const PRESENT_WRITABLE: u64 = 3;
    const LARGE: u64 = 1 << 7;
    let table_at = |index: u64| (PAGE_TABLES.raw() + index * PAGE_SIZE) | PRESENT_WRITABLE;
    let mut bytes = Vec::with_capacity(((2 + MAPPED_GIB) * PAGE_SIZE) as usize);
    bytes.extend(table_at(1).to_le_bytes());
    bytes.resize(PAGE_SIZE as usize, 0);
    bytes.extend((0..MAPPED_GIB).flat_map(|directory| table_at(2 + directory).to_le_bytes()));
    bytes.resize(2 * PAGE_SIZE as usize, 0);
    bytes.extend(
        (0..MAPPED_GIB * 512)
            .flat_map(|page| (page * PAGE_SIZE_2M | LARGE | PRESENT_WRITABLE).to_le_bytes()),
    );
    bytes
}

/// What a range of the guest's memory is, by E820's codes (ACPI 6.5, 15).
#[derive(Clone, Copy)]
enum E820 {
    Ram = 1,
    Reserved = 2,
}

/// `boot_params` as it is filled in.
struct BootParams(Vec<u8>);

impl BootParams {
    fn new() -> Self {
        Self(vec![0; PAGE_SIZE as usize])
    }

    /// Sets the bytes from `offset`; all offsets are constants within the page.
    fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (slot, byte) in self.0.iter_mut().skip(offset).zip(bytes) {
            *slot = *byte;
        }
    }

    fn copy_header(&mut self, file: &[u8], header: &BzImage<'_>) {
        let end = header.setup_header.end.min(field::HEADER_END);
        let bytes = file.get(header.setup_header.start..end).unwrap_or_default();
        self.set(header.setup_header.start, bytes);
    }

    fn set_memory_map(&mut self, layout: &GuestLayout) {
        let (low, high) = (layout.low, layout.high);
        let tables = acpi::TABLES_BASE.raw();
        let map = [
            (0, LOW_END.min(low.end().raw()), E820::Ram),
            (tables, tables + acpi::TABLES_BYTES, E820::Reserved),
            (HIGH_MEMORY, low.end().raw(), E820::Ram),
            (high.start.raw(), high.end().raw(), E820::Ram),
        ];
        let mut count = 0_u8;
        for (start, end, kind) in map {
            if start >= end {
                continue;
            }
            let entry = field::E820_TABLE + 20 * usize::from(count);
            self.set(entry, &start.to_le_bytes());
            self.set(entry + 8, &(end - start).to_le_bytes());
            self.set(entry + 16, &(kind as u32).to_le_bytes());
            count += 1;
        }
        self.set(field::E820_COUNT, &[count]);
    }
}

/// The state at the 64-bit entry: long mode, flat segments, interrupts off, RSI = the boot parameters.
fn registers(kernel: Gpa) -> Registers {
    let data = Segment::flat(BOOT_DS, Segment::DATA);
    let mut gprs = [0; 16];
    let starts = [(Gpr::Rsi, BOOT_PARAMS), (Gpr::Rsp, GDT)];
    for (register, gpa) in starts {
        if let Some(slot) = gprs.get_mut(register as usize) {
            *slot = gpa.raw();
        }
    }
    Registers {
        gprs,
        rip: kernel.raw() + bzimage::ENTRY_64,
        rflags: Rflags::ONE.bits(),
        cr0: (Cr0::PE | Cr0::ET | Cr0::NE | Cr0::PG).bits(),
        cr3: PAGE_TABLES.raw(),
        cr4: Cr4::PAE.bits(),
        efer: (Efer::LME | Efer::LMA).bits(),
        dr7: 0x400,
        cs: Segment::flat(BOOT_CS, Segment::CODE64),
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        tr: Segment { selector: BOOT_TR, base: 0, limit: 0x67, access: Segment::TSS64_BUSY },
        ldtr: Segment::unusable(),
        gdtr: DescriptorTable { base: GDT.raw(), limit: 6 * 8 - 1 },
        ..Registers::default()
    }
}
