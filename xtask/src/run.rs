//! `cargo xtask run` and `cargo xtask image`: the machine that the command line describes.

use std::fs::{self, File};
use std::io::{Write as _, stdout};

use crate::bed::{self, BedKind, Device, Limits, Machine, Outcome, Verdict};
use crate::cli::{Guests, Image, Place, Run};
use crate::context::Context;
use crate::description::{Description, LinuxGuest};
use crate::explain::{Explain as _, advise};
use crate::meaning::Bounds;
use crate::own::Own;
use crate::terminal::{FirmwareFilter, Keyboard, QUIT_NAME};
use crate::{doctor, image, initrd, meaning};

/// What the default guest is told.
const CMDLINE: &str = "console=ttyS0";
const MEMORY: &str = "256M";
/// What it has of the machine's: the NVMe controller, the network controller.
const DEVICES: [&str; 2] = ["class = 0x010802", "class = 0x020000"];
/// The NVMe controller's disk, which is empty and goes with the machine.
const DISK_BYTES: u64 = 64 << 20;
/// CPUs that a bed has at most, unless more are asked for.
const MOST_CPUS: u32 = 64;

/// Runs it to its end.
///
/// # Errors
/// It cannot be started, or ended in another way than it should.
pub(crate) fn run(context: &Context, options: &Run) -> Result<(), String> {
    // The emulator first: where it is missing, all else is for nothing.
    let (bed, kvm) = choose(context, options)?;
    context.bed(bed)?;
    // What is counted in instructions is to repeat exactly, and a network does not.
    let has_devices = bed == BedKind::Qemu && !options.icount;
    let description = describe(context, &options.guests, has_devices)?;
    let scratch = context.cache.scratch()?;
    let devices = if description.config().vms.iter().any(|vm| !vm.devices.is_empty()) {
        let disk = scratch.path().join("nvme.img");
        let made = File::create(&disk).and_then(|file| file.set_len(DISK_BYTES));
        made.explain(|| disk.display().to_string())?;
        vec![Device::Nvme(disk), Device::Igb]
    } else {
        Vec::new()
    };
    let cpus =
        options.smp.unwrap_or_else(|| meaning::cpus_wanted(description.config()).min(MOST_CPUS));
    meaning::admit(description.config(), Bounds { cpus: Some(cpus), memory_bytes: None })?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    let machine = Machine {
        memory_mib: description.memory_mib(),
        cpus,
        icount: options.icount,
        count_entries: options.count_entries,
        kvm,
        devices,
        ..Machine::default()
    };
    let mut serial = match &options.serial {
        Some(path) => {
            Some(File::create(path).explain(|| format!("cannot write {}", path.display()))?)
        }
        None => None,
    };
    let session = context.launch(bed, &volume, &machine)?;
    let limits =
        Limits { expect: options.expect.clone(), typed: Vec::new(), timeout: options.timeout() };
    let mut keyboard = None;
    if !options.headless {
        let place = if kvm { "kvm" } else { bed.name() };
        eprintln!("Kerf on {place}; {QUIT_NAME} quits");
        keyboard = Some(Keyboard::open()?);
    }
    let mut filter = FirmwareFilter::default();
    let outcome = bed::judge(session, limits, |fresh| {
        let mut out = stdout().lock();
        let _ = out.write_all(&filter.pass(fresh)).and_then(|()| out.flush());
        if let Some(file) = &mut serial {
            let _ = file.write_all(fresh);
        }
        keyboard.as_mut().map_or(Some(Vec::new()), Keyboard::keys)
    });
    drop(keyboard);
    report(options, &outcome)
}

/// The bed, and whether it runs on the host's own CPU.
fn choose(context: &Context, options: &Run) -> Result<(BedKind, bool), String> {
    let bed = if options.on == Place::Bochs { BedKind::Bochs } else { BedKind::Qemu };
    let guests = &options.guests;
    let default = guests.config.is_none();
    let linux = (default && guests.kernel.is_none()).then_some(Own::Linux);
    let busybox = (default && guests.initrd.is_none()).then_some(Own::Busybox);
    let needed: Vec<Own> = linux.into_iter().chain(busybox).collect();
    doctor::require(context, bed, &needed)?;
    if !matches!(options.on, Place::Kvm | Place::Auto) {
        return Ok((bed, false));
    }
    let counts = options.icount || options.count_entries;
    let offered =
        if counts { Err("KVM counts no instructions".to_owned()) } else { context.probe_kvm() };
    match (offered, options.on) {
        (Ok(()), _) => Ok((bed, true)),
        (Err(why), Place::Kvm) => Err(advise(
            format!("kvm: {why}"),
            "take --on qemu, or a host whose KVM has nested virtualization turned on",
        )),
        (Err(why), _) => {
            eprintln!("not on kvm, but on qemu: {why}");
            Ok((bed, false))
        }
    }
}

/// Says how it ended: well, if as expected, or by the guests' own clean end where nothing was expected.
fn report(options: &Run, outcome: &Outcome) -> Result<(), String> {
    if !outcome.console.ends_with(b"\n") {
        eprintln!();
    }
    if let Some(entries) = outcome.entries.filter(|_| options.count_entries) {
        eprintln!("VM entries counted by the emulator: {entries}");
    }
    let seconds = outcome.elapsed.as_secs_f64();
    let is_well = matches!(
        (&outcome.verdict, &options.expect),
        (Verdict::Expected, _) | (Verdict::PoweredOff | Verdict::Exited(0), None)
    );
    if is_well {
        eprintln!("{} after {seconds:.1} s", outcome.verdict);
        return Ok(());
    }
    let wanted = options
        .expect
        .as_ref()
        .map_or(String::new(), |expect| format!("; {expect:?} was expected"));
    let log = if outcome.log.is_empty() {
        String::new()
    } else {
        format!("\nend of the emulator's log:\n{}", outcome.log)
    };
    Err(format!("{} after {seconds:.1} s{wanted}{log}", outcome.verdict))
}

/// Writes a disk with what `run` would boot.
///
/// # Errors
/// Something of it is missing or would not start, or the file cannot be written.
pub(crate) fn write_image(context: &Context, options: &Image) -> Result<(), String> {
    let description = describe(context, &options.guests, false)?;
    meaning::check(&description, Bounds::default())?;
    let artefacts = context.artefacts()?;
    let volume = description.volume(read(&artefacts.boot)?, read(&artefacts.kernel)?);
    image::write_disk(&volume, options.file())?;
    eprintln!("wrote {}", options.file().display());
    Ok(())
}

/// The default guest has devices where the machine does and all of it is of xtask's own choice.
fn describe(context: &Context, guests: &Guests, has_devices: bool) -> Result<Description, String> {
    if let Some(path) = &guests.config {
        return Description::read(path);
    }
    let linux = || context.linux();
    let is_own = guests.kernel.is_some() || guests.initrd.is_some();
    let drivers = if has_devices && !is_own { &linux()?.drivers } else { &Vec::new() };
    let kernel = match &guests.kernel {
        Some(path) => path.clone(),
        None => linux()?.kernel.clone(),
    };
    let initrd = match &guests.initrd {
        Some(path) => read(path)?,
        None => initrd::build(&linux()?.busybox, None, drivers, &[])?,
    };
    Description::linux(&LinuxGuest {
        kernel,
        initrd: Some(initrd),
        cmdline: guests.cmdline.clone().unwrap_or_else(|| CMDLINE.into()),
        memory: guests.memory.clone().unwrap_or_else(|| MEMORY.into()),
        devices: if drivers.is_empty() { &[] } else { &DEVICES },
        test: String::new(),
    })
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, String> {
    fs::read(path).explain(|| path.display().to_string())
}
