//! [`Core::run`]: the way of the most frequent exits. What is answered here is answered just as [`Core::handle`] would,
//! only by a shorter way; whatever is not plain goes there.
//!
//! Between two entries no deadline and no mailbox is looked at: the local timer and a kick are host interrupts, which stay
//! pending while this runs and end the next entry at once.

use hw::{Msr, PAGE_SIZE, Width};
use vcpu::{Answer, Exit, HotExits, Partial, PortIo, SecondStageFault, Vcpu, Whole};
use x86_spec::apic::{lapic, x2apic_msr};
use x86_spec::msr;

use config::Policy;

use crate::counters::ExitKind;
use crate::cpu::Core;
use crate::exit::Outside;
use crate::hypercall;
use crate::insn::exiting::Plain;
use crate::insn::quick::{self, Move};
use crate::pci;
use crate::platform::uart;
use crate::ring::ExitRecord;
use crate::vm::Vm;
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
        vcpu.run_hot(&mut Hot { core: self, vm, memory, host })
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
struct Hot<'a, M, H> {
    core: &'a mut Core,
    vm: &'a Vm,
    memory: &'a M,
    host: &'a mut H,
}

impl<M: GuestMemory, H: Host> Hot<'_, M, H> {
    /// Whether the instruction at RIP is what the exit says: by the CPU's word, which then gives its length as well, or by
    /// the guest's memory.
    #[inline(always)]
    fn length<P: Partial>(&mut self, vcpu: &P, expected: Plain) -> Option<Option<u8>> {
        if vcpu.knows_length() {
            return Some(None);
        }
        let bytes = self.memory.code(vcpu.code64()?)?;
        let len = quick::length(bytes, expected)?;
        self.core.retries.clear();
        Some(Some(len))
    }

    #[inline(always)]
    fn note(&mut self, kind: ExitKind, rip: u64, detail: u64) {
        self.core.counters.note(kind);
        self.core.ring.note(ExitRecord { kind, rip, detail });
    }

    /// x2APIC's end of interrupt.
    #[inline(always)]
    fn end_of_interrupt<P: Partial>(&mut self, vcpu: P) -> Answer {
        let Some(len) = self.length(&vcpu, Plain::Wrmsr) else { return Answer::Pass };
        let answer = self.core.lapic.end_edge();
        if answer == Answer::Pass {
            return answer;
        }
        let rip = vcpu.rip();
        self.note(ExitKind::MsrWrite, rip, EOI.0.into());
        if answer == Answer::Leave {
            return self.leave(vcpu, rip, len);
        }
        vcpu.advance(rip, len)
    }

    /// A self-IPI: delivered at the next entry if nothing else is to be looked at for that.
    #[inline(always)]
    fn self_ipi<P: Partial>(&mut self, vector: u8, vcpu: P) -> Answer {
        if vector < 16 || !self.core.lapic.takes_self_ipi() {
            return Answer::Pass;
        }
        let Some(len) = self.length(&vcpu, Plain::Wrmsr) else { return Answer::Pass };
        let rip = vcpu.rip();
        self.note(ExitKind::MsrWrite, rip, SELF_IPI.0.into());
        let core = &mut *self.core;
        let priority = vcpu.task_priority().unwrap_or(core.lapic.task_priority_class());
        if core.window == Some(None) && core.lapic.is_alone(vector, priority) && vcpu.is_open() {
            core.lapic.deliver_edge(vector);
            core.counters.interrupts += 1;
            return vcpu.advance_into(rip, len, vector);
        }
        core.lapic.request_edge(vector);
        self.leave(vcpu, rip, len)
    }

    /// PCI's CONFIG_ADDRESS.
    #[inline(always)]
    fn config_address<P: Partial>(&mut self, access: &PortIo, mut vcpu: P) -> Answer {
        if access.width != Width::W4 {
            return Answer::Pass;
        }
        let Some(mut devices) = self.vm.devices.try_lock() else { return Answer::Pass };
        let rip = vcpu.rip();
        let kind = if access.write { ExitKind::PortWrite } else { ExitKind::PortRead };
        self.note(kind, rip, access.port.0.into());
        if access.write {
            devices.pci.set_address(vcpu.rax() as u32);
        } else {
            vcpu.set_rax(devices.pci.address().into());
        }
        drop(devices);
        vcpu.advance(rip, None)
    }

    /// The UART's line status, and the bytes that it sends within a line: nearly all that a console does.
    #[inline(always)]
    fn uart_io<P: Partial>(&mut self, access: &PortIo, mut vcpu: P) -> Answer {
        let Some(offset) = uart::PORTS.offset_of(access.port) else { return Answer::Pass };
        if access.width != Width::W1 {
            return Answer::Pass;
        }
        let Some(mut devices) = self.vm.devices.try_lock() else { return Answer::Pass };
        let (rax, rip) = (vcpu.rax(), vcpu.rip());
        let kind = if access.write {
            if !devices.uart.continue_line(offset, rax as u8) {
                return Answer::Pass;
            }
            ExitKind::PortWrite
        } else {
            let Some(value) = devices.uart.peek(offset) else { return Answer::Pass };
            vcpu.set_rax(rax & !0xff | u64::from(value));
            ExitKind::PortRead
        };
        drop(devices);
        self.note(kind, rip, access.port.0.into());
        vcpu.advance(rip, None)
    }

    /// Ends an instruction that leaves something to see to.
    #[inline(never)]
    fn leave<P: Partial>(&mut self, vcpu: P, rip: u64, len: Option<u8>) -> Answer {
        let _ = vcpu.advance(rip, len);
        self.core.settled = false;
        Answer::Leave
    }
}

impl<M: GuestMemory, H: Host> HotExits for Hot<'_, M, H> {
    #[inline(always)]
    fn cpuid<P: Partial>(&mut self, mut vcpu: P) -> Answer {
        let leaf = vcpu.rax();
        let Some(answer) = self.vm.spec.cpuid.constant(leaf as u32) else { return Answer::Pass };
        let Some(len) = self.length(&vcpu, Plain::Cpuid) else { return Answer::Pass };
        let rip = vcpu.rip();
        self.note(ExitKind::Cpuid, rip, leaf);
        vcpu.set_abcd([answer.eax, answer.ebx, answer.ecx, answer.edx]);
        vcpu.advance(rip, len)
    }

    #[inline(always)]
    fn hypercall<P: Partial>(&mut self, mut vcpu: P) -> Answer {
        if vcpu.rax() != hypercall::number::VERSION || vcpu.cpl() != 0 {
            return Answer::Pass;
        }
        let Some(len) = self.length(&vcpu, Plain::Hypercall) else { return Answer::Pass };
        let rip = vcpu.rip();
        self.note(ExitKind::Hypercall, rip, hypercall::number::VERSION);
        vcpu.set_rax(hypercall::VERSION);
        vcpu.advance(rip, len)
    }

    #[inline(always)]
    fn msr_write<P: Partial>(&mut self, msr: Msr, vcpu: P) -> Answer {
        let (low, high) = (vcpu.rax() as u32, vcpu.rdx() as u32);
        match msr {
            msr::TSC_DEADLINE if low | high == 0 => {
                let Some(len) = self.length(&vcpu, Plain::Wrmsr) else { return Answer::Pass };
                let rip = vcpu.rip();
                self.note(ExitKind::MsrWrite, rip, msr.0.into());
                // Where the host's timer was set to it, that comes for nothing.
                self.core.lapic.stop_deadline();
                vcpu.advance(rip, len)
            }
            EOI if low | high == 0 => self.end_of_interrupt(vcpu),
            SELF_IPI if low <= 0xff && high == 0 => self.self_ipi(low as u8, vcpu),
            _ => Answer::Pass,
        }
    }

    #[inline(always)]
    fn port_io<P: Partial>(&mut self, access: &PortIo, vcpu: P) -> Answer {
        if !vcpu.knows_length() {
            return Answer::Pass;
        }
        if access.port == pci::PORTS.first {
            return self.config_address(access, vcpu);
        }
        self.uart_io(access, vcpu)
    }

    /// A MOV from a device register, by 64-bit code. No store: one can have others told ([`Host::kick`]), and that is for
    /// when the CPU is whole again.
    #[inline(always)]
    fn memory<P: Whole>(&mut self, fault: SecondStageFault, mut vcpu: P) -> Answer {
        let Some(code) = vcpu.code64() else { return Answer::Pass };
        let Some(mov) =
            self.memory.code(code).and_then(|bytes| quick::mov(bytes, |gpr| vcpu.gpr(gpr)))
        else {
            return Answer::Pass;
        };
        let Move { len, gpr, width, store, address } = mov;
        if store {
            return Answer::Pass;
        }
        let (gpa, offset) = (fault.gpa, address % PAGE_SIZE);
        let outside = &mut Outside { vm: self.vm, memory: self.memory, host: &mut *self.host };
        let is_lapic = self.core.lapic.page() == Some(gpa.align_down(PAGE_SIZE));
        if offset != gpa.page_offset()
            || offset + width.bytes() > PAGE_SIZE
            || !(is_lapic || self.core.answers(&fault, outside))
        {
            return Answer::Pass;
        }
        if let Some(class) = vcpu.task_priority() {
            self.core.take_over_task_priority(class);
        }
        let (kind, rip) = (ExitKind::SecondStage, code.rip);
        self.core.counters.note(kind);
        self.core.ring.note(ExitRecord { kind, rip, detail: gpa.raw() });
        self.core.retries.clear();
        // Nothing that is answered is refused.
        if is_lapic {
            let now = self.core.lapic_time(self.core.guest_tsc(outside.host));
            vcpu.set_gpr(gpr, self.core.lapic.read(offset, width, now) & width.mask());
        } else if let Ok(value) = self.core.mmio_read(gpa, width, outside) {
            vcpu.set_gpr(gpr, value);
        }
        vcpu.advance(rip, Some(len))
    }
}
