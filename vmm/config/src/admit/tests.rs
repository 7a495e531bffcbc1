//! Which machine runs which configuration, and where its vCPUs go.

use alloc::format;

use proptest::prelude::*;

use super::*;
use crate::parse;

const MIB: u64 = 1 << 20;
/// No SMT.
const FOUR: &[u32] = &[0, 1, 2, 3];
/// Two cores of two siblings each.
const TWICE_TWO: &[u32] = &[0, 0, 1, 1];

/// A configuration with one VM of 64 MiB for each of `vms`, which are lines of its own.
fn config(hypervisor: &str, vms: &[&str]) -> Config {
    let mut text = format!("version = 1\n[hypervisor]\n{hypervisor}\n");
    for (index, lines) in vms.iter().enumerate() {
        text += &format!("[[vm]]\nname = \"{index}\"\nmemory = \"64M\"\nkernel = \"k\"\n{lines}\n");
    }
    parse("kerf.toml", &text).unwrap()
}

fn placed(hypervisor: &str, vms: &[&str], cores: &[u32]) -> Vec<Vec<u32>> {
    let machine = Machine { cores, free_bytes: 1024 * MIB };
    admit(&config(hypervisor, vms), &machine).unwrap().cpus
}

fn refused(hypervisor: &str, vms: &[&str], cores: &[u32], free_bytes: u64) -> String {
    admit(&config(hypervisor, vms), &Machine { cores, free_bytes }).unwrap_err().to_string()
}

#[test]
fn memory_of_all_vms_must_be_there() {
    let vms = ["", "", ""];
    assert!(admit(&config("", &vms), &Machine { cores: FOUR, free_bytes: 192 * MIB }).is_ok());
    assert_eq!(
        refused("", &vms, FOUR, 191 * MIB),
        "kerf.toml:16: vm.memory: 64 MiB are more than the 63 MiB left of the machine's 191; write less, \
         here or in another VM"
    );
}

#[test]
fn vcpus_and_pins_must_be_there() {
    assert_eq!(
        refused("", &["", "vcpus = 5"], FOUR, 1024 * MIB),
        "kerf.toml:13: vm.vcpus: 5 vCPUs, but the machine has 4 CPUs; write at most 4, or \
         `share-cpus = true` in [hypervisor] to let them take turns"
    );
    assert_eq!(
        refused("", &["vcpus = 2\ncpus = [0, 4]"], FOUR, 1024 * MIB),
        "kerf.toml:9: vm.cpus: there is no CPU 4, the machine has 4 CPUs; write numbers up to 3"
    );
    assert_eq!(placed("share-cpus = true", &["vcpus = 3"], &[0]), [[0, 0, 0]]);
}

#[test]
fn vcpus_are_spread() {
    assert_eq!(placed("", &["vcpus = 2", "vcpus = 2"], FOUR), [[0, 1], [2, 3]]);
    assert_eq!(placed("", &["vcpus = 2"], TWICE_TWO), [[0, 2]]);
    assert_eq!(placed("", &["vcpus = 4"], TWICE_TWO), [[0, 1, 2, 3]]);
}

#[test]
fn too_few_cpus_are_shared_between_vms_first() {
    assert_eq!(placed("", &["vcpus = 2", "vcpus = 2"], &[0, 1]), [[0, 1], [0, 1]]);
    assert_eq!(placed("", &["", ""], &[0]), [[0], [0]]);
    let placement =
        admit(&config("", &["vcpus = 2", ""]), &Machine { cores: &[0, 1], free_bytes: 1024 * MIB })
            .unwrap();
    assert_eq!((placement.vcpus_on(0), placement.vcpus_on(1)), (2, 1));
}

#[test]
fn pinned_cpus_are_left_to_their_vm_while_others_are_free() {
    assert_eq!(placed("", &["", "cpus = [0]", ""], FOUR), [[1], [0], [2]]);
}

#[test]
fn siblings_run_one_vm() {
    assert_eq!(placed("", &["vcpus = 2", "vcpus = 2"], TWICE_TWO), [[0, 1], [2, 3]]);
    // A core to share: one of its CPUs idles.
    assert_eq!(placed("", &["", "", ""], TWICE_TWO), [[0], [2], [0]]);
    // The first VM would take both siblings, were it alone.
    assert_eq!(placed("", &["vcpus = 2", ""], &[7, 7]), [vec![0, 0], vec![0]]);
    assert_eq!(placed("share-smt = true", &["", "", ""], TWICE_TWO), [[0], [2], [1]]);
}

#[test]
fn pinned_siblings_of_two_vms_are_refused() {
    let vms = ["cpus = [0]", "cpus = [1]"];
    assert_eq!(
        refused("", &vms, TWICE_TWO, 1024 * MIB),
        "kerf.toml:13: vm.cpus: CPU 1 shares a core with CPU 0, which is VM \"0\"'s; choose a CPU of \
         another core, or write `share-smt = true` in [hypervisor]"
    );
    assert_eq!(placed("share-smt = true", &vms, TWICE_TWO), [[0], [1]]);
    assert_eq!(
        refused("", &["vcpus = 2\ncpus = [0, 1]", ""], &[0, 0], 1024 * MIB),
        "kerf.toml:10: vm.vcpus: every core is in use by another VM's pinned vCPUs; free a core there, or \
         write `share-smt = true` in [hypervisor]"
    );
    // Taking turns on a CPU whose sibling is in use as well.
    let turns = ["vcpus = 2\ncpus = [0, 1]", "cpus = [1]"];
    assert!(refused("share-cpus = true", &turns, &[0, 0], 1024 * MIB).contains("shares a core"));
}

proptest! {
    #[test]
    fn a_placement_keeps_every_rule(
        vcpus in prop::collection::vec(1u32..5, 1..5),
        cores in prop::collection::vec(0u32..4, 1..9),
        share_smt: bool,
    ) {
        let lines: Vec<_> = vcpus.iter().map(|count| format!("vcpus = {count}")).collect();
        let lines: Vec<&str> = lines.iter().map(|line| line.as_str()).collect();
        let hypervisor = format!("share-smt = {share_smt}\nshare-cpus = true");
        let placed = placed(&hypervisor, &lines, &cores);
        let counts: Vec<_> = placed.iter().map(|cpus| cpus.len() as u32).collect();
        prop_assert_eq!(counts, vcpus);
        let all = || placed.iter().enumerate().flat_map(|(vm, cpus)| cpus.iter().map(move |c| (vm, *c)));
        for ((vm, cpu), (other, sibling)) in all().flat_map(|a| all().map(move |b| (a, b))) {
            let apart = cores[cpu as usize] != cores[sibling as usize];
            prop_assert!(share_smt || vm == other || cpu == sibling || apart);
        }
    }
}
