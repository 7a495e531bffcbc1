//! Disk images: [`write_superfloppy`] for the beds, [`write_disk`] for a machine.
//!
//! Both hold the boot volume as FAT32: the first is that volume alone (the firmware of both beds, and of machines, starts
//! from one), the second has it as the EFI system partition of a GPT disk (UEFI 2.10, 5.3 and 13.3). Their size follows
//! the contents. Two rules of others set the rest: Bochs takes a disk of whole cylinders, and a FAT with fewer than 65,525
//! clusters is not FAT32 (FAT specification 1.03, "FAT type determination"). The same contents are the same image.

mod table;

use std::io::{Cursor, Write as _};
use std::path::Path;

use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};

use crate::cache::write_whole;
use crate::explain::Explain as _;
use crate::volume::Volume;

const SECTOR: u64 = 512;
const HEADS: u16 = 16;
const SECTORS_PER_TRACK: u16 = 63;
/// The unit of a disk's size on Bochs: 516,096 bytes.
const CYLINDER: u64 = HEADS as u64 * SECTORS_PER_TRACK as u64 * SECTOR;
const LEAST_CLUSTERS: u64 = 65_525;
const RESERVED_SECTORS: u64 = 32;

/// Writes `volume` as an image without partitions, whole or not at all.
///
/// # Errors
/// The file cannot be written, or a path of the volume is none for FAT.
pub(crate) fn write_superfloppy(volume: &Volume, path: &Path) -> Result<(), String> {
    write_whole(path, &superfloppy(volume)?)
}

/// Writes `volume` as an image of a partitioned disk, whole or not at all.
///
/// # Errors
/// The file cannot be written, or a path of the volume is none for FAT.
pub(crate) fn write_disk(volume: &Volume, path: &Path) -> Result<(), String> {
    write_whole(path, &disk(volume)?)
}

fn superfloppy(volume: &Volume) -> Result<Vec<u8>, String> {
    let cluster = cluster_bytes(volume.bytes());
    let mut image = zeroes(fat_bytes(volume, cluster).next_multiple_of(CYLINDER))?;
    format(volume, cluster, &mut image)?;
    Ok(image)
}

fn disk(volume: &Volume) -> Result<Vec<u8>, String> {
    let cluster = cluster_bytes(volume.bytes());
    let partition = fat_bytes(volume, cluster).next_multiple_of(table::ALIGNMENT);
    let bytes = table::ALIGNMENT + partition + table::BACKUP_BYTES;
    let mut image = zeroes(bytes.next_multiple_of(CYLINDER))?;
    let start = usize::try_from(table::ALIGNMENT).explain(|| "the image is too large")?;
    let end = usize::try_from(table::ALIGNMENT + partition).explain(|| "the image is too large")?;
    format(volume, cluster, &mut image[start..end])?;
    table::write(image, partition, volume.digest())
}

fn zeroes(bytes: u64) -> Result<Vec<u8>, String> {
    Ok(vec![0; usize::try_from(bytes).explain(|| "the image is too large")?])
}

/// Makes a FAT32 volume of all of `space`, with the files.
fn format(volume: &Volume, cluster: u32, space: &mut [u8]) -> Result<(), String> {
    let mut space = Cursor::new(space);
    let options = FormatVolumeOptions::new()
        .fat_type(FatType::Fat32)
        .bytes_per_cluster(cluster)
        .heads(HEADS)
        .sectors_per_track(SECTORS_PER_TRACK)
        .volume_id(0x4b45_5246)
        .volume_label(*b"KERF       ");
    fatfs::format_volume(&mut space, options).explain(|| "cannot make the boot volume")?;
    // Without its chrono feature fatfs knows no time: the same contents are the same image.
    let filesystem =
        FileSystem::new(&mut space, FsOptions::new()).explain(|| "cannot make the boot volume")?;
    for (name, bytes) in volume.files() {
        add(&filesystem, name, bytes)
            .explain(|| format!("cannot put {name} on the boot volume"))?;
    }
    filesystem.unmount().explain(|| "cannot finish the boot volume")
}

fn add(
    filesystem: &FileSystem<&mut Cursor<&mut [u8]>>,
    name: &str,
    bytes: &[u8],
) -> std::io::Result<()> {
    let root = filesystem.root_dir();
    for (at, _) in name.match_indices('/') {
        root.create_dir(&name[..at])?;
    }
    let mut file = root.create_file(name)?;
    file.truncate()?;
    file.write_all(bytes)?;
    file.flush()
}

/// Larger clusters make the firmware's reading quicker, once there is enough to read.
fn cluster_bytes(contents: u64) -> u32 {
    let fits = |bytes: u32| contents / u64::from(bytes) >= LEAST_CLUSTERS;
    [4096, 2048, 1024].into_iter().find(|bytes| fits(*bytes)).unwrap_or(512)
}

/// Bytes in which the volume has room as a FAT with clusters of this size.
fn fat_bytes(volume: &Volume, cluster: u32) -> u64 {
    let cluster = u64::from(cluster);
    let files: u64 = volume.files().map(|(_, bytes)| (bytes.len() as u64).div_ceil(cluster)).sum();
    // Each folder takes clusters of its own, long names several entries: a sixteenth is ample.
    let clusters = (files + files / 16 + 64).max(LEAST_CLUSTERS + 64);
    let tables = 2 * (clusters * 4).next_multiple_of(SECTOR);
    let bytes = RESERVED_SECTORS * SECTOR + tables + clusters * cluster;
    // The formatter sizes the tables for the whole space, so leave them a little more.
    bytes + bytes / 64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;

    fn holds_all(fat: &[u8], volume: &Volume) {
        let filesystem = FileSystem::new(Cursor::new(fat.to_vec()), FsOptions::new()).unwrap();
        assert_eq!(filesystem.fat_type(), FatType::Fat32);
        for (name, bytes) in volume.files() {
            let mut read = Vec::new();
            filesystem.root_dir().open_file(name).unwrap().read_to_end(&mut read).unwrap();
            assert!(read == bytes, "{name}");
        }
    }

    fn volume(bytes: usize) -> Volume {
        let mut volume = Volume::new(b"boot".to_vec(), vec![7; bytes], "x = 1\n");
        volume.insert("guests/deep/a-long-name.with-dots.img", vec![9; 70_000]);
        volume.seal();
        volume
    }

    #[test]
    fn an_image_is_fat32_of_whole_cylinders_and_holds_its_files() {
        for bytes in [0, 1, 40_000_000, 80_000_000] {
            let volume = volume(bytes);
            let image = superfloppy(&volume).unwrap();
            assert_eq!(image.len() as u64 % CYLINDER, 0);
            assert!((image.len() as u64) < 40_000_000 + 2 * bytes as u64);
            holds_all(&image, &volume);
        }
    }

    #[test]
    fn a_disk_has_one_aligned_efi_system_partition_that_holds_the_files() {
        for bytes in [1, 80_000_000] {
            let volume = volume(bytes);
            let image = disk(&volume).unwrap();
            assert_eq!(image.len() as u64 % CYLINDER, 0);
            let bytes = table::tests::only_partition(&image);
            assert_eq!(bytes.start as u64 % table::ALIGNMENT, 0);
            holds_all(&image[bytes], &volume);
        }
    }

    #[test]
    fn the_same_contents_are_the_same_image() {
        let (one, other) = (volume(6), volume(7));
        assert!(superfloppy(&one).unwrap() == superfloppy(&one).unwrap());
        assert!(disk(&one).unwrap() == disk(&one).unwrap());
        let name = |volume| table::tests::disk_name(&disk(volume).unwrap());
        assert_ne!(name(&one), name(&other));
    }
}
