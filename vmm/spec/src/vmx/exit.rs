//! Exit reasons, interruption information and exit qualifications.

/// Basic exit reasons (SDM vol. 3, appendix C), bits 15:0 of the exit reason.
#[allow(missing_docs)]
pub mod reason {
    pub const EXCEPTION_OR_NMI: u16 = 0;
    pub const EXTERNAL_INTERRUPT: u16 = 1;
    pub const TRIPLE_FAULT: u16 = 2;
    pub const INIT: u16 = 3;
    pub const STARTUP_IPI: u16 = 4;
    pub const IO_SMI: u16 = 5;
    pub const OTHER_SMI: u16 = 6;
    pub const INTERRUPT_WINDOW: u16 = 7;
    pub const NMI_WINDOW: u16 = 8;
    pub const TASK_SWITCH: u16 = 9;
    pub const CPUID: u16 = 10;
    pub const GETSEC: u16 = 11;
    pub const HLT: u16 = 12;
    pub const INVD: u16 = 13;
    pub const INVLPG: u16 = 14;
    pub const RDPMC: u16 = 15;
    pub const RDTSC: u16 = 16;
    pub const RSM: u16 = 17;
    pub const VMCALL: u16 = 18;
    pub const VMCLEAR: u16 = 19;
    pub const VMLAUNCH: u16 = 20;
    pub const VMPTRLD: u16 = 21;
    pub const VMPTRST: u16 = 22;
    pub const VMREAD: u16 = 23;
    pub const VMRESUME: u16 = 24;
    pub const VMWRITE: u16 = 25;
    pub const VMXOFF: u16 = 26;
    pub const VMXON: u16 = 27;
    pub const CR_ACCESS: u16 = 28;
    pub const MOV_DR: u16 = 29;
    pub const IO_INSTRUCTION: u16 = 30;
    pub const RDMSR: u16 = 31;
    pub const WRMSR: u16 = 32;
    pub const ENTRY_FAILURE_GUEST_STATE: u16 = 33;
    pub const ENTRY_FAILURE_MSR_LOADING: u16 = 34;
    pub const MWAIT: u16 = 36;
    pub const MONITOR_TRAP_FLAG: u16 = 37;
    pub const MONITOR: u16 = 39;
    pub const PAUSE: u16 = 40;
    pub const ENTRY_FAILURE_MACHINE_CHECK: u16 = 41;
    pub const TPR_BELOW_THRESHOLD: u16 = 43;
    pub const APIC_ACCESS: u16 = 44;
    pub const VIRTUALIZED_EOI: u16 = 45;
    pub const GDTR_IDTR_ACCESS: u16 = 46;
    pub const LDTR_TR_ACCESS: u16 = 47;
    pub const EPT_VIOLATION: u16 = 48;
    pub const EPT_MISCONFIGURATION: u16 = 49;
    pub const INVEPT: u16 = 50;
    pub const RDTSCP: u16 = 51;
    pub const PREEMPTION_TIMER: u16 = 52;
    pub const INVVPID: u16 = 53;
    pub const WBINVD: u16 = 54;
    pub const XSETBV: u16 = 55;
    pub const APIC_WRITE: u16 = 56;
    pub const RDRAND: u16 = 57;
    pub const INVPCID: u16 = 58;
    pub const VMFUNC: u16 = 59;
    pub const ENCLS: u16 = 60;
    pub const RDSEED: u16 = 61;
    pub const PML_FULL: u16 = 62;
    pub const XSAVES: u16 = 63;
    pub const XRSTORS: u16 = 64;
}

/// Bit 31 of the exit reason: the entry failed, there was no guest to leave (SDM vol. 3, 25.9.1).
pub const ENTRY_FAILURE: u32 = 1 << 31;

/// An event, as the entry, exit and IDT-vectoring fields describe it (SDM vol. 3, tables 25-17, 25-19 and 25-20): bits
/// 7:0 vector, 10:8 type, 11 error code valid, 12 NMI unblocking due to IRET, 31 valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterruptionInfo(pub u32);

/// The type of an event, bits 10:8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)]
pub enum InterruptionType {
    ExternalInterrupt = 0,
    Reserved = 1,
    Nmi = 2,
    HardwareException = 3,
    SoftwareInterrupt = 4,
    PrivilegedSoftwareException = 5,
    SoftwareException = 6,
    Other = 7,
}

impl InterruptionType {
    /// Whether an instruction raised the event: its length goes with it.
    #[must_use]
    pub const fn has_instruction_length(self) -> bool {
        matches!(
            self,
            Self::SoftwareInterrupt | Self::PrivilegedSoftwareException | Self::SoftwareException
        )
    }
}

impl InterruptionInfo {
    /// Nothing to deliver.
    pub const NONE: Self = Self(0);

    /// A valid event.
    #[must_use]
    pub const fn new(vector: u8, kind: InterruptionType, error_code: bool) -> Self {
        Self(1 << 31 | (error_code as u32) << 11 | (kind as u32) << 8 | vector as u32)
    }

    /// Whether there is an event at all.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.0 & 1 << 31 != 0
    }

    /// Its vector.
    #[must_use]
    pub const fn vector(self) -> u8 {
        self.0 as u8
    }

    /// Its type.
    #[must_use]
    pub const fn kind(self) -> InterruptionType {
        match self.0 >> 8 & 7 {
            0 => InterruptionType::ExternalInterrupt,
            1 => InterruptionType::Reserved,
            2 => InterruptionType::Nmi,
            3 => InterruptionType::HardwareException,
            4 => InterruptionType::SoftwareInterrupt,
            5 => InterruptionType::PrivilegedSoftwareException,
            6 => InterruptionType::SoftwareException,
            _ => InterruptionType::Other,
        }
    }

    /// Whether an error code goes with it.
    #[must_use]
    pub const fn has_error_code(self) -> bool {
        self.0 & 1 << 11 != 0
    }

    /// Exit interruption information only: an IRET that faulted had ended NMI blocking.
    #[must_use]
    pub const fn nmi_unblocked_by_iret(self) -> bool {
        self.0 & 1 << 12 != 0
    }
}

/// Exit qualification of an I/O instruction (SDM vol. 3, table 28-5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoQualification(pub u64);

impl IoQualification {
    /// Bytes of the access.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        (self.0 & 7) + 1
    }

    /// IN or INS.
    #[must_use]
    pub const fn is_in(self) -> bool {
        self.0 & 1 << 3 != 0
    }

    /// INS or OUTS.
    #[must_use]
    pub const fn is_string(self) -> bool {
        self.0 & 1 << 4 != 0
    }

    /// REP-prefixed.
    #[must_use]
    pub const fn is_rep(self) -> bool {
        self.0 & 1 << 5 != 0
    }

    /// The port.
    #[must_use]
    pub const fn port(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

/// What a control-register access did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum CrAccess {
    MovTo,
    MovFrom,
    Clts,
    Lmsw,
}

/// Exit qualification of a control-register access (SDM vol. 3, table 28-3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrQualification(pub u64);

impl CrQualification {
    /// Number of the control register; 0 for CLTS and LMSW.
    #[must_use]
    pub const fn number(self) -> u8 {
        (self.0 & 15) as u8
    }

    /// What was done.
    #[must_use]
    pub const fn access(self) -> CrAccess {
        match self.0 >> 4 & 3 {
            0 => CrAccess::MovTo,
            1 => CrAccess::MovFrom,
            2 => CrAccess::Clts,
            _ => CrAccess::Lmsw,
        }
    }

    /// Number of the general-purpose register of a MOV.
    #[must_use]
    pub const fn register(self) -> u8 {
        (self.0 >> 8 & 15) as u8
    }
}

/// Exit qualification of an EPT violation (SDM vol. 3, table 28-7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EptQualification(pub u64);

impl EptQualification {
    /// A load.
    #[must_use]
    pub const fn is_read(self) -> bool {
        self.0 & 1 << 0 != 0
    }

    /// A store.
    #[must_use]
    pub const fn is_write(self) -> bool {
        self.0 & 1 << 1 != 0
    }

    /// An instruction fetch.
    #[must_use]
    pub const fn is_fetch(self) -> bool {
        self.0 & 1 << 2 != 0
    }

    /// The guest-linear address field is valid.
    #[must_use]
    pub const fn has_linear_address(self) -> bool {
        self.0 & 1 << 7 != 0
    }

    /// With a valid linear address: it was being accessed, not translated.
    #[must_use]
    pub const fn is_final_access(self) -> bool {
        self.0 & 1 << 8 != 0
    }

    /// An IRET that faulted had ended NMI blocking.
    #[must_use]
    pub const fn nmi_unblocked_by_iret(self) -> bool {
        self.0 & 1 << 12 != 0
    }
}

/// VM-instruction errors (SDM vol. 3, 31.4) that Kerf tells apart.
pub mod instruction_error {
    /// VM entry with an invalid control field.
    pub const ENTRY_INVALID_CONTROL: u32 = 7;
    /// VM entry with an invalid host-state field.
    pub const ENTRY_INVALID_HOST_STATE: u32 = 8;
}
