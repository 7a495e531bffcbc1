//! A guest's RAM: chunks of 2 MiB, so that both the second stage and the TLB have large pages to work with.

use core::arch::asm;

use alloc::vec::Vec;

use hw::{Gpa, Hpa, Hva, PAGE_SIZE, PAGE_SIZE_1G, PAGE_SIZE_2M};
use paging::{Caching, EntryFormat, MapError, PageSize, PageTable, Rights};
use vmm::loader::GuestLayout;
use vmm::{GuestMemory, NoMemory};

use super::{Pool, Tables, direct};

/// Frames of a chunk.
const CHUNK_FRAMES: u64 = PAGE_SIZE_2M / PAGE_SIZE;

/// A guest's RAM.
#[derive(Debug)]
pub(crate) struct GuestRam {
    layout: GuestLayout,
    /// Host addresses of the chunks, those of low RAM first.
    chunks: Vec<Hpa>,
    /// Those of low RAM in the direct map, by their number.
    low: Vec<Hva>,
}

/// Why a guest's RAM could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestRamError {
    /// Chunks of 2 MiB wanted.
    pub(crate) wanted: u64,
    /// Chunks that could be had.
    pub(crate) found: u64,
}

impl GuestRam {
    /// Zeroed RAM for the layout; its ranges are multiples of 2 MiB, as the configuration demands.
    ///
    /// # Errors
    /// [`GuestRamError`] where that much memory is not free in chunks; none is taken then.
    pub(crate) fn new(layout: GuestLayout) -> Result<Self, GuestRamError> {
        let wanted = layout.ranges().iter().map(|range| range.bytes / PAGE_SIZE_2M).sum();
        let mut ram = Self { layout, chunks: Vec::with_capacity(wanted as usize), low: Vec::new() };
        for range in layout.ranges() {
            let mut left = range.bytes;
            while left > 0 {
                let at = range.start.wrapping_add(range.bytes - left);
                let is_whole = at.is_aligned(PAGE_SIZE_1G) && left >= PAGE_SIZE_1G;
                let Some((start, bytes)) = alloc(is_whole) else {
                    return Err(GuestRamError { wanted, found: ram.chunks.len() as u64 });
                };
                // SAFETY: the pool gave the frames to us alone, and all of its frames are in the direct map.
                unsafe { direct::zero(start, bytes / PAGE_SIZE) };
                let offsets = (0..bytes).step_by(PAGE_SIZE_2M as usize);
                ram.chunks.extend(offsets.map(|offset| start.wrapping_add(offset)));
                left -= bytes;
            }
        }
        let low = (layout.low.bytes / PAGE_SIZE_2M) as usize;
        ram.low = ram.chunks.iter().take(low).map(|&chunk| direct::address(chunk)).collect();
        Ok(ram)
    }

    /// Maps the RAM into a second stage with all rights, by the largest pages that there can be.
    ///
    /// # Errors
    /// [`MapError`] where no frame is left for tables.
    pub(crate) fn map_into<F: EntryFormat>(
        &self,
        table: &mut PageTable<F>,
        tables: &mut Tables,
        largest: PageSize,
    ) -> Result<(), MapError> {
        for (gpa, hpa, bytes) in self.pieces() {
            let (rights, caching) = (Rights::RWX, Caching::WriteBack);
            table.map(tables, gpa.raw(), hpa, bytes, rights, caching, largest)?;
        }
        Ok(())
    }

    /// Each piece that is contiguous for guest and host: its guest address, its host address, its bytes.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = (Gpa, Hpa, u64)> {
        let gpas = self.layout.ranges().into_iter().flat_map(|range| {
            (0..range.bytes / PAGE_SIZE_2M).map(move |n| range.start.wrapping_add(n * PAGE_SIZE_2M))
        });
        let mut chunks = gpas.zip(self.chunks.iter().copied()).peekable();
        core::iter::from_fn(move || {
            let (gpa, hpa) = chunks.next()?;
            let mut bytes = PAGE_SIZE_2M;
            let next = |bytes| (gpa.wrapping_add(bytes), hpa.wrapping_add(bytes));
            while chunks.next_if_eq(&next(bytes)).is_some() {
                bytes += PAGE_SIZE_2M;
            }
            Some((gpa, hpa, bytes))
        })
    }

    /// The chunk and the offset in it of a guest address.
    fn locate(&self, gpa: Gpa) -> Option<(Hpa, u64)> {
        let mut before = 0;
        for range in self.layout.ranges() {
            if let Some(offset) = gpa.offset_from(range.start).filter(|&o| o < range.bytes) {
                let at = before + offset;
                let chunk = self.chunks.get((at / PAGE_SIZE_2M) as usize)?;
                return Some((*chunk, at % PAGE_SIZE_2M));
            }
            before += range.bytes;
        }
        None
    }

    /// Where the direct map has a byte.
    #[cold]
    pub(super) fn host_address(&self, gpa: Gpa) -> Option<Hva> {
        self.locate(gpa).map(|(chunk, offset)| direct::address(chunk).wrapping_add(offset))
    }

    /// Calls `piece` with each stretch of `[gpa, gpa + bytes)` that is contiguous for the host: its host address, the
    /// offset of it in the range, and its bytes. Nothing is called where any byte is not RAM.
    fn for_each_piece(
        &self,
        gpa: Gpa,
        bytes: usize,
        mut piece: impl FnMut(*mut u8, usize, usize),
    ) -> Result<(), NoMemory> {
        // Nearly always it is one stretch: an entry of a page table, the bytes of an instruction.
        if let Some((chunk, offset)) = self.locate(gpa)
            && bytes as u64 <= PAGE_SIZE_2M - offset
        {
            piece(direct::address(chunk).wrapping_add(offset).raw() as *mut u8, 0, bytes);
            return Ok(());
        }
        // Twice over: the first pass only looks.
        for touch in [false, true] {
            let mut done = 0;
            while done < bytes {
                let at = gpa.checked_add(done as u64).ok_or(NoMemory(gpa))?;
                let (chunk, offset) = self.locate(at).ok_or(NoMemory(at))?;
                let here = (bytes - done).min((PAGE_SIZE_2M - offset) as usize);
                if touch {
                    let host = direct::address(chunk).wrapping_add(offset);
                    piece(host.raw() as *mut u8, done, here);
                }
                done += here;
            }
        }
        Ok(())
    }
}

/// A chunk, or a whole GiB where that is wanted and there is one.
fn alloc(whole: bool) -> Option<(Hpa, u64)> {
    let sizes = [PAGE_SIZE_1G, PAGE_SIZE_2M].into_iter().skip(usize::from(!whole));
    let mut found = sizes.filter_map(|bytes| {
        let frames = bytes / PAGE_SIZE;
        Pool.alloc_contiguous(frames, frames).map(|start| (start, bytes))
    });
    found.next()
}

impl GuestMemory for GuestRam {
    #[inline(always)]
    fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        let (at, offset) = (gpa.raw() / PAGE_SIZE_2M, gpa.raw() % PAGE_SIZE_2M);
        if offset > PAGE_SIZE_2M - 8 {
            return None;
        }
        let host = match self.low.get(at as usize) {
            Some(chunk) => chunk.wrapping_add(offset),
            None => self.host_address(gpa)?,
        };
        let value;
        // SAFETY: the chunk is mapped and owned by `self`, and has eight bytes from there on. A guest may change them
        // meanwhile: this is one load by assembly, about which the compiler can assume nothing.
        unsafe {
            asm!("mov {}, [{}]", out(reg) value, in(reg) host.raw(),
                options(nostack, preserves_flags, readonly));
        }
        Some(value)
    }

    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        let to = into.as_mut_ptr();
        self.for_each_piece(gpa, into.len(), |host, offset, bytes| {
            // SAFETY: `host` has `bytes` of a chunk, which is mapped and owned by `self`; `offset + bytes` lies within
            // `into`.
            unsafe { copy(to.add(offset), host, bytes) };
        })
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        self.for_each_piece(gpa, from.len(), |host, offset, bytes| {
            // SAFETY: as for reading, the other way round.
            unsafe { copy(host, from.as_ptr().add(offset), bytes) };
        })
    }
}

impl Drop for GuestRam {
    fn drop(&mut self) {
        for &chunk in &self.chunks {
            Pool.free(chunk, CHUNK_FRAMES);
        }
    }
}

/// Copies bytes, one side of which a guest may change meanwhile: by assembly, so that the compiler can assume nothing
/// about them.
///
/// # Safety
/// Both ranges are mapped, the one at `to` writable and not Rust's own but for the caller's exclusive borrow, and they do
/// not overlap.
unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: the ranges are the caller's to answer for; the direction flag is clear by the ABI.
    unsafe {
        asm!(
            "rep movsq",
            "mov ecx, {rest:e}",
            "rep movsb",
            rest = in(reg) bytes % 8,
            inout("rdi") to => _,
            inout("rsi") from => _,
            inout("rcx") bytes / 8 => _,
            options(nostack, preserves_flags),
        );
    }
}
