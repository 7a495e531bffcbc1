//! Small guests with an NVMe disk each (`tests/guests`, `device`): the machine that has them.

use std::path::PathBuf;

use crate::bed::{BedKind, Device, Iommu, Machine, Session};
use crate::cache::Scratch;
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::Context;
use crate::suite::devices::read;

/// Pages of a disk that hold its pattern, and the messages in the one after them: a vector that nobody has.
const PAGES: u64 = 64;
const MESSAGE: u64 = 0xe0;
/// Of a guest; its disk writes there and beyond.
pub(super) const GUEST_BYTES: u64 = 64 << 20;
pub(super) const MACHINE_MIB: u64 = 1024;

/// A guest: its name and the words of its command line beside the seed, which is its number.
pub(super) type Guest = (&'static str, &'static str);

/// What a page of the disk with this seed begins with.
pub(super) fn first_word(seed: u64, page: u64) -> u64 {
    seed << 32 | page << 16
}

/// A disk as the guest with this seed expects it.
pub(super) fn disk(scratch: &Scratch, seed: u64) -> Result<PathBuf, String> {
    let path = scratch.path().join(format!("disk{seed}.img"));
    let pattern =
        (0..PAGES).flat_map(|page| (0..512).map(move |word| first_word(seed, page) | word));
    let messages = [MESSAGE << 32 | MESSAGE; 512];
    let mut bytes: Vec<u8> = pattern.chain(messages).flat_map(u64::to_le_bytes).collect();
    bytes.resize(1 << 20, 0);
    std::fs::write(&path, bytes).explain(|| path.display().to_string())?;
    Ok(path)
}

/// The configuration of such guests, the first with the first disk; `more` stands at its end.
pub(super) fn describe(
    context: &Context,
    guests: &[Guest],
    more: (&str, Vec<(String, Vec<u8>)>),
) -> Result<Description, String> {
    let mut text = format!("version = {}\n\n[hypervisor]\nshare-cpus = true\n", config::VERSION);
    for (seed, (name, words)) in (1..).zip(guests) {
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nmemory = \"64M\"\nkernel = \"device\"\ncmdline = \"seed={seed} {words}\"\n\
             \n[vm.test]\nexit-port = true\n\n[[vm.device]]\nclass = 0x010802\n"
        );
    }
    let mut files = vec![("device".to_owned(), read(context.guest("device")?)?)];
    files.extend(more.1);
    Description::new(text + more.0, files)
}

/// Starts the machine, with a disk for each guest.
pub(super) fn launch(
    context: &Context,
    description: &Description,
    iommu: Iommu,
    devices: Vec<Device>,
) -> Result<Session, String> {
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: MACHINE_MIB,
        cpus: description.config().vms.len() as u32,
        iommu,
        devices,
        probe: true,
        ..Machine::default()
    };
    context.launch(BedKind::Qemu, &volume, &machine)
}
