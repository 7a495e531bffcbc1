//! The partition table of a disk image: a protective MBR, and a GPT at both ends with one EFI system partition (UEFI 2.10,
//! 5.2.3 and 5.3).

use std::collections::BTreeMap;
use std::io::Cursor;

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::mbr::ProtectiveMBR;
use gpt::partition::Partition;
use gpt::partition_types;
use uuid::{Builder, Uuid};

use crate::explain::Explain as _;
use crate::image::SECTOR;

/// Where the partition starts, and the unit of its length: 1 MiB, what partitioning tools align to.
pub(super) const ALIGNMENT: u64 = 1 << 20;
/// At the disk's end: the backup header and its array of 128 entries of 128 bytes, the least that UEFI allows.
pub(super) const BACKUP_BYTES: u64 = SECTOR + 128 * 128;

/// Writes the tables around the partition of `bytes` bytes that `image` has at [`ALIGNMENT`]. Disk and partition are
/// named after `digest`: two images on one machine are told apart, and the same contents are the same image.
pub(super) fn write(mut image: Vec<u8>, bytes: u64, digest: [u8; 32]) -> Result<Vec<u8>, String> {
    let what = || "cannot write the partition table";
    let [disk, partition] = names(digest);
    let sectors = image.len() as u64 / SECTOR;
    // A disk of more sectors than the field can say has all ones there.
    let protected = u32::try_from(sectors - 1).unwrap_or(u32::MAX);
    let mbr = ProtectiveMBR::with_lb_size(protected).to_bytes();
    image[..mbr.len()].copy_from_slice(&mbr);
    let mut table = GptConfig::new()
        .writable(true)
        .logical_block_size(LogicalBlockSize::Lb512)
        .create_from_device(Cursor::new(image), Some(disk))
        .explain(what)?;
    let first_lba = ALIGNMENT / SECTOR;
    let esp = Partition {
        part_type_guid: partition_types::EFI,
        part_guid: partition,
        first_lba,
        last_lba: first_lba + bytes / SECTOR - 1,
        flags: 0,
        name: "EFI system partition".into(),
    };
    table.update_partitions(BTreeMap::from([(1, esp)])).explain(what)?;
    Ok(table.write().explain(what)?.into_inner())
}

/// The GUIDs of disk and partition: version 8 of RFC 9562, whose contents are the maker's.
fn names(digest: [u8; 32]) -> [Uuid; 2] {
    let (disk, partition) = digest.split_at(16);
    [disk, partition].map(|half| {
        let mut bytes = [0; 16];
        bytes.copy_from_slice(half);
        Builder::from_custom_bytes(bytes).into_uuid()
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use gpt::GptDisk;
    use std::ops::Range;

    fn open(image: &[u8]) -> GptDisk<Cursor<Vec<u8>>> {
        GptConfig::new()
            .only_valid_headers(true)
            .logical_block_size(LogicalBlockSize::Lb512)
            .open_from_device(Cursor::new(image.to_vec()))
            .unwrap()
    }

    /// The bytes of the one partition, after the tables at both ends were found sound.
    pub(in crate::image) fn only_partition(image: &[u8]) -> Range<usize> {
        let disk = open(image);
        let used: Vec<_> = disk.partitions().values().filter(|entry| entry.is_used()).collect();
        let [esp] = used[..] else { panic!("{used:?}") };
        assert_eq!(esp.part_type_guid, partition_types::EFI);
        assert!(esp.last_lba <= disk.header().last_usable);
        let backup = disk.backup_header().unwrap();
        assert_eq!(backup.current_lba, image.len() as u64 / SECTOR - 1);
        let sector = |lba: u64| usize::try_from(lba * SECTOR).unwrap();
        sector(esp.first_lba)..sector(esp.last_lba + 1)
    }

    pub(in crate::image) fn disk_name(image: &[u8]) -> Uuid {
        *open(image).guid()
    }

    #[test]
    fn the_protective_mbr_covers_the_whole_disk() {
        let image = write(vec![0; 4 << 20], 1 << 20, [5; 32]).unwrap();
        assert_eq!(image.len(), 4 << 20);
        // Its only record (UEFI 2.10, table 5.4): type 0xee, from sector 1 to the last.
        assert_eq!(image[510..512], [0x55, 0xaa]);
        assert_eq!(image[446 + 4], 0xee);
        assert_eq!(image[446 + 8..446 + 16], [1, 0, 0, 0, 0xff, 0x1f, 0, 0]);
        assert!(image[446 + 16..510].iter().all(|byte| *byte == 0));
        assert_eq!(only_partition(&image), 1 << 20..2 << 20);
    }

    #[test]
    fn a_partition_that_reaches_the_backup_table_still_leaves_it_whole() {
        let bytes = ALIGNMENT + (1 << 20) + BACKUP_BYTES;
        let image = write(vec![0; usize::try_from(bytes).unwrap()], 1 << 20, [5; 32]).unwrap();
        assert_eq!(only_partition(&image), 1 << 20..2 << 20);
    }
}
