//! The run itself: what happens between an exit and the next entry.

use hw::Msr;
use x86_spec::cpu::Rflags;
use x86_spec::svm::{
    ControlArea, EventWord, INTERRUPT_SHADOW, MSR_WRITE, SvmFeatures, Vmcb, exit_code, ioio, npf,
};

use super::vcpu::V_TPR;
use super::{SvmVcpu, entry, events, exit, state};
use crate::frame::{self, Handlers, Next, Pointer};
use crate::{Answer, Code64, Exit, Gpr, HotExits, Partial, Whole};

/// Enters the guest and comes back with the next exit.
pub(super) fn run(vcpu: &mut SvmVcpu) -> Exit {
    extern "sysv64" fn pass(_: &mut (), _: Pointer) -> Next {
        Next::PASS
    }
    entry::run(vcpu.frame.pointer(), &mut (), &[pass; 256]);
    vcpu.finish()
}

/// Likewise, but offers frequent exits to `hot` first.
#[inline]
pub(super) fn run_hot<H: HotExits>(vcpu: &mut SvmVcpu, hot: &mut H) -> Option<Exit> {
    match entry::run(vcpu.frame.pointer(), &mut Run { vcpu, hot }, &Run::HANDLERS) {
        Answer::Leave => {
            vcpu.take_back();
            None
        }
        Answer::Pass | Answer::Again => Some(vcpu.finish()),
    }
}

/// A run in which frequent exits are offered.
struct Run<'a, H> {
    vcpu: &'a mut SvmVcpu,
    hot: &'a mut H,
}

impl<H: HotExits> Run<'_, H> {
    const HANDLERS: Handlers<Self> = {
        let mut handlers: Handlers<Self> = [Self::pass; 256];
        handlers[exit_code::CPUID as usize] = frame::with_rbx::<Self, Cpuid>;
        handlers[exit_code::VMMCALL as usize] = Self::hypercall;
        handlers[exit_code::MSR as usize] = Self::msr;
        handlers[entry::NESTED_FAULT] = frame::with_all::<Self, Memory>;
        handlers[exit_code::IOIO as usize] = Self::port_io;
        handlers
    };

    extern "sysv64" fn pass(&mut self, _: Pointer) -> Next {
        Next::PASS
    }

    extern "sysv64" fn hypercall(&mut self, frame: Pointer) -> Next {
        Next::of(self.hot.hypercall(Held::<false>::new(&mut self.vcpu, frame)), frame)
    }

    extern "sysv64" fn msr(&mut self, frame: Pointer) -> Next {
        if self.vcpu.vmcb.control.exit_info1 & MSR_WRITE == 0 {
            return Next::PASS;
        }
        let msr = Msr(frame.gpr(Gpr::Rcx) as u32);
        Next::of(self.hot.msr_write(msr, Held::<false>::new(&mut self.vcpu, frame)), frame)
    }

    extern "sysv64" fn port_io(&mut self, frame: Pointer) -> Next {
        let ControlArea { exit_info1, exit_info2, .. } = self.vcpu.vmcb.control;
        let Some(width) = exit::port_width(exit_info1).filter(|_| exit_info1 & ioio::STRING == 0)
        else {
            return Next::PASS;
        };
        let access = exit::port_access(exit_info1, width);
        let held = Held::<false> { vcpu: &mut self.vcpu, frame, next_rip: exit_info2 };
        Next::of(self.hot.port_io(&access, held), frame)
    }
}

struct Cpuid;
struct Memory;

impl<H: HotExits> frame::Handle<Run<'_, H>> for Memory {
    #[inline(always)]
    fn handle(run: &mut Run<'_, H>, frame: Pointer) -> Next {
        let ControlArea { exit_code, exit_info1, exit_info2, exit_int_info, .. } =
            run.vcpu.vmcb.control;
        let is_plain = exit_code == exit_code::NPF
            && exit_info1 & (npf::FETCH | npf::GUEST_WALK) == 0
            && !EventWord(exit_int_info).is_valid();
        if !is_plain {
            return Next::PASS;
        }
        let fault = exit::second_stage(exit_info1, exit_info2);
        // The CPU gives no length for a fault, and what it has in that field is of another exit.
        let held = Held::<true> { vcpu: &mut run.vcpu, frame, next_rip: 0 };
        Next::of(run.hot.memory(fault, held), frame)
    }
}

impl<H: HotExits> frame::Handle<Run<'_, H>> for Cpuid {
    #[inline(always)]
    fn handle(run: &mut Run<'_, H>, frame: Pointer) -> Next {
        Next::of(run.hot.cpuid(Held::<false>::new(&mut run.vcpu, frame)), frame)
    }
}

/// A virtual CPU of whose general-purpose registers the CPU still holds some.
struct Held<'a, 'b, const ALL: bool> {
    vcpu: &'a mut &'b mut SvmVcpu,
    frame: Pointer,
    /// Where the CPU says the next instruction is, or 0.
    next_rip: u64,
}

impl<'a, 'b, const ALL: bool> Held<'a, 'b, ALL> {
    #[inline(always)]
    fn new(vcpu: &'a mut &'b mut SvmVcpu, frame: Pointer) -> Self {
        let offered = vcpu.features.svm.contains(SvmFeatures::NRIPS);
        let next_rip = if offered { vcpu.vmcb.control.next_rip } else { 0 };
        Self { vcpu, frame, next_rip }
    }

    #[inline(always)]
    fn vmcb(&self) -> &Vmcb {
        &self.vcpu.vmcb
    }
}

impl<const ALL: bool> Partial for Held<'_, '_, ALL> {
    #[inline(always)]
    fn rax(&self) -> u64 {
        self.vmcb().save.rax
    }

    #[inline(always)]
    fn rdx(&self) -> u64 {
        self.frame.gpr(Gpr::Rdx)
    }

    #[inline(always)]
    fn set_rax(&mut self, value: u64) {
        self.vcpu.vmcb.save.rax = value;
    }

    #[inline(always)]
    fn set_abcd(&mut self, [eax, ebx, ecx, edx]: [u32; 4]) {
        self.set_rax(eax.into());
        let gprs = self.frame.gprs();
        gprs[Gpr::Rbx as usize] = ebx.into();
        gprs[Gpr::Rcx as usize] = ecx.into();
        gprs[Gpr::Rdx as usize] = edx.into();
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        self.vmcb().save.rip
    }

    #[inline(always)]
    fn knows_length(&self) -> bool {
        self.next_rip != 0
    }

    #[inline(always)]
    fn code64(&self) -> Option<Code64> {
        state::code64(&self.vmcb().save)
    }

    #[inline(always)]
    fn task_priority(&self) -> Option<u8> {
        Some((self.vmcb().control.virtual_interrupt & V_TPR) as u8)
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        self.vmcb().save.cpl
    }

    #[inline(always)]
    fn advance(self, rip: u64, len: Option<u8>) -> Answer {
        self.advance_with(rip, len, EventWord::NONE)
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.vcpu.waiting.is_empty() && self.vmcb().save.rflags & Rflags::IF.bits() != 0
    }

    #[inline(always)]
    fn advance_into(self, rip: u64, len: Option<u8>, vector: u8) -> Answer {
        self.advance_with(rip, len, EventWord::new(EventWord::INTERRUPT, vector, None))
    }
}

impl<const ALL: bool> Held<'_, '_, ALL> {
    #[inline(always)]
    fn advance_with(self, rip: u64, len: Option<u8>, event: EventWord) -> Answer {
        let Vmcb { control, save } = &mut *self.vcpu.vmcb;
        // What was in it has been delivered.
        control.event_injection = EventWord::NONE.0;
        if event.is_valid() {
            events::lend(control, event);
        }
        control.interrupt_shadow &= !INTERRUPT_SHADOW;
        save.rip = match len {
            // Only 64-bit code has its length found.
            Some(len) => rip.wrapping_add(len.into()),
            None => self.next_rip,
        };
        if save.rflags & (Rflags::TF | Rflags::RF).bits() != 0 {
            return step(self.vcpu);
        }
        Answer::Again
    }
}

impl Whole for Held<'_, '_, true> {
    #[inline(always)]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rax => self.vmcb().save.rax,
            Gpr::Rsp => self.vmcb().save.rsp,
            other => self.frame.gpr(other),
        }
    }

    #[inline(always)]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rax => self.vcpu.vmcb.save.rax = value,
            Gpr::Rsp => self.vcpu.vmcb.save.rsp = value,
            other => self.frame.gprs()[other as usize] = value,
        }
    }
}

/// RF ends, and the single-step trap follows the instruction.
#[cold]
#[inline(never)]
fn step(vcpu: &mut &mut SvmVcpu) -> Answer {
    vcpu.end_instruction();
    Answer::Again
}
