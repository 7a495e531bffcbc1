//! What the firmware knows and the kernel will want to: ACPI's root, the screen, the time, our own options.
//!
//! None of it is needed to start: what is absent is left out.

use alloc::string::String;

use boot_info::Framebuffer;
use uefi::{
    boot::{self, OpenProtocolAttributes, OpenProtocolParams},
    proto::{
        console::gop::{GraphicsOutput, PixelBitmask, PixelFormat},
        loaded_image::LoadedImage,
    },
    runtime, system,
    table::cfg::ConfigTableEntry,
};

/// The host physical address of the RSDP (ACPI 6.5, 5.2.5.2): ACPI 2.0's, else 1.0's, else 0.
pub(crate) fn rsdp() -> u64 {
    system::with_config_table(|tables| {
        [ConfigTableEntry::ACPI2_GUID, ConfigTableEntry::ACPI_GUID]
            .iter()
            .find_map(|guid| tables.iter().find(|table| table.guid == *guid))
            .map_or(0, |table| table.address as u64)
    })
}

/// The first screen whose pixels lie in memory.
pub(crate) fn framebuffer() -> Framebuffer {
    let handles = boot::find_handles::<GraphicsOutput>().unwrap_or_default();
    handles.into_iter().find_map(framebuffer_of).unwrap_or_default()
}

fn framebuffer_of(handle: uefi::Handle) -> Option<Framebuffer> {
    let params = OpenProtocolParams { handle, agent: boot::image_handle(), controller: None };
    // SAFETY: the protocol is only looked at, and closed before anything else is called. Opening it exclusively would take
    // the screen from the firmware's console.
    let mut screen = unsafe {
        boot::open_protocol::<GraphicsOutput>(params, OpenProtocolAttributes::GetProtocol)
    }
    .ok()?;
    let mode = screen.current_mode_info();
    let format = match (mode.pixel_format(), mode.pixel_bitmask()) {
        (PixelFormat::Rgb, _) => 0,
        (PixelFormat::Bgr, _) => 1,
        (PixelFormat::Bitmask, Some(PixelBitmask { red: 0xff, green: 0xff00, .. })) => 0,
        (PixelFormat::Bitmask, Some(PixelBitmask { blue: 0xff, green: 0xff00, .. })) => 1,
        _ => return None,
    };
    let (width, height) = mode.resolution();
    let mut pixels = screen.frame_buffer();
    let hpa = pixels.as_mut_ptr() as u64;
    (hpa != 0).then_some(Framebuffer {
        hpa,
        bytes: pixels.size() as u64,
        width: u32::try_from(width).ok()?,
        height: u32::try_from(height).ok()?,
        stride: u32::try_from(mode.stride()).ok()?,
        format,
    })
}

/// Seconds since 1970 by the firmware's clock, 0 where it has none.
pub(crate) fn unix_time() -> u64 {
    let Ok(time) = runtime::get_time() else { return 0 };
    if time.is_valid().is_err() {
        return 0;
    }
    let days = days_since_1970(time.year().into(), time.month().into(), time.day().into());
    let of_day =
        i64::from(time.hour()) * 3600 + i64::from(time.minute()) * 60 + i64::from(time.second());
    // Minutes that UTC is ahead (UEFI 2.10, 8.3); a clock that does not say is taken for UTC.
    let zone = time.time_zone().map_or(0, |minutes| i64::from(minutes) * 60);
    u64::try_from(days * 86400 + of_day + zone).unwrap_or(0)
}

/// Days from 1970-01-01 to a day of the Gregorian calendar: years are counted from March, so that the leap day is last.
const fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let march_year = if month > 2 { year } else { year - 1 };
    let march_month = (month + 9) % 12;
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    march_year * 365 + march_year / 4 - march_year / 100 + march_year / 400 + day_of_year - 719_468
}

const _: () = assert!(days_since_1970(1970, 1, 1) == 0);
const _: () = assert!(days_since_1970(2000, 2, 29) == 11016);
const _: () = assert!(days_since_1970(2023, 11, 14) == 19675);

/// The options this program was started with, where they are text: a shell's carry the program's name in front, and boot
/// entries that the firmware made itself hold something else.
pub(crate) fn load_options() -> String {
    let Ok(image) = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle()) else {
        return String::new();
    };
    let options: String = image.load_options_as_cstr16().map(String::from).unwrap_or_default();
    if options.chars().any(|c| !c.is_ascii() || c.is_ascii_control()) {
        return String::new();
    }
    let options = options.trim();
    let (first, rest) = options.split_once(' ').unwrap_or((options, ""));
    let is_program = first.to_ascii_lowercase().ends_with(".efi");
    String::from(if is_program { rest.trim() } else { options })
}
