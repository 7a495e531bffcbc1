//! The formats, one file of bits each: [`Host`] for Kerf's own address space, [`Ept`] for the second stage of VT-x,
//! [`Npt`] for that of SVM, [`SecondStage`] and [`FirstStage`] for VT-d. The walker knows none of them by name.

mod ept;
mod first_stage;
mod host;
mod npt;
mod second_stage;

pub use ept::Ept;
pub use first_stage::FirstStage;
pub use host::{Host, PAT};
pub use npt::Npt;
pub use second_stage::SecondStage;

/// Maps a page, at levels 2 and 3. At level 1 the same bit may mean something else (the PAT index), which is never set here.
pub(crate) const PS: u64 = 1 << 7;

/// Bits 51:12, where the address of a table or a 4 KiB page is, less those that a larger page's offset covers: bit 12 may
/// hold a flag there (PAT). Bits above the machine's physical address width are reserved.
pub(crate) const fn address_mask(level: u8) -> u64 {
    0x000f_ffff_ffff_f000 & !((1 << (12 + 9 * (level as u32 - 1))) - 1)
}

const _: () = assert!(address_mask(1) == 0x000f_ffff_ffff_f000);
const _: () = assert!(address_mask(2) == 0x000f_ffff_ffe0_0000);
const _: () = assert!(address_mask(3) == 0x000f_ffff_c000_0000);
