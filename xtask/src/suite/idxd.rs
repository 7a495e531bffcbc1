//! Debian's own driver of Intel DSA on the model of it: Linux on the bare emulator, so without Kerf.

use std::path::Path;
use std::time::Duration;

use crate::bed::{self, BedKind};
use crate::cache;
use crate::step::{Context, Step};
use crate::suite::{on_bed, require};
use crate::{artefacts, initrd, process, roots};

const LIMIT: Duration = Duration::from_secs(600);

pub(super) fn full_steps() -> Vec<Step> {
    vec![on_bed(BedKind::Qemu, "Debian's idxd configures and enables the DSA model", binds)]
}

/// Of both versions, which are side by side.
fn binds(context: &Context) -> Result<(), String> {
    let linux = context.linux()?;
    let modules = roots::idxd(&context.cache)?;
    let scratch = context.cache.scratch()?;
    let archive = scratch.path().join("initrd");
    cache::write_whole(&archive, &initrd::of_idxd(&linux.busybox, &modules)?)?;
    let preload = artefacts::build_device(&context.root)?;
    let qemu = bed::qemu_program(&context.cache)?;
    let mut command = qemu.command_of(Path::new("env"), &[], Some(&preload));
    command
        .args(["-machine", "q35,kernel-irqchip=split,accel=tcg", "-m", "256M", "-nodefaults"])
        // The driver does not load without MOVDIR64B. This CPU does not have it, and nothing is submitted.
        .args(["-cpu", "max,movdir64b=on,x-force-features=on"])
        .args(["-device", "intel-iommu,intremap=on,eim=on,scalable-mode=on,pasid-bits=20"])
        .args(["-device", "kerf-dsa,addr=04.0", "-device", "kerf-dsa-2,addr=05.0"])
        .args(["-display", "none", "-serial", "stdio", "-no-reboot", "-append"])
        .arg("console=ttyS0 intel_iommu=on quiet panic=-1 kerf.devices=dsa0,dsa1 kerf.queues=8 kerf.size=128 kerf.commands=2")
        .arg("-kernel")
        .arg(&linux.kernel)
        .arg("-initrd")
        .arg(&archive);
    let said = process::run(&mut command, LIMIT, |_| {})?.success("the emulator")?;
    let failed: Vec<&str> = said.lines().filter(|line| line.contains("FAIL")).collect();
    require(failed.is_empty() && said.contains("KERF-GUEST-OK"), || {
        format!(
            "the guest ended with {}",
            failed.first().or(said.lines().last().as_ref()).unwrap_or(&"nothing")
        )
    })
}
