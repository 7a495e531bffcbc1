//! `cargo xtask config`: what a configuration will mean, found by the checks that boot application and loader make.

use std::fmt::{self, Write as _};
use std::path::Path;

use config::{Config, Vm, Withheld};
use hw::Gpa;
use images::bzimage::{self, BzImage};
use images::initrd::{self, Format, Initrd};
use vmm::loader::linux::{self, LinuxImage, LoadError};
use vmm::loader::{GuestLayout, RamRange};
use vmm::platform::acpi;
use vmm::{GuestMemory, NoMemory};

use crate::description::Description;

/// Prints what the configuration `path` means.
///
/// # Errors
/// What would not start, by file, line and key.
pub(crate) fn print(path: &Path) -> Result<(), String> {
    print!("{}", tell(&Description::read(path)?)?);
    Ok(())
}

/// Whether all VMs would start.
///
/// # Errors
/// What would not, by file, line and key.
pub(crate) fn check(description: &Description) -> Result<(), String> {
    tell(description).map(drop)
}

fn tell(description: &Description) -> Result<String, String> {
    let config = description.config();
    let mut text = String::new();
    let mut say = |line: fmt::Arguments<'_>| {
        // A string takes everything.
        let _ = writeln!(text, "{line}");
    };
    let Config { hypervisor, vms, .. } = config;
    let level = format!("{:?}", hypervisor.log).to_lowercase();
    say(format_args!("log level {level}, {} VM{}", vms.len(), if vms.len() == 1 { "" } else { "s" }));
    for (index, vm) in vms.iter().enumerate() {
        tell_vm(description, index, vm, &mut say)?;
    }
    Ok(text)
}

fn tell_vm(
    description: &Description,
    index: usize,
    vm: &Vm,
    say: &mut impl FnMut(fmt::Arguments<'_>),
) -> Result<(), String> {
    let wrong = |key, what: &dyn fmt::Display| description.wrong(index, key, what);
    let kernel = description.file(&vm.kernel);
    let initrd = vm.initrd.as_deref().map(|name| description.file(name));
    let header = bzimage::parse(kernel)
        .map_err(|error| wrong("kernel", &format_args!("{}: {error}", vm.kernel)))?;
    let disk = match (&vm.initrd, initrd) {
        (Some(name), Some(bytes)) => Some((
            name,
            bytes.len(),
            initrd::parse(bytes)
                .map_err(|error| wrong("initrd", &format_args!("{name}: {error}")))?,
        )),
        _ => None,
    };
    let layout = GuestLayout::new(vm.memory_bytes);
    let image = LinuxImage { kernel, initrd, cmdline: &vm.cmdline };
    let entry = linux::load(&NoBytes(layout), &layout, &image, &acpi::tables(1))
        .map_err(|error| wrong(key_of(&error), &error))?
        .rip;

    say(format_args!("VM {}", vm.name));
    say(format_args!("  CPUs          1"));
    say(format_args!("  memory        {}", Size(vm.memory_bytes)));
    for line in memory_map(&layout) {
        say(format_args!("    {line}"));
    }
    say(format_args!("  kernel        {}", about_kernel(&vm.kernel, kernel.len(), &header)));
    say(format_args!("    entered at  {entry:#x}"));
    match disk {
        Some((name, bytes, disk)) => {
            say(format_args!("  initrd        {}", about_initrd(name, bytes, disk)));
        }
        None => say(format_args!("  initrd        none")),
    }
    say(format_args!("  command line  {:?}", vm.cmdline));
    for line in switches(vm) {
        say(format_args!("  test          {line}"));
    }
    Ok(())
}

/// The key by whose value a guest does not load.
fn key_of(error: &LoadError) -> &'static str {
    match error {
        LoadError::Kernel(_) => "kernel",
        LoadError::CommandLineTooLong { .. } => "cmdline",
        // Files are as large as they are; the guest can have more memory.
        LoadError::KernelTooBig { .. }
        | LoadError::InitrdTooBig { .. }
        | LoadError::AcpiTooBig
        | LoadError::NoMemory(_) => "memory",
    }
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

fn about_kernel(name: &str, bytes: usize, header: &BzImage<'_>) -> String {
    let version = header.version.map_or("no version".into(), |version| format!("{version:?}"));
    let place = if header.relocatable { "relocatable" } else { "at its own place only" };
    format!(
        "{name}, {bytes} bytes: bzImage, boot protocol {}.{:02}, {place}, {version}",
        header.protocol >> 8,
        header.protocol & 0xff
    )
}

fn about_initrd(name: &str, bytes: usize, disk: Initrd) -> String {
    let mut parts = Vec::new();
    match disk.plain_archives {
        0 => {}
        1 => parts.push("a plain cpio archive".to_owned()),
        count => parts.push(format!("{count} plain cpio archives")),
    }
    if let Some(format) = disk.compressed {
        parts.push(format!("an archive packed by {}", packer(format)));
    }
    format!("{name}, {bytes} bytes: {}", parts.join(", then "))
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

fn switches(vm: &Vm) -> Vec<&'static str> {
    let withheld = vm.test.withhold.iter().map(|source| match source {
        Withheld::Timer => "no timer interrupt reaches the guest",
        Withheld::Serial => "no serial interrupt reaches the guest",
    });
    let port = vm.test.exit_port.then_some("a byte written to port 0xf4 ends guest and machine");
    port.into_iter().chain(withheld).collect()
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
struct Size(u64);

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
