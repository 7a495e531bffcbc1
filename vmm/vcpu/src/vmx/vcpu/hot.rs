//! The run itself: what happens between an exit and the next entry.

use hw::Msr;
use x86_spec::cpu::Rflags;
use x86_spec::vmx::control::Interruptibility;
use x86_spec::vmx::exit::{IoQualification, reason};
use x86_spec::vmx::field::{control, guest, info};

use super::VmxVcpu;
use crate::vmx::entry::{self, Frame, OnExit};
use crate::vmx::event::Injection;
use crate::vmx::exit::{self, Decoded};
use crate::vmx::fields::{Fields, FieldsMut};
use crate::vmx::insn::Current;
use crate::vmx::setup;
use crate::{Answer, Code64, Exit, Gpr, HotExits, Partial};

/// Enters the guest and comes back with the next exit.
pub(super) fn run(vcpu: &mut VmxVcpu) -> Exit {
    struct Stop;
    impl OnExit for Stop {
        #[inline]
        fn on_exit(&mut self) -> *mut Frame {
            core::ptr::null_mut()
        }
    }
    let frame = &raw mut *vcpu.frame;
    if !entry::run(frame, &mut Stop, !vcpu.launched) {
        vcpu.cache.clear();
        return vcpu.refused();
    }
    vcpu.exit_reason = Current.read(info::EXIT_REASON);
    vcpu.take_exit()
}

/// Likewise, but offers frequent exits to `hot` first.
#[inline]
pub(super) fn run_hot<H: HotExits>(vcpu: &mut VmxVcpu, hot: &mut H) -> Option<Exit> {
    let (frame, launch) = (&raw mut *vcpu.frame, !vcpu.launched);
    let mut run = Run { vcpu, hot, last: Answer::Pass };
    let entered = entry::run(frame, &mut run, launch);
    let last = run.last;
    if !entered {
        vcpu.cache.clear();
        return Some(vcpu.refused());
    }
    if last == Answer::Leave {
        vcpu.cache.clear();
        vcpu.launched = true;
        return None;
    }
    Some(vcpu.take_exit())
}

/// A run in which frequent exits are offered.
struct Run<'a, H> {
    vcpu: &'a mut VmxVcpu,
    hot: &'a mut H,
    /// What became of the exit that ended it.
    last: Answer,
}

impl<H: HotExits> OnExit for Run<'_, H> {
    #[inline(always)]
    fn on_exit(&mut self) -> *mut Frame {
        const CPUID: u32 = reason::CPUID as u32;
        const VMCALL: u32 = reason::VMCALL as u32;
        const WRMSR: u32 = reason::WRMSR as u32;
        const RDMSR: u32 = reason::RDMSR as u32;
        const IO: u32 = reason::IO_INSTRUCTION as u32;
        let reason = Current.read(info::EXIT_REASON);
        let mut vcpu = Held(self.vcpu);
        let answer = match reason {
            CPUID => self.hot.cpuid(&mut vcpu),
            VMCALL => self.hot.hypercall(&mut vcpu),
            WRMSR => self.hot.msr_write(Msr(vcpu.rcx() as u32), &mut vcpu),
            RDMSR => self.hot.msr_read(Msr(vcpu.rcx() as u32), &mut vcpu),
            IO => {
                let access =
                    exit::port_access(IoQualification(Current.read(info::EXIT_QUALIFICATION)));
                if access.string { Answer::Pass } else { self.hot.port_io(access, &mut vcpu) }
            }
            _ => Answer::Pass,
        };
        if answer == Answer::Again {
            return &raw mut *self.vcpu.frame;
        }
        self.vcpu.exit_reason = reason;
        self.last = answer;
        core::ptr::null_mut()
    }
}

/// A virtual CPU of whose general-purpose registers the CPU still holds some.
struct Held<'a>(&'a mut VmxVcpu);

impl Held<'_> {
    #[inline(always)]
    fn gpr(&mut self, register: Gpr) -> &mut u64 {
        &mut self.0.frame.gprs[register as usize]
    }
}

impl Partial for Held<'_> {
    #[inline(always)]
    fn rax(&self) -> u64 {
        self.0.frame.gprs[Gpr::Rax as usize]
    }

    #[inline(always)]
    fn rcx(&self) -> u64 {
        self.0.frame.gprs[Gpr::Rcx as usize]
    }

    #[inline(always)]
    fn rdx(&self) -> u64 {
        self.0.frame.gprs[Gpr::Rdx as usize]
    }

    #[inline(always)]
    fn set_rax(&mut self, value: u64) {
        *self.gpr(Gpr::Rax) = value;
    }

    #[inline(always)]
    fn set_abcd(&mut self, [eax, ebx, ecx, edx]: [u32; 4]) {
        *self.gpr(Gpr::Rax) = eax.into();
        *self.gpr(Gpr::Rbx) = ebx.into();
        *self.gpr(Gpr::Rcx) = ecx.into();
        *self.gpr(Gpr::Rdx) = edx.into();
    }

    #[inline(always)]
    fn set_rdx(&mut self, value: u64) {
        *self.gpr(Gpr::Rdx) = value;
    }

    #[inline(always)]
    fn rip(&self) -> u64 {
        Current.read(guest::RIP)
    }

    #[inline(always)]
    fn instruction_len(&self) -> Option<u8> {
        // Every reason that is offered has it.
        Some(Current.read(info::EXIT_INSTRUCTION_LENGTH) as u8)
    }

    fn code64(&self) -> Option<Code64> {
        // No one fetches what has a length.
        None
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
    fn advance(&mut self, rip: u64, len: u8) {
        let to = rip.wrapping_add(len.into());
        Current.write(guest::RIP, to);
        if (to as u32) < u32::from(len) {
            self.0.wrap(rip, to);
        }
        let blocking = Interruptibility::from_bits_retain(Current.read(guest::INTERRUPTIBILITY));
        let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
        if blocking.intersects(shadow) {
            Current.write(guest::INTERRUPTIBILITY, (blocking - shadow).bits());
        }
    }

    #[inline(always)]
    fn try_interrupt(&mut self, vector: u8) -> bool {
        let open = self.0.queue.is_empty() && Current.read(guest::RFLAGS) & Rflags::IF.bits() != 0;
        if open {
            let event = Injection::interrupt(vector).info(true);
            Current.write(control::ENTRY_INTERRUPTION_INFO, event.0);
        }
        open
    }
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

    /// Takes in the exit whose reason has been read.
    fn take_exit(&mut self) -> Exit {
        self.cache.clear();
        let reason = self.exit_reason;
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
