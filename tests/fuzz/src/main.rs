//! One program for all targets of the crate `play`: `KERF_FUZZ_TARGET` names the one that libFuzzer is to play.

#![no_main]
#![forbid(unsafe_code)]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static PLAY: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("KERF_FUZZ_TARGET").expect("KERF_FUZZ_TARGET names a target");
    let target = play::TARGETS.iter().find(|(target, _)| *target == name);
    target.unwrap_or_else(|| panic!("no target {name}")).1
});

fuzz_target!(|script: &[u8]| PLAY(script));
