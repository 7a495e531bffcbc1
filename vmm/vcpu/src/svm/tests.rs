//! The backend without a CPU: what is written into the VMCB, and what is made of the VMCB a CPU would leave.

use std::collections::HashMap;

use hw::{CpuidBus, CpuidResult, Hpa, Hva, Msr, MsrBus, MsrFault, OutOfFrames};
use x86_spec::cpu::{Cr0, Efer, Rflags};
use x86_spec::msr;
use x86_spec::segment::{DescriptorTable, Segment};
use x86_spec::svm::{EventWord, VirtualInterrupt, Vmcb, tlb_control};

use super::features::Features;
use super::{checks, events, fill_msr_permissions, state};
use crate::{
    Backend, EntryFailure, Event, Exit, Gpr, HostPage, HostPages, Registers, Speculation,
    Unsupported, Vcpu,
};

/// A CPU by its CPUID leaves; starts as QEMU's emulation describes itself.
struct Cpu {
    leaves: HashMap<u32, CpuidResult>,
    vm_cr: Option<u64>,
}

impl Cpu {
    fn qemu() -> Self {
        let leaf = |eax, ebx, ecx, edx| CpuidResult { eax, ebx, ecx, edx };
        let leaves = [
            (0, leaf(0xd, 0, 0, 0)),
            (1, leaf(0x0080_0f12, 0, 1 << 17 | 1 << 26, 0x0789_fbff)),
            (7, leaf(0, 1 << 7 | 1 << 20, 0, 0)),
            (0x8000_0000, leaf(0x8000_000a, 0, 0, 0)),
            (0x8000_0001, leaf(0, 0, 1 << 2, 1 << 27)),
            (0x8000_0008, leaf(0x3028, 0, 0, 0)),
            (0x8000_000a, leaf(1, 16, 0, 1 << 0 | 1 << 16)),
        ];
        Self { leaves: leaves.into_iter().collect(), vm_cr: Some(0) }
    }

    fn with(mut self, leaf: u32, change: impl FnOnce(&mut CpuidResult)) -> Self {
        change(self.leaves.entry(leaf).or_default());
        self
    }
}

impl CpuidBus for Cpu {
    fn cpuid(&self, leaf: u32, _: u32) -> CpuidResult {
        self.leaves.get(&leaf).copied().unwrap_or_default()
    }
}

impl MsrBus for Cpu {
    fn read(&self, msr: Msr) -> Result<u64, MsrFault> {
        match msr {
            msr::VM_CR => self.vm_cr.ok_or(MsrFault(msr)),
            _ => Err(MsrFault(msr)),
        }
    }
    fn write(&self, msr: Msr, _: u64) -> Result<(), MsrFault> {
        Err(MsrFault(msr))
    }
}

/// Pages that live to the end of the test program, as a backend's do.
struct Leaked;

#[derive(Clone)]
#[repr(align(4096))]
struct Page(#[allow(dead_code)] [u8; 4096]);

impl HostPages for Leaked {
    fn alloc_pages(&mut self, count: usize) -> Result<HostPage, OutOfFrames> {
        let pages: Vec<Page> = vec![Page([0; 4096]); count];
        let hva = pages.leak().as_ptr().expose_provenance() as u64;
        // Below 2^40, as the described CPU has it.
        Ok(HostPage { hpa: Hpa::new(hva & 0xff_ffff_f000), hva: Hva::new(hva) })
    }
}

fn long_mode() -> Registers {
    Registers {
        rip: 0x10_0000,
        rflags: 0x202,
        cr0: 0x8005_0033,
        cr3: 0x1000,
        cr4: 0x6b0,
        efer: (Efer::LME | Efer::LMA | Efer::NXE).bits(),
        cs: Segment::flat(0x10, Segment::CODE64),
        ss: Segment::flat(0x18, Segment::DATA),
        ds: Segment::flat(0x18, Segment::DATA),
        es: Segment::unusable(),
        fs: Segment { base: 0x1234, ..Segment::unusable() },
        gs: Segment::unusable(),
        tr: Segment { selector: 0x28, base: 0x5000, limit: 0x67, access: Segment::TSS64_BUSY },
        ldtr: Segment::unusable(),
        gdtr: DescriptorTable { base: 0x2000, limit: 0x37 },
        idtr: DescriptorTable { base: 0x3000, limit: 0xfff },
        dr7: 0x400,
        ..Registers::default()
    }
}

/// A virtual CPU of a CPU with these features, made as the backend makes it.
fn vcpu_on(cpu: &Cpu) -> super::SvmVcpu {
    let mut svm = super::Svm {
        features: Features::probe(cpu, cpu).unwrap(),
        fpu: crate::fpu::FpuSupport::probe(cpu),
        barrier: crate::barrier::Barrier::probe(cpu, cpu, &Speculation::NONE),
        io_permissions: super::Owned::new(&mut Leaked).unwrap(),
        msr_permissions: super::Owned::new(&mut Leaked).unwrap(),
        _host_save_area: super::Owned::new(&mut Leaked).unwrap(),
    };
    let init = crate::VcpuInit {
        second_stage: Hpa::new(0x7000),
        address_space: 1,
        tsc_ratio: crate::TscRatio::ONE,
        tsc_offset: 0u64.wrapping_sub(5),
        xcr0_allowed: 0,
        idle: crate::IdlePolicy::Exit,
        undefined_exits: false,
        registers: long_mode(),
    };
    svm.create_vcpu(&init, &mut Leaked).unwrap()
}

fn vcpu() -> super::SvmVcpu {
    vcpu_on(&Cpu::qemu())
}

#[test]
fn a_missing_feature_is_named() {
    let probe = |cpu: &Cpu| super::Svm::probe(cpu, cpu);
    assert_eq!(probe(&Cpu::qemu()), Ok(()));
    let old = Cpu::qemu().with(0x8000_0000, |leaf| leaf.eax = 0x8000_0008);
    assert_eq!(probe(&old), Err(Unsupported::NoExtension));
    let hidden = Cpu::qemu().with(0x8000_0001, |leaf| leaf.ecx = 0);
    assert_eq!(probe(&hidden), Err(Unsupported::NoExtension));
    let locked = Cpu { vm_cr: Some(1 << 4 | 1 << 3), ..Cpu::qemu() };
    assert_eq!(probe(&locked), Err(Unsupported::LockedByFirmware("VM_CR")));
    let no_switch = Cpu { vm_cr: None, ..Cpu::qemu() };
    assert_eq!(probe(&no_switch), Ok(()));
    let no_npt = Cpu::qemu().with(0x8000_000a, |leaf| leaf.edx = 0);
    assert_eq!(probe(&no_npt), Err(Unsupported::Missing("NP (nested paging)")));
    let no_asid = Cpu::qemu().with(0x8000_000a, |leaf| leaf.ebx = 1);
    let missing = Unsupported::Missing("NASID (address space identifiers)");
    assert_eq!(probe(&no_asid), Err(missing));
}

#[test]
fn asids_stay_within_what_the_cpu_has() {
    let cpu = Cpu::qemu();
    let features = Features::probe(&cpu, &cpu).unwrap();
    assert_eq!([1, 2, 15, 16, 31].map(|number| features.asid(number)), [1, 2, 15, 1, 1]);
    assert!((0..=u16::MAX).all(|number| (1..16).contains(&features.asid(number))));
}

#[test]
fn only_what_vmload_switches_is_passed_through() {
    let mut map = [0; super::MSRPM_BYTES];
    fill_msr_permissions(&mut map, &Speculation { pred_cmd: true, ..Speculation::NONE });
    let intercepted = |msr: Msr| {
        let bit = super::msrpm_bit(msr.0).unwrap();
        (map[bit / 8] >> (bit % 8)) & 0b11
    };
    for msr in [msr::FS_BASE, msr::KERNEL_GS_BASE, msr::LSTAR, msr::SYSENTER_EIP] {
        assert_eq!(intercepted(msr), 0, "{msr:?}");
    }
    for msr in [msr::EFER, msr::PAT, msr::VM_CR, msr::VM_HSAVE_PA, msr::TSC, msr::TSC_AUX] {
        assert_eq!(intercepted(msr), 0b11, "{msr:?}");
    }
    assert_eq!(intercepted(msr::PRED_CMD), 0b01, "a command passes, and has no state to read");
    for msr in [msr::FLUSH_CMD, msr::SPEC_CTRL] {
        assert_eq!(intercepted(msr), 0b11, "{msr:?}");
    }
    let open: u32 = map.iter().map(|byte| byte.count_zeros()).sum();
    assert_eq!(open, 21);
}

#[test]
fn a_fresh_virtual_cpu_breaks_no_rule() {
    let vcpu = vcpu();
    assert_eq!(checks::broken_rule(&vcpu.vmcb, 40), None);
    assert_eq!(vcpu.vmcb.control.n_cr3, 0x7000);
    assert_eq!(vcpu.vmcb.control.tsc_offset, 0xffff_ffff_ffff_fffb);
    assert_eq!(vcpu.vmcb.control.tlb_control, tlb_control::FLUSH_ALL, "no FlushByAsid here");
}

#[test]
fn registers_come_back_as_they_were_set() {
    let mut registers = long_mode();
    for (number, gpr) in registers.gprs.iter_mut().enumerate() {
        *gpr = 0x1111 * number as u64;
    }
    let mut vcpu = vcpu();
    vcpu.set_registers(&registers);
    assert_eq!(vcpu.registers(), registers);
    assert_eq!(vcpu.gpr(Gpr::Rsp), 0x4444);
    assert_eq!(vcpu.vmcb.save.efer & Efer::SVME.bits(), Efer::SVME.bits());
    assert_eq!(vcpu.context().efer & Efer::SVME.bits(), 0);
}

#[test]
fn access_rights_are_packed_as_the_manual_has_them() {
    let code = state::pack(&Segment::flat(0x10, Segment::CODE64));
    assert_eq!((code.attributes, code.limit), (0xa9b, 0xffff_ffff));
    assert_eq!(state::pack(&Segment::unusable()).attributes, 0);
    let user = Segment::flat(0x2b, 0xc0f3);
    assert_eq!(state::pack(&user).attributes, 0xcf3);
    assert_eq!(state::unpack(&state::pack(&user)), user);
}

#[test]
fn the_privilege_level_follows_mode_and_stack() {
    let cpl = |change: fn(&mut Registers)| {
        let mut registers = long_mode();
        change(&mut registers);
        let mut vcpu = vcpu();
        vcpu.set_registers(&registers);
        vcpu.context().cpl
    };
    assert_eq!(cpl(|_| ()), 0);
    assert_eq!(cpl(|registers| registers.ss.access |= 3 << 5), 3);
    assert_eq!(
        cpl(|registers| {
            registers.cr0 = 0x10;
            registers.ss.access |= 3 << 5;
        }),
        0
    );
    assert_eq!(cpl(|registers| registers.rflags |= Rflags::VM.bits()), 3);
}

#[test]
fn the_hosts_mce_stays_set_and_the_guest_sees_its_own() {
    const MCE: u64 = 1 << 6;
    let mut vcpu = vcpu();
    assert_eq!((vcpu.vmcb.save.cr4, vcpu.context().cr4), (0x6b0 | MCE, 0x6b0));
    assert_eq!(
        (vcpu.vmcb.control.intercept_cr_read, vcpu.vmcb.control.intercept_cr_write),
        (16, 16)
    );
    vcpu.finish();
    assert_eq!(vcpu.write_cr4(0x6b0 | MCE), Ok(()));
    assert_eq!((vcpu.context().cr4, vcpu.registers().cr4), (0x6b0 | MCE, 0x6b0 | MCE));
    assert_eq!(vcpu.write_cr4(0x630), Ok(()));
    assert_eq!((vcpu.vmcb.save.cr4, vcpu.registers().cr4), (0x630 | MCE, 0x630));
    assert_ne!(vcpu.vmcb.control.tlb_control, tlb_control::NOTHING);
    assert_eq!(vcpu.vmcb.control.clean & 1 << 5, 0);
}

#[test]
fn cr4_takes_what_the_cpu_has_and_the_mode_allows() {
    let mut vcpu = vcpu();
    let refused = Err(crate::GeneralProtection);
    // VMXE, FSGSBASE that this CPU has not, PKE, a reserved bit, the upper half.
    for bit in [13, 16, 22, 15, 63] {
        assert_eq!(vcpu.write_cr4(0x6b0 | 1 << bit), refused, "bit {bit}");
    }
    assert_eq!(vcpu.write_cr4(0x690), refused, "long mode needs PAE");
    assert_eq!(vcpu.write_cr4(0x35_07ff & !(1 << 16 | 1 << 8) | 1 << 17), Ok(()));
    assert_eq!(vcpu.write_cr4(0x6b0), Ok(()));
    vcpu.vmcb.save.cr3 |= 8;
    assert_eq!(vcpu.write_cr4(0x6b0 | 1 << 17), refused, "PCIDE while CR3 has low bits");
    (vcpu.vmcb.save.cr3, vcpu.vmcb.save.efer) = (0, Efer::SVME.bits());
    assert_eq!(vcpu.write_cr4(0x6b0 | 1 << 17), refused, "PCIDE outside long mode");
    assert_eq!(vcpu.write_cr4(0), Ok(()));
}

#[test]
fn efer_hides_svme_and_follows_the_rules_of_wrmsr() {
    let mut vcpu = vcpu();
    let efer = vcpu.read_msr(msr::EFER).unwrap();
    assert_eq!(efer & Efer::SVME.bits(), 0);
    assert_eq!(vcpu.write_msr(msr::EFER, efer | Efer::SCE.bits()), Ok(()));
    assert_ne!(vcpu.vmcb.save.efer & Efer::SVME.bits(), 0, "SVME stays set");
    let fault = Err(MsrFault(msr::EFER));
    assert_eq!(vcpu.write_msr(msr::EFER, efer | Efer::SVME.bits()), fault);
    assert_eq!(vcpu.write_msr(msr::EFER, efer | 1 << 1), fault);
    assert_eq!(vcpu.write_msr(msr::EFER, efer & !Efer::LME.bits()), fault, "paging is on");
    // LMA is the CPU's: a write neither sets nor clears it.
    assert_eq!(vcpu.write_msr(msr::EFER, efer & !Efer::LMA.bits()), Ok(()));
    assert_eq!(vcpu.read_msr(msr::EFER), Ok(efer));
}

#[test]
fn long_mode_waits_for_pae_outside_the_vmcb() {
    let mut vcpu = vcpu();
    let lme = Efer::LME.bits();
    vcpu.vmcb.save.cr0 &= !Cr0::PG.bits();
    vcpu.vmcb.save.efer &= !Efer::LMA.bits();
    assert_eq!(vcpu.write_cr4(0x680), Ok(()));
    assert_eq!(vcpu.vmcb.save.efer & lme, 0, "QEMU must not see it without PAE");
    let view = vcpu.read_msr(msr::EFER).unwrap();
    assert!([view, vcpu.context().efer, vcpu.registers().efer].iter().all(|efer| efer & lme != 0));
    assert_eq!(vcpu.write_msr(msr::EFER, view & !lme), Ok(()));
    assert_eq!(vcpu.read_msr(msr::EFER), Ok(view & !lme), "the guest takes it back");
    assert_eq!(vcpu.write_msr(msr::EFER, view), Ok(()));
    assert_eq!((vcpu.vmcb.save.efer & lme, vcpu.read_msr(msr::EFER)), (0, Ok(view)));
    assert_eq!(vcpu.write_cr4(0x6a0), Ok(()));
    assert_ne!(vcpu.vmcb.save.efer & lme, 0, "with PAE it counts");
    assert_eq!(vcpu.read_msr(msr::EFER), Ok(view));
}

#[test]
fn msrs_take_what_the_cpu_would_take() {
    let mut vcpu = vcpu();
    assert_eq!(vcpu.write_msr(msr::FS_BASE, 0xffff_8000_0000_1000), Ok(()));
    assert_eq!(vcpu.context().fs_base, 0xffff_8000_0000_1000);
    let bad = 0x8000_0000_0000;
    assert_eq!(vcpu.write_msr(msr::LSTAR, bad), Err(MsrFault(msr::LSTAR)));
    assert_eq!(vcpu.write_msr(msr::PAT, 2), Err(MsrFault(msr::PAT)));
    assert_eq!(vcpu.write_msr(msr::PAT, 0x0106), Ok(()));
    assert_eq!(vcpu.read_msr(msr::PAT), Ok(0x0106));
    assert_eq!(vcpu.write_msr(msr::TSC_AUX, 7), Ok(()));
    assert_eq!(vcpu.read_msr(msr::TSC_AUX), Ok(7));
    for missing in [msr::SPEC_CTRL, msr::VIRT_SPEC_CTRL, msr::XSS] {
        assert!(vcpu.read_msr(missing).is_err() && vcpu.write_msr(missing, 0).is_err());
    }
    vcpu.features.speculation.spec_ctrl = 0b101;
    assert_eq!((vcpu.write_msr(msr::SPEC_CTRL, 4), vcpu.read_msr(msr::SPEC_CTRL)), (Ok(()), Ok(4)));
    assert!(vcpu.write_msr(msr::SPEC_CTRL, 2).is_err(), "a bit that the CPU lacks");
    assert_eq!(vcpu.read_msr(msr::VM_HSAVE_PA), Err(MsrFault(msr::VM_HSAVE_PA)));
}

#[test]
fn advancing_ends_the_shadow_and_wraps_outside_64_bit_code() {
    let mut vcpu = vcpu();
    vcpu.vmcb.control.interrupt_shadow = 1;
    vcpu.vmcb.save.rip = 0xffff_ffff;
    assert!(!vcpu.can_take_interrupt());
    vcpu.advance(2);
    assert_eq!(vcpu.rip(), 0x1_0000_0001);
    assert!(vcpu.can_take_interrupt());
    vcpu.vmcb.save.cs.attributes = 0xc9b;
    vcpu.vmcb.save.rip = 0xffff_ffff;
    vcpu.advance(2);
    assert_eq!(vcpu.rip(), 1);
}

/// The CPU leaves with this code while it delivers `event`.
fn leave(vcpu: &mut super::SvmVcpu, code: u64, event: u64) -> Exit {
    vcpu.vmcb.control.exit_code = code;
    vcpu.vmcb.control.exit_int_info = event;
    vcpu.vmcb.control.event_injection = 0;
    vcpu.finish()
}

#[test]
fn an_event_that_an_exit_cut_short_is_delivered_again() {
    let mut vcpu = vcpu();
    let interrupt = EventWord::new(EventWord::INTERRUPT, 0x41, None).0;
    assert!(matches!(leave(&mut vcpu, 0x400, interrupt), Exit::SecondStage(_)));
    assert_eq!(vcpu.vmcb.control.event_injection, interrupt);
    assert!(!vcpu.can_take_interrupt());
    let fault = EventWord::new(EventWord::EXCEPTION, 14, Some(2)).0;
    leave(&mut vcpu, 0x400, fault);
    assert_eq!(vcpu.vmcb.control.event_injection, fault);
    leave(&mut vcpu, 0x72, 0);
    assert!(vcpu.can_take_interrupt());
}

#[test]
fn a_lent_interrupt_is_due_again_unless_it_was_taken() {
    let interrupt = EventWord::new(EventWord::INTERRUPT, 0x41, None);
    let mut vcpu = vcpu();
    for (taken, cut_short) in [(false, 0), (true, 0), (true, interrupt.0), (false, interrupt.0)] {
        vcpu.vmcb.control.event_injection = 0;
        events::lend(&mut vcpu.vmcb.control, interrupt);
        let control = &mut vcpu.vmcb.control;
        assert_eq!((control.event_injection, control.virtual_interrupt_vector), (0, 0x41));
        assert_eq!(control.virtual_interrupt & 0x1f_0100, 0x1f_0100);
        assert_eq!(control.intercept3 & 1 << 4, 0, "no exit where the guest takes it");
        if taken {
            control.virtual_interrupt &= !0x100;
        }
        leave(&mut vcpu, 0x60, cut_short);
        let control = &vcpu.vmcb.control;
        let is_due = !taken || cut_short != 0;
        assert_eq!(control.event_injection, if is_due { interrupt.0 } else { 0 });
        // Both of them are due: one waits for its own window.
        let held = if !taken && cut_short != 0 { 0x1f_0100 } else { 0 };
        assert_eq!(control.virtual_interrupt & 0x100, held & 0x100);
    }
    vcpu.want_interrupt_window(Some(5));
    assert_ne!(vcpu.vmcb.control.intercept3 & 1 << 4, 0, "the window exits");
    vcpu.take_back();
    assert_ne!(vcpu.vmcb.control.virtual_interrupt & 0x100, 0, "it is the window's");
    events::lend(&mut vcpu.vmcb.control, interrupt);
    assert_eq!(vcpu.vmcb.control.event_injection, interrupt.0, "the window has the virtual one");
}

#[test]
fn what_an_instruction_raised_is_left_to_the_instruction() {
    let mut vcpu = vcpu();
    for event in [EventWord::new(4, 0x80, None), EventWord::new(EventWord::EXCEPTION, 3, None)] {
        leave(&mut vcpu, 0x400, event.0);
        assert_eq!(vcpu.vmcb.control.event_injection, 0);
    }
}

#[test]
fn a_fault_takes_precedence_over_a_redelivery() {
    let mut vcpu = vcpu();
    leave(&mut vcpu, 0x400, EventWord::new(EventWord::INTERRUPT, 0x41, None).0);
    vcpu.inject(Event::PageFault { address: 0xdead_0000, error_code: 6 });
    assert_eq!(vcpu.vmcb.control.event_injection, 0x6_8000_0b0e);
    assert_eq!(vcpu.registers().cr2, 0xdead_0000);
}

#[test]
fn an_interrupt_that_a_fault_overtakes_comes_later() {
    let mut vcpu = vcpu();
    let interrupt = EventWord::new(EventWord::INTERRUPT, 0x41, None).0;
    leave(&mut vcpu, 0x51, interrupt);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0b11, "#AC, from its exit");
    assert_eq!(vcpu.vmcb.control.virtual_interrupt & 0x1f_0100, 0x1f_0100, "a window of its own");
    // The fault's handler runs with interrupts off; the caller's window is not this one.
    vcpu.vmcb.save.rflags = 2;
    leave(&mut vcpu, 0x72, 0);
    vcpu.want_interrupt_window(None);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, 0);
    vcpu.vmcb.save.rflags = 0x202;
    assert!(!vcpu.can_take_interrupt(), "it goes before any other");
    assert_eq!(leave(&mut vcpu, 0x64, 0), Exit::Handled);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, interrupt);
    assert_eq!(vcpu.vmcb.control.virtual_interrupt & 0x1f_0100, 0);
    assert!(vcpu.waiting.is_empty());
}

#[test]
fn an_nmi_waits_behind_what_is_being_delivered() {
    let mut vcpu = vcpu();
    let interrupt = EventWord::new(EventWord::INTERRUPT, 0x41, None).0;
    leave(&mut vcpu, 0x400, interrupt);
    vcpu.inject(Event::Nmi);
    assert_eq!(vcpu.vmcb.control.event_injection, interrupt);
    leave(&mut vcpu, 0x72, 0);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0202);
    assert!(vcpu.waiting.is_empty());
}

const NMI: u64 = 0x8000_0202;
const IRET: u32 = 1 << 20;

/// The handler of an NMI has come to its IRET, and a second NMI waits.
fn at_iret() -> super::SvmVcpu {
    let mut vcpu = vcpu();
    vcpu.inject(Event::Nmi);
    assert_eq!((vcpu.vmcb.control.event_injection, vcpu.save().events.nmi_blocked), (NMI, false));
    leave(&mut vcpu, 0x72, 0);
    assert!(vcpu.save().events.nmi_blocked);
    vcpu.inject(Event::Nmi);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, 0, "the handler runs");
    assert_ne!(vcpu.vmcb.control.intercept3 & IRET, 0);
    assert_eq!(leave(&mut vcpu, 0x74, 0), Exit::Handled);
    assert_eq!(vcpu.vmcb.control.intercept3 & IRET, 0);
    vcpu
}

/// The IRET is carried out, and the single-step trap exits.
fn iret(vcpu: &mut super::SvmVcpu) -> Exit {
    vcpu.vmcb.save.rip += 0x1000;
    vcpu.vmcb.save.rflags = 0x2;
    vcpu.vmcb.save.dr6 |= 1 << 14;
    leave(vcpu, 0x41, 0)
}

#[test]
fn an_nmi_waits_for_the_iret_of_the_one_before() {
    let mut vcpu = at_iret();
    vcpu.put_overtaken();
    assert_eq!((vcpu.vmcb.control.event_injection, vcpu.vmcb.save.rflags), (0, 0x302));
    assert_eq!(iret(&mut vcpu), Exit::Handled);
    assert_eq!((vcpu.vmcb.control.event_injection, vcpu.vmcb.save.dr6), (0, 0xffff_0ff0));
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, NMI);
    assert!(vcpu.waiting.is_empty());
    assert_ne!(vcpu.vmcb.control.intercept3 & IRET, 0, "and the next waits for this one");
}

#[test]
fn a_step_that_something_forestalls_is_taken_back() {
    let mut vcpu = at_iret();
    vcpu.put_overtaken();
    assert_eq!(leave(&mut vcpu, 0x60, 0), Exit::ExternalInterrupt);
    assert_eq!(vcpu.vmcb.save.rflags, 0x202);
    assert_ne!(vcpu.vmcb.control.intercept3 & IRET, 0);
    // An interrupt goes in before IRET: no step, or the handler would see TF.
    vcpu.inject(Event::Interrupt(0x41));
    vcpu.put_overtaken();
    assert_eq!((vcpu.vmcb.control.event_injection, vcpu.vmcb.save.rflags), (0x8000_0041, 0x202));
    assert_eq!(leave(&mut vcpu, 0x74, 0), Exit::Handled);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.save.rflags, 0x302);
}

#[test]
fn a_step_of_the_guests_own_reaches_it_before_the_nmi() {
    let mut vcpu = at_iret();
    vcpu.set_rflags(0x102);
    vcpu.put_overtaken();
    assert_eq!(iret(&mut vcpu), Exit::Handled);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0301);
    assert_eq!(vcpu.vmcb.save.dr6, 0xffff_4ff0);
    leave(&mut vcpu, 0x72, 0);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, NMI);
}

#[test]
fn an_nmi_that_comes_after_iret_does_not_wait() {
    let mut vcpu = vcpu();
    vcpu.inject(Event::Nmi);
    leave(&mut vcpu, 0x72, 0);
    leave(&mut vcpu, 0x74, 0);
    assert!(vcpu.save().events.nmi_blocked, "it is yet to be carried out");
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.save.rflags, 0x202, "no NMI waits");
    vcpu.vmcb.save.rip += 0x1000;
    leave(&mut vcpu, 0x72, 0);
    assert!(!vcpu.save().events.nmi_blocked);
    vcpu.inject(Event::Nmi);
    assert_eq!(vcpu.vmcb.control.event_injection, NMI);
}

#[test]
fn an_nmi_that_a_fault_overtakes_comes_next() {
    let mut vcpu = vcpu();
    leave(&mut vcpu, 0x51, NMI);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0b11);
    leave(&mut vcpu, 0x72, 0);
    vcpu.put_overtaken();
    assert_eq!(vcpu.vmcb.control.event_injection, NMI);
}

#[test]
fn that_nmis_are_blocked_goes_to_another_virtual_cpu() {
    let mut vcpu = vcpu();
    vcpu.inject(Event::Nmi);
    leave(&mut vcpu, 0x72, 0);
    vcpu.inject(Event::Nmi);
    let state = vcpu.save();
    assert!(state.events.nmi && state.events.nmi_blocked);
    let mut other = self::vcpu();
    other.restore(&state).unwrap();
    other.put_overtaken();
    assert_eq!(other.vmcb.control.event_injection, 0);
    other.set_registers(&long_mode());
    assert_eq!(other.vmcb.control.intercept3 & IRET, 0, "a reset ends it");
}

#[test]
fn an_emulated_instruction_ends_with_the_single_step_trap() {
    let mut vcpu = vcpu();
    vcpu.advance(2);
    assert_eq!(vcpu.vmcb.control.event_injection, 0);
    vcpu.set_rflags(0x302);
    leave(&mut vcpu, 0x72, 0);
    vcpu.advance(2);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0301);
    assert_eq!(vcpu.vmcb.save.dr6, 0xffff_4ff0);
    assert!(!vcpu.can_take_interrupt(), "the trap comes first");
}

#[test]
fn setting_the_flags_leaves_everything_else() {
    let mut vcpu = vcpu();
    leave(&mut vcpu, 0x72, 0);
    vcpu.inject(Event::Interrupt(0x41));
    vcpu.set_rflags(0x40);
    assert_eq!((vcpu.rflags(), vcpu.context().rflags), (0x42, 0x42));
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0041);
    assert_eq!(vcpu.vmcb.control.tlb_control, tlb_control::NOTHING);
}

#[test]
fn exceptions_that_kerf_only_watches_reach_the_guest() {
    let mut vcpu = vcpu();
    assert_eq!(leave(&mut vcpu, 0x41, 0), Exit::Handled);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0301);
    assert_eq!(leave(&mut vcpu, 0x51, 0), Exit::Handled);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0b11);
    assert_eq!(leave(&mut vcpu, 0x6f, 0), Exit::Handled);
    assert_eq!(vcpu.vmcb.control.event_injection, 0x8000_0b0d);
}

#[test]
fn the_window_is_a_virtual_interrupt_of_the_class_that_waits() {
    let mut vcpu = vcpu();
    vcpu.set_task_priority(9);
    let before = vcpu.vmcb.control.virtual_interrupt;
    assert_eq!(before & VirtualInterrupt::MASKING.bits(), VirtualInterrupt::MASKING.bits());
    vcpu.want_interrupt_window(Some(12));
    assert_eq!(vcpu.vmcb.control.virtual_interrupt, before | 0x000c_0100);
    assert_eq!(leave(&mut vcpu, 0x64, 0), Exit::InterruptWindow);
    vcpu.want_interrupt_window(Some(10));
    assert_eq!(vcpu.vmcb.control.virtual_interrupt, before | 0x000a_0100);
    assert_eq!(vcpu.task_priority(), Some(9));
    vcpu.want_interrupt_window(None);
    assert_eq!(vcpu.vmcb.control.virtual_interrupt, before);
}

#[test]
fn a_cpu_that_takes_an_interrupt_of_the_tasks_own_priority_is_asked_for_less() {
    let mut vcpu = vcpu();
    vcpu.set_task_priority(9);
    vcpu.want_interrupt_window(Some(9));
    assert_eq!(vcpu.vmcb.control.virtual_interrupt & 0x1f_010f, 0x9_0109);
    assert_eq!(leave(&mut vcpu, 0x64, 0), Exit::Handled, "the caller could do nothing with it");
    assert_eq!(vcpu.vmcb.control.virtual_interrupt & 0x1f_010f, 0x8_0109);
    vcpu.set_task_priority(8);
    assert_eq!(leave(&mut vcpu, 0x64, 0), Exit::InterruptWindow);
}

#[test]
fn clean_bits_say_what_was_changed_and_only_where_they_are_offered() {
    let mut vcpu = vcpu();
    leave(&mut vcpu, 0x72, 0);
    assert_eq!(vcpu.vmcb.control.clean, 0);
    let mut vcpu = vcpu_on(&Cpu::qemu().with(0x8000_000a, |leaf| leaf.edx |= 1 << 5 | 1 << 6));
    leave(&mut vcpu, 0x72, 0);
    assert_eq!(vcpu.vmcb.control.tlb_control, tlb_control::NOTHING);
    assert_eq!(vcpu.vmcb.control.clean, u32::MAX);
    vcpu.set_task_priority(3);
    assert_eq!(vcpu.vmcb.control.clean, !(1 << 3));
    vcpu.inject(Event::PageFault { address: 0, error_code: 0 });
    assert_eq!(vcpu.vmcb.control.clean, !(1 << 3 | 1 << 9));
    vcpu.flush_translations();
    assert_eq!(vcpu.vmcb.control.tlb_control, tlb_control::FLUSH_ASID);
}

#[test]
fn a_length_is_given_where_the_cpu_offers_it() {
    let set = |vcpu: &mut super::SvmVcpu, code, info2| {
        vcpu.vmcb.control.exit_info2 = info2;
        vcpu.vmcb.control.next_rip = 0x10_0002;
        leave(vcpu, code, 0);
    };
    let mut plain = vcpu();
    set(&mut plain, 0x72, 0);
    assert_eq!(plain.instruction_len(), None);
    set(&mut plain, 0x7b, 0x10_0001);
    assert_eq!(plain.instruction_len(), Some(1));
    let cpu = Cpu::qemu().with(0x8000_000a, |leaf| leaf.edx |= 1 << 3 | 1 << 7);
    let mut assisted = vcpu_on(&cpu);
    set(&mut assisted, 0x72, 0);
    assert_eq!(assisted.instruction_len(), Some(2));
    assert!(assisted.instruction_bytes().is_empty());
    assisted.vmcb.control.instruction_len = 3;
    assisted.vmcb.control.instruction_bytes[..3].copy_from_slice(&[0x8b, 0x04, 0x24]);
    set(&mut assisted, 0x400, 0);
    assert_eq!(assisted.instruction_bytes(), [0x8b, 0x04, 0x24]);
    assisted.vmcb.control.instruction_len = 99;
    assert!(assisted.instruction_bytes().is_empty(), "no more than there is room for");
}

#[test]
fn a_refused_entry_names_the_rule() {
    type Break = fn(&mut Vmcb);
    let breaks: [(Break, &str); 13] = [
        (|vmcb| vmcb.save.efer &= !Efer::SVME.bits(), "EFER.SVME is zero"),
        (|vmcb| vmcb.save.cr0 |= Cr0::NW.bits(), "CR0.CD is zero and CR0.NW is set"),
        (|vmcb| vmcb.save.cr0 |= 1 << 32, "CR0[63:32]"),
        (|vmcb| vmcb.save.cr3 |= 1 << 40, "CR3 holds an address wider"),
        (|vmcb| vmcb.save.dr6 |= 1 << 32, "DR6[63:32]"),
        (|vmcb| vmcb.save.dr7 |= 1 << 63, "DR7[63:32]"),
        (|vmcb| vmcb.save.efer |= 1 << 1, "reserved bits of EFER"),
        (|vmcb| vmcb.save.cr4 &= !(1 << 5), "CR4.PAE is zero"),
        (|vmcb| vmcb.save.cr0 &= !1, "CR0.PE is zero"),
        (|vmcb| vmcb.save.cs.attributes |= 1 << 10, "CS.L and CS.D"),
        (|vmcb| vmcb.control.intercept4 &= !1, "the VMRUN intercept"),
        (|vmcb| vmcb.control.guest_asid = 0, "ASID is zero"),
        (|vmcb| vmcb.save.g_pat = 2, "G_PAT"),
    ];
    for (change, rule) in breaks {
        let mut vcpu = vcpu();
        change(&mut vcpu.vmcb);
        let Exit::EntryFailed(EntryFailure::Rule(named)) = leave(&mut vcpu, u64::MAX, 0) else {
            panic!("no rule for {rule}");
        };
        assert!(named.starts_with(rule) || named.contains(rule), "{named} for {rule}");
    }
    let failed = Exit::EntryFailed(EntryFailure::Code(u64::MAX));
    assert_eq!(leave(&mut vcpu(), u64::MAX, 0), failed);
}

#[test]
fn an_illegal_event_is_a_broken_rule() {
    for event in [0x8000_0102, 0x8000_0302, 0x8000_0320, 0x8000_0500] {
        let mut vcpu = vcpu();
        vcpu.vmcb.control.event_injection = event;
        let rule = checks::broken_rule(&vcpu.vmcb, 40);
        assert_eq!(rule, Some("EVENTINJ is illegal (APM 15.20)"), "{event:#x}");
    }
}

#[test]
fn a_state_goes_to_another_virtual_cpu() {
    let mut vcpu = vcpu();
    vcpu.set_gpr(crate::Gpr::R9, 99);
    vcpu.write_msr(msr::LSTAR, 0xffff_8000_0000_0000).unwrap();
    vcpu.write_msr(msr::PAT, 0x0606_0606_0606_0606).unwrap();
    vcpu.inject(Event::Interrupt(0x40));
    vcpu.inject(Event::PageFault { address: 0x123, error_code: 2 });
    vcpu.vmcb.control.interrupt_shadow = 1;
    let state = vcpu.save();
    assert_eq!((state.events.first, state.events.overtaken), (0x2_8000_0b0e, 0x8000_0040));
    let mut other = self::vcpu();
    assert_eq!(other.restore(&state), Ok(()));
    assert_eq!(other.save(), state);
    assert!(!other.can_take_interrupt());
    // An interrupt by INT n happens again by itself.
    let software = crate::Events { first: 0x8000_0480, first_len: 2, ..state.events };
    other.restore(&crate::VcpuState { events: software, ..state.clone() }).unwrap();
    assert_eq!(other.save().events.first, 0);
    let mut bad = state;
    bad.msrs[0] = 2;
    assert_eq!(other.restore(&bad), Err(crate::StateError::Msr(msr::PAT)));
}

#[test]
fn a_view_is_taken_with_a_flush() {
    let mut vcpu = vcpu();
    vcpu.finish();
    assert_eq!(vcpu.vmcb.control.tlb_control, 0);
    vcpu.set_second_stage(Hpa::new(0x9000));
    assert_eq!((vcpu.vmcb.control.n_cr3, vcpu.vmcb.control.tlb_control), (0x9000, 1));
}
