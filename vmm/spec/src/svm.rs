//! The virtual machine control block of SVM (APM vol. 2, appendix B), its intercepts, exit codes (appendix C) and event
//! words (15.20). Offsets were compared with Linux' and Bochs' headers; the asserts at the foot pin them.

use bitflags::bitflags;

/// The VMCB: one page, 4 KiB-aligned.
#[repr(C, align(4096))]
#[derive(Debug)]
pub struct Vmcb {
    /// What is intercepted, and how the last run ended.
    pub control: ControlArea,
    /// The guest's state.
    pub save: StateSaveArea,
}

/// The control area (APM vol. 2, table B-1).
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs)]
pub struct ControlArea {
    /// Bit n: reads of CRn.
    pub intercept_cr_read: u16,
    /// Bit n: writes to CRn.
    pub intercept_cr_write: u16,
    pub intercept_dr_read: u16,
    pub intercept_dr_write: u16,
    /// Bit n: exception vector n.
    pub intercept_exceptions: u32,
    /// [`Intercept3`].
    pub intercept3: u32,
    /// [`Intercept4`].
    pub intercept4: u32,
    pub intercept5: u32,
    reserved_018: [u8; 0x24],
    pub pause_filter_threshold: u16,
    pub pause_filter_count: u16,
    /// Three pages, one bit for each port.
    pub iopm_base_pa: u64,
    /// Two pages, two bits for each MSR.
    pub msrpm_base_pa: u64,
    pub tsc_offset: u64,
    pub guest_asid: u32,
    /// [`tlb_control`].
    pub tlb_control: u8,
    reserved_05d: [u8; 3],
    /// [`VirtualInterrupt`], with V_TPR in bits 7:0.
    pub virtual_interrupt: u32,
    /// V_INTR_VECTOR in bits 7:0.
    pub virtual_interrupt_vector: u32,
    /// Bit 0: the guest is in an interrupt shadow. Bit 1: GUEST_INTERRUPT_MASK, read-only.
    pub interrupt_shadow: u64,
    pub exit_code: u64,
    pub exit_info1: u64,
    pub exit_info2: u64,
    /// [`EventWord`] of an event whose delivery the exit cut short.
    pub exit_int_info: u64,
    /// Bit 0: NP_ENABLE.
    pub nested_control: u64,
    reserved_098: [u8; 16],
    /// [`EventWord`] to deliver at VMRUN.
    pub event_injection: u64,
    /// Root of the nested page tables.
    pub n_cr3: u64,
    /// Bit 0: last-branch records are virtualized.
    pub lbr_control: u64,
    /// [`Clean`].
    pub clean: u32,
    reserved_0c4: u32,
    /// RIP after the intercepted instruction, where CPUID offers NRIPS; else 0.
    pub next_rip: u64,
    /// Bytes in `instruction_bytes`, with decode assists.
    pub instruction_len: u8,
    pub instruction_bytes: [u8; 15],
    reserved_0e0: [u8; 0x320],
}

/// A segment register of the state-save area.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VmcbSegment {
    /// The visible selector.
    pub selector: u16,
    /// Twelve bits: type, S, DPL, P (7:0), AVL, L, D/B, G (11:8).
    pub attributes: u16,
    /// In bytes.
    pub limit: u32,
    /// Linear base.
    pub base: u64,
}

/// The state-save area (APM vol. 2, table B-2). VMRUN and #VMEXIT switch what is not marked; VMLOAD and VMSAVE switch
/// the rest.
#[repr(C)]
#[derive(Debug)]
#[allow(missing_docs)]
pub struct StateSaveArea {
    pub es: VmcbSegment,
    pub cs: VmcbSegment,
    pub ss: VmcbSegment,
    pub ds: VmcbSegment,
    /// VMLOAD, VMSAVE.
    pub fs: VmcbSegment,
    /// VMLOAD, VMSAVE.
    pub gs: VmcbSegment,
    pub gdtr: VmcbSegment,
    /// VMLOAD, VMSAVE.
    pub ldtr: VmcbSegment,
    pub idtr: VmcbSegment,
    /// VMLOAD, VMSAVE.
    pub tr: VmcbSegment,
    reserved_0a0: [u8; 0x2b],
    pub cpl: u8,
    reserved_0cc: u32,
    pub efer: u64,
    reserved_0d8: [u8; 0x70],
    pub cr4: u64,
    pub cr3: u64,
    pub cr0: u64,
    pub dr7: u64,
    pub dr6: u64,
    pub rflags: u64,
    pub rip: u64,
    reserved_180: [u8; 0x58],
    pub rsp: u64,
    pub s_cet: u64,
    pub ssp: u64,
    pub isst_addr: u64,
    pub rax: u64,
    /// VMLOAD, VMSAVE; so are the next seven.
    pub star: u64,
    pub lstar: u64,
    pub cstar: u64,
    pub sfmask: u64,
    pub kernel_gs_base: u64,
    pub sysenter_cs: u64,
    pub sysenter_esp: u64,
    pub sysenter_eip: u64,
    pub cr2: u64,
    reserved_248: [u8; 0x20],
    /// The guest's PAT, with nested paging.
    pub g_pat: u64,
    pub dbgctl: u64,
    pub br_from: u64,
    pub br_to: u64,
    pub last_exception_from: u64,
    pub last_exception_to: u64,
    reserved_298: [u8; 0x48],
    pub spec_ctrl: u64,
    reserved_2e8: [u8; 0x918],
}

/// Instructions and events that leave the guest, by their names in the manual.
#[allow(missing_docs)]
mod intercept {
    use bitflags::bitflags;

    bitflags! {
        /// Word 3 of the intercepts, at offset 0Ch.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Intercept3: u32 {
            const INTR = 1 << 0;
            const NMI = 1 << 1;
            const SMI = 1 << 2;
            const INIT = 1 << 3;
            const VINTR = 1 << 4;
            const CR0_SELECTIVE = 1 << 5;
            const RDTSC = 1 << 14;
            const RDPMC = 1 << 15;
            const CPUID = 1 << 18;
            const RSM = 1 << 19;
            const IRET = 1 << 20;
            const INVD = 1 << 22;
            const PAUSE = 1 << 23;
            const HLT = 1 << 24;
            const INVLPG = 1 << 25;
            const INVLPGA = 1 << 26;
            /// Ports, by the I/O permission map.
            const IOIO_PROT = 1 << 27;
            /// MSRs, by the MSR permission map.
            const MSR_PROT = 1 << 28;
            const TASK_SWITCH = 1 << 29;
            const FERR_FREEZE = 1 << 30;
            const SHUTDOWN = 1 << 31;
        }

        /// Word 4 of the intercepts, at offset 10h.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Intercept4: u32 {
            /// Must be set.
            const VMRUN = 1 << 0;
            const VMMCALL = 1 << 1;
            const VMLOAD = 1 << 2;
            const VMSAVE = 1 << 3;
            const STGI = 1 << 4;
            const CLGI = 1 << 5;
            const SKINIT = 1 << 6;
            const RDTSCP = 1 << 7;
            const ICEBP = 1 << 8;
            const WBINVD = 1 << 9;
            const MONITOR = 1 << 10;
            const MWAIT = 1 << 11;
            const MWAIT_ARMED = 1 << 12;
            const XSETBV = 1 << 13;
            const RDPRU = 1 << 14;
        }
    }
}

pub use intercept::{Intercept3, Intercept4};

bitflags! {
    /// The virtual-interrupt word, at offset 60h (APM vol. 2, 15.21). Bits 7:0 are V_TPR.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct VirtualInterrupt: u32 {
        /// V_IRQ: a virtual interrupt is pending.
        const IRQ = 1 << 8;
        /// V_GIF.
        const GIF = 1 << 9;
        /// V_INTR_PRIO, all of it.
        const PRIORITY = 0xf << 16;
        /// V_IGN_TPR: its priority is not compared with V_TPR.
        const IGNORE_TPR = 1 << 20;
        /// V_INTR_MASKING: the guest's IF and TPR apply to virtual interrupts only.
        const MASKING = 1 << 24;
        /// V_GIF_ENABLE.
        const GIF_ENABLE = 1 << 25;
        /// V_TPR and whatever else.
        const _ = !0;
    }

    /// VMCB clean bits (APM vol. 2, 15.15.3): set where memory holds what the CPU has cached.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Clean: u32 {
        /// Intercepts, TSC offset, pause filter.
        const INTERCEPTS = 1 << 0;
        /// Addresses of the permission maps.
        const PERMISSION_MAPS = 1 << 1;
        /// ASID.
        const ASID = 1 << 2;
        /// The virtual-interrupt word and vector.
        const TPR = 1 << 3;
        /// Nested paging: nCR3, gPAT.
        const NESTED_PAGING = 1 << 4;
        /// CR0, CR3, CR4, EFER.
        const CONTROL_REGISTERS = 1 << 5;
        /// DR6, DR7.
        const DEBUG_REGISTERS = 1 << 6;
        /// GDTR, IDTR.
        const DESCRIPTOR_TABLES = 1 << 7;
        /// CS, DS, SS, ES and CPL.
        const SEGMENTS = 1 << 8;
        /// CR2.
        const CR2 = 1 << 9;
        /// DBGCTL and the branch records.
        const LBR = 1 << 10;
        /// The CPU ignores bits it does not know.
        const _ = !0;
    }

    /// CPUID 8000_000AH, EDX.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct SvmFeatures: u32 {
        /// Nested paging.
        const NPT = 1 << 0;
        /// Last-branch records are virtualized.
        const LBR_VIRT = 1 << 1;
        /// VM_CR.LOCK can be unlocked by key.
        const SVML = 1 << 2;
        /// The VMCB gets the next RIP.
        const NRIPS = 1 << 3;
        /// TSC_RATIO.
        const TSC_RATE_MSR = 1 << 4;
        /// VMCB clean bits.
        const VMCB_CLEAN = 1 << 5;
        /// TLB_CONTROL can flush one ASID.
        const FLUSH_BY_ASID = 1 << 6;
        /// The VMCB gets instruction bytes and operands.
        const DECODE_ASSISTS = 1 << 7;
        /// PAUSE filter.
        const PAUSE_FILTER = 1 << 10;
        /// PAUSE filter threshold.
        const PAUSE_FILTER_THRESHOLD = 1 << 12;
        /// Virtual GIF.
        const VGIF = 1 << 16;
        /// The guest's IA32_SPEC_CTRL is in the VMCB.
        const SPEC_CTRL_VIRT = 1 << 20;
        /// Others.
        const _ = !0;
    }
}

/// CPUID 8000_0001H, ECX: SVM.
pub const CPUID_SVM: u32 = 1 << 2;
/// VM_CR.SVMDIS: EFER.SVME cannot be set (APM vol. 2, 15.30.1).
pub const VM_CR_SVMDIS: u64 = 1 << 4;
/// `interrupt_shadow`: the guest is in one.
pub const INTERRUPT_SHADOW: u64 = 1 << 0;
/// `nested_control`: NP_ENABLE.
pub const NP_ENABLE: u64 = 1 << 0;
/// Bytes of the I/O permission map: 64 Ki ports, and three bits more for accesses that reach past the last.
pub const IOPM_BYTES: usize = 3 * 4096;
/// Bytes of the MSR permission map.
pub const MSRPM_BYTES: usize = 2 * 4096;

/// Where the MSR permission map keeps the read bit of `msr`, as a bit number; the write bit follows. `None`: always
/// intercepted (APM vol. 2, 15.11).
#[must_use]
pub const fn msrpm_bit(msr: u32) -> Option<usize> {
    let (base, first) = match msr {
        0..=0x1fff => (0, 0),
        0xc000_0000..=0xc000_1fff => (0x800 * 8, 0xc000_0000),
        0xc001_0000..=0xc001_1fff => (0x1000 * 8, 0xc001_0000),
        _ => return None,
    };
    Some(base + 2 * (msr - first) as usize)
}

/// Values of TLB_CONTROL (APM vol. 2, 15.16.2).
pub mod tlb_control {
    /// Nothing.
    pub const NOTHING: u8 = 0;
    /// The whole TLB.
    pub const FLUSH_ALL: u8 = 1;
    /// This guest's entries; needs FLUSH_BY_ASID.
    pub const FLUSH_ASID: u8 = 3;
}

/// Exit codes (APM vol. 2, appendix C).
#[allow(missing_docs)]
pub mod exit_code {
    pub const CR0_READ: u64 = 0x00;
    pub const CR4_READ: u64 = 0x04;
    pub const CR8_READ: u64 = 0x08;
    pub const CR0_WRITE: u64 = 0x10;
    pub const CR4_WRITE: u64 = 0x14;
    pub const CR8_WRITE: u64 = 0x18;
    /// Plus the vector.
    pub const EXCEPTION: u64 = 0x40;
    pub const INTR: u64 = 0x60;
    pub const NMI: u64 = 0x61;
    pub const SMI: u64 = 0x62;
    pub const INIT: u64 = 0x63;
    pub const VINTR: u64 = 0x64;
    pub const RDPMC: u64 = 0x6f;
    pub const CPUID: u64 = 0x72;
    pub const IRET: u64 = 0x74;
    pub const INVD: u64 = 0x76;
    pub const PAUSE: u64 = 0x77;
    pub const HLT: u64 = 0x78;
    pub const INVLPGA: u64 = 0x7a;
    pub const IOIO: u64 = 0x7b;
    pub const MSR: u64 = 0x7c;
    pub const SHUTDOWN: u64 = 0x7f;
    pub const VMRUN: u64 = 0x80;
    pub const VMMCALL: u64 = 0x81;
    pub const VMLOAD: u64 = 0x82;
    pub const VMSAVE: u64 = 0x83;
    pub const STGI: u64 = 0x84;
    pub const CLGI: u64 = 0x85;
    pub const SKINIT: u64 = 0x86;
    pub const WBINVD: u64 = 0x89;
    pub const MONITOR: u64 = 0x8a;
    pub const MWAIT: u64 = 0x8b;
    pub const MWAIT_ARMED: u64 = 0x8c;
    pub const XSETBV: u64 = 0x8d;
    pub const RDPRU: u64 = 0x8e;
    /// A nested page fault.
    pub const NPF: u64 = 0x400;
    /// The state in the VMCB is not allowed.
    pub const INVALID: u64 = u64::MAX;
}

/// EXITINFO1 of a port access (APM vol. 2, 15.10.2). The port is in bits 31:16; EXITINFO2 is the next RIP.
pub mod ioio {
    /// IN or INS.
    pub const IN: u64 = 1 << 0;
    /// INS or OUTS.
    pub const STRING: u64 = 1 << 2;
    /// With a REP prefix.
    pub const REP: u64 = 1 << 3;
    /// Lowest of three bits: 1, 2 or 4 bytes.
    pub const SIZE_SHIFT: u32 = 4;
    /// Where the port is.
    pub const PORT_SHIFT: u32 = 16;
}

/// EXITINFO1 of a nested page fault (APM vol. 2, 15.25.6): a page-fault error code and two bits more.
pub mod npf {
    /// A write.
    pub const WRITE: u64 = 1 << 1;
    /// An instruction fetch.
    pub const FETCH: u64 = 1 << 4;
    /// On the guest's final physical address.
    pub const FINAL: u64 = 1 << 32;
    /// While the guest's page tables were walked.
    pub const GUEST_WALK: u64 = 1 << 33;
}

/// EXITINFO1 of an MSR access: a write.
pub const MSR_WRITE: u64 = 1;

/// EVENTINJ and EXITINTINFO (APM vol. 2, 15.20): vector 7:0, type 10:8, error code valid 11, valid 31, error code 63:32.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventWord(pub u64);

impl EventWord {
    /// Bit 31.
    pub const VALID: u64 = 1 << 31;
    /// Bit 11: bits 63:32 hold an error code.
    pub const ERROR_CODE_VALID: u64 = 1 << 11;
    /// Type of an external interrupt.
    pub const INTERRUPT: u8 = 0;
    /// Type of an NMI.
    pub const NMI: u8 = 2;
    /// Type of an exception.
    pub const EXCEPTION: u8 = 3;
    /// Type of an INT n.
    pub const SOFTWARE: u8 = 4;
    /// No event.
    pub const NONE: Self = Self(0);

    /// A valid event.
    #[must_use]
    pub const fn new(kind: u8, vector: u8, error_code: Option<u32>) -> Self {
        let error = match error_code {
            Some(code) => (code as u64) << 32 | Self::ERROR_CODE_VALID,
            None => 0,
        };
        Self(vector as u64 | (kind as u64) << 8 | Self::VALID | error)
    }

    /// Whether there is an event.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & Self::VALID != 0
    }

    /// Whether there is an external interrupt.
    #[must_use]
    pub const fn is_interrupt(self) -> bool {
        self.0 & (Self::VALID | 7 << 8) == Self::VALID | (Self::INTERRUPT as u64) << 8
    }

    /// Its vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Its type.
    #[must_use]
    pub const fn kind(self) -> u8 {
        (self.0 >> 8) as u8 & 7
    }
}

macro_rules! offsets {
    ($area:ident: $($offset:literal $field:ident,)*) => {$(
        const _: () = assert!(core::mem::offset_of!($area, $field) == $offset);
    )*};
}

offsets! { Vmcb: 0x000 control, 0x400 save, }
offsets! {
    ControlArea:
    0x000 intercept_cr_read, 0x002 intercept_cr_write, 0x004 intercept_dr_read,
    0x006 intercept_dr_write, 0x008 intercept_exceptions, 0x00c intercept3, 0x010 intercept4,
    0x014 intercept5, 0x03c pause_filter_threshold, 0x03e pause_filter_count, 0x040 iopm_base_pa,
    0x048 msrpm_base_pa, 0x050 tsc_offset, 0x058 guest_asid, 0x05c tlb_control,
    0x060 virtual_interrupt, 0x064 virtual_interrupt_vector, 0x068 interrupt_shadow,
    0x070 exit_code, 0x078 exit_info1, 0x080 exit_info2, 0x088 exit_int_info,
    0x090 nested_control, 0x0a8 event_injection, 0x0b0 n_cr3, 0x0b8 lbr_control, 0x0c0 clean,
    0x0c8 next_rip, 0x0d0 instruction_len, 0x0d1 instruction_bytes,
}
offsets! { VmcbSegment: 0 selector, 2 attributes, 4 limit, 8 base, }
offsets! {
    StateSaveArea:
    0x000 es, 0x010 cs, 0x020 ss, 0x030 ds, 0x040 fs, 0x050 gs, 0x060 gdtr, 0x070 ldtr,
    0x080 idtr, 0x090 tr, 0x0cb cpl, 0x0d0 efer, 0x148 cr4, 0x150 cr3, 0x158 cr0, 0x160 dr7,
    0x168 dr6, 0x170 rflags, 0x178 rip, 0x1d8 rsp, 0x1e0 s_cet, 0x1e8 ssp, 0x1f0 isst_addr,
    0x1f8 rax, 0x200 star, 0x208 lstar, 0x210 cstar, 0x218 sfmask, 0x220 kernel_gs_base,
    0x228 sysenter_cs, 0x230 sysenter_esp, 0x238 sysenter_eip, 0x240 cr2, 0x268 g_pat,
    0x270 dbgctl, 0x278 br_from, 0x280 br_to, 0x288 last_exception_from, 0x290 last_exception_to,
    0x2e0 spec_ctrl,
}
const _: () = assert!(size_of::<Vmcb>() == 4096 && size_of::<ControlArea>() == 0x400);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn event_words_have_the_bytes_of_the_manual() {
        assert_eq!(EventWord::new(EventWord::INTERRUPT, 0x30, None).0, 0x8000_0030);
        assert_eq!(EventWord::new(EventWord::NMI, 2, None).0, 0x8000_0202);
        let fault = EventWord::new(EventWord::EXCEPTION, 14, Some(0x11));
        assert_eq!(fault.0, 0x0000_0011_8000_0b0e);
        assert_eq!((fault.kind(), fault.vector(), fault.is_valid()), (3, 14, true));
    }

    #[test]
    fn the_msr_map_has_three_ranges() {
        assert_eq!(msrpm_bit(0x174), Some(0x174 * 2));
        assert_eq!(msrpm_bit(0xc000_0080), Some(0x820 * 8));
        assert_eq!(msrpm_bit(0xc001_0114), Some(0x1000 * 8 + 0x114 * 2));
        assert_eq!(msrpm_bit(0xc001_1fff).map(|bit| bit / 8), Some(0x17ff));
        assert_eq!(msrpm_bit(0x2000), None);
        assert_eq!(msrpm_bit(0x4000_0000), None);
    }
}
