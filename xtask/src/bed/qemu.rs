//! The QEMU bed: AMD SVM with nested paging, and QEMU's own IOMMU, on emulated CPUs.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::bed::session::{self, DebugPort, LogRules, Session, Streams};
use crate::bed::{Bed, Device, Iommu, Machine, Serial, kvm};
use crate::cache::{Cache, Scratch};
use crate::explain::{Explain as _, advise};
use crate::own::Own;
use crate::program::{self, Program};
use crate::{process, roots};

const NAME: &str = "qemu-system-x86_64";
/// Where the probe finds the emulator.
const PROBE: &str = "probe";
/// The debug port's output, as the options name it.
const DEBUG: &str = "debug.txt";
/// Older ones lack what the IOMMU needs.
const LEAST: (u32, u32) = (11, 1);

/// QEMU and its firmware.
pub(crate) struct Qemu {
    program: Program,
    firmware: PathBuf,
}

impl Qemu {
    pub(crate) fn prepare(cache: &Cache) -> Result<Self, String> {
        Ok(Self { program: program(cache)?, firmware: roots::ovmf(cache)? })
    }
}

/// The user's own QEMU, else the host's if it is new enough, else Debian's in a private root.
pub(crate) fn program(cache: &Cache) -> Result<Program, String> {
    let Some((path, by)) = Own::Qemu.path()? else {
        return host().map_or_else(|| private(cache), Ok);
    };
    let program = Program::host(path);
    check(&program, &format!("correct it, or leave {by} out"))?;
    Ok(program)
}

/// The host's own QEMU if it is new enough.
pub(crate) fn host() -> Option<Program> {
    program::on_path(NAME).map(Program::host).filter(|host| check(host, "").is_ok())
}

fn private(cache: &Cache) -> Result<Program, String> {
    let root = roots::qemu(cache)?;
    let program = Program::private(&root, NAME)?
        .with_env("QEMU_MODULE_DIR", root.join("usr/lib/x86_64-linux-gnu/qemu"))
        .with_arg("-L")
        .with_arg(root.join("usr/share/qemu"))
        .with_arg("-L")
        .with_arg(root.join("usr/share/seabios"));
    check(&program, "name a newer one by --qemu or KERF_QEMU")?;
    Ok(program)
}

fn check(program: &Program, advice: &str) -> Result<(), String> {
    let path = program.path().display().to_string();
    let answer = program.ask(&["--version"])?;
    let line = answer.lines().next().unwrap_or_default();
    let wanted = format!("Kerf needs QEMU {}.{} or newer", LEAST.0, LEAST.1);
    match program::find_version(line) {
        Some(version) if version >= LEAST => Ok(()),
        Some((major, minor)) => {
            Err(advise(format!("{path} is QEMU {major}.{minor}, and {wanted}"), advice))
        }
        None => Err(advise(
            format!("{path} does not say its version but {line:?}, and {wanted}"),
            advice,
        )),
    }
}

impl Bed for Qemu {
    fn launch(&self, image: &Path, machine: &Machine, scratch: Scratch) -> Result<Session, String> {
        let mut command =
            self.program.preloading(machine.models().map(|(_, object)| object).next());
        command.current_dir(scratch.path());
        command.args(options(machine));
        if machine.probe {
            command.args(["-qtest-log", "none", "-qtest"]);
            command.arg(format!("unix:{PROBE},server=on,wait=off"));
        }
        if let Some(plugin) = &machine.plugin {
            let mut option = format!("file={}", escape(&plugin.object));
            for (name, value) in &plugin.arguments {
                option += &format!(",{name}={value}");
            }
            command.arg("-plugin").arg(option);
        }
        command.arg("-bios").arg(&self.firmware);
        command.args(devices(&machine.devices));
        // Read-only: the firmware would keep its variables on the volume.
        command
            .arg("-drive")
            .arg(format!("if=none,id=boot,format=raw,readonly=on,file={}", escape(image)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = process::spawn(&mut command)?;
        let log = child.stderr.take().explain(|| "QEMU has no log")?;
        session::widen(&log);
        let streams = Streams {
            input: Box::new(child.stdin.take().explain(|| "QEMU has no input")?),
            console: Box::new(child.stdout.take().explain(|| "QEMU has no output")?),
            debug: DebugPort::File(scratch.path().join(DEBUG)),
            log: Box::new(log),
        };
        let rules = LogRules {
            entry: machine.count_entries.then_some("vmrun! "),
            hung: None,
            noise: &["vmexit("],
        };
        let probe = machine.probe.then(|| scratch.path().join(PROBE));
        Ok(Session::new(child, streams, rules, scratch, probe))
    }
}

fn options(machine: &Machine) -> Vec<String> {
    let mut options: Vec<String> = [
        "-machine q35,kernel-irqchip=split -nodefaults -no-reboot -display none",
        "-chardev stdio,id=console,signal=off",
        "-debugcon file:debug.txt",
        // A process's status: twice the byte written there, plus one.
        "-device isa-debug-exit,iobase=0xf4,iosize=4",
        "-device virtio-blk-pci,drive=boot,bootindex=0",
    ]
    .iter()
    .flat_map(|line| line.split(' '))
    .map(str::to_owned)
    .collect();
    let mut add = |line: &str| options.extend(line.split(' ').map(str::to_owned));
    add(match machine.serial {
        Serial::First => "-serial chardev:console",
        Serial::Second => "-serial none -serial chardev:console",
        Serial::None => "-serial none",
    });
    add(&format!("-smp {} -m {}M", machine.cpus, machine.memory_mib));
    if let Some(kind) = iommu(machine.iommu) {
        // Under icount QEMU cannot take x2APIC, which `eim` would let the machine use.
        let eim = if machine.icount { "off" } else { "on" };
        add(&format!("-device intel-iommu,intremap=on,eim={eim}{kind}"));
    }
    if machine.kvm {
        // Without the extension in its CPU the machine does not start at all.
        add(&format!("-accel kvm -cpu host,{}=on,enforce=on", kvm::extension()));
        return options;
    }
    add("-cpu max,+svm,+npt");
    if machine.icount {
        add("-accel tcg -icount shift=0,sleep=off -seed 42 -rtc base=2020-01-01,clock=vm");
    } else {
        // docs/limits.md says what QEMU gets wrong so, and what with one thread for all CPUs.
        add("-accel tcg,thread=multi");
    }
    if machine.count_entries {
        // The filter leaves no code to be logged; VMRUN and #VMEXIT are logged all the same.
        add("-d in_asm -dfilter 0x1..0x1");
    }
    options
}

fn iommu(kind: Iommu) -> Option<&'static str> {
    match kind {
        Iommu::None => None,
        Iommu::Legacy => Some(""),
        Iommu::SecondStage => Some(",scalable-mode=on,pasid-bits=20"),
        Iommu::FirstStage => Some(",scalable-mode=on,pasid-bits=20,fsts=on"),
    }
}

fn devices(devices: &[Device]) -> Vec<String> {
    let mut options = Vec::new();
    for (index, device) in devices.iter().enumerate() {
        let mut add = |option: &str, value: String| options.extend([option.to_owned(), value]);
        let (port, back) = (format!("port{index}"), format!("back{index}"));
        add("-device", format!("pcie-root-port,id={port},chassis={index}"));
        match device {
            Device::Nvme(disk) | Device::VirtioBlk(disk) => {
                add("-drive", format!("if=none,id={back},format=raw,file={}", escape(disk)));
            }
            Device::Edu | Device::Model(..) => {}
            Device::NvmeShared(disks) => {
                add("-device", format!("nvme-subsys,id=subsys{index}"));
                for (id, disk) in disks.iter().enumerate() {
                    let disk = escape(disk);
                    add("-drive", format!("if=none,id={back}-{id},format=raw,file={disk}"));
                }
            }
            Device::Igb | Device::VirtioNet => add("-netdev", format!("user,id={back}")),
            Device::Pair => {
                add("-device", format!("virtio-rng-pci,bus={port},addr=0.0,multifunction=on"));
            }
        }
        let kind = match device {
            Device::Nvme(_) => format!("nvme,serial=kerf{index},drive={back}"),
            Device::Edu => "edu,dma_mask=0xffffffffffffffff".to_owned(),
            Device::Model(name, _) => format!("kerf-{name}"),
            // Three queues and interrupts for each virtual function, two and one for the physical one.
            Device::NvmeShared(_) => format!(
                "nvme,id=nvme{index},serial=kerf{index},subsys=subsys{index},sriov_max_vfs=2,\
                 sriov_vq_flexible=6,sriov_vi_flexible=6,max_ioqpairs=8,msix_qsize=8"
            ),
            Device::Igb => format!("igb,netdev={back}"),
            Device::Pair => "virtio-rng-pci,addr=0.1".to_owned(),
            Device::VirtioBlk(_) => format!("virtio-blk-pci,iommu_platform=on,drive={back}"),
            // The firmware has no use for its boot ROM.
            Device::VirtioNet => {
                format!("virtio-net-pci,iommu_platform=on,romfile=,netdev={back}")
            }
        };
        add("-device", format!("{kind},bus={port}"));
        if let Device::NvmeShared(disks) = device {
            for id in 0..disks.len() {
                let place = format!("drive={back}-{id},bus=nvme{index},nsid={}", id + 1);
                add("-device", format!("nvme-ns,{place},shared=on,detached=on"));
            }
        }
    }
    options
}

/// A file name in an option: a comma is written twice.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
