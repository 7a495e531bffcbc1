//! The run itself: what happens between an exit and the next entry.

use hw::Msr;
use x86_spec::cpu::{Cr4, Efer, Rflags};
use x86_spec::vmx::control::Interruptibility;
use x86_spec::vmx::exit::{IoQualification, reason};
use x86_spec::vmx::field::{SegmentRegister, control, guest, info};

use super::VmxVcpu;
use crate::frame::{self, Handlers, Next, Pointer};
use crate::vmx::entry;
use crate::vmx::event::Injection;
use crate::vmx::exit::{self, Decoded};
use crate::vmx::fields::{Fields, FieldsMut};
use crate::vmx::insn::Current;
use crate::vmx::setup;
use crate::{Answer, Code64, Exit, Gpr, HotExits, Partial, Whole};

/// Enters the guest and comes back with the next exit.
pub(super) fn run(vcpu: &mut VmxVcpu) -> Exit {
    extern "sysv64" fn pass(_: &mut (), _: Pointer) -> Next {
        Next::PASS
    }
    if entry::run(vcpu.frame.pointer(), &mut (), &[pass; 256], !vcpu.launched).is_none() {
        vcpu.cache.clear();
        return vcpu.refused();
    }
    vcpu.take_exit()
}

/// Likewise, but offers frequent exits to `hot` first.
#[inline]
pub(super) fn run_hot<H: HotExits>(vcpu: &mut VmxVcpu, hot: &mut H) -> Option<Exit> {
    let (frame, launch) = (vcpu.frame.pointer(), !vcpu.launched);
    match entry::run(frame, &mut Run { vcpu, hot }, &Run::HANDLERS, launch) {
        Some(Answer::Pass | Answer::Again) => Some(vcpu.take_exit()),
        Some(Answer::Leave) => {
            vcpu.cache.clear();
            vcpu.launched = true;
            None
        }
        None => {
            vcpu.cache.clear();
            Some(vcpu.refused())
        }
    }
}

/// A run in which frequent exits are offered.
struct Run<'a, H> {
    vcpu: &'a mut VmxVcpu,
    hot: &'a mut H,
}

impl<H: HotExits> Run<'_, H> {
    const HANDLERS: Handlers<Self> = {
        let mut handlers: Handlers<Self> = [Self::pass; 256];
        handlers[reason::CPUID as usize] = frame::with_rbx::<Self, Cpuid>;
        handlers[reason::VMCALL as usize] = Self::hypercall;
        handlers[reason::EPT_VIOLATION as usize] = frame::with_all::<Self, Memory>;
        handlers[reason::WRMSR as usize] = Self::msr_write;
        handlers[reason::IO_INSTRUCTION as usize] = Self::port_io;
        handlers
    };

    extern "sysv64" fn pass(&mut self, _: Pointer) -> Next {
        Next::PASS
    }

    extern "sysv64" fn hypercall(&mut self, frame: Pointer) -> Next {
        Next::of(self.hot.hypercall(Held::<false> { vcpu: &mut self.vcpu, frame }), frame)
    }

    extern "sysv64" fn msr_write(&mut self, frame: Pointer) -> Next {
        let msr = Msr(frame.gpr(Gpr::Rcx) as u32);
        Next::of(self.hot.msr_write(msr, Held::<false> { vcpu: &mut self.vcpu, frame }), frame)
    }

    extern "sysv64" fn port_io(&mut self, frame: Pointer) -> Next {
        let access = exit::port_access(IoQualification(Current.read(info::EXIT_QUALIFICATION)));
        if access.string {
            return Next::PASS;
        }
        Next::of(self.hot.port_io(&access, Held::<false> { vcpu: &mut self.vcpu, frame }), frame)
    }
}

struct Cpuid;
struct Memory;

impl<H: HotExits> frame::Handle<Run<'_, H>> for Memory {
    #[inline(always)]
    fn handle(run: &mut Run<'_, H>, frame: Pointer) -> Next {
        match exit::plain_access(&Current) {
            Some(fault) => {
                Next::of(run.hot.memory(fault, Held::<true> { vcpu: &mut run.vcpu, frame }), frame)
            }
            None => Next::PASS,
        }
    }
}

impl<H: HotExits> frame::Handle<Run<'_, H>> for Cpuid {
    #[inline(always)]
    fn handle(run: &mut Run<'_, H>, frame: Pointer) -> Next {
        Next::of(run.hot.cpuid(Held::<false> { vcpu: &mut run.vcpu, frame }), frame)
    }
}

/// A virtual CPU of whose general-purpose registers the CPU still holds some.
struct Held<'a, 'b, const ALL: bool> {
    /// Not the virtual CPU itself: most exits never look.
    vcpu: &'a mut &'b mut VmxVcpu,
    frame: Pointer,
}

impl<const ALL: bool> Partial for Held<'_, '_, ALL> {
    #[inline(always)]
    fn rax(&self) -> u64 {
        self.frame.gpr(Gpr::Rax)
    }

    #[inline(always)]
    fn rdx(&self) -> u64 {
        self.frame.gpr(Gpr::Rdx)
    }

    #[inline(always)]
    fn set_rax(&mut self, value: u64) {
        self.frame.gprs()[Gpr::Rax as usize] = value;
    }

    #[inline(always)]
    fn set_abcd(&mut self, [eax, ebx, ecx, edx]: [u32; 4]) {
        let gprs = self.frame.gprs();
        gprs[Gpr::Rax as usize] = eax.into();
        gprs[Gpr::Rbx as usize] = ebx.into();
        gprs[Gpr::Rcx as usize] = ecx.into();
        gprs[Gpr::Rdx as usize] = edx.into();
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        Current.read(guest::RIP)
    }

    #[inline(always)]
    fn knows_length(&self) -> bool {
        // Every reason that is offered has it, but for faults.
        !ALL
    }

    #[inline(always)]
    fn code64(&self) -> Option<Code64> {
        const LONG: u32 = 1 << 13;
        // The others have no need of it.
        let is_long = ALL
            && Current.read(guest::EFER) & Efer::LMA.bits() != 0
            && Current.read(SegmentRegister::Cs.access()) & LONG != 0
            && Current.read(guest::CR4) & Cr4::LA57.bits() == 0;
        is_long.then(|| Code64 { rip: self.rip(), cr3: Current.read(guest::CR3) })
    }

    #[inline(always)]
    fn task_priority(&self) -> Option<u8> {
        None
    }

    #[inline(always)]
    fn cpl(&self) -> u8 {
        setup::read_cpl(&Current)
    }

    #[inline(always)]
    fn advance(self, rip: u64, len: Option<u8>) -> Answer {
        let len = match len {
            Some(found) => found.into(),
            None => Current.raw(info::EXIT_INSTRUCTION_LENGTH.encoding()),
        };
        let to = rip.wrapping_add(len);
        Current.write(guest::RIP, to);
        let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
        let blocking = Current.read(guest::INTERRUPTIBILITY);
        if (to as u32) < len as u32 || blocking & shadow.bits() != 0 {
            return settle(self.vcpu, rip, to);
        }
        Answer::Again
    }

    #[inline(always)]
    fn is_open(&self) -> bool {
        self.vcpu.queue.is_empty() && Current.read(guest::RFLAGS) & Rflags::IF.bits() != 0
    }

    #[inline(always)]
    fn advance_into(self, rip: u64, len: Option<u8>, vector: u8) -> Answer {
        let event = Injection::interrupt(vector).info(true);
        Current.write(control::ENTRY_INTERRUPTION_INFO, event.0);
        self.advance(rip, len)
    }
}

impl Whole for Held<'_, '_, true> {
    #[inline(always)]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => Current.read(guest::RSP),
            other => self.frame.gpr(other),
        }
    }

    #[inline(always)]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rsp => Current.write(guest::RSP, value),
            other => self.frame.gprs()[other as usize] = value,
        }
    }
}

/// What is seldom to be done about an instruction that ended before `to`.
#[cold]
#[inline(never)]
fn settle(vcpu: &mut &mut VmxVcpu, from: u64, to: u64) -> Answer {
    if (from ^ to) >> 32 != 0 {
        vcpu.wrap(from, to);
    }
    let blocking = Interruptibility::from_bits_retain(Current.read(guest::INTERRUPTIBILITY));
    let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
    Current.write(guest::INTERRUPTIBILITY, (blocking - shadow).bits());
    Answer::Again
}

impl VmxVcpu {
    /// RIP has crossed a multiple of 4 GiB: outside 64-bit code it wraps.
    #[cold]
    pub(super) fn wrap(&mut self, from: u64, to: u64) {
        if from >> 32 == 0 && !self.is_long_code() {
            self.vmcs().write(guest::RIP, to & 0xffff_ffff);
            self.cache.set_rip(to & 0xffff_ffff);
        }
    }

    /// Takes in the exit.
    fn take_exit(&mut self) -> Exit {
        self.cache.clear();
        let reason = Current.read(info::EXIT_REASON);
        self.exit_reason = reason;
        self.launched |= !exit::is_entry_failure(reason);
        if exit::may_cut_short(reason) {
            self.recover();
        }
        let gprs = &self.frame.gprs;
        let gpr = |register: Gpr| match register {
            Gpr::Rsp => Current.read(guest::RSP),
            other => gprs[other as usize],
        };
        match exit::decode(reason, &Current, gpr) {
            // What waits here has the window for itself.
            Decoded::Exit(Exit::InterruptWindow) if self.queue.needs_interrupt_window() => {
                Exit::Handled
            }
            Decoded::Exit(exit) => exit,
            other => self.handle(other),
        }
    }
}
