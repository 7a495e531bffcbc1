//! [`Core::run`]: the way of the most frequent exits. What is answered here is answered just as [`Core::handle`] would,
//! only by a shorter way; whatever is not plain goes there.
//!
//! Between two entries no deadline and no mailbox is looked at: the local timer and a kick are host interrupts, which stay
//! pending while this runs and end the next entry at once.

use hw::{Msr, PAGE_SIZE, Width};
use vcpu::{Access, Answer, Exit, HotExits, Partial, PortIo, SecondStageFault, Vcpu};
use x86_spec::apic::{lapic, x2apic_msr};
use x86_spec::msr;

use config::Policy;

use crate::counters::ExitKind;
use crate::cpu::Core;
use crate::exit::Outside;
use crate::hypercall;
use crate::insn::exiting::Plain;
use crate::insn::quick::{self, Move};
use crate::platform::pci;
use crate::ring::ExitRecord;
use crate::vm::Vm;
use crate::walk;
use crate::{Backing, GuestMemory, Host};

/// x2APIC's end of interrupt.
const EOI: Msr = x2apic_msr(lapic::EOI);
/// x2APIC's self-IPI.
const SELF_IPI: Msr = x2apic_msr(lapic::SELF_IPI);

impl Core {
    /// Runs the guest until an exit that is for [`Core::handle`]. `None`: every exit is answered, and
    /// [`Core::prepare_entry`] has something to see to.
    #[inline]
    pub fn run<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        vm: &Vm,
        vcpu: &mut V,
        memory: &M,
        host: &mut H,
    ) -> Option<Exit> {
        loop {
            let exit = vcpu.run_hot(&mut Hot { core: self, vm, memory })?;
            let Exit::SecondStage(fault) = exit else { return Some(exit) };
            match self.device_access(&fault, vcpu, &mut Outside { vm, memory, host }) {
                Answer::Again => {}
                Answer::Leave => return None,
                Answer::Pass => return Some(exit),
            }
        }
    }

    /// A MOV between a register and a device register, by 64-bit code.
    fn device_access<V: Vcpu, M: GuestMemory, H: Host>(
        &mut self,
        fault: &SecondStageFault,
        vcpu: &mut V,
        outside: &mut Outside<'_, M, H>,
    ) -> Answer {
        if fault.during_walk || fault.access == Access::Execute {
            return Answer::Pass;
        }
        let Some(code) = vcpu.code64() else { return Answer::Pass };
        let Some(mov) = walk::code_word(&code, outside.memory)
            .and_then(|bytes| quick::mov(bytes, |gpr| vcpu.gpr(gpr)))
        else {
            return Answer::Pass;
        };
        let Move { len, gpr, width, store, address } = mov;
        let offset = address % PAGE_SIZE;
        if offset != fault.gpa.page_offset()
            || offset + width.bytes() > PAGE_SIZE
            || !self.answers(fault, outside)
        {
            return Answer::Pass;
        }
        self.take_over_task_priority(vcpu);
        self.counters.note(ExitKind::SecondStage);
        self.ring.note(ExitRecord {
            kind: ExitKind::SecondStage,
            rip: code.rip,
            detail: fault.gpa.raw(),
        });
        // Nothing that is answered is refused.
        if store {
            let _ = self.mmio_write(fault.gpa, width, vcpu.gpr(gpr), outside);
        } else if let Ok(value) = self.mmio_read(fault.gpa, width, outside) {
            vcpu.set_gpr(gpr, value);
        }
        let _ = self.complete(vcpu, len);
        if store { Answer::Leave } else { Answer::Again }
    }

    /// Whether a device answers the access, or no one does and that is allowed.
    #[inline(always)]
    fn answers<M, H: Host>(
        &self,
        fault: &SecondStageFault,
        outside: &mut Outside<'_, M, H>,
    ) -> bool {
        self.has_device(fault.gpa)
            || outside.vm.spec.unknown.mmio == Policy::Allow
                && outside.host.fault(fault) == Backing::Device
    }
}

/// Answers frequent exits between exit and entry.
struct Hot<'a, M> {
    core: &'a mut Core,
    vm: &'a Vm,
    memory: &'a M,
}

impl<M: GuestMemory> Hot<'_, M> {
    /// The length of the instruction at RIP: the CPU's word, or found in the guest's memory.
    #[inline(always)]
    fn length<P: Partial>(&mut self, vcpu: &P, expected: Plain) -> Option<u8> {
        match vcpu.instruction_len() {
            Some(len) => Some(len),
            None => {
                let bytes = walk::code_word(&vcpu.code64()?, self.memory)?;
                let len = quick::length(bytes, expected)?;
                self.core.retries.clear();
                Some(len)
            }
        }
    }

    #[inline(always)]
    fn note(&mut self, kind: ExitKind, rip: u64, detail: u64) {
        self.core.counters.note(kind);
        self.core.ring.note(ExitRecord { kind, rip, detail });
    }
}

impl<M: GuestMemory> HotExits for Hot<'_, M> {
    #[inline(always)]
    fn cpuid<P: Partial>(&mut self, vcpu: &mut P) -> Answer {
        let leaf = vcpu.rax();
        let Some(answer) = self.vm.spec.cpuid.plain(leaf as u32) else { return Answer::Pass };
        let Some(len) = self.length(vcpu, Plain::Cpuid) else { return Answer::Pass };
        let rip = vcpu.rip();
        self.note(ExitKind::Cpuid, rip, leaf);
        vcpu.set_abcd([answer.eax, answer.ebx, answer.ecx, answer.edx]);
        vcpu.advance(rip, len);
        Answer::Again
    }

    #[inline(always)]
    fn hypercall<P: Partial>(&mut self, vcpu: &mut P) -> Answer {
        if vcpu.rax() != hypercall::number::VERSION || vcpu.cpl() != 0 {
            return Answer::Pass;
        }
        let Some(len) = self.length(vcpu, Plain::Hypercall) else { return Answer::Pass };
        let rip = vcpu.rip();
        self.note(ExitKind::Hypercall, rip, hypercall::number::VERSION);
        vcpu.set_rax(hypercall::VERSION);
        vcpu.advance(rip, len);
        Answer::Again
    }

    #[inline(always)]
    fn msr_read<P: Partial>(&mut self, _: Msr, _: &mut P) -> Answer {
        Answer::Pass
    }

    #[inline(always)]
    fn msr_write<P: Partial>(&mut self, msr: Msr, vcpu: &mut P) -> Answer {
        if !matches!(msr, msr::TSC_DEADLINE | EOI | SELF_IPI) {
            return Answer::Pass;
        }
        let value = vcpu.rdx() << 32 | vcpu.rax() & 0xffff_ffff;
        let Some(len) = self.length(vcpu, Plain::Wrmsr) else { return Answer::Pass };
        let answer = match (msr, value) {
            (msr::TSC_DEADLINE, 0) => {
                // Where the host's timer was set to it, that comes for nothing.
                self.core.lapic.stop_deadline();
                Answer::Again
            }
            (EOI, 0) => self.core.lapic.end_edge(),
            (SELF_IPI, 16..=255) if self.core.lapic.takes_self_ipi() => Answer::Leave,
            _ => Answer::Pass,
        };
        if answer == Answer::Pass {
            return answer;
        }
        let rip = vcpu.rip();
        self.note(ExitKind::MsrWrite, rip, msr.0.into());
        vcpu.advance(rip, len);
        match msr {
            SELF_IPI => self.core.interrupt_self(value as u8, vcpu),
            _ => answer,
        }
    }

    #[inline(always)]
    fn port_io<P: Partial>(&mut self, access: PortIo, vcpu: &mut P) -> Answer {
        if access.port != pci::PORTS.first || access.width != Width::W4 {
            return Answer::Pass;
        }
        let Some(len) = vcpu.instruction_len() else { return Answer::Pass };
        let rip = vcpu.rip();
        let kind = if access.write { ExitKind::PortWrite } else { ExitKind::PortRead };
        self.note(kind, rip, access.port.0.into());
        let bridge = &mut self.vm.devices.lock().pci;
        if access.write {
            bridge.set_address(vcpu.rax() as u32);
        } else {
            vcpu.set_rax(bridge.address().into());
        }
        vcpu.advance(rip, len);
        Answer::Again
    }
}

impl Core {
    /// Takes a self-IPI, and delivers it at the next entry if nothing else is to be looked at for that.
    #[inline(always)]
    fn interrupt_self<P: Partial>(&mut self, vector: u8, vcpu: &mut P) -> Answer {
        let priority = vcpu.task_priority().unwrap_or(self.lapic.task_priority_class());
        let is_alone = self.lapic.goes_first(vector, priority) && self.window == Some(None);
        if is_alone && vcpu.try_interrupt(vector) {
            self.lapic.deliver_edge(vector);
            self.counters.interrupts += 1;
            return Answer::Again;
        }
        self.lapic.request_edge(vector);
        self.settled = false;
        Answer::Leave
    }
}
