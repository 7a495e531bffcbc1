//! Virtual CPUs. The rest of Kerf sees one interface, [`Backend`] and [`Vcpu`]; VT-x ([`vmx`]) and SVM ([`svm`]) stand
//! behind it, and [`scripted`] plays a list of exits for host tests.
//!
//! A backend is chosen once, at start, by probing; from there on everything is generic over it. What only one vendor
//! has is settled inside its backend or becomes neutral: no [`Exit`] exists for one side alone.
//!
//! The contract of [`Vcpu::run`]: the caller runs on the CPU on which the backend was enabled, with interrupts off, and
//! gets control back with interrupts off. A host interrupt ends the run with [`Exit::ExternalInterrupt`] while still
//! pending in the host's interrupt controller: it is taken when the caller opens interrupts.

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod barrier;
mod cr4;
mod exit;
mod fpu;
mod frame;
mod hot;
mod registers;
mod speculation;
mod state;
mod tsc;

pub mod scripted;
pub mod svm;
pub mod vmx;

pub use cr4::GeneralProtection;
pub use exit::{Access, EntryFailure, Event, Exit, PortIo, SecondStageFault};
pub use hot::{Answer, HotExits, Partial, Whole};
pub use registers::{Code64, CpuContext, Gpr, Registers};
pub use speculation::Speculation;
pub use state::{Events, STATE_MSRS, StateError, VcpuState};
pub use tsc::TscRatio;

use hw::{CpuidBus, Hpa, Hva, Msr, MsrBus, MsrFault, OutOfFrames};
use paging::{DirtyFormat, PageSize};
use x86_spec::cpu::{Cr4, Efer};

/// A CPU backend: VT-x, SVM, or a script.
pub trait Backend: Sized {
    /// Its virtual CPUs.
    type Vcpu: Vcpu;
    /// Its second-stage page-table format.
    type Stage2: DirtyFormat;
    /// The name printed at start: `"VT-x"`, `"SVM"`.
    const NAME: &'static str;

    /// Whether this CPU can carry the backend. Reads only.
    ///
    /// # Errors
    /// [`Unsupported`] names the first feature of the documented minimum that is missing, or the firmware's lock.
    fn probe(cpuid: &impl CpuidBus, msrs: &impl MsrBus) -> Result<(), Unsupported>;

    /// Turns virtualization on for the calling CPU.
    ///
    /// # Errors
    /// [`EnableError`] where the CPU refuses, or no frame is left.
    fn enable(
        cpuid: &impl CpuidBus,
        msrs: &impl MsrBus,
        pages: &mut dyn HostPages,
    ) -> Result<Self, EnableError>;

    /// A virtual CPU, in the state `init` gives it.
    ///
    /// # Errors
    /// [`EnableError::OutOfFrames`] where no frame is left for its control structures.
    fn create_vcpu(
        &mut self,
        init: &VcpuInit,
        pages: &mut dyn HostPages,
    ) -> Result<Self::Vcpu, EnableError>;

    /// What this CPU has for its guests.
    fn offers(&self) -> Offers;
}

/// A virtual CPU.
pub trait Vcpu {
    /// Enters the guest and comes back with the reason it left. See the crate's documentation for the contract.
    fn run(&mut self) -> Exit;

    /// Likewise, but offers frequent exits to `hot` first, and enters again where it has answered them. `None`: it has
    /// answered the last one too, but there is something to see to.
    fn run_hot<H: HotExits>(&mut self, hot: &mut H) -> Option<Exit>
    where
        Self: Sized,
    {
        loop {
            let exit = self.run();
            let answer = match exit {
                Exit::Cpuid => hot.cpuid(&mut *self),
                Exit::Hypercall => hot.hypercall(&mut *self),
                Exit::MsrWrite { msr, .. } => hot.msr_write(msr, &mut *self),
                Exit::PortIo(ref access) if !access.string => hot.port_io(access, &mut *self),
                Exit::SecondStage(fault)
                    if !fault.during_walk && fault.access != Access::Execute =>
                {
                    hot.memory(fault, &mut *self)
                }
                _ => Answer::Pass,
            };
            match answer {
                Answer::Again => {}
                Answer::Leave => return None,
                Answer::Pass => return Some(exit),
            }
        }
    }

    /// A general-purpose register, RSP included.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets a general-purpose register, RSP included.
    fn set_gpr(&mut self, register: Gpr, value: u64);
    /// The instruction pointer: after an exit caused by an instruction, that instruction's.
    fn rip(&self) -> u64;
    /// The length of the instruction that caused the last exit, where the CPU gave it; where not, it is decoded above
    /// this interface, never assumed.
    fn instruction_len(&self) -> Option<u8>;
    /// The bytes of that instruction, where the CPU gave them (SVM decode assists); else empty.
    fn instruction_bytes(&self) -> &[u8] {
        &[]
    }
    /// Moves RIP past an instruction of `len` bytes that was emulated, and ends its interrupt shadow. What the CPU does
    /// after an instruction is the backend's: with RFLAGS.TF set the single-step trap is the next event.
    fn advance(&mut self, len: u8);
    /// What decoding an instruction and walking the guest's page tables need to know.
    fn context(&self) -> CpuContext;
    /// Where the guest executes 64-bit code with four-level paging: as much of [`Vcpu::context`] as fetching it takes.
    #[inline]
    fn code64(&self) -> Option<Code64> {
        const LONG: u32 = 1 << 13;
        let CpuContext { rip, cr3, cr4, efer, cs, .. } = self.context();
        let long = efer & Efer::LMA.bits() != 0 && cs.access & LONG != 0;
        (long && cr4 & Cr4::LA57.bits() == 0).then_some(Code64 { rip, cr3 })
    }
    /// The current privilege level alone.
    fn cpl(&self) -> u8 {
        self.context().cpl
    }
    /// RFLAGS alone.
    fn rflags(&self) -> u64 {
        self.context().rflags
    }
    /// Sets RFLAGS, as an emulated arithmetic instruction does.
    fn set_rflags(&mut self, value: u64);

    /// Whether an external interrupt could be delivered at the next entry: RFLAGS.IF is set, no interrupt shadow, and no
    /// other event is pending.
    fn can_take_interrupt(&self) -> bool;
    /// Asks for [`Exit::InterruptWindow`] as soon as [`Vcpu::can_take_interrupt`] would hold for an interrupt of this
    /// priority class (its vector's upper half); `None` takes that back. Where the CPU keeps a copy of CR8
    /// ([`Vcpu::task_priority`]), the window also waits for CR8 to fall below the class. Elsewhere CR8 changes by exits
    /// alone, and the caller asks only once it is low enough.
    fn want_interrupt_window(&mut self, class: Option<u8>);
    /// Delivers `event` at the next entry. An event whose delivery an exit cut short is delivered again by the backend
    /// itself; until then [`Vcpu::can_take_interrupt`] is false. A fault given here takes precedence over it; an interrupt
    /// or NMI that is overtaken so is not lost.
    fn inject(&mut self, event: Event);

    /// MOV to CR4 of `value`, which caused [`Exit::Cr4`]: only where the backend has such exits.
    ///
    /// # Errors
    /// [`GeneralProtection`] where the CPU would not take the value.
    fn write_cr4(&mut self, _value: u64) -> Result<(), GeneralProtection> {
        Err(GeneralProtection)
    }

    /// A register of the guest that RDMSR reads and the CPU or the backend holds (EFER, PAT, FS base, …).
    ///
    /// # Errors
    /// [`MsrFault`] where the backend holds no such register: what to do then is decided above.
    fn read_msr(&self, msr: Msr) -> Result<u64, MsrFault>;
    /// Likewise for WRMSR.
    ///
    /// # Errors
    /// [`MsrFault`] where the backend holds no such register or the value is not allowed in it: the guest gets #GP.
    fn write_msr(&mut self, msr: Msr, value: u64) -> Result<(), MsrFault>;
    /// Sets XCR0 to a value that has been checked.
    fn set_xcr0(&mut self, value: u64);
    /// XCR0.
    fn xcr0(&self) -> u64;

    /// Sets CR8, the task priority, as the guest's local APIC has it; only where the CPU keeps a copy.
    fn set_task_priority(&mut self, _class: u8) {}
    /// CR8 as the guest left it, where the CPU keeps a copy that the guest changes without an exit: the local APIC takes
    /// it over before it picks an interrupt.
    fn task_priority(&self) -> Option<u8> {
        None
    }

    /// Puts every register into the given state, as a reset or start-up does.
    fn set_registers(&mut self, registers: &Registers);
    /// Every register of the state.
    fn registers(&self) -> Registers;

    /// Makes this the virtual CPU whose FPU state and untouched MSRs the calling CPU holds. Called before the first
    /// [`Vcpu::run`], and after another virtual CPU was loaded.
    fn load(&mut self);
    /// Takes that state off the CPU again and leaves none of it behind.
    fn unload(&mut self);

    /// Drops, before the next entry, what the CPU has cached of this guest's translations. To be called after the second
    /// stage has lost a mapping or a right, on the CPU on which this is loaded; [`Vcpu::load`] does the same by itself.
    /// New mappings and rights need no call: a stale refusal faults once more and is looked up again.
    fn flush_translations(&mut self);

    /// Goes over to another second stage (a view) at `root`, and drops what the CPU has cached of the old one, and of the
    /// new one from before.
    fn set_second_stage(&mut self, root: Hpa);
    /// Sets what is added to the host's time-stamp counter, scaled, to give the guest's.
    fn set_tsc_offset(&mut self, offset: u64);

    /// The whole state, the time-stamp counter apart.
    fn save(&self) -> VcpuState;
    /// Puts a state in place of the present one.
    ///
    /// # Errors
    /// [`StateError`] where this CPU or this guest cannot have it; part of it may then be in place, and the virtual CPU is
    /// to be given another state before it runs again.
    fn restore(&mut self, state: &VcpuState) -> Result<(), StateError>;
}

/// What a virtual CPU is made from.
#[derive(Clone, Debug)]
pub struct VcpuInit {
    /// Root of the second-stage page tables, in the format [`Backend::Stage2`].
    pub second_stage: Hpa,
    /// Number that tags its translations; 1 and up, one for each VM (VPID, ASID).
    pub address_space: u16,
    /// How fast its time-stamp counter runs: as the host's, unless [`Offers::tsc_scaling`].
    pub tsc_ratio: TscRatio,
    /// Added to the host's time-stamp counter, scaled, to give the guest's.
    pub tsc_offset: u64,
    /// XCR0 bits the guest may set, 0 where it has no XSAVE.
    pub xcr0_allowed: u64,
    /// Who waits when the guest has nothing to do.
    pub idle: IdlePolicy,
    /// Whether #UD exits, as [`Exit::Undefined`].
    pub undefined_exits: bool,
    /// Its registers at start.
    pub registers: Registers,
}

/// What guests can be offered on one CPU and not on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offers {
    /// Process-context identifiers and INVPCID.
    pub pcid: bool,
    /// The largest page of a second stage.
    pub largest_page: PageSize,
    /// A second stage's leaves tell that they were written to.
    pub dirty_bits: bool,
    /// A time-stamp counter of another frequency than the host's.
    pub tsc_scaling: bool,
    /// Registers that hold speculation back.
    pub speculation: Speculation,
}

/// Whether HLT, MWAIT and PAUSE exit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdlePolicy {
    /// HLT exits, so that another virtual CPU can have the CPU meanwhile; MONITOR and MWAIT are not offered.
    #[default]
    Exit,
    /// The guest runs them itself: for a virtual CPU that has its CPU alone. A host interrupt still ends the wait.
    InGuest,
}

/// Where a backend gets pages for its control structures: zeroed, never given back while the backend lives.
pub trait HostPages {
    /// `count` pages in a row, aligned to 4 KiB.
    ///
    /// # Errors
    /// [`OutOfFrames`] where no such run is left.
    fn alloc_pages(&mut self, count: usize) -> Result<HostPage, OutOfFrames>;
}

/// Pages for control structures, by both of their addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostPage {
    /// What the CPU's control registers take.
    pub hpa: Hpa,
    /// Where Kerf reads and writes them.
    pub hva: Hva,
}

/// Why a CPU cannot carry a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unsupported {
    /// CPUID does not offer the extension at all: the other vendor's CPU, or virtualization hidden.
    NoExtension,
    /// The firmware switched it off and locked the switch; the text names the register.
    LockedByFirmware(&'static str),
    /// A feature of the documented minimum is missing; the text is the manual's name for it.
    Missing(&'static str),
}

/// Why virtualization could not be turned on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnableError {
    /// [`Backend::probe`] said no.
    Unsupported(Unsupported),
    /// No frame is left.
    OutOfFrames,
    /// A register refused a value that the manual allows.
    Msr(MsrFault),
    /// VMXON, VMCLEAR or VMPTRLD failed.
    Instruction(&'static str),
}

impl From<OutOfFrames> for EnableError {
    fn from(_: OutOfFrames) -> Self {
        Self::OutOfFrames
    }
}

impl From<MsrFault> for EnableError {
    fn from(fault: MsrFault) -> Self {
        Self::Msr(fault)
    }
}

impl From<Unsupported> for EnableError {
    fn from(why: Unsupported) -> Self {
        Self::Unsupported(why)
    }
}
