//! Whether this host's KVM lets a guest be a hypervisor: found by starting one, because `/dev/kvm` alone promises nothing.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::time::Duration;

use regex::bytes::Regex;

use crate::bed::{Bed, Limits, Machine, Verdict, judge};
use crate::cache::Scratch;
use crate::explain::Explain as _;

const DEVICE: &str = "/dev/kvm";
/// For the firmware's first words.
const LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a disk that nothing boots from.
const DISK_BYTES: u64 = 1 << 20;

/// The virtualization extension of the host's CPU, as QEMU calls it.
pub(super) fn extension() -> &'static str {
    let is_amd =
        fs::read_to_string("/proc/cpuinfo").is_ok_and(|text| text.contains("AuthenticAMD"));
    if is_amd { "svm" } else { "vmx" }
}

/// Starts the firmware under KVM on a CPU that must have the extension, and waits for its first words.
///
/// # Errors
/// Why KVM will not do.
pub(super) fn probe(qemu: &impl Bed, scratches: [Scratch; 2]) -> Result<(), String> {
    if !Path::new(DEVICE).exists() {
        return Err(format!("there is no {DEVICE}"));
    }
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(DEVICE)
        .explain(|| format!("{DEVICE} cannot be opened"))?;
    let [own, scratch] = scratches;
    let image = own.path().join("empty.img");
    fs::File::create(&image)
        .and_then(|file| file.set_len(DISK_BYTES))
        .explain(|| image.display().to_string())?;
    let machine = Machine { kvm: true, memory_mib: 512, ..Machine::default() };
    let session = qemu.launch(&image, &machine, scratch)?;
    // It clears the screen before it says anything else.
    let spoke = Regex::new(r"\x1b\[|BdsDxe").map_err(|error| error.to_string())?;
    let limits = Limits { expect: Some(spoke), typed: Vec::new(), timeout: Some(LIMIT) };
    let outcome = judge(session, limits, |_| Some(Vec::new()));
    match outcome.verdict {
        Verdict::Expected => Ok(()),
        verdict => {
            let log = outcome.log.lines().map(str::trim).find(|line| !line.is_empty());
            let log = log.unwrap_or_default();
            if log.contains("support requested feature") {
                return Err(format!("the host's KVM has no nested {}", extension()));
            }
            let log = if log.is_empty() { String::new() } else { format!("; {log}") };
            Err(format!("a machine with {} does not start: {verdict}{log}", extension()))
        }
    }
}
