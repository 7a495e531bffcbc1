//! Which files are loaded, and that each is what it should be.
//!
//! All names are relative to `\EFI\kerf`: `kernel.elf`, `kerf.toml`, what `kerf.toml` names, `acpi/*.aml`; and, where they
//! exist, `SHA256SUMS`, which must then list every other file, `cmdline`, the hypervisor's command line, and `kernel.sym`,
//! what the kernel names its functions by.

use alloc::{borrow::ToOwned, format, string::String, vec::Vec};

use boot_info::{BootFile, FileKind};
use images::{
    acpi_table,
    elf::Kernel,
    guest::{GuestKernel, Protocol},
    initrd,
    sums::Sums,
};

use crate::{
    console,
    error::Error,
    firmware,
    volume::{Contents, Volume},
};

pub(crate) const KERNEL: &str = "kernel.elf";
pub(crate) const SUMS: &str = "SHA256SUMS";
pub(crate) const CONFIG: &str = "kerf.toml";
const SYMBOLS: &str = "kernel.sym";
const COMMAND_LINE: &str = "cmdline";
const ACPI_FOLDER: &str = "acpi";

/// What the configuration may name fits into the record.
const _: () = assert!(config::MAX_PATH_BYTES <= BootFile::NAME_BYTES);

/// Everything that was loaded, checked.
pub(crate) struct Loaded {
    pub(crate) kernel: Kernel<'static>,
    /// For the record, in the order of loading.
    pub(crate) files: Vec<File>,
    pub(crate) command_line: String,
}

/// A file that the kernel gets.
pub(crate) struct File {
    name: String,
    kind: FileKind,
    pub(crate) bytes: &'static [u8],
}

impl File {
    /// The file's entry in the record.
    pub(crate) fn entry(&self) -> BootFile {
        let mut name = [0; BootFile::NAME_BYTES];
        // `add` let no longer name in.
        name[..self.name.len()].copy_from_slice(self.name.as_bytes());
        BootFile {
            hpa: self.bytes.as_ptr() as u64,
            bytes: self.bytes.len() as u64,
            kind: self.kind as u32,
            name_bytes: self.name.len() as u32,
            name,
        }
    }
}

/// Loads all files.
pub(crate) fn everything(volume: &mut Volume) -> Result<Loaded, Error> {
    let sums = match volume.read_if_present(SUMS, false)? {
        Some(contents) => Some(Sums::parse(contents.bytes).map_err(Error::Sums)?),
        None => None,
    };
    let mut loader = Loader { volume, sums, files: Vec::new() };
    let config_bytes = loader.add(CONFIG, FileKind::Config)?;
    let text = str::from_utf8(config_bytes).map_err(|_| Error::NotText(CONFIG.to_owned()))?;
    let config = config::parse(CONFIG, text).map_err(Error::Config)?;
    let kernel = Kernel::parse(loader.read(KERNEL)?).map_err(Error::Kernel)?;
    for vm in &config.vms {
        let mut is_linux = false;
        for (key, name) in vm.files() {
            let image = loader.add(name, FileKind::Guest)?;
            if key == "kernel" {
                let kernel = GuestKernel::parse(image, protocol(vm.loader))
                    .map_err(|error| Error::GuestKernel(name.to_owned(), error))?;
                is_linux = matches!(kernel, GuestKernel::Linux(_));
            } else if is_linux {
                initrd::parse(image).map_err(|error| Error::Initrd(name.to_owned(), error))?;
            }
        }
    }
    for name in loader.volume.list(ACPI_FOLDER, ".aml")? {
        let path = format!("{ACPI_FOLDER}/{name}");
        let table = loader.read(&path)?;
        if let Err(why) = acpi_table::parse(table) {
            // The machine's own tables may do.
            console::line(format_args!("warning: {}; skipped", Error::AcpiTable(path, why)));
            continue;
        }
        loader.keep(name, FileKind::AcpiTable, table)?;
    }
    loader.symbols()?;
    let command_line = loader.command_line()?;
    Ok(Loaded { kernel, files: loader.files, command_line })
}

/// How the configuration wants a kernel to be started; `None` where its file says so.
fn protocol(loader: config::Loader) -> Option<Protocol> {
    match loader {
        config::Loader::Auto => None,
        config::Loader::Linux => Some(Protocol::Linux),
        config::Loader::Pvh => Some(Protocol::Pvh),
        config::Loader::Multiboot => Some(Protocol::Multiboot),
    }
}

struct Loader<'a> {
    volume: &'a mut Volume,
    sums: Option<Sums<'static>>,
    files: Vec<File>,
}

impl Loader<'_> {
    /// Reads a file for the record, once whatever how often it is named.
    fn add(&mut self, name: &str, kind: FileKind) -> Result<&'static [u8], Error> {
        let same = |file: &&File| file.name == name && file.kind == kind;
        if let Some(file) = self.files.iter().find(same) {
            return Ok(file.bytes);
        }
        let bytes = self.read(name)?;
        self.keep(name.to_owned(), kind, bytes)?;
        Ok(bytes)
    }

    fn keep(&mut self, name: String, kind: FileKind, bytes: &'static [u8]) -> Result<(), Error> {
        if name.len() > BootFile::NAME_BYTES {
            return Err(Error::LongName(name));
        }
        self.files.push(File { name, kind, bytes });
        Ok(())
    }

    /// Reads a file that has to be there, and compares its sum where there are sums.
    fn read(&mut self, name: &str) -> Result<&'static [u8], Error> {
        let contents = self.volume.read(name, self.sums.is_some())?;
        self.verified(name, contents)
    }

    fn verified(&self, name: &str, contents: Contents) -> Result<&'static [u8], Error> {
        if let (Some(sums), Some(sum)) = (&self.sums, contents.sum) {
            let listed = sums.lookup(name).ok_or_else(|| Error::Unlisted(name.to_owned()))?;
            if sum != listed {
                return Err(Error::Damaged(name.to_owned()));
            }
        }
        if contents.bytes.is_empty() {
            return Err(Error::Empty(name.to_owned()));
        }
        Ok(contents.bytes)
    }

    /// The kernel's symbols: only a panic would miss them.
    fn symbols(&mut self) -> Result<(), Error> {
        let summed = self.sums.is_some();
        if let Some(contents) = self.volume.read_if_present(SYMBOLS, summed)? {
            let bytes = self.verified(SYMBOLS, contents)?;
            self.keep(SYMBOLS.to_owned(), FileKind::Symbols, bytes)?;
        }
        Ok(())
    }

    /// The file `cmdline`, else the options that the firmware started this program with.
    fn command_line(&mut self) -> Result<String, Error> {
        let summed = self.sums.is_some();
        let Some(contents) = self.volume.read_if_present(COMMAND_LINE, summed)? else {
            return Ok(firmware::load_options());
        };
        let bytes = self.verified(COMMAND_LINE, contents)?;
        let text = str::from_utf8(bytes).map_err(|_| Error::NotText(COMMAND_LINE.to_owned()))?;
        Ok(text.trim().to_owned())
    }
}
