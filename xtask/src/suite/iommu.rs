//! The IOMMU driver by itself on QEMU's VT-d, by `iommu/examples/qemu`: without a CPU, so without Kerf.

use std::path::Path;
use std::time::Duration;

use crate::bed::{self, BedKind};
use crate::step::{Context, Step};
use crate::suite::on_bed;
use crate::{artefacts, process};

const LIMIT: Duration = Duration::from_secs(300);

/// The step with a device of our own.
pub(super) const PASIDS: &str =
    "the IOMMU driver keeps the PASIDs of a device apart by the emulator's unit";

pub(super) fn steps() -> Vec<Step> {
    vec![on_bed(BedKind::Qemu, PASIDS, |context| {
        drive(context, "siov", Some(&artefacts::build_device(&context.root)?))
    })]
}

/// In all modes of the unit with the device `what`.
fn drive(context: &Context, what: &str, preload: Option<&Path>) -> Result<(), String> {
    let example = artefacts::build_example(&context.root, "iommu", "qemu")?;
    let qemu = bed::qemu_program(&context.cache)?;
    let mut command = qemu.command_of(&example, &[what], preload);
    process::run(&mut command, LIMIT, |_| {})?.success("the example").map(|_| ())
}
