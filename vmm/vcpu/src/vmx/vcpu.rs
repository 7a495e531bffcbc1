//! A virtual CPU: its VMCS, its registers outside of it, and what is due at the next entry.

mod access;
mod cache;
mod hot;

use hw::{Hpa, Msr, MsrFault};
use x86_spec::cpu::{Cr0, Cr4, Rflags, vector};
use x86_spec::msr;
use x86_spec::vmx::capability::EptVpid;
use x86_spec::vmx::control::{self as bits, Interruptibility, Primary, Secondary};
use x86_spec::vmx::exit::{InterruptionType, instruction_error};
use x86_spec::vmx::field::{control, guest, info};

use self::cache::Cache;
use super::capabilities::Capabilities;
use super::control_registers;
use super::controls::Controls;
use super::entry;
use super::event::Injection;
use super::exit::{self, Decoded};
use super::fields::{Fields, FieldsMut};
use super::insn::{self, Current};
use super::queue::{Next, Queue};
use super::setup::{self, Environment};
use super::{Vmx, checks, msr_bitmap};
use crate::barrier::Barrier;
use crate::fpu::Fpu;
use crate::frame::OwnFrame;
use crate::{
    Code64, CpuContext, EnableError, EntryFailure, Event, Exit, Gpr, HostPages, HotExits,
    IdlePolicy, Registers, STATE_MSRS, Speculation, StateError, TscRatio, Vcpu, VcpuInit,
    VcpuState,
};

/// Registers of the guest that stay in the CPU across exits; Kerf itself uses none of them. They are switched when the
/// virtual CPU on a CPU changes.
const HELD: [Msr; 7] = [
    msr::KERNEL_GS_BASE,
    msr::STAR,
    msr::LSTAR,
    msr::CSTAR,
    msr::SFMASK,
    msr::TSC_AUX,
    msr::SPEC_CTRL,
];
/// DR0 to DR3 and DR6 after reset (SDM vol. 3, table 10-1).
const DEBUG_RESET: [u64; 5] = [0, 0, 0, 0, 0xffff_0ff0];
/// DR6 and pending debug exceptions: a single step.
const DEBUG_STEP: u64 = 1 << 14;
/// DEBUGCTL: TF steps from branch to branch.
pub(super) const DEBUGCTL_BTF: u64 = 1 << 1;
/// DR7: debug registers are protected.
const DR7_GENERAL_DETECT: u64 = 1 << 13;
/// INVEPT and INVVPID of one context (SDM vol. 3, 31.3).
const SINGLE_CONTEXT: u64 = 1;
/// INVEPT and INVVPID of all.
const ALL_CONTEXTS: u64 = 2;

/// A virtual CPU under VT-x.
///
/// Its VMCS is current on the CPU between [`Vcpu::load`] and [`Vcpu::unload`]; at other times each access to a field
/// makes it current for that moment.
#[derive(Debug)]
pub struct VmxVcpu {
    frame: OwnFrame,
    vmcs: Hpa,
    resident: bool,
    launched: bool,
    exit_reason: u32,
    cache: Cache,
    queue: Queue,
    /// The guest was given an NMI before, so that its IRETs matter.
    nmi_given: bool,
    /// The guest was given a debug exception before, so that its TF and RF matter after an emulated instruction. Whoever
    /// never uses them does not pay for a look at RFLAGS; the very first step may be missed so.
    debugged: bool,
    window_wanted: bool,
    /// The primary controls as the VMCS has them.
    primary: Primary,
    fpu: Fpu,
    speculation: Speculation,
    barrier: Barrier,
    held_msrs: [u64; HELD.len()],
    cr2: u64,
    debug: [u64; 5],
    controls: Controls,
    capabilities: Capabilities,
    ept_pointer: u64,
    vpid: u16,
}

impl VmxVcpu {
    pub(super) fn new(
        backend: &Vmx,
        init: &VcpuInit,
        pages: &mut dyn HostPages,
    ) -> Result<Self, EnableError> {
        let vmcs = Vmx::region(&backend.capabilities, pages)?;
        let msr_bitmap = pages.alloc_pages(1)?;
        insn::write_page(msr_bitmap.hva, |index| msr_bitmap::word(index, &backend.speculation));
        insn::vmclear(vmcs).map_err(|_| EnableError::Instruction("VMCLEAR"))?;
        let mut controls = match init.idle {
            IdlePolicy::Exit => backend.controls,
            IdlePolicy::InGuest => backend.controls.idle_in_guest(&backend.capabilities),
        };
        if init.tsc_ratio != TscRatio::ONE {
            controls.secondary |= Secondary::USE_TSC_SCALING;
        }
        let mut vcpu = Self {
            frame: OwnFrame::new(),
            vmcs,
            resident: false,
            launched: false,
            exit_reason: 0,
            cache: Cache::default(),
            queue: Queue::new(),
            nmi_given: false,
            debugged: false,
            window_wanted: false,
            primary: controls.primary,
            fpu: Fpu::new(&backend.fpu, init.xcr0_allowed, pages)?,
            speculation: backend.speculation,
            barrier: backend.barrier.clone(),
            held_msrs: [0; HELD.len()],
            cr2: 0,
            debug: DEBUG_RESET,
            controls,
            capabilities: backend.capabilities,
            ept_pointer: 0,
            vpid: init.address_space,
        };
        vcpu.ept_pointer = vcpu.ept_pointer_to(init.second_stage);
        let environment = Environment {
            ept_pointer: vcpu.ept_pointer,
            address_space: init.address_space,
            tsc_ratio: init.tsc_ratio,
            tsc_offset: init.tsc_offset,
            msr_bitmap: msr_bitmap.hpa,
            undefined_exits: init.undefined_exits,
        };
        setup::write_controls(&mut vcpu.vmcs(), &vcpu.controls, &environment);
        vcpu.set_registers(&init.registers);
        Ok(vcpu)
    }

    /// What is to be done before an entry; an exit where there is none to make.
    #[inline]
    fn prepare(&mut self) -> Option<Exit> {
        debug_assert!(self.resident, "run before load");
        if !self.queue.is_empty()
            && let Some(exit) = self.before_entry()
        {
            return Some(exit);
        }
        self.check_first_entry()
    }

    /// Delivers what waits, as far as the guest can take it; an exit where there is no entry to make.
    #[cold]
    fn before_entry(&mut self) -> Option<Exit> {
        let mut queue = self.queue.clone();
        let next = queue.next(|| !self.blocks_nmi(), || self.is_interruptible());
        self.queue = queue;
        match next {
            Next::Shutdown => return Some(Exit::Shutdown),
            Next::Deliver(event) => self.deliver(&event),
            Next::Nothing => {}
        }
        self.update_windows();
        None
    }

    /// Writes an event into the VM-entry fields.
    fn deliver(&mut self, event: &Injection) {
        let mut vmcs = self.vmcs();
        let protected = event.error_code.is_none() || vmcs.read(guest::CR0) & Cr0::PE.bits() != 0;
        vmcs.write(control::ENTRY_INTERRUPTION_INFO, event.info(protected).0);
        if let Some(error_code) = event.error_code {
            vmcs.write(control::ENTRY_EXCEPTION_ERROR_CODE, error_code);
        }
        if event.kind.has_instruction_length() {
            vmcs.write(control::ENTRY_INSTRUCTION_LENGTH, event.length.into());
        }
        drop(vmcs);
        if event.kind == InterruptionType::Nmi {
            // A cut-short delivery blocked NMIs already; the entry does it again.
            self.set_interruptibility(self.interruptibility() - Interruptibility::NMI);
            self.nmi_given = true;
        }
    }

    /// Sets the window-exiting controls as what waits demands.
    fn update_windows(&mut self) {
        let mut primary = self.controls.primary;
        let interrupt = self.window_wanted || self.queue.needs_interrupt_window();
        primary.set(Primary::INTERRUPT_WINDOW_EXITING, interrupt);
        primary.set(Primary::NMI_WINDOW_EXITING, self.queue.needs_nmi_window());
        if primary != self.primary {
            self.vmcs().write(control::PRIMARY, primary.bits());
            self.primary = primary;
        }
    }

    /// Debug builds: whether the CPU will accept a VMCS that it has not run yet.
    fn check_first_entry(&self) -> Option<Exit> {
        if !cfg!(debug_assertions) || self.launched {
            return None;
        }
        match checks::check(&Current, &self.capabilities) {
            // The entry code has yet to write the host's RSP and RIP.
            Ok(()) => None,
            Err(rule) => Some(Exit::EntryFailed(EntryFailure::Rule(rule.rule()))),
        }
    }

    /// VMLAUNCH or VMRESUME failed.
    #[cold]
    fn refused(&mut self) -> Exit {
        let error = Current.read(info::INSTRUCTION_ERROR);
        let by_rule =
            [instruction_error::ENTRY_INVALID_CONTROL, instruction_error::ENTRY_INVALID_HOST_STATE];
        Exit::EntryFailed(match by_rule.contains(&error) {
            true => self.broken_rule(error.into()),
            false => EntryFailure::Code(error.into()),
        })
    }

    fn broken_rule(&self, code: u64) -> EntryFailure {
        match checks::check(&Current, &self.capabilities) {
            Ok(()) => EntryFailure::Code(code),
            Err(rule) => EntryFailure::Rule(rule.rule()),
        }
    }

    /// What the backend itself does about an exit.
    #[cold]
    fn handle(&mut self, decoded: Decoded) -> Exit {
        match decoded {
            Decoded::Exit(exit) => return exit,
            Decoded::Cr0Write(value) => match control_registers::write_cr0(value) {
                Ok(shadow) => self.vmcs().write(control::CR0_SHADOW, shadow),
                Err(_) => self.queue.raise(Injection::GENERAL_PROTECTION),
            },
            Decoded::Cr4Write(value) => match control_registers::write_cr4(value) {
                Ok(shadow) => self.vmcs().write(control::CR4_SHADOW, shadow),
                Err(_) => self.queue.raise(Injection::GENERAL_PROTECTION),
            },
            Decoded::GeneralProtection => self.queue.raise(Injection::GENERAL_PROTECTION),
            Decoded::Reflect(exception, qualification) => self.reflect(exception, qualification),
            Decoded::NmiWindow => {}
            Decoded::PreemptionTimer => {
                self.vmcs().write(guest::PREEMPTION_TIMER, setup::PREEMPTION_COUNT);
                // It is there to let the host's interrupts in.
                return Exit::ExternalInterrupt;
            }
            Decoded::Nmi => {
                insn::call_nmi_handler();
                return Exit::Nmi;
            }
            Decoded::MachineCheck => insn::call_machine_check_handler(),
            Decoded::EntryFailed(reason, qualification) => {
                let code = u64::from(reason) | qualification << 32;
                return Exit::EntryFailed(self.broken_rule(code));
            }
        }
        Exit::Handled
    }

    /// Gives the guest an exception that exited.
    fn reflect(&mut self, exception: Injection, qualification: u64) {
        if exception.vector == vector::DB {
            self.debugged = true;
            // The exit left the registers as they were; delivery changes them (SDM vol. 3, 28.1 and 18.2.3).
            insn::write_dr6(insn::read_dr6() & !0xf | qualification & 0xe00f);
            let mut vmcs = self.vmcs();
            let dr7 = vmcs.read(guest::DR7) & !DR7_GENERAL_DETECT;
            vmcs.write(guest::DR7, dr7);
            drop(vmcs);
            let blocking = Interruptibility::STI | Interruptibility::MOV_SS;
            if self.cached_rflags() & Rflags::TF.bits() != 0
                && self.interruptibility().intersects(blocking)
            {
                // An entry wants the step pending that the blocking holds off (SDM vol. 3, 27.3.1.5).
                let mut vmcs = self.vmcs();
                let pending = vmcs.read(guest::PENDING_DEBUG) | DEBUG_STEP;
                vmcs.write(guest::PENDING_DEBUG, pending);
            }
        }
        self.queue.raise(exception);
    }

    /// What the CPU does after an instruction that was not emulated: RF ends, and with TF set the single-step trap follows
    /// (SDM vol. 3, 18.3.1.4), unless it is branches that are stepped.
    #[cold]
    fn after_instruction(&mut self) {
        let rflags = self.cached_rflags();
        if rflags & Rflags::RF.bits() != 0 {
            self.set_rflags(rflags & !Rflags::RF.bits());
        }
        let by_branches = self.vmcs().read(guest::DEBUGCTL) & DEBUGCTL_BTF != 0;
        if rflags & Rflags::TF.bits() != 0 && !by_branches {
            insn::write_dr6(insn::read_dr6() | DEBUG_STEP);
            self.queue.raise(Injection::fault(vector::DB, None));
        }
    }

    /// What the exit left over of an event's delivery or an IRET.
    #[cold]
    fn recover(&mut self) {
        if let Some(event) = exit::cut_short(self.exit_reason, &Current) {
            self.queue.recover(event);
        } else if self.nmi_given && exit::nmi_unblocked_by_iret(self.exit_reason, &Current) {
            self.set_interruptibility(self.interruptibility() | Interruptibility::NMI);
        }
    }

    /// Drops translations that another virtual CPU, or this one on another CPU, may have left on the calling CPU.
    fn invalidate(&self) {
        let offers = |feature| self.capabilities.ept_vpid.contains(feature);
        if offers(EptVpid::INVEPT | EptVpid::INVEPT_SINGLE) {
            insn::invept(SINGLE_CONTEXT, self.ept_pointer);
        } else if offers(EptVpid::INVEPT | EptVpid::INVEPT_ALL) {
            insn::invept(ALL_CONTEXTS, 0);
        }
        if !self.controls.secondary.contains(Secondary::ENABLE_VPID) {
            return;
        }
        if offers(EptVpid::INVVPID | EptVpid::INVVPID_SINGLE) {
            insn::invvpid(SINGLE_CONTEXT, self.vpid);
        } else if offers(EptVpid::INVVPID | EptVpid::INVVPID_ALL) {
            insn::invvpid(ALL_CONTEXTS, 0);
        }
    }

    fn ept_pointer_to(&self, root: Hpa) -> u64 {
        bits::ept_pointer(root, self.capabilities.ept_vpid.contains(EptVpid::ACCESSED_DIRTY))
    }

    /// Whether this CPU has a held register.
    fn has(&self, msr: Msr) -> bool {
        match msr {
            msr::TSC_AUX => self.capabilities.tsc_aux,
            msr::SPEC_CTRL => self.speculation.spec_ctrl != 0,
            _ => true,
        }
    }
}

impl Vcpu for VmxVcpu {
    fn run(&mut self) -> Exit {
        match self.prepare() {
            Some(exit) => exit,
            None => hot::run(self),
        }
    }

    #[inline]
    fn run_hot<H: HotExits>(&mut self, hot: &mut H) -> Option<Exit> {
        if let Some(exit) = self.prepare() {
            return Some(exit);
        }
        if self.debugged {
            return Some(hot::run(self));
        }
        hot::run_hot(self, hot)
    }

    #[inline]
    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rsp => self.vmcs().read(guest::RSP),
            other => self.frame.gprs[other as usize],
        }
    }

    #[inline]
    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rsp => self.vmcs().write(guest::RSP, value),
            other => self.frame.gprs[other as usize] = value,
        }
    }

    #[inline]
    fn rip(&self) -> u64 {
        if let Some(rip) = self.cache.rip() {
            return rip;
        }
        let rip = self.vmcs().read(guest::RIP);
        self.cache.set_rip(rip);
        rip
    }

    #[inline]
    fn instruction_len(&self) -> Option<u8> {
        exit::has_instruction_length(self.exit_reason)
            .then(|| self.vmcs().read(info::EXIT_INSTRUCTION_LENGTH) as u8)
    }

    #[inline]
    fn advance(&mut self, len: u8) {
        let from = self.rip();
        let to = from.wrapping_add(len.into());
        self.vmcs().write(guest::RIP, to);
        self.cache.set_rip(to);
        if (to as u32) < u32::from(len) {
            self.wrap(from, to);
        }
        let blocking = self.interruptibility();
        let shadow = Interruptibility::STI | Interruptibility::MOV_SS;
        if blocking.intersects(shadow) {
            self.set_interruptibility(blocking - shadow);
        }
        if self.debugged {
            self.after_instruction();
        }
    }

    fn context(&self) -> CpuContext {
        setup::read_context(&self.vmcs())
    }

    #[inline]
    fn code64(&self) -> Option<Code64> {
        let vmcs = self.vmcs();
        let (cr3, cr4) = (vmcs.read(guest::CR3), vmcs.read(guest::CR4));
        let four_levels = cr4 & Cr4::LA57.bits() == 0;
        (four_levels && self.is_long_code()).then(|| Code64 { rip: self.rip(), cr3 })
    }

    #[inline]
    fn cpl(&self) -> u8 {
        setup::read_cpl(&self.vmcs())
    }

    fn rflags(&self) -> u64 {
        self.cached_rflags()
    }

    fn set_rflags(&mut self, value: u64) {
        let value = value | Rflags::ONE.bits();
        self.vmcs().write(guest::RFLAGS, value);
        self.cache.set_rflags(value);
    }

    fn can_take_interrupt(&self) -> bool {
        !self.queue.blocks_interrupts() && self.is_interruptible()
    }

    fn want_interrupt_window(&mut self, class: Option<u8>) {
        self.window_wanted = class.is_some();
        self.update_windows();
    }

    fn inject(&mut self, event: Event) {
        if let Event::PageFault { address, .. } = event {
            self.set_cr2(address);
        }
        self.queue.inject(Injection::from_event(event));
    }

    fn read_msr(&self, msr: Msr) -> Result<u64, MsrFault> {
        self.read_guest_msr(msr)
    }

    fn write_msr(&mut self, msr: Msr, value: u64) -> Result<(), MsrFault> {
        self.write_guest_msr(msr, value)
    }

    fn set_xcr0(&mut self, value: u64) {
        self.fpu.set_xcr0(value);
    }

    fn xcr0(&self) -> u64 {
        self.fpu.xcr0()
    }

    fn set_registers(&mut self, registers: &Registers) {
        setup::write_registers(&mut self.vmcs(), &self.capabilities, insn::read_cr4(), registers);
        self.frame.gprs = registers.gprs;
        self.set_cr2(registers.cr2);
        self.cache.clear();
        self.queue = Queue::new();
        self.update_windows();
    }

    fn registers(&self) -> Registers {
        let mut registers = setup::read_registers(&self.vmcs());
        for register in Gpr::ALL.into_iter().filter(|&register| register != Gpr::Rsp) {
            registers.gprs[register as usize] = self.frame.gprs[register as usize];
        }
        registers.cr2 = if self.resident { insn::read_cr2() } else { self.cr2 };
        registers
    }

    fn load(&mut self) {
        if self.resident && insn::vmptrst() == Some(self.vmcs) {
            return;
        }
        let current = insn::vmptrld(self.vmcs);
        debug_assert!(current.is_ok(), "VMPTRLD of a VMCS that was made here");
        self.resident = true;
        self.launched = false;
        self.barrier.cross(self.vpid);
        entry::forget_host(&mut self.frame);
        setup::write_host(&mut Current, &insn::host_state());
        self.invalidate();
        for (&msr, &value) in HELD.iter().zip(&self.held_msrs) {
            // Between guests it is 0, and a write is slow.
            if self.has(msr) && (msr != msr::SPEC_CTRL || value != 0) {
                insn::wrmsr(msr, value);
            }
        }
        insn::write_cr2(self.cr2);
        insn::write_debug(&self.debug);
        self.fpu.load();
    }

    fn unload(&mut self) {
        if !self.resident {
            return;
        }
        self.fpu.unload();
        self.debug = insn::read_debug();
        insn::write_debug(&DEBUG_RESET);
        self.cr2 = insn::read_cr2();
        insn::write_cr2(0);
        self.held_msrs = HELD.map(|msr| if self.has(msr) { insn::rdmsr(msr) } else { 0 });
        for (&msr, _) in HELD.iter().zip(&self.held_msrs).filter(|(_, value)| **value != 0) {
            insn::wrmsr(msr, 0);
        }
        let cleared = insn::vmclear(self.vmcs);
        debug_assert!(cleared.is_ok(), "VMCLEAR of a VMCS that was made here");
        self.resident = false;
        self.launched = false;
    }

    fn flush_translations(&mut self) {
        if self.resident {
            self.invalidate();
        }
    }

    fn set_second_stage(&mut self, root: Hpa) {
        self.ept_pointer = self.ept_pointer_to(root);
        let pointer = self.ept_pointer;
        self.vmcs().write(control::EPT_POINTER, pointer);
        self.flush_translations();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcs().write(control::TSC_OFFSET, offset);
    }

    fn save(&self) -> VcpuState {
        let mut state = VcpuState {
            registers: self.registers(),
            debug: if self.resident { insn::read_debug() } else { self.debug },
            msrs: STATE_MSRS.map(|msr| self.read_guest_msr(msr).unwrap_or(0)),
            xcr0: self.fpu.xcr0(),
            xsave: self.fpu.image(),
            events: self.queue.to_events(),
        };
        let blocking = self.interruptibility();
        let vmcs = self.vmcs();
        let events = &mut state.events;
        events.nmi_blocked = blocking.contains(Interruptibility::NMI);
        events.sti_shadow = blocking.contains(Interruptibility::STI);
        events.mov_ss_shadow = blocking.contains(Interruptibility::MOV_SS);
        events.halted = vmcs.read(guest::ACTIVITY) == bits::ACTIVITY_HLT;
        events.pending_debug = vmcs.read(guest::PENDING_DEBUG);
        state
    }

    fn restore(&mut self, state: &VcpuState) -> Result<(), StateError> {
        crate::state::check_events(&state.events)?;
        self.set_registers(&state.registers);
        self.fpu.restore(&state.xsave, state.xcr0)?;
        for (&msr, &value) in STATE_MSRS.iter().zip(&state.msrs) {
            if self.read_guest_msr(msr).is_ok() || value != 0 {
                self.write_guest_msr(msr, value).map_err(|_| StateError::Msr(msr))?;
            }
        }
        self.debug = state.debug;
        self.debug[4] &= 0xffff_ffff;
        if self.resident {
            insn::write_debug(&self.debug);
        }
        let events = &state.events;
        self.queue = Queue::from_events(events);
        let mut blocking = Interruptibility::empty();
        blocking.set(Interruptibility::NMI, events.nmi_blocked);
        blocking.set(Interruptibility::STI, events.sti_shadow);
        blocking.set(Interruptibility::MOV_SS, events.mov_ss_shadow);
        self.set_interruptibility(blocking);
        let mut vmcs = self.vmcs();
        let activity = if events.halted { bits::ACTIVITY_HLT } else { bits::ACTIVITY_ACTIVE };
        vmcs.write(guest::ACTIVITY, activity);
        vmcs.write(guest::PENDING_DEBUG, events.pending_debug);
        drop(vmcs);
        self.nmi_given = true;
        self.debugged = true;
        self.update_windows();
        Ok(())
    }
}
