//! Private roots: emulators, firmware and the guest's Linux, unpacked from Debian packages into the cache.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::apt::{self, Archive, OWN_FILES, Package};
use crate::cache::Cache;
use crate::explain::{Explain as _, advise};
use crate::own::Own;
use crate::process;

/// A private root and what goes into it.
struct Root {
    name: &'static str,
    /// For messages.
    what: &'static str,
    suite: &'static str,
    packages: &'static [&'static str],
    take: Take,
}

/// How much of the packages is kept.
enum Take {
    /// All that `packages` depend on, whole.
    All,
    /// Only packages whose names start so, and of them only these members (tar's patterns).
    Only { names: &'static [&'static str], members: &'static [&'static str] },
}

/// Raised when packages are unpacked in another way.
const RECIPE: u32 = 1;
const UNPACK_LIMIT: Duration = Duration::from_secs(5 * 60);

const QEMU: Root = Root {
    name: "qemu",
    what: "QEMU",
    suite: "trixie-backports",
    packages: &["qemu-system-x86"],
    take: Take::All,
};
const OVMF: Root = Root {
    name: "ovmf",
    what: "UEFI firmware for QEMU",
    suite: "trixie-backports",
    packages: &["ovmf"],
    take: Take::Only { names: &["ovmf"], members: &["./usr/share/ovmf/OVMF.fd"] },
};
const BOCHS: Root = Root {
    name: "bochs",
    what: "Bochs",
    suite: "trixie",
    packages: &["bochs", "bochsbios", "vgabios"],
    take: Take::All,
};
const BOCHS_OVMF: Root = Root {
    name: "bochs-ovmf",
    what: "UEFI firmware for Bochs",
    suite: "bookworm",
    packages: &["ovmf"],
    take: Take::Only { names: &["ovmf"], members: &["./usr/share/ovmf/OVMF.fd"] },
};
/// Where the guest's Linux is from.
pub(crate) const LINUX_SUITE: &str = "bookworm-backports";
const LINUX: Root = Root {
    name: "linux-6.12-drivers",
    what: "the guest's Linux 6.12 and busybox",
    suite: LINUX_SUITE,
    packages: &["linux-image-amd64", "busybox-static"],
    take: Take::Only {
        names: &["linux-image-6.12", "busybox-static"],
        members: &[
            "./boot/vmlinuz-*",
            "./bin/busybox",
            "./usr/bin/busybox",
            "./lib/modules/*/arch/x86/kvm/kvm*",
            "./lib/modules/*/drivers/block/virtio_blk.ko*",
            "./lib/modules/*/drivers/crypto/ccp/ccp.ko*",
            "./lib/modules/*/drivers/dca/*",
            "./lib/modules/*/drivers/dma/idxd/*",
            "./lib/modules/*/drivers/i2c/algos/i2c-algo-bit.ko*",
            "./lib/modules/*/drivers/net/ethernet/intel/igb/*",
            "./lib/modules/*/drivers/net/ethernet/intel/igbvf/*",
            "./lib/modules/*/drivers/net/net_failover.ko*",
            "./lib/modules/*/drivers/net/virtio_net.ko*",
            "./lib/modules/*/drivers/nvme/*",
            "./lib/modules/*/fs/fat/*",
            "./lib/modules/*/fs/nls/nls_ascii.ko*",
            "./lib/modules/*/fs/nls/nls_cp437.ko*",
            "./lib/modules/*/net/core/failover.ko*",
            "./lib/modules/*/virt/lib/irqbypass*",
        ],
    },
};

const PCIUTILS: Root = Root {
    name: "pciutils",
    what: "lspci for the guest",
    suite: "bookworm",
    packages: &["pciutils"],
    take: Take::Only {
        names: &[
            "pciutils", "libpci3", "libkmod2", "zlib1g", "libzstd1", "liblzma5", "libssl3",
            "libudev1", "libc6",
        ],
        members: &[
            "./usr/bin/lspci",
            "./lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
            "./lib/x86_64-linux-gnu/libc.so.6",
            "./lib/x86_64-linux-gnu/libresolv.so.2",
            "./lib/x86_64-linux-gnu/libkmod.so.2*",
            "./lib/x86_64-linux-gnu/liblzma.so.5*",
            "./lib/x86_64-linux-gnu/libudev.so.1*",
            "./lib/x86_64-linux-gnu/libz.so.1*",
            "./usr/lib/x86_64-linux-gnu/libcrypto.so.3",
            "./usr/lib/x86_64-linux-gnu/libkmod.so.2*",
            "./usr/lib/x86_64-linux-gnu/libpci.so.3*",
            "./usr/lib/x86_64-linux-gnu/libudev.so.1*",
            "./usr/lib/x86_64-linux-gnu/libzstd.so.1*",
        ],
    },
};

/// KVM's modules in an order in which each finds what it needs.
const KVM_MODULES: [&str; 5] = [
    "virt/lib/irqbypass",
    "arch/x86/kvm/kvm",
    "drivers/crypto/ccp/ccp",
    "arch/x86/kvm/kvm-amd",
    "arch/x86/kvm/kvm-intel",
];

/// Drivers of devices that a guest can be given; its first program loads those that it needs.
const DRIVERS: [&str; 15] = [
    "drivers/nvme/common/nvme-auth",
    "drivers/nvme/host/nvme-core",
    "drivers/nvme/host/nvme",
    "drivers/i2c/algos/i2c-algo-bit",
    "drivers/dca/dca",
    "drivers/net/ethernet/intel/igb/igb",
    "drivers/net/ethernet/intel/igbvf/igbvf",
    "net/core/failover",
    "drivers/net/net_failover",
    "drivers/net/virtio_net",
    "drivers/block/virtio_blk",
    "fs/nls/nls_cp437",
    "fs/nls/nls_ascii",
    "fs/fat/fat",
    "fs/fat/vfat",
];

/// The driver of Intel DSA, in the order in which to load it.
const IDXD: [&str; 2] = ["drivers/dma/idxd/idxd_bus", "drivers/dma/idxd/idxd"];

/// A Linux that can be a hypervisor.
#[derive(Clone, Debug)]
pub(crate) struct LinuxKvm {
    /// Debian's kernel, a bzImage that the firmware can start.
    pub(crate) kernel: PathBuf,
    /// KVM's modules, compressed, in the order in which to load them.
    pub(crate) modules: Vec<PathBuf>,
}

/// The guest's Linux.
#[derive(Clone, Debug)]
pub(crate) struct Linux {
    /// Debian's kernel, a bzImage.
    pub(crate) kernel: PathBuf,
    /// A static busybox.
    pub(crate) busybox: PathBuf,
    /// Drivers, compressed; none for the user's own kernel.
    pub(crate) drivers: Vec<PathBuf>,
}

/// The root of QEMU's package, with all it depends on.
pub(crate) fn qemu(cache: &Cache) -> Result<PathBuf, String> {
    QEMU.fetch(cache)
}

/// The root of Bochs' packages.
pub(crate) fn bochs(cache: &Cache) -> Result<PathBuf, String> {
    BOCHS.fetch(cache)
}

/// The UEFI firmware for QEMU, or the user's own.
pub(crate) fn ovmf(cache: &Cache) -> Result<PathBuf, String> {
    own(Own::Ovmf, || Ok(OVMF.fetch(cache)?.join("usr/share/ovmf/OVMF.fd")))
}

/// The UEFI firmware for Bochs, of 2 MiB, or the user's own.
pub(crate) fn bochs_ovmf(cache: &Cache) -> Result<PathBuf, String> {
    let path = own(Own::BochsOvmf, || Ok(BOCHS_OVMF.fetch(cache)?.join("usr/share/ovmf/OVMF.fd")))?;
    let bytes = fs::metadata(&path).explain(|| path.display().to_string())?.len();
    if bytes == 2 << 20 {
        return Ok(path);
    }
    Err(advise(
        format!(
            "{}: Bochs needs a firmware of exactly 2 MiB, and this one has {bytes} bytes",
            path.display()
        ),
        "name the OVMF.fd of Debian 12's package ovmf by --bochs-ovmf or KERF_BOCHS_OVMF",
    ))
}

/// Debian's Linux and busybox, or the user's own.
pub(crate) fn linux(cache: &Cache) -> Result<Linux, String> {
    let (kernel, drivers) = match Own::Linux.path()? {
        Some((path, _)) => (path, Vec::new()),
        None => {
            let root = LINUX.fetch(cache)?;
            (kernel(&root)?, modules(&root, &DRIVERS)?)
        }
    };
    let busybox = own(Own::Busybox, || {
        let root = LINUX.fetch(cache)?;
        let path = ["bin/busybox", "usr/bin/busybox"]
            .iter()
            .map(|name| root.join(name))
            .find(|path| path.exists());
        path.explain(|| format!("no busybox in {}", root.display()))
    })?;
    Ok(Linux { kernel, busybox, drivers })
}

/// Debian's Linux with its KVM.
pub(crate) fn linux_kvm(cache: &Cache) -> Result<LinuxKvm, String> {
    let root = LINUX.fetch(cache)?;
    Ok(LinuxKvm { kernel: kernel(&root)?, modules: modules(&root, &KVM_MODULES)? })
}

/// The modules of Debian's driver of Intel DSA, compressed, in the order in which to load them.
pub(crate) fn idxd(cache: &Cache) -> Result<Vec<PathBuf>, String> {
    modules(&LINUX.fetch(cache)?, &IDXD)
}

/// `lspci` and what it is linked with: where each goes in a guest's root, and where it lies.
pub(crate) fn lspci(cache: &Cache) -> Result<Vec<(String, PathBuf)>, String> {
    const LOADER: &str = "ld-linux-x86-64.so.2";
    const LIBRARIES: [&str; 9] = [
        "c.so.6",
        "resolv.so.2",
        "pci.so.3",
        "kmod.so.2",
        "z.so.1",
        "lzma.so.5",
        "zstd.so.1",
        "crypto.so.3",
        "udev.so.1",
    ];
    let root = PCIUTILS.fetch(cache)?;
    let find = |name: &str| {
        let folders = ["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"].map(|at| root.join(at));
        let path = folders.into_iter().map(|folder| folder.join(name)).find(|path| path.exists());
        path.explain(|| format!("no {name} in {}", root.display()))
    };
    let mut files = vec![
        ("bin/lspci".to_owned(), root.join("usr/bin/lspci")),
        (format!("lib64/{LOADER}"), find(LOADER)?),
    ];
    for library in LIBRARIES.map(|name| format!("lib{name}")) {
        let path = find(&library)?;
        files.push((format!("lib/{library}"), path));
    }
    Ok(files)
}

fn kernel(root: &Path) -> Result<PathBuf, String> {
    let boot = root.join("boot");
    first_with_prefix(&boot, "vmlinuz-6.12")
        .explain(|| format!("no vmlinuz-6.12 in {}", boot.display()))
}

/// The release of Debian's Linux, as its modules know it.
pub(crate) fn linux_release(cache: &Cache) -> Result<String, String> {
    let folder = release(&LINUX.fetch(cache)?)?;
    Ok(folder.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// The folder of modules, which has its release's name.
fn release(root: &Path) -> Result<PathBuf, String> {
    let versions = root.join("lib/modules");
    first_with_prefix(&versions, "6.12").explain(|| format!("no 6.12 in {}", versions.display()))
}

fn modules(root: &Path, names: &[&str]) -> Result<Vec<PathBuf>, String> {
    let folder = release(root)?.join("kernel");
    Ok(names.iter().map(|name| folder.join(format!("{name}.ko.xz"))).collect())
}

/// Whether the cache has it already.
pub(crate) fn is_cached(cache: &Cache, own: Own) -> bool {
    let root = match own {
        Own::Qemu => QEMU,
        Own::Ovmf => OVMF,
        Own::Bochs | Own::Vgabios => BOCHS,
        Own::BochsOvmf => BOCHS_OVMF,
        Own::Linux | Own::Busybox => LINUX,
    };
    cache.has(root.name, &root.recipe())
}

/// The user's own file, else what `fetch` finds.
fn own(own: Own, fetch: impl FnOnce() -> Result<PathBuf, String>) -> Result<PathBuf, String> {
    own.path()?.map_or_else(fetch, |(path, _)| Ok(path))
}

fn first_with_prefix(dir: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .ok()?
        .flatten()
        .filter(|file| file.file_name().to_string_lossy().starts_with(prefix))
        .map(|file| file.path())
        .collect();
    found.sort();
    found.pop()
}

impl Root {
    /// The root, fetched if it is not there yet.
    fn fetch(&self, cache: &Cache) -> Result<PathBuf, String> {
        cache.entry(self.name, &self.recipe(), |dir| self.make(dir))
    }

    fn recipe(&self) -> String {
        let members = match &self.take {
            Take::All => String::new(),
            Take::Only { members, .. } => format!(" {}", members.join(" ")),
        };
        format!("{} {} {RECIPE}{members}", self.suite, self.packages.join(" "))
    }

    fn make(&self, dir: &Path) -> Result<(), String> {
        let work = dir.join(".apt");
        let archive = Archive::open(&work, self.suite, self.what)?;
        let packages = archive.resolve(self.packages)?;
        match &self.take {
            Take::All => archive.unpack(&packages, |deb| unpack(deb, dir))?,
            Take::Only { names, members } => {
                let is_wanted =
                    |package: &Package| names.iter().any(|name| package.name.starts_with(name));
                let packages: Vec<Package> = packages.into_iter().filter(is_wanted).collect();
                if packages.len() != names.len() {
                    return Err(advise(
                        format!(
                            "cannot fetch {}: {} does not have {} any more",
                            self.what,
                            self.suite,
                            names.join(" and ")
                        ),
                        OWN_FILES,
                    ));
                }
                archive.unpack(&packages, |deb| extract_present(deb, dir, members))?;
            }
        }
        for unused in [".apt", "usr/share/doc", "usr/share/man", "usr/share/locale"] {
            let path = dir.join(unused);
            if path.exists() {
                fs::remove_dir_all(&path)
                    .explain(|| format!("cannot remove {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn unpack(deb: &Path, dir: &Path) -> Result<(), String> {
    let mut command = process::leashed("dpkg-deb");
    command.arg("-x").arg(deb).arg(dir);
    process::run(&mut command, UNPACK_LIMIT, |_| {})?
        .success(format!("cannot unpack {}", deb.display()))
        .map(|_| ())
}

/// Of `members`, unpacks those that the package has: each package has its own few.
pub(crate) fn extract_present(deb: &Path, dir: &Path, members: &[&str]) -> Result<(), String> {
    let mut list = process::leashed("dpkg-deb");
    list.arg("--contents").arg(deb);
    let contents = process::run(&mut list, UNPACK_LIMIT, |_| {})?
        .success(format!("cannot read {}", deb.display()))?;
    let present: Vec<&str> = members
        .iter()
        .filter(|member| {
            contents.lines().any(|line| {
                line.contains(&format!(" {}", member.split('*').next().unwrap_or_default()))
            })
        })
        .copied()
        .collect();
    if present.is_empty() {
        return Err(format!("{} has none of {}", deb.display(), members.join(" ")));
    }
    apt::extract(deb, dir, &present)
}
