//! Virtual DSAs: Debian's own driver, in a guest, of a device that Kerf has composed of a modelled function's interfaces.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::bed::{BedKind, Device, Iommu, Machine, Outcome, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial};
use crate::suite::{on_bed, require};
use crate::{artefacts, initrd, roots};

const LIMIT: Duration = Duration::from_secs(600);

/// Copies of each small guest.
const COPIES: usize = 200;

pub(super) fn steps() -> Vec<Step> {
    vec![
        on_qemu("small guests copy by virtual DSAs, by the second stage", |context| {
            copies(context, Iommu::SecondStage)
        }),
        on_qemu("Debian's idxd drives a virtual DSA, by the second stage", |context| {
            drives(context, Iommu::SecondStage)
        }),
    ]
}

pub(super) fn full_steps() -> Vec<Step> {
    vec![
        on_qemu("small guests copy by virtual DSAs, by the first stage", |context| {
            copies(context, Iommu::FirstStage)
        }),
        on_qemu("Debian's idxd drives a virtual DSA, by the first stage", |context| {
            drives(context, Iommu::FirstStage)
        }),
    ]
}

fn on_qemu(
    name: &'static str,
    run: impl FnOnce(&Context) -> Result<(), String> + Send + 'static,
) -> Step {
    on_bed(BedKind::Qemu, name, run)
}

/// The configuration of VMs of these names, all alike, whose devices are interfaces of the first function behind a root port.
fn configuration(names: &[&str], vm: &str, vdev: &str) -> String {
    let mut text = format!(
        "version = {}\n\n[hypervisor]\nbackground = \"show\"\nshare-cpus = true\n\n[[hosting]]\nfunction = \"0000:01:00.0\"\n",
        config::VERSION
    );
    for name in names {
        text += &format!(
            "\n[[vm]]\nname = \"{name}\"\nemulate = [\"movdir64b\"]\n{vm}\n[[vm.vdev]]\nkind = \"dsa\"\n{vdev}\n"
        );
    }
    text
}

/// Boots a configuration on a machine with a DSA.
fn boot(
    context: &Context,
    iommu: Iommu,
    text: String,
    files: Vec<(String, Vec<u8>)>,
) -> Result<Outcome, String> {
    let description = Description::new(text, files)?;
    let built = context.artefacts()?;
    let volume = description.volume(read(&built.boot)?, read(&built.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        iommu,
        devices: vec![Device::Model("dsa", artefacts::build_device(&context.root)?)],
        ..Machine::default()
    };
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    context.trial(BedKind::Qemu, trial)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).explain(|| path.display().to_string())
}

/// Three guests share a function; the third has two queues of it.
fn copies(context: &Context, iommu: Iommu) -> Result<(), String> {
    let vm = format!(
        "memory = \"64M\"\nkernel = \"vdsa\"\ncmdline = \"copies={COPIES}\"\n\n[vm.test]\nexit-port = true\n"
    );
    let mut text = configuration(&["one", "two"], &vm, "entries = 16");
    text += &configuration(&["three"], &vm, "entries = 16\nqueues = 2")
        .split_once("\n[[vm]]")
        .map_or(String::new(), |(_, vm)| format!("\n[[vm]]{vm}"));
    let files = vec![("vdsa".to_owned(), read(context.guest("vdsa")?)?)];
    let outcome = boot(context, iommu, text, files)?;
    let outcome = outcome.require(&Verdict::Exited(0))?;
    let said = outcome.console_text();
    let well = said.matches("ended: exit 0").count();
    // One of each guest's reads is blocked, and said to be its.
    let blocked = ["one", "two", "three"]
        .map(|name| said.contains(&format!("kerf: warning: {name}: 0000:01:00.0 PASID")));
    require(well == 3 + 1 && blocked == [true; 3], || {
        format!(
            "{well} of 4 good ends, blocked reads are told of {blocked:?}: {}",
            outcome.describe()
        )
    })
}

/// Two Linux guests, each with a virtual DSA of the one function.
fn drives(context: &Context, iommu: Iommu) -> Result<(), String> {
    let linux = context.linux()?;
    let modules = roots::idxd(&context.cache)?;
    let vm = "memory = \"256M\"\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\n\
         cmdline = \"console=ttyS0 quiet panic=-1 kerf.devices=dsa0 kerf.queues=1 kerf.size=16 kerf.commands=3\"\n";
    let text = configuration(&["one", "two"], vm, "entries = 16");
    let files = vec![
        ("vmlinuz".to_owned(), read(&linux.kernel)?),
        ("initrd.img".into(), initrd::of_idxd(&linux.busybox, &modules)?),
    ];
    let outcome = boot(context, iommu, text, files)?.require(&Verdict::PoweredOff)?;
    let said = outcome.console_text();
    let passed = said.matches("KERF-GUEST-OK").count();
    require(passed == 2 && !said.contains("FAIL"), || outcome.describe())
}
