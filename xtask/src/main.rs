//! `cargo xtask`: builds, runs and tests Kerf. What it fetches and builds, how it starts the beds and how it judges what
//! they print is each a module of its own.

#![forbid(unsafe_code)]
#![allow(dead_code)]

mod apt;
mod artefacts;
mod bed;
mod cache;
mod context;
mod description;
mod explain;
mod image;
mod initrd;
mod process;
mod program;
mod roots;
mod step;
mod sysroot;
mod tidy;
mod volume;

fn main() {
    let context = context::Context::new().unwrap();
    let mut a = std::env::args().skip(1);
    let kind = if a.next().as_deref() == Some("bochs") { bed::BedKind::Bochs } else { bed::BedKind::Qemu };
    let linux = context.linux().unwrap();
    let mut volume = volume::Volume::new(std::fs::read(a.next().unwrap_or(linux.kernel.display().to_string())).unwrap(), vec![1;3], "");
    volume.seal();
    let icount = std::env::var("ICOUNT").is_ok();
    let machine = bed::Machine { memory_mib: 512, cpus: 1, icount, count_entries: true };
    let session = context.launch(kind, &volume, &machine).unwrap();
    let limits = bed::Limits { expect: Some(regex::bytes::Regex::new(&std::env::var("EXPECT").unwrap_or("nothing".into())).unwrap()), typed: vec![], timeout: Some(std::time::Duration::from_secs(60)) };
    let outcome = bed::judge(session, limits, |b| { print!("{}", String::from_utf8_lossy(b)); Some(vec![]) });
    println!("{}\nentries {:?} debug {}", outcome.describe(), outcome.entries, String::from_utf8_lossy(&outcome.debug));
}
