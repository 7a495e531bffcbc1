//! From text to a checked [`Config`].

use alloc::{
    borrow::ToOwned,
    string::{String, ToString},
    vec::Vec,
};

use hw::{Function, RequesterId};
use toml::{Spanned, de::DeTable};

use crate::{
    Config, ConfigError, Device, Hosting, Hypervisor, Loader, Namespace, PathFault, Problem,
    RunMode, VERSION, Vdev, Vm,
    place::{Source, path_at},
    schema::{DeviceTable, File, HostingTable, HypervisorTable, VdevTable, VmTable},
};

/// Guest memory is mapped in pages of this many bytes.
pub const MEMORY_GRANULE: u64 = 2 << 20;
/// A guest's command line may have this many bytes: Linux on x86 keeps 2,048 with the terminating zero.
pub const MAX_CMDLINE_BYTES: usize = 2047;
/// A path may have this many bytes: what the hand-off record of the boot application holds.
pub const MAX_PATH_BYTES: usize = 232;
/// A VM may have this many vCPUs: xAPIC IDs have eight bits, and 255 means all.
pub const MAX_VCPUS: u32 = 255;
/// The lengths that a time slice may have, in microseconds: shorter ones would be spent on switching.
pub(crate) const SLICES_US: core::ops::RangeInclusive<u32> = 100..=1_000_000;
const DEFAULT_SLICE_US: u32 = 2000;
/// The widths of guest-physical addresses: PC devices lie below 4 GiB, and CPUID has no more than 52 bits.
pub(crate) const PHYSICAL_BITS: core::ops::RangeInclusive<u8> = 32..=52;

/// Reads and checks the text of a configuration; `file_name` is how messages call it.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(file_name: &str, text: &str) -> Result<Config, ConfigError> {
    let source = Source { file_name: file_name.to_owned(), text: text.to_owned() };
    let document = DeTable::parse(text).map_err(|error| {
        source.error(error.span().unwrap_or(0..0), "", Problem::Syntax(one_line(error.message())))
    })?;
    let document = document.get_ref();
    check_version(&source, document)?;
    if let Some((key, value)) = document.get_key_value("vm")
        && value.get_ref().is_table()
    {
        return Err(source.error(key.span(), "vm", Problem::VmNotList));
    }
    let file: File = toml::from_str(text).map_err(|error| {
        let span = error.span().unwrap_or(0..0);
        let (key, is_key) = path_at(document, span.start);
        let near = if is_key { key.rsplit('.').next().and_then(nearest_key) } else { None };
        let words = one_line(error.message()).replace(" field `", " key `");
        source.error(span, &key, Problem::Schema(words, near))
    })?;
    let hypervisor = check_hypervisor(&source, file.hypervisor)?;
    let hosting = file.hosting.into_iter().map(|table| check_hosting(&source, table));
    let hosting = hosting.collect::<Result<_, _>>()?;
    let vms = check_vms(&source, hypervisor.share_cpus, file.vm)?;
    if vms.is_empty() && hypervisor.mode == RunMode::Run {
        return Err(source.error(0..0, "vm", Problem::NoVm));
    }
    Ok(Config { hypervisor, hosting, vms, source })
}

fn check_hypervisor(source: &Source, table: HypervisorTable) -> Result<Hypervisor, ConfigError> {
    let slice_us = match table.slice_us {
        Some(slice) if !SLICES_US.contains(slice.get_ref()) => {
            let problem = Problem::Slice(*slice.get_ref());
            return Err(source.error(slice.span(), "hypervisor.slice-us", problem));
        }
        slice => slice.map_or(DEFAULT_SLICE_US, Spanned::into_inner),
    };
    Ok(Hypervisor {
        mode: table.mode,
        iommu: table.iommu,
        log: table.log,
        consoles: table.consoles,
        background: table.background,
        share_smt: table.share_smt,
        share_cpus: table.share_cpus,
        slice_us,
    })
}

fn check_version(source: &Source, document: &DeTable<'_>) -> Result<(), ConfigError> {
    let Some(value) = document.get("version") else {
        return Err(source.error(0..0, "version", Problem::NoVersion));
    };
    // A value of another type is left to the schema, which says so.
    let number = value
        .get_ref()
        .as_integer()
        .and_then(|integer| i64::from_str_radix(integer.as_str(), integer.radix()).ok());
    match number {
        Some(VERSION) | None => Ok(()),
        Some(other) => Err(source.error(value.span(), "version", Problem::Version(other))),
    }
}

fn check_vms(
    source: &Source,
    share_cpus: bool,
    tables: Vec<VmTable>,
) -> Result<Vec<Vm>, ConfigError> {
    let mut vms: Vec<Vm> = Vec::with_capacity(tables.len());
    for table in tables {
        let name_span = table.name.span();
        let pins: Vec<_> = table.cpus.iter().flat_map(|cpus| cpus.get_ref().clone()).collect();
        let device_spans: Vec<_> = table.device.iter().map(Spanned::span).collect();
        let vm = check_vm(source, table)?;
        check_owners(source, &vms, &vm, device_spans)?;
        if vms.iter().any(|earlier| earlier.name == vm.name) {
            return Err(source.error(name_span, "vm.name", Problem::DuplicateName(vm.name)));
        }
        let owner = |pin: &Spanned<u32>| {
            vms.iter().find(|vm| vm.cpus.iter().flatten().any(|cpu| cpu == pin.get_ref()))
        };
        if !share_cpus && let Some((pin, other)) = pins.iter().find_map(|p| Some((p, owner(p)?))) {
            let problem = Problem::PinShared(*pin.get_ref(), other.name.clone());
            return Err(source.error(pin.span(), "vm.cpus", problem));
        }
        vms.push(vm);
    }
    Ok(vms)
}

fn check_vm(source: &Source, table: VmTable) -> Result<Vm, ConfigError> {
    let checked = |value: Spanned<String>, key, check: fn(&str) -> Option<Problem>| {
        let span = value.span();
        let value = value.into_inner();
        check(&value).map_or(Ok(value), |problem| Err(source.error(span, key, problem)))
    };
    let memory_span = table.memory.span();
    let vcpus = check_vcpus(source, table.vcpus)?;
    let cpus = table.cpus.map(|cpus| check_pins(source, cpus, vcpus)).transpose()?;
    if let Some(module) = table.modules.first().filter(|_| table.loader == Loader::Linux) {
        return Err(source.error(module.span(), "vm.modules", Problem::LinuxModules));
    }
    let modules = table.modules.into_iter();
    if let Some(cpuid) = &table.cpuid
        && let Some(bits) = cpuid.get_ref().physical_bits
        && !PHYSICAL_BITS.contains(&bits)
    {
        let problem = Problem::PhysicalBits(bits);
        return Err(source.error(cpuid.span(), "vm.cpuid.physical-bits", problem));
    }
    Ok(Vm {
        name: checked(table.name, "vm.name", name_problem)?,
        vcpus,
        cpus,
        memory_bytes: memory_bytes(table.memory.get_ref())
            .map_err(|problem| source.error(memory_span, "vm.memory", problem))?,
        loader: table.loader,
        kernel: checked(table.kernel, "vm.kernel", path_problem)?,
        initrd: table.initrd.map(|path| checked(path, "vm.initrd", path_problem)).transpose()?,
        modules: modules
            .map(|path| checked(path, "vm.modules", path_problem))
            .collect::<Result<_, _>>()?,
        cmdline: table
            .cmdline
            .map(|line| checked(line, "vm.cmdline", cmdline_problem))
            .transpose()?
            .unwrap_or_default(),
        devices: table
            .device
            .into_iter()
            .map(|device| check_device(source, device))
            .collect::<Result<_, _>>()?,
        vdevs: table
            .vdev
            .into_iter()
            .map(|vdev| check_vdev(source, vdev))
            .collect::<Result<_, _>>()?,
        unknown: table.unknown,
        idle: table.idle,
        emulate: table.emulate,
        on_reset: table.on_reset,
        on_fault: table.on_fault,
        reserved_devices: table.reserved_devices,
        cpuid: table.cpuid.map(Spanned::into_inner).unwrap_or_default(),
        test: table.test,
    })
}

fn check_device(source: &Source, table: Spanned<DeviceTable>) -> Result<Device, ConfigError> {
    let span = table.span();
    let table = table.into_inner();
    if let Some(class) = table.class.as_ref().filter(|class| *class.get_ref() >> 24 != 0) {
        return Err(source.error(
            class.span(),
            "vm.device.class",
            Problem::Class(*class.get_ref()),
        ));
    }
    let function = |text: Spanned<String>, key| check_function(source, &text, key);
    let DeviceTable { vendor, device, namespace, namespace_bytes, .. } = table;
    let class = table.class.map(Spanned::into_inner);
    let is_like = vendor.is_some() || device.is_some() || class.is_some();
    let has_namespace = namespace.is_some() || namespace_bytes.is_some();
    match (table.function, table.virtual_function_of, is_like, has_namespace) {
        (Some(text), None, false, false) => {
            function(text, "vm.device.function").map(Device::Function)
        }
        (None, Some(text), false, _) if namespace.is_none() || namespace_bytes.is_none() => {
            let of = function(text, "vm.device.virtual-function-of")?;
            let namespace = match namespace_bytes {
                None => namespace.map(Namespace::Id),
                Some(text) => {
                    let bytes = size_of(text.get_ref()).map_err(|problem| {
                        source.error(text.span(), "vm.device.namespace-bytes", problem)
                    });
                    Some(Namespace::Bytes(bytes?))
                }
            };
            Ok(Device::Virtual { of, namespace })
        }
        (None, None, true, false) if class.is_some() && device.is_none() || vendor.is_some() => {
            Ok(Device::Like { vendor, device, class })
        }
        _ => Err(source.error(span, "vm.device", Problem::DeviceForm)),
    }
}

fn check_hosting(source: &Source, table: HostingTable) -> Result<Hosting, ConfigError> {
    let function = check_function(source, &table.function, "hosting.function")?;
    Ok(Hosting { function, queues: table.queues })
}

fn check_vdev(source: &Source, table: VdevTable) -> Result<Vdev, ConfigError> {
    let functions = table.functions.iter();
    Ok(Vdev {
        kind: table.kind,
        functions: functions
            .map(|function| check_function(source, function, "vm.vdev.functions"))
            .collect::<Result<_, _>>()?,
        queues: table.queues,
        entries: table.entries,
        interrupts: table.interrupts,
        version: table.version,
        spread: table.spread,
    })
}

fn check_function(
    source: &Source,
    text: &Spanned<String>,
    key: &'static str,
) -> Result<Function, ConfigError> {
    function_of(text.get_ref()).ok_or_else(|| {
        let problem = Problem::Function(text.get_ref().clone());
        source.error(text.span(), key, problem)
    })
}

/// `0000:01:00.0`, or without the segment.
fn function_of(text: &str) -> Option<Function> {
    let number = |text: &str, digits: usize, end: u16| {
        let is_number = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let number = u16::from_str_radix(text, 16).ok().filter(|_| is_number)?;
        (number <= end).then_some(number)
    };
    let mut parts = text.rsplit(':');
    let (device, function) = parts.next()?.split_once('.')?;
    let (device, function) = (number(device, 2, 0x1f)?, number(function, 1, 7)?);
    let bus = number(parts.next()?, 2, 0xff)?;
    let segment = parts.next().map_or(Some(0), |segment| number(segment, 4, u16::MAX))?;
    let rid = RequesterId::new(bus as u8, device as u8, function as u8);
    parts.next().is_none().then_some(Function { segment, rid })
}

/// A function has one owner.
fn check_owners(
    source: &Source,
    earlier: &[Vm],
    vm: &Vm,
    spans: Vec<core::ops::Range<usize>>,
) -> Result<(), ConfigError> {
    let mut own = Vec::new();
    for (device, span) in vm.devices.iter().zip(spans) {
        let Device::Function(function) = device else { continue };
        let other = earlier.iter().find(|other| other.devices.contains(device));
        let other = other.or_else(|| own.contains(function).then_some(vm));
        if let Some(other) = other {
            let problem = Problem::FunctionTaken(*function, other.name.clone());
            return Err(source.error(span, "vm.device", problem));
        }
        own.push(*function);
    }
    Ok(())
}

fn check_vcpus(source: &Source, vcpus: Option<Spanned<u32>>) -> Result<u32, ConfigError> {
    match vcpus {
        None => Ok(1),
        Some(count) if (1..=MAX_VCPUS).contains(count.get_ref()) => Ok(count.into_inner()),
        Some(count) => {
            Err(source.error(count.span(), "vm.vcpus", Problem::Vcpus(*count.get_ref())))
        }
    }
}

fn check_pins(
    source: &Source,
    pins: Spanned<Vec<Spanned<u32>>>,
    vcpus: u32,
) -> Result<Vec<u32>, ConfigError> {
    let (span, pins) = (pins.span(), pins.into_inner());
    if pins.len() != vcpus as usize {
        return Err(source.error(span, "vm.cpus", Problem::PinCount(pins.len(), vcpus)));
    }
    let mut cpus = Vec::with_capacity(pins.len());
    for pin in pins {
        if cpus.contains(pin.get_ref()) {
            let problem = Problem::PinTwice(*pin.get_ref());
            return Err(source.error(pin.span(), "vm.cpus", problem));
        }
        cpus.push(pin.into_inner());
    }
    Ok(cpus)
}

fn name_problem(name: &str) -> Option<Problem> {
    let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (name.is_empty() || !name.chars().all(good)).then(|| Problem::Name(name.to_owned()))
}

fn memory_bytes(text: &str) -> Result<u64, Problem> {
    let bytes = size_of(text)?;
    if bytes == 0 || !bytes.is_multiple_of(MEMORY_GRANULE) {
        return Err(Problem::Memory(text.to_owned()));
    }
    Ok(bytes)
}

/// Bytes of a size such as `256M`: a number, then K, M, G, T or nothing.
fn size_of(text: &str) -> Result<u64, Problem> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let shift = match text.strip_prefix(digits) {
        Some("") => 0,
        Some("K") => 10,
        Some("M") => 20,
        Some("G") => 30,
        Some("T") => 40,
        _ => return Err(Problem::Size(text.to_owned())),
    };
    Some(digits)
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok())
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| Problem::Size(text.to_owned()))
}

fn path_problem(path: &str) -> Option<Problem> {
    let forbidden =
        |c: char| c.is_control() || matches!(c, ':' | '*' | '?' | '"' | '<' | '>' | '|');
    let fault = if path.is_empty() {
        PathFault::Empty
    } else if path.contains('\\') {
        PathFault::Backslash
    } else if path.starts_with('/') {
        PathFault::Absolute
    } else if path.split('/').any(|part| part == "..") {
        PathFault::Parent
    } else if path.split('/').any(|part| part.is_empty() || part == ".") {
        PathFault::Part
    } else if let Some(character) = path.chars().find(|&c| forbidden(c)) {
        PathFault::Character(character)
    } else if path.len() > MAX_PATH_BYTES {
        PathFault::Length(path.len())
    } else {
        return None;
    };
    Some(Problem::Path(path.to_owned(), fault))
}

fn cmdline_problem(line: &str) -> Option<Problem> {
    if line.len() > MAX_CMDLINE_BYTES {
        return Some(Problem::CmdlineLength(line.len()));
    }
    line.chars().find(|c| c.is_control()).map(Problem::CmdlineCharacter)
}

/// The schema's key that is at most two edits away.
fn nearest_key(key: &str) -> Option<&'static str> {
    const KEYS: [&str; 58] = [
        "version",
        "hypervisor",
        "vm",
        "mode",
        "iommu",
        "log",
        "consoles",
        "background",
        "share-smt",
        "share-cpus",
        "slice-us",
        "name",
        "vcpus",
        "cpus",
        "memory",
        "loader",
        "kernel",
        "initrd",
        "modules",
        "cmdline",
        "vdev",
        "kind",
        "functions",
        "queues",
        "entries",
        "interrupts",
        "spread",
        "hosting",
        "device",
        "function",
        "vendor",
        "class",
        "virtual-function-of",
        "namespace",
        "namespace-bytes",
        "unknown",
        "ports",
        "mmio",
        "msrs",
        "idle",
        "on-reset",
        "on-fault",
        "reserved-devices",
        "cpuid",
        "mask",
        "physical-bits",
        "tsc-khz",
        "leaf",
        "subleaf",
        "eax",
        "ebx",
        "ecx",
        "edx",
        "test",
        "exit-port",
        "withhold",
        "save-restore",
        "views",
    ];
    KEYS.into_iter()
        .map(|known| (edits(key, known), known))
        .filter(|&(distance, known)| distance > 0 && distance <= known.len().min(6) / 3)
        .min()
        .map(|(_, known)| known)
}

/// Edit distance of two words (insertions, deletions, replacements).
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        next.push(i + 1);
        for ((pair, y), left) in row.windows(2).zip(&b).zip(0..) {
            let [diagonal, above] = *pair else { continue };
            let beside = next.get(left).copied().unwrap_or(usize::MAX - 1);
            next.push((diagonal + usize::from(x != *y)).min(above + 1).min(beside + 1));
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

/// The TOML reader's words in one line.
fn one_line(words: &str) -> String {
    words.lines().map(str::trim).collect::<Vec<_>>().join(", ").to_string()
}
