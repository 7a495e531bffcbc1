//! The IOMMU driver by itself on QEMU's VT-d, by `iommu/examples/qemu`: without a CPU, so without Kerf. And Kerf on Bochs, whose
//! CPU has VT-x, with the models of a unit and of a device in its machine.

use std::path::Path;
use std::time::Duration;

use crate::bed::{self, BedKind, Device, Iommu, Machine, Outcome, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{guests, kernel, on_bed, pattern, require};
use crate::volume::Volume;
use crate::{artefacts, process};

const LIMIT: Duration = Duration::from_secs(300);

/// The guest that has devices of our own.
const GUEST: &str = "models";

/// The steps with devices of our own.
pub(super) const PASIDS: &str =
    "the IOMMU driver keeps the PASIDs of a device apart by the emulator's unit";
const DSA: &str = "descriptors through a DSA's portals reach what the PASIDs of their queues do";

pub(super) fn steps() -> Vec<Step> {
    let mut steps = Vec::from([(PASIDS, "siov"), (DSA, "dsa")].map(|(name, what)| {
        on_bed(BedKind::Qemu, name, move |context| {
            drive(context, what, Some(context.models(BedKind::Qemu)?))
        })
    }));
    let modes = [
        (Iommu::Legacy, "without PASIDs"),
        (Iommu::SecondStage, "by the second stage"),
        (Iommu::FirstStage, "by the first stage"),
    ];
    steps.extend(modes.map(|(mode, how)| {
        let name = format!("a small guest has devices behind the model of a unit, {how}");
        on_bed(BedKind::Bochs, name, move |context| give(context, mode))
    }));
    steps
}

/// In all modes of the unit with the device `what`.
fn drive(context: &Context, what: &str, preload: Option<&Path>) -> Result<(), String> {
    let example = artefacts::build_example(&context.root, "iommu", "qemu")?;
    let qemu = bed::qemu_program(&context.cache)?;
    let mut command = qemu.command_of(&example, &[what], preload);
    process::run(&mut command, LIMIT, |_| {})?.success("the example").map(|_| ())
}

/// A guest has both functions of the models.
fn give(context: &Context, iommu: Iommu) -> Result<(), String> {
    let read = |path: &Path| std::fs::read(path).explain(|| path.display().to_string());
    let text = format!(
        "version = {}\n\n[hypervisor]\nlog = \"info\"\n\n[[vm]]\nname = \"{GUEST}\"\nmemory = \"64M\"\nkernel = \"guest\"\n\
         \n[[vm.device]]\nvendor = 0x1234\ndevice = 0x51f0\n\n[[vm.device]]\nvendor = 0x8086\ndevice = 0x0b25\n\n[vm.test]\nexit-port = true\n",
        config::VERSION
    );
    let files = vec![("guest".to_owned(), read(context.guest(GUEST)?)?)];
    let description = Description::new(text, files)?;
    let artefacts = context.artefacts()?;
    let mut volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    tables(&mut volume);
    let object = context.models(BedKind::Bochs)?;
    let machine = Machine {
        memory_mib: 512,
        iommu,
        devices: ["siov", "dsa"].map(|name| Device::Model(name, object.into())).into(),
        ..Machine::default()
    };
    let timeout = Duration::from_secs(120);
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout };
    let outcome = context.trial(BedKind::Bochs, trial)?.require(&Verdict::Exited(0))?;
    judge(&outcome).map_err(|why| format!("{why}: {}", outcome.describe()))
}

/// The guest is content, Kerf has told what was blocked and whose it was, and the models say at the end that nothing was done
/// wrong, and that all of it went through the unit.
fn judge(outcome: &Outcome) -> Result<(), String> {
    let console = outcome.console_text();
    guests::judge(GUEST, &console)?;
    for blocked in [
        "2.0 read of 0x10000000",
        "2.0 write to 0x10000000",
        "2.0 write to 0x1234567000",
        "2.0 interrupt entry 0x0",
        "2.0 read of 0xfee00000",
        "3.0 read of 0x10000000",
    ] {
        let told = format!("warning: {GUEST}: 0000:00:0{blocked} blocked: ");
        require(console.contains(&told), || format!("nothing is told of the {blocked}"))?;
    }
    let report = r" 0 violations; \d+ requests, \d+ blocked; 4 interrupts remapped, 0 as they were, 1 refused; ";
    let is_said = pattern(report)?.is_match(outcome.log.as_bytes());
    require(is_said, || format!("the models do not say{report}"))
}

/// Brings the ACPI tables of a Bochs with models.
pub(super) fn tables(volume: &mut Volume) {
    volume.insert("acpi/apic.aml", kernel::madt(&[0], &[]));
    volume.insert("acpi/mcfg.aml", mcfg());
    volume.insert("acpi/dmar.aml", dmar());
    volume.seal();
}

/// Configuration space of bus 0, where the plugin has it (PCI firmware specification 3.3, 4.1.2).
fn mcfg() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend(0xf000_0000_u64.to_le_bytes());
    body.extend([0; 8]);
    kernel::table(b"MCFG", &body)
}

/// A unit that is responsible for everything, where the plugin has it, and before the I/O APIC (VT-d 8.1, 8.3).
fn dmar() -> Vec<u8> {
    const INTERRUPTS: u8 = 1;
    let mut body = vec![38, INTERRUPTS];
    body.extend([0; 10]);
    body.extend([0, 0, 24, 0, 1, 0, 0, 0]);
    body.extend(0xfed9_0000_u64.to_le_bytes());
    body.extend([3, 8, 0, 0, 0, 0xff, 0, 0]);
    kernel::table(b"DMAR", &body)
}
