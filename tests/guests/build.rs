//! Links each guest as a Linux bzImage: `guest.ld` lays the header out, the linker writes the bare bytes; but one, which is
//! an ELF file.

use std::env;

fn main() {
    let folder = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    println!("cargo::rerun-if-changed=guest.ld");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("none") {
        return;
    }
    for argument in [
        &format!("-T{folder}/guest.ld"),
        "--oformat=binary",
        // The image runs at the address it was linked for (`pref_address`), so nothing needs relocating.
        "--no-pie",
        "--build-id=none",
        "-znorelro",
        "--orphan-handling=error",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
    // The last one of each counts.
    for argument in ["--oformat=elf64-x86-64", "--entry=start_32"] {
        println!("cargo::rustc-link-arg-bin=loader_elf={argument}");
    }
}
