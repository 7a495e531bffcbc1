//! The bits against a second source: Linux 6.1, `include/uapi/linux/pci_regs.h`, whose names stand beside.

use super::*;
use capability::{advanced_features, express, msi, msix, power};
use extended::{acs, ari, ats, dvsec, pasid, pri, sriov};

#[test]
fn headers_are_where_linux_has_them() {
    // PCI_COMMAND, PCI_STATUS, PCI_CLASS_REVISION, PCI_CACHE_LINE_SIZE, PCI_HEADER_TYPE, PCI_BASE_ADDRESS_0
    let first = [COMMAND, STATUS, REVISION, CACHE_LINE, HEADER_TYPE, BAR0];
    assert_eq!(first, [0x04, 0x06, 0x08, 0x0c, 0x0e, 0x10]);
    // PCI_SECONDARY_BUS, PCI_SUBORDINATE_BUS, PCI_SUBSYSTEM_VENDOR_ID, PCI_SUBSYSTEM_ID
    let ids = [SECONDARY_BUS, SUBORDINATE_BUS, SUBSYSTEM_VENDOR, SUBSYSTEM];
    assert_eq!(ids, [0x19, 0x1a, 0x2c, 0x2e]);
    // PCI_MEMORY_BASE, PCI_PREF_MEMORY_BASE, PCI_PREF_BASE_UPPER32
    assert_eq!([MEMORY_WINDOW, PREFETCHABLE_WINDOW, PREFETCHABLE_UPPER], [0x20, 0x24, 0x28]);
    // PCI_ROM_ADDRESS, PCI_CAPABILITY_LIST, PCI_INTERRUPT_LINE
    assert_eq!([ROM, CAPABILITIES, INTERRUPT_LINE], [0x30, 0x34, 0x3c]);
    // PCI_COMMAND_IO, _MEMORY, _MASTER, _INTX_DISABLE, PCI_STATUS_CAP_LIST
    let command = [COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER, COMMAND_INTX_DISABLE];
    assert_eq!((command, STATUS_CAPABILITIES), ([0x1, 0x2, 0x4, 0x400], 0x10));
    // PCI_BASE_ADDRESS_MEM_TYPE_MASK, _64, _MEM_PREFETCH, PCI_ROM_ADDRESS_MASK
    assert_eq!([BAR_TYPE, BAR_64, BAR_PREFETCHABLE, !ROM_FLAGS], [6, 4, 8, 0xffff_f800]);
}

#[test]
fn capabilities_are_as_linux_has_them() {
    use capability::{ADVANCED_FEATURES, EXPRESS, MSI, MSIX, POWER, VENDOR_SPECIFIC};
    // PCI_CAP_ID_PM, _MSI, _VNDR, _EXP, _MSIX, _AF
    let ids = [POWER, MSI, VENDOR_SPECIFIC, EXPRESS, MSIX, ADVANCED_FEATURES];
    assert_eq!(ids, [0x01, 0x05, 0x09, 0x10, 0x11, 0x13]);
    // PCI_PM_PMC, PCI_PM_CTRL, PCI_PM_CTRL_STATE_MASK, _NO_SOFT_RESET, _PME_STATUS, PCI_PM_SIZEOF
    let all = [power::CAPABILITIES, power::CONTROL, power::STATE, power::NO_SOFT_RESET];
    assert_eq!((all, power::PME_STATUS, power::BYTES), ([2, 4, 3, 8], 0x8000, 8));
    // PCI_MSI_FLAGS, _ADDRESS_LO, _ADDRESS_HI, _DATA_32, _MASK_32, _PENDING_32
    let all = [msi::CONTROL, msi::ADDRESS, msi::ADDRESS_HIGH, msi::DATA, msi::MASK, msi::PENDING];
    assert_eq!(all, [0x02, 0x04, 0x08, 0x08, 0x0c, 0x10]);
    // PCI_MSI_FLAGS_ENABLE, _QMASK, _QSIZE, _64BIT, _MASKBIT
    let log2 = [msi::LOG2 << msi::CAPABLE_SHIFT, msi::LOG2 << msi::ENABLED_SHIFT];
    let all = (msi::ENABLE, log2, msi::WIDE, msi::MASKABLE);
    assert_eq!(all, (0x0001, [0x000e, 0x0070], 0x0080, 0x0100));
    // PCI_MSIX_FLAGS, _TABLE, _PBA, _FLAGS_QSIZE, _MASKALL, _ENABLE, PCI_CAP_MSIX_SIZEOF
    let all = [msix::CONTROL, msix::TABLE, msix::PBA, msix::LAST, msix::MASK_ALL, msix::ENABLE];
    assert_eq!((all, msix::BYTES), ([2, 4, 8, 0x07ff, 0x4000, 0x8000], 12));
    // PCI_AF_CAP, _CTRL, _STATUS
    let all = [advanced_features::CAPABILITIES, advanced_features::CONTROL];
    assert_eq!((all, advanced_features::STATUS), ([3, 4], 5));
}

#[test]
fn pci_express_is_as_linux_has_it() {
    // PCI_EXP_FLAGS, _DEVCTL, _DEVSTA, _DEVCAP, _DEVCTL2
    let all = [express::CAPABILITIES, express::DEVICE_CONTROL, express::DEVICE_STATUS];
    assert_eq!((all, express::DEVICE_CAPABILITIES), ([0x02, 0x08, 0x0a], 0x04));
    assert_eq!((express::DEVICE_CAPABILITIES_2, express::DEVICE_CONTROL_2), (0x24, 0x28));
    // PCI_EXP_DEVCAP2_ARI
    assert_eq!(express::CAN_FORWARD_ARI, 0x20);
    // PCI_EXP_DEVCAP_FLR, _PHANTOM, PCI_EXP_DEVCTL_BCR_FLR, _PHANTOM, PCI_EXP_DEVSTA_TRPND, PCI_EXP_DEVCTL2_ARI
    assert_eq!((express::FLR, 3_u32 << express::PHANTOM_SHIFT), (0x1000_0000, 0x18));
    assert_eq!((express::START_FLR, express::PHANTOM_ENABLE), (0x8000, 0x0200));
    assert_eq!((express::TRANSACTIONS_PENDING, express::ARI_FORWARDING), (0x20, 0x20));
    // PCI_EXP_FLAGS_VERS, _TYPE
    assert_eq!((express::VERSION, 0xf << express::KIND_SHIFT), (0x000f, 0x00f0));
}

#[test]
fn extended_capabilities_are_as_linux_has_them() {
    use extended::{ACS, ARI, ATS, DVSEC, PASID, PRI, SRIOV, VENDOR_SPECIFIC};
    let ids = [VENDOR_SPECIFIC, ACS, ARI, ATS, SRIOV, PRI, PASID, DVSEC];
    assert_eq!(ids, [0x0b, 0x0d, 0x0e, 0x0f, 0x10, 0x13, 0x1b, 0x23]);
    // PCI_ACS_CAP, _CTRL, _SV, _TB, _RR, _CR, _UF, _EC, _DT
    assert_eq!([acs::CAPABILITIES, acs::CONTROL], [4, 6]);
    let first = [acs::SOURCE_VALIDATION, acs::TRANSLATION_BLOCKING, acs::REQUEST_REDIRECT];
    let last = [acs::COMPLETION_REDIRECT, acs::UPSTREAM_FORWARDING, acs::EGRESS_CONTROL];
    assert_eq!((first, last, acs::DIRECT_TRANSLATED), ([1, 2, 4], [8, 0x10, 0x20], 0x40));
    // PCI_ARI_CAP, PCI_ATS_CAP, _CTRL, _CTRL_ENABLE, _CAP_QDEP, PCI_PASID_CAP, _CTRL
    assert_eq!([ari::CAPABILITIES, ats::CAPABILITIES, ats::CONTROL], [4, 4, 6]);
    assert_eq!((ats::ENABLE, ats::QUEUE_DEPTH), (0x8000, 0x1f));
    assert_eq!([pasid::CAPABILITIES, pasid::CONTROL, pasid::ENABLE], [4, 6, 1]);
    // PCI_SRIOV_CTRL, _CTRL_VFE, _CTRL_MSE, PCI_EXT_CAP_SRIOV_SIZEOF; PCI_PRI_CTRL, _CTRL_ENABLE; PCI_DVSEC_HEADER1, 2
    let control = (sriov::CONTROL, sriov::ENABLE, sriov::MEMORY_ENABLE, sriov::BYTES);
    assert_eq!(control, (8, 1, 8, 64));
    // PCI_SRIOV_TOTAL_VF, _NUM_VF, _VF_OFFSET, _VF_STRIDE, _VF_DID, _SYS_PGSIZE, _BAR, _CTRL_ARI
    let all = [sriov::TOTAL, sriov::COUNT, sriov::FIRST, sriov::STRIDE, sriov::DEVICE];
    assert_eq!(all, [0x0e, 0x10, 0x14, 0x16, 0x1a]);
    assert_eq!([sriov::PAGE_SIZE, sriov::BAR0, sriov::ARI], [0x20, 0x24, 0x10]);
    assert_eq!([pri::CONTROL, pri::ENABLE, dvsec::VENDOR, dvsec::ID], [4, 1, 4, 8]);
    // PCI_EXT_CAP_ID_REBAR, PCI_REBAR_CTRL, _NBAR_SHIFT
    use extended::{RESIZABLE_BAR, resizable_bar};
    assert_eq!((RESIZABLE_BAR, resizable_bar::CONTROL, resizable_bar::COUNT_SHIFT), (0x15, 8, 5));
    // PCI_EXT_CAP_VER, PCI_EXT_CAP_NEXT
    assert_eq!((extended::version(0x1402_0010), extended::next(0x1402_0010)), (2, 0x140));
}

#[test]
fn registers_are_addressed_as_by_hand() {
    let rid = RequesterId::new(0x12, 0x1f, 7);
    assert_eq!(config_address(rid, 0x43), 0x8012_ff40);
    assert_eq!(ecam_offset(rid, 0xabc), 0x12f_fabc);
}

#[test]
fn an_msi_capability_is_as_long_as_its_control_says() {
    // PCI_CAP_MSI_SIZEOF: 10 to 24 bytes.
    assert_eq!([0, 0x80, 0x100, 0x180].map(msi::bytes), [10, 14, 20, 24]);
}
