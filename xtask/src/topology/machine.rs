//! The picture of a running machine: what the monitor's `topology` printed, one line of JSON (`vmm/manage/src/json.rs`).

use std::collections::BTreeMap;

use serde::Deserialize;

use super::described::{ASSIGNED, VDSA, counted};
use super::model::{Interface, Label, Speed, Topology, Vdev, Vm};
use crate::explain::Explain as _;
use crate::meaning::Size;

/// What such a line begins with; the number is its version.
pub(super) const MARK: &str = "{\"topology\":1,";

#[derive(Deserialize)]
struct Machine {
    functions: Vec<Function>,
    vms: Vec<Guest>,
    vdevs: Vec<Composed>,
}

#[derive(Deserialize)]
struct Function {
    address: String,
    vendor: u16,
    device: u16,
    /// What it is a virtual function of.
    physical: Option<String>,
    /// A VM, or what Kerf does with it.
    owner: Option<String>,
}

#[derive(Deserialize)]
struct Guest {
    name: String,
    state: String,
    vcpus: u32,
    memory_bytes: u64,
}

#[derive(Deserialize)]
struct Composed {
    id: u32,
    owner: String,
    queues: Vec<Queue>,
    lines: u64,
}

#[derive(Deserialize)]
struct Queue {
    function: String,
    interface: u16,
    pasid: u32,
    portals: String,
}

/// The picture of the last such line of a text, which may be all that a console printed.
///
/// # Errors
/// There is none, it is not whole, or names what it does not list.
pub(super) fn topology(text: &str) -> Result<Topology, String> {
    let line = text.lines().rev().find_map(|line| Some(&line[line.find(MARK)?..]));
    let line = line.explain(|| {
        "no line of it is what the monitor's \"topology\" prints, and its name does not end in .toml"
    })?;
    let machine: Machine = serde_json::from_str(line.trim_end()).explain(|| "its JSON")?;
    machine.topology()
}

impl Machine {
    fn topology(&self) -> Result<Topology, String> {
        let mut topology = Topology {
            about: vec!["Kerf, as its monitor told of a running machine".into()],
            ..Topology::default()
        };
        let is_vm = |owner: &str| self.vms.iter().any(|vm| vm.name == owner);
        let mut places = BTreeMap::new();
        for function in self.functions.iter().filter(|found| found.physical.is_none()) {
            let parts = self.functions.iter().filter_map(|found| found.physical.as_ref());
            let is_used = parts.into_iter().any(|physical| *physical == function.address);
            let Some(owner) = function.owner.as_deref().or(is_used.then_some("Kerf")) else {
                continue;
            };
            let what = if is_vm(owner) { "assigned as a whole" } else { owner };
            let ids = format!("{:04x}:{:04x}", function.vendor, function.device);
            places.insert(function.address.as_str(), topology.functions.len());
            topology.functions.push(Label::new([&function.address, &ids, what]));
        }
        let place = |address: &str| {
            places
                .get(address)
                .copied()
                .explain(|| format!("it lists no hosting function {address:?}"))
        };
        for guest in &self.vms {
            let composed = self.vdevs.iter().filter(|vdev| vdev.owner == guest.name);
            let given = self.functions.iter();
            let given = given.filter(|found| found.owner.as_ref() == Some(&guest.name));
            let vdevs = composed.map(|vdev| vdev.device(place));
            let vdevs = vdevs.chain(given.map(|function| function.device(place)));
            topology.vms.push(Vm { label: guest.label(), vdevs: vdevs.collect::<Result<_, _>>()? });
        }
        match self.vdevs.iter().find(|vdev| !is_vm(&vdev.owner)) {
            Some(vdev) => Err(format!("it lists no VM {:?}", vdev.owner)),
            None => Ok(topology),
        }
    }
}

impl Guest {
    fn label(&self) -> Label {
        let memory = format!("{} of memory", Size(self.memory_bytes));
        Label::new([&self.name, &self.state, &counted(self.vcpus, "vCPU"), &memory])
    }
}

impl Function {
    fn device(&self, place: impl Fn(&str) -> Result<usize, String>) -> Result<Vdev, String> {
        let (what, of) = match &self.physical {
            Some(physical) => ("virtual function", physical),
            None => ("whole function", &self.address),
        };
        let requester = format!("requester ID {}", self.address);
        Ok(Vdev {
            label: Label::new(["PCI function"]),
            pages: ASSIGNED.map(|(speed, text)| (speed, text.to_owned())).into(),
            interfaces: vec![Interface {
                label: Label::new([what, &requester]),
                function: Some(place(of)?),
            }],
        })
    }
}

impl Composed {
    fn device(&self, place: impl Fn(&str) -> Result<usize, String>) -> Result<Vdev, String> {
        let interface = |queue: &Queue| {
            let (name, pasid) =
                (format!("interface {}", queue.interface), format!("PASID {}", queue.pasid));
            Ok(Interface {
                label: Label::new([&name, &pasid]),
                function: Some(place(&queue.function)?),
            })
        };
        Ok(Vdev {
            label: Label(vec![
                format!("vDSA, VDEV {}", self.id),
                format!("{} came to Kerf", counted_lines(self.lines)),
            ]),
            pages: self.pages(),
            interfaces: self.queues.iter().map(interface).collect::<Result<_, String>>()?,
        })
    }

    /// The registers, then how portals are served, with the queues where these differ.
    fn pages(&self) -> Vec<(Speed, String)> {
        let [(registers, text), (fast, mapped)] = VDSA;
        let mut ways: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (index, queue) in self.queues.iter().enumerate() {
            ways.entry(&queue.portals).or_default().push(index.to_string());
        }
        let mut pages = vec![(registers, text.to_owned())];
        let is_one = ways.len() == 1;
        for (way, queues) in ways {
            let (speed, text) = match way {
                "fast" => (fast, mapped.to_owned()),
                way => (Speed::Slow, format!("portals: BAR 2, {way}")),
            };
            let of =
                if is_one { String::new() } else { format!(" (queues {})", queues.join(", ")) };
            pages.push((speed, text + &of));
        }
        pages
    }
}

fn counted_lines(count: u64) -> String {
    format!("{count} {} to portals", if count == 1 { "line" } else { "lines" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = concat!(
        "kerf: the terminal is the monitor's\r\n{\"topology\":1,\"old\":true}\r\nkerf> topology\r\n",
        include_str!("../../../vmm/manage/src/topology.json"),
        "\r\nkerf> poweroff\r\n"
    );

    #[test]
    fn a_console_is_drawn_as_the_last_line_says() {
        let found = topology(CONSOLE).unwrap();
        let names: Vec<_> = found.functions.iter().map(|label| label.0[0].as_str()).collect();
        assert_eq!(names, ["0000:01:00.0", "0000:02:00.0", "0000:03:00.0"]);
        let [one, two] = found.vms.as_slice() else { panic!("{found:?}") };
        assert_eq!(one.label, Label::new(["one", "running", "2 vCPUs", "64 MiB of memory"]));
        let [vdev, virtual_function] = one.vdevs.as_slice() else { panic!("{one:?}") };
        let parts: Vec<_> =
            vdev.interfaces.iter().map(|part| (part.function, part.label.0[1].as_str())).collect();
        assert_eq!(parts, [(Some(0), "PASID 1"), (Some(0), "PASID 2")]);
        let held = (Speed::Slow, "portals: BAR 2, held (queues 1)".to_owned());
        assert_eq!(vdev.pages.last(), Some(&held));
        let part = &virtual_function.interfaces[0];
        assert_eq!((part.function, &*part.label.0[1]), (Some(1), "requester ID 0000:02:10.0"));
        assert_eq!(two.vdevs[0].interfaces[0].function, Some(2));
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        assert!(topology("kerf> vms\n").unwrap_err().contains(".toml"));
        assert!(topology("{\"topology\":1,\"functions\":[").unwrap_err().contains("JSON"));
        assert!(topology("{\"topology\":2,\"functions\":[]}").is_err());
        let unlisted = CONSOLE.replace("\"function\":\"0000:01:00.0\"", "\"function\":\"x\"");
        assert!(topology(&unlisted).unwrap_err().contains("no hosting function \"x\""));
        let ownerless = CONSOLE.replace("\"id\":3,\"owner\":\"one\"", "\"id\":3,\"owner\":\"x\"");
        assert!(topology(&ownerless).unwrap_err().contains("no VM \"x\""));
    }
}
