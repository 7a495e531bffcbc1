//! Answering the most frequent exits between exit and entry, with no more of the guest's registers moved than those
//! exits need.
//!
//! [`Vcpu::run_hot`](crate::Vcpu::run_hot) offers each such exit to a [`HotExits`] first, which sees the virtual CPU as a
//! [`Partial`]: RAX to RDX, RIP, and the way on. What it passes, and every other exit, ends the run as
//! [`Vcpu::run`](crate::Vcpu::run) ends it.

use hw::Msr;

use crate::{Code64, Gpr, PortIo, Vcpu};

/// Who answers frequent exits. Each method is to change nothing where it answers [`Answer::Pass`].
pub trait HotExits {
    /// CPUID.
    fn cpuid<P: Partial>(&mut self, vcpu: &mut P) -> Answer;
    /// VMCALL or VMMCALL.
    fn hypercall<P: Partial>(&mut self, vcpu: &mut P) -> Answer;
    /// RDMSR.
    fn msr_read<P: Partial>(&mut self, msr: Msr, vcpu: &mut P) -> Answer;
    /// WRMSR of EDX:EAX.
    fn msr_write<P: Partial>(&mut self, msr: Msr, vcpu: &mut P) -> Answer;
    /// IN or OUT; never a string instruction.
    fn port_io<P: Partial>(&mut self, access: PortIo, vcpu: &mut P) -> Answer;
}

/// What became of an exit that was offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is answered: into the guest again.
    Again,
    /// It is answered, and the caller has something to see to before the next entry.
    Leave,
    /// It is for the caller to answer.
    Pass,
}

/// As much of a virtual CPU as frequent exits need.
pub trait Partial {
    /// RAX.
    fn rax(&self) -> u64;
    /// RCX.
    fn rcx(&self) -> u64;
    /// RDX.
    fn rdx(&self) -> u64;
    /// Sets RAX.
    fn set_rax(&mut self, value: u64);
    /// Sets RAX, RBX, RCX and RDX.
    fn set_abcd(&mut self, values: [u32; 4]);
    /// Sets RDX.
    fn set_rdx(&mut self, value: u64);
    /// RIP.
    fn rip(&self) -> u64;
    /// See [`Vcpu::instruction_len`](crate::Vcpu::instruction_len).
    fn instruction_len(&self) -> Option<u8>;
    /// See [`Vcpu::code64`](crate::Vcpu::code64).
    fn code64(&self) -> Option<Code64>;
    /// See [`Vcpu::task_priority`](crate::Vcpu::task_priority).
    fn task_priority(&self) -> Option<u8>;
    /// See [`Vcpu::cpl`](crate::Vcpu::cpl).
    fn cpl(&self) -> u8;
    /// See [`Vcpu::advance`](crate::Vcpu::advance); `rip` is where the instruction is.
    fn advance(&mut self, rip: u64, len: u8);
    /// Delivers an interrupt at the next entry if, after an [`Partial::advance`], nothing holds it off; says whether.
    fn try_interrupt(&mut self, vector: u8) -> bool;
}

/// A virtual CPU whose registers are all at hand.
impl<V: Vcpu> Partial for V {
    #[inline]
    fn rax(&self) -> u64 {
        self.gpr(Gpr::Rax)
    }

    #[inline]
    fn rcx(&self) -> u64 {
        self.gpr(Gpr::Rcx)
    }

    #[inline]
    fn rdx(&self) -> u64 {
        self.gpr(Gpr::Rdx)
    }

    #[inline]
    fn set_rax(&mut self, value: u64) {
        self.set_gpr(Gpr::Rax, value);
    }

    #[inline]
    fn set_abcd(&mut self, values: [u32; 4]) {
        for (register, value) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].into_iter().zip(values) {
            self.set_gpr(register, value.into());
        }
    }

    #[inline]
    fn set_rdx(&mut self, value: u64) {
        self.set_gpr(Gpr::Rdx, value);
    }

    #[inline]
    fn rip(&self) -> u64 {
        Vcpu::rip(self)
    }

    #[inline]
    fn instruction_len(&self) -> Option<u8> {
        Vcpu::instruction_len(self)
    }

    #[inline]
    fn code64(&self) -> Option<Code64> {
        Vcpu::code64(self)
    }

    #[inline]
    fn task_priority(&self) -> Option<u8> {
        Vcpu::task_priority(self)
    }

    #[inline]
    fn cpl(&self) -> u8 {
        Vcpu::cpl(self)
    }

    #[inline]
    fn advance(&mut self, _rip: u64, len: u8) {
        Vcpu::advance(self, len);
    }

    #[inline]
    fn try_interrupt(&mut self, vector: u8) -> bool {
        let open = self.can_take_interrupt();
        if open {
            self.inject(crate::Event::Interrupt(vector));
        }
        open
    }
}
