//! Link arguments of the kernel. They stand here and not in a cargo configuration, so that no environment can drop them.

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
    for argument in [
        &format!("-T{folder}/link.ld"),
        "--no-pie",
        "-static",
        "-zmax-page-size=0x1000",
        "-znoexecstack",
        "-znorelro",
        "--gc-sections",
        "--build-id=none",
    ] {
        println!("cargo::rustc-link-arg-bins={argument}");
    }
}
