//! Answering the most frequent exits between exit and entry, with no more of the guest's registers moved than those
//! exits need.
//!
//! [`Vcpu::run_hot`](crate::Vcpu::run_hot) offers each such exit to a [`HotExits`] first, which sees the virtual CPU as a
//! [`Partial`]: RAX to RDX, RIP, and the way on. What it passes, and every other exit, ends the run as
//! [`Vcpu::run`](crate::Vcpu::run) ends it.

use hw::Msr;

use crate::{Code64, Gpr, PortIo, SecondStageFault, Vcpu};

/// Who answers frequent exits. Each method changes nothing where it answers [`Answer::Pass`].
///
/// The CPU still has some of the guest's state, on SVM the base of GS among it: nothing here may use the CPU's own data, so
/// nothing may wake another virtual CPU, print, or panic.
pub trait HotExits {
    /// CPUID.
    fn cpuid<P: Partial>(&mut self, vcpu: P) -> Answer;
    /// VMCALL or VMMCALL.
    fn hypercall<P: Partial>(&mut self, vcpu: P) -> Answer;
    /// WRMSR of EDX:EAX.
    fn msr_write<P: Partial>(&mut self, msr: Msr, vcpu: P) -> Answer;
    /// IN or OUT; never a string instruction.
    fn port_io<P: Partial>(&mut self, access: &PortIo, vcpu: P) -> Answer;
    /// A load or store that the second stage does not allow.
    fn memory<P: Whole>(&mut self, fault: SecondStageFault, vcpu: P) -> Answer;
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
pub trait Partial: Sized {
    /// RAX.
    fn rax(&self) -> u64;
    /// RDX.
    fn rdx(&self) -> u64;
    /// Sets RAX.
    fn set_rax(&mut self, value: u64);
    /// Sets RAX, RBX, RCX and RDX.
    fn set_abcd(&mut self, values: [u32; 4]);
    /// RIP.
    fn rip(&self) -> u64;
    /// Whether the CPU gave the instruction's length.
    fn knows_length(&self) -> bool;
    /// See [`Vcpu::code64`](crate::Vcpu::code64).
    fn code64(&self) -> Option<Code64>;
    /// See [`Vcpu::task_priority`](crate::Vcpu::task_priority).
    fn task_priority(&self) -> Option<u8>;
    /// See [`Vcpu::cpl`](crate::Vcpu::cpl).
    fn cpl(&self) -> u8;
    /// See [`Vcpu::advance`](crate::Vcpu::advance): past the instruction at `rip`, by the length that the CPU gave or by
    /// `len` where it did not. Answers [`Answer::Again`].
    fn advance(self, rip: u64, len: Option<u8>) -> Answer;
    /// Whether an interrupt could be delivered after the instruction, whose shadow of STI or MOV SS ends with it.
    fn is_open(&self) -> bool;
    /// Advances likewise, and delivers an interrupt at the next entry; only where [`Partial::is_open`] holds.
    fn advance_into(self, rip: u64, len: Option<u8>, vector: u8) -> Answer;
}

/// Likewise, with every register.
pub trait Whole: Partial {
    /// A general-purpose register, RSP included.
    fn gpr(&self, register: Gpr) -> u64;
    /// Sets one.
    fn set_gpr(&mut self, register: Gpr, value: u64);
}

impl<V: Vcpu> Whole for &mut V {
    #[inline]
    fn gpr(&self, register: Gpr) -> u64 {
        (**self).gpr(register)
    }

    #[inline]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        (**self).set_gpr(register, value);
    }
}

/// A virtual CPU whose registers are all at hand.
impl<V: Vcpu> Partial for &mut V {
    #[inline]
    fn rax(&self) -> u64 {
        Vcpu::gpr(*self, Gpr::Rax)
    }

    #[inline]
    fn rdx(&self) -> u64 {
        Vcpu::gpr(*self, Gpr::Rdx)
    }

    #[inline]
    fn set_rax(&mut self, value: u64) {
        Vcpu::set_gpr(*self, Gpr::Rax, value);
    }

    #[inline]
    fn set_abcd(&mut self, values: [u32; 4]) {
        for (register, value) in [Gpr::Rax, Gpr::Rbx, Gpr::Rcx, Gpr::Rdx].into_iter().zip(values) {
            Vcpu::set_gpr(*self, register, value.into());
        }
    }

    #[inline]
    fn rip(&self) -> u64 {
        (**self).rip()
    }

    #[inline]
    fn knows_length(&self) -> bool {
        self.instruction_len().is_some()
    }

    #[inline]
    fn code64(&self) -> Option<Code64> {
        (**self).code64()
    }

    #[inline]
    fn task_priority(&self) -> Option<u8> {
        (**self).task_priority()
    }

    #[inline]
    fn cpl(&self) -> u8 {
        (**self).cpl()
    }

    #[inline]
    fn advance(self, _: u64, len: Option<u8>) -> Answer {
        let len = len.or_else(|| self.instruction_len()).unwrap_or(0);
        Vcpu::advance(self, len);
        Answer::Again
    }

    #[inline]
    fn is_open(&self) -> bool {
        self.can_take_interrupt()
    }

    #[inline]
    fn advance_into(self, rip: u64, len: Option<u8>, vector: u8) -> Answer {
        let answer = Partial::advance(&mut *self, rip, len);
        self.inject(crate::Event::Interrupt(vector));
        answer
    }
}
