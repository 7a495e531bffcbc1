//! A virtual CPU of SVM: its VMCB, the registers that VMRUN leaves alone, and the FPU state.

use hw::{Hpa, Msr, MsrFault, OutOfFrames};
use x86_spec::cpu::{Rflags, vector};
use x86_spec::msr;
use x86_spec::svm::{
    Clean, EventWord, INTERRUPT_SHADOW, Intercept3, Intercept4, NP_ENABLE, SvmFeatures,
    VirtualInterrupt, Vmcb, exit_code, tlb_control,
};

use super::entry;
use super::events::{self, Waiting};
use super::exit::{self, ExitFields, Own};
use super::features::Features;
use super::insn::{self, Owned};
use super::nmi::{DR6_STEP, Nmis};
use super::{HELD, Svm, checks, hot, state};
use crate::barrier::Barrier;
use crate::cr4;
use crate::fpu::Fpu;
use crate::frame::OwnFrame;
use crate::{
    Code64, CpuContext, EntryFailure, Event, Exit, GeneralProtection, Gpr, HostPages, HotExits,
    IdlePolicy, Registers, STATE_MSRS, StateError, TscRatio, Vcpu, VcpuInit, VcpuState,
};

/// V_TPR as far as CR8 reaches.
pub(super) const V_TPR: u32 = 0xf;
/// Exceptions that are intercepted. #MC is the host's. #DB and #AC can raise themselves again while they are delivered,
/// for ever, with no interrupt taken in between; an exit at each keeps the CPU in Kerf's hands.
const EXCEPTIONS: u32 = 1 << vector::DB | 1 << vector::AC | 1 << vector::MC;

/// A virtual CPU.
#[derive(Debug)]
pub struct SvmVcpu {
    pub(super) vmcb: Owned<Vmcb>,
    pub(super) frame: OwnFrame,
    pub(super) waiting: Waiting,
    /// The CPU's own VMLOAD state, stored when this virtual CPU was loaded.
    host: Owned<Vmcb>,
    fpu: Fpu,
    barrier: Barrier,
    address_space: u16,
    /// DR0 to DR3 while not loaded.
    breakpoints: [u64; 4],
    held: [u64; HELD.len()],
    tsc_ratio: TscRatio,
    /// CR4.MCE as the guest has set it.
    mce: u64,
    /// EFER.LME as the guest has set it, while the VMCB has it clear: [`state::hold_lme`].
    lme: u64,
    loaded: bool,
    /// Kerf has changed state that VMRUN checks. The rules are looked at before the entry, once, because some CPUs have
    /// overwritten the VMCB by the time they refuse it; what the guest itself changes is checked by the CPU.
    unchecked: bool,
    pub(super) features: Features,
    /// What the CPU wrote at #VMEXIT and what it has cached are the same, until something here changes it: all clean, where
    /// clean bits are offered.
    clean_after_exit: u32,
}

impl SvmVcpu {
    pub(super) fn new(
        backend: &Svm,
        init: &VcpuInit,
        pages: &mut dyn HostPages,
    ) -> Result<Self, OutOfFrames> {
        let cached = backend.features.svm.contains(SvmFeatures::VMCB_CLEAN);
        let mut vcpu = Self {
            vmcb: Owned::new(pages)?,
            frame: OwnFrame::new(),
            waiting: Waiting::new(),
            host: Owned::new(pages)?,
            fpu: Fpu::new(&backend.fpu, init.xcr0_allowed, pages)?,
            barrier: backend.barrier.clone(),
            address_space: init.address_space,
            breakpoints: [0; 4],
            held: [0; HELD.len()],
            tsc_ratio: init.tsc_ratio,
            mce: 0,
            lme: 0,
            loaded: false,
            unchecked: true,
            features: backend.features,
            clean_after_exit: if cached { u32::MAX } else { 0 },
        };
        entry::set_vmcbs(&mut vcpu.frame, &vcpu.vmcb, &vcpu.host);
        vcpu.write_controls(backend, init);
        vcpu.vmcb.save.g_pat = state::PAT_RESET;
        vcpu.set_registers(&init.registers);
        Ok(vcpu)
    }

    fn write_controls(&mut self, backend: &Svm, init: &VcpuInit) {
        let features = &self.features;
        let control = &mut self.vmcb.control;
        (control.intercept_cr_read, control.intercept_cr_write) = (1 << 4, 1 << 4);
        control.intercept_exceptions = EXCEPTIONS | u32::from(init.undefined_exits) << vector::UD;
        control.intercept3 = (Intercept3::INTR
            | Intercept3::NMI
            | Intercept3::SMI
            | Intercept3::INIT
            | Intercept3::RDPMC
            | Intercept3::CPUID
            | Intercept3::INVD
            | Intercept3::HLT
            | Intercept3::INVLPGA
            | Intercept3::IOIO_PROT
            | Intercept3::MSR_PROT
            | Intercept3::SHUTDOWN)
            .bits();
        let mut intercept4 = Intercept4::VMRUN
            | Intercept4::VMMCALL
            | Intercept4::VMLOAD
            | Intercept4::VMSAVE
            | Intercept4::STGI
            | Intercept4::CLGI
            | Intercept4::SKINIT
            | Intercept4::WBINVD
            | Intercept4::MONITOR
            | Intercept4::MWAIT
            | Intercept4::XSETBV;
        intercept4.set(Intercept4::RDPRU, features.rdpru);
        control.intercept4 = intercept4.bits();
        if init.idle == IdlePolicy::InGuest {
            control.intercept3 &= !Intercept3::HLT.bits();
            control.intercept4 &= !(Intercept4::MONITOR | Intercept4::MWAIT).bits();
        }
        control.iopm_base_pa = backend.io_permissions.hpa().raw();
        control.msrpm_base_pa = backend.msr_permissions.hpa().raw();
        control.tsc_offset = init.tsc_offset;
        control.guest_asid = features.asid(init.address_space);
        control.virtual_interrupt = VirtualInterrupt::MASKING.bits();
        control.nested_control = NP_ENABLE;
        control.n_cr3 = init.second_stage.raw();
    }

    /// CR4 as the guest sees it.
    fn cr4(&self) -> u64 {
        self.vmcb.save.cr4 & !cr4::SHADOWED | self.mce
    }

    /// The reverse: the CPU has MCE set in any case where it exists, as the host has.
    fn set_cr4(&mut self, view: u64) {
        self.mce = view & cr4::SHADOWED;
        self.vmcb.save.cr4 = view | self.features.cr4 & cr4::SHADOWED;
        state::hold_lme(&mut self.vmcb.save, &mut self.lme);
    }

    /// What is to be done before an entry; an exit where there is none to make.
    #[inline]
    fn prepare(&mut self) -> Option<Exit> {
        debug_assert!(self.loaded, "run before load");
        if self.unchecked {
            if let Some(rule) = checks::broken_rule(&self.vmcb, self.features.physical_bits) {
                return Some(Exit::EntryFailed(EntryFailure::Rule(rule)));
            }
            self.unchecked = false;
        }
        if !self.waiting.is_empty() {
            self.put_overtaken();
        }
        let control = &mut self.vmcb.control;
        if EventWord(control.event_injection).is_interrupt() {
            events::lend_due(control);
        }
        None
    }

    /// The index of a held register that this CPU has, and its bits.
    fn held(&self, msr: Msr) -> Option<(usize, u64)> {
        let index = HELD.iter().position(|&held| held == msr)?;
        Some((index, self.features.held()[index])).filter(|&(_, bits)| bits != 0)
    }

    /// Puts values into the held registers that are not 0 as the CPU has them between guests, and into TSC_AUX, which may be
    /// whatever the firmware left.
    fn hold_all(&mut self, values: [u64; HELD.len()]) {
        for (index, msr) in HELD.into_iter().enumerate() {
            if self.held[index] != 0 || msr == msr::TSC_AUX && self.features.tsc_aux {
                self.hold(msr, values[index]);
            }
        }
    }

    /// Has the guest run with this value.
    #[inline]
    fn hold(&mut self, msr: Msr, value: u64) {
        if msr == msr::SPEC_CTRL && self.features.svm.contains(SvmFeatures::SPEC_CTRL_VIRT) {
            self.vmcb.save.spec_ctrl = value;
        } else {
            insn::write_guest_msr(msr, value);
        }
    }

    /// Tells the CPU that it must read these fields of the VMCB again.
    pub(super) fn changed(&mut self, fields: Clean) {
        self.vmcb.control.clean &= !fields.bits();
    }

    /// Takes in what the CPU wrote at #VMEXIT.
    #[inline]
    pub(super) fn finish(&mut self) -> Exit {
        let vmcb = &mut *self.vmcb;
        let control = &mut vmcb.control;
        control.tlb_control = tlb_control::NOTHING;
        control.clean = self.clean_after_exit;
        // What was in EVENTINJ has been delivered, or its delivery was cut short and is to be done again.
        control.event_injection = EventWord::NONE.0;
        if EventWord(control.exit_int_info).is_valid() {
            control.event_injection = redelivery(EventWord(control.exit_int_info)).0;
        }
        self.take_back();
        if let Nmis::Stepping { iret, tf, step } = self.waiting.nmis
            && self.end_step(iret, tf, step)
        {
            return Exit::Handled;
        }
        let vmcb = &mut *self.vmcb;
        let control = &mut vmcb.control;
        if let Some(own) = exit::own(control.exit_code) {
            return self.handle(own);
        }
        exit::decode(&ExitFields {
            code: control.exit_code,
            info1: control.exit_info1,
            info2: control.exit_info2,
            rax: vmcb.save.rax,
            rcx: self.frame.gprs[Gpr::Rcx as usize],
            rdx: self.frame.gprs[Gpr::Rdx as usize],
        })
    }

    /// What the backend itself does about an exit.
    #[cold]
    fn handle(&mut self, own: Own) -> Exit {
        match own {
            Own::Reflect { vector, error_code } => {
                self.inject(Event::Exception { vector, error_code });
            }
            Own::GeneralProtection => {
                self.inject(Event::Exception { vector: vector::GP, error_code: Some(0) });
            }
            Own::Iret => self.end_nmi(),
            Own::MachineCheck => insn::machine_check(),
            Own::Window if self.is_callers_window() => return Exit::InterruptWindow,
            Own::Window => {}
            Own::Refused => return Exit::EntryFailed(self.refusal()),
        }
        Exit::Handled
    }

    /// What follows every instruction: RF ends, and where TF is set the single-step trap comes (APM vol. 2, 13.1.4).
    #[cold]
    pub(super) fn end_instruction(&mut self) {
        self.vmcb.save.rflags &= !Rflags::RF.bits();
        if self.vmcb.save.rflags & Rflags::TF.bits() != 0 {
            self.vmcb.save.dr6 |= DR6_STEP;
            self.changed(Clean::DEBUG_REGISTERS);
            self.put(EventWord::new(EventWord::EXCEPTION, vector::DB, None));
        }
    }

    #[cold]
    fn refusal(&self) -> EntryFailure {
        match checks::broken_rule(&self.vmcb, self.features.physical_bits) {
            Some(rule) => EntryFailure::Rule(rule),
            None => EntryFailure::Code(self.vmcb.control.exit_code),
        }
    }
}

/// What to deliver again after an exit that cut `event` short (APM vol. 2, 15.7.2). What an instruction raised (INT n,
/// INT3, INTO) happens again when the instruction is executed again, RIP being still at it.
#[cold]
pub(super) fn redelivery(event: EventWord) -> EventWord {
    let by_instruction = match event.kind() {
        EventWord::SOFTWARE => true,
        EventWord::EXCEPTION => matches!(event.vector(), 3 | 4),
        _ => false,
    };
    if event.is_valid() && !by_instruction { event } else { EventWord::NONE }
}

impl Vcpu for SvmVcpu {
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
        let is_stepping = matches!(self.waiting.nmis, Nmis::Stepping { .. });
        if self.vmcb.control.tlb_control != tlb_control::NOTHING || is_stepping {
            // Once, not at each entry of a long run.
            return Some(hot::run(self));
        }
        hot::run_hot(self, hot)
    }

    fn gpr(&self, register: Gpr) -> u64 {
        match register {
            Gpr::Rax => self.vmcb.save.rax,
            Gpr::Rsp => self.vmcb.save.rsp,
            _ => self.frame.gprs[register as usize],
        }
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        match register {
            Gpr::Rax => self.vmcb.save.rax = value,
            Gpr::Rsp => self.vmcb.save.rsp = value,
            _ => self.frame.gprs[register as usize] = value,
        }
    }

    fn rip(&self) -> u64 {
        self.vmcb.save.rip
    }

    fn instruction_len(&self) -> Option<u8> {
        let control = &self.vmcb.control;
        let offered = self.features.svm.contains(SvmFeatures::NRIPS);
        let next_rip = if offered { control.next_rip } else { 0 };
        exit::instruction_len(control.exit_code, self.vmcb.save.rip, control.exit_info2, next_rip)
    }

    fn instruction_bytes(&self) -> &[u8] {
        let control = &self.vmcb.control;
        // The bytes are there for nested page faults on data only (APM vol. 2, 15.8.4).
        let given = self.features.svm.contains(SvmFeatures::DECODE_ASSISTS)
            && control.exit_code == exit_code::NPF;
        let len = if given { usize::from(control.instruction_len) } else { 0 };
        control.instruction_bytes.get(..len).unwrap_or_default()
    }

    fn advance(&mut self, len: u8) {
        state::advance(&mut self.vmcb.save, len);
        self.vmcb.control.interrupt_shadow &= !INTERRUPT_SHADOW;
        if self.vmcb.save.rflags & (Rflags::TF | Rflags::RF).bits() != 0 {
            self.end_instruction();
        }
    }

    fn context(&self) -> CpuContext {
        let context = state::context(&self.vmcb.save);
        CpuContext { cr4: self.cr4(), efer: context.efer | self.lme, ..context }
    }

    #[inline]
    fn code64(&self) -> Option<Code64> {
        state::code64(&self.vmcb.save)
    }

    fn rflags(&self) -> u64 {
        self.vmcb.save.rflags
    }

    fn cpl(&self) -> u8 {
        self.vmcb.save.cpl
    }

    fn set_rflags(&mut self, value: u64) {
        self.vmcb.save.rflags = value | Rflags::ONE.bits();
    }

    fn can_take_interrupt(&self) -> bool {
        self.is_interruptible()
            && !EventWord(self.vmcb.control.event_injection).is_valid()
            && !self.waiting.holds_interrupt()
    }

    fn want_interrupt_window(&mut self, class: Option<u8>) {
        self.set_window(class);
    }

    fn inject(&mut self, event: Event) {
        let word = match event {
            Event::Interrupt(vector) => EventWord::new(EventWord::INTERRUPT, vector, None),
            Event::Nmi => EventWord::new(EventWord::NMI, vector::NMI, None),
            Event::Exception { vector, error_code } => {
                EventWord::new(EventWord::EXCEPTION, vector, error_code)
            }
            Event::PageFault { address, error_code } => {
                self.vmcb.save.cr2 = address;
                self.changed(Clean::CR2);
                EventWord::new(EventWord::EXCEPTION, vector::PF, Some(error_code))
            }
        };
        self.put(word);
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), GeneralProtection> {
        state::check_cr4(&self.vmcb.save, value, self.features.cr4)?;
        self.set_cr4(value);
        self.changed(Clean::CONTROL_REGISTERS);
        // Most of its bits concern paging, and a guest flushes global pages by them.
        self.flush_translations();
        Ok(())
    }

    fn read_msr(&self, msr: Msr) -> Result<u64, MsrFault> {
        if let Some((index, _)) = self.held(msr) {
            return Ok(self.held[index]);
        }
        match msr {
            msr::EFER => state::read_msr(&self.vmcb.save, msr).map(|efer| efer | self.lme),
            _ => state::read_msr(&self.vmcb.save, msr),
        }
    }

    fn write_msr(&mut self, msr: Msr, value: u64) -> Result<(), MsrFault> {
        if let Some((index, bits)) = self.held(msr) {
            if value & !bits != 0 {
                return Err(MsrFault(msr));
            }
            self.held[index] = value;
            if self.loaded {
                self.hold(msr, value);
            }
            return Ok(());
        }
        state::write_msr(&mut self.vmcb.save, msr, value)?;
        match msr {
            msr::EFER => {
                self.lme = 0;
                state::hold_lme(&mut self.vmcb.save, &mut self.lme);
                self.unchecked = true;
                self.changed(Clean::CONTROL_REGISTERS);
                // NXE gives entries of the guest's tables another meaning.
                self.flush_translations();
            }
            msr::PAT => self.changed(Clean::NESTED_PAGING),
            _ => {}
        }
        Ok(())
    }

    fn set_xcr0(&mut self, value: u64) {
        self.fpu.set_xcr0(value);
    }

    fn xcr0(&self) -> u64 {
        self.fpu.xcr0()
    }

    fn set_task_priority(&mut self, class: u8) {
        let old = self.vmcb.control.virtual_interrupt;
        let new = old & !V_TPR | u32::from(class) & V_TPR;
        if new != old {
            self.vmcb.control.virtual_interrupt = new;
            self.changed(Clean::TPR);
        }
    }

    fn task_priority(&self) -> Option<u8> {
        Some((self.vmcb.control.virtual_interrupt & V_TPR) as u8)
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.frame.gprs = registers.gprs;
        state::set_registers(&mut self.vmcb.save, registers);
        self.lme = 0;
        self.set_cr4(registers.cr4);
        let control = &mut self.vmcb.control;
        control.interrupt_shadow = 0;
        control.event_injection = EventWord::NONE.0;
        self.waiting = Waiting::new();
        self.set_nmis(Nmis::Open);
        self.set_window(None);
        self.unchecked = true;
        self.changed(Clean::all());
        self.flush_translations();
    }

    fn registers(&self) -> Registers {
        let registers = state::registers(&self.vmcb.save, &self.frame.gprs);
        Registers { cr4: self.cr4(), efer: registers.efer | self.lme, ..registers }
    }

    fn load(&mut self) {
        if self.loaded {
            return;
        }
        self.loaded = true;
        self.barrier.cross(self.address_space);
        insn::vmsave(&mut self.host);
        self.fpu.load();
        insn::write_breakpoints(self.breakpoints);
        self.hold_all(self.held);
        if self.tsc_ratio != TscRatio::ONE {
            insn::write_guest_msr(msr::TSC_RATIO, self.tsc_ratio.raw());
        }
        // Another virtual CPU may have used the ASID on this CPU, or this one's old entries have gone stale here.
        self.flush_translations();
        self.changed(Clean::all());
    }

    fn unload(&mut self) {
        if !self.loaded {
            return;
        }
        self.loaded = false;
        self.breakpoints = insn::read_breakpoints();
        insn::write_breakpoints([0; 4]);
        self.hold_all([0; HELD.len()]);
        if self.tsc_ratio != TscRatio::ONE {
            insn::write_guest_msr(msr::TSC_RATIO, TscRatio::ONE.raw());
        }
        self.fpu.unload();
    }

    fn flush_translations(&mut self) {
        let by_asid = self.features.svm.contains(SvmFeatures::FLUSH_BY_ASID);
        self.vmcb.control.tlb_control =
            if by_asid { tlb_control::FLUSH_ASID } else { tlb_control::FLUSH_ALL };
    }

    fn set_second_stage(&mut self, root: Hpa) {
        self.vmcb.control.n_cr3 = root.raw();
        self.unchecked = true;
        self.changed(Clean::NESTED_PAGING);
        self.flush_translations();
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.vmcb.control.tsc_offset = offset;
        self.changed(Clean::INTERCEPTS);
    }

    fn save(&self) -> VcpuState {
        let [dr0, dr1, dr2, dr3] =
            if self.loaded { insn::read_breakpoints() } else { self.breakpoints };
        VcpuState {
            registers: self.registers(),
            debug: [dr0, dr1, dr2, dr3, self.vmcb.save.dr6],
            msrs: STATE_MSRS.map(|msr| self.read_msr(msr).unwrap_or(0)),
            xcr0: self.fpu.xcr0(),
            xsave: self.fpu.image(),
            events: self.events(),
        }
    }

    fn restore(&mut self, state: &VcpuState) -> Result<(), StateError> {
        crate::state::check_events(&state.events)?;
        if state.events.shutdown {
            // Only a backend that combines faults itself leaves one waiting.
            return Err(StateError::Value("shutdown"));
        }
        self.set_registers(&state.registers);
        self.fpu.restore(&state.xsave, state.xcr0)?;
        for (&msr, &value) in STATE_MSRS.iter().zip(&state.msrs) {
            if self.read_msr(msr).is_ok() || value != 0 {
                self.write_msr(msr, value).map_err(|_| StateError::Msr(msr))?;
            }
        }
        let [breakpoints @ .., dr6] = state.debug;
        self.breakpoints = breakpoints;
        if self.loaded {
            insn::write_breakpoints(breakpoints);
        }
        self.vmcb.save.dr6 = dr6 & 0xffff_ffff;
        self.set_events(&state.events);
        Ok(())
    }
}
