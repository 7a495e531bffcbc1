//! `boot_params`, the zero page (Linux, Documentation/arch/x86/zero-page.rst): the setup header's copy, where things are,
//! and the memory map.

use alloc::{vec, vec::Vec};

use hw::{Gpa, PAGE_SIZE};
use images::bzimage::BzImage;

use crate::loader::{GuestLayout, memory_map};

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

/// `boot_params` as it is filled in.
pub(super) struct BootParams(Vec<u8>);

impl BootParams {
    /// What every start of this file has in common.
    pub(super) fn new(file: &[u8], header: &BzImage<'_>, rsdp: Gpa, command_line: Gpa) -> Self {
        let mut params = Self(vec![0; PAGE_SIZE as usize]);
        params.copy_header(file, header);
        params.set(field::LOADER_TYPE, &[LOADER_UNDEFINED]);
        params.set(field::VIDEO_MODE, &VIDEO_NORMAL.to_le_bytes());
        params.set(field::ACPI_RSDP, &rsdp.raw().to_le_bytes());
        params.set(field::COMMAND_LINE, &low_address(command_line));
        params
    }

    /// The page.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn set_ramdisk(&mut self, start: Gpa, bytes: usize) {
        self.set(field::RAMDISK_START, &low_address(start));
        self.set(field::RAMDISK_BYTES, &(bytes as u32).to_le_bytes());
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

    pub(super) fn set_memory_map(&mut self, layout: &GuestLayout) {
        let mut count = 0_u8;
        for range in memory_map::entries(layout) {
            let entry = field::E820_TABLE + 20 * usize::from(count);
            self.set(entry, &range.start.to_le_bytes());
            self.set(entry + 8, &range.bytes().to_le_bytes());
            self.set(entry + 16, &(range.kind as u32).to_le_bytes());
            count += 1;
        }
        self.set(field::E820_COUNT, &[count]);
    }
}

/// An address below 4 GiB as a 32-bit field.
fn low_address(gpa: Gpa) -> [u8; 4] {
    (gpa.raw() as u32).to_le_bytes()
}
