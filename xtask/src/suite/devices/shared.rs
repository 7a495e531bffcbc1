//! One disk controller and one network controller, shared out as virtual functions to two Linux guests at once.

use std::time::Duration;

use regex::Regex;

use crate::bed::{BedKind, Device, Iommu, Machine, Verdict};
use crate::description::Description;
use crate::initrd;
use crate::step::{Context, Trial};
use crate::suite::devices::peer::{Peer, sum};
use crate::suite::devices::{disk, has_kept, pattern, read, vm};
use crate::suite::require;

/// A VM: copies of busybox that it moves, not as many as the other one; its devices, words for it, and what it is to pass.
type Guest = (&'static str, usize, [&'static str; 2], &'static str, &'static [&'static str]);

/// The first names its namespace, the second takes what is left.
const GUESTS: [Guest; 2] = [
    (
        "one",
        3,
        [
            "virtual-function-of = \"0000:01:00.0\", namespace = 1",
            "virtual-function-of = \"0000:02:00.0\"",
        ],
        // Memory for commands by hand.
        "kerf.ip=10.0.2.15 kerf.apart=2 memmap=64K$0x8000000",
        &["nvme", "apart", "igbvf"],
    ),
    (
        "two",
        2,
        [
            "virtual-function-of = \"0000:01:00.0\", namespace-bytes = \"4M\"",
            "virtual-function-of = \"0000:02:00.0\"",
        ],
        "kerf.ip=10.0.2.16",
        &["nvme", "igbvf"],
    ),
];
const LIMIT: Duration = Duration::from_secs(900);

/// Each namespace keeps what its own guest wrote, each peer receives what its own guest sent, and a guest's commands by hand
/// do not reach the other's namespace.
pub(super) fn drive(context: &Context, iommu: Iommu) -> Result<(), String> {
    let scratch = context.cache.scratch()?;
    let linux = context.linux()?;
    require(!linux.drivers.is_empty(), || "a Linux of your own has no drivers here".into())?;
    let busybox = read(&linux.busybox)?;
    let mut text = format!("version = {}\n", config::VERSION);
    let mut made = Vec::new();
    for (name, copies, devices, words, _) in &GUESTS {
        let pattern = pattern(&busybox, *copies);
        let peer = Peer::start(pattern.len())?;
        let words = format!("kerf.copies={copies} kerf.peer=10.0.2.2:{} {words}", peer.port);
        text += &vm(name, 1, &words, devices);
        made.push((disk(&scratch, name, &pattern)?, peer, pattern));
    }
    let initrd = initrd::build(&linux.busybox, None, &linux.drivers, &[])?;
    let files = vec![("vmlinuz".to_owned(), read(&linux.kernel)?), ("initrd.img".into(), initrd)];
    let description = Description::new(text, files)?;
    let artefacts = context.artefacts()?;
    let disks = made.iter().map(|(disk, ..)| disk.clone()).collect();
    let machine = Machine {
        memory_mib: description.memory_mib(),
        cpus: 2,
        iommu,
        devices: vec![Device::NvmeShared(disks), Device::Igb],
        ..Machine::default()
    };
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let trial = Trial { volume, machine, expect: None, typed: Vec::new(), timeout: LIMIT };
    let outcome = context.trial(BedKind::Qemu, trial)?.require(&Verdict::PoweredOff)?;
    let console = outcome.console_text();
    let well = console.matches("KERF-GUEST-OK").count();
    require(well == GUESTS.len(), || outcome.describe())?;
    let first_end = console.find("ended: poweroff");
    let last_start = console.rfind("KERF-CHECK cpu ");
    require(last_start < first_end, || "the guests did not run at once".into())?;
    for ((name, .., checks), (disk, peer, pattern)) in GUESTS.iter().zip(&made) {
        let digest = sum(pattern);
        for check in *checks {
            let digest = if *check == "apart" { "" } else { &*digest };
            let line = Regex::new(&format!("KERF-CHECK {check} ok .*{digest}"));
            let passed = line.map_err(|error| error.to_string())?.is_match(&console);
            require(passed, || {
                format!("no {check} with {digest} of {name}: {}", outcome.describe())
            })?;
        }
        has_kept(disk, pattern)?;
        let came = peer.sums();
        require(came == [digest], || format!("{name}'s peer received {came:?}"))?;
    }
    Ok(())
}
