//! The IOMMU driver by itself on QEMU's VT-d, by `iommu/examples/qemu`: without a CPU, so without Kerf.

use std::path::Path;
use std::time::Duration;

use crate::bed::{self, BedKind};
use crate::step::{Context, Step};
use crate::suite::on_bed;
use crate::{artefacts, process};

const LIMIT: Duration = Duration::from_secs(300);

/// The steps with devices of our own.
pub(super) const PASIDS: &str =
    "the IOMMU driver keeps the PASIDs of a device apart by the emulator's unit";
const DSA: &str = "descriptors through a DSA's portals reach what the PASIDs of their queues do";

pub(super) fn steps() -> Vec<Step> {
    [(PASIDS, "siov"), (DSA, "dsa")]
        .map(|(name, what)| {
            on_bed(BedKind::Qemu, name, move |context| {
                drive(context, what, Some(&artefacts::build_device(&context.root)?))
            })
        })
        .into()
}

/// In all modes of the unit with the device `what`.
fn drive(context: &Context, what: &str, preload: Option<&Path>) -> Result<(), String> {
    let example = artefacts::build_example(&context.root, "iommu", "qemu")?;
    let qemu = bed::qemu_program(&context.cache)?;
    let mut command = qemu.command_of(&example, &[what], preload);
    process::run(&mut command, LIMIT, |_| {})?.success("the example").map(|_| ())
}
