//! `cargo xtask`: builds, runs and tests Kerf. What it fetches and builds, how it starts the beds and how it judges what
//! they print is each a module of its own.

#![forbid(unsafe_code)]
#![allow(dead_code)]

mod apt;
mod cache;
mod explain;
mod process;
mod program;
mod roots;
mod sysroot;

fn main() {
    let cache = cache::Cache::open().unwrap();
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or(env!("CARGO_MANIFEST_DIR").into());
    let root = std::path::Path::new(&manifest).parent().unwrap();
    sysroot::prepare(root, &cache).unwrap();
    for a in std::env::args().skip(1) {
        let r = match a.as_str() { "qemu" => roots::qemu(&cache), "bochs" => roots::bochs(&cache), "ovmf" => roots::ovmf(&cache), "bo" => roots::bochs_ovmf(&cache), _ => roots::linux(&cache).map(|l| {println!("{l:?}"); l.kernel}) };
        println!("{r:?}");
    }
}
