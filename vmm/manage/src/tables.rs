//! Answers as text.

use alloc::string::{String, ToString};
use core::fmt::{self, Display, Formatter};

use crate::{
    CpuUse, Exits, FaultUse, FunctionUse, HELP, IommuUse, MemoryUse, QueueUse, Refusal, Response,
    State, VERSION, VcpuExits, VdevUse, VmDetail, VmSummary,
};

impl Display for Response {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Help => write!(f, "{HELP}"),
            Self::Vms(vms) => summaries(vms, f),
            Self::Vm(vm) => detail(vm, f),
            Self::Cpus(cpus) => cpus_in_rows(cpus, f),
            Self::Memory(memory) => memory_in_rows(memory, f),
            Self::Log(bytes) => f.write_str(&String::from_utf8_lossy(bytes)),
            Self::Exits(found) => exits(found, f),
            Self::Functions(found) => functions(found, f),
            Self::Iommu(found) => iommu(found.as_ref(), f),
            Self::Groups(groups) => groups.iter().try_for_each(|group| writeln!(f, "{group}")),
            Self::Faults(faults) => faults_in_rows(faults, f),
            Self::Vdevs(found) => vdevs(found, f),
            Self::Topology(found) => found.fmt(f),
            Self::Done(name, state) => writeln!(f, "{name} is {state}"),
            Self::Ending => f.write_str("the machine ends\n"),
            Self::Refused(why) => writeln!(f, "{why}"),
        }
    }
}

impl Display for Refusal {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(other) => {
                write!(f, "the request speaks version {other}, Kerf speaks {VERSION}")
            }
            Self::NoVm(name, Some(near)) => {
                write!(f, "there is no VM \"{name}\"; did you mean \"{near}\"?")
            }
            Self::NoVm(name, None) => write!(f, "there is no VM \"{name}\"; \"vms\" lists them"),
            Self::State(name, State::Failed(why)) => {
                write!(f, "{name} could not be started: {why}")
            }
            Self::State(name, state @ State::Ended(_)) => {
                write!(f, "{name} has ended ({state}); \"reset {name}\" starts it again")
            }
            Self::State(name, state) => write!(f, "{name} is {state} already"),
            Self::Failed(name, why) => write!(f, "{name}: {why}"),
        }
    }
}

/// Bytes in the largest unit that makes at least ten of them.
struct Bytes(u64);

impl Display for Bytes {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0..0x2800 => alloc::format!("{} B", self.0),
            0x2800..0xa0_0000 => alloc::format!("{} KiB", self.0 >> 10),
            0xa0_0000..0x2_8000_0000 => alloc::format!("{} MiB", self.0 >> 20),
            _ => alloc::format!("{} GiB", self.0 >> 30),
        };
        f.pad(&text)
    }
}

/// Numbers with commas between.
fn list(numbers: &[u32]) -> String {
    let mut text = String::new();
    for (index, number) in numbers.iter().enumerate() {
        text += if index == 0 { "" } else { "," };
        text += &number.to_string();
    }
    text
}

fn summaries(vms: &[VmSummary], f: &mut Formatter<'_>) -> fmt::Result {
    let width = vms.iter().map(|vm| vm.name.len()).max().unwrap_or(0).max(4);
    writeln!(f, "{:width$}  {:<11}  CPUS        MEMORY         EXITS", "NAME", "STATE")?;
    for vm in vms {
        let (cpus, memory) = (list(&vm.cpus), Bytes(vm.memory_bytes));
        let VmSummary { name, state, exits, .. } = vm;
        writeln!(f, "{name:width$}  {state:<11}  {cpus:<8}  {memory:>8}  {exits:>12}")?;
    }
    Ok(())
}

fn detail(vm: &VmDetail, f: &mut Formatter<'_>) -> fmt::Result {
    let VmSummary { name, state, cpus, memory_bytes, exits } = &vm.summary;
    writeln!(f, "{name}: {state}")?;
    if let State::Failed(why) = state {
        writeln!(f, "  {why}")?;
    }
    writeln!(f, "  vCPUs   {} on CPUs {}", cpus.len(), list(cpus))?;
    writeln!(f, "  memory  {}", Bytes(*memory_bytes))?;
    if let Some(written) = vm.written {
        writeln!(f, "  written {} since last asked", Bytes(written))?;
    }
    writeln!(f, "  exits   {exits}")?;
    counters(&vm.counters, f)
}

fn counters(counters: &[(&'static str, u64)], f: &mut Formatter<'_>) -> fmt::Result {
    counters.iter().try_for_each(|(name, count)| writeln!(f, "{name:>22} {count:>12}"))
}

fn cpus_in_rows(cpus: &[CpuUse], f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "CPU  APIC ID  PACKAGE/CORE/THREAD     LOAD  VCPUS")?;
    for cpu in cpus {
        let [package, core, thread] = cpu.place;
        let place = alloc::format!("{package}/{core}/{thread}");
        let (whole, tenth) = (cpu.load_permille / 10, cpu.load_permille % 10);
        write!(f, "{:>3}  {:#7x}  {place:<19}  {whole:>4}.{tenth} %", cpu.number, cpu.apic_id)?;
        cpu.vcpus.iter().try_for_each(|(vm, index)| write!(f, "  {vm}/{index}"))?;
        writeln!(f)?;
    }
    Ok(())
}

fn memory_in_rows(memory: &MemoryUse, f: &mut Formatter<'_>) -> fmt::Result {
    let mut row = |what: &str, bytes| writeln!(f, "{what:<22} {:>10}", Bytes(bytes));
    row("managed", memory.total)?;
    row("free", memory.free)?;
    for (name, bytes) in &memory.guests {
        row(&alloc::format!("guest {name}"), *bytes)?;
    }
    row("Kerf's own", memory.own)?;
    row("Kerf's image, apart", memory.image)
}

fn exits(found: &Exits, f: &mut Formatter<'_>) -> fmt::Result {
    for (index, VcpuExits { counters: counts, last }) in found.vcpus.iter().enumerate() {
        writeln!(f, "{}/{index}:", found.name)?;
        counters(counts, f)?;
        if !last.is_empty() {
            writeln!(f, "  the last ones:")?;
            writeln!(f, "  {:<18}  {:<18}  KIND", "RIP", "DETAIL")?;
        }
        for exit in last {
            writeln!(f, "  {:#018x}  {:#018x}  {}", exit.rip, exit.detail, exit.kind)?;
        }
    }
    Ok(())
}

fn functions(found: &[FunctionUse], f: &mut Formatter<'_>) -> fmt::Result {
    writeln!(f, "FUNCTION      VENDOR:DEVICE  CLASS   MSI/MSI-X  RESET  OWNER, MEMORY")?;
    for function in found {
        let FunctionUse { address, ids: [vendor, device], class, reset, .. } = function;
        let [msi, msix] = function.interrupts;
        let interrupts = alloc::format!("{msi}/{msix}");
        let owner = function.owner.as_deref().unwrap_or("-");
        write!(
            f,
            "{address}  {vendor:04x}:{device:04x}      {class:06x}  {interrupts:<9}  {reset:<5}  {owner}"
        )?;
        for (index, at, bytes) in &function.bars {
            write!(f, "  {index}: {at:#x} {}", Bytes(*bytes))?;
        }
        writeln!(f)?;
    }
    Ok(())
}

fn vdevs(found: &[VdevUse], f: &mut Formatter<'_>) -> fmt::Result {
    for VdevUse { id, owner, queues, registers, lines: [lines, lost] } in found {
        writeln!(
            f,
            "vdev {id} of {owner}: {lines} lines to portals came to Kerf, {lost} were lost"
        )?;
        for QueueUse { function, interface, pasid, portals } in queues {
            writeln!(f, "  interface {interface} of {function}, PASID {pasid}, portals {portals}")?;
        }
        for (name, [reads, writes]) in registers {
            writeln!(f, "  {name:<10} {reads:>8} reads {writes:>8} writes")?;
        }
    }
    Ok(())
}

fn iommu(found: Option<&IommuUse>, f: &mut Formatter<'_>) -> fmt::Result {
    let Some(found) = found else {
        return writeln!(f, "the machine has no IOMMU that Kerf can use");
    };
    let IommuUse { stage, listed, units, spaces, functions, interrupts, teardowns } = found;
    writeln!(f, "{units} of {listed} units work, translating by the {stage} stage")?;
    for (what, count) in [
        ("spaces", spaces),
        ("functions", functions),
        ("interrupt entries", interrupts),
        ("teardowns", teardowns),
    ] {
        writeln!(f, "{what:<22} {count:>10}")?;
    }
    Ok(())
}

fn faults_in_rows(faults: &[FaultUse], f: &mut Formatter<'_>) -> fmt::Result {
    if faults.is_empty() {
        return writeln!(f, "nothing was blocked");
    }
    for FaultUse { owner, count, last } in faults {
        let owner = owner.as_deref().unwrap_or("no VM");
        writeln!(f, "{count:>10}  {owner}: {last}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use alloc::{boxed::Box, vec, vec::Vec};

    use super::*;
    use crate::{LastExit, Versioned};

    fn vm(name: &str, state: State) -> VmSummary {
        VmSummary {
            name: name.into(),
            state,
            cpus: vec![0, 1],
            memory_bytes: 256 << 20,
            exits: 51_425,
        }
    }

    #[test]
    fn columns_stand_below_each_other_whatever_the_names_are() {
        let vms = vec![
            vm("a", State::Running),
            vm("a-long-name", State::Ended("exit 17".into())),
            vm("b", State::Failed("no file".into())),
        ];
        let text = Response::Vms(vms).to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let column = lines[0].find("STATE").unwrap();
        let states = lines[1..].iter().map(|line| line[column..].split("  ").next().unwrap());
        assert_eq!(states.collect::<Vec<_>>(), ["running", "exit 17", "not started"]);
        assert!(lines.iter().all(|line| line.len() == lines[0].len()), "{text}");
    }

    #[test]
    fn a_vm_is_told_with_its_counters() {
        let detail = VmDetail {
            summary: vm("linux", State::Paused),
            written: Some(3 << 21),
            counters: vec![("cpuid", 12), ("unknown ports", 3)],
        };
        let text = Response::Vm(detail).to_string();
        for part in [
            "linux: paused\n",
            "2 on CPUs 0,1",
            "memory  256 MiB",
            "written 6144 KiB",
            "cpuid",
            " 3\n",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn cpus_memory_and_exits_have_a_row_each() {
        let cpu = CpuUse {
            number: 1,
            apic_id: 0x21,
            place: [0, 1, 1],
            load_permille: 123,
            vcpus: vec![("a".into(), 0), ("b".into(), 1)],
        };
        let text = Response::Cpus(vec![cpu]).to_string();
        assert!(text.contains("0x21  0/1/1") && text.contains("12.3 %  a/0  b/1\n"), "{text}");
        let memory =
            MemoryUse { total: 1 << 30, free: 1, guests: vec![], own: 9000, image: 1 << 20 };
        assert!(Response::Memory(memory).to_string().contains("9000 B"));
        let exit = LastExit { kind: "cpuid", rip: 0x1000, detail: 7 };
        let vcpus = vec![VcpuExits { counters: vec![("cpuid", 2)], last: vec![exit; 2] }];
        let text = Response::Exits(Exits { name: "a".into(), vcpus }).to_string();
        assert!(
            text.starts_with("a/0:\n") && text.matches("0x0000000000001000  0x").count() == 2,
            "{text}"
        );
    }

    #[test]
    fn functions_and_faults_are_told_with_their_owners() {
        let function = FunctionUse {
            address: "0000:01:00.0".into(),
            ids: [0x1b36, 0x10],
            class: 0x01_0802,
            bars: vec![(0, 0xfe80_0000, 0x4000)],
            interrupts: [0, 65],
            reset: "FLR",
            physical: None,
            owner: Some("linux".into()),
        };
        let text = Response::Functions(vec![function]).to_string();
        let row = "1b36:0010      010802  0/65       FLR    linux  0: 0xfe800000 16 KiB\n";
        assert!(text.ends_with(row), "{text}");
        let fault = FaultUse { owner: None, count: 3, last: "blocked".into() };
        assert_eq!(Response::Faults(vec![fault]).to_string(), "         3  no VM: blocked\n");
        assert!(Response::Iommu(None).to_string().contains("no IOMMU"));
    }

    #[test]
    fn refusals_say_what_to_do() {
        for (why, part) in [
            (Refusal::NoVm("lunux".into(), Some("linux".into())), "did you mean \"linux\"?"),
            (Refusal::NoVm("x".into(), None), "\"vms\" lists them"),
            (Refusal::State("a".into(), State::Paused), "a is paused already"),
            (Refusal::State("a".into(), State::Ended("crashed".into())), "\"reset a\""),
            (Refusal::State("a".into(), State::Failed("no file".into())), "no file"),
            (Refusal::Version(9), "version 9"),
        ] {
            let text = Response::Refused(why).to_string();
            assert!(text.contains(part), "{text}");
        }
    }

    #[test]
    fn messages_of_another_version_are_refused() {
        assert_eq!(Versioned::new(1).checked(), Ok(1));
        let old = Versioned { version: 0, body: Box::new(1) };
        assert_eq!(old.checked(), Err(Refusal::Version(0)));
    }
}
