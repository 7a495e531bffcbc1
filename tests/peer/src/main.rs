//! The least that KVM needs to run one of Kerf's small guests, so that both are measured by the same program in the same
//! bed: memory, one virtual CPU, the interrupt controllers and timer of the kernel's own, a serial port that only sends.
//!
//! It is the init of a Linux that has nothing else: it loads the modules named on its command line, or `/modules/*` in the
//! order of their names, then runs `/guest`, and prints `PEER-DONE status`. The virtual machine is [`machine`]'s.

mod machine;

use std::error::Error;
use std::fs;

use peer::{begin, end};

use crate::machine::Machine;

fn main() {
    match run() {
        Ok(status) => println!("PEER-DONE {status}"),
        Err(why) => println!("PEER-FAILED {why}"),
    }
    end();
}

fn run() -> Result<u8, Box<dyn Error>> {
    begin()?;
    let guest = fs::read("/guest").map_err(|why| format!("/guest: {why}"))?;
    Machine::new(&guest)?.run()
}
