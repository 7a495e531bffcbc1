//! The driver against QEMU's VT-d, which is not ours: `cargo run -p iommu --example qemu -- edu qemu-system-x86_64`. What
//! follows the first word is the command that starts QEMU 11.1; it runs without a CPU, driven over its test protocol.
//!
//! The first word says whose DMA and interrupts it is to hold: [`edu`], a device of QEMU's own, or [`siov`] or [`dsa`], ours
//! with PASIDs, which the command has to preload (`tests/beds/qemu`). [`machine`] is what all stand on, and [`spaces`] what the
//! latter two are given. Ends with `PASS` or a panic.

mod dsa;
mod edu;
mod machine;
mod siov;
mod spaces;

use iommu::Mode;
use machine::Machine;

/// What QEMU's unit needs for PASIDs.
const SCALABLE: &str = ",scalable-mode=on,pasid-bits=20";

fn main() {
    machine::end_with_panics();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = |devices: &[&str], options: &str, mode: Mode| {
        println!("intel-iommu{options}, {mode:?}");
        Machine::new(&arguments[1..], devices, options, mode)
    };
    let first = format!("{SCALABLE},fsts=on");
    match arguments.first().map(String::as_str) {
        Some("edu") => {
            for (options, mode) in [
                ("", Mode::Auto),
                (",aw-bits=39", Mode::Auto),
                (SCALABLE, Mode::Auto),
                (SCALABLE, Mode::Legacy),
                (&first, Mode::Auto),
                (&format!("{SCALABLE},caching-mode=on"), Mode::Auto),
            ] {
                edu::check(run(&edu::DEVICES, options, mode));
            }
        }
        Some("siov") => {
            for options in [SCALABLE, &first] {
                siov::check(run(&siov::DEVICES, options, Mode::Auto));
            }
        }
        Some("dsa") => {
            for options in [SCALABLE, &first] {
                dsa::check(run(&dsa::DEVICES, options, Mode::Auto));
            }
        }
        _ => panic!("usage: qemu edu|siov|dsa COMMAND…"),
    }
    println!("PASS");
}
