//! A walk of the guest's own page tables (SDM vol. 3, chapter 4; APM vol. 2, chapter 5), for what the CPU has not done
//! for us: fetching an instruction's bytes and moving the data of string instructions.
//!
//! All paging modes are known. Tables are the guest's memory and may say anything: a table or page that is not RAM is an
//! error of the caller's to answer, never a panic. Protection keys are not looked at: the register that they are checked
//! against is not among [`CpuContext`].

use hw::{Gpa, PAGE_SIZE};
use vcpu::{Access, Code64, CpuContext};
use x86_spec::cpu::{Cr0, Cr4, Efer, Rflags};

use crate::insn::{MAX_BYTES, Mode};
use crate::{GuestMemory, NoMemory};

#[cfg(test)]
mod tests;

/// Why a linear address has no guest physical one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalkError {
    /// The guest's tables forbid the access: #PF with this error code.
    PageFault {
        /// The linear address, for CR2.
        address: u64,
        /// The error code (SDM vol. 3, 4.7).
        error_code: u32,
    },
    /// The address is not canonical: #GP(0), or #SS(0) for the stack.
    NotCanonical,
    /// A table, or the page itself where its bytes were wanted, is not RAM.
    NoMemory(Gpa),
}

impl From<NoMemory> for WalkError {
    fn from(hole: NoMemory) -> Self {
        Self::NoMemory(hole.0)
    }
}

/// Bits of a page-fault error code (SDM vol. 3, 4.7).
mod code {
    pub(super) const PRESENT: u32 = 1 << 0;
    pub(super) const WRITE: u32 = 1 << 1;
    pub(super) const USER: u32 = 1 << 2;
    pub(super) const RESERVED: u32 = 1 << 3;
    pub(super) const FETCH: u32 = 1 << 4;
}

/// A page fault at `address` for this cause.
fn page_fault(context: &CpuContext, address: u64, access: Access, cause: u32) -> WalkError {
    let mut error_code = cause;
    if context.cpl == 3 {
        error_code |= code::USER;
    }
    match access {
        Access::Read => {}
        Access::Write => error_code |= code::WRITE,
        Access::Execute => {
            // NXE means nothing to tables of 32-bit entries.
            let nx = context.efer & Efer::NXE.bits() != 0 && context.cr4 & Cr4::PAE.bits() != 0;
            if nx || context.cr4 & Cr4::SMEP.bits() != 0 {
                error_code |= code::FETCH;
            }
        }
    }
    WalkError::PageFault { address, error_code }
}

/// The page fault of an access that the memory itself does not allow.
pub(crate) fn protection_fault(context: &CpuContext, address: u64, access: Access) -> WalkError {
    page_fault(context, address, access, code::PRESENT)
}

/// Bits of an entry.
mod bit {
    pub(super) const PRESENT: u64 = 1 << 0;
    pub(super) const WRITE: u64 = 1 << 1;
    pub(super) const USER: u64 = 1 << 2;
    pub(super) const ACCESSED: u64 = 1 << 5;
    pub(super) const DIRTY: u64 = 1 << 6;
    pub(super) const LARGE: u64 = 1 << 7;
    pub(super) const NX: u64 = 1 << 63;
    /// Bits 51:12.
    pub(super) const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The shape of a tree of tables.
struct Shape {
    /// Levels from the root down.
    levels: u32,
    /// log2 of the entries in a table.
    index_bits: u32,
    /// Bytes of an entry.
    entry_bytes: u64,
    /// The highest level at which an entry may map memory itself.
    large_level: u32,
}

impl Shape {
    /// The shape the control registers choose; `None` without paging.
    fn of(context: &CpuContext) -> Option<Self> {
        if context.cr0 & Cr0::PG.bits() == 0 {
            return None;
        }
        let cr4 = |flag: Cr4| context.cr4 & flag.bits() != 0;
        Some(if context.efer & Efer::LMA.bits() != 0 {
            let levels = if cr4(Cr4::LA57) { 5 } else { 4 };
            Self { levels, index_bits: 9, entry_bytes: 8, large_level: 3 }
        } else if cr4(Cr4::PAE) {
            Self { levels: 3, index_bits: 9, entry_bytes: 8, large_level: 2 }
        } else {
            let large_level = if cr4(Cr4::PSE) { 2 } else { 1 };
            Self { levels: 2, index_bits: 10, entry_bytes: 4, large_level }
        })
    }

    const fn is_pae(&self) -> bool {
        self.levels == 3
    }

    /// Lowest bit of the linear address that indexes a table of `level`.
    const fn shift(&self, level: u32) -> u32 {
        12 + (level - 1) * self.index_bits
    }
}

/// The guest physical address of linear address `address` for `access` at the context's privilege. Sets the accessed
/// and dirty flags as the CPU would; whether the page itself is RAM is not asked.
///
/// # Errors
/// [`WalkError`]; the walk has no effect then but for accessed flags.
pub fn translate<M: GuestMemory>(
    context: &CpuContext,
    memory: &M,
    address: u64,
    access: Access,
) -> Result<Gpa, WalkError> {
    let Some(shape) = Shape::of(context) else {
        return Ok(Gpa::new(address & 0xffff_ffff));
    };
    if shape.levels > 3 && !is_canonical(address, shape.shift(shape.levels + 1)) {
        return Err(WalkError::NotCanonical);
    }
    Walk { context, memory, address, access, shape }.run()
}

/// Copies the bytes at RIP into `into`, as many as lie on present, executable RAM and within [`MAX_BYTES`], and says how
/// many they are.
///
/// # Errors
/// [`WalkError`] where not even the first can be fetched.
pub fn fetch<M: GuestMemory>(
    context: &CpuContext,
    memory: &M,
    into: &mut [u8; MAX_BYTES],
) -> Result<usize, WalkError> {
    let long = Mode::of(context) == Mode::Bits64;
    let mut fetched = 0;
    while let Some(rest) = into.get_mut(fetched..).filter(|rest| !rest.is_empty()) {
        let offset = context.rip.wrapping_add(fetched as u64);
        let address =
            if long { offset } else { context.cs.base.wrapping_add(offset) & 0xffff_ffff };
        let left_in_page = (PAGE_SIZE - address % PAGE_SIZE) as usize;
        let count = rest.len().min(left_in_page);
        let Some(part) = rest.get_mut(..count) else { break };
        let found = translate(context, memory, address, Access::Execute)
            .and_then(|gpa| memory.read(gpa, part).map_err(WalkError::from));
        match found {
            Ok(()) => fetched += count,
            Err(error) if fetched == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(fetched)
}

/// Eight bytes of 64-bit code at RIP, by a short way. The CPU itself has just fetched them: rights are not looked at again,
/// and accessed flags are set. `None` where another page begins among them, or for whatever else [`fetch`] knows of.
pub fn code_word<M: GuestMemory>(code: Code64, memory: &M) -> Option<u64> {
    let offset = code.rip % PAGE_SIZE;
    if offset > PAGE_SIZE - 8 {
        return None;
    }
    memory.read_u64(code_path(code, memory)?.page.wrapping_add(offset))
}

/// The way of a walk to 64-bit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodePath {
    /// The entries by which it went, and where they are, from the root down; the last one as often as it takes to have
    /// four.
    pub entries: [(Gpa, u64); 4],
    /// The 4 KiB of memory that RIP is in.
    pub page: Gpa,
}

/// The way to the code at RIP, likewise.
pub fn code_path<M: GuestMemory>(code: Code64, memory: &M) -> Option<CodePath> {
    let Code64 { rip, cr3 } = code;
    let mut entries = [(Gpa::ZERO, cr3); 4];
    let mut last = cr3;
    let mut large = None;
    for (shift, slot) in [39, 30, 21, 12].into_iter().zip(&mut entries) {
        if large.is_none() {
            let at = Gpa::new(last & bit::ADDRESS | rip >> (shift - 3) & 0xff8);
            last = memory.read_u64(at).filter(|entry| entry & bit::PRESENT != 0)?;
            *slot = (at, last);
            if last & bit::LARGE != 0 && matches!(shift, 30 | 21) {
                large = Some((*slot, (1u64 << shift) - 1));
            }
        } else if let Some((entry, _)) = large {
            *slot = entry;
        }
    }
    let within = large.map_or(PAGE_SIZE - 1, |(_, within)| within);
    let page = last & bit::ADDRESS & !within | rip & within & !(PAGE_SIZE - 1);
    Some(CodePath { entries, page: Gpa::new(page) })
}

/// Reads `into.len()` bytes, at most a page, from linear memory.
///
/// # Errors
/// [`WalkError`] for the first byte that cannot be read.
pub fn read<M: GuestMemory>(
    context: &CpuContext,
    memory: &M,
    address: u64,
    into: &mut [u8],
) -> Result<(), WalkError> {
    let (first, second) = into.split_at_mut(split(address, into.len()));
    let gpa = translate(context, memory, address, Access::Read)?;
    if !second.is_empty() {
        let next = address.wrapping_add(first.len() as u64);
        let next = translate(context, memory, next, Access::Read)?;
        memory.read(next, second)?;
    }
    memory.read(gpa, first)?;
    Ok(())
}

/// Writes `from.len()` bytes, at most a page, to linear memory: all or, where a page fault forbids it, none.
///
/// # Errors
/// [`WalkError`] for the first byte that cannot be written.
pub fn write<M: GuestMemory>(
    context: &CpuContext,
    memory: &M,
    address: u64,
    from: &[u8],
) -> Result<(), WalkError> {
    let (first, second) = from.split_at(split(address, from.len()));
    let gpa = translate(context, memory, address, Access::Write)?;
    if !second.is_empty() {
        let next = address.wrapping_add(first.len() as u64);
        let next = translate(context, memory, next, Access::Write)?;
        memory.write(next, second)?;
    }
    memory.write(gpa, first)?;
    Ok(())
}

/// How many of `len` bytes at `address` lie in its page.
fn split(address: u64, len: usize) -> usize {
    len.min((PAGE_SIZE - address % PAGE_SIZE) as usize)
}

/// Whether bits 63 to `bits - 1` are all the same (SDM vol. 1, 3.3.7.1).
const fn is_canonical(address: u64, bits: u32) -> bool {
    let unused = 64 - bits;
    ((address << unused) as i64 >> unused) as u64 == address
}

struct Walk<'a, M> {
    context: &'a CpuContext,
    memory: &'a M,
    address: u64,
    access: Access,
    shape: Shape,
}

impl<M: GuestMemory> Walk<'_, M> {
    fn run(&self) -> Result<Gpa, WalkError> {
        let mut table = self.root();
        // What the entries on the way allow together; NX forbids where any has it.
        let (mut writable, mut user, mut no_execute) = (true, true, false);
        let mut level = self.shape.levels;
        loop {
            let (at, entry) = self.entry(table, level)?;
            self.check_entry(level, entry)?;
            // The page-directory-pointer entries of PAE hold no rights (SDM vol. 3, 4.4.1).
            if !(self.shape.is_pae() && level == 3) {
                writable &= entry & bit::WRITE != 0;
                user &= entry & bit::USER != 0;
                no_execute |= entry & bit::NX != 0;
            }
            if level == 1 || (level <= self.shape.large_level && entry & bit::LARGE != 0) {
                self.check_rights(writable, user, no_execute)?;
                self.mark(at, entry, self.access == Access::Write)?;
                return Ok(self.page(level, entry));
            }
            if !(self.shape.is_pae() && level == 3) {
                self.mark(at, entry, false)?;
            }
            table = entry & self.address_bits();
            level -= 1;
        }
    }

    fn root(&self) -> u64 {
        let cr3 = self.context.cr3;
        match self.shape.levels {
            2 => cr3 & 0xffff_f000,
            3 => cr3 & 0xffff_ffe0,
            _ => cr3 & bit::ADDRESS,
        }
    }

    const fn address_bits(&self) -> u64 {
        if self.shape.entry_bytes == 4 { 0xffff_f000 } else { bit::ADDRESS }
    }

    /// The entry for the address in `table`, and where it is.
    fn entry(&self, table: u64, level: u32) -> Result<(Gpa, u64), WalkError> {
        let bits = if self.shape.is_pae() && level == 3 { 2 } else { self.shape.index_bits };
        let index = (self.address >> self.shape.shift(level)) & ((1 << bits) - 1);
        let at = Gpa::new(table.wrapping_add(index * self.shape.entry_bytes));
        let entry = if self.shape.entry_bytes == 4 {
            let mut bytes = [0; 4];
            self.memory.read(at, &mut bytes)?;
            u64::from(u32::from_le_bytes(bytes))
        } else {
            let mut bytes = [0; 8];
            self.memory.read(at, &mut bytes)?;
            u64::from_le_bytes(bytes)
        };
        Ok((at, entry))
    }

    /// Present, and without the reserved bits that do not depend on the width of physical addresses.
    fn check_entry(&self, level: u32, entry: u64) -> Result<(), WalkError> {
        if entry & bit::PRESENT == 0 {
            return Err(self.fault(0));
        }
        let nx_reserved =
            self.context.efer & Efer::NXE.bits() == 0 || self.shape.is_pae() && level == 3;
        let large_reserved = level > 3 || (level == 3 && self.shape.is_pae());
        if (nx_reserved && entry & bit::NX != 0) || (large_reserved && entry & bit::LARGE != 0) {
            return Err(self.fault(code::PRESENT | code::RESERVED));
        }
        Ok(())
    }

    /// SDM vol. 3, 4.6.1.
    fn check_rights(&self, writable: bool, user: bool, no_execute: bool) -> Result<(), WalkError> {
        let context = self.context;
        let by_user = context.cpl == 3;
        let cr4 = |flag: Cr4| context.cr4 & flag.bits() != 0;
        let allowed = if by_user {
            user && match self.access {
                Access::Read => true,
                Access::Write => writable,
                Access::Execute => !no_execute,
            }
        } else {
            let smap = user && cr4(Cr4::SMAP) && context.rflags & Rflags::AC.bits() == 0;
            match self.access {
                Access::Read => !smap,
                Access::Write => !smap && (writable || context.cr0 & Cr0::WP.bits() == 0),
                Access::Execute => !(no_execute || user && cr4(Cr4::SMEP)),
            }
        };
        if allowed { Ok(()) } else { Err(self.fault(code::PRESENT)) }
    }

    fn fault(&self, cause: u32) -> WalkError {
        page_fault(self.context, self.address, self.access, cause)
    }

    /// Sets the flags that the CPU would (SDM vol. 3, 4.8). They lie in the entry's first byte, and only that is written.
    fn mark(&self, at: Gpa, entry: u64, dirty: bool) -> Result<(), WalkError> {
        let wanted = bit::ACCESSED | if dirty { bit::DIRTY } else { 0 };
        if entry & wanted != wanted {
            self.memory.write(at, &[(entry | wanted) as u8])?;
        }
        Ok(())
    }

    /// The address in the page that `entry`, a leaf, maps.
    const fn page(&self, level: u32, entry: u64) -> Gpa {
        let offset_bits = (1u64 << self.shape.shift(level)) - 1;
        let mut base = entry & self.address_bits() & !offset_bits;
        if self.shape.entry_bytes == 4 && level == 2 {
            // PSE-36: bits 39:32 are in bits 20:13 (SDM vol. 3, table 4-4).
            base |= (entry & 0x001f_e000) << 19;
        }
        Gpa::new(base | (self.address & offset_bits))
    }
}
