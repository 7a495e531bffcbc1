//! The pure parts on a described CPU: what is missing is named, and exits decode.

mod decode;

use std::collections::BTreeMap;

use hw::{CpuidBus, CpuidResult, Hpa, Msr, MsrBus, MsrFault};
use x86_spec::msr;
use x86_spec::segment::{DescriptorTable, Segment};
use x86_spec::vmx::capability;
use x86_spec::vmx::control::{EntryControls, Primary, Secondary, ept_pointer};
use x86_spec::vmx::field::{control, guest, host};

use super::capabilities::Capabilities;
use super::controls::Controls;
use super::fields::{Fields, FieldsMut, TestFields};
use super::setup::{self, Environment, HostState};
use super::{Vmx, checks};
use crate::{Backend, Registers, TscRatio, Unsupported};

/// A CPU as its CPUID and MSRs describe it.
#[derive(Clone)]
pub(super) struct DescribedCpu {
    pub(super) vmx: bool,
    pub(super) msrs: BTreeMap<u32, u64>,
}

impl DescribedCpu {
    /// The values that Bochs 3.0 reports for its model `arrow_lake`.
    pub(super) fn recorded() -> Self {
        let msrs = [
            (0x3a, 0),
            (0x480, 0x01d8_1000_0000_0004),
            (0x485, 0x6004_01e0),
            (0x486, 0x8000_0021),
            (0x487, 0xffff_ffff),
            (0x488, 0x2000),
            (0x489, 0x0bf7_2fff),
            (0x48b, 0x06d6_77ff_0000_0000),
            (0x48c, 0x0f01_06f3_4141),
            (0x48d, 0x00ff_0000_0016),
            (0x48e, 0xfffb_fffe_0400_6172),
            (0x48f, 0xf87f_ffff_0003_6dfb),
            (0x490, 0x0058_ffff_0000_11fb),
        ];
        Self { vmx: true, msrs: msrs.into_iter().collect() }
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        Capabilities::read(self, self).unwrap()
    }

    /// Takes bits away that a control may have.
    fn forbid(&mut self, register: Msr, bits: u32) {
        *self.msrs.get_mut(&register.0).unwrap() &= !(u64::from(bits) << 32);
    }
}

impl CpuidBus for DescribedCpu {
    fn cpuid(&self, leaf: u32, _subleaf: u32) -> CpuidResult {
        match leaf {
            0 => CpuidResult { eax: 0x1f, ..CpuidResult::default() },
            1 => CpuidResult { ecx: u32::from(self.vmx) << 5, ..CpuidResult::default() },
            0x8000_0000 => CpuidResult { eax: 0x8000_0008, ..CpuidResult::default() },
            0x8000_0001 => CpuidResult { edx: 1 << 27, ..CpuidResult::default() },
            0x8000_0008 => CpuidResult { eax: 0x3028, ..CpuidResult::default() },
            _ => CpuidResult::default(),
        }
    }
}

impl MsrBus for DescribedCpu {
    fn read(&self, msr: Msr) -> Result<u64, MsrFault> {
        self.msrs.get(&msr.0).copied().ok_or(MsrFault(msr))
    }

    fn write(&self, msr: Msr, _value: u64) -> Result<(), MsrFault> {
        panic!("probing writes {msr:?}")
    }
}

/// A guest in 64-bit mode, as a loader leaves it.
pub(super) fn long_mode() -> Registers {
    Registers {
        rip: 0x100_0000,
        rflags: 2,
        cr0: 0x8000_0011,
        cr3: 0x1000,
        cr4: 0x20,
        efer: 0x500,
        cs: Segment::flat(0x10, Segment::CODE64),
        ds: Segment::flat(0x18, Segment::DATA),
        es: Segment::flat(0x18, Segment::DATA),
        ss: Segment::flat(0x18, Segment::DATA),
        gdtr: DescriptorTable { base: 0x2000, limit: 0x1f },
        ..Registers::default()
    }
}

/// A guest in real mode, as a reset leaves it.
pub(super) fn real_mode() -> Registers {
    let data = Segment { selector: 0, base: 0, limit: 0xffff, access: 0x93 };
    Registers {
        rip: 0xfff0,
        rflags: 2,
        cr0: 0x6000_0010,
        cs: Segment { selector: 0xf000, base: 0xffff_0000, limit: 0xffff, access: 0x9b },
        ds: data,
        es: data,
        fs: data,
        gs: data,
        ss: data,
        idtr: DescriptorTable { base: 0, limit: 0xffff },
        ..Registers::default()
    }
}

/// The VMCS of a new virtual CPU, with host state and all.
pub(super) fn filled(capabilities: &Capabilities, registers: &Registers) -> TestFields {
    let mut vmcs = TestFields::default();
    let controls = Controls::plan(capabilities).unwrap();
    let environment = Environment {
        ept_pointer: ept_pointer(Hpa::new(0x20_0000), true),
        address_space: 1,
        tsc_ratio: TscRatio::ONE,
        tsc_offset: 0,
        msr_bitmap: Hpa::new(0x30_0000),
        undefined_exits: false,
    };
    setup::write_controls(&mut vmcs, &controls, &environment);
    let state = HostState {
        cr0: 0x8001_0033,
        cr3: 0x40_0000,
        cr4: 0x4_2660,
        pat: 0x0007_0406_0007_0406,
        efer: 0xd00,
        cs: 8,
        ss: 16,
        tr: 24,
        gs_base: 0xffff_8000_0000_1000,
        tr_base: 0xffff_8000_0000_2000,
        gdtr_base: 0xffff_8000_0000_3000,
        idtr_base: 0xffff_8000_0000_4000,
        ..HostState::default()
    };
    setup::write_host(&mut vmcs, &state);
    vmcs.write(host::RIP, 0xffff_8000_0010_0000);
    vmcs.write(host::RSP, 0xffff_8000_0020_0000);
    setup::write_registers(&mut vmcs, capabilities, state.cr4, registers);
    vmcs
}

#[test]
fn the_recorded_cpu_is_enough() {
    let cpu = DescribedCpu::recorded();
    assert_eq!(Vmx::probe(&cpu, &cpu), Ok(()));
}

#[test]
fn another_vendors_cpu_has_no_extension() {
    let cpu = DescribedCpu { vmx: false, ..DescribedCpu::recorded() };
    assert_eq!(Vmx::probe(&cpu, &cpu), Err(Unsupported::NoExtension));
}

#[test]
fn the_firmwares_lock_is_named() {
    let mut cpu = DescribedCpu::recorded();
    cpu.msrs.insert(msr::FEATURE_CONTROL.0, 1);
    let locked = Err(Unsupported::LockedByFirmware("IA32_FEATURE_CONTROL"));
    assert_eq!(Vmx::probe(&cpu, &cpu), locked);
    cpu.msrs.insert(msr::FEATURE_CONTROL.0, 5);
    assert_eq!(Vmx::probe(&cpu, &cpu), Ok(()));
}

#[test]
fn each_missing_control_is_named() {
    let cases = [
        (capability::TRUE_PIN_BASED, 1 << 0, "external-interrupt exiting"),
        (capability::TRUE_PIN_BASED, 1 << 5, "virtual NMIs"),
        (capability::TRUE_PRIMARY, 1 << 7, "HLT exiting"),
        (capability::TRUE_PRIMARY, 1 << 28, "use MSR bitmaps"),
        (capability::TRUE_PRIMARY, 1 << 31, "secondary processor-based controls"),
        (capability::SECONDARY, 1 << 1, "EPT"),
        (capability::SECONDARY, 1 << 7, "unrestricted guest"),
        (capability::TRUE_EXIT, 1 << 19, "load IA32_PAT on exit"),
        (capability::TRUE_EXIT, 1 << 20, "save IA32_EFER"),
        (capability::TRUE_ENTRY, 1 << 15, "load IA32_EFER on entry"),
    ];
    for (register, bit, name) in cases {
        let mut cpu = DescribedCpu::recorded();
        cpu.forbid(register, bit);
        assert_eq!(Vmx::probe(&cpu, &cpu), Err(Unsupported::Missing(name)));
    }
}

#[test]
fn each_missing_ept_capability_is_named() {
    let cases = [
        (14, "EPT tables in write-back memory"),
        (6, "EPT of four levels"),
        (16, "EPT pages of 2 MiB"),
    ];
    for (bit, name) in cases {
        let mut cpu = DescribedCpu::recorded();
        *cpu.msrs.get_mut(&capability::EPT_VPID.0).unwrap() &= !(1 << bit);
        assert_eq!(Vmx::probe(&cpu, &cpu), Err(Unsupported::Missing(name)));
    }
}

#[test]
fn a_missing_capability_register_is_named() {
    let mut cpu = DescribedCpu::recorded();
    cpu.msrs.remove(&capability::TRUE_EXIT.0);
    let missing = Err(Unsupported::Missing("IA32_VMX_TRUE_EXIT_CTLS"));
    assert_eq!(Vmx::probe(&cpu, &cpu), missing);
}

#[test]
fn optional_controls_are_used_only_where_they_are_offered() {
    let mut cpu = DescribedCpu::recorded();
    let all = Controls::plan(&cpu.capabilities()).unwrap();
    assert!(all.secondary.contains(Secondary::ENABLE_VPID | Secondary::ENABLE_INVPCID));
    cpu.forbid(capability::SECONDARY, Secondary::ENABLE_VPID.bits());
    let less = Controls::plan(&cpu.capabilities()).unwrap();
    assert_eq!(less.secondary, all.secondary - Secondary::ENABLE_VPID);
}

#[test]
fn the_preemption_timer_counts_only_where_vt_x_is_emulated() {
    const DUAL_MONITOR: u64 = 1 << 49;
    let timer = |cpu: &DescribedCpu| {
        let vmcs = filled(&cpu.capabilities(), &long_mode());
        let counts = vmcs.read(control::PIN_BASED) & 1 << 6 != 0;
        let is_saved = vmcs.read(control::EXIT) & 1 << 22 != 0;
        assert_eq!(checks::check(&vmcs, &cpu.capabilities()), Ok(()));
        // A count of 0 would end the guest at once.
        (counts && vmcs.read(guest::PREEMPTION_TIMER) != 0, is_saved)
    };
    let emulated = DescribedCpu::recorded();
    assert_eq!(timer(&emulated), (true, true));
    for (register, bit) in [(capability::TRUE_PIN_BASED, 1 << 6), (capability::TRUE_EXIT, 1 << 22)]
    {
        let mut cpu = emulated.clone();
        cpu.forbid(register, bit);
        assert_eq!(timer(&cpu), (false, false), "a count that is not saved starts anew each time");
    }
    let mut physical = emulated;
    *physical.msrs.get_mut(&capability::BASIC.0).unwrap() |= DUAL_MONITOR;
    assert_eq!(timer(&physical), (false, false));
}

#[test]
fn planned_controls_are_allowed_and_cost_no_needless_exits() {
    let capabilities = DescribedCpu::recorded().capabilities();
    let controls = Controls::plan(&capabilities).unwrap();
    assert!(capabilities.pin_based.permits(controls.pin_based.bits()));
    assert!(capabilities.primary.permits(controls.primary.bits()));
    assert!(capabilities.secondary.permits(controls.secondary.bits()));
    assert!(capabilities.exit.permits(controls.exit.bits()));
    assert!(capabilities.entry.permits(controls.entry.bits()));
    let hot = Primary::RDTSC_EXITING
        | Primary::PAUSE_EXITING
        | Primary::CR3_LOAD_EXITING
        | Primary::CR3_STORE_EXITING
        | Primary::INVLPG_EXITING
        | Primary::MOV_DR_EXITING;
    assert!(!controls.primary.intersects(hot));
    assert!(!controls.entry.contains(EntryControls::IA32E_MODE_GUEST));
}

#[test]
fn registers_come_back_as_they_were_given() {
    let capabilities = DescribedCpu::recorded().capabilities();
    let given = Registers { cr0: 0xe000_0031, cr4: 0x60, dr7: 0x400, ..long_mode() };
    let vmcs = filled(&capabilities, &given);
    let got = setup::read_registers(&vmcs);
    assert_eq!((got.cr0, got.cr3, got.cr4), (given.cr0, given.cr3, given.cr4));
    assert_eq!((got.rip, got.rflags, got.efer, got.dr7), (given.rip, 2, 0x500, 0x400));
    assert_eq!((got.cs, got.ss, got.gdtr), (given.cs, given.ss, given.gdtr));
    assert_eq!(got.fs.access, Segment::UNUSABLE, "given no access rights");
    assert_eq!(got.tr.access, Segment::TSS64_BUSY, "always usable");
}

#[test]
fn every_start_state_passes_the_checks() {
    let capabilities = DescribedCpu::recorded().capabilities();
    for registers in [long_mode(), real_mode(), Registers { efer: 0x100, ..real_mode() }] {
        let vmcs = filled(&capabilities, &registers);
        assert_eq!(checks::check(&vmcs, &capabilities), Ok(()), "{registers:x?}");
    }
}
