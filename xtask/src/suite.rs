//! The steps of `cargo xtask test`: what each shows stands in its name.
//!
//! Lane 0 has the QEMU bed; lane 1 has the host's tests, then the Bochs bed. [`host`] checks sources and command line,
//! [`input`] boots what must not start, [`guests`] and [`linux`] run guests, [`several`] some at once, [`hostile`] those that
//! mean harm, [`loaders`] some that start otherwise, [`devices`] some with the machine's own devices, [`disk`] one from a
//! partitioned disk, [`leash`] kills xtask itself. [`iommu`] has the driver alone on an emulator's unit, and
//! [`idxd`] Linux alone with a model. [`mutants`] plants
//! faults that these tests must catch.

mod devices;
mod disk;
mod exits;
mod guests;
mod host;
pub(crate) mod hostile;
mod idxd;
mod input;
mod iommu;
mod kernel;
mod leash;
mod linux;
mod loaders;
pub(crate) mod mutants;
mod several;
mod vdsa;

use crate::bed::BedKind;
use crate::step::{Context, Step};

/// All steps, in the order of their lanes; the long ones only for the `full` set.
pub(crate) fn steps(full: bool) -> Vec<Step> {
    let mut steps = host::steps();
    steps.extend(guests::steps());
    steps.extend(hostile::steps());
    steps.extend(loaders::steps());
    steps.extend(exits::steps());
    steps.extend(disk::steps());
    steps.extend(linux::steps());
    steps.extend(devices::steps());
    steps.extend(several::steps());
    steps.extend(kernel::steps());
    steps.extend(input::steps());
    steps.extend(iommu::steps());
    steps.extend(vdsa::steps());
    steps.extend(leash::steps());
    if full {
        steps.extend(guests::full_steps());
        steps.extend(hostile::full_steps());
        steps.extend(linux::full_steps());
        steps.extend(devices::full_steps());
        steps.extend(idxd::full_steps());
        steps.extend(vdsa::full_steps());
    }
    steps
}

fn on_host(
    name: impl Into<String>,
    run: impl FnOnce(&Context) -> Result<(), String> + Send + 'static,
) -> Step {
    Step { name: name.into(), bed: None, lane: 1, run: Box::new(run) }
}

fn on_bed(
    bed: BedKind,
    name: impl Into<String>,
    run: impl FnOnce(&Context) -> Result<(), String> + Send + 'static,
) -> Step {
    let lane = match bed {
        BedKind::Qemu => 0,
        BedKind::Bochs => 1,
    };
    Step { name: name.into(), bed: Some(bed), lane, run: Box::new(run) }
}

/// `text` as a pattern for the console's bytes. Patterns are constants of this program.
fn pattern(text: &str) -> Result<regex::bytes::Regex, String> {
    regex::bytes::Regex::new(text).map_err(|error| error.to_string())
}

/// `Err(what)` where `holds` is false.
fn require(holds: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_a_name_of_its_own_and_beds_keep_to_their_lanes() {
        let mut names = std::collections::BTreeSet::new();
        for step in steps(true) {
            assert_eq!(step.lane, usize::from(step.bed != Some(BedKind::Qemu)), "{}", step.name);
            assert!(
                names.insert((step.bed.map(BedKind::name), step.name.clone())),
                "{} comes twice",
                step.name
            );
        }
    }
}
