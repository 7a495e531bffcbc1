//! What a virtual machine counts: exits by kind, accesses that met nothing, interrupts delivered.

use vcpu::Exit;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:literal $kind:ident = $pattern:pat,)*) => {
        /// A kind of exit, by [`Exit`]'s variants; port and memory accesses apart by direction.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[allow(missing_docs)]
        pub enum ExitKind {
            $($kind,)*
        }

        impl ExitKind {
            /// All of them, in the order they are counted.
            pub const ALL: &'static [Self] = &[$(Self::$kind,)*];

            /// Its name in reports.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }

            /// The kind of an exit.
            #[must_use]
            pub const fn of(exit: &Exit) -> Self {
                match exit {
                    $($pattern => Self::$kind,)*
                }
            }
        }
    };
}

kinds! {
    "cpuid" Cpuid = Exit::Cpuid,
    "hypercall" Hypercall = Exit::Hypercall,
    "halt" Halt = Exit::Halt,
    "msr-read" MsrRead = Exit::MsrRead(_),
    "msr-write" MsrWrite = Exit::MsrWrite { .. },
    "port-read" PortRead = Exit::PortIo(vcpu::PortIo { write: false, .. }),
    "port-write" PortWrite = Exit::PortIo(_),
    "second-stage" SecondStage = Exit::SecondStage(_),
    "xsetbv" Xsetbv = Exit::Xsetbv { .. },
    "cr8-read" Cr8Read = Exit::Cr8Read { .. },
    "cr8-write" Cr8Write = Exit::Cr8Write { .. },
    "cr4" Cr4 = Exit::Cr4,
    "invalid-opcode" InvalidOpcode = Exit::InvalidOpcode,
    "undefined" Undefined = Exit::Undefined,
    "ignored" Ignore = Exit::Ignore,
    "handled" Handled = Exit::Handled,
    "external-interrupt" ExternalInterrupt = Exit::ExternalInterrupt,
    "nmi" Nmi = Exit::Nmi,
    "interrupt-window" InterruptWindow = Exit::InterruptWindow,
    "shutdown" Shutdown = Exit::Shutdown,
    "init" InitSignal = Exit::InitSignal,
    "entry-failed" EntryFailed = Exit::EntryFailed(_),
    "unhandled" Unhandled = Exit::Unhandled { .. },
}

/// Accesses to something that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// How many.
    pub count: u64,
    /// Port, guest physical address or register number of the last one.
    pub last: u64,
}

impl Unknown {
    pub(crate) const fn note(&mut self, what: u64) {
        self.count += 1;
        self.last = what;
    }
}

/// The counters of one virtual machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    exits: [u64; ExitKind::ALL.len()],
    /// Ports that no device answers.
    pub unknown_ports: Unknown,
    /// Guest physical addresses that no device answers.
    pub unknown_mmio: Unknown,
    /// Guest physical addresses whose memory the view hides.
    pub hidden: Unknown,
    /// Guest physical addresses whose memory is protected against the access.
    pub protected: Unknown,
    /// Registers that RDMSR or WRMSR named and the guest does not have.
    pub unknown_msrs: Unknown,
    /// Hypercalls by numbers that mean nothing.
    pub unknown_hypercalls: Unknown,
    /// Instructions that had changed, or could no longer be fetched, when an exit was looked at.
    pub mismatches: u64,
    /// Interrupts delivered to the guest.
    pub interrupts: u64,
    /// Faults given to the guest.
    pub faults: u64,
}

impl Counters {
    #[inline(always)]
    pub(crate) fn note(&mut self, kind: ExitKind) {
        if let Some(count) = self.exits.get_mut(kind as usize) {
            *count += 1;
        }
    }

    /// Exits of one kind.
    #[must_use]
    pub fn exits(&self, kind: ExitKind) -> u64 {
        self.exits.get(kind as usize).copied().unwrap_or(0)
    }

    /// Exits of all kinds.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.exits.iter().sum()
    }
}
