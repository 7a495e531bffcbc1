//! The guest's CPUID, made from described hosts.

use std::collections::HashMap;

use hw::{CpuidBus, CpuidResult};
use proptest::prelude::*;
use x86_spec::cpuid::{Leaf1Ecx, Leaf1Edx, Leaf7Ebx, Leaf7Ecx, Xcr0};

use super::*;

const ALL_AVX: u64 = 0xe7;
const OPTIONS: CpuidOptions = CpuidOptions {
    tsc_khz: 2_100_000,
    apic_khz: 2_100_000,
    xcr0_allowed: ALL_AVX,
    pcid: true,
    speculation: vcpu::Speculation::NONE,
    vcpus: 1,
    physical_bits: None,
    movdir64b: false,
    mask: Vec::new(),
};

/// A host of which the named leaves are known, and all others are all-ones: the most that a host can claim.
struct Boastful(HashMap<(u32, u32), CpuidResult>);

impl CpuidBus for Boastful {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let ones = CpuidResult { eax: u32::MAX, ebx: u32::MAX, ecx: u32::MAX, edx: u32::MAX };
        self.0.get(&(leaf, subleaf)).copied().unwrap_or(ones)
    }
}

fn result(eax: u32, ebx: u32, ecx: u32, edx: u32) -> CpuidResult {
    CpuidResult { eax, ebx, ecx, edx }
}

fn text(words: [u32; 3]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn vendor_leaf(max: u32, name: &[u8; 12]) -> CpuidResult {
    let word = |at: usize| u32::from_le_bytes(name[at..at + 4].try_into().unwrap());
    result(max, word(0), word(8), word(4))
}

/// State components as a current Intel CPU lays them out (SDM vol. 1, 13.4; sizes as read from such CPUs).
fn host(name: &[u8; 12], max: u32) -> Boastful {
    let leaves = [
        ((0, 0), vendor_leaf(max, name)),
        ((4, 0), result(0xfc00_4121, 1, 63, 0)),
        ((4, 1), result(0, 0, 0, 0)),
        ((0xd, 0), result(0x0006_02e7, 0x340, 11008, 0)),
        ((0xd, 1), result(0x1f, 0x340, 0x1900, 0)),
        ((0xd, 2), result(256, 576, 0, 0)),
        ((0xd, 5), result(64, 1088, 0, 0)),
        ((0xd, 6), result(512, 1152, 0, 0)),
        ((0xd, 7), result(1024, 1664, 0, 0)),
        ((0xd, 9), result(8, 2688, 0, 0)),
        ((0xd, 18), result(8192, 2816, 6, 0)),
        ((0x8000_0000, 0), result(0x8000_0028, 0, 0, 0)),
        ((0x8000_0008, 0), result(0x0030_3934, u32::MAX, 0x7007, 0)),
    ];
    Boastful(leaves.into())
}

fn intel() -> CpuidTable {
    CpuidTable::new(&host(b"GenuineIntel", 0x20), &OPTIONS)
}

fn amd() -> CpuidTable {
    CpuidTable::new(&host(b"AuthenticAMD", 0x10), &OPTIONS)
}

fn ask(table: &CpuidTable, leaf: u32, subleaf: u32) -> CpuidResult {
    table.cpuid(leaf, subleaf, &CpuidState::default())
}

#[test]
fn the_signature_and_the_clocks_are_published() {
    let table = amd();
    let signature = ask(&table, 0x4000_0000, 0);
    assert_eq!(signature.eax, 0x4000_0010);
    assert_eq!(text([signature.ebx, signature.ecx, signature.edx]), b"KerfKerfKerf");
    assert_eq!(ask(&table, 0x4000_0010, 0), result(2_100_000, 2_100_000, 0, 0));
    assert_eq!(ask(&table, 0x4000_0001, 0), CpuidResult::default());
}

#[test]
fn the_vendor_passes_through() {
    for name in [b"GenuineIntel", b"AuthenticAMD"] {
        let leaf = ask(&CpuidTable::new(&host(name, 0x20), &OPTIONS), 0, 0);
        assert_eq!(text([leaf.ebx, leaf.edx, leaf.ecx]), name);
    }
}

#[test]
fn what_kerf_emulates_is_shown_whatever_the_host_has() {
    let mut host = host(b"AuthenticAMD", 0xd);
    host.0.insert((1, 0), CpuidResult::default());
    let table = CpuidTable::new(&host, &OPTIONS);
    let leaf = ask(&table, 1, 0);
    let always = Leaf1Ecx::X2APIC | Leaf1Ecx::TSC_DEADLINE | Leaf1Ecx::HYPERVISOR;
    assert_eq!(leaf.ecx, always.bits());
    assert_eq!(leaf.edx, Leaf1Edx::APIC.bits());
    assert_eq!(ask(&table, 6, 0), result(4, 0, 0, 0));
    assert_eq!(ask(&table, 0x8000_0007, 0), result(0, 0, 0, 1 << 8));
}

#[test]
fn nothing_that_kerf_does_not_handle_is_shown() {
    for table in [intel(), amd()] {
        let features = ask(&table, 1, 0);
        let hidden = Leaf1Ecx::VMX | Leaf1Ecx::SMX | Leaf1Ecx::MONITOR | Leaf1Ecx::PDCM;
        assert_eq!(features.ecx & (hidden | Leaf1Ecx::OSXSAVE).bits(), 0);
        let hidden = Leaf1Edx::MTRR | Leaf1Edx::MCE | Leaf1Edx::MCA | Leaf1Edx::HTT | Leaf1Edx::DS;
        assert_eq!(features.edx & hidden.bits(), 0);
        let extended = ask(&table, 7, 0);
        let hidden = Leaf7Ebx::SGX | Leaf7Ebx::TSC_ADJUST | Leaf7Ebx::RTM | Leaf7Ebx::PT;
        assert_eq!(extended.ebx & (hidden | Leaf7Ebx::MPX | Leaf7Ebx::RDT_A).bits(), 0);
        let hidden = Leaf7Ecx::PKU | Leaf7Ecx::LA57 | Leaf7Ecx::CET_SS | Leaf7Ecx::ENQCMD;
        assert_eq!(extended.ecx & (hidden | Leaf7Ecx::WAITPKG | Leaf7Ecx::PKS).bits(), 0);
        assert_eq!(extended.edx >> 24, 0, "AMX and speculation controls");
        assert_eq!(extended.eax, 1);
        for leaf in [3, 5, 9, 0xa, 0xf, 0x10, 0x12, 0x14, 0x1f, 0x8000_000a, 0x8000_001f] {
            assert_eq!(ask(&table, leaf, 0), CpuidResult::default(), "{leaf:#x}");
        }
        assert_eq!(ask(&table, 0x8000_0001, 0).ecx & 1 << 2, 0, "SVM");
        assert_eq!(ask(&table, 7, 2), CpuidResult::default());
    }
}

#[test]
fn pcid_follows_the_backend() {
    let seen = |pcid| {
        let options = CpuidOptions { pcid, ..OPTIONS };
        let table = CpuidTable::new(&host(b"GenuineIntel", 0x20), &options);
        let (pcid, invpcid) = (Leaf1Ecx::PCID.bits(), Leaf7Ebx::INVPCID.bits());
        (ask(&table, 1, 0).ecx & pcid != 0, ask(&table, 7, 0).ebx & invpcid != 0)
    };
    assert_eq!((seen(true), seen(false)), ((true, true), (false, false)));
}

#[test]
fn movdir64b_is_the_hosts_or_emulated() {
    for (is_hosts, movdir64b) in [(false, false), (false, true), (true, false), (true, true)] {
        let mut host = host(b"AuthenticAMD", 0x10);
        host.0.insert((7, 0), result(0, 0, if is_hosts { u32::MAX } else { 0 }, 0));
        let table = CpuidTable::new(&host, &CpuidOptions { movdir64b, ..OPTIONS });
        let shown = ask(&table, 7, 0).ecx;
        assert_eq!(shown & Leaf7Ecx::MOVDIR64B.bits() != 0, is_hosts || movdir64b);
        assert_eq!(shown & Leaf7Ecx::MOVDIRI.bits() != 0, is_hosts);
    }
}

#[test]
fn osxsave_and_apic_id_follow_the_cpu() {
    let table = intel();
    let state = CpuidState { cr4: 1 << 18, xcr0: 1, apic_id: 5 };
    let leaf = table.cpuid(1, 0, &state);
    assert_ne!(leaf.ecx & Leaf1Ecx::OSXSAVE.bits(), 0);
    assert_eq!(leaf.ebx >> 16, 0x0501);
    assert_eq!(table.cpuid(0xb, 0, &state), result(0, 1, 0x100, 5));
    assert_eq!(table.cpuid(0xb, 1, &state), result(0, 1, 0x201, 5));
    assert_eq!(table.cpuid(0xb, 2, &state), result(0, 0, 2, 5));
}

#[test]
fn xsave_sizes_follow_xcr0() {
    let table = intel();
    assert_eq!(table.xcr0_allowed(), ALL_AVX);
    let sizes = |xcr0| {
        let state = CpuidState { xcr0, ..CpuidState::default() };
        (table.cpuid(0xd, 0, &state).ebx, table.cpuid(0xd, 1, &state).ebx)
    };
    assert_eq!(sizes(1), (576, 576));
    assert_eq!(sizes(3), (576, 576));
    assert_eq!(sizes(7), (832, 832));
    assert_eq!(sizes(ALL_AVX), (2688, 576 + 256 + 64 + 512 + 1024));
    assert_eq!(ask(&table, 0xd, 0).ecx, 2688, "neither PKRU nor AMX");
    assert_eq!(ask(&table, 0xd, 1).eax, 7, "neither XSAVES nor XFD");
    assert_eq!(ask(&table, 0xd, 2), result(256, 576, 0, 0));
    assert_eq!(ask(&table, 0xd, 18), CpuidResult::default());
}

#[test]
fn vector_features_need_their_state() {
    let with = |xcr0_allowed| {
        let options = CpuidOptions { xcr0_allowed, ..OPTIONS };
        let table = CpuidTable::new(&host(b"GenuineIntel", 0x20), &options);
        let has = |register: u32, bit: u32| register & bit != 0;
        (
            table.xcr0_allowed(),
            has(ask(&table, 1, 0).ecx, Leaf1Ecx::XSAVE.bits()),
            has(ask(&table, 1, 0).ecx, Leaf1Ecx::AVX.bits()),
            has(ask(&table, 7, 0).ebx, Leaf7Ebx::AVX2.bits()),
            has(ask(&table, 7, 0).ebx, Leaf7Ebx::AVX512F.bits()),
        )
    };
    assert_eq!(with(ALL_AVX), (ALL_AVX, true, true, true, true));
    assert_eq!(with(7), (7, true, true, true, false));
    assert_eq!(with(0x27), (7, true, true, true, false), "a third of AVX-512 is none");
    assert_eq!(with(3), (3, true, false, false, false));
    assert_eq!(with(Xcr0::AVX.bits()), (0, false, false, false, false));
    assert_eq!(with(u64::MAX).0, ALL_AVX);
}

#[test]
fn a_host_without_xsave_gives_a_guest_without() {
    let mut host = host(b"AuthenticAMD", 0x10);
    host.0.insert((1, 0), result(0, 0, !Leaf1Ecx::XSAVE.bits(), 0));
    let table = CpuidTable::new(&host, &OPTIONS);
    assert_eq!(table.xcr0_allowed(), 0);
    assert_eq!(ask(&table, 1, 0).ecx & Leaf1Ecx::XSAVE.bits(), 0);
    assert_eq!(ask(&table, 0xd, 0), CpuidResult::default());
}

#[test]
fn an_intel_guest_learns_its_tsc_from_leaf_15() {
    let old = CpuidTable::new(&host(b"GenuineIntel", 0xd), &OPTIONS);
    assert_eq!(ask(&old, 0, 0).eax, 0x15);
    assert_eq!(ask(&old, 0x15, 0), result(1, 1, 2_100_000_000, 0));
    assert_eq!(ask(&amd(), 0x15, 0), CpuidResult::default());
    let options = CpuidOptions { tsc_khz: 5_000_000, apic_khz: 5_000_000, ..OPTIONS };
    let fast = CpuidTable::new(&host(b"GenuineIntel", 0x20), &options);
    assert_eq!(ask(&fast, 0x15, 0), CpuidResult::default(), "does not fit");
}

#[test]
fn caches_are_shared_by_no_one() {
    assert_eq!(ask(&intel(), 4, 0), result(0x121, 1, 63, 0));
    assert_eq!(ask(&intel(), 4, 1), CpuidResult::default());
}

fn with(options: CpuidOptions, name: &[u8; 12]) -> CpuidTable {
    CpuidTable::new(&host(name, 0x20), &options)
}

#[test]
fn six_cpus_are_six_cores_of_one_package() {
    let six = CpuidOptions { vcpus: 6, ..OPTIONS };
    let table = with(six.clone(), b"GenuineIntel");
    let of_cpu = |leaf, subleaf| {
        table.cpuid(leaf, subleaf, &CpuidState { apic_id: 5, ..CpuidState::default() })
    };
    assert_eq!(of_cpu(1, 0).ebx >> 16, 5 << 8 | 8);
    assert_ne!(of_cpu(1, 0).edx & Leaf1Edx::HTT.bits(), 0);
    assert_eq!(of_cpu(4, 0).eax, 7 << 26 | 0x121, "a cache of its own");
    assert_eq!(of_cpu(0xb, 0), result(0, 1, 0x100, 5));
    assert_eq!(of_cpu(0xb, 1), result(3, 6, 0x201, 5));
    assert_eq!(of_cpu(0xb, 2), result(0, 0, 2, 5));

    let mut amd = host(b"AuthenticAMD", 0x10);
    amd.0.insert((0x8000_001d, 0), result(0x121, 1, 63, 0));
    amd.0.insert((0x8000_001d, 1), result(0x163, 1, 63, 0));
    amd.0.insert((0x8000_001d, 2), result(0, 0, 0, 0));
    let table = CpuidTable::new(&amd, &six);
    let of_cpu = |leaf, subleaf| {
        table.cpuid(leaf, subleaf, &CpuidState { apic_id: 5, ..CpuidState::default() })
    };
    assert_eq!(of_cpu(0x8000_0008, 0).ecx, 3 << 12 | 5);
    assert_eq!(of_cpu(0x8000_0001, 0).ecx & (1 << 1 | 1 << 22), 1 << 1 | 1 << 22);
    assert_eq!(of_cpu(0x8000_001d, 0).eax, 0x121);
    assert_eq!(of_cpu(0x8000_001d, 1).eax, 7 << 14 | 0x163, "the third level is shared");
    assert_eq!(of_cpu(0x8000_001e, 0), result(5, 5, 0, 0));
    assert_eq!(of_cpu(4, 0), CpuidResult::default());
}

#[test]
fn the_configuration_masks_last() {
    let all = CpuidMask {
        leaf: 7,
        subleaf: None,
        eax: u32::MAX,
        ebx: u32::MAX,
        ecx: u32::MAX,
        edx: u32::MAX,
    };
    let mask = [
        CpuidMask { ebx: !1, ..all },
        CpuidMask { leaf: 0xb, subleaf: Some(1), ebx: 0, ..all },
        CpuidMask { leaf: 1, ecx: !(1 << 27), ..all },
        CpuidMask { leaf: 0x8000_0001, edx: 0, ..all },
        CpuidMask { leaf: 2, eax: 0xff, ..all },
    ];
    let options = CpuidOptions { mask: mask.to_vec(), physical_bits: Some(40), ..OPTIONS };
    let (table, whole) = (with(options, b"GenuineIntel"), intel());
    assert_eq!(ask(&table, 7, 0).ebx, ask(&whole, 7, 0).ebx & !1);
    assert_eq!(ask(&table, 7, 0).ecx, ask(&whole, 7, 0).ecx);
    assert_eq!((ask(&table, 0xb, 0).ebx, ask(&table, 0xb, 1).ebx), (1, 0));
    let state = CpuidState { cr4: u64::MAX, ..CpuidState::default() };
    assert_eq!(table.cpuid(1, 0, &state).ecx & 1 << 27, 0, "not by the way of CR4 either");
    assert_eq!(ask(&table, 0x8000_0001, 0).edx, 0);
    assert_eq!(ask(&table, 0x8000_0008, 0).eax & 0xff, 40);
    assert_eq!(table.constant(2).unwrap().eax, 0xff);
}

#[test]
fn constant_leaves_are_what_the_whole_table_says() {
    for table in [intel(), amd()] {
        for leaf in 0..0x40 {
            if let Some(answer) = table.constant(leaf) {
                for subleaf in 0..4 {
                    assert_eq!(*answer, ask(&table, leaf, subleaf), "{leaf:#x}");
                }
            }
        }
        assert_eq!(table.constant(0x4000_0000), None);
    }
}

#[test]
fn address_widths_are_those_of_four_level_paging() {
    let widths = ask(&amd(), 0x8000_0008, 0);
    assert_eq!((widths.eax, widths.ecx), (0x3034, 0));
    assert_eq!(ask(&amd(), 0x8000_0000, 0).eax, 0x8000_0021);
    assert_eq!(ask(&intel(), 0x8000_0000, 0).eax, 0x8000_0008);
}

#[test]
fn amd_repeats_leaf_1_without_what_is_hidden() {
    let edx = ask(&amd(), 0x8000_0001, 0).edx;
    assert_ne!(edx & 1 << 11, 0, "SYSCALL");
    assert_eq!(edx & (1 << 7 | 1 << 12 | 1 << 14 | 1 << 25), 0, "MCE, MTRR, MCA, FFXSR");
    assert_ne!(edx & 1 << 24, 0, "FXSR");
}

#[test]
fn a_host_without_extended_leaves_has_none() {
    let mut host = host(b"GenuineIntel", 5);
    host.0.insert((0x8000_0000, 0), result(3, 2, 1, 0));
    let table = CpuidTable::new(&host, &OPTIONS);
    assert_eq!(ask(&table, 0x8000_0000, 0), CpuidResult::default());
}

/// Answers that depend on nothing but a seed.
struct Noise(u64);

impl CpuidBus for Noise {
    fn cpuid(&self, leaf: u32, subleaf: u32) -> CpuidResult {
        let mut state = self.0 ^ u64::from(leaf) << 32 ^ u64::from(subleaf);
        let mut word = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32) as u32
        };
        let max = if subleaf == 0 && leaf & 0xffff == 0 { leaf + word() % 64 } else { word() };
        result(max, word(), word(), word())
    }
}

proptest! {
    #[test]
    fn no_host_and_no_question_panics(
        seed: u64, xcr0_allowed: u64, pcid: bool, khz: u32,
        leaf: u32, subleaf: u32, cr4: u64, xcr0: u64, apic_id: u32,
    ) {
        let options = CpuidOptions { tsc_khz: khz, apic_khz: khz, xcr0_allowed, pcid, ..OPTIONS };
        let table = CpuidTable::new(&Noise(seed), &options);
        let state = CpuidState { cr4, xcr0, apic_id };
        for leaf in [leaf, leaf & 0x1f, 0x8000_0000 | leaf & 0x3f] {
            let _ = table.cpuid(leaf, subleaf, &state);
            let _ = table.cpuid(leaf, subleaf & 0xf, &state);
        }
        prop_assert_eq!(table.xcr0_allowed() & !xcr0_allowed, 0);
    }
}
