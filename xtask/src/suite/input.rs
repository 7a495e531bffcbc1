//! Boot volumes that must not start: each ends in one line that names the file and what is wrong with it. And VMs that
//! must not: each is told by one line, and the others run.

use std::path::Path;
use std::time::Duration;

use crate::bed::{BedKind, Device, Iommu, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::{Context, Step, Trial};
use crate::suite::kernel::table;
use crate::suite::{guests, on_bed, pattern, require};
use crate::volume::{CONFIG, KERNEL, SUMS, Volume};

/// Firmware included; nothing of a guest ever runs.
const LIMIT: Duration = Duration::from_secs(90);

/// What is done to a sound volume, and what the boot application then says after `EFI/kerf/`.
struct Case {
    name: &'static str,
    harm: fn(&mut Volume) -> Option<()>,
    /// A pattern.
    told: &'static str,
}

const CASES: [Case; 18] = [
    Case {
        name: "no kernel",
        harm: |volume| volume.remove(KERNEL).map(drop),
        told: r"kernel\.elf: no such file",
    },
    Case {
        name: "a damaged kernel",
        harm: |volume| flip(volume, KERNEL),
        told: r"kernel\.elf: damaged",
    },
    Case {
        name: "a kernel that is no program",
        harm: |volume| replace(volume, KERNEL, b"#!/bin/sh\n"),
        told: r"kernel\.elf: \S.*; copy it",
    },
    Case {
        name: "no configuration",
        harm: |volume| volume.remove(CONFIG).map(drop),
        told: r"kerf\.toml: no such file",
    },
    Case {
        name: "a damaged configuration",
        harm: |volume| flip(volume, CONFIG),
        told: r"kerf\.toml: damaged",
    },
    Case {
        name: "a configuration with an unknown key",
        harm: |volume| configure(volume, "\nmemory = ", "\nmemmory = "),
        told: r"kerf\.toml:8: .*memmory",
    },
    Case {
        name: "a configuration in which a CPU is pinned twice",
        harm: |volume| configure(volume, "\nmemory = ", "\nvcpus = 2\ncpus = [0, 0]\nmemory = "),
        told: r"kerf\.toml:9: vm\.cpus: CPU 0 is there twice; ",
    },
    Case {
        name: "a configuration in which two VMs have one name",
        harm: |volume| {
            let text = String::from_utf8(volume.file_mut(CONFIG)?.clone()).ok()?;
            let vm = text.get(text.find("[[vm]]")?..)?;
            replace(volume, CONFIG, format!("{text}\n{vm}").as_bytes())
        },
        told: r"kerf\.toml:\d+: vm\.name: .* is also another VM's name; ",
    },
    Case {
        name: "a configuration in which two VMs have one function",
        harm: |volume| {
            let text = String::from_utf8(volume.file_mut(CONFIG)?.clone()).ok()?;
            let vm = text.get(text.find("[[vm]]")?..)?.replacen("name = \"", "name = \"x", 1);
            let device = "\n[[vm.device]]\nfunction = \"01:00.0\"\n";
            replace(volume, CONFIG, format!("{text}{device}\n{vm}{device}").as_bytes())
        },
        told: r"kerf\.toml:\d+: vm\.device: 0000:01:00\.0 is VM .* already; ",
    },
    Case {
        name: "a Multiboot kernel without its magic",
        harm: |volume| configure(volume, "\nmemory = ", "\nloader = \"multiboot\"\nmemory = "),
        told: "guest: no Multiboot kernel: its first 8 KiB hold no 0x1badb002; ",
    },
    Case {
        name: "an ELF kernel with wild headers",
        harm: |volume| replace(volume, "guest", &elf(&[(0x20_0000, u32::MAX, 0x1000)])),
        told: r"guest: cut short: \d+ bytes are missing; ",
    },
    Case {
        name: "no guest kernel",
        harm: |volume| volume.remove("guest").map(drop),
        told: "guest: no such file",
    },
    Case {
        name: "a damaged guest kernel",
        harm: |volume| flip(volume, "guest"),
        told: "guest: damaged",
    },
    Case {
        name: "a guest kernel cut short",
        harm: |volume| {
            let file = volume.file_mut("guest")?;
            file.truncate(file.len() - 1000);
            volume.seal();
            Some(())
        },
        told: r"guest: cut short: 1000 of \d+ bytes are missing",
    },
    Case {
        name: "no initrd",
        harm: |volume| volume.remove("initrd.img").map(drop),
        told: r"initrd\.img: no such file",
    },
    Case {
        name: "a damaged initrd",
        harm: |volume| flip(volume, "initrd.img"),
        told: r"initrd\.img: damaged",
    },
    Case {
        name: "an initrd that is no archive",
        harm: |volume| replace(volume, "initrd.img", &[b'x'; 512]),
        told: r"initrd\.img: not an initial RAM disk",
    },
    Case {
        name: "sums that are no sums",
        harm: |volume| volume.file_mut(SUMS).map(|file| file.splice(..4, *b"oops").for_each(drop)),
        told: r"SHA256SUMS: line 1 ",
    },
];

/// Makes an ACPI table that the boot volume brings.
type Table = fn() -> Vec<u8>;

pub(super) fn steps() -> Vec<Step> {
    let bed = BedKind::Qemu;
    let refused = |case: Case| {
        on_bed(bed, format!("boot refuses {}", case.name), move |context| {
            is_refused(context, bed, &case)
        })
    };
    let pair = || Machine { devices: vec![Device::Pair], ..Machine::default() };
    let vms: [(_, Machine, &'static [Bad], Option<Table>); 4] = [
        ("VMs that cannot start are told, and the others run", Machine::default(), &VMS, None),
        (
            "VMs that cannot have their functions are told, and the others run",
            pair(),
            &DEVICES,
            None,
        ),
        (
            "without an IOMMU no VM has functions, and the others run",
            Machine { iommu: Iommu::None, ..pair() },
            &BARE,
            None,
        ),
        (
            "a function with reserved memory goes only to a VM that may have it",
            pair(),
            &RESERVED,
            Some(dmar),
        ),
    ];
    let vms = vms.map(|(name, machine, bad, dmar)| {
        on_bed(bed, name, move |context| others_run(context, bed, machine, bad, dmar))
    });
    CASES.into_iter().map(refused).chain(vms).collect()
}

/// A VM: its name, lines of it, and what Kerf then says of it.
type Bad = (&'static str, &'static str, &'static str);

/// The machine has one CPU and 1 GiB.
const VMS: [Bad; 5] = [
    (
        "huge",
        "memory = \"2G\"",
        r"kerf\.toml:\d+: vm\.memory: 2048 MiB are more than the \d+ MiB left ",
    ),
    ("many", "vcpus = 2", r"kerf\.toml:\d+: vm\.vcpus: 2 vCPUs, but the machine has 1 CPU; "),
    (
        "pinned",
        "cpus = [7]",
        r"kerf\.toml:\d+: vm\.cpus: there is no CPU 7, the machine has 1 CPU; ",
    ),
    ("wild", "kernel = \"wild\"", "wild: damaged: its segments at 0x200000 and 0x200800 overlap"),
    ("low", "kernel = \"low\"", "low: its segment 0x9000-0x9fff does not lie in free RAM, "),
];

/// The first VM may have its function.
const DEVICES: [Bad; 4] = [
    ("owner", "device = [{ function = \"01:00.0\" }]\ntest.exit-port = true", ""),
    (
        "near",
        "device = [{ function = \"01:00.1\" }]",
        r"kerf\.toml:\d+: vm\.device: 0000:01:00\.1 cannot be separated from 0000:01:00\.0, which is VM .owner.'s \(.*one device.*\); ",
    ),
    (
        "like",
        "device = [{ class = 0x010802 }]",
        r"kerf\.toml:\d+: vm\.device: the first function of class 0x010802 is not there, or ",
    ),
    (
        "bridge",
        "device = [{ vendor = 0x1b36, device = 0x000c }]",
        r"kerf\.toml:\d+: vm\.device: 0000:00:..\.. is a bridge; ",
    ),
];

/// The machine has no IOMMU.
const BARE: [Bad; 1] = [(
    "bare",
    "device = [{ function = \"01:00.0\" }]",
    r"kerf\.toml:\d+: vm\.device: no IOMMU stands before 0000:01:00\.0, so it could reach all memory; ",
)];

/// The firmware, says [`dmar`], reserves memory for the function.
const RESERVED: [Bad; 2] = [
    (
        "careful",
        "device = [{ function = \"01:00.0\" }]",
        r"kerf\.toml:\d+: vm\.device: the firmware reserves memory for 0000:01:00\.0, ",
    ),
    (
        "bold",
        "device = [{ vendor = 0x1af4, device = 0x1044 }]\nreserved-devices = true\ntest.exit-port = true",
        "",
    ),
];

/// QEMU's own DMAR table, and a page that function 01:00.0 is to reach (VT-d 8.1 to 8.4).
fn dmar() -> Vec<u8> {
    let (unit, page) = (0xfed9_0000_u64.to_le_bytes(), 0x3000_0000_u64);
    // 39 bits of address; interrupts are remapped.
    let mut body = vec![38, 1];
    body.resize(12, 0);
    // All devices; the I/O APIC as 255:00.0.
    body.extend([0, 0, 24, 0, 1, 0, 0, 0]);
    body.extend(unit);
    body.extend([3, 8, 0, 0, 0, 0xff, 0, 0]);
    body.extend([1, 0, 32, 0, 0, 0, 0, 0]);
    body.extend(page.to_le_bytes());
    body.extend((page + 0xfff).to_le_bytes());
    body.extend([1, 8, 0, 0, 0, 1, 0, 0]);
    table(b"DMAR", &body)
}

/// Beside the VMs there is a sound one.
fn others_run(
    context: &Context,
    bed: BedKind,
    machine: Machine,
    vms: &[Bad],
    dmar: Option<fn() -> Vec<u8>>,
) -> Result<(), String> {
    let artefacts = context.artefacts()?;
    let read = |path: &Path| std::fs::read(path).explain(|| path.display().to_string());
    let mut text = format!("version = {}\n", config::VERSION);
    for (name, lines, _) in [("hello", "test.exit-port = true", "")].iter().chain(vms) {
        text += &format!("[[vm]]\nname = \"{name}\"\n{lines}\n");
        for (key, value) in [("memory", "64M"), ("kernel", "guest")] {
            if !lines.starts_with(key) {
                text += &format!("{key} = \"{value}\"\n");
            }
        }
    }
    let files = [
        ("guest", read(context.guest("hello")?)?),
        ("wild", elf(&[(0x20_0000, 0x1000, 0x1000), (0x20_0800, 0x1000, 0x1000)])),
        ("low", elf(&[(0x20_0000, 0x1000, 0x1000), (0x9000, 0x1000, 0x1000)])),
    ];
    let files = files.map(|(name, bytes)| (name.to_owned(), bytes)).into();
    let description = Description::new(text, files)?;
    let mut volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    if let Some(dmar) = dmar {
        volume.insert("acpi/dmar.aml", dmar());
        volume.seal();
    }
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(bed, trial)?;
    let console = outcome.console_text();
    require(!console.contains("FAIL "), || outcome.describe())?;
    let sound = vms.iter().filter(|(.., told)| told.is_empty()).count() + 1;
    require(console.matches("GUEST-DONE hello").count() == sound, || outcome.describe())?;
    for (name, _, told) in vms.iter().filter(|(.., told)| !told.is_empty()) {
        let told = pattern(&format!("{name} cannot start: (vm[^ ]* )?{told}"))?;
        require(told.find_iter(console.as_bytes()).count() == 1, || {
            format!("{told:?} is not there once: {}", outcome.describe())
        })?;
    }
    Ok(())
}

/// An ELF32 file with a PVH entry (note, then 0x1000 bytes for every segment) whose segments have these physical addresses
/// and bytes in file and memory.
fn elf(segments: &[(u32, u32, u32)]) -> Vec<u8> {
    const NOTE: u32 = 0x800;
    let entry = 0x20_0000;
    let count = segments.len() as u32;
    // e_ident, ET_EXEC for the 80386, one program header more than segments.
    let mut words = vec![0x464c_457f, 0x0001_0101, 0, 0, 0x0003_0002, 1, entry, 52, 0, 0];
    words.extend([0x0020_0034, count + 1, 0]);
    for (index, (paddr, in_file, in_memory)) in (1..).zip(segments) {
        words.extend([1, 0x1000 * index, *paddr, *paddr, *in_file, *in_memory, 7, 0x1000]);
    }
    words.extend([4, NOTE, 0, 0, 20, 20, 4, 4]);
    words.resize(NOTE as usize / 4, 0);
    words.extend([4, 4, 18, u32::from_le_bytes(*b"Xen\0"), entry]);
    let mut file: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
    file.resize(0x1000 * (segments.len() + 1), 0x90);
    file
}

/// Changes the configuration's text, and its sum.
fn configure(volume: &mut Volume, from: &str, to: &str) -> Option<()> {
    let text = String::from_utf8(volume.file_mut(CONFIG)?.clone()).ok()?;
    replace(volume, CONFIG, text.replace(from, to).as_bytes())
}

fn is_refused(context: &Context, bed: BedKind, case: &Case) -> Result<(), String> {
    let mut volume = sound(context)?;
    (case.harm)(&mut volume).explain(|| "the volume has no such file to harm")?;
    // The one line, its remedy, and the end; a guest that starts after all shows as another verdict.
    let expect = pattern(&format!(
        r"kerf-boot: error: EFI/kerf/{}[^\n]*\n(?s:.*)kerf-boot: stopped",
        case.told
    ))?;
    let trial = Trial {
        volume,
        machine: Machine::default(),
        expect: Some(expect),
        typed: Vec::new(),
        timeout: LIMIT,
    };
    let outcome = context.trial(bed, trial)?.require(&Verdict::Expected)?;
    let text = outcome.console_text();
    require(text.matches("kerf-boot: error: ").count() == 1, || outcome.describe())
}

/// A volume that would start: a small guest, with an initrd so that there is one to harm.
fn sound(context: &Context) -> Result<Volume, String> {
    let initrd = initrd::build(&context.linux()?.busybox, None, &[], &[])?;
    let description = guests::describe(context, "hello", Some(initrd))?;
    let artefacts = context.artefacts()?;
    let read = |path: &Path| std::fs::read(path).explain(|| path.display().to_string());
    Ok(description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?))
}

/// Changes one bit in the middle and not the sum.
fn flip(volume: &mut Volume, path: &str) -> Option<()> {
    let file = volume.file_mut(path)?;
    let middle = file.len() / 2;
    file.get_mut(middle).map(|byte| *byte ^= 1)
}

/// Other contents, and their sum.
fn replace(volume: &mut Volume, path: &str, bytes: &[u8]) -> Option<()> {
    volume.insert(path, bytes.to_vec());
    volume.seal();
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_harms_its_file_and_has_a_valid_pattern() {
        let text = "version = 1\n\n[hypervisor]\nlog = \"info\"\n\n[[vm]]\nname = \"a\"\nmemory = \"64M\"\nkernel = \"guest\"\n";
        for case in CASES {
            let mut volume = Volume::new(vec![1; 64], vec![2; 64], text);
            volume.insert("guest", vec![3; 2000]);
            volume.insert("initrd.img", vec![4; 64]);
            volume.seal();
            let files = |volume: &Volume| -> Vec<(String, Vec<u8>)> {
                volume.files().map(|(path, bytes)| (path.to_owned(), bytes.to_vec())).collect()
            };
            let before = files(&volume);
            assert!((case.harm)(&mut volume).is_some(), "{}", case.name);
            assert_ne!(files(&volume), before, "{}", case.name);
            pattern(case.told).unwrap();
        }
    }
}
