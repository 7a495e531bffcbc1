//! `\EFI\BOOT\BOOTX64.EFI` of a disk with a Linux: starts `\vmlinuz.efi` with the options it needs. The firmware itself
//! starts only programs without options, and its shell first waits for five seconds, which an emulator counts out.

#![no_main]
#![no_std]

extern crate alloc;

use alloc::vec::Vec;

use uefi::boot::{self, LoadImageSource};
use uefi::proto::BootPolicy;
use uefi::proto::device_path::DevicePath;
use uefi::proto::device_path::build::{DevicePathBuilder, media::FilePath};
use uefi::proto::loaded_image::LoadedImage;
use uefi::{CStr16, Status, cstr16, entry};

const KERNEL: &CStr16 = cstr16!("\\vmlinuz.efi");
const OPTIONS: &CStr16 = cstr16!("console=ttyS0 quiet nokaslr norandmaps initrd=\\initrd.img");

#[entry]
fn main() -> Status {
    match start() {
        Ok(()) => Status::SUCCESS,
        Err(error) => error.status(),
    }
}

/// Loads the kernel by its path on our own volume: its EFI stub looks for the RAM disk there.
fn start() -> uefi::Result<()> {
    let own = boot::open_protocol_exclusive::<LoadedImage>(boot::image_handle())?;
    let device = own.device().ok_or(Status::NOT_FOUND)?;
    let device = boot::open_protocol_exclusive::<DevicePath>(device)?;
    let mut bytes = Vec::new();
    let mut path = DevicePathBuilder::with_vec(&mut bytes);
    for node in device.node_iter() {
        path = path.push(&node).map_err(|_| Status::OUT_OF_RESOURCES)?;
    }
    let path = path
        .push(&FilePath { path_name: KERNEL })
        .and_then(DevicePathBuilder::finalize)
        .map_err(|_| Status::OUT_OF_RESOURCES)?;
    let source =
        LoadImageSource::FromDevicePath { device_path: path, boot_policy: BootPolicy::ExactMatch };
    let kernel = boot::load_image(boot::image_handle(), source)?;
    let mut loaded = boot::open_protocol_exclusive::<LoadedImage>(kernel)?;
    let bytes = OPTIONS.num_bytes() as u32;
    // SAFETY: a static text of that many bytes.
    unsafe { loaded.set_load_options(OPTIONS.as_ptr().cast(), bytes) };
    drop(loaded);
    boot::start_image(kernel)
}
