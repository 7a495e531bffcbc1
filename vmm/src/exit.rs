//! [`Core::handle`]: what each exit means. Total over [`Exit`]: whatever a guest does, an answer exists, and it
//! concerns that guest alone.

use config::Policy;
use vcpu::{CpuContext, Event, Exit, GeneralProtection, Gpr, Vcpu};
use x86_spec::cpu::{Cr4, Rflags, vector};

use crate::cpu::{Activity, Core};
use crate::crash::{Crash, InstructionBytes};
use crate::insn::exiting::{self, Plain};
use crate::insn::{DecodeError, MAX_BYTES, Mode, quick};
use crate::platform::cpuid::CpuidState;
use crate::ring::ExitRecord;
use crate::vm::{CARETAKER, Vm};
use crate::walk::{self, WalkError};
use crate::{GuestMemory, Host};

/// What is to happen after an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outcome {
    /// Enter the guest again.
    Resume,
    /// Wait until the preparation says [`crate::Ready::Run`].
    Wait,
    /// The guest switched itself off.
    PowerOff,
    /// The guest asked for a reset.
    Reset,
    /// The guest ended by the exit port, with this status.
    Exit(u8),
    /// The guest cannot go on.
    Crashed(Crash),
    /// The guest asks to go on in the second-stage view of this number, which the machine has.
    SelectView(u16),
}

/// Entries tried again because an instruction was not what its exit said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Retries {
    rip: u64,
    count: u8,
}

impl Retries {
    /// Code that another CPU is changing settles in fewer; code that still does not decode then is the guest's own.
    const LIMIT: u8 = 8;

    /// An instruction was carried out.
    pub(crate) const fn clear(&mut self) {
        self.count = 0;
    }
}

/// Bytes of the instruction at RIP.
pub(crate) struct Fetched {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Fetched {
    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&[])
    }
}

/// What surrounds a virtual CPU while an exit is answered.
pub(crate) struct Outside<'a, M, H> {
    pub(crate) vm: &'a Vm,
    pub(crate) memory: &'a M,
    pub(crate) host: &'a mut H,
}

/// Why an access was not carried out.
pub(crate) enum Refused {
    /// The guest's page tables do not allow it.
    Walk(WalkError),
    /// Memory came while it was looked for: the guest tries again.
    Again,
    /// Nothing is there, and the guest is to get #GP.
    Fault,
    /// Nothing is there, and the guest is to end.
    Stop(Crash),
}

impl From<WalkError> for Refused {
    fn from(error: WalkError) -> Self {
        Self::Walk(error)
    }
}

/// What an access to something that is not there does, by the machine's policy.
pub(crate) fn unknown(policy: Policy, crash: Crash) -> Result<(), Refused> {
    match policy {
        Policy::Allow => Ok(()),
        Policy::Fault => Err(Refused::Fault),
        Policy::Stop => Err(Refused::Stop(crash)),
    }
}

impl Core {
    /// Answers an exit: changes `vcpu`, `memory` and the devices as the guest's instruction would have.
    pub fn handle<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        exit: Exit,
        vm: &Vm,
        vcpu: &mut V,
        memory: &M,
        host: &mut H,
    ) -> Outcome {
        let record = ExitRecord::of(&exit, vcpu);
        self.counters.note(record.kind);
        self.ring.note(record);
        if let Some(class) = vcpu.task_priority() {
            self.take_over_task_priority(class);
        }
        let mut outside = Outside { vm, memory, host };
        let outside = &mut outside;
        match exit {
            Exit::Cpuid => self.cpuid(vcpu, outside),
            Exit::Hypercall => self.hypercall(vcpu, outside),
            Exit::Halt => self.halt(vcpu, outside),
            Exit::MsrRead(msr) => self.msr_read(msr, vcpu, outside),
            Exit::MsrWrite { msr, value } => self.msr_write(msr, value, vcpu, outside),
            Exit::PortIo(access) => self.port_io(access, vcpu, outside),
            Exit::SecondStage(fault) => self.second_stage(fault, vcpu, outside),
            Exit::Xsetbv { index, value } => self.xsetbv(index, value, vcpu, outside),
            Exit::Cr8Read { register } => self.cr8_read(register, vcpu, memory),
            Exit::Cr8Write { value } => self.cr8_write(value, vcpu, memory),
            Exit::Cr4 => self.cr4(vcpu, memory),
            Exit::InvalidOpcode => self.fault(vcpu, vector::UD, None),
            Exit::Undefined => self.undefined(vcpu, outside),
            Exit::Ignore => match self.length(vcpu, memory, Plain::Idle) {
                Some(_) if vcpu.cpl() != 0 => self.general_protection(vcpu),
                Some(len) => self.complete(vcpu, len),
                None => self.try_again(vcpu, memory),
            },
            Exit::ExternalInterrupt | Exit::InitSignal => {
                (self.settled, self.devices_due) = (false, true);
                Outcome::Resume
            }
            Exit::InterruptWindow => {
                self.settled = false;
                self.window = None;
                Outcome::Resume
            }
            Exit::Handled | Exit::Nmi => Outcome::Resume,
            Exit::Shutdown => Outcome::Crashed(Crash::TripleFault),
            Exit::EntryFailed(why) => Outcome::Crashed(Crash::EntryFailed(why)),
            Exit::Unhandled { code, detail } => Outcome::Crashed(Crash::Unhandled { code, detail }),
        }
    }

    /// CR8 as the guest left it, where the CPU let it change that without an exit.
    pub(crate) fn take_over_task_priority(&mut self, class: u8) {
        if class != self.lapic.task_priority_class() {
            // A copy that the CPU keeps has four bits.
            let _ = self.lapic.set_task_priority_class((class & 15).into());
            self.settled = false;
        }
    }

    fn cpuid<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        vcpu: &mut V,
        outside: &Outside<'_, M, H>,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, outside.memory, Plain::Cpuid) else {
            return self.try_again(vcpu, outside.memory);
        };
        let leaf = vcpu.gpr(Gpr::Rax) as u32;
        // Only these leaves mirror a bit of CR4 (OSXSAVE, OSPKE): the others need not ask for it.
        let cr4 = if matches!(leaf, 1 | 7) { vcpu.context().cr4 } else { 0 };
        let state = CpuidState { cr4, xcr0: vcpu.xcr0(), apic_id: self.index };
        let answer = outside.vm.spec.cpuid.cpuid(leaf, vcpu.gpr(Gpr::Rcx) as u32, &state);
        vcpu.set_gpr(Gpr::Rax, answer.eax.into());
        vcpu.set_gpr(Gpr::Rbx, answer.ebx.into());
        vcpu.set_gpr(Gpr::Rcx, answer.ecx.into());
        vcpu.set_gpr(Gpr::Rdx, answer.edx.into());
        self.complete(vcpu, len)
    }

    fn halt<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, outside.memory, Plain::Hlt) else {
            return self.try_again(vcpu, outside.memory);
        };
        let _ = self.complete(vcpu, len);
        self.settled = false;
        self.show_output(outside.vm, outside.host);
        let rflags = vcpu.rflags();
        if rflags & Rflags::TF.bits() != 0 {
            // The single-step trap ends the halt at once.
            return Outcome::Resume;
        }
        if rflags & Rflags::IF.bits() == 0 {
            self.activity = Activity::HaltedDeeply;
            let is_for_good = outside.vm.sleep_deeply();
            return if is_for_good {
                Outcome::Crashed(Crash::HaltedForGood)
            } else {
                Outcome::Wait
            };
        }
        let now = self.guest_tsc(outside.host);
        if self.index == CARETAKER {
            outside.vm.look_after_devices(now, outside.host);
        }
        self.lapic.poll(self.lapic_time(now));
        // What the virtual CPU itself has to deliver ends the halt as well.
        if self.lapic.pending_vector().is_some()
            || outside.vm.attention(self.index)
            || !vcpu.can_take_interrupt()
        {
            return Outcome::Resume;
        }
        self.activity = Activity::Halted;
        Outcome::Wait
    }

    /// SDM vol. 3, 2.6: the value must be one that XSETBV accepts with the features the guest is offered.
    fn xsetbv<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        index: u32,
        value: u64,
        vcpu: &mut V,
        outside: &Outside<'_, M, H>,
    ) -> Outcome {
        let Some(len) = self.length(vcpu, outside.memory, Plain::Xsetbv) else {
            return self.try_again(vcpu, outside.memory);
        };
        if vcpu.context().cr4 & Cr4::OSXSAVE.bits() == 0 {
            return self.fault(vcpu, vector::UD, None);
        }
        let allowed = outside.vm.spec.cpuid.xcr0_allowed();
        if index != 0 || vcpu.cpl() != 0 || !is_valid_xcr0(value, allowed) {
            return self.general_protection(vcpu);
        }
        vcpu.set_xcr0(value);
        self.complete(vcpu, len)
    }

    fn cr8_read<V: Vcpu, M: GuestMemory>(
        &mut self,
        register: Gpr,
        vcpu: &mut V,
        memory: &M,
    ) -> Outcome {
        let Some(len) = self.cr8_length(vcpu, memory, false) else {
            return self.try_again(vcpu, memory);
        };
        vcpu.set_gpr(register, self.lapic.task_priority_class().into());
        self.complete(vcpu, len)
    }

    fn cr8_write<V: Vcpu, M: GuestMemory>(
        &mut self,
        value: u64,
        vcpu: &mut V,
        memory: &M,
    ) -> Outcome {
        let Some(len) = self.cr8_length(vcpu, memory, true) else {
            return self.try_again(vcpu, memory);
        };
        self.settled = false;
        match self.lapic.set_task_priority_class(value) {
            Ok(()) => self.complete(vcpu, len),
            Err(_) => self.general_protection(vcpu),
        }
    }

    fn cr8_length<V: Vcpu, M: GuestMemory>(&self, vcpu: &V, memory: &M, write: bool) -> Option<u8> {
        vcpu.instruction_len().or_else(|| {
            let context = vcpu.context();
            let fetched = instruction(vcpu, &context, memory);
            exiting::mov_control(fetched.bytes(), Mode::of(&context))
                .ok()
                .filter(|found| found.control == 8 && found.write == write)
                .map(|found| found.len)
        })
    }

    /// MOV to or from CR4 where the CPU leaves it to Kerf.
    fn cr4<V: Vcpu, M: GuestMemory>(&mut self, vcpu: &mut V, memory: &M) -> Outcome {
        let context = vcpu.context();
        let mode = Mode::of(&context);
        let fetched = instruction(vcpu, &context, memory);
        let found = exiting::mov_control(fetched.bytes(), mode).ok();
        let Some(found) = found.filter(|found| found.control == 4) else {
            return self.try_again(vcpu, memory);
        };
        let mask = if mode == Mode::Bits64 { u64::MAX } else { u32::MAX.into() };
        let done = match found.write {
            _ if context.cpl != 0 => Err(GeneralProtection),
            true => vcpu.write_cr4(vcpu.gpr(found.gpr) & mask),
            false => {
                vcpu.set_gpr(found.gpr, context.cr4 & mask);
                Ok(())
            }
        };
        match done {
            Ok(()) => self.complete(vcpu, found.len),
            Err(GeneralProtection) => self.general_protection(vcpu),
        }
    }

    /// The length of the instruction that caused an exit: the CPU's word, or decoded and proved to be that instruction.
    pub(crate) fn length<V: Vcpu, M: GuestMemory>(
        &self,
        vcpu: &V,
        memory: &M,
        expected: Plain,
    ) -> Option<u8> {
        let quickly = || quick::length(memory.code(vcpu.code64()?)?, expected);
        vcpu.instruction_len().or_else(quickly).or_else(|| {
            let context = vcpu.context();
            let fetched = instruction(vcpu, &context, memory);
            exiting::length(fetched.bytes(), Mode::of(&context), expected).ok()
        })
    }

    /// The instruction is done.
    pub(crate) fn complete<V: Vcpu>(&mut self, vcpu: &mut V, len: u8) -> Outcome {
        vcpu.advance(len);
        self.retries.count = 0;
        Outcome::Resume
    }

    /// The instruction is not what the exit said: the guest runs it again, and either exits otherwise or faults. One
    /// that stays as it is could never be emulated.
    pub(crate) fn try_again<V: Vcpu, M: GuestMemory>(&mut self, vcpu: &V, memory: &M) -> Outcome {
        self.counters.mismatches += 1;
        let rip = vcpu.rip();
        if self.retries.rip != rip {
            self.retries = Retries { rip, count: 0 };
        }
        self.retries.count += 1;
        if self.retries.count < Retries::LIMIT {
            return Outcome::Resume;
        }
        self.retries.count = 0;
        let fetched = instruction(vcpu, &vcpu.context(), memory);
        Outcome::Crashed(Crash::Undecodable(InstructionBytes {
            rip,
            bytes: fetched.bytes,
            len: fetched.len as u8,
        }))
    }

    /// Gives the guest a fault in place of the instruction's effect.
    pub(crate) fn fault<V: Vcpu>(
        &mut self,
        vcpu: &mut V,
        vector: u8,
        error_code: Option<u32>,
    ) -> Outcome {
        self.inject(vcpu, Event::Exception { vector, error_code })
    }

    /// #GP(0).
    pub(crate) fn general_protection<V: Vcpu>(&mut self, vcpu: &mut V) -> Outcome {
        self.fault(vcpu, vector::GP, Some(0))
    }

    /// What a failed walk of the guest's page tables means to the guest.
    pub(crate) fn walk_failed<V: Vcpu>(&mut self, error: WalkError, vcpu: &mut V) -> Outcome {
        match error {
            WalkError::PageFault { address, error_code } => {
                self.inject(vcpu, Event::PageFault { address, error_code })
            }
            WalkError::NotCanonical => self.general_protection(vcpu),
            WalkError::NoMemory(gpa) => Outcome::Crashed(Crash::NoStringData(gpa)),
        }
    }

    /// An access was not carried out.
    pub(crate) fn refused<V: Vcpu>(&mut self, why: Refused, vcpu: &mut V) -> Outcome {
        match why {
            Refused::Walk(error) => self.walk_failed(error, vcpu),
            Refused::Again => Outcome::Resume,
            Refused::Fault => self.general_protection(vcpu),
            Refused::Stop(crash) => Outcome::Crashed(crash),
        }
    }

    fn inject<V: Vcpu>(&mut self, vcpu: &mut V, event: Event) -> Outcome {
        vcpu.inject(event);
        self.counters.faults += 1;
        self.retries.count = 0;
        self.injected = true;
        Outcome::Resume
    }
}

/// The bytes at RIP: the CPU's, or fetched; none where that is no longer possible.
pub(crate) fn instruction<V: Vcpu, M: GuestMemory>(
    vcpu: &V,
    context: &CpuContext,
    memory: &M,
) -> Fetched {
    let mut bytes = [0; MAX_BYTES];
    let given = vcpu.instruction_bytes();
    let len = given.len().min(MAX_BYTES);
    match (bytes.get_mut(..len), given.get(..len)) {
        (Some(to), Some(from)) if len > 0 => {
            to.copy_from_slice(from);
            Fetched { bytes, len }
        }
        _ => {
            let len = walk::fetch(context, memory, &mut bytes).unwrap_or(0);
            Fetched { bytes, len }
        }
    }
}

/// Decodes an instruction that accessed memory.
pub(crate) fn decode_memory<V: Vcpu, M: GuestMemory>(
    vcpu: &V,
    context: &CpuContext,
    memory: &M,
) -> Result<crate::insn::mmio::Instruction, DecodeError> {
    let fetched = instruction(vcpu, context, memory);
    crate::insn::mmio::decode(fetched.bytes(), Mode::of(context))
}

/// Whether XSETBV takes `value` where `allowed` bits exist (SDM vol. 1, 13.3).
fn is_valid_xcr0(value: u64, allowed: u64) -> bool {
    const X87: u64 = 1 << 0;
    const SSE: u64 = 1 << 1;
    const AVX: u64 = 1 << 2;
    const MPX: u64 = 3 << 3;
    const AVX512: u64 = 7 << 5;
    const TILE: u64 = 3 << 17;
    let all_or_none = |bits| value & bits == 0 || value & bits == bits;
    let needs = |bits, other| value & bits == 0 || value & other != 0;
    value & !allowed == 0
        && value & X87 != 0
        && needs(AVX, SSE)
        && all_or_none(MPX)
        && all_or_none(AVX512)
        && needs(AVX512, AVX)
        && all_or_none(TILE)
}
