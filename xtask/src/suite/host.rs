//! What needs no machine: the house's rules, the host tests, and xtask's own answers to what is wrong or missing.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::bed::BedKind;
use crate::explain::Explain as _;
use crate::own::OWN;
use crate::step::{Context, Step};
use crate::suite::{on_host, require};
use crate::{process, tidy};

/// Compiling all tests on a slow machine included.
const TESTS_LIMIT: Duration = Duration::from_secs(15 * 60);
/// For answers that come before anything is built or started.
const ANSWER_LIMIT: Duration = Duration::from_secs(180);

pub(super) fn steps() -> Vec<Step> {
    vec![
        on_host("host tests", host_tests),
        on_host("tidy", |context| {
            context.sysroot()?;
            tidy::run(&context.root)
        }),
        on_host("test guests are bzImages", guests_are_images),
        on_host("run refuses a configuration with an unknown key", |context| {
            refuses_configuration(
                context,
                "version = 1\n[[vm]]\nname = \"a\"\nmemory = \"64M\"\nkernal = \"k\"\n",
                "kerf.toml:5",
            )
        }),
        on_host("run refuses a configuration whose kernel is missing", |context| {
            refuses_configuration(
                context,
                "version = 1\n[[vm]]\nname = \"a\"\nmemory = \"64M\"\nkernel = \"gone\"\n",
                "gone",
            )
        }),
        on_host("config tells of a guest and refuses one whose kernel is none", config_tells),
        on_host("run refuses another QEMU and says which it needs", |context| {
            refuses_emulator(
                context,
                BedKind::Qemu,
                "KERF_QEMU",
                "QEMU emulator version 7.2.0",
                "Kerf needs QEMU 11.1",
            )
        }),
        on_host("run refuses another Bochs and says which it needs", |context| {
            refuses_emulator(
                context,
                BedKind::Bochs,
                "KERF_BOCHS",
                "Bochs x86 Emulator 2.7",
                "Kerf needs Bochs 3.0",
            )
        }),
        on_host("run says at once all that a machine without apt lacks", names_what_is_missing),
        on_host("run on kvm says why not, and auto takes qemu", falls_back_from_kvm),
        on_host("doctor says what this machine can run", doctor_tells),
        on_host(
            "run without a network says so and leaves nothing half-fetched",
            fails_without_network,
        ),
    ]
}

fn host_tests(context: &Context) -> Result<(), String> {
    let cargo = std::env::var_os("CARGO");
    let mut command = Command::new(cargo.as_deref().unwrap_or(OsStr::new("cargo")));
    command.current_dir(&context.root).args(["test", "--quiet"]);
    let finished = process::run(&mut command, TESTS_LIMIT, |_| {})?;
    // What failed is in the output, what did not compile in the error output.
    let shown = format!("{}{}", finished.stdout, finished.stderr);
    require(finished.status.success(), || {
        format!("cargo test ({}):\n{}", finished.status, shown.trim_end())
    })
}

/// By the same check that boot and loader use, at the address and with the entry that `guest.ld` promises.
fn guests_are_images(context: &Context) -> Result<(), String> {
    for name in super::guests::NAMES {
        let path = context.guest(name)?;
        let file = fs::read(path).explain(|| path.display().to_string())?;
        let image = images::bzimage::parse(&file).explain(|| path.display().to_string())?;
        require(image.pref_address == 0x20_0000 && !image.relocatable, || {
            format!("{}: wants to be at {:#x}", path.display(), image.pref_address)
        })?;
    }
    Ok(())
}

/// Runs this program, with everything in `environment` set, to an end that has to be a failure; gives what it said.
fn fails(environment: &[(&str, &OsStr)], arguments: &[&OsStr]) -> Result<String, String> {
    let this = std::env::current_exe().explain(|| "cannot find this program")?;
    let mut command = Command::new(this);
    command
        .args(["run", "--headless", "--timeout", "60"])
        .args(arguments)
        .envs(environment.iter().copied());
    let finished = process::run(&mut command, ANSWER_LIMIT, |_| {})?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    require(!finished.status.success(), || format!("it did not fail; it said:\n{said}"))?;
    Ok(said)
}

fn refuses_configuration(_: &Context, text: &str, named: &str) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let path = folder.path().join("kerf.toml");
    fs::write(&path, text).explain(|| path.display().to_string())?;
    let said = fails(&[], &["--config".as_ref(), path.as_os_str()])?;
    require(said.contains("kerf.toml") && said.contains(named), || {
        format!("it does not name {named}:\n{said}")
    })
}

/// By its exit status, too: scripts go by that.
fn config_tells(context: &Context) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let path = super::guests::describe(context, "hello", None)?.save(folder.path())?;
    let this = std::env::current_exe().explain(|| "cannot find this program")?;
    let answer = || {
        process::run(Command::new(&this).arg("config").arg(&path), ANSWER_LIMIT, |_| {})
            .map(|finished| (finished.status.success(), finished.stdout + &finished.stderr))
    };
    let (is_well, said) = answer()?;
    require(is_well && said.contains("VM hello"), || format!("of a sound one it said:\n{said}"))?;
    let kernel = folder.path().join("guest");
    fs::write(&kernel, "#!/bin/sh\n").explain(|| kernel.display().to_string())?;
    let (is_well, said) = answer()?;
    require(!is_well && said.contains("kerf.toml:9: vm.kernel: guest: "), || {
        format!("of one with a script for a kernel it said:\n{said}")
    })
}

/// A program that says a version, and no more.
fn fake_emulator(folder: &Path, version: &str) -> Result<PathBuf, String> {
    let path = folder.join("emulator");
    let script = format!("#!/bin/sh\necho '{version}'\n");
    fs::write(&path, script)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .explain(|| path.display().to_string())?;
    Ok(path)
}

fn refuses_emulator(
    _: &Context,
    bed: BedKind,
    variable: &str,
    version: &str,
    needs: &str,
) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let path = fake_emulator(folder.path(), version)?;
    let said = fails(&[(variable, path.as_os_str())], &["--on".as_ref(), bed.name().as_ref()])?;
    let told =
        said.contains(needs) && said.contains(variable) && said.contains(&*path.to_string_lossy());
    require(told, || format!("it does not say {needs:?}, {variable} and the program:\n{said}"))
}

/// An empty cache, and a search path on which only the programs are that no host lacks.
fn names_what_is_missing(_: &Context) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let (cache, path) = (folder.path().join("cache"), folder.path().join("bin"));
    fs::create_dir(&path).explain(|| path.display().to_string())?;
    let none = OsStr::new("");
    let mut environment = vec![("KERF_CACHE", cache.as_os_str()), ("PATH", path.as_os_str())];
    environment.extend(OWN.map(|own| (own.variable(), none)));
    for (bed, wanted) in [("qemu", ["--qemu", "--ovmf"]), ("bochs", ["--bochs", "--bochs-ovmf"])] {
        let said = fails(&environment, &["--on".as_ref(), bed.as_ref()])?;
        let told = ["apt-get is missing", "--linux FILE", "--busybox FILE"];
        let told = told.iter().chain(&wanted).all(|part| said.contains(part));
        require(told, || format!("it does not say what {bed} needs, and how to name it:\n{said}"))?;
    }
    let left = left_in(&cache)?;
    require(left.is_empty(), || format!("it left in the cache: {}", left.join(", ")))
}

/// With an emulator that says the right version and ends at once.
fn falls_back_from_kvm(context: &Context) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let config = super::guests::describe(context, "hello", None)?.save(folder.path())?;
    let qemu = fake_emulator(folder.path(), "QEMU emulator version 11.1.0")?;
    let firmware = folder.path().join("firmware");
    fs::write(&firmware, "").explain(|| firmware.display().to_string())?;
    let run = |on: &str| {
        let config = [OsStr::new("--config"), config.as_os_str(), OsStr::new("--on"), on.as_ref()];
        let files =
            [OsStr::new("--qemu"), qemu.as_os_str(), OsStr::new("--ovmf"), firmware.as_os_str()];
        fails(&[], &[config, files].concat())
    };
    let said = run("kvm")?;
    require(said.contains("error: kvm: "), || format!("on kvm it does not say why not:\n{said}"))?;
    let said = run("auto")?;
    require(said.contains("not on kvm, but on qemu: "), || {
        format!("auto does not say what it takes:\n{said}")
    })
}

fn doctor_tells(_: &Context) -> Result<(), String> {
    let this = std::env::current_exe().explain(|| "cannot find this program")?;
    let finished = process::run(Command::new(this).arg("doctor"), ANSWER_LIMIT, |_| {})?;
    let said = finished.stdout + &finished.stderr;
    let parts = ["packages", "bare targets", "bed qemu", "bed bochs", "bed kvm", "verdict"];
    require(finished.status.success() && parts.iter().all(|part| said.contains(part)), || {
        format!("it said:\n{said}")
    })
}

/// An empty cache, and a mirror on this machine's port 9, where nobody listens.
fn fails_without_network(_: &Context) -> Result<(), String> {
    let folder = tempfile::tempdir().explain(|| "no temporary folder")?;
    let own = ["KERF_QEMU", "KERF_OVMF"].map(|name| (name, OsStr::new("")));
    let mut environment = vec![
        ("KERF_CACHE", folder.path().as_os_str()),
        ("KERF_DEBIAN_MIRROR", OsStr::new("http://127.0.0.1:9/debian")),
        ("no_proxy", OsStr::new("127.0.0.1")),
    ];
    environment.extend(own);
    let said = fails(&environment, &[])?;
    let told =
        said.contains("cannot fetch") && said.contains("127.0.0.1:9") && said.contains("to do: ");
    require(told, || {
        format!("it does not say what it cannot fetch, from where, and what to do:\n{said}")
    })?;
    let left = left_in(folder.path())?;
    require(left.is_empty(), || format!("it left in the cache: {}", left.join(", ")))
}

/// What lies in a cache besides locks.
fn left_in(cache: &Path) -> Result<Vec<String>, String> {
    let entries = fs::read_dir(cache).explain(|| cache.display().to_string())?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    Ok(names.filter(|name| !name.starts_with(".lock-")).collect())
}
