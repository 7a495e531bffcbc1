//! The least that KVM needs to run one of Kerf's small guests, so that both are measured by the same program in the same
//! bed: memory, one virtual CPU, the interrupt controllers and timer of the kernel's own, a serial port that only sends.
//!
//! It is the init of a Linux that has nothing else: it loads the modules named on its command line, or `/modules/*` in the
//! order of their names, then runs `/guest`, and prints `PEER-DONE status`. The virtual machine is [`machine`]'s.

mod machine;

use std::error::Error;
use std::fs::{self, File};

use rustix::mount::{MountFlags, mount};
use rustix::system::{RebootCommand, finit_module, reboot};

use crate::machine::Machine;

fn main() {
    match run() {
        Ok(status) => println!("PEER-DONE {status}"),
        Err(why) => println!("PEER-FAILED {why}"),
    }
    // As init it must not end: the kernel would panic. The serial port needs time for the last line.
    std::thread::sleep(std::time::Duration::from_secs(1));
    let _ = reboot(RebootCommand::PowerOff);
    loop {
        std::thread::park();
    }
}

fn run() -> Result<u8, Box<dyn Error>> {
    mount("dev", "/dev", "devtmpfs", MountFlags::empty(), None)
        .map_err(|why| format!("/dev cannot be mounted: {why}"))?;
    load_modules()?;
    let guest = fs::read("/guest").map_err(|why| format!("/guest: {why}"))?;
    Machine::new(&guest)?.run()
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
