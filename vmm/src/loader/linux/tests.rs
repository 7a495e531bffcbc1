//! The Linux loader on a vector of memory: where things land, and what is refused.

use proptest::prelude::*;

use super::*;
use crate::{loader::tests::Ram, pci::Plan, platform::acpi::tables};

const MIB: u64 = 1 << 20;
const KERNEL_START: usize = 4 * 512;
const KERNEL_BYTES: usize = 4096;
const INIT_SIZE: u64 = 3 * MIB;

fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
    file[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// A relocatable kernel that prefers 2 MiB and needs 3 MiB.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; KERNEL_START];
    put(&mut file, 0x1f1, &[3]);
    put(&mut file, 0x1f4, &(KERNEL_BYTES as u32 / 16).to_le_bytes());
    put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(&mut file, 0x202, b"HdrS\x0f\x02");
    put(&mut file, 0x211, &[1]);
    put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
    put(&mut file, 0x230, &0x10_0000u32.to_le_bytes());
    put(&mut file, 0x234, &[1, 20, 0x3f, 0]);
    put(&mut file, 0x238, &255u32.to_le_bytes());
    put(&mut file, 0x258, &(2 * MIB).to_le_bytes());
    put(&mut file, 0x260, &(INIT_SIZE as u32).to_le_bytes());
    file.extend((0..KERNEL_BYTES).map(|index| (index % 251) as u8));
    file
}

fn image<'a>(kernel: &'a [u8], initrd: Option<&'a [u8]>) -> LinuxImage<'a> {
    LinuxImage { kernel, initrd, cmdline: "console=ttyS0" }
}

fn load_into(bytes: u64, image: &LinuxImage<'_>) -> (Ram, Result<Registers, LoadError>) {
    let ram = Ram::new(bytes);
    let result = load(&ram, &GuestLayout::new(bytes), image, &tables(1, &Plan::default()));
    (ram, result)
}

/// The memory map as (start, end, type).
fn memory_map(ram: &Ram) -> Vec<(u64, u64, u32)> {
    let params = BOOT_PARAMS.raw();
    let count = ram.bytes(params + 0x1e8, 1)[0];
    (0..u64::from(count))
        .map(|index| {
            let entry = params + 0x2d0 + 20 * index;
            (ram.u64(entry), ram.u64(entry) + ram.u64(entry + 8), ram.u32(entry + 16))
        })
        .collect()
}

/// Where `address` leads by the page tables at `cr3`.
fn walk(ram: &Ram, cr3: u64, address: u64) -> Option<u64> {
    let mut table = cr3;
    for shift in [39, 30, 21] {
        let entry = ram.u64(table + 8 * (address >> shift & 0x1ff));
        if entry & 1 == 0 {
            return None;
        }
        if entry & 1 << 7 != 0 {
            return Some((entry & 0xf_ffff_ffe0_0000) + (address & 0x1f_ffff));
        }
        table = entry & 0xf_ffff_ffff_f000;
    }
    None
}

#[test]
fn everything_is_where_the_boot_parameters_say() {
    let kernel = kernel();
    let initrd = vec![0xa5; 5000];
    let (ram, result) = load_into(16 * MIB, &image(&kernel, Some(&initrd)));
    let registers = result.unwrap();
    let params = BOOT_PARAMS.raw();
    assert_eq!(registers.gprs[6], params, "RSI");
    assert_eq!(registers.rip, 2 * MIB + 0x200);
    assert_eq!(ram.bytes(2 * MIB, KERNEL_BYTES), &kernel[KERNEL_START..]);
    assert_eq!(ram.bytes(params + 0x1f1, 9), &kernel[0x1f1..0x1fa]);
    assert_eq!(ram.bytes(params + 0x1fc, 0x14), &kernel[0x1fc..0x210]);
    let start = u64::from(ram.u32(params + 0x218));
    assert_eq!((start, ram.u32(params + 0x21c)), (16 * MIB - 8192, 5000));
    assert_eq!(ram.bytes(start, 5000), initrd);
    let cmdline = u64::from(ram.u32(params + 0x228));
    assert_eq!(ram.bytes(cmdline, 14), b"console=ttyS0\0");
    assert_eq!(ram.u64(params + 0x70), 0xe_0000);
    assert_eq!(ram.bytes(0xe_0000, 8), b"RSD PTR ");
    assert_eq!(ram.bytes(params + 0x210, 1), [0xff]);
}

#[test]
fn the_memory_map_is_ram_but_for_the_hole_below_one_mebibyte() {
    let kernel = kernel();
    let (ram, result) = load_into(16 * MIB, &image(&kernel, None));
    result.unwrap();
    let expected = [(0, 0xa_0000, 1), (0xe_0000, MIB, 2), (MIB, 16 * MIB, 1)];
    assert_eq!(memory_map(&ram), expected);
}

#[test]
fn ram_past_three_gibibytes_goes_above_four() {
    let layout = GuestLayout::new(5 << 30);
    assert_eq!(layout.ranges().map(|range| range.bytes), [3 << 30, 2 << 30]);
    let ram = Ram::new(16 * MIB);
    let kernel = kernel();
    load(&ram, &layout, &image(&kernel, None), &tables(1, &Plan::default())).unwrap();
    let map = memory_map(&ram);
    assert_eq!(map[2..], [(MIB, 3 << 30, 1), (4 << 30, 6 << 30, 1)]);
}

#[test]
fn the_start_state_maps_memory_to_itself_in_long_mode() {
    let kernel = kernel();
    let (ram, result) = load_into(16 * MIB, &image(&kernel, None));
    let registers = result.unwrap();
    for address in [0, 0x1234, registers.rip, 0xfee0_0000, (4 << 30) - 1] {
        assert_eq!(walk(&ram, registers.cr3, address), Some(address));
    }
    assert_eq!(walk(&ram, registers.cr3, 4 << 30), None);
    assert_eq!(registers.rflags & 1 << 9, 0, "interrupts are off");
    assert_eq!(registers.efer & 0x500, 0x500);
    assert_eq!((registers.cs.selector, registers.ds.selector), (0x10, 0x18));
    for segment in [registers.cs, registers.ds, registers.tr] {
        let descriptor = ram.u64(registers.gdtr.base + u64::from(segment.selector));
        let rights = (descriptor >> 40) as u32 & 0xf0ff;
        assert_eq!(rights, segment.access, "{:#x}", segment.selector);
    }
}

#[test]
fn a_kernel_that_cannot_be_where_it_prefers_goes_lower() {
    let mut file = kernel();
    put(&mut file, 0x258, &(64 * MIB).to_le_bytes());
    let (_, result) = load_into(16 * MIB, &image(&file, None));
    assert_eq!(result.unwrap().rip, MIB + 0x200);
    put(&mut file, 0x234, &[0]);
    let (_, result) = load_into(16 * MIB, &image(&file, None));
    assert_eq!(
        result.unwrap_err().to_string(),
        "it needs 67 MiB of memory, the guest has 16 MiB below 3 GiB"
    );
}

#[test]
fn what_does_not_fit_is_named() {
    let file = kernel();
    let (_, result) = load_into(3 * MIB, &image(&file, None));
    let error = LoadError::KernelTooBig { needed: 4 * MIB, available: 3 * MIB };
    assert_eq!(result, Err(error));
    let initrd = vec![0; 4 * MIB as usize];
    let (_, result) = load_into(8 * MIB, &image(&file, Some(&initrd)));
    assert_eq!(
        result.unwrap_err().to_string(),
        "its 4 MiB do not fit into the 3 MiB of memory above the kernel"
    );
    let long = "x".repeat(256);
    let (_, result) = load_into(16 * MIB, &LinuxImage { cmdline: &long, ..image(&file, None) });
    assert_eq!(result, Err(LoadError::CommandLineTooLong { bytes: 256, most: 255 }));
    let (_, result) = load_into(16 * MIB, &image(&file[..KERNEL_START + 96], None));
    assert!(result.unwrap_err().to_string().starts_with("cut short"));
}

#[test]
fn the_initrd_stays_below_the_kernels_limit() {
    let mut file = kernel();
    put(&mut file, 0x22c, &(12 * MIB as u32 - 1).to_le_bytes());
    let (ram, result) = load_into(16 * MIB, &image(&file, Some(&[7; 100])));
    result.unwrap();
    assert_eq!(u64::from(ram.u32(BOOT_PARAMS.raw() + 0x218)), 12 * MIB - 4096);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_header_and_no_memory_size_panics(
        at in 0x1f1_usize..0x270,
        word: u64,
        memory in 0_u64..16 * MIB,
        initrd_bytes in 0_usize..100_000,
    ) {
        let mut file = kernel();
        put(&mut file, at, &word.to_le_bytes());
        let initrd = vec![0; initrd_bytes];
        let (_, result) = load_into(memory, &image(&file, Some(&initrd)));
        if let Ok(registers) = result {
            prop_assert!(registers.rip < memory);
        }
    }
}
