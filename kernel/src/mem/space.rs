//! Kerf's own address space.
//!
//! Nothing is ever unmapped from it but the guard pages, and those before it is in force. So no other CPU ever has to be
//! told of a change, and no translation goes stale.

use boot_info::{BootInfo, DIRECT_MAP, KERNEL_BASE, MemoryKind, MemoryRegion};
use frames::{Entry, runs};
use hw::{Hpa, Hva, PAGE_SIZE, PAGE_SIZE_2M};
use paging::format::Host;
use paging::{Caching, MapError, PageSize, PageTable, Rights};
use spin::Mutex;

use super::{MemoryError, Pool, Tables, control, entries, frames as pool, out_of_reach};
use crate::platform::{Framebuffer, Mmio};
use crate::start;

/// Where the window starts. It ends where no one will ever come.
const WINDOW: u64 = 0xffff_c000_0000_0000;
/// Addresses between the direct map's start and the window.
pub(super) const DIRECT_MAP_BYTES: u64 = WINDOW - DIRECT_MAP;

unsafe extern "C" {
    static __text_start: u8;
    static __text_end: u8;
    static __rodata_start: u8;
    static __rodata_end: u8;
    static __data_start: u8;
    static __data_end: u8;
}

/// The address space, and what of the window is taken.
pub(super) struct Space {
    pub(super) table: PageTable<Host>,
    window: u64,
}

pub(super) static SPACE: Mutex<Option<Space>> = Mutex::new(None);

/// Makes the kernel's own page tables and moves onto them.
pub(super) fn init(info: &BootInfo, map: &'static [MemoryRegion]) -> Result<(), MemoryError> {
    if control::has_five_levels() {
        return Err(MemoryError::FiveLevels);
    }
    let table = build(info, map).map_err(MemoryError::Space)?;
    control::prepare();
    let root = table.root();
    // SAFETY: the tables map the image, which has all code, data and stacks in use, where it is linked, and RAM in the
    // direct map, as the boot application's tables do.
    unsafe { control::enter(root) };
    *SPACE.lock() = Some(Space { table, window: WINDOW });
    Ok(())
}

fn build(info: &BootInfo, map: &'static [MemoryRegion]) -> Result<PageTable<Host>, MapError> {
    let mut table = PageTable::new(&mut Tables)?;
    // The image is left out, so that its constants and code have no writable alias.
    let image = Entry {
        start: info.kernel.hpa,
        pages: info.kernel.count.div_ceil(PAGE_SIZE),
        usable: false,
    };
    let largest = control::largest_page();
    for run in runs(entries(map, is_memory).chain([image, out_of_reach()])) {
        let at = DIRECT_MAP + run.start().raw();
        let (rights, caching) = (Rights::RW, Caching::WriteBack);
        table.map(&mut Tables, at, run.start(), run.bytes(), rights, caching, largest)?;
    }
    let base = Hpa::new(info.kernel.hpa);
    for (start, end, rights) in [
        (&raw const __text_start, &raw const __text_end, Rights::RX),
        (&raw const __rodata_start, &raw const __rodata_end, Rights::R),
        (&raw const __data_start, &raw const __data_end, Rights::RW),
    ] {
        let (start, bytes) = (start as u64, end as u64 - start as u64);
        let hpa = base.wrapping_add(start - KERNEL_BASE);
        let page = PageSize::Size4K;
        table.map(&mut Tables, start, hpa, bytes, rights, Caching::WriteBack, page)?;
    }
    for guard in start::boot_guards() {
        // No hardware walks these tables yet.
        table.unmap(&mut Tables, guard.raw(), PAGE_SIZE)?.free(&mut Tables);
    }
    Ok(table)
}

/// Bytes of the kernel's image in memory.
pub(crate) fn image_bytes() -> u64 {
    &raw const __data_end as u64 - KERNEL_BASE
}

/// The kernel's code.
pub(super) fn text() -> &'static [u8] {
    let (start, end) = (&raw const __text_start, &raw const __text_end);
    // SAFETY: the linker script bounds the text by the two symbols; it is mapped, and nothing writes to it.
    unsafe { core::slice::from_raw_parts(start, end.offset_from_unsigned(start)) }
}

/// What is RAM. Runtime services are never called, so their memory is left alone.
fn is_memory(kind: MemoryKind) -> bool {
    matches!(
        kind,
        MemoryKind::Usable
            | MemoryKind::BootReclaimable
            | MemoryKind::Loaded
            | MemoryKind::AcpiTables
            | MemoryKind::AcpiNvs
    )
}

impl Space {
    /// Takes `bytes` of the window, aligned to `align`, and leaves a hole after them.
    fn take(&mut self, bytes: u64, align: u64) -> u64 {
        let at = self.window.next_multiple_of(align);
        self.window = at + bytes.next_multiple_of(PAGE_SIZE) + PAGE_SIZE;
        at
    }

    /// Maps the pages that hold `[hpa, hpa + bytes)` into the window; gives the address of the byte at `hpa`. `None` where
    /// the CPU has no such address, memory of the pool is there, or no frame is left for tables.
    fn map(&mut self, hpa: Hpa, bytes: u64, rights: Rights, caching: Caching) -> Option<Hva> {
        let first = hpa.align_down(PAGE_SIZE);
        let end = hpa.checked_add(bytes)?.align_up(PAGE_SIZE)?;
        let bytes = end.offset_from(first)?;
        if end.raw() > control::physical_end() || pool::manages(first, bytes) {
            return None;
        }
        let page = if first.is_aligned(PAGE_SIZE_2M) && bytes >= PAGE_SIZE_2M {
            PageSize::Size2M
        } else {
            PageSize::Size4K
        };
        let at = self.take(bytes, page.bytes());
        self.table.map(&mut Tables, at, first, bytes, rights, caching, page).ok()?;
        Some(Hva::new(at + hpa.page_offset()))
    }
}

/// Maps device registers, for good; they start at a multiple of four bytes. The firmware's tables may say where they are:
/// `None` where that cannot be true.
pub(crate) fn map_mmio(hpa: Hpa, bytes: u64) -> Option<Mmio> {
    if !hpa.is_aligned(4) {
        return None;
    }
    let mut space = SPACE.lock();
    let at = space.as_mut()?.map(hpa, bytes, Rights::RW, Caching::Uncacheable)?;
    // SAFETY: mapped uncached just now, aligned, and never unmapped. The callers, the drivers of interrupt controllers,
    // timers, IOMMUs and PCI, name addresses of registers, and no frame of the pool is there: `Space::map` has looked.
    Some(unsafe { Mmio::new(at, bytes) })
}

/// Maps the screen, for good. `None` where there is none, or it does not fit what the firmware says of it.
pub(crate) fn map_screen(screen: &boot_info::Framebuffer) -> Option<Framebuffer> {
    let boot_info::Framebuffer { hpa, bytes, width, height, stride, .. } = *screen;
    let used = 4 * u64::from(stride) * u64::from(height);
    if hpa == 0 || used == 0 || used > bytes || width > stride {
        return None;
    }
    let mut space = SPACE.lock();
    let at = space.as_mut()?.map(Hpa::new(hpa), used, Rights::RW, Caching::WriteCombining)?;
    // SAFETY: mapped just now, never unmapped, and not of the pool, as `Space::map` has looked.
    Some(unsafe { Framebuffer::new(at, width, height, stride) })
}

/// The bytes `[hpa, hpa + bytes)`, wherever they are: tables of the firmware's, for good. `None` where that is no
/// address, they are in memory of the pool, or no frame is left for tables.
pub(crate) fn map_read_only(hpa: Hpa, bytes: u64) -> Option<&'static [u8]> {
    if bytes == 0 {
        return Some(&[]);
    }
    let mut space = SPACE.lock();
    let at = space.as_mut()?.map(hpa, bytes, Rights::R, Caching::WriteBack)?;
    // SAFETY: mapped just now for reading, and never unmapped; it is not in the pool, as `Space::map` has looked, so
    // nothing writes to it. An address that is no memory reads all-ones.
    Some(unsafe { core::slice::from_raw_parts(at.raw() as *const u8, bytes as usize) })
}

/// Has the calling CPU, which has just started on the tables of [`super::StartPages`], use these and `registers`.
///
/// # Errors
/// There is no address space yet.
pub(crate) fn join(registers: &control::Registers) -> Option<()> {
    let root = SPACE.lock().as_ref()?.table.root();
    // SAFETY: the upper half of the starting tables is a copy of these tables' own, so all that is used stays mapped.
    unsafe { control::join(root, registers) };
    Some(())
}

/// A stack of at least `bytes`, for good: the address past its last byte. The pages around it are never mapped. `None`
/// where memory is short.
pub(crate) fn stack(bytes: u64) -> Option<Hva> {
    let bytes = bytes.next_multiple_of(PAGE_SIZE);
    let at = reserve(bytes)?;
    (populate(at, bytes) == bytes).then(|| at.wrapping_add(bytes))
}

/// Reserves `bytes` of addresses in the window, with nothing mapped.
pub(super) fn reserve(bytes: u64) -> Option<Hva> {
    SPACE.lock().as_mut().map(|space| Hva::new(space.take(bytes, PAGE_SIZE)))
}

/// Maps fresh frames at `at`, up to `bytes`; gives how many bytes could be mapped.
pub(super) fn populate(at: Hva, bytes: u64) -> u64 {
    let mut space = SPACE.lock();
    let Some(space) = space.as_mut() else { return 0 };
    let mut done = 0;
    while done < bytes {
        let Some(frame) = Pool.alloc() else { break };
        let (rights, page) = (Rights::RW, PageSize::Size4K);
        let to = at.raw() + done;
        let mapped =
            space.table.map(&mut Tables, to, frame, PAGE_SIZE, rights, Caching::WriteBack, page);
        if mapped.is_err() {
            Pool.free(frame, 1);
            break;
        }
        done += PAGE_SIZE;
    }
    done
}
