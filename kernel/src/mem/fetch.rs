//! [`Fetch`]: the bytes of the instructions that exit, found by a way that is known already.

use core::arch::asm;
use core::cell::Cell;

use hw::PAGE_SIZE;
use vcpu::Code64;
use vmm::GuestMemory;
use vmm::walk::{self, CodePath};

use super::GuestRam;

/// Ways that are remembered: by the lowest bits of the page's number.
const WAYS: usize = 8;

/// The ways to code that exited lately.
pub(crate) struct Fetch<'a> {
    ram: &'a GuestRam,
    ways: [Way; WAYS],
}

/// The way to a page of code: where the four entries of the guest's page tables are that lead there, what they held, and
/// the page. Before each use the entries are read again; only where they all still hold the same is the page the one that
/// a walk would find.
struct Way {
    cr3: Cell<u64>,
    /// The linear page's number.
    page: Cell<u64>,
    /// Host addresses, in the RAM.
    entries: [Cell<u64>; 4],
    values: [Cell<u64>; 4],
    /// Host address of the page, in the RAM.
    code: Cell<u64>,
}

impl Way {
    /// The number of no page.
    const NONE: u64 = u64::MAX;
    const fn unknown() -> Self {
        Self {
            cr3: Cell::new(0),
            page: Cell::new(Self::NONE),
            entries: [const { Cell::new(0) }; 4],
            values: [const { Cell::new(0) }; 4],
            code: Cell::new(0),
        }
    }
}

impl<'a> Fetch<'a> {
    /// No way is known yet.
    pub(crate) fn new(ram: &'a GuestRam) -> Self {
        Self { ram, ways: [const { Way::unknown() }; WAYS] }
    }

    /// The RAM it reads.
    pub(crate) fn ram(&self) -> &'a GuestRam {
        self.ram
    }

    /// Forgets every way: another view shows other memory.
    pub(crate) fn forget(&self) {
        self.ways.iter().for_each(|way| way.page.set(Way::NONE));
    }

    /// Eight bytes at RIP, as [`walk::code_word`] finds them in `memory`, which shows what it shows of the RAM.
    #[inline(always)]
    pub(crate) fn word(&self, code: Code64, memory: &impl GuestMemory) -> Option<u64> {
        let (page, offset) = (code.rip / PAGE_SIZE, code.rip % PAGE_SIZE);
        let way = &self.ways[page as usize % WAYS];
        let is_known = way.cr3.get() == code.cr3
            && way.page.get() == page
            && offset <= PAGE_SIZE - 8
            && way.entries.iter().zip(&way.values).all(|(at, value)| load(at) == value.get());
        if !is_known {
            return self.find(code, memory);
        }
        // SAFETY: `find` has put the address of a page of the RAM there, which stays while `self` borrows it; eight bytes
        // from the offset on lie in it. A guest may change them meanwhile: about a load by assembly the compiler assumes
        // nothing.
        Some(unsafe { load_at(way.code.get() + offset) })
    }

    /// Walks, and remembers the way.
    #[cold]
    #[inline(never)]
    fn find(&self, code: Code64, memory: &impl GuestMemory) -> Option<u64> {
        let (number, offset) = (code.rip / PAGE_SIZE, code.rip % PAGE_SIZE);
        let way = &self.ways[number as usize % WAYS];
        way.page.set(Way::NONE);
        if offset > PAGE_SIZE - 8 {
            return None;
        }
        let CodePath { entries, page } = walk::code_path(code, memory)?;
        let word = memory.read_u64(page.wrapping_add(offset))?;
        for ((gpa, entry), (at, value)) in
            entries.into_iter().zip(way.entries.iter().zip(&way.values))
        {
            at.set(self.ram.host_address(gpa)?.raw());
            value.set(entry);
        }
        way.code.set(self.ram.host_address(page)?.raw());
        way.cr3.set(code.cr3);
        way.page.set(number);
        Some(word)
    }
}

/// An entry of the guest's page tables.
#[inline(always)]
fn load(at: &Cell<u64>) -> u64 {
    // SAFETY: only reached where `page` names a page, and then `find` has put the address of eight bytes of RAM there.
    unsafe { load_at(at.get()) }
}

/// # Safety
/// Eight bytes at `host` are mapped.
#[inline(always)]
unsafe fn load_at(host: u64) -> u64 {
    let value;
    // SAFETY: the caller's to answer for.
    unsafe {
        asm!("mov {}, [{}]", out(reg) value, in(reg) host,
            options(nostack, preserves_flags, readonly));
    }
    value
}
