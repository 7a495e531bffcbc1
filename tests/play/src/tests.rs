//! Every kept script, and random ones.

use std::path::Path;

use proptest::prelude::*;

use crate::TARGETS;

/// What the fuzzer kept because it reaches something new, and what once failed.
#[test]
fn kept_scripts_are_as_they_must_be() {
    for (name, play) in TARGETS {
        for kind in ["corpus", "crashes"] {
            let folder =
                Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(kind).join(name);
            for entry in std::fs::read_dir(folder).into_iter().flatten() {
                let path = entry.expect("a folder that can be read").path();
                println!("{}", path.display());
                play(&std::fs::read(&path).expect("a file that can be read"));
            }
        }
    }
}

fn play(name: &str, script: &[u8]) {
    let target = TARGETS.iter().find(|(target, _)| *target == name);
    target.expect("a target of this name").1(script);
}

fn script() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn devices_reach_what_was_granted_and_nothing_else(script in script()) {
        play("iommu", &script);
    }

    #[test]
    fn any_table_is_read(script in script()) {
        play("dmar", &script);
    }

    #[test]
    fn any_table_is_survived(script in script()) {
        play("bring_up", &script);
    }

    #[test]
    fn no_access_panics_or_reaches_beyond(script in script()) {
        play("config_space", &script);
    }

    #[test]
    fn interrupts_go_where_the_guest_says(script in script()) {
        play("msix", &script);
    }
}
