//! A backend without a CPU: its virtual CPUs play a list of exits. Host tests drive the rest of Kerf with it and then
//! look at what was done to the registers, which events were delivered and which MSRs written.
//!
//! [`ScriptedVcpu`] keeps the contract of [`Vcpu`]: a pending event is delivered at the next [`Vcpu::run`], and a wanted
//! interrupt window opens as soon as an interrupt could be taken.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use hw::{CpuidBus, Hpa, Msr, MsrBus, MsrFault};
use paging::PageSize;
use paging::format::Npt;
use x86_spec::cpu::Rflags;
use x86_spec::msr;

use crate::{
    Backend, CpuContext, EnableError, Event, Events, Exit, GeneralProtection, Gpr, HostPages,
    Offers, Registers, STATE_MSRS, Speculation, StateError, Unsupported, Vcpu, VcpuInit, VcpuState,
};

/// A backend whose virtual CPUs play scripts.
#[derive(Debug, Default)]
pub struct Scripted;

impl Backend for Scripted {
    type Vcpu = ScriptedVcpu;
    type Stage2 = Npt;
    const NAME: &'static str = "script";

    fn probe(_: &impl CpuidBus, _: &impl MsrBus) -> Result<(), Unsupported> {
        Ok(())
    }

    fn enable(
        _: &impl CpuidBus,
        _: &impl MsrBus,
        _: &mut dyn HostPages,
    ) -> Result<Self, EnableError> {
        Ok(Self)
    }

    fn create_vcpu(
        &mut self,
        init: &VcpuInit,
        _: &mut dyn HostPages,
    ) -> Result<Self::Vcpu, EnableError> {
        Ok(ScriptedVcpu::new(init.registers.clone()))
    }

    fn offers(&self) -> Offers {
        let (largest_page, speculation) = (PageSize::Size2M, Speculation::NONE);
        Offers { pcid: true, largest_page, dirty_bits: false, tsc_scaling: false, speculation }
    }
}

/// One exit of a script, and what the CPU says about the instruction that caused it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Registers that the guest has changed since the last exit.
    pub gprs: Vec<(Gpr, u64)>,
    /// Where the guest has got to, if it has moved.
    pub rip: Option<u64>,
    /// The reason.
    pub exit: Exit,
    /// What [`Vcpu::instruction_len`] gives.
    pub len: Option<u8>,
    /// What [`Vcpu::instruction_bytes`] gives.
    pub bytes: Vec<u8>,
}

impl Step {
    /// `exit`, by an instruction of `len` bytes.
    #[must_use]
    pub fn new(exit: Exit, len: u8) -> Self {
        Self { gprs: Vec::new(), rip: None, exit, len: Some(len), bytes: Vec::new() }
    }

    /// `exit`, by an instruction of which the CPU tells nothing.
    #[must_use]
    pub fn undecoded(exit: Exit) -> Self {
        Self { gprs: Vec::new(), rip: None, exit, len: None, bytes: Vec::new() }
    }

    /// The guest sets a register first.
    #[must_use]
    pub fn with(mut self, register: Gpr, value: u64) -> Self {
        self.gprs.push((register, value));
        self
    }

    /// The guest goes to `rip` first.
    #[must_use]
    pub fn at(mut self, rip: u64) -> Self {
        self.rip = Some(rip);
        self
    }

    /// The CPU gives the instruction's bytes.
    #[must_use]
    pub fn with_bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes = bytes.to_vec();
        self
    }
}

/// A virtual CPU that plays a script. When the script is over, it shuts down.
#[derive(Debug)]
pub struct ScriptedVcpu {
    /// Its registers.
    pub state: Registers,
    /// The guest is in the shadow of STI or MOV SS.
    pub interrupt_shadow: bool,
    /// MSRs it holds; others fault. Starts with those that every backend holds.
    pub msrs: BTreeMap<u32, u64>,
    /// Waits for the next run.
    pub pending: Option<Event>,
    /// Events that reached the guest, in order.
    pub delivered: Vec<Event>,
    /// Lengths given to [`Vcpu::advance`], in order.
    pub advanced: Vec<u8>,
    /// Successful [`Vcpu::write_msr`]s, in order.
    pub msr_writes: Vec<(Msr, u64)>,
    /// What [`Vcpu::want_interrupt_window`] said last.
    pub window_wanted: Option<u8>,
    /// What [`Vcpu::set_task_priority`] said last.
    pub task_priority: u8,
    /// What [`Vcpu::task_priority`] gives: CR8 as the guest left it, where the CPU keeps it.
    pub kept_task_priority: Option<u8>,
    /// Between [`Vcpu::load`] and [`Vcpu::unload`].
    pub loaded: bool,
    /// Runs so far.
    pub runs: usize,
    /// Calls of [`Vcpu::flush_translations`] so far.
    pub flushes: usize,
    /// What [`Vcpu::set_second_stage`] said last.
    pub second_stage: Option<Hpa>,
    /// What [`Vcpu::set_tsc_offset`] said last.
    pub tsc_offset: Option<u64>,
    xcr0: u64,
    script: VecDeque<Step>,
    len: Option<u8>,
    bytes: Vec<u8>,
}

impl ScriptedVcpu {
    /// A virtual CPU in this state, with an empty script.
    #[must_use]
    pub fn new(state: Registers) -> Self {
        let held = [
            (msr::PAT, 0x0007_0406_0007_0406),
            (msr::KERNEL_GS_BASE, 0),
            (msr::STAR, 0),
            (msr::LSTAR, 0),
            (msr::CSTAR, 0),
            (msr::SFMASK, 0),
            (msr::SYSENTER_CS, 0),
            (msr::SYSENTER_ESP, 0),
            (msr::SYSENTER_EIP, 0),
            (msr::TSC_AUX, 0),
        ];
        Self {
            state,
            interrupt_shadow: false,
            msrs: held.into_iter().map(|(msr, value)| (msr.0, value)).collect(),
            pending: None,
            delivered: Vec::new(),
            advanced: Vec::new(),
            msr_writes: Vec::new(),
            window_wanted: None,
            task_priority: 0,
            kept_task_priority: None,
            loaded: false,
            runs: 0,
            flushes: 0,
            second_stage: None,
            tsc_offset: None,
            xcr0: 1,
            script: VecDeque::new(),
            len: None,
            bytes: Vec::new(),
        }
    }

    /// Adds to the end of the script.
    pub fn push(&mut self, step: Step) -> &mut Self {
        self.script.push_back(step);
        self
    }

    /// Steps not played yet.
    #[must_use]
    pub fn steps_left(&self) -> usize {
        self.script.len()
    }
}

impl Vcpu for ScriptedVcpu {
    fn run(&mut self) -> Exit {
        self.runs += 1;
        (self.len, self.bytes) = (None, Vec::new());
        if let Some(event) = self.pending.take() {
            if let Event::PageFault { address, .. } = event {
                self.state.cr2 = address;
            }
            self.delivered.push(event);
        }
        let priority = self.kept_task_priority.unwrap_or(0);
        if self.window_wanted.is_some_and(|class| class > priority) && self.can_take_interrupt() {
            return Exit::InterruptWindow;
        }
        let Some(step) = self.script.pop_front() else { return Exit::Shutdown };
        for (register, value) in step.gprs {
            self.set_gpr(register, value);
        }
        self.state.rip = step.rip.unwrap_or(self.state.rip);
        (self.len, self.bytes) = (step.len, step.bytes);
        step.exit
    }

    fn gpr(&self, register: Gpr) -> u64 {
        self.state.gprs[register as usize]
    }

    fn set_gpr(&mut self, register: Gpr, value: u64) {
        self.state.gprs[register as usize] = value;
    }

    fn rip(&self) -> u64 {
        self.state.rip
    }

    fn instruction_len(&self) -> Option<u8> {
        self.len
    }

    fn instruction_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, len: u8) {
        self.advanced.push(len);
        self.state.rip = self.state.rip.wrapping_add(u64::from(len));
        self.interrupt_shadow = false;
    }

    fn context(&self) -> CpuContext {
        let state = &self.state;
        CpuContext {
            rip: state.rip,
            rflags: state.rflags,
            cr0: state.cr0,
            cr3: state.cr3,
            cr4: state.cr4,
            efer: state.efer,
            cs: state.cs,
            ss: state.ss,
            ds: state.ds,
            es: state.es,
            fs_base: state.fs.base,
            gs_base: state.gs.base,
            cpl: (state.ss.access >> 5) as u8 & 3,
        }
    }

    fn set_rflags(&mut self, value: u64) {
        self.state.rflags = value | Rflags::ONE.bits();
    }

    fn can_take_interrupt(&self) -> bool {
        self.state.rflags & Rflags::IF.bits() != 0
            && !self.interrupt_shadow
            && self.pending.is_none()
    }

    fn want_interrupt_window(&mut self, class: Option<u8>) {
        self.window_wanted = class;
    }

    fn inject(&mut self, event: Event) {
        self.pending = Some(event);
    }

    fn write_cr4(&mut self, value: u64) -> Result<(), GeneralProtection> {
        if value >> 32 != 0 {
            return Err(GeneralProtection);
        }
        self.state.cr4 = value;
        Ok(())
    }

    fn read_msr(&self, msr: Msr) -> Result<u64, MsrFault> {
        match msr {
            msr::EFER => Ok(self.state.efer),
            msr::FS_BASE => Ok(self.state.fs.base),
            msr::GS_BASE => Ok(self.state.gs.base),
            _ => self.msrs.get(&msr.0).copied().ok_or(MsrFault(msr)),
        }
    }

    fn write_msr(&mut self, msr: Msr, value: u64) -> Result<(), MsrFault> {
        match msr {
            msr::EFER => self.state.efer = value,
            msr::FS_BASE => self.state.fs.base = value,
            msr::GS_BASE => self.state.gs.base = value,
            _ => *self.msrs.get_mut(&msr.0).ok_or(MsrFault(msr))? = value,
        }
        self.msr_writes.push((msr, value));
        Ok(())
    }

    fn set_xcr0(&mut self, value: u64) {
        self.xcr0 = value;
    }

    fn xcr0(&self) -> u64 {
        self.xcr0
    }

    fn set_task_priority(&mut self, class: u8) {
        self.task_priority = class;
    }

    fn task_priority(&self) -> Option<u8> {
        self.kept_task_priority
    }

    fn set_registers(&mut self, registers: &Registers) {
        self.state = registers.clone();
        self.interrupt_shadow = false;
        self.pending = None;
    }

    fn registers(&self) -> Registers {
        self.state.clone()
    }

    fn load(&mut self) {
        self.loaded = true;
    }

    fn unload(&mut self) {
        self.loaded = false;
    }

    fn flush_translations(&mut self) {
        self.flushes += 1;
    }

    fn set_second_stage(&mut self, root: Hpa) {
        self.second_stage = Some(root);
        self.flushes += 1;
    }

    fn set_tsc_offset(&mut self, offset: u64) {
        self.tsc_offset = Some(offset);
    }

    fn save(&self) -> VcpuState {
        VcpuState {
            registers: self.state.clone(),
            msrs: STATE_MSRS.map(|msr| self.read_msr(msr).unwrap_or(0)),
            xcr0: self.xcr0,
            events: Events {
                first: match self.pending {
                    Some(Event::Interrupt(vector)) => 1 << 31 | u64::from(vector),
                    _ => 0,
                },
                sti_shadow: self.interrupt_shadow,
                ..Events::default()
            },
            ..VcpuState::default()
        }
    }

    fn restore(&mut self, state: &VcpuState) -> Result<(), StateError> {
        self.set_registers(&state.registers);
        for (&msr, &value) in STATE_MSRS.iter().zip(&state.msrs) {
            if self.msrs.contains_key(&msr.0) || value != 0 {
                self.write_msr(msr, value).map_err(|_| StateError::Msr(msr))?;
            }
        }
        self.xcr0 = state.xcr0;
        self.interrupt_shadow = state.events.sti_shadow;
        self.pending = match state.events.first {
            0 => None,
            word => Some(Event::Interrupt(word as u8)),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Registers {
        Registers { rflags: 0x202, rip: 0x1000, ..Registers::default() }
    }

    #[test]
    fn a_script_is_played_in_order_and_ends_in_shutdown() {
        let mut vcpu = ScriptedVcpu::new(open());
        vcpu.push(Step::new(Exit::Cpuid, 2).with(Gpr::Rax, 7)).push(Step::undecoded(Exit::Halt));
        assert_eq!(vcpu.run(), Exit::Cpuid);
        assert_eq!((vcpu.gpr(Gpr::Rax), vcpu.instruction_len()), (7, Some(2)));
        vcpu.advance(2);
        assert_eq!(vcpu.rip(), 0x1002);
        assert_eq!(vcpu.run(), Exit::Halt);
        assert_eq!(vcpu.instruction_len(), None);
        assert_eq!(vcpu.run(), Exit::Shutdown);
    }

    #[test]
    fn an_event_is_delivered_at_the_next_run() {
        let mut vcpu = ScriptedVcpu::new(open());
        vcpu.push(Step::new(Exit::Halt, 1));
        vcpu.inject(Event::Interrupt(0x30));
        assert!(!vcpu.can_take_interrupt());
        vcpu.run();
        assert_eq!(vcpu.delivered, [Event::Interrupt(0x30)]);
        assert!(vcpu.can_take_interrupt());
    }

    #[test]
    fn the_window_opens_when_the_guest_can_take_an_interrupt() {
        let mut vcpu = ScriptedVcpu::new(open());
        vcpu.push(Step::new(Exit::Cpuid, 2));
        vcpu.interrupt_shadow = true;
        vcpu.want_interrupt_window(Some(3));
        assert_eq!(vcpu.run(), Exit::Cpuid);
        vcpu.advance(2);
        assert_eq!(vcpu.run(), Exit::InterruptWindow);
    }
}
