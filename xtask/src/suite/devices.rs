//! Real devices in guests' hands: Debian's drivers on what Kerf gave away, behind QEMU's own IOMMU.

mod canary;
mod harm;
mod lives;
mod peer;
mod script;
mod shared;
mod shown;
mod small;
mod tables;

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::Regex;

use crate::bed::{BedKind, Device, Iommu, Machine, Outcome, Verdict};
use crate::cache::Scratch;
use crate::description::Description;
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::{Context, Step, Trial};
use crate::suite::devices::peer::{Peer, sum};
use crate::suite::{on_bed, require};

/// Where the emulator has its IOMMU, and its PCI configuration space.
const UNIT: u64 = 0xfed9_0000;
const ECAM: u64 = 0xe000_0000;

/// Modes of the IOMMU.
const MODES: [(Iommu, &str); 3] = [
    (Iommu::Legacy, "without PASIDs"),
    (Iommu::SecondStage, "by the second stage"),
    (Iommu::FirstStage, "by the first stage"),
];

pub(super) fn steps() -> Vec<Step> {
    let mut steps = modes("two linux guests drive devices of their own", 17, 900);
    steps.push(on_qemu("a device that ran before Kerf is stopped by its IOMMU", canary::stops));
    steps.push(on_qemu("what a VM's device takes is given back, life after life", |context| {
        lives::small_guests(context, Iommu::SecondStage, 3)
    }));
    steps.push(on_qemu(
        "two linux guests share a disk and a network by virtual functions",
        |context| shared::drive(context, Iommu::SecondStage),
    ));
    steps
}

pub(super) fn full_steps() -> Vec<Step> {
    let mut steps = modes("two linux guests drive devices of their own for long", 136, 5400);
    for (iommu, how) in MODES {
        let name = format!("50 lives of a VM with a device leave nothing behind, {how}");
        steps.push(on_qemu(name, move |context| lives::small_guests(context, iommu, 50)));
        let name = format!("devices that go wrong concern their owners alone, {how}");
        steps.push(on_qemu(name, move |context| harm::concerns_its_owner_alone(context, iommu)));
    }
    steps.push(on_qemu("lives of a linux guest with a device leave nothing behind", lives::linux));
    steps
}

fn on_qemu(
    name: impl Into<String>,
    run: impl FnOnce(&Context) -> Result<(), String> + Send + 'static,
) -> Step {
    on_bed(BedKind::Qemu, name, run)
}

/// A function's configuration space.
fn ecam(bus: u64, device: u64, function: u64) -> u64 {
    ECAM | bus << 20 | device << 15 | function << 12
}

/// A step for each kind of tables; the guests move so many copies of busybox.
fn modes(what: &'static str, copies: usize, seconds: u64) -> Vec<Step> {
    let step = |(iommu, how)| {
        on_bed(BedKind::Qemu, format!("{what}, {how}"), move |context| {
            drive(context, iommu, copies, Duration::from_secs(seconds))
        })
    };
    MODES.map(step).into()
}

/// Each VM with its virtual CPUs, the devices that it names, and the checks that it is to pass.
const VMS: [(&str, u32, &[&str], &[&str]); 2] = [
    (
        "disk",
        2,
        &["class = 0x010802", "vendor = 0x1af4, device = 0x1041"],
        &["nvme", "random", "spread", "virtio-net", "lspci"],
    ),
    (
        "net",
        1,
        &["vendor = 0x8086, device = 0x10c9", "vendor = 0x1af4, device = 0x1042"],
        &["igb", "virtio-blk", "lspci"],
    ),
];

/// Disks keep what their guest wrote and read back, and what went over the networks came to this host and back.
fn drive(context: &Context, iommu: Iommu, copies: usize, timeout: Duration) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let linux = context.linux()?;
    require(!linux.drivers.is_empty(), || "a Linux of your own has no drivers here".into())?;
    let pattern = pattern(&read(&linux.busybox)?, copies);
    let nvme = disk(&scratch, "nvme.img", &pattern)?;
    let virtio = disk(&scratch, "virtio.img", &pattern)?;
    let peer = Peer::start(pattern.len())?;
    let mut text = format!("version = {}\n", config::VERSION);
    for (name, vcpus, devices, _) in VMS {
        let words = format!("kerf.copies={copies} kerf.peer=10.0.2.2:{}", peer.port);
        text += &vm(name, vcpus, &words, devices);
    }
    let initrd = initrd::build(&linux.busybox, None, &linux.drivers, &context.lspci()?)?;
    let files = vec![("vmlinuz".to_owned(), read(&linux.kernel)?), ("initrd.img".into(), initrd)];
    let description = Description::new(text, files)?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        cpus: 3,
        iommu,
        devices: vec![
            Device::Nvme(nvme.clone()),
            Device::Igb,
            Device::VirtioBlk(virtio.clone()),
            Device::VirtioNet,
        ],
        ..Machine::default()
    };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout };
    let outcome = context.trial(BedKind::Qemu, trial)?.require(&Verdict::PoweredOff)?;
    let blocks = random_blocks(&nvme, pattern.len()).explain(|| nvme.display().to_string())?;
    judge(&outcome, &pattern, &blocks)?;
    has_kept(&nvme, &pattern)?;
    let mut kept = Vec::new();
    let length = pattern.len() as u64;
    let file = File::open(&virtio).and_then(|file| file.take(length).read_to_end(&mut kept));
    file.explain(|| virtio.display().to_string())?;
    require(kept == pattern, || "the virtio disk is not as it was written".into())?;
    let came = peer.sums();
    require(came == [sum(&pattern), sum(&pattern)], || format!("the peer received {came:?}"))?;
    println!("     {} bytes to and from each device", pattern.len());
    Ok(())
}

/// A Linux VM with devices, and words for its command line.
fn vm(name: &str, vcpus: u32, words: &str, devices: &[&str]) -> String {
    let mut text = format!(
        "\n[[vm]]\nname = \"{name}\"\nmemory = \"256M\"\nvcpus = {vcpus}\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\n\
         cmdline = \"console=ttyS0 kerf.poweroff {words}\"\n"
    );
    for device in devices {
        text += &format!("\n[[vm.device]]\n{}\n", device.replace(", ", "\n"));
    }
    text
}

/// A disk with room for the pattern in a file, of more sectors than 16 bits count: [`fatfs`] wants FAT32 that large.
fn disk(scratch: &Scratch, name: &str, pattern: &[u8]) -> Result<PathBuf, String> {
    let path = scratch.path().join(name);
    let made = File::create(&path).and_then(|file| file.set_len(pattern.len() as u64 + (32 << 20)));
    made.explain(|| path.display().to_string()).map(|()| path)
}

/// Whether the one file of a disk is the pattern.
fn has_kept(disk: &Path, pattern: &[u8]) -> Result<(), String> {
    let file = File::open(disk).and_then(file_of).explain(|| disk.display().to_string())?;
    require(file == pattern, || format!("the file on {} is another one", disk.display()))
}

/// As `init.sh` makes it.
fn pattern(busybox: &[u8], copies: usize) -> Vec<u8> {
    (0..copies).flat_map(|copy| [format!("{copy}\n").as_bytes(), busybox].concat()).collect()
}

/// The one file of a disk's FAT.
fn file_of(disk: File) -> io::Result<Vec<u8>> {
    let volume = fatfs::FileSystem::new(disk, fatfs::FsOptions::new())?;
    let mut bytes = Vec::new();
    volume.root_dir().open_file("pattern")?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The blocks that `init.sh` reads here and there.
fn random_blocks(disk: &Path, bytes: usize) -> io::Result<Vec<u8>> {
    const BLOCK: usize = 4096;
    let mut disk = File::open(disk)?;
    let (mut seed, mut blocks) = (1_u64, vec![0; 64 * BLOCK]);
    for block in blocks.chunks_mut(BLOCK) {
        seed = (seed * 1_103_515_245 + 12345) % (1 << 31);
        let at = seed / 256 % (bytes / BLOCK) as u64;
        disk.seek(SeekFrom::Start(at * BLOCK as u64))?;
        disk.read_exact(block)?;
    }
    Ok(blocks)
}

/// Each guest says that it has read and received the pattern, and tells of its functions what they are.
fn judge(outcome: &Outcome, pattern: &[u8], blocks: &[u8]) -> Result<(), String> {
    let text = outcome.console_text();
    let (digest, of_blocks) = (sum(pattern), sum(blocks));
    for (_, _, _, checks) in VMS {
        for check in checks {
            let line = Regex::new(&format!("KERF-CHECK {check} ok (.*)"))
                .map_err(|error| error.to_string())?;
            let said =
                line.captures(&text).explain(|| format!("no {check}: {}", outcome.describe()))?;
            let digest = match *check {
                "spread" | "lspci" => "",
                "random" => of_blocks.as_str(),
                _ => digest.as_str(),
            };
            require(said[1].contains(digest), || {
                format!("{check} says {}, not {digest}", &said[1])
            })?;
        }
    }
    let well = text.matches("KERF-GUEST-OK").count();
    require(well == VMS.len(), || outcome.describe())?;
    shown::check(&text)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).explain(|| path.display().to_string())
}
