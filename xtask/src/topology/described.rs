//! The picture of a configuration. Which function each queue will be of, [`Rooms`] tells as Kerf chooses where the
//! configuration lays the queues out; else a function is taken to have enough.

use config::{Config, Device, Emulated, Hosting, Namespace, RunMode, VdevKind, VdevVersion};
use hw::Function;

use super::model::{Interface, Label, Speed, Topology, Vdev, Vm};
use crate::meaning::Size;

/// What of an assigned function comes to Kerf, and what does not.
pub(super) const ASSIGNED: [(Speed, &str); 2] =
    [(Speed::Slow, "configuration, MSI-X table"), (Speed::Fast, "BARs")];
/// Of a virtual DSA, what comes to Kerf, and what can be mapped.
pub(super) const VDSA: [(Speed, &str); 2] =
    [(Speed::Slow, "registers: BAR 0, emulated"), (Speed::Fast, "portals: BAR 2, mapped")];

/// The picture of the configuration `name`.
pub(super) fn topology(name: &str, config: &Config) -> Topology {
    let mut rooms = Rooms::of(&config.hosting);
    let mut topology = Topology {
        about: vec![
            format!("Kerf, as {name} describes it"),
            "Queues and PASIDs are given out when VMs start.".into(),
        ],
        ..Topology::default()
    };
    for Hosting { function, queues } in &config.hosting {
        let queues = match queues.as_slice() {
            [] => "queues share its entries".into(),
            queues => format!("queues of {}", list(queues)),
        };
        let lines = [format!("{function}"), "hosting function".into(), queues];
        topology.functions.push(Label(lines.into()));
    }
    if config.hypervisor.mode == RunMode::Survey {
        topology.about.push("survey: no VM is started".into());
    }
    for vm in &config.vms {
        let vdevs = vm.vdevs.iter().map(|vdev| virtual_device(vdev, &mut rooms));
        let mut vdevs: Vec<_> = vdevs.collect();
        vdevs.extend(vm.devices.iter().map(|device| assigned(device, &mut topology)));
        topology.vms.push(Vm { label: machine(vm), vdevs });
    }
    topology
}

fn machine(vm: &config::Vm) -> Label {
    let mut lines = vec![
        vm.name.clone(),
        counted(vm.vcpus, "vCPU"),
        format!("{} of memory", Size(vm.memory_bytes)),
    ];
    if let Some(cpus) = &vm.cpus {
        lines.push(format!("on CPUs {}", list(cpus)));
    }
    if vm.emulate.contains(&Emulated::Movdir64b) {
        lines.push("MOVDIR64B is emulated".into());
    }
    Label(lines)
}

fn virtual_device(vdev: &config::Vdev, rooms: &mut Rooms) -> Vdev {
    let name = match vdev.kind {
        VdevKind::Dsa => "vDSA",
    };
    let version = match vdev.version {
        VdevVersion::V1 => "1.0",
        VdevVersion::V2 => "2.0",
    };
    let candidates = rooms.candidates(&vdev.functions);
    let interface = |queue: u32| {
        let first = if vdev.spread { queue as usize } else { 0 };
        let taken = rooms.take(&candidates, first, vdev.entries);
        let entries = match taken {
            None => "no hosting function has it left".into(),
            Some((_, Some(entries))) => format!("{entries} entries"),
            Some((_, None)) => format!("at least {}", counted_as(vdev.entries, "entry", "entries")),
        };
        let interrupts = counted(vdev.interrupts, "interrupt");
        let lines = [format!("queue {queue}"), entries, interrupts, "PASID by Kerf".into()];
        Interface { label: Label(lines.into()), function: taken.map(|(function, _)| function) }
    };
    Vdev {
        interfaces: (0..vdev.queues).map(interface).collect(),
        label: Label(vec![format!("{name} {version}"), counted(vdev.queues, "work queue")]),
        pages: VDSA.map(|(speed, text)| (speed, text.to_owned())).into(),
    }
}

fn assigned(device: &Device, topology: &mut Topology) -> Vdev {
    // Each of those that are taken by what they are is another one.
    let (function, lines) = match device {
        Device::Virtual { of, namespace } => {
            let mut lines = vec!["virtual function".into(), "requester ID of its own".into()];
            lines.extend(namespace.as_ref().map(|namespace| match namespace {
                Namespace::Id(id) => format!("namespace {id}"),
                Namespace::Bytes(bytes) => format!("a namespace of {}", Size(*bytes)),
            }));
            (topology.function(&format!("{of}"), "makes virtual functions"), lines)
        }
        Device::Function(at) => {
            let lines = vec!["whole function".into(), format!("requester ID {at}")];
            (topology.function(&format!("{at}"), "assigned as a whole"), lines)
        }
        Device::Like { .. } => {
            let name = format!("{device}");
            topology.functions.push(Label::new([&name, "assigned as a whole"]));
            let lines = vec!["whole function".into(), "its requester ID".into()];
            (topology.functions.len() - 1, lines)
        }
    };
    Vdev {
        label: Label::new(["PCI function"]),
        pages: ASSIGNED.map(|(speed, text)| (speed, text.to_owned())).into(),
        interfaces: vec![Interface { label: Label(lines), function: Some(function) }],
    }
}

impl Topology {
    /// The function with this name, which is added if it is not there.
    fn function(&mut self, name: &str, what: &str) -> usize {
        let found = self.functions.iter().position(|Label(lines)| lines[0] == name);
        found.unwrap_or_else(|| {
            self.functions.push(Label::new([name, what]));
            self.functions.len() - 1
        })
    }
}

/// Queues that hosting functions have left, by their entries; `None` where only the machine knows.
struct Rooms(Vec<(Function, Option<Vec<u16>>)>);

impl Rooms {
    fn of(hosting: &[Hosting]) -> Self {
        let left = |found: &Hosting| (!found.queues.is_empty()).then(|| found.queues.clone());
        Self(hosting.iter().map(|found| (found.function, left(found))).collect())
    }

    /// The hosting functions that a device may be of, in order.
    fn candidates(&self, wanted: &[Function]) -> Vec<usize> {
        if wanted.is_empty() {
            return (0..self.0.len()).collect();
        }
        let position = |function| self.0.iter().position(|(found, _)| found == function);
        wanted.iter().filter_map(position).collect()
    }

    /// The smallest queue of that many entries at least, of the first candidate from `first` on, round to its start, that
    /// has one: the function, and the queue's entries if they are known. So `compose` and the driver choose.
    fn take(
        &mut self,
        candidates: &[usize],
        first: usize,
        entries: u32,
    ) -> Option<(usize, Option<u16>)> {
        let first = first.checked_rem(candidates.len())?;
        let (before, from) = candidates.split_at(first);
        from.iter().chain(before).find_map(|&function| {
            let Some(left) = &mut self.0[function].1 else { return Some((function, None)) };
            let fitting = (0..left.len()).filter(|&queue| u32::from(left[queue]) >= entries);
            let best = fitting.min_by_key(|&queue| left[queue])?;
            Some((function, Some(left.remove(best))))
        })
    }
}

/// `2 vCPUs`.
pub(super) fn counted(count: u32, what: &str) -> String {
    counted_as(count, what, &format!("{what}s"))
}

fn counted_as(count: u32, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

fn list<T: ToString>(of: &[T]) -> String {
    of.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Topology {
        let vm = "[[vm]]\nname = \"one\"\nmemory = \"64M\"\nkernel = \"k\"\n";
        let text = format!("version = 1\n{}", text.replace("[[vm]]\n", vm));
        topology("kerf.toml", &config::parse("kerf.toml", &text).unwrap())
    }

    /// The function and the second line of each interface.
    fn parts(topology: &Topology) -> Vec<(Option<&str>, &str)> {
        let vdevs = topology.vms.iter().flat_map(|vm| &vm.vdevs);
        let name = |function: usize| topology.functions[function].0[0].as_str();
        vdevs
            .flat_map(|vdev| &vdev.interfaces)
            .map(|part| (part.function.map(name), part.label.0[1].as_str()))
            .collect()
    }

    const HOSTING: &str = "[[hosting]]\nfunction = \"01:00.0\"\nqueues = [32, 8, 16]\n\
                           [[hosting]]\nfunction = \"02:00.0\"\n[[vm]]\n";
    const ONE: Option<&str> = Some("0000:01:00.0");
    const TWO: Option<&str> = Some("0000:02:00.0");

    #[test]
    fn queues_are_taken_as_kerf_takes_them() {
        let first =
            of(&format!("{HOSTING}[[vm.vdev]]\nkind = \"dsa\"\nqueues = 3\nentries = 10\n"));
        assert_eq!(
            parts(&first),
            [(ONE, "16 entries"), (ONE, "32 entries"), (TWO, "at least 10 entries")]
        );
        let spread =
            of(&format!("{HOSTING}[[vm.vdev]]\nkind = \"dsa\"\nqueues = 3\nspread = true\n"));
        assert_eq!(
            parts(&spread),
            [(ONE, "8 entries"), (TWO, "at least 1 entry"), (ONE, "16 entries")]
        );
    }

    #[test]
    fn what_cannot_be_had_is_of_no_function() {
        let wanted = "[[vm.vdev]]\nkind = \"dsa\"\nfunctions = [\"01:00.0\"]\nentries = 64\n";
        let none = (None, "no hosting function has it left");
        assert_eq!(parts(&of(&format!("{HOSTING}{wanted}"))), [none]);
        assert_eq!(parts(&of(&format!("[[vm]]\n{wanted}"))), [none]);
    }

    #[test]
    fn assigned_functions_are_one_interface_each() {
        let found = of("[[vm]]\n\
             [[vm.device]]\nfunction = \"03:00.0\"\n\
             [[vm.device]]\nclass = 0x010802\n[[vm.device]]\nclass = 0x010802\n\
             [[vm.device]]\nvirtual-function-of = \"04:00.0\"\nnamespace = 2\n\
             [[vm.device]]\nvirtual-function-of = \"04:00.0\"\nnamespace = 3\n");
        let names: Vec<_> = found.functions.iter().map(|label| label.0[0].as_str()).collect();
        let like = "the first function of class 0x010802";
        assert_eq!(names, ["0000:03:00.0", like, like, "0000:04:00.0"]);
        let vdevs = &found.vms[0].vdevs;
        let of: Vec<_> = vdevs.iter().map(|vdev| vdev.interfaces[0].function).collect();
        assert_eq!(of, [Some(0), Some(1), Some(2), Some(3), Some(3)]);
        assert_eq!(vdevs[4].interfaces[0].label.0[2], "namespace 3");
    }
}
