//! Why Kerf did not start. Displayed, each names the file, the reason and the remedy in one line.

use alloc::string::String;
use core::fmt;

use config::ConfigError;
use images::{acpi_table, elf, guest, initrd, sums};
use uefi::Status;

use crate::load::{CONFIG, KERNEL, SUMS};

/// The first thing that went wrong. Names of files are relative to `EFI/kerf`.
#[derive(Debug)]
pub(crate) enum Error {
    /// The volume that the program was started from cannot be read.
    Volume(Status),
    /// It has no folder `EFI/kerf`.
    Folder(Status),
    /// A file that is needed is not there.
    Missing(String),
    /// A folder where a file belongs.
    NotFile(String),
    /// The firmware could not read it.
    Read(String, Status),
    /// It ended early: bytes that its directory entry promises, bytes read.
    Short(String, usize, usize),
    /// No bytes.
    Empty(String),
    /// Its bytes are not those that `SHA256SUMS` lists.
    Damaged(String),
    /// `SHA256SUMS` does not list it.
    Unlisted(String),
    /// `SHA256SUMS` itself.
    Sums(sums::Error),
    /// `kernel.elf`.
    Kernel(elf::Error),
    /// `kernel.elf` is linked for this address.
    KernelAddress(u64),
    /// A text file that is not UTF-8.
    NotText(String),
    /// `kerf.toml`.
    Config(ConfigError),
    /// A guest's kernel.
    GuestKernel(String, guest::Error),
    /// A guest's RAM disk.
    Initrd(String, initrd::Error),
    /// An additional ACPI table.
    AcpiTable(String, acpi_table::Error),
    /// A name of more bytes than the record holds.
    LongName(String),
    /// The firmware has no memory left: for what, and how many bytes.
    Memory(String, usize),
    /// The CPU lacks this.
    Cpu(&'static str),
    /// The firmware uses five-level page tables.
    FiveLevels,
}

const AGAIN: &str = "copy it to the boot volume again";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Volume(status) => {
                write!(
                    f,
                    "boot volume: the firmware cannot read it ({status}); start from a FAT volume"
                )
            }
            Self::Folder(status) => {
                write!(
                    f,
                    "EFI/kerf: no such folder on the boot volume ({status}); make the image again"
                )
            }
            Self::Missing(name) if name == KERNEL || name == CONFIG => {
                file(f, name, "no such file", AGAIN)
            }
            Self::Missing(name) => {
                file(f, name, "no such file", "put it there, or correct its name in kerf.toml")
            }
            Self::NotFile(name) => file(f, name, "is a folder", "put the file there"),
            Self::Read(name, status) => {
                file(f, name, format_args!("reading failed ({status})"), "check the disk")
            }
            Self::Short(name, promised, read) => file(
                f,
                name,
                format_args!("ended after {read} of {promised} bytes"),
                "check the disk's file system",
            ),
            Self::Empty(name) => file(f, name, "is empty", AGAIN),
            Self::Damaged(name) => {
                let remedy = "copy it again, or renew SHA256SUMS if the change was meant";
                file(f, name, "damaged: differs from its sum in SHA256SUMS", remedy)
            }
            Self::Unlisted(name) => {
                file(f, name, "has no sum in SHA256SUMS", "add its line, or delete SHA256SUMS")
            }
            Self::Sums(error) => file(f, SUMS, error, "renew it with sha256sum"),
            Self::Kernel(error) => file(f, KERNEL, error, AGAIN),
            Self::KernelAddress(address) => {
                let reason = format_args!("is linked for {address:#x}");
                file(f, KERNEL, reason, "take kernel and boot application from one build")
            }
            Self::NotText(name) => {
                file(f, name, "is not UTF-8 text", "write it with a text editor")
            }
            Self::Config(error) => write!(f, "EFI/kerf/{error}"),
            Self::GuestKernel(name, error) => {
                file(f, name, error, "copy it again, or name another kernel in kerf.toml")
            }
            Self::Initrd(name, error) => {
                file(f, name, error, "copy it again, or name another initrd in kerf.toml")
            }
            Self::AcpiTable(name, error) => file(f, name, error, "copy it again, or remove it"),
            Self::LongName(name) => file(f, name, "its name is too long", "rename it"),
            Self::Memory(what, bytes) => {
                write!(f, "{what}: the firmware has no {bytes} bytes of memory for it; add memory")
            }
            Self::Cpu(feature) => {
                write!(f, "CPU: it lacks {feature}; Kerf needs a CPU that has it")
            }
            Self::FiveLevels => write!(
                f,
                "CPU: the firmware uses five-level page tables; turn them off in its setup (LA57)"
            ),
        }
    }
}

fn file(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    reason: impl fmt::Display,
    remedy: &str,
) -> fmt::Result {
    write!(f, "EFI/kerf/{name}: {reason}; {remedy}")
}
