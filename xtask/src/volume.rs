//! What the boot volume holds, before it becomes an image: paths and contents, sums included.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::{elf, symbols};

/// Where the firmware looks for what to start (UEFI 2.10, 3.5.1.1).
pub(crate) const BOOT: &str = "EFI/BOOT/BOOTX64.EFI";
/// The folder of all other files.
pub(crate) const FOLDER: &str = "EFI/kerf";
/// Kerf's kernel, in [`FOLDER`].
pub(crate) const KERNEL: &str = "kernel.elf";
/// What the kernel names its functions by, in [`FOLDER`].
pub(crate) const SYMBOLS: &str = "kernel.sym";
/// The configuration, in [`FOLDER`].
pub(crate) const CONFIG: &str = "kerf.toml";
/// Sums of all files of [`FOLDER`], in the format of sha256sum(1).
pub(crate) const SUMS: &str = "SHA256SUMS";

/// The boot volume's files, by path from its root, `/` between the parts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Volume {
    files: BTreeMap<String, Vec<u8>>,
}

impl Volume {
    /// A volume with boot application, kernel and configuration, not sealed yet.
    pub(crate) fn new(boot: Vec<u8>, kernel: Vec<u8>, config: &str) -> Self {
        let mut volume = Self::default();
        volume.files.insert(BOOT.into(), boot);
        if let Some(table) = symbols::table(&kernel) {
            volume.insert(SYMBOLS, table);
        }
        volume.insert(KERNEL, elf::strip(kernel));
        volume.insert(CONFIG, config.into());
        volume
    }

    /// A volume that has nothing to do with Kerf: files by their paths from its root.
    pub(crate) fn foreign(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        Self { files: files.into_iter().collect() }
    }

    /// Adds or replaces a file, by its path inside Kerf's own folder.
    pub(crate) fn insert(&mut self, path: &str, bytes: Vec<u8>) {
        self.files.insert(format!("{FOLDER}/{path}"), bytes);
    }

    /// Takes a file out, by its path inside Kerf's own folder.
    pub(crate) fn remove(&mut self, path: &str) -> Option<Vec<u8>> {
        self.files.remove(&format!("{FOLDER}/{path}"))
    }

    /// A file's contents to change, by its path inside Kerf's own folder; damage done after sealing shows.
    pub(crate) fn file_mut(&mut self, path: &str) -> Option<&mut Vec<u8>> {
        self.files.get_mut(&format!("{FOLDER}/{path}"))
    }

    /// Writes the sums of what Kerf's own folder holds now.
    pub(crate) fn seal(&mut self) {
        let folder = format!("{FOLDER}/");
        let mut sums = String::new();
        for (path, bytes) in &self.files {
            let Some(name) = path.strip_prefix(&folder).filter(|name| *name != SUMS) else {
                continue;
            };
            for byte in Sha256::digest(bytes) {
                let _ = write!(sums, "{byte:02x}");
            }
            let _ = writeln!(sums, "  {name}");
        }
        self.insert(SUMS, sums.into_bytes());
    }

    /// All files: path from the volume's root, contents.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice()))
    }

    /// A digest of all files, names and contents.
    pub(crate) fn digest(&self) -> [u8; 32] {
        let mut all = Sha256::new();
        for (path, bytes) in &self.files {
            for part in [path.as_bytes(), bytes.as_slice()] {
                all.update((part.len() as u64).to_le_bytes());
                all.update(part);
            }
        }
        all.finalize().into()
    }

    /// The bytes of all files together.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.values().map(|bytes| bytes.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_sha256sum() {
        let mut volume = Volume::new(b"boot".to_vec(), b"abc".to_vec(), "");
        volume.seal();
        let sums = String::from_utf8(volume.remove(SUMS).unwrap()).unwrap();
        assert_eq!(
            sums,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  kerf.toml\n\
             ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  kernel.elf\n"
        );
    }
}
