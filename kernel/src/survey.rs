//! `[hypervisor] mode = "survey"`: what an operator runs first on a machine. Everything is told as the monitor would tell
//! it, then once more as JSON in one line, and nothing is started.

use alloc::string::String;
use core::fmt::{self, Write as _};

use firmware::Machine;
use manage::{Response, list};
use vcpu::svm::Svm;
use vcpu::vmx::Vmx;
use vcpu::{Backend, Unsupported};

use crate::costs::{self, Cost};
use crate::launch::Why;
use crate::platform::{CpuId, Msrs};
use crate::{console, iommu, irq, mem, monitor, pci};

/// Tells the machine.
pub(crate) fn tell(machine: &Machine) {
    let say = |text: &dyn fmt::Display| {
        let text = alloc::format!("{text}");
        text.lines().for_each(|line| console::say(format_args!("{line}")));
    };
    let backends = [
        (Vmx::NAME, Vmx::probe(&CpuId, &Msrs).err()),
        (Svm::NAME, Svm::probe(&CpuId, &Msrs).err()),
    ];
    say(&format_args!("CPUs, by APIC ID: {:?}", machine.cpus));
    for (name, why) in &backends {
        match why {
            None => say(&format_args!("{name}: offered")),
            Some(why) => say(&format_args!("{name}: {}", Why(*why))),
        }
    }
    say(&Response::Iommu(iommu::counts()));
    let costs = costs::measure();
    for Cost { bytes, map, unmap, invalidate, descriptors } in &costs {
        say(&format_args!(
            "a mapping of {} KiB: made in {map} ticks, taken away in {unmap}, forgotten after {invalidate} more and {descriptors} descriptors",
            bytes >> 10
        ));
    }
    say(&Response::Functions(monitor::functions()));
    say(&"functions that belong together:");
    say(&Response::Groups(monitor::groups()));
    let mut json = String::new();
    // A string takes all that is written to it.
    let _ = write_json(&mut json, machine, &backends, &costs);
    say(&format_args!("survey {json}"));
}

fn write_json(
    to: &mut String,
    machine: &Machine,
    backends: &[(&str, Option<Unsupported>)],
    costs: &[Cost],
) -> fmt::Result {
    write!(to, r#"{{"version":1,"cpus":{:?},"tsc_hz":{}"#, machine.cpus, irq::clock().hz)?;
    write!(to, r#","memory_bytes":{},"virtualization":"#, mem::counts().total * hw::PAGE_SIZE)?;
    let offered = backends.iter().filter(|(_, why)| why.is_none());
    list(to, offered, |to, (name, _)| write!(to, "{name:?}"))?;
    to.push_str(r#","iommu":"#);
    match iommu::counts() {
        None => to.push_str("null"),
        Some(found) => {
            write!(to, r#"{{"stage":{:?},"working":{},"units":"#, found.stage, found.units)?;
            list(to, iommu::units(), |to, unit| {
                let (segment, at, all) = (unit.segment, unit.registers, unit.include_all);
                write!(to, r#"{{"segment":{segment},"registers":"{at}","include_all":{all}}}"#)
            })?;
            to.push_str(r#","costs":"#);
            list(to, costs, |to, Cost { bytes, map, unmap, invalidate, descriptors }| {
                write!(
                    to,
                    r#"{{"bytes":{bytes},"map":{map},"unmap":{unmap},"invalidate":{invalidate},"descriptors":{descriptors}}}"#
                )
            })?;
            to.push('}');
        }
    }
    to.push_str(r#","functions":"#);
    list(to, monitor::functions(), |to, function| {
        let ([vendor, device], [msi, msix]) = (function.ids, function.interrupts);
        write!(to, r#"{{"address":{:?},"vendor":{vendor},"device":{device}"#, function.address)?;
        write!(to, r#","class":{},"msi":{msi},"msix":{msix}"#, function.class)?;
        write!(to, r#","reset":{:?},"bars":"#, function.reset)?;
        list(to, function.bars, |to, (index, base, bytes)| {
            write!(to, r#"{{"index":{index},"base":{base},"bytes":{bytes}}}"#)
        })?;
        to.push('}');
        Ok(())
    })?;
    to.push_str(r#","groups":"#);
    let groups = pci::found().map_or(&[][..], |found| &found.groups);
    list(to, groups, |to, group| {
        list(to, &group.functions, |to, function| write!(to, r#""{function}""#))
    })?;
    to.push('}');
    Ok(())
}
