//! `cargo xtask config`: what a configuration will mean, found by the checks that boot application and loader make.

use std::fmt::{self, Write as _};
use std::path::Path;

use config::{Config, Cpuid, Hypervisor, Machine, Placement, Problem, Vm, Withheld};
use hw::Gpa;
use images::bzimage::BzImage;
use images::guest::GuestKernel;
use images::guest_elf::Segment;
use images::initrd::{self, Format, Initrd};
use vmm::loader::{self, GuestLayout, RamRange};
use vmm::pci::Plan;
use vmm::{GuestMemory, NoMemory};

use crate::description::Description;

/// The machine that is to run a configuration, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bounds {
    /// CPUs, each a core of its own.
    pub(crate) cpus: Option<u32>,
    /// Bytes of memory for guests.
    pub(crate) memory_bytes: Option<u64>,
}

/// Prints what the configuration `path` means.
///
/// # Errors
/// What would not start, by file, line and key.
pub(crate) fn print(path: &Path, bounds: Bounds) -> Result<(), String> {
    print!("{}", tell(&Description::read(path)?, bounds)?);
    Ok(())
}

/// Whether all VMs would start.
///
/// # Errors
/// What would not, by file, line and key.
pub(crate) fn check(description: &Description, bounds: Bounds) -> Result<(), String> {
    tell(description, bounds).map(drop)
}

/// Where vCPUs go on a machine of so many CPUs and so much memory; what is not known is enough.
///
/// # Errors
/// What the machine lacks, by file, line and key.
pub(crate) fn admit(config: &Config, bounds: Bounds) -> Result<Placement, String> {
    let cores: Vec<u32> = (0..bounds.cpus.unwrap_or_else(|| cpus_wanted(config))).collect();
    let free_bytes = bounds.memory_bytes.unwrap_or(u64::MAX);
    config::admit(config, &Machine { cores: &cores, free_bytes }).map_err(|error| error.to_string())
}

/// The least number of CPUs on which all VMs can run, of at most as many as a machine may have.
pub(crate) fn cpus_wanted(config: &Config) -> u32 {
    let pins = config.vms.iter().flat_map(|vm| vm.cpus.iter().flatten());
    let pinned = pins.max().map_or(0, |cpu| cpu.saturating_add(1));
    let vcpus = if config.hypervisor.share_cpus {
        None
    } else {
        config.vms.iter().map(|vm| vm.vcpus).max()
    };
    pinned.max(vcpus.unwrap_or(1)).clamp(1, 1 << 16)
}

fn tell(description: &Description, bounds: Bounds) -> Result<String, String> {
    let config = description.config();
    let placement = admit(config, bounds)?;
    let mut text = String::new();
    let mut say = |line: fmt::Arguments<'_>| {
        // A string takes everything.
        let _ = writeln!(text, "{line}");
    };
    let Config { hypervisor, vms, .. } = config;
    let vcpus: u32 = vms.iter().map(|vm| vm.vcpus).sum();
    let memory = vms.iter().map(|vm| vm.memory_bytes).sum();
    let plural = |count| if count == 1 { "" } else { "s" };
    say(format_args!(
        "{} VM{} with {vcpus} vCPU{} and {} of memory",
        vms.len(),
        plural(vms.len()),
        plural(vcpus as usize),
        Size(memory)
    ));
    tell_hypervisor(hypervisor, &mut say);
    for (index, vm) in vms.iter().enumerate() {
        let cpus = bounds.cpus.and_then(|_| placement.cpus.get(index));
        tell_vm(description, index, vm, cpus.or(vm.cpus.as_ref()), &mut say)?;
    }
    Ok(text)
}

fn tell_hypervisor(hypervisor: &Hypervisor, say: &mut impl FnMut(fmt::Arguments<'_>)) {
    say(format_args!("log level       {}", lower(&hypervisor.log)));
    let consoles = match &hypervisor.consoles {
        None => "all that the machine has".to_owned(),
        Some(consoles) if consoles.is_empty() => "none".to_owned(),
        Some(consoles) => words(consoles.iter().map(lower)),
    };
    say(format_args!("consoles        {consoles}"));
    if hypervisor.mode == config::RunMode::Survey {
        say(format_args!("survey          the machine is described, nothing is started"));
    }
    let iommu = match hypervisor.iommu.mode {
        config::IommuMode::Auto => "by the tables that all units can",
        config::IommuMode::Legacy => "by legacy tables",
        config::IommuMode::ScalableSecond => "by the second stage, with PASIDs",
        config::IommuMode::ScalableFirst => "by the first stage, with PASIDs",
    };
    say(format_args!("IOMMU           translates {iommu}"));
    say(format_args!("time slices     {} us", hypervisor.slice_us));
    let smt = if hypervisor.share_smt { "of different VMs" } else { "of one VM" };
    say(format_args!("SMT siblings    run vCPUs {smt}"));
}

/// The text that a value of an enumeration has in the file, nearly.
fn lower(value: &impl fmt::Debug) -> String {
    format!("{value:?}").to_lowercase()
}

fn words(items: impl Iterator<Item = impl fmt::Display>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(" ")
}

fn tell_vm(
    description: &Description,
    index: usize,
    vm: &Vm,
    cpus: Option<&Vec<u32>>,
    say: &mut impl FnMut(fmt::Arguments<'_>),
) -> Result<(), String> {
    let wrong =
        |key, what: String| description.config().wrong(index, key, Problem::Load(what)).to_string();
    let layout = GuestLayout::new(vm.memory_bytes);
    let find = |name: &str| Some(description.file(name));
    let entry = loader::load(vm, &layout, &Plan::default(), &NoBytes(layout), find)
        .map_err(|failure| wrong(failure.key, failure.to_string()))?
        .rip;
    let file = description.file(&vm.kernel);
    let kernel = GuestKernel::parse(file, loader::protocol(vm.loader))
        .map_err(|error| wrong("kernel", error.to_string()))?;

    say(format_args!("VM {}", vm.name));
    let place = match cpus {
        Some(cpus) => {
            format!(", on CPU{} {}", if cpus.len() == 1 { "" } else { "s" }, words(cpus.iter()))
        }
        None => ", on CPUs that Kerf chooses".to_owned(),
    };
    say(format_args!("  vCPUs         {}{place}", vm.vcpus));
    say(format_args!("  memory        {}", Size(vm.memory_bytes)));
    for line in memory_map(&layout) {
        say(format_args!("    {line}"));
    }
    let (kind, mode) = about_kernel(&kernel);
    say(format_args!("  kernel        {}, {} bytes: {kind}", vm.kernel, file.len()));
    for line in segments(&kernel) {
        say(format_args!("    {line}"));
    }
    say(format_args!("    entered at  {entry:#x}, in {mode}"));
    match &vm.initrd {
        Some(name) => {
            say(format_args!("  initrd        {}", about_initrd(name, description.file(name))))
        }
        None => say(format_args!("  initrd        none")),
    }
    for name in &vm.modules {
        say(format_args!("  module        {name}, {} bytes", description.file(name).len()));
    }
    say(format_args!("  command line  {:?}", vm.cmdline));
    for device in &vm.devices {
        say(format_args!("  device        {device}"));
    }
    for config::Vdev { kind, queues, entries, .. } in &vm.vdevs {
        let kind = lower(kind);
        say(format_args!("  virtual       {kind}, {queues} queues of {entries} entries"));
    }
    let config::Unknown { ports, mmio, msrs } = vm.unknown;
    let (ports, mmio, msrs) = (lower(&ports), lower(&mmio), lower(&msrs));
    say(format_args!("  unknown       ports {ports}, addresses {mmio}, MSRs {msrs}"));
    for line in about_cpuid(&vm.cpuid) {
        say(format_args!("  CPUID         {line}"));
    }
    for line in switches(vm) {
        say(format_args!("  {line}"));
    }
    Ok(())
}

/// RAM and, up to the last of it or 4 GiB, the holes between.
fn memory_map(layout: &GuestLayout) -> Vec<String> {
    let mut lines = Vec::new();
    let mut next = Gpa::ZERO;
    let mut range = |from: Gpa, to: Gpa, what: &str| {
        let bytes = to.raw() - from.raw();
        if bytes > 0 {
            let last = to.raw() - 1;
            lines.push(format!("{:#012x}-{last:#012x}  {what}, {}", from.raw(), Size(bytes)));
        }
    };
    let used = |ram: &RamRange| ram.bytes > 0;
    for ram in layout.ranges().iter().filter(|ram| used(ram)) {
        range(next, ram.start, "no RAM: devices");
        range(ram.start, ram.end(), "RAM");
        next = ram.end();
    }
    if next < GuestLayout::HIGH_START {
        range(next, GuestLayout::HIGH_START, "no RAM: devices");
    }
    lines
}

/// What a kernel is, and the mode in which it starts.
fn about_kernel(kernel: &GuestKernel<'_>) -> (String, &'static str) {
    match kernel {
        GuestKernel::Linux(header) => (about_linux(header), "64-bit mode"),
        GuestKernel::Pvh(..) => ("ELF with a PVH entry".to_owned(), "32-bit mode"),
        GuestKernel::Multiboot(_) => ("Multiboot".to_owned(), "32-bit mode"),
    }
}

fn about_linux(header: &BzImage<'_>) -> String {
    let version = header.version.map_or("no version".into(), |version| format!("{version:?}"));
    let place = if header.relocatable { "relocatable" } else { "at its own place only" };
    let (major, minor) = (header.protocol >> 8, header.protocol & 0xff);
    format!("bzImage, boot protocol {major}.{minor:02}, {place}, {version}")
}

/// The parts of a kernel that have places of their own.
fn segments(kernel: &GuestKernel<'_>) -> Vec<String> {
    let line = |segment: Segment| {
        let (start, last) = (segment.paddr, segment.end().saturating_sub(1));
        format!("{start:#012x}-{last:#012x}  {} bytes of the file", segment.file.len())
    };
    match kernel {
        GuestKernel::Linux(_) => Vec::new(),
        GuestKernel::Pvh(elf, _) => elf.segments().map(line).collect(),
        GuestKernel::Multiboot(image) => image.segments().map(line).collect(),
    }
}

fn about_initrd(name: &str, bytes: &[u8]) -> String {
    let mut parts = Vec::new();
    // Other systems than Linux take any file.
    let disk = initrd::parse(bytes).unwrap_or(Initrd { plain_archives: 0, compressed: None });
    match disk.plain_archives {
        0 => {}
        1 => parts.push("a plain cpio archive".to_owned()),
        count => parts.push(format!("{count} plain cpio archives")),
    }
    if let Some(format) = disk.compressed {
        parts.push(format!("an archive packed by {}", packer(format)));
    }
    let what = if parts.is_empty() { "a module".to_owned() } else { parts.join(", then ") };
    format!("{name}, {} bytes: {what}", bytes.len())
}

fn about_cpuid(cpuid: &Cpuid) -> Vec<String> {
    let bits = cpuid.physical_bits.map(|bits| format!("physical addresses of {bits} bits at most"));
    let khz = cpuid.tsc_khz.map(|khz| format!("a time-stamp counter of {khz} kHz"));
    let masks = cpuid.mask.iter().map(|mask| {
        let subleaf = mask.subleaf.map_or(String::new(), |subleaf| format!(".{subleaf}"));
        let registers =
            [("EAX", mask.eax), ("EBX", mask.ebx), ("ECX", mask.ecx), ("EDX", mask.edx)];
        let hidden = registers.iter().filter(|(_, stays)| *stays != u32::MAX);
        let hidden = words(hidden.map(|(name, stays)| format!("{name} {:#010x}", !stays)));
        format!("leaf {:#x}{subleaf} without {hidden}", mask.leaf)
    });
    bits.into_iter().chain(khz).chain(masks).collect()
}

fn packer(format: Format) -> &'static str {
    match format {
        Format::Cpio => "nothing",
        Format::Gzip => "gzip",
        Format::Bzip2 => "bzip2",
        Format::Lzma => "lzma",
        Format::Xz => "xz",
        Format::Lzo => "lzo",
        Format::Lz4 => "lz4",
        Format::Zstd => "zstd",
    }
}

/// What is not as usual.
fn switches(vm: &Vm) -> Vec<String> {
    let test = &vm.test;
    let withheld = test.withhold.iter().map(|source| match source {
        Withheld::Timer => "test          no timer interrupt reaches the guest",
        Withheld::Serial => "test          no serial interrupt reaches the guest",
    });
    let switches = [
        (
            vm.idle == config::Idle::InGuest,
            "idle          alone on its CPU, the guest waits without exits",
        ),
        (!vm.emulate.is_empty(), "emulates      movdir64b"),
        (vm.on_reset == config::OnReset::Restart, "on reset      the VM starts again"),
        (
            vm.on_fault == config::OnFault::StopDevice,
            "on fault      a device of it that is blocked does no more DMA",
        ),
        (vm.on_fault == config::OnFault::StopVm, "on fault      the VM ends"),
        (
            vm.reserved_devices,
            "devices       without the memory that the firmware reserves for them",
        ),
        (test.exit_port, "test          a byte written to port 0xf4 ends the guest"),
        (test.save_restore, "test          vCPUs are saved and restored all the time"),
        (test.views, "test          a second view of the memory"),
    ];
    let switches = switches.into_iter().filter(|(is_on, _)| *is_on).map(|(_, line)| line);
    switches.chain(withheld).map(str::to_owned).collect()
}

/// Guest memory that takes what lies in its RAM and keeps none of it.
struct NoBytes(GuestLayout);

impl NoBytes {
    fn holds(&self, gpa: Gpa, bytes: usize) -> Result<(), NoMemory> {
        let end = gpa.raw().saturating_add(bytes as u64);
        let inside = |ram: &RamRange| ram.start <= gpa && end <= ram.end().raw();
        self.0.ranges().iter().any(inside).then_some(()).ok_or(NoMemory(gpa))
    }
}

impl GuestMemory for NoBytes {
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory> {
        into.fill(0);
        self.holds(gpa, into.len())
    }

    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory> {
        self.holds(gpa, from.len())
    }
}

/// Bytes as a configuration spells them, in the largest unit that divides them.
pub(crate) struct Size(pub(crate) u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        let unit =
            units.into_iter().find(|(bytes, _)| self.0 >= *bytes && self.0.is_multiple_of(*bytes));
        let (bytes, name) = unit.unwrap_or((1, "bytes"));
        write!(f, "{} {name}", self.0 / bytes)
    }
}

#[cfg(test)]
mod tests;
