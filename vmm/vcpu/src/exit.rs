//! Why a guest left, in words that fit both vendors, and what can be delivered to it.

use hw::{Gla, Gpa, Msr, Port, Width};

use crate::registers::Gpr;

/// Why a virtual CPU left its guest. For the ones that an instruction caused, RIP is still at that instruction, unless
/// the variant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// CPUID.
    Cpuid,
    /// VMCALL or VMMCALL.
    Hypercall,
    /// HLT.
    Halt,
    /// RDMSR of the register named.
    MsrRead(Msr),
    /// WRMSR.
    MsrWrite {
        /// The register.
        msr: Msr,
        /// EDX:EAX.
        value: u64,
    },
    /// IN, OUT, INS or OUTS.
    PortIo(PortIo),
    /// A guest physical address that the second stage does not map so.
    SecondStage(SecondStageFault),
    /// XSETBV.
    Xsetbv {
        /// ECX.
        index: u32,
        /// EDX:EAX.
        value: u64,
    },
    /// MOV from CR8.
    Cr8Read {
        /// The destination.
        register: Gpr,
    },
    /// MOV to CR8.
    Cr8Write {
        /// The value moved.
        value: u64,
    },
    /// MOV to or from CR4, of which the CPU tells no more: it is decoded, and a write goes to [`crate::Vcpu::write_cr4`].
    Cr4,
    /// An instruction that Kerf offers to no guest (VMXON, VMRUN, SKINIT, MWAIT, …): it gets #UD.
    InvalidOpcode,
    /// An instruction that raised #UD; only where [`crate::VcpuInit::undefined_exits`].
    Undefined,
    /// INVD, WBINVD or another instruction that does nothing worth emulating: it is skipped.
    Ignore,
    /// The backend handled it (a control register, a vendor's quirk); nothing is left to do but count.
    Handled,
    /// A host interrupt is pending.
    ExternalInterrupt,
    /// A non-maskable interrupt came; the backend has passed it to the host's handler.
    Nmi,
    /// The window asked for by `want_interrupt_window` is open.
    InterruptWindow,
    /// A triple fault: the guest is dead.
    Shutdown,
    /// INIT reached the virtual CPU.
    InitSignal,
    /// The CPU refused to enter.
    EntryFailed(EntryFailure),
    /// A reason no one expected, with the vendor's code for it.
    Unhandled {
        /// Basic exit reason (VMX) or EXITCODE (SVM).
        code: u64,
        /// Exit qualification (VMX) or EXITINFO1 (SVM).
        detail: u64,
    },
}

/// An access to I/O port space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortIo {
    /// First port.
    pub port: Port,
    /// One, two or four bytes.
    pub width: Width,
    /// OUT or OUTS.
    pub write: bool,
    /// INS or OUTS: the data is in memory.
    pub string: bool,
    /// With a REP prefix: RCX counts.
    pub rep: bool,
}

/// What an access wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Access {
    Read,
    Write,
    Execute,
}

/// An access that the second stage did not allow. Not yet MMIO: whether it is a device page, protected memory or a hole
/// is decided above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondStageFault {
    /// The guest physical address.
    pub gpa: Gpa,
    /// The guest linear address, where the CPU gave it.
    pub gla: Option<Gla>,
    /// What was wanted.
    pub access: Access,
    /// The CPU was walking the guest's page tables, not doing the access itself.
    pub during_walk: bool,
}

/// Something to deliver to a guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// An external interrupt by its vector.
    Interrupt(u8),
    /// A non-maskable interrupt.
    Nmi,
    /// A fault.
    Exception {
        /// Its vector.
        vector: u8,
        /// Its error code, for the vectors that have one.
        error_code: Option<u32>,
    },
    /// A page fault: CR2 is set too.
    PageFault {
        /// Linear address.
        address: u64,
        /// Error code.
        error_code: u32,
    },
}

/// Why the CPU refused to enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryFailure {
    /// A rule of the manual that the state breaks, found by the backend's own check: name and section.
    Rule(&'static str),
    /// The CPU refused and our check finds nothing: the CPU's code.
    Code(u64),
}
