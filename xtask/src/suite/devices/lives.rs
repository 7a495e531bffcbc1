//! VMs with devices that are stopped and started: what Kerf counts, and what the IOMMU's tables hold, is what it was.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use iommu_spec::interrupt::{Irte, svt};
use iommu_spec::registers::{IRTA, RemapTableAddress};
use regex::Regex;

use crate::bed::{Device, Iommu, Probe};
use crate::explain::Explain as _;
use crate::initrd;
use crate::step::Context;
use crate::suite::devices::tables::{self, Tables};
use crate::suite::devices::{UNIT, read, script::Script, small};
use crate::suite::require;

/// Ctrl-\.
pub(super) const SWITCH: &str = "\x1c";
/// Ends an answer of the monitor's to `memory` and `iommu`.
pub(super) const COUNTED: &str = r"teardowns +\d+\r\n";

/// The bus of the I/O APIC's messages on QEMU's q35.
const IO_APIC_BUS: u16 = 0xff;

/// What the monitor counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Counts {
    /// Of Kerf's own memory.
    kib: u64,
    spaces: u64,
    pub(super) functions: u64,
    interrupts: u64,
    teardowns: u64,
}

impl Counts {
    /// From the answers to `memory` and `iommu`.
    pub(super) fn of(text: &str) -> Result<Self, String> {
        let number = |what: &str| {
            let found = Regex::new(&format!(r"{what} +(\d+)")).ok()?.captures_iter(text).last()?;
            found[1].parse().ok()
        };
        let count = |what: &str| number(what).explain(|| format!("no {what} in {text}"));
        Ok(Self {
            kib: count("Kerf's own")?,
            spaces: count("spaces")?,
            functions: count("functions")?,
            interrupts: count("interrupt entries")?,
            teardowns: count("teardowns")?,
        })
    }
}

/// The tables hold what is counted, and lead the VMs of these names to no more than memory of their own.
pub(super) fn compare(probe: &mut Probe, counts: &Counts, vms: usize) -> Result<Tables, String> {
    let tables = tables::read(probe, UNIT)?;
    let is = |what: &str, found: usize, wanted: u64| {
        require(found as u64 == wanted, || format!("the tables have {found} {what}, not {wanted}"))
    };
    is("functions", tables.functions.len(), counts.functions)?;
    is("ways", tables.ways.len(), counts.functions)?;
    is("interrupt entries", tables.interrupts.len(), counts.interrupts)?;
    is("spaces", tables.leaves.len(), vms as u64)?;
    let domains: BTreeSet<u16> = tables.ways.iter().map(|way| way.domain).collect();
    is("domains", domains.len(), vms as u64)?;
    for (index, entry) in &tables.interrupts {
        let of_function = tables.functions.contains(&entry.sid());
        require(of_function || entry.sid() >> 8 == IO_APIC_BUS, || {
            format!("interrupt entry {index} is {entry:x?}")
        })?;
    }
    let mut pages = BTreeSet::new();
    for leaves in tables.leaves.values() {
        let bytes: u64 = leaves.iter().map(|leaf| leaf.bytes).sum();
        let in_guest = leaves.iter().all(|leaf| leaf.iova + leaf.bytes <= small::GUEST_BYTES);
        require(bytes == small::GUEST_BYTES && in_guest, || format!("a space has {bytes} bytes"))?;
        for leaf in leaves {
            let own =
                (leaf.hpa..leaf.hpa + leaf.bytes).step_by(4096).all(|page| pages.insert(page));
            require(own, || format!("two spaces have memory at {:#x}", leaf.hpa))?;
        }
    }
    Ok(tables)
}

/// What is put into the tables from outside is found there: an interrupt entry, and a second way to a VM's memory.
fn planted(probe: &mut Probe, counts: &Counts, tables: &Tables) -> Result<(), String> {
    let remap = RemapTableAddress([probe.read64(UNIT + IRTA.offset())?]);
    let last = remap.irta().raw() + 16 * ((2 << remap.s()) - 1);
    let root = tables.ways.first().explain(|| "no function has a way")?.root;
    let present = Irte::default().with_p(true).with_svt(svt::SOURCE).0[0];
    for (at, value) in [(last, present), (root + 8 * 511, probe.read64(root)?)] {
        let old = probe.read64(at)?;
        require(old == 0, || format!("{at:#x} holds {old:#x}"))?;
        probe.write64(at, value)?;
        let found = compare(probe, counts, tables.leaves.len());
        probe.write64(at, old)?;
        require(found.is_err(), || format!("{value:#x} at {at:#x} was not found"))?;
    }
    Ok(())
}

/// The second guest of two is stopped and started so many times.
pub(super) fn small_guests(context: &Context, iommu: Iommu, cycles: usize) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let description = small::describe(context, &[("keeper", ""), ("goer", "")], ("", Vec::new()))?;
    let devices = [1, 2].map(|seed| small::disk(&scratch, seed).map(Device::Nvme));
    let devices = devices.into_iter().collect::<Result<_, _>>()?;
    let session = small::launch(context, &description, iommu, devices)?;
    let probe = RefCell::new(session.probe()?);
    let before: RefCell<Option<(Counts, Tables)>> = RefCell::default();
    let look = |text: &str, vms| {
        let counts = Counts::of(text)?;
        compare(&mut probe.borrow_mut(), &counts, vms).map(|tables| (counts, tables))
    };
    let mut script = Script::default();
    script.typed(
        r"(?s)\nbeat 2\r.*\[goer\] beat 2\r|\[goer\] beat 2\r.*\nbeat 2\r",
        &SWITCH.repeat(2),
    )?;
    script.typed("the terminal is the monitor's", "memory\niommu\n")?;
    script.act(COUNTED, |text| look(text, 2).map(|_| "stop goer\n".into()))?;
    script.typed("goer is stopped", "memory\niommu\n")?;
    script.act(COUNTED, |text| {
        *before.borrow_mut() = Some(look(text, 1)?);
        Ok("reset goer\n".into())
    })?;
    for cycle in 1..=cycles {
        script.typed(r"\[goer\] beat 1\r", "stop goer\n")?;
        script.typed(
            "goer is stopped",
            if cycle == cycles { "memory\niommu\n" } else { "reset goer\n" },
        )?;
    }
    script.act(COUNTED, |text| {
        let (was, is) = (before.borrow(), look(text, 1)?);
        let was = was.as_ref().explain(|| "nothing was counted")?;
        require(was.0 == is.0, || format!("{:?} have become {:?}", was.0, is.0))?;
        planted(&mut probe.borrow_mut(), &is.0, &is.1)?;
        Ok(String::new())
    })?;
    script.typed(r"(?s)\[keeper\] beat \d+\r.*\[keeper\] beat \d+\r", "poweroff\n")?;
    let outcome = script.lead(session, Duration::from_secs(240 + 10 * cycles as u64))?;
    let text = outcome.console_text();
    require(!text.contains("the disk gives"), || outcome.describe())?;
    println!("     {cycles} lives, {} KiB of memory are Kerf's own after each", kib(&before));
    Ok(())
}

fn kib(counted: &RefCell<Option<(Counts, Tables)>>) -> u64 {
    counted.borrow().as_ref().map_or(0, |(counts, _)| counts.kib)
}

/// Linux has two lives with a disk beside a small guest.
pub(super) fn linux(context: &Context) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let linux = context.linux()?;
    require(!linux.drivers.is_empty(), || "a Linux of your own has no drivers here".into())?;
    let initrd = initrd::build(&linux.busybox, None, &linux.drivers, &[])?;
    let vm = "\n[[vm]]\nname = \"goer\"\nmemory = \"256M\"\nkernel = \"vmlinuz\"\ninitrd = \"initrd.img\"\n\
              cmdline = \"console=ttyS0 kerf.poweroff kerf.copies=1\"\n\n[[vm.device]]\nclass = 0x010802\n";
    let files = vec![("vmlinuz".to_owned(), read(&linux.kernel)?), ("initrd.img".into(), initrd)];
    let description = small::describe(context, &[("keeper", "")], (vm, files))?;
    let devices = [1, 2].map(|seed| small::disk(&scratch, seed).map(Device::Nvme));
    let devices: Vec<Device> = devices.into_iter().collect::<Result<_, _>>()?;
    if let Some(Device::Nvme(disk)) = devices.get(1) {
        let grown =
            std::fs::File::options().write(true).open(disk).and_then(|file| file.set_len(48 << 20));
        grown.explain(|| disk.display().to_string())?;
    }
    let session = small::launch(context, &description, Iommu::FirstStage, devices)?;
    let probe = RefCell::new(session.probe()?);
    let before = RefCell::new(None);
    let mut script = Script::default();
    script.typed(r"\nbeat 2\r", &SWITCH.repeat(2))?;
    script.typed("the terminal is the monitor's", "")?;
    for life in 0..3 {
        script.typed("goer ended: poweroff", "memory\niommu\n")?;
        let (probe, before) = (&probe, &before);
        script.act(COUNTED, move |text| {
            let counts = Counts::of(text)?;
            compare(&mut probe.borrow_mut(), &counts, 1)?;
            // The first life is the measure of the others.
            let was = *before.borrow_mut().get_or_insert(counts);
            require(was == counts, || format!("{was:?} have become {counts:?}"))?;
            Ok(if life == 2 { "poweroff\n" } else { "reset goer\n" }.into())
        })?;
    }
    let outcome = script.lead(session, Duration::from_secs(1800))?;
    let well = outcome.console_text().matches("KERF-GUEST-OK").count();
    require(well == 3, || format!("{well} lives were good: {}", outcome.describe()))
}
