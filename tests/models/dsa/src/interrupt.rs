//! Interrupt entries (3.7): the MSI-X table, its permissions, the interrupt message storage, and handles to entries of both.

use std::collections::BTreeMap;

use device_spec::dsa::interrupt::{IMS_ADDRESS, ImsEntry, MsixPermission};

use crate::{Bus, Config, Function};

/// Bytes of an MSI-X entry (PCIe 6.0, 7.7.2).
pub(crate) const MSIX_BYTES: u64 = 16;
/// In an MSI-X entry's second word: messages wait.
const MSIX_MASK: u64 = 1 << 32;
/// What may be written of an MSI-X entry's words.
const MSIX_WRITABLE: [u64; 2] = [!3, 0x1_ffff_ffff];

/// A table and an index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Entry {
    pub(crate) ims: bool,
    pub(crate) index: u16,
}

/// An MSI-X entry: its two words, and whether it is pending.
#[derive(Clone, Copy, Debug)]
struct Msix {
    words: [u64; 2],
    pending: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct Interrupts {
    msix: Vec<Msix>,
    permissions: Vec<MsixPermission>,
    ims: Vec<ImsEntry>,
    /// By the handles' tables and values, the entries' indices. None where an index is the handle.
    handles: Option<BTreeMap<Entry, u16>>,
    /// How often handles were revoked.
    revoked: u16,
}

impl Interrupts {
    pub(crate) fn new(config: &Config) -> Self {
        let masked = Msix { words: [0, MSIX_MASK], pending: false };
        let empty = ImsEntry::default().with_address(IMS_ADDRESS).with_mask(true);
        Self {
            msix: vec![masked; usize::from(config.msix)],
            permissions: vec![MsixPermission::default(); usize::from(config.msix)],
            ims: vec![empty; config.ims_entries()],
            handles: config.handles.then(BTreeMap::new),
            revoked: 0,
        }
    }

    /// As after a software reset: all but the MSI-X table.
    pub(crate) fn reset(&mut self, config: &Config) {
        let mut msix = std::mem::take(&mut self.msix);
        msix.iter_mut().for_each(|entry| entry.pending = false);
        *self = Self { msix, revoked: self.revoked, ..Self::new(config) };
    }

    fn exists(&self, entry: Entry) -> bool {
        let count = if entry.ims { self.ims.len() } else { self.msix.len() };
        usize::from(entry.index) < count
    }

    /// Gives a handle; `None` where there is no such entry.
    pub(crate) fn request(&mut self, entry: Entry) -> Option<u16> {
        if !self.exists(entry) {
            return None;
        }
        // Software that takes the index for the handle shall find out; and one that was revoked is not given again.
        let index = entry.index ^ 0x8000 ^ self.revoked << 14 & 0x4000;
        self.handles.as_mut()?.insert(Entry { index, ..entry }, entry.index);
        Some(index)
    }

    /// Takes an entry's handle back; `None` where there is no such entry.
    pub(crate) fn release(&mut self, entry: Entry) -> Option<()> {
        let exists = self.exists(entry).then_some(());
        let handles = self.handles.as_mut()?;
        handles.retain(|handle, index| (handle.ims, *index) != (entry.ims, entry.index));
        exists
    }

    /// Revokes all handles; whether there were any.
    pub(crate) fn revoke(&mut self) -> bool {
        self.revoked = self.revoked.wrapping_add(1);
        self.handles.as_mut().is_some_and(|handles| !std::mem::take(handles).is_empty())
    }

    /// The entry that a descriptor means (table 5-2), if it may (5.4): `pasid` is the descriptor's, if its queue has PASIDs.
    pub(crate) fn entry(&self, handle: Entry, pasid: Option<u32>) -> Option<Entry> {
        let index = match &self.handles {
            Some(handles) => *handles.get(&handle)?,
            None => handle.index,
        };
        let entry = Entry { index, ..handle };
        let at = usize::from(index);
        let owner = if entry.ims {
            let entry = self.ims.get(at)?;
            entry.pasid_enable().then(|| entry.pasid())
        } else {
            let entry = self.permissions.get(at)?;
            entry.pasid_enable().then(|| entry.pasid())
        };
        (owner == pasid).then_some(entry)
    }

    /// Raises an entry for a descriptor that is complete.
    pub(crate) fn complete(&mut self, entry: Entry, function: Function, bus: &mut impl Bus) {
        let at = usize::from(entry.index);
        let ignored = if entry.ims {
            self.ims.get(at).is_some_and(|entry| entry.ignore())
        } else {
            self.permissions.get(at).is_some_and(|entry| entry.ignore())
        };
        if ignored {
            return;
        }
        if entry.ims {
            self.ims[at] = self.ims[at].with_pending(true);
            self.deliver_ims(at, bus);
        } else {
            self.raise(at, function, bus);
        }
    }

    /// Raises an MSI-X entry.
    pub(crate) fn raise(&mut self, at: usize, function: Function, bus: &mut impl Bus) {
        if function.msix {
            self.msix[at].pending = true;
            self.deliver_msix(at, function, bus);
        }
    }

    /// Sends what was held back, now that the function's mask may be gone.
    pub(crate) fn deliver_all(&mut self, function: Function, bus: &mut impl Bus) {
        (0..self.msix.len()).for_each(|at| self.deliver_msix(at, function, bus));
    }

    fn deliver_msix(&mut self, at: usize, function: Function, bus: &mut impl Bus) {
        let entry = &mut self.msix[at];
        let [address, data] = entry.words;
        let free = function.msix && !function.msix_masked && data & MSIX_MASK == 0;
        if free && std::mem::take(&mut entry.pending) {
            bus.message(address, data as u32);
        }
    }

    fn deliver_ims(&mut self, at: usize, bus: &mut impl Bus) {
        let entry = self.ims[at];
        if entry.pending() && !entry.mask() {
            self.ims[at] = entry.with_pending(false);
            bus.message(entry.address(), entry.data());
        }
    }

    pub(crate) fn msix_word(&self, word: usize) -> u64 {
        self.msix.get(word / 2).map_or(0, |entry| entry.words[word % 2])
    }

    pub(crate) fn set_msix_word(
        &mut self,
        word: usize,
        value: u64,
        function: Function,
        bus: &mut impl Bus,
    ) {
        let Some(entry) = self.msix.get_mut(word / 2) else { return };
        entry.words[word % 2] = value & MSIX_WRITABLE[word % 2];
        self.deliver_msix(word / 2, function, bus);
    }

    /// 64 pending bits.
    pub(crate) fn pending_word(&self, word: usize) -> u64 {
        let entries = self.msix.iter().skip(64 * word).take(64);
        entries.enumerate().fold(0, |bits, (at, entry)| bits | u64::from(entry.pending) << at)
    }

    pub(crate) fn permission(&self, at: usize) -> u64 {
        self.permissions.get(at).map_or(0, |entry| entry.0[0])
    }

    pub(crate) fn set_permission(&mut self, at: usize, value: u64) {
        let written = MsixPermission([value]);
        if let Some(entry) = self.permissions.get_mut(at) {
            *entry = MsixPermission::default()
                .with_ignore(written.ignore())
                .with_pasid_enable(written.pasid_enable())
                .with_pasid(written.pasid());
        }
    }

    pub(crate) fn ims_word(&self, word: usize) -> u64 {
        self.ims.get(word / 2).map_or(0, |entry| entry.0[word % 2])
    }

    pub(crate) fn set_ims_word(&mut self, word: usize, value: u64, bus: &mut impl Bus) {
        let Some(entry) = self.ims.get_mut(word / 2) else { return };
        if word.is_multiple_of(2) {
            if value >> 20 == IMS_ADDRESS >> 20 {
                *entry = entry.with_address(value & !3);
            }
            return;
        }
        let written = ImsEntry([0, value]);
        *entry = entry
            .with_data(written.data())
            .with_mask(written.mask())
            .with_ignore(written.ignore())
            .with_pasid_enable(written.pasid_enable())
            .with_pasid(written.pasid());
        self.deliver_ims(word / 2, bus);
    }
}
