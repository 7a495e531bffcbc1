//! PVH and Multiboot kernels on a vector of memory: where things land, and what is refused. Linux has tests of its own.

use core::cell::RefCell;
use std::string::{String, ToString};

use hw::Gpa;
use proptest::prelude::*;

use super::*;
use crate::NoMemory;

const MIB: u64 = 1 << 20;
const BASE: u32 = 0x20_0000;

/// RAM from address 0.
pub(super) struct Ram(RefCell<Vec<u8>>);

impl Ram {
    pub(super) fn new(bytes: u64) -> Self {
        Self(RefCell::new(vec![0; bytes as usize]))
    }

    pub(super) fn bytes(&self, gpa: u64, count: usize) -> Vec<u8> {
        self.0.borrow()[gpa as usize..][..count].to_vec()
    }

    pub(super) fn u32(&self, gpa: u64) -> u32 {
        u32::from_le_bytes(self.bytes(gpa, 4).try_into().unwrap())
    }

    pub(super) fn u64(&self, gpa: u64) -> u64 {
        u64::from_le_bytes(self.bytes(gpa, 8).try_into().unwrap())
    }
}

impl GuestMemory for Ram {
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        let start = gpa.raw() as usize;
        let ram = self.0.borrow();
        into.copy_from_slice(ram.get(start..start + into.len()).ok_or(NoMemory(gpa))?);
        Ok(())
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        let start = gpa.raw() as usize;
        let mut ram = self.0.borrow_mut();
        ram.get_mut(start..start + from.len()).ok_or(NoMemory(gpa))?.copy_from_slice(from);
        Ok(())
    }
}

/// An ELF32 file whose segments are (physical address, bytes in the file, bytes in memory), each byte its index; a PVH
/// note with the entry at `BASE` + 8; and the words of a Multiboot header at 0x800.
fn elf(segments: &[(u32, u32, u32)], multiboot: &[u32]) -> Vec<u8> {
    let mut file = vec![0; 0x1000];
    let mut put = |at: usize, words: &[u32]| {
        for (index, word) in words.iter().enumerate() {
            file[at + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
        }
    };
    put(0, &[0x464c_457f, 0x0001_0101, 0, 0, 0x0003_0002, 1, BASE + 4, 52, 0, 0]);
    put(40, &[0x0020_0034, segments.len() as u32 + 1]);
    let mut bytes = 0x1000;
    for (index, &(paddr, in_file, in_memory)) in segments.iter().enumerate() {
        put(52 + 32 * index, &[1, bytes, paddr, paddr, in_file, in_memory, 7, 0x1000]);
        bytes += in_file;
    }
    put(52 + 32 * segments.len(), &[4, 0x900, 0, 0, 20, 20, 4, 4]);
    put(0x900, &[4, 4, 18, u32::from_le_bytes(*b"Xen\0"), BASE + 8]);
    put(0x800, multiboot);
    for (index, &(_, in_file, _)) in segments.iter().enumerate() {
        file.extend(std::iter::repeat_n(index as u8 + 1, in_file as usize));
    }
    file
}

const MULTIBOOT: [u32; 3] = [0x1bad_b002, 3, 0_u32.wrapping_sub(0x1bad_b002 + 3)];
const SEGMENTS: [(u32, u32, u32); 2] = [(BASE, 0x1000, 0x3000), (0x3_0000, 0x100, 0x100)];

fn vm(lines: &str) -> Vm {
    let text =
        format!("version = 1\n[[vm]]\nname = \"a\"\nmemory = \"16M\"\nkernel = \"k\"\n{lines}\n");
    config::parse("kerf.toml", &text).unwrap().vms.remove(0)
}

fn load_files(vm: &Vm, files: &[(&str, &[u8])]) -> (Ram, Result<Registers, Failure>) {
    let ram = Ram::new(vm.memory_bytes);
    let layout = GuestLayout::new(vm.memory_bytes);
    let find = |name: &str| files.iter().find(|file| file.0 == name).map(|file| file.1);
    let result = load(vm, &layout, &Plan::default(), &ram, find);
    (ram, result)
}

fn refused(vm: &Vm, files: &[(&str, &[u8])]) -> (&'static str, String) {
    let failure = load_files(vm, files).1.unwrap_err();
    (failure.key, failure.to_string())
}

fn text(ram: &Ram, gpa: u64) -> String {
    let bytes = ram.bytes(gpa, 64);
    String::from_utf8(bytes.split(|byte| *byte == 0).next().unwrap().to_vec()).unwrap()
}

fn is_32_bit_entry(registers: &Registers, entry: u32) {
    assert_eq!(registers.rip, u64::from(entry));
    assert_eq!((registers.cr0, registers.cr4, registers.efer), (0x11, 0, 0));
    assert_eq!((registers.cs.access, registers.ss.access), (0xc09b, 0xc093));
    assert_eq!((registers.cs.base, registers.cs.limit), (0, u32::MAX));
    assert_eq!(registers.rflags, 2, "interrupts are off");
}

#[test]
fn a_pvh_kernel_finds_everything_from_ebx() {
    let vm = vm("cmdline = \"one two\"\nmodules = [\"m\", \"n\"]");
    let (ram, result) =
        load_files(&vm, &[("k", &elf(&SEGMENTS, &[])), ("m", &[7; 5000]), ("n", &[9; 10])]);
    let registers = result.unwrap();
    is_32_bit_entry(&registers, BASE + 8);
    let info = registers.gprs[3];
    assert_eq!((ram.u32(info), ram.u32(info + 4), ram.u32(info + 12)), (0x336e_c578, 1, 2));
    let list = ram.u64(info + 16);
    let modules: Vec<_> = [0, 32]
        .map(|at| (ram.u64(list + at), ram.u64(list + at + 8), text(&ram, ram.u64(list + at + 16))))
        .into();
    let top = 16 * MIB;
    assert_eq!(
        modules,
        [(top - 0x3000, 5000, "m".to_string()), (top - 0x1000, 10, "n".to_string())]
    );
    assert_eq!(ram.bytes(top - 0x3000, 5000), [7; 5000]);
    assert_eq!(text(&ram, ram.u64(info + 24)), "one two");
    assert_eq!(ram.u64(info + 32), 0xe_0000);
    assert_eq!(ram.bytes(0xe_0000, 8), b"RSD PTR ");
    let (map, count) = (ram.u64(info + 40), ram.u32(info + 48));
    let map: Vec<_> = (0..u64::from(count))
        .map(|index| map + 24 * index)
        .map(|at| (ram.u64(at), ram.u64(at + 8), ram.u32(at + 16)))
        .collect();
    assert_eq!(map, [(0, 0xa_0000, 1), (0xe_0000, 0x2_0000, 2), (MIB, 15 * MIB, 1)]);
    assert_eq!(ram.bytes(BASE.into(), 0x1000), [1; 0x1000]);
    assert_eq!(ram.bytes(0x3_0000, 0x100), [2; 0x100]);
    let gdt = registers.gdtr.base;
    assert_eq!(ram.u64(gdt + u64::from(registers.cs.selector)) >> 40 & 0xf0ff, 0xc09b);
}

#[test]
fn a_multiboot_kernel_finds_everything_from_ebx() {
    let vm = vm("loader = \"multiboot\"\ninitrd = \"m\"\nmodules = [\"n\"]\ncmdline = \"x\"");
    let kernel = elf(&SEGMENTS, &MULTIBOOT);
    let (ram, result) = load_files(&vm, &[("k", &kernel), ("m", &[7; 5000]), ("n", &[9; 10])]);
    let registers = result.unwrap();
    is_32_bit_entry(&registers, BASE + 4);
    assert_eq!(registers.gprs[0], 0x2bad_b002);
    let info = registers.gprs[3];
    let field = |at| u64::from(ram.u32(info + at));
    assert_eq!(field(0), 0b10_0100_1101);
    assert_eq!((field(4), field(8)), (640, 15 * 1024));
    assert_eq!((text(&ram, field(16)), text(&ram, field(64))), ("x".into(), "Kerf".into()));
    assert_eq!(field(20), 2);
    let module = |at| {
        let word = |offset| u64::from(ram.u32(field(24) + at + offset));
        (word(0), word(4), text(&ram, word(8)))
    };
    let top = 16 * MIB;
    assert_eq!(module(0), (top - 0x3000, top - 0x3000 + 5000, "m".into()));
    assert_eq!(module(16), (top - 0x1000, top - 0x1000 + 10, "n".into()));
    assert_eq!(field(44), 3 * 24);
    let last = field(48) + 48;
    assert_eq!((ram.u32(last), ram.u64(last + 4), ram.u64(last + 12)), (20, MIB, 15 * MIB));
    assert_eq!(ram.u32(last + 20), 1);
}

#[test]
fn a_flat_multiboot_kernel_lies_where_its_header_says() {
    let mut kernel = vec![0x55; 0x1000];
    let flags = 1 << 16;
    let words = [
        0x1bad_b002,
        flags,
        0_u32.wrapping_sub(0x1bad_b002 + flags),
        BASE + 0x100,
        BASE,
        0,
        BASE + 0x2000,
        BASE + 0x40,
    ];
    for (index, word) in words.iter().enumerate() {
        kernel[0x100 + 4 * index..][..4].copy_from_slice(&word.to_le_bytes());
    }
    let (ram, result) = load_files(&vm(""), &[("k", &kernel)]);
    is_32_bit_entry(&result.unwrap(), BASE + 0x40);
    assert_eq!(ram.bytes(BASE.into(), 0x1000), kernel);
}

#[test]
fn every_failure_names_key_file_and_reason() {
    let vm_of = |lines| vm(lines);
    let long = elf(&[(BASE, 0x1000, 0x1000), (BASE + 0xfff, 1, 1)], &[]);
    let low = elf(&[(BASE, 0x1000, 0x1000), (0x9000, 1, 1)], &[]);
    let hole = elf(&[(BASE, 0x1000, 0x1000), (0x9_f000, 1, 0x1001)], &[]);
    let high = elf(&[(BASE, 0x1000, 0x1000), (0xff_f000, 1, 0x1001)], &[]);
    let good = elf(&SEGMENTS, &[]);
    let disk = vec![0; 14 * MIB as usize];
    for (vm, files, key, expected) in [
        (vm_of(""), vec![], "kernel", "k: the boot application did not load it"),
        (vm_of(""), vec![("k", &b"x"[..])], "kernel", "k: 1 bytes are too few for a Linux kernel"),
        (
            vm_of(""),
            vec![("k", &long)],
            "kernel",
            "k: damaged: its segments at 0x200000 and 0x200fff overlap",
        ),
        (
            vm_of(""),
            vec![("k", &low)],
            "kernel",
            "k: its segment 0x9000-0x9000 does not lie in free RAM, which is 0x20000-0x9ffff and \
             0x100000-0xffffff",
        ),
        (
            vm_of(""),
            vec![("k", &hole)],
            "kernel",
            "k: its segment 0x9f000-0xa0000 does not lie in free RAM",
        ),
        (
            vm_of(""),
            vec![("k", &high)],
            "memory",
            "k: it needs 17 MiB of memory, the guest has 16 MiB",
        ),
        (
            vm_of("loader = \"multiboot\""),
            vec![("k", &good)],
            "kernel",
            "k: no Multiboot kernel: its first 8 KiB hold no 0x1badb002",
        ),
        (
            vm_of("modules = [\"m\"]"),
            vec![("k", &good)],
            "modules",
            "m: the boot application did not",
        ),
        (
            vm_of("initrd = \"m\""),
            vec![("k", &good), ("m", &disk)],
            "memory",
            "m: its 14 MiB do not fit into the 13 MiB of memory above the kernel",
        ),
    ] {
        let (found, text) = refused(&vm, &files);
        assert!(found == key && text.starts_with(expected), "{found}: {text}");
    }
}

#[test]
fn so_many_modules_that_their_names_have_no_room_are_refused() {
    let name = "x".repeat(200);
    let names = vec![format!("{name:?}"); 500].join(", ");
    let vm = vm(&format!("modules = [{names}]"));
    let (key, text) = refused(&vm, &[("k", &elf(&SEGMENTS, &[])), (&name, &[1])]);
    assert_eq!(
        (key, text.as_str()),
        ("modules", "k: the boot information of so many modules has no room")
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_header_panics_or_writes_outside_of_ram(
        at in prop_oneof![0usize..0xc0, 0x800usize..0x810, 0x900usize..0x914],
        word: u32,
        multiboot: bool,
        cut in 0usize..0x3000,
    ) {
        let mut kernel = elf(&SEGMENTS, &MULTIBOOT);
        kernel[at..at + 4].copy_from_slice(&word.to_le_bytes());
        kernel.truncate(cut.max(0x914));
        let vm = vm(if multiboot { "loader = \"multiboot\"" } else { "" });
        let (_, result) = load_files(&vm, &[("k", &kernel)]);
        if let Ok(registers) = result {
            prop_assert!(registers.rip < vm.memory_bytes);
        }
    }
}
