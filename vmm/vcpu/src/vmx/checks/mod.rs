//! The CPU's checks of a VMCS at VM entry, as a pure function (SDM vol. 3, 27.2 and 27.3).
//!
//! The CPU says only that a check failed. [`check`] says which: it goes through the rules in the manual's order and
//! returns the first broken one. Debug builds run it before the first entry of every VMCS, all builds after a refused
//! entry, host tests on every VMCS that [`super::setup`] fills.
//!
//! Features that Kerf never switches on (VMCS shadowing, VM functions, PML, SGX, CET, performance counters, SMM) are
//! left out: their controls are zero, which `check` does verify through the reserved and allowed bits.

mod controls;
mod guest;
mod host;
mod segments;

#[cfg(test)]
mod tests;

use super::capabilities::Capabilities;
use super::fields::Fields;

macro_rules! rules {
    ($($name:ident: $text:literal,)*) => {
        /// A rule of VM entry.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum EntryCheck {
            $(#[doc = $text] $name,)*
        }

        impl EntryCheck {
            /// Every rule.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$(Self::$name,)*];

            /// The section of the manual, and the rule in short.
            pub(super) const fn rule(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

rules! {
    PinBased: "27.2.1.1 pin-based controls: reserved bits",
    Primary: "27.2.1.1 primary processor-based controls: reserved bits",
    Secondary: "27.2.1.1 secondary processor-based controls: reserved bits",
    Cr3TargetCount: "27.2.1.1 at most four CR3-target values",
    MsrBitmap: "27.2.1.1 MSR bitmap: page-aligned, within physical addresses",
    TprShadow: "27.2.1.1 virtual-APIC page: page-aligned, within physical addresses",
    TprThreshold: "27.2.1.1 TPR threshold: bits 31:4 are zero",
    ApicNeedsTprShadow: "27.2.1.1 APIC virtualization needs the TPR shadow",
    VirtualNmis: "27.2.1.1 virtual NMIs need NMI exiting",
    NmiWindow: "27.2.1.1 NMI-window exiting needs virtual NMIs",
    ApicAccess: "27.2.1.1 APIC-access page: page-aligned, within physical addresses",
    X2apicAndApicAccesses: "27.2.1.1 not both x2APIC mode and APIC accesses are virtualized",
    InterruptDelivery: "27.2.1.1 virtual-interrupt delivery needs external-interrupt exiting",
    PostedInterrupts: "27.2.1.1 posted interrupts need virtual-interrupt delivery and acknowledgement",
    Vpid: "27.2.1.1 VPID 0 is the host's",
    EptPointer: "27.2.1.1 EPT pointer: memory type, levels, reserved bits",
    UnrestrictedGuest: "27.2.1.1 unrestricted guest needs EPT",
    ExitControls: "27.2.1.2 exit controls: reserved bits",
    SavePreemptionTimer: "27.2.1.2 the preemption timer is saved only where it is active",
    ExitMsrStore: "27.2.1.2 exit MSR-store area: 16-byte aligned, within physical addresses",
    ExitMsrLoad: "27.2.1.2 exit MSR-load area: 16-byte aligned, within physical addresses",
    EntryControls: "27.2.1.3 entry controls: reserved bits",
    EventReserved: "27.2.1.3 event: reserved bits of the interruption information",
    EventType: "27.2.1.3 event: type is reserved or unsupported",
    EventVector: "27.2.1.3 event: vector does not fit the type",
    EventErrorCode: "27.2.1.3 event: an error code goes with certain exceptions in protected mode, only",
    EventErrorCodeBits: "27.2.1.3 event: error code bits 31:16 are zero",
    EventLength: "27.2.1.3 event: instruction length of a software event",
    EntryMsrLoad: "27.2.1.3 entry MSR-load area: 16-byte aligned, within physical addresses",
    EntrySmm: "27.2.1.3 SMM controls outside of SMM",
    HostCr0: "27.2.2 host CR0: fixed bits",
    HostCr4: "27.2.2 host CR4: fixed bits",
    HostCr3: "27.2.2 host CR3: within physical addresses",
    HostSysenter: "27.2.2 host SYSENTER_ESP and EIP: canonical",
    HostPat: "27.2.2 host PAT: memory types",
    HostEfer: "27.2.2 host EFER: reserved bits, LMA and LME as the address-space size",
    HostSelectors: "27.2.3 host selectors: RPL and TI are zero",
    HostCs: "27.2.3 host CS: not null",
    HostTr: "27.2.3 host TR: not null",
    HostBases: "27.2.3 host bases: canonical",
    HostAddressSpace: "27.2.4 host address-space size: one in 64-bit mode",
    HostPae: "27.2.4 host CR4: PAE in 64-bit mode",
    HostRip: "27.2.4 host RIP: canonical",
    GuestCr0: "27.3.1.1 CR0: fixed bits",
    GuestPagingUnprotected: "27.3.1.1 CR0: PG needs PE",
    GuestCr4: "27.3.1.1 CR4: fixed bits",
    GuestDebugctl: "27.3.1.1 DEBUGCTL: reserved bits",
    GuestIa32e: "27.3.1.1 IA-32e mode needs CR0.PG and CR4.PAE",
    GuestPcid: "27.3.1.1 CR4.PCIDE needs IA-32e mode",
    GuestCr3: "27.3.1.1 CR3: within physical addresses",
    GuestDr7: "27.3.1.1 DR7: bits 63:32 are zero",
    GuestSysenter: "27.3.1.1 SYSENTER_ESP and EIP: canonical",
    GuestPat: "27.3.1.1 PAT: memory types",
    GuestEferReserved: "27.3.1.1 EFER: reserved bits",
    GuestEferLma: "27.3.1.1 EFER.LMA: as the IA-32e mode control",
    GuestEferLme: "27.3.1.1 EFER.LME: as LMA while paging",
    TrSelector: "27.3.1.2 TR selector: TI is zero",
    LdtrSelector: "27.3.1.2 LDTR selector: TI is zero",
    VirtualBase: "27.3.1.2 virtual-8086 mode: base is the selector times 16",
    VirtualLimit: "27.3.1.2 virtual-8086 mode: limit is FFFFH",
    VirtualAccess: "27.3.1.2 virtual-8086 mode: access rights are F3H",
    BaseCanonical: "27.3.1.2 base of TR, FS, GS or LDTR: canonical",
    BaseHigh: "27.3.1.2 base of CS, SS, DS or ES: bits 63:32 are zero",
    CsType: "27.3.1.2 CS: type",
    SsType: "27.3.1.2 SS: type",
    DataType: "27.3.1.2 DS, ES, FS or GS: accessed, and readable where code",
    SegmentSystem: "27.3.1.2 CS or data segment: S is one",
    CsDpl: "27.3.1.2 CS: DPL against SS",
    SsDpl: "27.3.1.2 SS: DPL in real mode or with CS of type 3",
    SegmentPresent: "27.3.1.2 segment: P is one",
    SegmentReserved: "27.3.1.2 segment: reserved access rights",
    CsLongDefault: "27.3.1.2 CS: not both L and D in IA-32e mode",
    SegmentGranularity: "27.3.1.2 segment: G against the limit",
    TrType: "27.3.1.2 TR: a busy task-state segment",
    LdtrType: "27.3.1.2 LDTR: a local descriptor table",
    TableBase: "27.3.1.3 GDTR or IDTR base: canonical",
    TableLimit: "27.3.1.3 GDTR or IDTR limit: bits 31:16 are zero",
    Rip: "27.3.1.4 RIP: as wide as the mode",
    Rflags: "27.3.1.4 RFLAGS: reserved bits",
    RflagsVm: "27.3.1.4 RFLAGS.VM: neither in IA-32e nor in real mode",
    RflagsIf: "27.3.1.4 RFLAGS.IF: one when an external interrupt is delivered",
    Activity: "27.3.1.5 activity state: unknown or unsupported",
    ActivityHlt: "27.3.1.5 activity state: HLT only at privilege level 0",
    ActivityBlocking: "27.3.1.5 activity state: active while STI or MOV SS blocks",
    ActivityEvent: "27.3.1.5 activity state: does not go with the event",
    BlockingReserved: "27.3.1.5 interruptibility: reserved bits",
    BlockingBoth: "27.3.1.5 interruptibility: not both STI and MOV SS",
    BlockingSti: "27.3.1.5 interruptibility: STI needs RFLAGS.IF",
    BlockingEvent: "27.3.1.5 interruptibility: blocks the event",
    BlockingSmi: "27.3.1.5 interruptibility: SMI outside of SMM",
    PendingDebug: "27.3.1.5 pending debug exceptions: reserved bits",
    PendingDebugStep: "27.3.1.5 pending debug exceptions: BS against RFLAGS.TF",
    LinkPointer: "27.3.1.5 VMCS link pointer: all ones",
    Pdpte: "27.3.1.6 page-directory-pointer entries: reserved bits",
}

/// The first rule that the fields break.
///
/// # Errors
/// That rule.
pub(super) fn check(fields: &impl Fields, capabilities: &Capabilities) -> Result<(), EntryCheck> {
    controls::check(fields, capabilities)?;
    host::check(fields, capabilities)?;
    guest::check(fields, capabilities)
}

fn ensure(holds: bool, rule: EntryCheck) -> Result<(), EntryCheck> {
    if holds { Ok(()) } else { Err(rule) }
}

/// Whether each byte is a memory type that PAT knows (SDM vol. 3, 12.12.2).
pub(super) fn is_pat(value: u64) -> bool {
    value.to_le_bytes().iter().all(|kind| matches!(kind, 0 | 1 | 4..=7))
}

/// EFER bits that exist: SCE, LME, LMA, NXE.
const EFER_DEFINED: u64 = 1 << 0 | 1 << 8 | 1 << 10 | 1 << 11;
