//! The hand-off record, and the last steps: everything is allocated and filled in while the firmware can still say no;
//! after the exit of boot services only the memory map is written.

use alloc::vec::Vec;
use core::{convert::Infallible, mem::size_of, slice};

use boot_info::{
    BootFile, BootInfo, MAGIC, MemoryRegion, Table, VERSION,
    address_space::{self, TablePage},
    regions::{self, Writer},
};
use uefi::{
    boot::{self, MemoryType},
    mem::memory_map::{MemoryDescriptor, MemoryMap},
};

use crate::{
    console,
    error::Error,
    firmware,
    kernel::Placed,
    load::Loaded,
    memory::{self, PAGE},
    switch::{self, Entry},
};

/// The stack on which the kernel is entered.
const STACK_BYTES: usize = 64 << 10;

/// Leaves boot services and enters the kernel.
pub(crate) fn hand_over(
    boot_tsc: u64,
    kernel: &Placed,
    loaded: &Loaded,
) -> Result<Infallible, Error> {
    let in_use = pages_in_use(kernel, loaded);
    let files = table_of::<BootFile>(loaded.files.len(), "the list of files")?;
    for (entry, file) in files.iter_mut().zip(&loaded.files) {
        *entry = file.entry();
    }
    let line = memory::allocate(loaded.command_line.len(), "the command line")?;
    line[..loaded.command_line.len()].copy_from_slice(loaded.command_line.as_bytes());

    let before = boot::memory_map(MemoryType::LOADER_DATA)
        .map_err(|_| Error::Memory("the memory map".into(), PAGE))?;
    let memory_top = regions::memory_top(before.entries().map(region));
    // Each file cuts a region in at most three; what is allocated from here on splits a few more.
    let slots = before.len() * 2 + in_use.len() * 2 + 64;
    drop(before);
    let map = table_of::<MemoryRegion>(slots, "the memory map")?;
    let root = page_tables(memory_top, kernel)?;
    let stack = memory::allocate(STACK_BYTES, "the stack")?;
    let record = memory::allocate(size_of::<BootInfo>(), "the hand-off record")?;

    let info = BootInfo {
        magic: MAGIC,
        version: VERSION,
        bytes: size_of::<BootInfo>() as u32,
        memory_map: Table { hpa: memory::hpa(map), count: 0 },
        files: Table { hpa: memory::hpa(files), count: files.len() as u64 },
        command_line: Table { hpa: memory::hpa(line), count: loaded.command_line.len() as u64 },
        rsdp: firmware::rsdp(),
        kernel: Table { hpa: kernel.hpa, count: kernel.bytes },
        framebuffer: firmware::framebuffer(),
        boot_tsc,
        unix_time: firmware::unix_time(),
    };
    console::line(format_args!("starting the kernel"));
    let entry = Entry {
        root,
        stack_top: memory::hpa(stack) + STACK_BYTES as u64,
        record: memory::hpa(record),
        entry: kernel.entry,
    };
    leave_and_enter(info, map, &in_use, record, &entry)
}

/// From here on there is no way back, and no allocation.
fn leave_and_enter(
    mut info: BootInfo,
    map: &mut [MemoryRegion],
    in_use: &[regions::Loaded],
    record: &mut [u8],
    entry: &Entry,
) -> ! {
    console::leave_firmware();
    // SAFETY: (1) no protocol is open: the volume was closed by the caller, the others are closed where they were used;
    // (2) nothing is allocated or freed after this: no owner of pool memory goes out of scope, as no path returns.
    let final_map = unsafe { boot::exit_boot_services(Some(MemoryType::LOADER_DATA)) };
    let mut writer = Writer::new(map);
    for descriptor in final_map.entries() {
        if writer.push(region(descriptor), in_use).is_err() {
            console::line(format_args!(
                "error: memory map: it grew to {} entries at the exit of boot services; start again",
                final_map.len()
            ));
            crate::stop();
        }
    }
    info.memory_map.count = writer.count() as u64;
    // SAFETY: `record` is a page of our own, so large and aligned enough.
    unsafe { record.as_mut_ptr().cast::<BootInfo>().write(info) };
    // SAFETY: (1) boot services are over; (2) the tables at `root` map this code at identity, stack and record in the
    // direct map, and the kernel's segments, as `page_tables` built them.
    unsafe { switch::enter(entry) }
}

/// Kernel and files, sorted by address.
fn pages_in_use(kernel: &Placed, loaded: &Loaded) -> Vec<regions::Loaded> {
    let files = loaded.files.iter().map(|file| (memory::hpa(file.bytes), file.bytes.len() as u64));
    let mut in_use: Vec<_> = files
        .chain([(kernel.hpa, kernel.bytes)])
        .map(|(hpa, bytes)| regions::Loaded { hpa, pages: bytes.div_ceil(PAGE as u64) })
        .collect();
    in_use.sort_unstable_by_key(|loaded| loaded.hpa);
    in_use
}

fn page_tables(memory_top: u64, kernel: &Placed) -> Result<u64, Error> {
    const WHAT: &str = "the page tables";
    let mapped = address_space::mapped_bytes(memory_top);
    let gib_pages = switch::has_gib_pages();
    let count = address_space::table_count(mapped, gib_pages, &kernel.segments);
    let tables = table_of::<TablePage>(count, WHAT)?;
    let hpa = memory::hpa(tables);
    address_space::build(tables, hpa, mapped, gib_pages, &kernel.segments)
        .map_err(|_| Error::Memory(WHAT.into(), count * PAGE))
}

/// Zeroed memory for `count` values that the kernel will find at the same host physical address.
fn table_of<T: Copy>(count: usize, what: &str) -> Result<&'static mut [T], Error> {
    let memory = memory::allocate(count * size_of::<T>(), what)?;
    // SAFETY: the memory is page-aligned, which is enough for every T used, long enough, and zero: the callers' types are
    // integers and arrays of them, for which zero is a value.
    Ok(unsafe { slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), count) })
}

fn region(descriptor: &MemoryDescriptor) -> MemoryRegion {
    let attributes = descriptor.att.bits();
    MemoryRegion {
        hpa: descriptor.phys_start,
        pages: descriptor.page_count,
        kind: regions::kind(descriptor.ty.0, attributes) as u32,
        uefi_type: descriptor.ty.0,
        uefi_attributes: attributes,
    }
}
