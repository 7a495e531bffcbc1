//! Virtual DSAs: Debian's own driver, in a guest, of a device that Kerf has composed of a modelled function's interfaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::bed::{BedKind, Device, Iommu, Machine, Outcome, Verdict};
use crate::description::Description;
use crate::explain::Explain as _;
use crate::step::{Context, Step, Trial, Typed};
use crate::suite::{on_bed, pattern, require};
use crate::{initrd, linux_module, roots, topology};

const LIMIT: Duration = Duration::from_secs(600);

/// Copies of each small guest.
const COPIES: usize = 200;
/// Copies of each Linux, in the daily set and in the full one.
const LINUX_COPIES: usize = 100;
const MANY: usize = 10_000;
/// Where the DSAs are: on QEMU behind the first root ports, on Bochs in the first slots.
const QEMU: [&str; 2] = ["0000:01:00.0", "0000:02:00.0"];
const BOCHS: [&str; 2] = ["0000:00:02.0", "0000:00:03.0"];

pub(super) fn steps() -> Vec<Step> {
    vec![
        on_bed(
            BedKind::Qemu,
            "small guests copy by virtual DSAs, by the second stage",
            |context| copies(context, BedKind::Qemu, Iommu::SecondStage),
        ),
        on_bed(
            BedKind::Bochs,
            "small guests copy by virtual DSAs, by the second stage",
            |context| copies(context, BedKind::Bochs, Iommu::SecondStage),
        ),
        on_bed(
            BedKind::Qemu,
            "Debian's idxd copies by virtual DSAs, by the second stage",
            |context| drives(context, Iommu::SecondStage, LINUX_COPIES),
        ),
        on_bed(BedKind::Qemu, "the topology of a running machine is drawn", drawn),
    ]
}

pub(super) fn full_steps() -> Vec<Step> {
    vec![
        on_bed(BedKind::Qemu, "small guests copy by virtual DSAs, by the first stage", |context| {
            copies(context, BedKind::Qemu, Iommu::FirstStage)
        }),
        on_bed(
            BedKind::Bochs,
            "small guests copy by virtual DSAs, by the first stage",
            |context| copies(context, BedKind::Bochs, Iommu::FirstStage),
        ),
        on_bed(
            BedKind::Qemu,
            "Debian's idxd copies 10,000 times by virtual DSAs, by the second stage",
            |context| drives(context, Iommu::SecondStage, MANY),
        ),
        on_bed(
            BedKind::Qemu,
            "Debian's idxd copies 10,000 times by virtual DSAs, by the first stage",
            |context| drives(context, Iommu::FirstStage, MANY),
        ),
    ]
}

/// What all configurations begin with: functions to carve.
fn hosting(functions: &[&str]) -> String {
    let mut text = format!(
        "version = {}\n\n[hypervisor]\nbackground = \"show\"\nshare-cpus = true\n",
        config::VERSION
    );
    for function in functions {
        text += &format!("\n[[hosting]]\nfunction = \"{function}\"\n");
    }
    text
}

/// A VM with a virtual DSA.
fn vm(name: &str, keys: &str, vdev: &str) -> String {
    format!(
        "\n[[vm]]\nname = \"{name}\"\nemulate = [\"movdir64b\"]\n{keys}\n\n[[vm.vdev]]\nkind = \"dsa\"\nentries = 16\n{vdev}\n"
    )
}

/// Boots a configuration on a machine with two DSAs.
fn boot(
    context: &Context,
    bed: BedKind,
    iommu: Iommu,
    text: String,
    files: Vec<(String, Vec<u8>)>,
    typed: Vec<Typed>,
) -> Result<Outcome, String> {
    let description = Description::new(text, files)?;
    let built = context.artefacts()?;
    let mut volume = description.volume(read(&built.boot)?, read(&built.kernel)?);
    if bed == BedKind::Bochs {
        super::iommu::tables(&mut volume);
    }
    let object = context.models(bed)?;
    let machine = Machine {
        memory_mib: description.memory_mib(),
        iommu,
        devices: vec![Device::Model("dsa", object.into()); 2],
        ..Machine::default()
    };
    let trial = Trial { volume, machine, expect: None, typed, timeout: LIMIT };
    context.trial(bed, trial)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).explain(|| path.display().to_string())
}

/// Three guests share two functions, of which the third has a queue each. On Bochs the models say at the end that nothing
/// was done against their manuals.
fn copies(context: &Context, bed: BedKind, iommu: Iommu) -> Result<(), String> {
    let functions = if bed == BedKind::Qemu { QEMU } else { BOCHS };
    let keys = format!(
        "memory = \"64M\"\nkernel = \"vdsa\"\ncmdline = \"copies={COPIES}\"\ntest = {{ exit-port = true }}"
    );
    let text = hosting(&functions)
        + &vm("one", &keys, "")
        + &vm("two", &keys, &format!("functions = [\"{}\"]", functions[0]))
        + &vm("three", &keys, "queues = 2\nspread = true");
    let files = vec![("vdsa".to_owned(), read(context.guest("vdsa")?)?)];
    let outcome = boot(context, bed, iommu, text, files, Vec::new())?;
    let outcome = outcome.require(&Verdict::Exited(0))?;
    let said = outcome.console_text();
    let well = said.matches("ended: exit 0").count();
    // One of each guest's reads is blocked, and said to be its.
    let blocked = ["one", "two", "three"]
        .map(|name| said.contains(&format!("kerf: warning: {name}: {} PASID", functions[0])));
    let violated = bed == BedKind::Bochs && !outcome.log.contains(" 0 violations; ");
    require(!violated, || outcome.describe())?;
    require(well == 3 + 1 && blocked == [true; 3], || {
        format!(
            "{well} of 4 good ends, blocked reads are told of {blocked:?}: {}",
            outcome.describe()
        )
    })
}

/// Two Linux guests, each with a virtual DSA of the one function, copy at the same time: what arrives is in both what was
/// sent, and the same, and each copy has its interrupt.
fn drives(context: &Context, iommu: Iommu, copies: usize) -> Result<(), String> {
    let linux = context.linux()?;
    let mut modules = roots::idxd(&context.cache)?;
    modules.push(linux_module::build(&context.root, &context.cache)?);
    let keys = format!(
        "memory = \"256M\"\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\n\
         cmdline = \"console=ttyS0 quiet panic=-1 kerf.devices=dsa0 kerf.queues=1 kerf.size=16 kerf.commands=3 \
         kerf.copies={copies}\""
    );
    let text = hosting(&QEMU[..1]) + &vm("one", &keys, "") + &vm("two", &keys, "");
    let files = vec![
        ("vmlinuz".to_owned(), read(&linux.kernel)?),
        ("initrd.img".into(), initrd::of_idxd(&linux.busybox, &modules)?),
    ];
    let outcome = boot(context, BedKind::Qemu, iommu, text, files, Vec::new())?
        .require(&Verdict::PoweredOff)?;
    let said = outcome.console_text();
    let passed = said.matches("KERF-GUEST-OK").count();
    let ends: Vec<&str> = said
        .split("KERF-COPY ")
        .skip(1)
        .filter_map(|rest| rest.lines().next())
        .map(str::trim_end)
        .collect();
    let right = format!("{copies} of {copies} copies are right, ");
    let same = matches!(ends[..], [one, two] if one == two && one.starts_with(&right));
    require(passed == 2 && same && !said.contains("FAIL"), || {
        format!("{passed} of 2 guests pass, copies end with {ends:?}: {}", outcome.describe())
    })
}

/// What the monitor tells of two guests that share a function, of which one has a queue of another function too.
fn drawn(context: &Context) -> Result<(), String> {
    let keys = "memory = \"64M\"\nkernel = \"pulse\"\ntest = { exit-port = true }";
    let text =
        hosting(&QEMU) + &vm("one", keys, "queues = 2\nspread = true") + &vm("two", keys, "");
    let files = vec![("pulse".to_owned(), read(context.guest("pulse")?)?)];
    let typed = [
        (r"(?s)\npulse 2\r.*\[two\] pulse 2\r|\[two\] pulse 2\r.*\npulse 2\r", "\x1c\x1c"),
        ("help helps(?s).*kerf> ", "topology\n"),
        (r#"\{"topology":1,.*\}\r"#, "poweroff\n"),
    ];
    let typed = typed
        .into_iter()
        .map(|(after, text)| Ok::<_, String>(Typed { after: pattern(after)?, text: text.into() }));
    let typed = typed.collect::<Result<_, _>>()?;
    let outcome = boot(context, BedKind::Qemu, Iommu::SecondStage, text, files, typed)?;
    let outcome = outcome.require(&Verdict::PoweredOff)?;
    let drawing = topology::of_machine(&outcome.console_text())?;
    let pasids = drawing.split(">PASID ").skip(1).map(|rest| rest.split('<').next());
    let pasids: Vec<_> = pasids.collect();
    // The function that both have a queue of tells them apart.
    let told_apart = pasids.iter().collect::<BTreeSet<_>>().len() >= 2;
    let shown = QEMU.into_iter().chain(["one", "two", "VDEV 0", "VDEV 1"]);
    let missing: Vec<_> = shown.filter(|name| !drawing.contains(name)).collect();
    require(pasids.len() == 3 && told_apart && missing.is_empty(), || {
        format!("PASIDs {pasids:?}, missing {missing:?}: {drawing}")
    })
}
