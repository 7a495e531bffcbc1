//! Putting a kernel's segments, its modules and boot information where they belong.

use alloc::{borrow::ToOwned, vec::Vec};

use hw::{Gpa, PAGE_SIZE};
use images::guest_elf::Segment;

use super::{
    Failure, GuestLayout, LoadError, NamedFile,
    memory_map::{BOOT_INFO, FREE_LOW, HIGH_MEMORY, LOW_END},
};
use crate::{
    GuestMemory,
    platform::acpi::{self, AcpiTables},
};

/// The memory of a guest that starts in protected mode.
pub(super) struct Place<'a, M> {
    pub(super) memory: &'a M,
    pub(super) layout: &'a GuestLayout,
}

/// A module, in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Module<'a> {
    pub(super) name: &'a str,
    pub(super) start: Gpa,
    pub(super) bytes: u64,
}

impl<M: GuestMemory> Place<'_, M> {
    /// Writes a kernel's segments, whose bytes are in `file`, and the ACPI tables; gives the end of the highest segment.
    pub(super) fn kernel(
        &self,
        file: &[u8],
        segments: impl Iterator<Item = Segment>,
        acpi: &AcpiTables,
    ) -> Result<u64, LoadError> {
        let mut segments: Vec<Segment> = segments.collect();
        segments.sort_unstable_by_key(|segment| segment.paddr);
        let mut end = 0;
        let mut before: Option<&Segment> = None;
        for segment in &segments {
            if let Some(before) = before.filter(|before| before.end() > segment.paddr) {
                let (first, second) = (before.paddr, segment.paddr);
                return Err(LoadError::Overlap { first, second });
            }
            self.check(segment)?;
            end = segment.end();
            before = Some(segment);
        }
        self.memory.write(acpi::TABLES_BASE, &acpi.bytes)?;
        for segment in segments {
            let bytes = file.get(segment.file).unwrap_or_default();
            self.memory.write(Gpa::new(segment.paddr), bytes)?;
        }
        Ok(end)
    }

    /// Whether a segment lies in RAM that nothing else needs.
    fn check(&self, segment: &Segment) -> Result<(), LoadError> {
        let available = self.layout.low.end().raw();
        let (start, end) = (segment.paddr, segment.end());
        let is_low = start >= FREE_LOW && end <= LOW_END.min(available);
        if is_low || start >= HIGH_MEMORY && end <= available {
            Ok(())
        } else if start >= HIGH_MEMORY {
            Err(LoadError::KernelTooBig { needed: end, available })
        } else {
            Err(LoadError::Segment { start, end, ram_end: available })
        }
    }

    /// Writes modules, the last one as high as low RAM allows, the others below it, all page-aligned and above `floor`.
    pub(super) fn modules<'a>(
        &self,
        floor: u64,
        files: &[NamedFile<'a>],
    ) -> Result<Vec<Module<'a>>, Failure> {
        let mut modules = Vec::with_capacity(files.len());
        let floor = floor.max(HIGH_MEMORY);
        let mut ceiling = self.layout.low.end().raw();
        for file in files.iter().rev() {
            let bytes = file.bytes.len() as u64;
            let fail =
                |why: LoadError| Failure { key: why.key(), file: Some(file.name.to_owned()), why };
            let start = ceiling.checked_sub(bytes).map(|start| start & !(PAGE_SIZE - 1));
            let room = ceiling.saturating_sub(floor);
            let start = start.filter(|start| *start >= floor);
            ceiling = start.ok_or_else(|| fail(LoadError::FileTooBig { bytes, room }))?;
            let start = Gpa::new(ceiling);
            self.memory.write(start, file.bytes).map_err(|error| fail(error.into()))?;
            modules.push(Module { name: file.name, start, bytes });
        }
        modules.reverse();
        Ok(modules)
    }
}

/// Boot information as it grows: parts one behind another, from [`BOOT_INFO`] up.
pub(super) struct BootInfo(Vec<u8>);

impl BootInfo {
    /// With so many zeroes at its start, to be filled in.
    pub(super) fn new(header_bytes: usize) -> Self {
        Self(alloc::vec![0; header_bytes])
    }

    /// Appends a part, aligned to 8 bytes; gives its address, which is below 4 GiB.
    pub(super) fn append(&mut self, part: &[u8]) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let address = BOOT_INFO.raw() as usize + self.0.len();
        self.0.extend_from_slice(part);
        address as u32
    }

    /// Appends a string with a zero behind it.
    pub(super) fn append_text(&mut self, text: &str) -> u32 {
        let address = self.append(text.as_bytes());
        self.0.push(0);
        address
    }

    /// Writes it, `header` over its start.
    pub(super) fn write(
        mut self,
        header: &[u8],
        memory: &impl GuestMemory,
    ) -> Result<(), LoadError> {
        for (slot, byte) in self.0.iter_mut().zip(header) {
            *slot = *byte;
        }
        if self.0.len() as u64 > FREE_LOW - BOOT_INFO.raw() {
            return Err(LoadError::BootInfoTooBig);
        }
        Ok(memory.write(BOOT_INFO, &self.0)?)
    }
}
