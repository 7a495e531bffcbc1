//! Files of the boot volume, below `\EFI\kerf`.

use alloc::{borrow::ToOwned, format, string::String, vec::Vec};

use sha2::{Digest, Sha256};
use uefi::{
    CStr16, CString16, Status, boot, cstr16,
    proto::media::file::{
        Directory, File, FileAttribute, FileHandle, FileInfo, FileMode, RegularFile,
    },
};

use crate::{console, error::Error, memory};

/// The folder that holds all of Kerf's files.
const FOLDER: &CStr16 = cstr16!("\\EFI\\kerf");
/// Bytes read at once: some firmware fails at larger reads, and each prints one dot.
const CHUNK: usize = 1 << 20;

/// The open folder.
pub(crate) struct Volume {
    folder: Directory,
}

/// A file in memory, and the SHA-256 of its bytes where that was asked for.
pub(crate) struct Contents {
    pub(crate) bytes: &'static [u8],
    pub(crate) sum: Option<[u8; 32]>,
}

impl Volume {
    /// Opens the folder on the volume that the firmware loaded this program from.
    pub(crate) fn open() -> Result<Self, Error> {
        let mut root = boot::get_image_file_system(boot::image_handle())
            .and_then(|mut file_system| file_system.open_volume())
            .map_err(|error| Error::Volume(error.status()))?;
        let folder = root
            .open(FOLDER, FileMode::Read, FileAttribute::empty())
            .map_err(|error| Error::Folder(error.status()))?;
        let folder = folder.into_directory().ok_or(Error::Folder(Status::INVALID_PARAMETER))?;
        Ok(Self { folder })
    }

    /// Reads a file that has to be there.
    pub(crate) fn read(&mut self, name: &str, summed: bool) -> Result<Contents, Error> {
        self.read_if_present(name, summed)?.ok_or_else(|| Error::Missing(name.to_owned()))
    }

    /// Reads a file; `None` where there is none of that name.
    pub(crate) fn read_if_present(
        &mut self,
        name: &str,
        summed: bool,
    ) -> Result<Option<Contents>, Error> {
        let Some(handle) = self.open_handle(name)? else { return Ok(None) };
        let mut file = handle.into_regular_file().ok_or_else(|| Error::NotFile(name.to_owned()))?;
        let info = file
            .get_boxed_info::<FileInfo>()
            .map_err(|error| Error::Read(name.to_owned(), error.status()))?;
        let size = usize::try_from(info.file_size()).unwrap_or(usize::MAX);
        read_all(&mut file, name, size, summed).map(Some)
    }

    /// The names of the files in a folder that end in `suffix`, sorted; none where there is no such folder.
    pub(crate) fn list(&mut self, folder: &str, suffix: &str) -> Result<Vec<String>, Error> {
        let Some(mut folder_handle) =
            self.open_handle(folder)?.and_then(FileHandle::into_directory)
        else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        while let Some(info) = folder_handle
            .read_entry_boxed()
            .map_err(|error| Error::Read(folder.to_owned(), error.status()))?
        {
            let name: String = info.file_name().into();
            let matches = name.to_ascii_lowercase().ends_with(suffix);
            if matches && !info.attribute().contains(FileAttribute::DIRECTORY) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn open_handle(&mut self, name: &str) -> Result<Option<FileHandle>, Error> {
        // A name that UCS-2 cannot spell is not on the volume.
        let Ok(path) = CString16::try_from(name.replace('/', "\\").as_str()) else {
            return Ok(None);
        };
        match self.folder.open(&path, FileMode::Read, FileAttribute::empty()) {
            Ok(handle) => Ok(Some(handle)),
            Err(error) if error.status() == Status::NOT_FOUND => Ok(None),
            Err(error) => Err(Error::Read(name.to_owned(), error.status())),
        }
    }
}

fn read_all(
    file: &mut RegularFile,
    name: &str,
    size: usize,
    summed: bool,
) -> Result<Contents, Error> {
    let memory = memory::allocate(size, &format!("EFI/kerf/{name}"))?;
    let (bytes, _) = memory.split_at_mut(size);
    let mut hasher = summed.then(Sha256::new);
    console::part(format_args!("kerf-boot: loading {name} ({size} bytes)"));
    let mut done = 0;
    let outcome = bytes.chunks_mut(CHUNK).try_for_each(|chunk| {
        let read =
            file.read(chunk).map_err(|error| Error::Read(name.to_owned(), error.status()))?;
        done += read;
        if read < chunk.len() {
            return Err(Error::Short(name.to_owned(), size, done));
        }
        if let Some(hasher) = &mut hasher {
            hasher.update(&*chunk);
        }
        if done < size {
            console::part(format_args!("."));
        }
        Ok(())
    });
    console::part(format_args!("\n"));
    outcome?;
    Ok(Contents { bytes, sum: hasher.map(|hasher| hasher.finalize().into()) })
}
