//! Answers as JSON, one line each, for programs: what is drawn by `cargo xtask topology`.

use alloc::string::ToString;
use core::fmt::{self, Display, Formatter, Write};

use crate::{FunctionUse, QueueUse, Topology, VdevUse, VmSummary};

/// A list of what `each` writes.
///
/// # Errors
/// As `to` and `each` have them.
pub fn list<W: Write, T>(
    to: &mut W,
    items: impl IntoIterator<Item = T>,
    mut each: impl FnMut(&mut W, T) -> fmt::Result,
) -> fmt::Result {
    to.write_char('[')?;
    for (index, item) in items.into_iter().enumerate() {
        if index != 0 {
            to.write_char(',')?;
        }
        each(to, item)?;
    }
    to.write_char(']')
}

/// A string, or `null`.
struct Quoted<'a>(Option<&'a str>);

impl Display for Quoted<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Some(text) = self.0 else { return f.write_str("null") };
        f.write_char('"')?;
        text.chars().try_for_each(|c| match c {
            '"' | '\\' => write!(f, "\\{c}"),
            c if c.is_control() => write!(f, "\\u{:04x}", u32::from(c)),
            c => f.write_char(c),
        })?;
        f.write_char('"')
    }
}

fn quoted(text: &str) -> Quoted<'_> {
    Quoted(Some(text))
}

impl Display for Topology {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(r#"{"topology":1,"functions":"#)?;
        list(f, &self.functions, |f, FunctionUse { address, ids, physical, owner, .. }| {
            let ([vendor, device], address) = (ids, quoted(address));
            let (physical, owner) = (Quoted(physical.as_deref()), Quoted(owner.as_deref()));
            write!(f, r#"{{"address":{address},"vendor":{vendor},"device":{device}"#)?;
            write!(f, r#","physical":{physical},"owner":{owner}}}"#)
        })?;
        f.write_str(r#","vms":"#)?;
        list(f, &self.vms, |f, VmSummary { name, state, cpus, memory_bytes, .. }| {
            let (state, vcpus) = (state.to_string(), cpus.len());
            let (name, state) = (quoted(name), quoted(&state));
            write!(f, r#"{{"name":{name},"state":{state},"vcpus":{vcpus}"#)?;
            write!(f, r#","memory_bytes":{memory_bytes}}}"#)
        })?;
        f.write_str(r#","vdevs":"#)?;
        list(f, &self.vdevs, |f, VdevUse { id, owner, queues, lines: [lines, _], .. }| {
            write!(f, r#"{{"id":{id},"owner":{},"queues":"#, quoted(owner))?;
            list(f, queues, |f, QueueUse { function, interface, pasid, portals }| {
                let (function, portals) = (quoted(function), quoted(portals));
                write!(f, r#"{{"function":{function},"interface":{interface},"pasid":{pasid}"#)?;
                write!(f, r#","portals":{portals}}}"#)
            })?;
            write!(f, r#","lines":{lines}}}"#)
        })?;
        f.write_str("}\n")
    }
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;
    use crate::State;

    fn function(address: &str, physical: Option<&str>, owner: Option<&str>) -> FunctionUse {
        FunctionUse {
            address: address.into(),
            ids: [0x8086, 0x0b25],
            class: 0x08_8000,
            bars: Vec::new(),
            interrupts: [0, 9],
            reset: "FLR",
            physical: physical.map(Into::into),
            owner: owner.map(Into::into),
        }
    }

    fn vm(name: &str, state: State) -> VmSummary {
        VmSummary {
            name: name.into(),
            state,
            cpus: [0, 1].into(),
            memory_bytes: 64 << 20,
            exits: 5,
        }
    }

    /// The file is what `cargo xtask topology` is tested to read.
    #[test]
    fn a_topology_is_written_as_xtask_reads_it() {
        let queue = |interface, pasid, portals: &str| QueueUse {
            function: "0000:01:00.0".into(),
            interface,
            pasid,
            portals: portals.into(),
        };
        let topology = Topology {
            functions: [
                function("0000:00:00.0", None, None),
                function("0000:01:00.0", None, Some("Kerf, 6 of 8 interfaces left")),
                function("0000:02:00.0", None, Some("Kerf: \"\\\u{1b}")),
                function("0000:02:10.0", Some("0000:02:00.0"), Some("one")),
                function("0000:03:00.0", None, Some("two")),
            ]
            .into(),
            vms: [vm("one", State::Running), vm("two", State::Ended("exit 0".into()))].into(),
            vdevs: [VdevUse {
                id: 3,
                owner: "one".into(),
                queues: [queue(0, 1, "fast"), queue(1, 2, "held")].into(),
                registers: Vec::new(),
                lines: [7, 0],
            }]
            .into(),
        };
        assert_eq!(topology.to_string(), include_str!("topology.json"));
    }
}
