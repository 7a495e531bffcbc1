//! The default Linux guest's initial RAM disk: busybox, device nodes and `init.sh`, as a newc cpio archive.
//!
//! [`build`] is the whole interface. The same inputs give the same bytes: inode numbers count up, times and owners are 0.
//! The format is that of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.

use std::fs;
use std::path::{Path, PathBuf};

/// What the guest runs first. It prints `KERF-CHECK name ok|FAIL detail` for each check, then `KERF-GUEST-OK` or
/// `KERF-GUEST-FAIL names`.
const INIT: &[u8] = include_bytes!("initrd/init.sh");
/// What a Linux runs that is to show its driver of Intel DSA, with the same marks.
const IDXD: &[u8] = include_bytes!("initrd/idxd.sh");

/// Folders to make; the first five are where `init.sh` mounts file systems.
const FOLDERS: [&str; 10] =
    ["dev", "proc", "sys", "tmp", "root", "bin", "etc", "mnt", "lib", "lib64"];

/// Names by which `init.sh` calls busybox before it may install the rest of them.
const APPLETS: [&str; 35] = [
    "awk",
    "cat",
    "cttyhack",
    "cut",
    "dd",
    "devmem",
    "dmesg",
    "echo",
    "grep",
    "head",
    "hostname",
    "insmod",
    "ip",
    "ls",
    "md5sum",
    "mkdosfs",
    "mount",
    "nc",
    "nproc",
    "ping",
    "poweroff",
    "rm",
    "rmmod",
    "sed",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "taskset",
    "test",
    "tr",
    "umount",
    "usleep",
    "wc",
    "xzcat",
];

/// Modes of a folder, a program, a plain file, a device node.
pub(crate) const FOLDER: u32 = 0o040_755;
pub(crate) const PROGRAM: u32 = 0o100_755;
pub(crate) const PLAIN: u32 = 0o100_644;
const LINK: u32 = 0o120_777;
pub(crate) const CHARACTER_DEVICE: u32 = 0o020_600;

/// The archive, uncompressed: unpacking would cost an emulated guest more than reading.
///
/// `busybox` must be a static x86-64 executable. A `nonce` becomes the file `/nonce`, whose SHA-256 the guest prints as
/// `KERF-NONCE hash` once its checks have passed. Of the `modules`, compressed by xz, it loads those that it
/// finds devices for, and checks these. `programs` and their libraries go where their paths say.
///
/// # Errors
/// Names the file that cannot be read or is no such executable.
pub(crate) fn build(
    busybox: &Path,
    nonce: Option<&str>,
    modules: &[PathBuf],
    programs: &[(String, PathBuf)],
) -> Result<Vec<u8>, String> {
    with(INIT, busybox, nonce, modules, programs)
}

/// The archive of a Linux that shows its driver of Intel DSA, whose `modules` are that.
///
/// # Errors
/// As for [`build`].
pub(crate) fn of_idxd(busybox: &Path, modules: &[PathBuf]) -> Result<Vec<u8>, String> {
    with(IDXD, busybox, None, modules, &[])
}

fn with(
    init: &[u8],
    busybox: &Path,
    nonce: Option<&str>,
    modules: &[PathBuf],
    programs: &[(String, PathBuf)],
) -> Result<Vec<u8>, String> {
    let read = |path: &Path| fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    let program = read(busybox)?;
    if !is_static_x86_64(&program) {
        return Err(format!(
            "{}: not a static x86-64 executable; the package busybox-static has one",
            busybox.display()
        ));
    }
    let mut archive = Archive::default();
    for folder in FOLDERS {
        archive.add(folder, FOLDER, (0, 0), &[]);
    }
    // What the kernel opens as init's standard files, before devtmpfs is there.
    archive.add("dev/console", CHARACTER_DEVICE, (5, 1), &[]);
    archive.add("dev/null", CHARACTER_DEVICE, (1, 3), &[]);
    archive.add("bin/busybox", PROGRAM, (0, 0), &program);
    for applet in APPLETS {
        archive.add(&format!("bin/{applet}"), LINK, (0, 0), b"busybox");
    }
    archive.add("init", PROGRAM, (0, 0), init);
    if let Some(nonce) = nonce {
        archive.add("nonce", PLAIN, (0, 0), nonce.as_bytes());
    }
    if !modules.is_empty() {
        archive.add("modules", FOLDER, (0, 0), &[]);
    }
    for module in modules {
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.add(&format!("modules/{name}"), PLAIN, (0, 0), &read(module)?);
    }
    for (name, path) in programs {
        archive.add(name, PROGRAM, (0, 0), &read(path)?);
    }
    Ok(archive.finish())
}

/// An ELF-64 for x86-64 without a program header of type PT_INTERP (System V gABI, chapters 4 and 5).
fn is_static_x86_64(file: &[u8]) -> bool {
    const PT_INTERP: u32 = 3;
    let half = |at: usize| Some(u16::from_le_bytes(file.get(at..at + 2)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_le_bytes(file.get(at..at + 4)?.try_into().ok()?));
    let has_interpreter = || {
        let table = usize::try_from(word(32)?).ok()?;
        let (entry_bytes, count) = (usize::from(half(54)?), usize::from(half(56)?));
        (0..count)
            .map(|index| word(table + index * entry_bytes))
            .try_fold(false, |found, kind| Some(found || kind? == PT_INTERP))
    };
    file.starts_with(b"\x7fELF\x02\x01") && half(18) == Some(62) && has_interpreter() == Some(false)
}

/// A newc archive being written.
#[derive(Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Archive {
    /// Appends an entry. `device` is major and minor number of a device node, `content` a file's bytes or a link's target.
    pub(crate) fn add(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inodes += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        self.entry(name, self.inodes, mode, links, device, content);
    }

    fn entry(
        &mut self,
        name: &str,
        inode: u32,
        mode: u32,
        links: u32,
        device: (u32, u32),
        content: &[u8],
    ) {
        let size = u32::try_from(content.len()).expect("a file of the initrd is below 4 GiB");
        let name_bytes = u32::try_from(name.len() + 1).expect("names are short");
        // inode, mode, uid, gid, links, time, size, device of the file system (2), device (2), name's size, checksum.
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_bytes, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08X}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad(4);
        self.bytes.extend_from_slice(content);
        self.pad(4);
    }

    fn pad(&mut self, to: usize) {
        self.bytes.resize(self.bytes.len().next_multiple_of(to), 0);
    }

    /// Closes the archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, 0, 1, (0, 0), &[]);
        self.pad(512);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    /// Enough of an ELF to pass: header, one program header of the given type.
    fn elf(program_header_type: u32) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[18] = 62;
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64..68].copy_from_slice(&program_header_type.to_le_bytes());
        file
    }

    /// Name -> mode and content, read back by the format's own rules.
    fn unpack(archive: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut entries = BTreeMap::new();
        let mut at = 0;
        loop {
            assert_eq!(&archive[at..at + 6], b"070701");
            let field = |index: usize| {
                let digits = &archive[at + 6 + index * 8..at + 14 + index * 8];
                u32::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap()
            };
            let (mode, size, name_bytes) = (field(1), field(6) as usize, field(11) as usize);
            let name =
                String::from_utf8(archive[at + 110..at + 110 + name_bytes - 1].to_vec()).unwrap();
            let content = (at + 110 + name_bytes).next_multiple_of(4);
            at = (content + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                return entries;
            }
            let old = entries.insert(name, (mode, archive[content..content + size].to_vec()));
            assert!(old.is_none());
        }
    }

    fn with_busybox<T>(content: &[u8], test: impl FnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("busybox");
        fs::write(&path, content).unwrap();
        test(&path)
    }

    #[test]
    fn archive_holds_init_busybox_links_and_nonce() {
        let archive = with_busybox(&elf(1), |path| build(path, Some("17"), &[], &[]).unwrap());
        let checked = images::initrd::parse(&archive).unwrap();
        assert_eq!((checked.plain_archives, checked.compressed), (1, None));
        let entries = unpack(&archive);
        assert_eq!(entries["init"], (PROGRAM, INIT.to_vec()));
        assert_eq!(entries["bin/busybox"], (PROGRAM, elf(1)));
        assert_eq!(entries["bin/sh"], (LINK, b"busybox".to_vec()));
        assert_eq!(entries["nonce"], (PLAIN, b"17".to_vec()));
        assert_eq!(entries["dev/console"].0, CHARACTER_DEVICE);
    }

    #[test]
    fn same_inputs_give_the_same_bytes_and_no_nonce_no_file() {
        with_busybox(&elf(1), |path| {
            let archive = build(path, None, &[], &[]).unwrap();
            assert_eq!(archive, build(path, None, &[], &[]).unwrap());
            assert!(!unpack(&archive).contains_key("nonce"));
        });
    }

    #[test]
    fn dynamic_or_damaged_busybox_is_refused_by_name() {
        for content in [elf(3), elf(1)[..64].to_vec(), b"#!/bin/sh".to_vec(), vec![]] {
            let error = with_busybox(&content, |path| build(path, None, &[], &[]).unwrap_err());
            assert!(error.contains("busybox: not a static"), "{error}");
        }
        assert!(
            build(Path::new("/nonexistent/busybox"), None, &[], &[])
                .unwrap_err()
                .contains("/nonexistent/busybox")
        );
    }
}
