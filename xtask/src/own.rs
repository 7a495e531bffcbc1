//! Files of the user's own, in place of those that xtask finds or fetches: each by an option or by a variable of the
//! environment.

use std::path::PathBuf;
use std::sync::OnceLock;

use crate::explain::{Explain as _, advise};

/// A thing that beds and guests are made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    Qemu,
    Ovmf,
    Bochs,
    BochsOvmf,
    Vgabios,
    Linux,
    Busybox,
}

/// All of them.
pub(crate) const OWN: [Own; 7] =
    [Own::Qemu, Own::Ovmf, Own::Bochs, Own::BochsOvmf, Own::Vgabios, Own::Linux, Own::Busybox];

impl Own {
    /// The variable that names it.
    pub(crate) const fn variable(self) -> &'static str {
        match self {
            Self::Qemu => "KERF_QEMU",
            Self::Ovmf => "KERF_OVMF",
            Self::Bochs => "KERF_BOCHS",
            Self::BochsOvmf => "KERF_BOCHS_OVMF",
            Self::Vgabios => "KERF_VGABIOS",
            Self::Linux => "KERF_LINUX",
            Self::Busybox => "KERF_BUSYBOX",
        }
    }

    /// The option that names it.
    pub(crate) const fn option(self) -> &'static str {
        match self {
            Self::Qemu => "--qemu",
            Self::Ovmf => "--ovmf",
            Self::Bochs => "--bochs",
            Self::BochsOvmf => "--bochs-ovmf",
            Self::Vgabios => "--vgabios",
            Self::Linux => "--linux",
            Self::Busybox => "--busybox",
        }
    }

    /// What will do.
    pub(crate) const fn wanted(self) -> &'static str {
        match self {
            Self::Qemu => "QEMU 11.1 or newer (qemu-system-x86_64)",
            Self::Ovmf => "UEFI firmware for QEMU (OVMF.fd, code and variables in one file)",
            Self::Bochs => "Bochs 3.0 with its plugins",
            Self::BochsOvmf => "UEFI firmware for Bochs (an OVMF.fd of exactly 2 MiB)",
            Self::Vgabios => "a VGA BIOS for Bochs (vgabios.bin)",
            Self::Linux => "a Linux kernel for the default guest (a bzImage, 6.1 or newer)",
            Self::Busybox => "a static busybox",
        }
    }

    /// The file that the user named, by option or else by variable, and which of them it was.
    ///
    /// # Errors
    /// There is no such file.
    pub(crate) fn path(self) -> Result<Option<(PathBuf, &'static str)>, String> {
        let by_option = FILES.get().and_then(|files| files.of(self).cloned());
        let by_variable =
            || std::env::var_os(self.variable()).filter(|path| !path.is_empty()).map(PathBuf::from);
        let named = by_option.map(|path| (path, self.option()));
        let Some((path, by)) = named.or_else(|| by_variable().map(|path| (path, self.variable())))
        else {
            return Ok(None);
        };
        if path.is_file() {
            let path = path.canonicalize().explain(|| path.display().to_string())?;
            return Ok(Some((path, by)));
        }
        let what = format!("{by}: no such file: {}", path.display());
        Err(advise(what, format!("correct it, or leave {by} out")))
    }
}

/// What the command line names.
static FILES: OnceLock<Files> = OnceLock::new();

/// Files in place of those that are found or fetched.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Files of your own [environment: KERF_QEMU, KERF_OVMF, …]")]
pub(crate) struct Files {
    /// QEMU 11.1 or newer.
    #[arg(long, value_name = "FILE", global = true)]
    qemu: Option<PathBuf>,
    /// UEFI firmware for QEMU.
    #[arg(long, value_name = "FILE", global = true)]
    ovmf: Option<PathBuf>,
    /// Bochs 3.0.
    #[arg(long, value_name = "FILE", global = true)]
    bochs: Option<PathBuf>,
    /// UEFI firmware of 2 MiB for Bochs.
    #[arg(long, value_name = "FILE", global = true)]
    bochs_ovmf: Option<PathBuf>,
    /// VGA BIOS for Bochs.
    #[arg(long, value_name = "FILE", global = true)]
    vgabios: Option<PathBuf>,
    /// Linux for the default guest, a bzImage.
    #[arg(long, value_name = "FILE", global = true)]
    linux: Option<PathBuf>,
    /// A static busybox for the default guest.
    #[arg(long, value_name = "FILE", global = true)]
    busybox: Option<PathBuf>,
}

impl Files {
    /// Has everything that follows use these files.
    pub(crate) fn set(&self) {
        // Called once, at the start.
        let _ = FILES.set(self.clone());
    }

    fn of(&self, own: Own) -> Option<&PathBuf> {
        match own {
            Own::Qemu => &self.qemu,
            Own::Ovmf => &self.ovmf,
            Own::Bochs => &self.bochs,
            Own::BochsOvmf => &self.bochs_ovmf,
            Own::Vgabios => &self.vgabios,
            Own::Linux => &self.linux,
            Own::Busybox => &self.busybox,
        }
        .as_ref()
    }
}
