//! A guest's kernel of whichever kind: what a file is, told from its bytes.

use core::fmt;

use crate::{
    bzimage::{self, BzImage},
    guest_elf::{self, GuestElf},
    multiboot::{self, Multiboot},
};

/// By which protocol a kernel is started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Linux's 64-bit boot protocol.
    Linux,
    /// Xen's PVH.
    Pvh,
    /// Multiboot 1.
    Multiboot,
}

/// A kernel, its headers checked.
#[derive(Clone, Debug)]
pub enum GuestKernel<'a> {
    /// A bzImage.
    Linux(BzImage<'a>),
    /// An ELF file with a PVH entry: the entry's physical address.
    Pvh(GuestElf<'a>, u32),
    /// A file with a Multiboot header.
    Multiboot(Multiboot<'a>),
}

/// Why a file cannot be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// As a bzImage.
    Linux(bzimage::Error),
    /// As a PVH kernel.
    Pvh(guest_elf::Error),
    /// As a Multiboot kernel.
    Multiboot(multiboot::Error),
    /// An ELF file that is neither PVH nor Multiboot.
    PlainElf,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linux(error) => write!(f, "{error}"),
            Self::Pvh(error) => write!(f, "{error}"),
            Self::Multiboot(error) => write!(f, "{error}"),
            Self::PlainElf => write!(
                f,
                "an ELF file with neither a PVH entry note nor a Multiboot header in its first 8 KiB"
            ),
        }
    }
}

impl core::error::Error for Error {}

impl<'a> GuestKernel<'a> {
    /// Reads and checks a kernel for this protocol, or for the one that its bytes call for.
    ///
    /// # Errors
    /// What is wrong with it. A file of no known kind is called no bzImage, the usual one.
    pub fn parse(file: &'a [u8], protocol: Option<Protocol>) -> Result<Self, Error> {
        let pvh = |elf: GuestElf<'a>| {
            elf.pvh_entry().map(|entry| Self::Pvh(elf, entry)).map_err(Error::Pvh)
        };
        match protocol {
            Some(Protocol::Linux) => bzimage::parse(file).map(Self::Linux).map_err(Error::Linux),
            Some(Protocol::Pvh) => GuestElf::parse(file).map_err(Error::Pvh).and_then(pvh),
            Some(Protocol::Multiboot) => {
                Multiboot::parse(file).map(Self::Multiboot).map_err(Error::Multiboot)
            }
            None if !file.starts_with(b"\x7fELF") => {
                let is_multiboot = Multiboot::is_there(file)
                    && bzimage::parse(file) == Err(bzimage::Error::NotLinux);
                let protocol = if is_multiboot { Protocol::Multiboot } else { Protocol::Linux };
                Self::parse(file, Some(protocol))
            }
            None => match GuestElf::parse(file).map_err(Error::Pvh).and_then(pvh) {
                Err(Error::Pvh(guest_elf::Error::NoPvhEntry)) if Multiboot::is_there(file) => {
                    Self::parse(file, Some(Protocol::Multiboot))
                }
                Err(Error::Pvh(guest_elf::Error::NoPvhEntry)) => Err(Error::PlainElf),
                result => result,
            },
        }
    }
}
