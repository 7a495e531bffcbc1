//! Real devices in guests' hands: Debian's drivers on controllers that Kerf gave away, behind QEMU's own IOMMU.

use std::fs::File;
use std::io::Read as _;
use std::time::Duration;

use regex::Regex;
use sha2::{Digest as _, Sha256};

use crate::bed::{BedKind, Iommu, Machine, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{on_bed, require};
use crate::{initrd, roots};

const LIMIT: Duration = Duration::from_secs(900);
const DISK_BYTES: u64 = 64 << 20;

pub(super) fn steps() -> Vec<Step> {
    let modes = [
        (Iommu::Legacy, "without PASIDs"),
        (Iommu::SecondStage, "by the second stage"),
        (Iommu::FirstStage, "by the first stage"),
    ];
    let step = |(iommu, how)| {
        let name = format!("linux drives an NVMe disk of its own, {how}");
        on_bed(BedKind::Qemu, name, move |context| drives_nvme(context, iommu))
    };
    modes.map(step).into()
}

/// The guest writes a pattern and reads it back; what it says of it, the disk's image must say as well.
fn drives_nvme(context: &Context, iommu: Iommu) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let disk = scratch.path().join("nvme.img");
    let at = || disk.display().to_string();
    File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).explain(at)?;
    let linux = roots::linux_nvme(&context.cache)?;
    let read = |path: &std::path::Path| std::fs::read(path).explain(|| path.display().to_string());
    let initrd = initrd::build(&context.linux()?.busybox, None, &linux.modules)?;
    let text = format!(
        "version = {}\n\n[[vm]]\nname = \"linux\"\nmemory = \"256M\"\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\n\
         cmdline = \"console=ttyS0 kerf.poweroff\"\nvcpus = 2\n\n[[vm.device]]\nclass = 0x010802\n",
        config::VERSION
    );
    let files = vec![("vmlinuz".to_owned(), read(&linux.kernel)?), ("initrd.img".into(), initrd)];
    let description = Description::new(text, files)?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        cpus: 2,
        iommu,
        nvme: Some(disk.clone()),
        ..Machine::default()
    };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(BedKind::Qemu, trial)?.require(&Verdict::PoweredOff)?;
    let text = outcome.console_text();
    let line = Regex::new(r"KERF-CHECK nvme ok (\d+) bytes .* sum ([0-9a-f]{64})")
        .map_err(|error| error.to_string())?;
    let said = line.captures(&text).explain(|| outcome.describe())?;
    require(text.contains("KERF-GUEST-OK"), || outcome.describe())?;
    let bytes: u64 = said[1].parse().explain(|| "a length")?;
    let mut written = Vec::new();
    File::open(&disk).and_then(|f| f.take(bytes).read_to_end(&mut written)).explain(at)?;
    let digest: String = Sha256::digest(&written).iter().map(|b| format!("{b:02x}")).collect();
    require(bytes >= 16 << 20 && said[2] == digest, || {
        format!("{bytes} bytes on the disk sum up to {digest}, not {}", &said[2])
    })?;
    println!("     {bytes} bytes, {digest}");
    Ok(())
}
