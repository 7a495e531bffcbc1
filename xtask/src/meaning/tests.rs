//! What is told of a whole VM, and of each way in which one would not start.

use super::*;

const MIB: usize = 1 << 20;

/// A bzImage that is no more than its setup header says: not relocatable, at 2 MiB, for which it needs 4 MiB.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 2048 + 4096];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x1f1, &[3]);
    put(0x1f4, &256_u32.to_le_bytes());
    put(0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
    put(0x202, b"HdrS\x0f\x02");
    put(0x20e, &0x200_u16.to_le_bytes());
    put(0x211, &[1]);
    put(0x22c, &0x7fff_ffff_u32.to_le_bytes());
    put(0x230, &0x20_0000_u32.to_le_bytes());
    put(0x236, &[1]);
    put(0x238, &20_u32.to_le_bytes());
    put(0x258, &0x20_0000_u64.to_le_bytes());
    put(0x260, &0x40_0000_u32.to_le_bytes());
    put(0x400, b"6.1.0-test #1\0");
    file
}

/// The answer to a configuration whose VM has these lines from its fourth on, and the files `k` and `disk`.
fn told(lines: &str, kernel: Vec<u8>, disk: Vec<u8>) -> Result<String, String> {
    let text = format!("version = 1\n[[vm]]\nname = \"one\"\n{lines}\n");
    let files = vec![("k".to_owned(), kernel), ("disk".to_owned(), disk)];
    tell(&Description::new(text, files)?, Bounds::default())
}

#[test]
fn everything_of_a_vm_is_told() {
    let text = told(
        "memory = \"4G\"\nkernel = \"k\"\ninitrd = \"disk\"\ncmdline = \"a=b c\"\n\
         [vm.test]\nexit-port = true\nwithhold = [\"serial\"]",
        kernel(),
        vec![0x1f, 0x8b, 1, 2],
    )
    .unwrap();
    let expected = "\
1 VM with 1 vCPU and 4 GiB of memory
log level       info
consoles        all that the machine has
IOMMU           translates by the tables that all units can
time slices     2000 us
SMT siblings    run vCPUs of one VM
VM one
  vCPUs         1, on CPUs that Kerf chooses
  memory        4 GiB
    0x0000000000-0x00bfffffff  RAM, 3 GiB
    0x00c0000000-0x00ffffffff  no RAM: devices, 1 GiB
    0x0100000000-0x013fffffff  RAM, 1 GiB
  kernel        k, 6144 bytes: bzImage, boot protocol 2.15, at its own place only, \"6.1.0-test #1\"
    entered at  0x200200, in 64-bit mode
  initrd        disk, 4 bytes: an archive packed by gzip
  command line  \"a=b c\"
  unknown       ports allow, addresses allow, MSRs fault
  test          a byte written to port 0xf4 ends the guest
  test          no serial interrupt reaches the guest
";
    assert_eq!(text, expected);
}

/// A flat Multiboot kernel of one page at 2 MiB.
fn multiboot() -> Vec<u8> {
    let (magic, flags, base) = (0x1bad_b002_u32, 1 << 16, 0x20_0000);
    let sum = 0_u32.wrapping_sub(magic + flags);
    let words = [magic, flags, sum, base, base, 0, base + 0x2000, base + 0x20];
    let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    file.resize(4096, 0);
    file
}

#[test]
fn a_kernel_with_places_of_its_own_and_modules_is_told() {
    let text = told(
        "memory = \"64M\"\nkernel = \"k\"\nmodules = [\"disk\"]\nvcpus = 2\ncpus = [3, 1]\n\
         idle = \"guest\"\non-reset = \"restart\"\ncpuid.mask = [{ leaf = 7, subleaf = 0, ebx = 0xfffeffff }]",
        multiboot(),
        vec![7; 10],
    )
    .unwrap();
    for line in [
        "  vCPUs         2, on CPUs 3 1",
        "  kernel        k, 4096 bytes: Multiboot",
        "    0x0000200000-0x0000201fff  4096 bytes of the file",
        "    entered at  0x200020, in 32-bit mode",
        "  module        disk, 10 bytes",
        "  CPUID         leaf 0x7.0 without EBX 0x00010000",
        "  idle          alone on its CPU, the guest waits without exits",
        "  on reset      the VM starts again",
    ] {
        assert!(text.lines().any(|told| told == line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn what_a_machine_lacks_is_told_and_where_vcpus_go() {
    let vm = |name: &str| {
        format!("[[vm]]\nname = \"{name}\"\nvcpus = 2\nmemory = \"64M\"\nkernel = \"k\"\n")
    };
    let text = format!("version = 1\n{}{}", vm("a"), vm("b"));
    let description = Description::new(text, vec![("k".to_owned(), kernel())]).unwrap();
    let on = |cpus, mib: u64| {
        tell(&description, Bounds { cpus: Some(cpus), memory_bytes: Some(mib << 20) })
    };
    assert!(on(4, 128).unwrap().contains("  vCPUs         2, on CPUs 2 3\n"));
    assert!(on(2, 128).unwrap().starts_with("2 VMs with 4 vCPUs and 128 MiB of memory\n"));
    assert!(on(1, 128).unwrap_err().starts_with("kerf.toml:4: vm.vcpus: 2 vCPUs, but the machine"));
    assert!(on(4, 127).unwrap_err().starts_with("kerf.toml:10: vm.memory: 64 MiB are more than"));
    assert_eq!(cpus_wanted(description.config()), 2);
}

#[test]
fn memory_below_4_gib_ends_in_a_hole() {
    assert_eq!(
        memory_map(&GuestLayout::new(64 * MIB as u64)),
        [
            "0x0000000000-0x0003ffffff  RAM, 64 MiB",
            "0x0004000000-0x00ffffffff  no RAM: devices, 4032 MiB"
        ]
    );
}

#[test]
fn what_does_not_start_is_told_by_line_and_key() {
    let memory = "memory = \"64M\"";
    for (lines, kernel, disk, expected) in [
        (
            format!("{memory}\nkernel = \"k\""),
            b"#!/bin/sh".to_vec(),
            vec![],
            "kerf.toml:5: vm.kernel: k: 9 bytes are too few for a Linux kernel",
        ),
        (
            format!("{memory}\nkernel = \"k\"\n\ninitrd = \"disk\""),
            kernel(),
            vec![b'x'; 512],
            "kerf.toml:7: vm.initrd: disk: not an initial RAM disk",
        ),
        (
            "memory = \"4M\"\nkernel = \"k\"".into(),
            kernel(),
            vec![],
            "kerf.toml:4: vm.memory: k: it needs 6 MiB of memory, the guest has 4 MiB",
        ),
        (
            "kernel = \"k\"\ninitrd = \"disk\"\nmemory = \"8M\"".into(),
            kernel(),
            [vec![0x1f, 0x8b], vec![0; 3 * MIB]].concat(),
            "kerf.toml:6: vm.memory: disk: its 4 MiB do not fit into the 2 MiB",
        ),
        (
            format!("{memory}\nkernel = \"k\"\ncmdline = \"a line of 22 characters\""),
            kernel(),
            vec![],
            "kerf.toml:6: vm.cmdline: k: a command line of 23 bytes, but this kernel takes at most 20",
        ),
        (
            "memory = \"3M\"\nkernel = \"k\"".into(),
            kernel(),
            vec![],
            "kerf.toml:4: vm.memory: \"3M\" is not a multiple of 2M",
        ),
    ] {
        let error = told(&lines, kernel, disk).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
}

#[test]
fn sizes_are_whole_numbers_of_the_largest_unit() {
    for (bytes, text) in
        [(0, "0 bytes"), (512, "512 bytes"), (3 << 10, "3 KiB"), (5 << 29, "2560 MiB")]
    {
        assert_eq!(Size(bytes).to_string(), text);
    }
}
