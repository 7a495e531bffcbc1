//! Bytes from second sources. Each test names the source whose setters or masks the literal was worked out from, by hand
//! and apart from this crate; where two sources disagree, the test says so.

use hw::{Hpa, Pasid, RequesterId};

use crate::context::{ContextEntry, RootEntry, ScalableContextEntry, ScalableRootEntry};
use crate::fault::{FaultRecord, describe, reason};
use crate::interrupt::{Irte, MessageAddress, PostedDescriptor, RedirectionEntry};
use crate::invalidation::{Descriptor, Drain};
use crate::pasid::{DirectoryEntry, PasidEntry};
use crate::registers::{self as regs, Cap, Ecap, FaultStatus, QueueAddress, QueueError, command};

const PAGE: Hpa = Hpa::new(0x12_3456_7000);
const RID: RequesterId = RequesterId::new(0x3a, 0x1f, 5);
const DRAIN: Drain = Drain { reads: true, writes: true };
const NO_DRAIN: Drain = Drain { reads: false, writes: false };

fn pasid(raw: u32) -> Pasid {
    Pasid::try_new(raw).expect("20 bits")
}

#[test]
fn registers_are_where_linux_and_qemu_have_them() {
    // Linux drivers/iommu/intel/iommu.h, DMAR_*_REG; the same in QEMU hw/i386/intel_iommu_internal.h.
    let found = [
        regs::GCMD.offset(),
        regs::GSTS.offset(),
        regs::RTADDR.offset(),
        regs::CCMD.offset(),
        regs::FSTS.offset(),
        regs::FECTL.offset(),
        regs::FEUADDR.offset(),
        regs::PMEN.offset(),
        regs::PHMLIMIT.offset(),
        regs::IQH.offset(),
        regs::IQT.offset(),
        regs::IQA.offset(),
        regs::ICS.offset(),
        regs::IQERCD.offset(),
        regs::IRTA.offset(),
        regs::PECTL.offset(),
    ];
    let linux = [
        0x18, 0x1c, 0x20, 0x28, 0x34, 0x38, 0x44, 0x64, 0x78, 0x80, 0x88, 0x90, 0x9c, 0xb0, 0xb8,
        0xe0,
    ];
    assert_eq!(found, linux);
}

#[test]
fn commands_are_the_bits_of_linux() {
    // Linux iommu.h, DMA_GCMD_*; one-shots as in its mask 0x96ff_ffff of GSTS.
    assert_eq!(command::TE | command::SRTP, 0xc000_0000);
    assert_eq!(command::QIE | command::IRE | command::SIRTP | command::CFI, 0x0780_0000);
    assert_eq!(!command::ONE_SHOT, 0x96ff_ffff);
}

#[test]
fn capabilities_read_as_qemu_and_linux_mean_them() {
    // Read from the register page of QEMU 11.1's intel-iommu with its monitor: intremap=on,eim=on, then
    // scalable-mode=on,pasid-bits=20 without and with fsts=on.
    let cap = Cap([0x80d2_008c_222f_0606]);
    assert_eq!((cap.nd(), cap.sagaw(), cap.mgaw(), cap.nfr()), (6, 6, 47, 0));
    assert_eq!((cap.fro(), cap.sslps(), cap.mamv()), (0x22, 3, 18));
    assert!(cap.psi() && cap.dwd() && cap.drd() && cap.esrtps());
    assert!(!cap.pi() && !cap.cm() && !cap.rwbf() && !cap.fs1gp());
    assert!(Cap([0x81d2_008c_222f_0606]).fs1gp());
    let legacy = Ecap([0x00f0_0f5a]);
    assert!(legacy.qi() && legacy.ir() && legacy.eim() && !legacy.c() && !legacy.smts());
    assert_eq!((legacy.iro(), legacy.mhmv()), (0xf, 15));
    let second = Ecap([0x0000_4998_80f0_0f5a]);
    assert!(second.smts() && second.ssts() && !second.fsts() && second.pasid());
    assert!(!second.smpwcs() && !second.sc());
    assert_eq!(second.pss(), 19);
    let first = Ecap([0x0000_8998_00f0_0f5a]);
    assert!(first.smts() && first.fsts() && !first.ssts() && !first.smpwcs());
    // Linux: bit 59 is posted interrupts. OpenVMM's registers.rs gives the same bit the name of "page-walk incoherency",
    // which is no field of the manual's.
    assert_eq!(Cap::default().with_pi(true).0, [1 << 59]);
    // Linux iommu.h, ecap_*: pss 39:35, pasid 40, smts 43, slts 46, flts 47, smpwc 48, rps 49, mhmv 23:20, nest 26.
    let ecap = Ecap::default().with_pss(19).with_pasid(true).with_smts(true).with_ssts(true);
    assert_eq!(ecap.0, [0x0000_4998_0000_0000]);
    let ecap = Ecap::default().with_fsts(true).with_smpwcs(true).with_rps(true).with_nest(true);
    assert_eq!(ecap.with_mhmv(15).0, [0x0003_8000_04f0_0000]);
    assert_eq!(Ecap([0xf << 8]).iro(), 0xf);
}

#[test]
fn queue_registers_read_as_in_linux_and_qemu() {
    // QEMU VTD_IQA_QS 7, VTD_IQA_DW_MASK 800h. Linux DMAR_IQER_REG_ITESID 47:32, ICESID 63:48.
    let iqa = QueueAddress::default().with_iqa(PAGE).with_dw(true).with_qs(3);
    assert_eq!(iqa.0, [0x12_3456_7803]);
    let error = QueueError([0x1111_2222_0000_0004]);
    assert_eq!((error.icesid(), error.itesid(), error.iqei()), (0x1111, 0x2222, 4));
    // Linux DMA_FSTS_*.
    let status = FaultStatus([0x0372]);
    assert!(status.ppf() && status.iqe() && status.ice() && status.ite() && !status.pfo());
    assert_eq!(status.fri(), 3);
}

#[test]
fn root_and_context_entries_have_the_bytes_of_linux() {
    // Comments and setters of struct root_entry and struct context_entry in Linux iommu.h; OpenVMM root_context.rs has
    // the same places.
    assert_eq!(RootEntry::default().with_p(true).with_ctp(PAGE).0, [0x12_3456_7001, 0]);
    let entry = ContextEntry::second_stage(PAGE, 4, 0xabcd, false);
    assert_eq!(entry.0, [0x12_3456_7001, 0x00ab_cd02]);
    let entry = ContextEntry::second_stage(PAGE, 3, 1, true);
    assert_eq!(entry.0, [0x12_3456_7005, 0x0000_0101]);
}

#[test]
fn scalable_entries_have_the_bytes_of_openvmm_and_linux() {
    // OpenVMM spec/scalable.rs; Linux pasid.h for get_pasid_dir_size (11:9) and CONTEXT_PASIDE (bit 3).
    let root = ScalableRootEntry::default().with_up(true).with_uctp(PAGE);
    assert_eq!(root.0, [0, 0x12_3456_7001]);
    let entry = ScalableContextEntry::directory(PAGE, 7, true, true);
    assert_eq!(entry.0, [0x12_3456_7e0d, 0, 0, 0]);
    assert_eq!(DirectoryEntry::default().with_p(true).with_smptblptr(PAGE).0, [0x12_3456_7001]);
}

#[test]
fn pasid_entries_have_the_bytes_of_linux() {
    // Linux pasid.h: AW 4:2, PGTT 8:6, SLADE 9; word 1: DID 15:0, PWSNP 23, PGSNP 24; word 2: FLPM 3:2, pointer 63:12.
    // Its flags PASID_FLAG_NESTED and PASID_FLAG_FL5LP are the same bit, 1: they are arguments, not the entry's layout.
    let second = PasidEntry::second_stage(PAGE, 4, 0x1234).with_pwsnp(true).with_pgsnp(true);
    assert_eq!(second.0, [0x12_3456_7089, 0x0180_1234, 0, 0, 0, 0, 0, 0]);
    assert_eq!(second.with_ssade(true).0[0], 0x12_3456_7289);
    // AW 2 in a first-stage entry: QEMU 11.1 rejects others; Linux leaves it to intel_pasid_setup_first_level.
    let first = PasidEntry::first_stage(PAGE, 5);
    assert_eq!(first.0, [0x49, 5, 0x12_3456_7000, 0, 0, 0, 0, 0]);
    let nested = PasidEntry::nested(Hpa::new(0x7000), PAGE, 4, 5);
    assert_eq!(nested.0, [0x12_3456_70c9, 5, 0x7000, 0, 0, 0, 0, 0]);
    assert_eq!(nested.with_fspm(1).0[2], 0x7004);
}

#[test]
fn interrupt_entries_have_the_bytes_of_linux() {
    // struct irte of Linux include/linux/dmar.h. SQ stands at 81:80 and SVT at 83:82 there, in Jailhouse and in OpenVMM;
    // Asterinas' SQ_MASK covers 83:82.
    let irte = Irte::remapped(0x51, 0x0102_0304).with_dm(true).with_dlm(1).from_function(RID);
    assert_eq!(irte.0, [0x0102_0304_0051_0025, 0x0000_0000_0004_3afd]);
    assert_eq!(Irte::remapped(0x51, 7).from_buses(3, 5).0[1], 0x0008_0305);
    assert_eq!(Irte::default().with_sq(3).0[1], 0x0003_0000);
    let posted = Irte::posted(0x61, Hpa::new(0x1_2345_6780), true);
    assert_eq!(posted.0, [0x2345_6780_0061_c001, 0x0000_0001_0000_0000]);
    assert_eq!(posted.descriptor(), Hpa::new(0x1_2345_6780));
}

#[test]
fn posted_descriptors_have_the_bytes_of_linux() {
    // struct pi_desc of Linux arch/x86/include/asm/posted_intr.h: 256 request bits, then ON 256, SN 257, NV 279:272,
    // NDST 319:288.
    let descriptor = PostedDescriptor::default().with_on(true).with_sn(true).with_nv(0xf2);
    assert_eq!(descriptor.with_ndst(9).0, [0, 0, 0, 0, 0x0000_0009_00f2_0003, 0, 0, 0]);
}

#[test]
fn messages_name_entries_as_in_linux_and_qemu() {
    // Linux' x86_msi_addr_lo: dmar_index_15 at 2, dmar_subhandle_valid at 3, dmar_format at 4, dmar_index_0_14 at 19:5.
    let message = MessageAddress::remappable(0x8001, true);
    assert_eq!(message.0, [0xfee0_003c]);
    assert_eq!(message.handle(), 0x8001);
    // QEMU VTD_IR_IOAPICEntry: index_low 63:49, format 48, index_high 11.
    let entry = RedirectionEntry::default().with_format(true).with_handle_low(2).with_vector(0x30);
    assert_eq!(entry.with_handle_high(true).0, [0x0005_0000_0000_0830]);
}

#[test]
fn cache_invalidations_have_the_bytes_of_linux() {
    // QI_CC_*, QI_PC_*, QI_IOTLB_* and QI_EIOTLB_* of Linux iommu.h; granularities by QEMU's VTD_INV_DESC_*.
    assert_eq!(Descriptor::context_global().0, [0x11, 0, 0, 0]);
    assert_eq!(Descriptor::context(RID, 0x22).0, [0x3afd_0022_0031, 0, 0, 0]);
    assert_eq!(Descriptor::pasid_global().0, [0x37, 0, 0, 0]);
    assert_eq!(Descriptor::pasid_cache(pasid(0xfffff), 0x22).0, [0x000f_ffff_0022_0017, 0, 0, 0]);
    assert_eq!(Descriptor::iotlb_global(DRAIN).0, [0xd2, 0, 0, 0]);
    assert_eq!(Descriptor::iotlb_domain(0x22, NO_DRAIN).0, [0x0022_0022, 0, 0, 0]);
    let pages = Descriptor::iotlb_pages(0x22, 0x7_0000_0000, 9, true, DRAIN);
    assert_eq!(pages.0, [0x0022_00f2, 0x7_0000_0049, 0, 0]);
    assert_eq!(Descriptor::pasid_iotlb(pasid(3), 0x22).0, [0x0003_0022_0026, 0, 0, 0]);
    let pages = Descriptor::pasid_iotlb_pages(pasid(3), 0x22, 0x7000, 0, false);
    assert_eq!(pages.0, [0x0003_0022_0036, 0x7000, 0, 0]);
}

#[test]
fn interrupt_entry_invalidations_are_selective_by_bit_4() {
    // QI_IEC_SELECTIVE, QI_IEC_IM 31:27 and QI_IEC_IIDEX 47:32 of Linux iommu.h. QEMU's struct VTDInvDescIEC has the same
    // places, but its comment calls the bit "global" when set; its code, like Linux, takes a clear bit as global.
    assert_eq!(Descriptor::interrupt_global().0, [0x04, 0, 0, 0]);
    assert_eq!(Descriptor::interrupt_entries(0x8001, 3).0, [0x8001_1800_0014, 0, 0, 0]);
}

#[test]
fn waits_have_the_bytes_of_linux() {
    // QI_IWD_STATUS_DATA 63:32, QI_IWD_STATUS_WRITE 5, QI_IWD_FENCE 6.
    let wait = Descriptor::wait(0xdead_beef, Hpa::new(0x1004), true);
    assert_eq!(wait.0, [0xdead_beef_0000_0065, 0x1004, 0, 0]);
}

#[test]
fn device_tlb_invalidations_have_the_bytes_of_linux() {
    // QI_DEV_IOTLB_* and QI_DEV_EIOTLB_* of Linux iommu.h; sizes as qi_desc_dev_iotlb works them out.
    let one = Descriptor::device_tlb(RID, 4, 0x7000, 0);
    assert_eq!(one.0, [0x3af0_3afd_0004_d003, 0x7000, 0, 0]);
    let four = Descriptor::device_tlb(RID, 4, 0x8000, 2);
    assert_eq!(four.0[1], 0x9001);
    let one = Descriptor::pasid_device_tlb(RID, pasid(3), 4, 0x7000, 0);
    assert_eq!(one.0, [0x3af0_0003_3afd_d048, 0x7000, 0, 0]);
    let all = Descriptor::pasid_device_tlb(RID, pasid(3), 4, 0, 52);
    assert_eq!(all.0[1], 0x7fff_ffff_ffff_f800);
}

#[test]
fn page_group_responses_have_the_bytes_of_linux() {
    // QI_PGRP_* of Linux iommu.h: PASID_P 4, RESP_CODE 12, DID (the source) 16, PASID 32; second word: IDX 3.
    let answer = Descriptor::page_group_response(RID, Some(pasid(5)), 0x1ff, 1);
    assert_eq!(answer.0, [0x0005_3afd_1019, 0xff8, 0, 0]);
    let answer = Descriptor::page_group_response(RID, None, 1, 0xf);
    assert_eq!(answer.0, [0x3afd_f009, 0x8, 0, 0]);
}

#[test]
fn fault_records_read_as_in_linux_and_qemu() {
    // dma_frcd_* of Linux iommu.h, which count in doublewords; VTD_FRCD_* of QEMU for F 63, T 62 and FR 39:32 of the
    // upper word.
    let record = FaultRecord([0x7_1234_5000, 0xc000_0359_8000_3afd]);
    assert!(record.f() && record.is_read() && record.pp() && !record.is_interrupt());
    assert_eq!((record.sid(), record.fr(), record.pv()), (0x3afd, 0x59, 3));
    assert_eq!(record.fi(), Hpa::new(0x7_1234_5000));
    assert_eq!(describe(record.fr()), "the PASID has no owner");
}

#[test]
fn reasons_are_those_of_qemu_and_linux() {
    // VTDFaultReason of QEMU 11.1 and dma_remap_sm_fault_reasons of Linux dmar.c. Older QEMU (up to 9) gave 58h to every
    // PASID table error; its own later change splits that into 50h, 51h, 58h, 59h and 5bh, as Linux had it.
    assert_eq!([reason::CONTEXT_ABSENT, reason::WRITE, reason::READ], [2, 5, 6]);
    assert_eq!([reason::IRTE_ABSENT, reason::COMPATIBILITY, reason::SOURCE], [0x22, 0x25, 0x26]);
    assert_eq!([reason::DIRECTORY_ABSENT, reason::PASID_ABSENT], [0x51, 0x59]);
    assert_eq!(describe(0xff), "reason unknown");
}

#[test]
fn what_the_manual_does_not_define_survives() {
    let strange = Irte([u64::MAX, u64::MAX]);
    assert_eq!(strange.with_v(0xff).0, strange.0);
    assert_eq!(Descriptor([0xf; 4]).kind(), 0xf);
}
