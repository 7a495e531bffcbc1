//! The machine description that a run or a test uses: `kerf.toml`'s text with the files it names.

use std::fs;
use std::path::{Path, PathBuf};

use config::{Config, Problem};

use crate::cache::write_whole;
use crate::explain::{Explain as _, advise};
use crate::sysroot::quote;
use crate::volume::{CONFIG, Volume};

/// A configuration's text and the files it names.
#[derive(Clone, Debug)]
pub(crate) struct Description {
    text: String,
    config: Config,
    /// Path as the configuration spells it, contents.
    files: Vec<(String, Vec<u8>)>,
}

/// One Linux guest, as the command line describes it.
#[derive(Clone, Debug)]
pub(crate) struct LinuxGuest {
    /// A bzImage.
    pub(crate) kernel: PathBuf,
    /// The initial RAM disk's contents.
    pub(crate) initrd: Option<Vec<u8>>,
    pub(crate) cmdline: String,
    /// As the configuration spells it: `256M`.
    pub(crate) memory: String,
    /// Lines of each `[[vm.device]]`.
    pub(crate) devices: &'static [&'static str],
    /// Lines of `[vm.test]`.
    pub(crate) test: String,
}

impl Description {
    /// Reads a configuration and the files it names, which lie beside it.
    ///
    /// # Errors
    /// The configuration's own error with file, line and key; or the file that cannot be read, and who names it.
    pub(crate) fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path)
            .explain(|| path.display().to_string())
            .map_err(|error| advise(error, "name the file of a configuration"))?;
        let name = path.display().to_string();
        let config = parse(&name, &text)?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        for (index, vm) in config.vms.iter().enumerate() {
            for (key, file) in vm.files() {
                if files.iter().any(|(known, _)| known == file) {
                    continue;
                }
                let path = folder.join(file);
                let bytes = fs::read(&path).map_err(|error| {
                    let what = format!("VM {:?} needs {}: {error}", vm.name, path.display());
                    config.wrong(index, key, Problem::Load(what)).to_string()
                })?;
                files.push((file.to_owned(), bytes));
            }
        }
        Ok(Self { text, config, files })
    }

    /// A configuration made of a text and its files.
    ///
    /// # Errors
    /// The text's.
    pub(crate) fn new(text: String, files: Vec<(String, Vec<u8>)>) -> Result<Self, String> {
        let config = parse(CONFIG, &text)?;
        Ok(Self { text, config, files })
    }

    /// The configuration with one Linux guest.
    ///
    /// # Errors
    /// A file cannot be read, or the configuration does not take the guest.
    pub(crate) fn linux(guest: &LinuxGuest) -> Result<Self, String> {
        let kernel = fs::read(&guest.kernel).explain(|| guest.kernel.display().to_string())?;
        let mut text = format!(
            "version = {}\n\n[hypervisor]\nlog = \"info\"\n\n[[vm]]\nname = \"linux\"\nmemory = {}\nkernel = \"vmlinuz\"\n",
            config::VERSION,
            quote(&guest.memory)
        );
        let mut files = vec![("vmlinuz".to_owned(), kernel)];
        if let Some(initrd) = &guest.initrd {
            text += "initrd = \"initrd.img\"\n";
            files.push(("initrd.img".into(), initrd.clone()));
        }
        text += &format!("cmdline = {}\n", quote(&guest.cmdline));
        for device in guest.devices {
            text += &format!("\n[[vm.device]]\n{device}\n");
        }
        if !guest.test.is_empty() {
            text += &format!("\n[vm.test]\n{}\n", guest.test);
        }
        Self::new(text, files)
    }

    /// The configuration.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// The contents of a file that the configuration names.
    pub(crate) fn file(&self, name: &str) -> &[u8] {
        self.files.iter().find(|(known, _)| known == name).map_or(&[], |(_, bytes)| bytes)
    }

    /// The boot volume: application, kernel, and all this, sealed.
    pub(crate) fn volume(&self, boot: Vec<u8>, kernel: Vec<u8>) -> Volume {
        let mut volume = Volume::new(boot, kernel, &self.text);
        for (name, bytes) in &self.files {
            volume.insert(name, bytes.clone());
        }
        volume.seal();
        volume
    }

    /// Writes it into a folder, as [`Self::read`] reads it; gives the configuration's path.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(crate) fn save(&self, folder: &Path) -> Result<PathBuf, String> {
        let path = folder.join(CONFIG);
        write_whole(&path, self.text.as_bytes())?;
        for (name, bytes) in &self.files {
            write_whole(&folder.join(name), bytes)?;
        }
        Ok(path)
    }

    /// MiB of a machine in which all this has room: the guests' memory, the files twice, and the firmware's and
    /// Kerf's own.
    pub(crate) fn memory_mib(&self) -> u64 {
        let guests: u64 = self.config.vms.iter().map(|vm| vm.memory_bytes).sum();
        let files: u64 = self.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        ((guests + 2 * files) >> 20).saturating_add(256).next_multiple_of(256).max(512)
    }
}

fn parse(name: &str, text: &str) -> Result<Config, String> {
    config::parse(name, text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_described_guest_is_a_valid_configuration() {
        let kernel = tempfile::NamedTempFile::new().unwrap();
        let guest = LinuxGuest {
            kernel: kernel.path().into(),
            initrd: Some(vec![1]),
            cmdline: r#"console=ttyS0 init="\x""#.into(),
            memory: "256M".into(),
            devices: &["class = 0x010802"],
            test: "withhold = [\"timer\"]".into(),
        };
        let description = Description::linux(&guest).unwrap();
        let vm = &description.config.vms[0];
        assert_eq!((vm.cmdline.as_str(), vm.memory_bytes), (guest.cmdline.as_str(), 256 << 20));
        assert_eq!((vm.initrd.as_deref(), vm.devices.len()), (Some("initrd.img"), 1));
        assert_eq!(description.memory_mib(), 512);
    }

    #[test]
    fn a_missing_file_is_named_with_who_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kerf.toml");
        fs::write(
            &path,
            "version = 1\n[[vm]]\nname = \"one\"\nmemory = \"64M\"\nkernel = \"gone\"\n",
        )
        .unwrap();
        let error = Description::read(&path).unwrap_err();
        assert!(
            error.contains("kerf.toml:5: vm.kernel: VM \"one\" needs ") && error.contains("gone"),
            "{error}"
        );
    }
}
