//! Bits of the VM-execution, VM-exit and VM-entry controls, the interruptibility state and the EPT pointer.

use bitflags::bitflags;
use hw::Hpa;

bitflags! {
    /// Pin-based controls (SDM vol. 3, table 25-5).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PinBased: u32 {
        /// Host interrupts exit.
        const EXTERNAL_INTERRUPT_EXITING = 1 << 0;
        /// Host NMIs exit.
        const NMI_EXITING = 1 << 3;
        /// NMI blocking is the guest's own.
        const VIRTUAL_NMIS = 1 << 5;
        /// The preemption timer counts.
        const PREEMPTION_TIMER = 1 << 6;
        /// Posted interrupts are taken.
        const PROCESS_POSTED_INTERRUPTS = 1 << 7;
        const _ = !0;
    }

    /// Primary processor-based controls (SDM vol. 3, table 25-6).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Primary: u32 {
        /// An exit as soon as the guest can take an interrupt.
        const INTERRUPT_WINDOW_EXITING = 1 << 2;
        /// The guest's time-stamp counter has an offset.
        const USE_TSC_OFFSETTING = 1 << 3;
        /// HLT exits.
        const HLT_EXITING = 1 << 7;
        /// INVLPG exits.
        const INVLPG_EXITING = 1 << 9;
        /// MWAIT exits.
        const MWAIT_EXITING = 1 << 10;
        /// RDPMC exits.
        const RDPMC_EXITING = 1 << 11;
        /// RDTSC exits.
        const RDTSC_EXITING = 1 << 12;
        /// MOV to CR3 exits.
        const CR3_LOAD_EXITING = 1 << 15;
        /// MOV from CR3 exits.
        const CR3_STORE_EXITING = 1 << 16;
        /// There are tertiary controls.
        const ACTIVATE_TERTIARY = 1 << 17;
        /// MOV to CR8 exits.
        const CR8_LOAD_EXITING = 1 << 19;
        /// MOV from CR8 exits.
        const CR8_STORE_EXITING = 1 << 20;
        /// CR8 is in the virtual-APIC page.
        const USE_TPR_SHADOW = 1 << 21;
        /// An exit as soon as the guest can take an NMI.
        const NMI_WINDOW_EXITING = 1 << 22;
        /// MOV DR exits.
        const MOV_DR_EXITING = 1 << 23;
        /// Every I/O instruction exits.
        const UNCONDITIONAL_IO_EXITING = 1 << 24;
        /// I/O instructions exit by bitmap.
        const USE_IO_BITMAPS = 1 << 25;
        /// An exit after each instruction.
        const MONITOR_TRAP_FLAG = 1 << 27;
        /// RDMSR and WRMSR exit by bitmap.
        const USE_MSR_BITMAPS = 1 << 28;
        /// MONITOR exits.
        const MONITOR_EXITING = 1 << 29;
        /// PAUSE exits.
        const PAUSE_EXITING = 1 << 30;
        /// There are secondary controls.
        const ACTIVATE_SECONDARY = 1 << 31;
        const _ = !0;
    }

    /// Secondary processor-based controls (SDM vol. 3, table 25-7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Secondary: u32 {
        /// Accesses to the APIC page are virtualized.
        const VIRTUALIZE_APIC_ACCESSES = 1 << 0;
        /// EPT.
        const ENABLE_EPT = 1 << 1;
        /// LGDT and the like exit.
        const DESCRIPTOR_TABLE_EXITING = 1 << 2;
        /// RDTSCP does not raise #UD.
        const ENABLE_RDTSCP = 1 << 3;
        /// x2APIC MSRs are virtualized.
        const VIRTUALIZE_X2APIC = 1 << 4;
        /// Translations are tagged.
        const ENABLE_VPID = 1 << 5;
        /// WBINVD exits.
        const WBINVD_EXITING = 1 << 6;
        /// The guest may run in real mode and without paging.
        const UNRESTRICTED_GUEST = 1 << 7;
        /// APIC registers are virtualized.
        const APIC_REGISTER_VIRTUALIZATION = 1 << 8;
        /// Interrupts are delivered without exits.
        const VIRTUAL_INTERRUPT_DELIVERY = 1 << 9;
        /// PAUSE loops exit.
        const PAUSE_LOOP_EXITING = 1 << 10;
        /// RDRAND exits.
        const RDRAND_EXITING = 1 << 11;
        /// INVPCID does not raise #UD.
        const ENABLE_INVPCID = 1 << 12;
        /// VMFUNC does not raise #UD.
        const ENABLE_VM_FUNCTIONS = 1 << 13;
        /// VMCS shadowing.
        const VMCS_SHADOWING = 1 << 14;
        /// ENCLS exits.
        const ENCLS_EXITING = 1 << 15;
        /// RDSEED exits.
        const RDSEED_EXITING = 1 << 16;
        /// Page-modification logging.
        const ENABLE_PML = 1 << 17;
        /// EPT violations may raise #VE.
        const EPT_VIOLATION_VE = 1 << 18;
        /// XSAVES and XRSTORS do not raise #UD.
        const ENABLE_XSAVES = 1 << 20;
        /// Execute rights by mode.
        const MODE_BASED_EXECUTE = 1 << 22;
        /// The time-stamp counter is scaled.
        const USE_TSC_SCALING = 1 << 25;
        const _ = !0;
    }

    /// VM-exit controls (SDM vol. 3, table 25-13).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ExitControls: u32 {
        /// DR7 and IA32_DEBUGCTL are saved.
        const SAVE_DEBUG_CONTROLS = 1 << 2;
        /// The host is in 64-bit mode.
        const HOST_ADDRESS_SPACE_SIZE = 1 << 9;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 12;
        /// External interrupts are acknowledged.
        const ACKNOWLEDGE_INTERRUPT = 1 << 15;
        /// IA32_PAT is saved.
        const SAVE_PAT = 1 << 18;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 19;
        /// IA32_EFER is saved.
        const SAVE_EFER = 1 << 20;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 21;
        /// The preemption timer is saved.
        const SAVE_PREEMPTION_TIMER = 1 << 22;
        const _ = !0;
    }

    /// VM-entry controls (SDM vol. 3, table 25-15).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct EntryControls: u32 {
        /// DR7 and IA32_DEBUGCTL are loaded.
        const LOAD_DEBUG_CONTROLS = 1 << 2;
        /// The guest is in IA-32e mode.
        const IA32E_MODE_GUEST = 1 << 9;
        /// The entry is to SMM.
        const ENTRY_TO_SMM = 1 << 10;
        /// The dual-monitor treatment ends.
        const DEACTIVATE_DUAL_MONITOR = 1 << 11;
        /// IA32_PERF_GLOBAL_CTRL is loaded.
        const LOAD_PERF_GLOBAL_CTRL = 1 << 13;
        /// IA32_PAT is loaded.
        const LOAD_PAT = 1 << 14;
        /// IA32_EFER is loaded.
        const LOAD_EFER = 1 << 15;
        const _ = !0;
    }

    /// Interruptibility state (SDM vol. 3, table 25-3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Interruptibility: u32 {
        /// The instruction before was STI.
        const STI = 1 << 0;
        /// The instruction before was MOV or POP to SS.
        const MOV_SS = 1 << 1;
        /// SMIs are blocked.
        const SMI = 1 << 2;
        /// NMIs are blocked.
        const NMI = 1 << 3;
        /// The exit came inside an enclave.
        const ENCLAVE = 1 << 4;
        const _ = !0;
    }
}

/// Activity state (SDM vol. 3, 25.4.2): executing.
pub const ACTIVITY_ACTIVE: u32 = 0;
/// After HLT.
pub const ACTIVITY_HLT: u32 = 1;
/// After a triple fault.
pub const ACTIVITY_SHUTDOWN: u32 = 2;
/// Waiting for a start-up IPI.
pub const ACTIVITY_WAIT_FOR_SIPI: u32 = 3;

/// The link pointer of a VMCS without a shadow (SDM vol. 3, 25.4.2).
pub const NO_LINK: u64 = !0;

/// The EPT pointer to four levels of tables in write-back memory, with accessed and dirty flags or without (SDM vol. 3,
/// table 25-9).
#[must_use]
pub const fn ept_pointer(root: Hpa, flags: bool) -> u64 {
    const WRITE_BACK: u64 = 6;
    const FOUR_LEVELS: u64 = (4 - 1) << 3;
    root.raw() | FOUR_LEVELS | WRITE_BACK | (flags as u64) << 6
}
