//! The walker. It speaks to tables through [`TableMemory`] and to bits through [`EntryFormat`] only.

use core::marker::PhantomData;

use hw::{Hpa, OutOfFrames, PAGE_SIZE, PAGE_SIZE_1G, TableMemory};

use crate::{Caching, EntryFormat, PageSize, Rights};

/// Entries of a table.
const ENTRIES: usize = 512;
/// First address that no entry of any format can hold.
const OUTPUT_END: u64 = 1 << 52;
/// Ends the list of [`Retired`] tables. Like every link it has its low bits clear: absent in every format.
const LIST_END: u64 = !(PAGE_SIZE - 1);

/// Why a change of the tables was refused. No translation has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// This address or length is no multiple of 4 KiB.
    Misaligned(u64),
    /// This input address is mapped already.
    Mapped(u64),
    /// This input address is not mapped.
    NotMapped(u64),
    /// This address is wider than the format, not canonical, or the range from it is.
    OutOfRange(u64),
    /// A mapping that allows no loads; take it away instead.
    NoRead,
    /// No frame is left for a table.
    OutOfFrames,
}

impl From<OutOfFrames> for MapError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

/// What an input address translates to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The output address, page offset included.
    pub hpa: Hpa,
    /// What the page allows.
    pub rights: Rights,
    /// How it is cached.
    pub caching: Caching,
    /// The size of the page that holds it.
    pub page: PageSize,
}

/// A tree of tables in the format `F`.
#[derive(Debug)]
pub struct PageTable<F> {
    root: Hpa,
    format: PhantomData<F>,
}

/// Where a walk ended: at a leaf or at an absent entry.
struct Slot {
    table: Hpa,
    index: usize,
    level: u8,
    entry: u64,
}

impl Slot {
    /// Bytes of input addresses from `input` to the end of this slot.
    fn rest(&self, input: u64) -> u64 {
        let span = span(self.level);
        span - (input & (span - 1))
    }
}

/// Bytes of input addresses that one entry at `level` covers.
const fn span(level: u8) -> u64 {
    PAGE_SIZE << (9 * (level as u32 - 1))
}

/// Index of the entry for `input` in a table at `level`.
const fn index(level: u8, input: u64) -> usize {
    ((input / span(level)) % ENTRIES as u64) as usize
}

impl<F: EntryFormat> PageTable<F> {
    /// An empty tree.
    ///
    /// # Errors
    /// [`OutOfFrames`] where none is left for the root.
    pub fn new(mem: &mut impl TableMemory) -> Result<Self, OutOfFrames> {
        Ok(Self { root: mem.alloc()?, format: PhantomData })
    }

    /// The root table: what CR3, the EPT pointer or nCR3 is made from.
    #[must_use]
    pub fn root(&self) -> Hpa {
        self.root
    }

    /// Maps `[input, input + bytes)` to `[output, output + bytes)`, by the largest pages that alignment, length and
    /// `max_page` (what the CPU offers) allow.
    ///
    /// # Errors
    /// See [`MapError`]. A range that is mapped in part is refused whole, with its first mapped address.
    #[allow(clippy::too_many_arguments)]
    pub fn map(
        &mut self,
        mem: &mut impl TableMemory,
        input: u64,
        output: Hpa,
        bytes: u64,
        rights: Rights,
        caching: Caching,
        max_page: PageSize,
    ) -> Result<(), MapError> {
        check_input::<F>(input, bytes)?;
        if !output.is_aligned(PAGE_SIZE) {
            return Err(MapError::Misaligned(output.raw()));
        }
        if output.checked_add(bytes).is_none_or(|end| end.raw() > OUTPUT_END) {
            return Err(MapError::OutOfRange(output.raw()));
        }
        if !rights.read {
            return Err(MapError::NoRead);
        }
        self.for_each_slot(mem, input, bytes, |at, slot| match F::is_present(slot.entry) {
            true => Err(MapError::Mapped(at)),
            false => Ok(()),
        })?;

        let mut done = 0;
        while done < bytes {
            let level = largest(input + done, output.raw() + done, bytes - done, max_page);
            let slot = self.descend_to(mem, input + done, level)?;
            done += span(slot.level);
        }
        let mut done = 0;
        while done < bytes {
            let slot = self.lookup(mem, input + done);
            let page = output.wrapping_add(done);
            mem.store(slot.table, slot.index, F::leaf(slot.level, page, rights, caching));
            done += span(slot.level);
        }
        Ok(())
    }

    /// Takes every mapping in `[input, input + bytes)` away; holes are left alone. A large page that reaches over an end
    /// is split first. Tables that become empty are unlinked and returned: they go back to the allocator only when the
    /// hardware has forgotten them.
    ///
    /// # Errors
    /// See [`MapError`].
    pub fn unmap(
        &mut self,
        mem: &mut impl TableMemory,
        input: u64,
        bytes: u64,
    ) -> Result<Retired, MapError> {
        check_input::<F>(input, bytes)?;
        let mut retired = Retired { head: LIST_END };
        if bytes != 0 {
            self.split_at(mem, input)?;
            self.split_at(mem, input.wrapping_add(bytes))?;
            self.clear(mem, self.root, F::LEVELS, input, input + (bytes - 1), &mut retired);
        }
        Ok(retired)
    }

    /// Gives every page in `[input, input + bytes)` these rights. A large page that reaches over an end is split first.
    ///
    /// # Errors
    /// See [`MapError`]; a hole in the range is [`MapError::NotMapped`].
    pub fn protect(
        &mut self,
        mem: &mut impl TableMemory,
        input: u64,
        bytes: u64,
        rights: Rights,
    ) -> Result<(), MapError> {
        check_input::<F>(input, bytes)?;
        if !rights.read {
            return Err(MapError::NoRead);
        }
        self.for_each_slot(mem, input, bytes, |at, slot| match F::is_present(slot.entry) {
            true => Ok(()),
            false => Err(MapError::NotMapped(at)),
        })?;
        if bytes != 0 {
            self.split_at(mem, input)?;
            self.split_at(mem, input.wrapping_add(bytes))?;
        }
        let mut done = 0;
        while done < bytes {
            let slot = self.lookup(mem, input + done);
            let page = F::address(slot.level, slot.entry);
            let entry = F::leaf(slot.level, page, rights, F::caching(slot.entry));
            mem.store(slot.table, slot.index, entry);
            done += span(slot.level);
        }
        Ok(())
    }

    /// What `input` translates to, or `None` where nothing is mapped there.
    #[must_use]
    pub fn translate(&self, mem: &impl TableMemory, input: u64) -> Option<Mapping> {
        check_input::<F>(input & !(PAGE_SIZE - 1), PAGE_SIZE).ok()?;
        let slot = self.lookup(mem, input);
        F::is_present(slot.entry).then(|| Mapping {
            hpa: F::address(slot.level, slot.entry).wrapping_add(input & (span(slot.level) - 1)),
            rights: F::rights(slot.entry),
            caching: F::caching(slot.entry),
            page: PageSize::of_level(slot.level),
        })
    }

    /// Gives every table back, the root included. The hardware must not hold this tree any more.
    pub fn free(self, mem: &mut impl TableMemory) {
        free_tables::<F>(mem, self.root, F::LEVELS);
    }

    /// The leaf or absent entry for `input`.
    fn lookup(&self, mem: &impl TableMemory, input: u64) -> Slot {
        let (mut table, mut level) = (self.root, F::LEVELS);
        loop {
            let index = index(level, input);
            let entry = mem.load(table, index);
            if !F::is_present(entry) || F::is_leaf(level, entry) {
                return Slot { table, index, level, entry };
            }
            table = F::address(level, entry);
            level -= 1;
        }
    }

    /// Visits the leaves and absent entries that cover a range, with the first address of the range in each.
    fn for_each_slot(
        &self,
        mem: &impl TableMemory,
        input: u64,
        bytes: u64,
        mut visit: impl FnMut(u64, &Slot) -> Result<(), MapError>,
    ) -> Result<(), MapError> {
        let mut done = 0;
        while done < bytes {
            let at = input + done;
            let slot = self.lookup(mem, at);
            visit(at, &slot)?;
            done += slot.rest(at);
        }
        Ok(())
    }

    /// The absent entry for `input` at `level`, or at a lower one where a table stands in its place already. Makes the
    /// tables above it.
    fn descend_to(
        &self,
        mem: &mut impl TableMemory,
        input: u64,
        level: u8,
    ) -> Result<Slot, OutOfFrames> {
        loop {
            let slot = self.lookup(mem, input);
            if slot.level <= level {
                return Ok(slot);
            }
            let table = mem.alloc()?;
            mem.store(slot.table, slot.index, F::table(table));
        }
    }

    /// Splits the page around `input` until one begins there. Translations stay the same.
    fn split_at(&self, mem: &mut impl TableMemory, input: u64) -> Result<(), OutOfFrames> {
        // No page is larger, and the end of a range may lie past the last address of the format only if so aligned.
        if input.is_multiple_of(PAGE_SIZE_1G) {
            return Ok(());
        }
        loop {
            let slot = self.lookup(mem, input);
            if !F::is_present(slot.entry) || input.is_multiple_of(span(slot.level)) {
                return Ok(());
            }
            let table = mem.alloc()?;
            let page = F::address(slot.level, slot.entry);
            let (rights, caching) = (F::rights(slot.entry), F::caching(slot.entry));
            let lower = slot.level - 1;
            for index in 0..ENTRIES {
                let part = page.wrapping_add(index as u64 * span(lower));
                mem.store(table, index, F::leaf(lower, part, rights, caching));
            }
            mem.store(slot.table, slot.index, F::table(table));
        }
    }

    /// Clears the leaves of `[first, last]` below `table`, and unlinks the tables that this empties. Leaves begin and
    /// end with the range.
    fn clear(
        &self,
        mem: &mut impl TableMemory,
        table: Hpa,
        level: u8,
        first: u64,
        last: u64,
        retired: &mut Retired,
    ) {
        let mut at = first;
        loop {
            let index = index(level, at);
            let slot_last = at | (span(level) - 1);
            let entry = mem.load(table, index);
            if F::is_present(entry) {
                if F::is_leaf(level, entry) {
                    mem.store(table, index, 0);
                } else {
                    let lower = F::address(level, entry);
                    self.clear(mem, lower, level - 1, at, last.min(slot_last), retired);
                    if (0..ENTRIES).all(|index| !F::is_present(mem.load(lower, index))) {
                        mem.store(table, index, 0);
                        retired.push(mem, lower);
                    }
                }
            }
            if slot_last >= last {
                return;
            }
            at = slot_last + 1;
        }
    }
}

/// Tables that are out of use but that the hardware may still walk. Free them after the flush that makes it forget; if
/// this is dropped, they are lost.
#[derive(Debug)]
#[must_use = "flush translations, then give the tables back with `free`"]
pub struct Retired {
    /// The list goes through the tables themselves: entry 0 holds the next one's address, absent in every format.
    head: u64,
}

impl Retired {
    /// Whether no table came out of use.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head == LIST_END
    }

    /// Gives the tables back. The hardware's translation caches must have been flushed.
    pub fn free(self, mem: &mut impl TableMemory) {
        let mut at = self.head;
        while at != LIST_END {
            let table = Hpa::new(at);
            at = mem.load(table, 0);
            mem.free(table);
        }
    }

    fn push(&mut self, mem: &mut impl TableMemory, table: Hpa) {
        mem.store(table, 0, self.head);
        self.head = table.raw();
    }
}

fn free_tables<F: EntryFormat>(mem: &mut impl TableMemory, table: Hpa, level: u8) {
    for index in 0..ENTRIES {
        let entry = mem.load(table, index);
        if F::is_present(entry) && !F::is_leaf(level, entry) {
            free_tables::<F>(mem, F::address(level, entry), level - 1);
        }
    }
    mem.free(table);
}

/// The level of the largest page that can begin at these addresses.
fn largest(input: u64, output: u64, bytes: u64, max_page: PageSize) -> u8 {
    let mut level = max_page.level();
    while level > 1 && ((input | output) & (span(level) - 1) != 0 || bytes < span(level)) {
        level -= 1;
    }
    level
}

/// Checks that the format can translate the whole range.
fn check_input<F: EntryFormat>(input: u64, bytes: u64) -> Result<(), MapError> {
    for value in [input, bytes] {
        if value & (PAGE_SIZE - 1) != 0 {
            return Err(MapError::Misaligned(value));
        }
    }
    let out_of_range = MapError::OutOfRange(input);
    let last = input.checked_add(bytes.saturating_sub(1)).ok_or(out_of_range)?;
    let width = 12 + 9 * u32::from(F::LEVELS);
    // A canonical range lies in one half: the bits from the highest translated one up are all equal, at both ends alike.
    let (sign_bits, all_ones) = match F::CANONICAL {
        true => (width - 1, u64::MAX >> (width - 1)),
        false => (width, 0),
    };
    let (high, high_last) = (input >> sign_bits, last >> sign_bits);
    if high == high_last && (high == 0 || (F::CANONICAL && high == all_ones)) {
        Ok(())
    } else {
        Err(out_of_range)
    }
}
