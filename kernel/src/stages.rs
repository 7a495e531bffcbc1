//! A virtual machine's second stages: its RAM, and the registers of the functions that it has, which come and go while it
//! runs.
//!
//! What is taken away is forgotten by each virtual CPU when it next does its duties ([`Stages::generation`]); tables that
//! fell out of use are kept until all of them have.

use alloc::vec::Vec;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use hw::{Gpa, Hpa, PAGE_SIZE};
use paging::{Caching, DirtyFormat, EntryFormat, MapError, PageTable, Retired, Rights};
use spin::Mutex;
use vcpu::Offers;
use vmm::loader::GuestLayout;

use crate::mem::{GuestRam, Tables};

/// The page that the second view of a test guest hides: the last of its RAM.
const HIDDEN_BYTES: u64 = PAGE_SIZE;
/// Where guest-physical addresses of four levels end.
const GPA_END: u64 = 1 << 48;

/// The second stages, whatever their format.
pub(crate) trait Stages: fmt::Debug + Send + Sync {
    /// Shows device registers at `gpa` in every view.
    ///
    /// # Errors
    /// [`MapError`]; they may be shown in part then.
    fn map(&self, gpa: Gpa, hpa: Hpa, bytes: u64) -> Result<(), MapError>;
    /// Takes `[gpa, gpa + bytes)` out of every view; virtual CPUs are still to forget it.
    fn unmap(&self, gpa: Gpa, bytes: u64);
    /// Counts what was taken away.
    fn generation(&self) -> u64;
    /// The bytes written by the guest since this was last asked, in whole pages; `None` where the CPU does not say. To hold
    /// for the next time, virtual CPUs are to forget what they had.
    fn take_written(&self) -> Option<u64>;
    /// A virtual CPU has forgotten all that was taken away up to this generation.
    fn forgotten(&self, vcpu: u32, generation: u64);
}

/// The views, in the format that the CPU walks. Their frames go back when this is dropped.
pub(crate) struct Views<F: EntryFormat> {
    inner: Mutex<Inner<F>>,
    generation: AtomicU64,
    offers: Offers,
    /// What each virtual CPU has forgotten.
    forgotten: Vec<AtomicU64>,
}

struct Inner<F: EntryFormat> {
    views: Vec<PageTable<F>>,
    /// Tables out of use, and since which generation.
    retired: Vec<(u64, Retired)>,
}

impl<F: EntryFormat> fmt::Debug for Views<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Views({})", self.generation.load(Ordering::Relaxed))
    }
}

impl<F: EntryFormat> Views<F> {
    /// Views of the memory, one or, where a test wants it, two.
    ///
    /// # Errors
    /// No frame is left for tables; nothing is taken then.
    pub(crate) fn new(ram: &GuestRam, offers: Offers, vm: &config::Vm) -> Result<Self, MapError> {
        let inner = Mutex::new(Inner { views: Vec::new(), retired: Vec::new() });
        // Nothing cached, nothing to forget.
        let forgotten = (0..vm.vcpus).map(|_| AtomicU64::new(u64::MAX)).collect();
        let new = Self { inner, generation: AtomicU64::new(0), offers, forgotten };
        for _ in 0..=u8::from(vm.test.views) {
            let mut inner = new.inner.lock();
            inner.views.push(PageTable::new(&mut Tables)?);
            if let Some(view) = inner.views.last_mut() {
                ram.map_into(view, &mut Tables, offers.largest_page)?;
            }
        }
        Ok(new)
    }

    /// Has the second view, where there is one, not show the last page of the RAM; gives that page.
    ///
    /// # Errors
    /// No frame is left for tables.
    pub(crate) fn hide(&self, layout: &GuestLayout) -> Result<Option<Gpa>, MapError> {
        let mut inner = self.inner.lock();
        let ranges = layout.ranges();
        let last = ranges.iter().rfind(|range| range.bytes > 0);
        let last = last.map(|range| range.start.wrapping_add(range.bytes - HIDDEN_BYTES));
        let (Some(second), Some(page)) = (inner.views.get_mut(1), last) else { return Ok(None) };
        // No hardware walks these tables yet.
        second.unmap(&mut Tables, page.raw(), HIDDEN_BYTES)?.free(&mut Tables);
        Ok(Some(page))
    }

    /// Roots of the views.
    pub(crate) fn roots(&self) -> Vec<Hpa> {
        self.inner.lock().views.iter().map(PageTable::root).collect()
    }
}

impl<F: DirtyFormat + Send + Sync> Stages for Views<F> {
    fn map(&self, gpa: Gpa, hpa: Hpa, bytes: u64) -> Result<(), MapError> {
        let (rights, caching) = (Rights::RW, Caching::Uncacheable);
        let largest = self.offers.largest_page;
        let mut inner = self.inner.lock();
        inner.views.iter_mut().try_for_each(|view| {
            view.map(&mut Tables, gpa.raw(), hpa, bytes, rights, caching, largest)
        })
    }

    fn unmap(&self, gpa: Gpa, bytes: u64) {
        let mut inner = self.inner.lock();
        let Inner { views, retired } = &mut *inner;
        let all = self.forgotten.iter().map(|seen| seen.load(Ordering::Acquire)).min();
        let (done, left) = core::mem::take(retired)
            .into_iter()
            .partition(|(since, _)| all.is_some_and(|seen| seen >= *since));
        *retired = left;
        let done: Vec<(u64, Retired)> = done;
        done.into_iter().for_each(|(_, tables)| tables.free(&mut Tables));
        let next = self.generation.load(Ordering::Relaxed) + 1;
        for view in views {
            match view.unmap(&mut Tables, gpa.raw(), bytes) {
                Ok(tables) if tables.is_empty() => {}
                Ok(tables) => retired.push((next, tables)),
                // BARs are no larger than the pages that map them, so nothing needs to be split.
                Err(why) => log::error!("device registers at {gpa} stay mapped: {why:x?}"),
            }
        }
        self.generation.store(next, Ordering::Release);
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn take_written(&self) -> Option<u64> {
        let mut written = 0;
        for view in self.offers.dirty_bits.then(|| self.inner.lock())?.views.iter_mut() {
            view.take_dirty(&mut Tables, 0, GPA_END, |_, bytes| written += bytes);
        }
        self.generation.fetch_add(1, Ordering::AcqRel);
        Some(written)
    }

    fn forgotten(&self, vcpu: u32, generation: u64) {
        if let Some(seen) = self.forgotten.get(vcpu as usize) {
            seen.store(generation, Ordering::Release);
        }
    }
}

impl<F: EntryFormat> Drop for Views<F> {
    fn drop(&mut self) {
        let Inner { views, retired } = self.inner.get_mut();
        views.drain(..).for_each(|view| view.free(&mut Tables));
        retired.drain(..).for_each(|(_, tables)| tables.free(&mut Tables));
    }
}
