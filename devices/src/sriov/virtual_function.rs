//! [`VirtualFunction`]: what there is of one, with its register pages and interrupt slots.

use alloc::vec::Vec;

use hw::{Function, PAGE_SIZE};
use pci::{FunctionInfo, Msix};

use crate::{BarMap, Fault, Page};

/// A virtual function, with its MSI-X where it has one.
#[derive(Debug)]
pub struct VirtualFunction<R> {
    pub(super) requester: Function,
    pub(super) pages: Vec<Page>,
    /// With its table and pending bits.
    pub(super) msix: Option<(Msix, R, R)>,
}

impl<R> VirtualFunction<R> {
    /// As it was found; `window` gives the registers from an offset of a BAR on.
    ///
    /// # Errors
    /// [`Fault::Lies`] where its MSI-X is in no BAR.
    pub fn new(info: &FunctionInfo, window: impl Fn(u8, u32) -> Option<R>) -> Result<Self, Fault> {
        let bytes = info.bars.map(|bar| bar.map_or(0, |bar| bar.bytes));
        let range = |from: u32, bytes: u64| from.into()..u64::from(from) + bytes;
        let slots = info.msix.into_iter().flat_map(|msix| {
            [
                (msix.table_bar, range(msix.table_offset, msix.table_bytes())),
                (msix.pba_bar, range(msix.pba_offset, msix.pba_bytes())),
            ]
        });
        let lies = |msix: &Msix| Fault::Lies(msix.offset.into());
        let wrong = info.msix.as_ref().map_or(Fault::Lies(0), lies);
        let map = BarMap::new(bytes, slots).map_err(|_| wrong)?;
        let mut pages: Vec<Page> = Vec::new();
        for bar in info.memory_bars() {
            let offsets = (0..bar.bytes / PAGE_SIZE).map(|page| page * PAGE_SIZE);
            pages.extend(offsets.filter_map(|at| {
                let fast = map.fast(bar.index, at, PAGE_SIZE);
                fast.or_else(|_| map.slow(bar.index, at, PAGE_SIZE)).ok()
            }));
        }
        let msix = info.msix.map(|msix| {
            let table = window(msix.table_bar, msix.table_offset);
            let pending = window(msix.pba_bar, msix.pba_offset);
            table.zip(pending).map(|(table, pending)| (msix, table, pending)).ok_or(wrong)
        });
        Ok(Self { requester: info.function, pages, msix: msix.transpose()? })
    }
}
