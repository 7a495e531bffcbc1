//! What `cargo xtask image` writes is a disk that a machine boots from.

use std::process::Command;
use std::time::Duration;

use crate::bed::{self, BedKind, Limits, Machine, Verdict};
use crate::explain::Explain as _;
use crate::process;
use crate::step::{Context, Step};
use crate::suite::{guests, on_bed, require};

const GUEST: &str = "hello";
/// Everything is built before.
const WRITE_LIMIT: Duration = Duration::from_secs(180);
const BOOT_LIMIT: Duration = Duration::from_secs(120);

pub(super) fn steps() -> Vec<Step> {
    BedKind::ALL
        .map(|bed| {
            on_bed(bed, "the image command writes a disk that boots", move |context| {
                boots(context, bed)
            })
        })
        .into()
}

fn boots(context: &Context, bed: BedKind) -> Result<(), String> {
    context.artefacts()?;
    let description = guests::describe(context, GUEST, None)?;
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let config = description.save(folder.path())?;
    let image = folder.path().join("kerf.img");
    let this = std::env::current_exe().explain(|| "cannot find this program")?;
    let mut command = Command::new(this);
    command.arg("image").arg("--config").arg(config).arg("--out").arg(&image);
    let finished = process::run(&mut command, WRITE_LIMIT, |_| {})?;
    require(finished.status.success(), || {
        format!("the image command ({}):\n{}", finished.status, finished.stderr)
    })?;
    let machine = Machine { memory_mib: description.memory_mib(), ..Machine::default() };
    let session = context.launch_image(bed, &image, &machine)?;
    let limits = Limits { expect: None, typed: Vec::new(), timeout: Some(BOOT_LIMIT) };
    let outcome = bed::judge(session, limits, |_| Some(Vec::new()));
    guests::judge(GUEST, &outcome.console_text())
        .map_err(|why| format!("{why}: {}", outcome.describe()))?;
    outcome.require(&Verdict::Exited(0)).map(drop)
}
