//! The Bochs bed: VT-x with EPT. Bochs has no port by which a machine ends, so Kerf's last line is its end.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::bed::session::{self, DebugPort, LogRules, Session, Streams};
use crate::bed::{Bed, Iommu, Machine};
use crate::cache::{Cache, Scratch};
use crate::explain::{Explain as _, advise};
use crate::own::Own;
use crate::program::{self, Program};
use crate::{process, roots};

const NAMES: [&str; 2] = ["bochs-bin", "bochs"];
const HOST_VGABIOS: &str = "/usr/share/vgabios/vgabios.bin";
const PLUGINS: &str = "usr/lib/x86_64-linux-gnu/bochs/plugins";
/// 3.1 as Debian builds it divides wrongly.
const WANTED: (u32, u32) = (3, 0);
const START_LIMIT: Duration = Duration::from_secs(20);

/// Bochs and its firmware.
pub(crate) struct Bochs {
    program: Program,
    firmware: PathBuf,
    video_bios: PathBuf,
}

impl Bochs {
    /// The user's own, else the host's if it is the right version, else Debian's in a private root.
    pub(crate) fn prepare(cache: &Cache) -> Result<Self, String> {
        let firmware = roots::bochs_ovmf(cache)?;
        let bios = match Own::Vgabios.path()? {
            Some((path, _)) => Some(path),
            None => host_vgabios(),
        };
        let program = match Own::Bochs.path()? {
            Some((path, by)) => {
                let program = Program::host(path);
                check(&program, &format!("correct it, or leave {by} out"))?;
                Some(program)
            }
            None => host(),
        };
        if let Some(program) = program {
            let video_bios =
                bios.map_or_else(|| roots::bochs(cache).map(|root| video_bios(&root)), Ok)?;
            return Ok(Self { program, firmware, video_bios });
        }
        let root = roots::bochs(cache)?;
        let program = NAMES.iter().find_map(|name| Program::private(&root, name).ok());
        let program = program
            .explain(|| format!("{} has no Bochs", root.display()))?
            .with_env("LTDL_LIBRARY_PATH", root.join(PLUGINS))
            .with_env("BXSHARE", root.join("usr/share/bochs"));
        check(&program, "name the right one by --bochs or KERF_BOCHS")?;
        Ok(Self { program, firmware, video_bios: bios.unwrap_or_else(|| video_bios(&root)) })
    }
}

/// The host's own Bochs if it is the right version.
pub(crate) fn host() -> Option<Program> {
    let program = NAMES.iter().find_map(|name| program::on_path(name)).map(Program::host);
    program.filter(|host| check(host, "").is_ok())
}

/// The host's own VGA BIOS.
pub(crate) fn host_vgabios() -> Option<PathBuf> {
    Some(PathBuf::from(HOST_VGABIOS)).filter(|path| path.exists())
}

fn video_bios(root: &Path) -> PathBuf {
    root.join("usr/share/vgabios/vgabios.bin")
}

fn check(program: &Program, advice: &str) -> Result<(), String> {
    let path = program.path().display().to_string();
    let answer = program.ask(&["--help"])?;
    let line = answer.lines().find(|line| line.contains("Bochs x86")).unwrap_or_default().trim();
    let wanted = format!("Kerf needs Bochs {}.{}", WANTED.0, WANTED.1);
    match program::find_version(line) {
        Some(WANTED) => Ok(()),
        Some((major, minor)) => {
            Err(advise(format!("{path} is Bochs {major}.{minor}, and {wanted}"), advice))
        }
        None => Err(advise(
            format!("{path} does not say its version but {line:?}, and {wanted}"),
            advice,
        )),
    }
}

impl Bed for Bochs {
    fn launch(&self, image: &Path, machine: &Machine, scratch: Scratch) -> Result<Session, String> {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .explain(|| "cannot listen for the console of Bochs")?;
        let port =
            listener.local_addr().explain(|| "cannot listen for the console of Bochs")?.port();
        let file = scratch.path().join("bochsrc");
        fs::write(&file, self.settings(image, machine, port))
            .explain(|| format!("cannot write {}", file.display()))?;
        let mut command = self.program.command();
        command.args(["-q", "-unlock", "-f", "bochsrc"]).current_dir(scratch.path());
        if let Some(plugin) = &machine.plugin {
            command.env("LD_PRELOAD", &plugin.object);
            command.envs(plugin.arguments.iter().map(|(name, value)| (*name, value)));
        }
        if let Some(folder) = machine.models().find_map(|(_, object)| object.parent()) {
            let root = self.program.root.as_deref().unwrap_or(Path::new("/"));
            let both = std::env::join_paths([folder, &root.join(PLUGINS)]);
            command.env("LTDL_LIBRARY_PATH", both.explain(|| "the plugins of Bochs")?);
            let names: Vec<&str> = machine.models().map(|(name, _)| name).collect();
            command.env("KERF_IOMMU", unit(machine.iommu)).env("KERF_DEVICES", names.join(","));
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let rules = LogRules {
            // The error log has the exits for EPT violations at no cost; the debug log has all of them.
            entry: Some(if machine.count_entries { "VMEXIT reason = " } else { "VMEXIT: EPT " }),
            hung: Some("no resolution"),
            noise: &["d[CPU", "RDMSR: Read", "VMEXIT: EPT "],
        };
        let console = match accept(&listener, &mut child) {
            Ok(console) => console,
            Err(error) => {
                let _ = child.kill();
                let output =
                    child.wait_with_output().map(|output| output.stderr).unwrap_or_default();
                return Err(format!("{error}\n{}", String::from_utf8_lossy(&output)));
            }
        };
        let log = child.stderr.take().explain(|| "Bochs has no log")?;
        session::widen(&log);
        let streams = Streams {
            input: Box::new(console.try_clone().explain(|| "the console of Bochs")?),
            console: Box::new(console),
            debug: DebugPort::Stream(Box::new(
                child.stdout.take().explain(|| "Bochs has no output")?,
            )),
            log: Box::new(log),
        };
        Ok(Session::new(child, streams, rules, scratch, None))
    }
}

/// The unit of the models, as `tests/beds/bochs` names it.
fn unit(kind: Iommu) -> &'static str {
    match kind {
        Iommu::None | Iommu::Legacy => "legacy",
        Iommu::SecondStage => "second",
        Iommu::FirstStage => "first",
    }
}

/// Waits for Bochs to connect its serial port.
fn accept(listener: &TcpListener, child: &mut Child) -> Result<TcpStream, String> {
    listener.set_nonblocking(true).explain(|| "the console of Bochs")?;
    let deadline = Instant::now() + START_LIMIT;
    loop {
        match listener.accept() {
            Ok((console, _)) => {
                console.set_nonblocking(false).explain(|| "the console of Bochs")?;
                console.set_nodelay(true).explain(|| "the console of Bochs")?;
                return Ok(console);
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(format!("the console of Bochs: {error}"));
            }
            Err(_) => {}
        }
        if let Some(status) = child.try_wait().explain(|| "cannot wait for Bochs")? {
            return Err(format!("Bochs ended at its start ({status})"));
        }
        if Instant::now() >= deadline {
            return Err(format!(
                "Bochs has not opened its console within {} s",
                START_LIMIT.as_secs()
            ));
        }
        thread::sleep(Duration::from_millis(10));
    }
}

impl Bochs {
    /// The settings file. The log goes to the error output, the debug port to the output.
    fn settings(&self, image: &Path, machine: &Machine, port: u16) -> String {
        let debug = if machine.count_entries { "report" } else { "ignore" };
        let models = if machine.models().next().is_some() {
            ", slot1=kerf\nplugin_ctrl: kerf=1"
        } else {
            ""
        };
        format!(
            r#"config_interface: textconfig
display_library: rfb, options="timeout=0"
cpu: model=arrow_lake, count={cpus}, ips=100000000, reset_on_triple_fault=0, ignore_bad_msrs=1, exclude_features="rdrand,rdseed{lacks}"
clock: sync=none, time0=1700000000
memory: guest={memory}, host={memory}
romimage: file="{firmware}", address=0xffe00000
vgaromimage: file="{video_bios}"
pci: enabled=1, chipset=i440fx{models}
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=disk, path="{image}", mode=volatile, journal="journal"
boot: disk
com1: enabled=1, mode=socket-client, dev=127.0.0.1:{port}
port_e9_hack: enabled=1
log: /dev/stderr
panic: action=fatal, cpu0=report
error: action=report
info: action=report
debug: action=ignore, cpu0={debug}
"#,
            cpus = machine.cpus,
            lacks = machine.lacks,
            memory = machine.memory_mib,
            firmware = self.firmware.display(),
            video_bios = self.video_bios.display(),
            image = image.display(),
        )
    }
}
