//! Linux kernels for x86: the setup header of a bzImage (Linux, Documentation/arch/x86/boot.rst, protocol 2.12 and later).
//!
//! [`parse`] checks what a loader relies on for the 64-bit entry and says where the parts are; it copies nothing.

use core::{fmt, ops::Range};

use crate::bytes::{u16_at, u32_at, u64_at};

/// Offset of the setup header in the file, and of its copy in the zero page (`boot_params.hdr`).
pub const SETUP_HEADER: usize = 0x1f1;
/// Offset of the 64-bit entry from the start of the protected-mode kernel.
pub const ENTRY_64: u64 = 0x200;
/// The first protocol with `xloadflags`, 2.12.
const MIN_PROTOCOL: u16 = 0x020c;
/// `xloadflags`: the kernel has the 64-bit entry.
const XLF_KERNEL_64: u16 = 1 << 0;
/// `xloadflags`: kernel, boot parameters and RAM disk may lie above 4 GiB.
const XLF_CAN_BE_LOADED_ABOVE_4G: u16 = 1 << 1;
/// `loadflags`: the protected-mode kernel is loaded at 1 MiB: a bzImage, not a zImage.
const LOADED_HIGH: u8 = 1 << 0;

/// What the setup header says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BzImage<'a> {
    /// `version`: protocol, major in the high byte.
    pub protocol: u16,
    /// The setup header's bytes in the file, from [`SETUP_HEADER`]: copied into the zero page.
    pub setup_header: Range<usize>,
    /// The protected-mode kernel's bytes in the file: copied to where the guest starts.
    pub kernel: Range<usize>,
    /// `pref_address`: where the kernel wants to run.
    pub pref_address: u64,
    /// `init_size`: bytes from the kernel's start that it needs before it looks at the memory map.
    pub init_size: u32,
    /// `kernel_alignment`: of a start other than `pref_address`; a power of two.
    pub kernel_alignment: u32,
    /// `relocatable_kernel`: whether it may start elsewhere than at `pref_address`.
    pub relocatable: bool,
    /// XLF_CAN_BE_LOADED_ABOVE_4G.
    pub above_4g: bool,
    /// `initrd_addr_max`: the highest address that a byte of the RAM disk may have.
    pub initrd_addr_max: u32,
    /// `cmdline_size`: most bytes of the command line without its terminating zero.
    pub cmdline_size: u32,
    /// `kernel_version`: such as `6.12.9 (build@host) #1 SMP`.
    pub version: Option<&'a str>,
}

/// Why a file cannot be started as a Linux kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// It ends before the end of the setup header: how many bytes it has.
    NoHeader(usize),
    /// `boot_flag` or `header` is another.
    NotLinux,
    /// The boot protocol is older than 2.12.
    Protocol(u16),
    /// Not loaded high: a zImage.
    NotBzImage,
    /// It has no 64-bit entry.
    No64Bit,
    /// It ends this many bytes early.
    Truncated {
        /// Bytes that the header promises.
        promised: u64,
        /// Bytes that the file lacks.
        missing: u64,
    },
    /// A header field that no sound kernel has.
    Field(&'static str),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoHeader(bytes) => {
                write!(
                    f,
                    "{bytes} bytes are too few for a Linux kernel: cut short, or another file"
                )
            }
            Self::NotLinux => write!(f, "not a Linux bzImage: it has no setup header"),
            Self::Protocol(version) => write!(
                f,
                "boot protocol {}.{:02} is too old: a kernel with 2.12 is needed (Linux 3.8 or later)",
                version >> 8,
                version & 0xff
            ),
            Self::NotBzImage => write!(f, "a zImage: a bzImage is needed"),
            Self::No64Bit => write!(f, "no 64-bit entry: a 64-bit kernel is needed"),
            Self::Truncated { promised, missing } => {
                write!(f, "cut short: {missing} of {promised} bytes are missing")
            }
            Self::Field(field) => write!(f, "damaged: the header's {field} makes no sense"),
        }
    }
}

impl core::error::Error for Error {}

/// Reads and checks the setup header of a whole file.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(file: &[u8]) -> Result<BzImage<'_>, Error> {
    let short = || Error::NoHeader(file.len());
    let u16_field = |offset| u16_at(file, offset).ok_or_else(short);
    let u32_field = |offset| u32_at(file, offset).ok_or_else(short);
    let u8_field = |offset: usize| file.get(offset).copied().ok_or_else(short);

    if u16_field(0x1fe)? != 0xaa55 || u32_field(0x202)? != u32::from_le_bytes(*b"HdrS") {
        return Err(Error::NotLinux);
    }
    let protocol = u16_field(0x206)?;
    if protocol < MIN_PROTOCOL {
        return Err(Error::Protocol(protocol));
    }
    if u8_field(0x211)? & LOADED_HIGH == 0 {
        return Err(Error::NotBzImage);
    }
    let xloadflags = u16_field(0x236)?;
    if xloadflags & XLF_KERNEL_64 == 0 {
        return Err(Error::No64Bit);
    }
    let pref_address = u64_at(file, 0x258).ok_or_else(short)?;
    let init_size = u32_field(0x260)?;
    let kernel_alignment = u32_field(0x230)?;
    // The header ends where the jump at its start leads to.
    let header_end = 0x202 + usize::from(u8_field(0x201)?);
    let kernel = kernel_bytes(file, u8_field(0x1f1)?, u32_field(0x1f4)?)?;
    if header_end < 0x264 {
        return Err(Error::Field("length"));
    }
    if header_end > kernel.start {
        return Err(Error::Field("setup_sects"));
    }
    if !kernel_alignment.is_power_of_two() {
        return Err(Error::Field("kernel_alignment"));
    }
    if (init_size as usize) < kernel.len() || pref_address.checked_add(init_size.into()).is_none() {
        return Err(Error::Field("init_size"));
    }
    Ok(BzImage {
        protocol,
        setup_header: SETUP_HEADER..header_end,
        kernel,
        pref_address,
        init_size,
        kernel_alignment,
        relocatable: u8_field(0x234)? != 0,
        above_4g: xloadflags & XLF_CAN_BE_LOADED_ABOVE_4G != 0,
        initrd_addr_max: u32_field(0x22c)?,
        cmdline_size: u32_field(0x238)?,
        version: version(file, u16_field(0x20e)?),
    })
}

/// Where the protected-mode kernel lies: behind the boot sector and `setup_sects` sectors, `syssize` units of 16 bytes. A
/// signature may follow it.
fn kernel_bytes(file: &[u8], setup_sects: u8, syssize: u32) -> Result<Range<usize>, Error> {
    // 0 means 4, says the protocol.
    let sectors = if setup_sects == 0 { 4 } else { u64::from(setup_sects) };
    let start = (sectors + 1) * 512;
    let promised = start + u64::from(syssize) * 16;
    let bytes = file.len() as u64;
    let payload = u32_at(file, 0x248).zip(u32_at(file, 0x24c));
    let payload_end = payload.map_or(start, |(offset, length)| {
        start.saturating_add(offset.into()).saturating_add(length.into())
    });
    // The last unit of 16 bytes need not be whole; the compressed payload has to be.
    let missing = promised.saturating_sub(bytes);
    if missing >= 16 || bytes < payload_end.min(promised) {
        return Err(Error::Truncated { promised, missing });
    }
    if payload_end > promised {
        return Err(Error::Field("payload_length"));
    }
    if syssize == 0 {
        return Err(Error::Field("syssize"));
    }
    // Both fit: neither is above the file's length.
    Ok(start as usize..promised.min(bytes) as usize)
}

fn version(file: &[u8], offset: u16) -> Option<&str> {
    // 0 says that there is none.
    let start = usize::from(core::num::NonZeroU16::new(offset)?.get()) + 0x200;
    let text = file.get(start..)?;
    let end = text.iter().take(256).position(|&byte| byte == 0)?;
    core::str::from_utf8(text.get(..end)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SETUP_SECTORS: usize = 3;
    const KERNEL_START: usize = (SETUP_SECTORS + 1) * 512;
    const KERNEL_BYTES: usize = 4096;

    fn put(file: &mut [u8], offset: usize, bytes: &[u8]) {
        file[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A header as Linux 6.12's, over an empty kernel.
    fn image() -> Vec<u8> {
        let mut file = vec![0; KERNEL_START + KERNEL_BYTES];
        put(&mut file, 0x1f1, &[SETUP_SECTORS as u8]);
        put(&mut file, 0x1f4, &(KERNEL_BYTES as u32 / 16).to_le_bytes());
        put(&mut file, 0x1fe, &[0x55, 0xaa, 0xeb, 0x6a]);
        put(&mut file, 0x202, b"HdrS\x0f\x02");
        put(&mut file, 0x20e, &0x300u16.to_le_bytes());
        put(&mut file, 0x211, &[1]);
        put(&mut file, 0x22c, &0x7fff_ffffu32.to_le_bytes());
        put(&mut file, 0x230, &0x20_0000u32.to_le_bytes());
        put(&mut file, 0x234, &[1, 21, 0x3f, 0]);
        put(&mut file, 0x238, &2047u32.to_le_bytes());
        put(&mut file, 0x248, &0x100u32.to_le_bytes());
        put(&mut file, 0x24c, &0x800u32.to_le_bytes());
        put(&mut file, 0x258, &0x100_0000u64.to_le_bytes());
        put(&mut file, 0x260, &0x300_0000u32.to_le_bytes());
        put(&mut file, 0x500, b"6.12.9 (build@host)\0");
        file
    }

    fn damaged(offset: usize, bytes: &[u8]) -> Error {
        let mut file = image();
        put(&mut file, offset, bytes);
        parse(&file).unwrap_err()
    }

    #[test]
    fn header_is_read() {
        let file = image();
        assert_eq!(
            parse(&file),
            Ok(BzImage {
                protocol: 0x20f,
                setup_header: 0x1f1..0x26c,
                kernel: KERNEL_START..KERNEL_START + KERNEL_BYTES,
                pref_address: 16 << 20,
                init_size: 48 << 20,
                kernel_alignment: 2 << 20,
                relocatable: true,
                above_4g: true,
                initrd_addr_max: 0x7fff_ffff,
                cmdline_size: 2047,
                version: Some("6.12.9 (build@host)"),
            })
        );
    }

    #[test]
    fn a_signature_may_follow() {
        let mut file = image();
        file.extend([7; 1000]);
        assert_eq!(parse(&file).unwrap().kernel.end, KERNEL_START + KERNEL_BYTES);
    }

    #[test]
    fn zero_setup_sectors_mean_four() {
        let mut file = image();
        file[0x1f1] = 0;
        file.extend([0; 512]);
        assert_eq!(parse(&file).unwrap().kernel.start, 5 * 512);
    }

    #[test]
    fn a_cut_file_says_how_much_is_missing() {
        let mut file = image();
        file.truncate(KERNEL_START + 96);
        let error = parse(&file).unwrap_err();
        assert_eq!(error.to_string(), "cut short: 4000 of 6144 bytes are missing");
        file.truncate(0x230);
        assert_eq!(parse(&file), Err(Error::NoHeader(0x230)));
        assert_eq!(parse(&[]), Err(Error::NoHeader(0)));
    }

    #[test]
    fn every_cut_of_a_whole_unit_is_found() {
        let file = image();
        for bytes in 0..=file.len() - 16 {
            assert!(parse(&file[..bytes]).is_err(), "{bytes}");
        }
    }

    #[test]
    fn other_files_are_told_apart() {
        assert_eq!(damaged(0x1fe, &[0]), Error::NotLinux);
        assert_eq!(damaged(0x202, b"hdrs"), Error::NotLinux);
        assert_eq!(damaged(0x206, &[0x0b]), Error::Protocol(0x20b));
        assert_eq!(damaged(0x211, &[0]), Error::NotBzImage);
        assert_eq!(damaged(0x236, &[0x3e]), Error::No64Bit);
        assert!(Error::Protocol(0x0209).to_string().starts_with("boot protocol 2.09 is too old"));
    }

    #[test]
    fn senseless_fields_are_named() {
        assert_eq!(damaged(0x201, &[0x40]), Error::Field("length"));
        assert_eq!(
            damaged(0x1f1, &[0xff]).to_string(),
            "cut short: 129024 of 135168 bytes are missing"
        );
        assert_eq!(damaged(0x230, &[3]), Error::Field("kernel_alignment"));
        assert_eq!(damaged(0x260, &[0; 4]), Error::Field("init_size"));
        assert_eq!(damaged(0x258, &[0xff; 8]), Error::Field("init_size"));
        assert_eq!(damaged(0x24c, &[0xff; 4]), Error::Field("payload_length"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(file in prop::collection::vec(any::<u8>(), 0..2048)) {
            let _ = parse(&file);
        }

        #[test]
        fn damaged_headers_never_panic(at in 0x1f1usize..0x270, word: u64, cut in 0usize..6144) {
            let mut file = image();
            put(&mut file, at, &word.to_le_bytes());
            file.truncate(cut);
            if let Ok(image) = parse(&file) {
                prop_assert!(image.kernel.end <= file.len() && image.setup_header.end <= file.len());
            }
        }
    }
}
