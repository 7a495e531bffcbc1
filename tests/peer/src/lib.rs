//! What programs have in common that are the init of a Linux with nothing else: [`begin`] and [`end`].

use std::error::Error;
use std::fs::{self, File};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

/// Makes devices appear in `/dev` and loads the modules.
///
/// # Errors
/// Either fails as a whole; a module that does not load is told and left out.
pub fn begin() -> Result<(), Box<dyn Error>> {
    mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None)
        .map_err(|why| format!("/dev cannot be mounted: {why}"))?;
    load_modules()
}

/// Switches off. As init it must not end: the kernel would panic. The serial port needs time for the last line.
pub fn end() -> ! {
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

/// Loads what lies in `/modules`, compressed as the distribution has it; the kernel unpacks it. One of another CPU's maker
/// refuses to load, which shows when `/dev/kvm` is missing.
fn load_modules() -> Result<(), Box<dyn Error>> {
    /// `include/uapi/linux/module.h`.
    const COMPRESSED_FILE: i32 = 4;
    let mut paths: Vec<_> = fs::read_dir("/modules")?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        let file = File::open(&path)?;
        // Bochs 3.0 wants the posted-interrupt descriptor, for which 64 bytes are enough, on a page of its own, and refuses
        // entries with KVM's: its issue 556.
        let is_vmx = path.to_string_lossy().contains("kvm-intel");
        let options = if is_vmx { c"enable_apicv=0" } else { c"" };
        if let Err(why) = finit_module(&file, options, COMPRESSED_FILE) {
            println!("{}: {why}", path.display());
        }
    }
    Ok(())
}
