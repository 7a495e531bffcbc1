//! The local APIC, register by register and interrupt by interrupt.

use hw::{Msr, Width};
use proptest::prelude::*;
use x86_spec::{
    apic::{ApicBase, DEFAULT_LAPIC_BASE, DeliveryMode, Icr, TimerMode, lapic as at, x2apic_msr},
    msr,
};

use super::*;

fn enabled() -> LocalApic {
    let mut apic = LocalApic::new(0, true);
    put(&mut apic, at::SVR, 0x1ff, 0);
    apic
}

fn in_x2apic_mode(id: u32) -> LocalApic {
    let mut apic = LocalApic::new(id, true);
    let base = apic.read_msr(msr::APIC_BASE, 0).unwrap();
    assert_eq!(set_base(&mut apic, base | ApicBase::EXTD.bits()), Ok(Effect::Readdressed));
    assert_eq!(apic.write_msr(x2apic_msr(at::SVR), 0x1ff, 0), Ok(Effect::Readdressed));
    apic
}

fn set_base(apic: &mut LocalApic, value: u64) -> Result<Effect, GeneralProtection> {
    apic.write_msr(msr::APIC_BASE, value, 0)
}

#[track_caller]
fn put(apic: &mut LocalApic, register: u16, value: u32, now: u64) {
    let effect = apic.write(register.into(), Width::W4, value.into(), now);
    assert!(matches!(effect, Effect::None | Effect::Readdressed), "{effect:?}");
}

fn look(apic: &mut LocalApic, register: u16, now: u64) -> u32 {
    apic.read(register.into(), Width::W4, now) as u32
}

fn fixed(destination: u32, vector: u8, level: bool) -> InterruptMessage {
    InterruptMessage { destination, logical: false, mode: DeliveryMode::Fixed, vector, level }
}

fn deliver(apic: &mut LocalApic) -> Option<u8> {
    let vector = apic.pending_vector()?;
    apic.acknowledge(vector);
    Some(vector)
}

#[test]
fn a_disabled_apic_takes_no_fixed_interrupt() {
    let mut apic = LocalApic::new(0, true);
    assert!(apic.accept(fixed(0, 0x40, false)));
    assert_eq!(apic.pending_vector(), None);
}

#[test]
fn a_higher_class_preempts_and_a_lower_waits_for_the_end() {
    let mut apic = enabled();
    apic.accept(fixed(0, 0x41, false));
    assert_eq!(deliver(&mut apic), Some(0x41));
    apic.accept(fixed(0, 0x4f, false));
    assert_eq!(deliver(&mut apic), None, "same class");
    apic.accept(fixed(0, 0x51, false));
    assert_eq!(deliver(&mut apic), Some(0x51));
    assert_eq!(look(&mut apic, at::PPR, 0), 0x50);
    put(&mut apic, at::EOI, 0, 0);
    assert_eq!(deliver(&mut apic), None, "0x41 is still in service");
    put(&mut apic, at::EOI, 0, 0);
    assert_eq!(deliver(&mut apic), Some(0x4f));
}

#[test]
fn the_task_priority_holds_interrupts_back() {
    let mut apic = enabled();
    apic.set_task_priority_class(4).unwrap();
    assert_eq!(look(&mut apic, at::TPR, 0), 0x40);
    apic.accept(fixed(0, 0x4f, false));
    assert_eq!(apic.pending_vector(), None);
    assert_eq!(apic.awaited_vector(), Some(0x4f), "only the task priority is in its way");
    put(&mut apic, at::TPR, 0x3f, 0);
    assert_eq!(apic.task_priority_class(), 3);
    assert_eq!(apic.pending_vector(), Some(0x4f));
    assert_eq!(apic.set_task_priority_class(16), Err(GeneralProtection));
}

#[test]
fn only_the_end_of_a_level_triggered_interrupt_is_broadcast() {
    let mut apic = enabled();
    apic.accept(fixed(0, 0x60, true));
    apic.acknowledge(0x60);
    assert_eq!(look(&mut apic, at::TMR + 0x30, 0), 1);
    let effect = apic.write(at::EOI.into(), Width::W4, 0, 0);
    assert_eq!(effect, Effect::EndOfLevel { vector: 0x60 });
    apic.accept(fixed(0, 0x60, false));
    apic.acknowledge(0x60);
    put(&mut apic, at::EOI, 0, 0);
}

#[test]
fn an_illegal_vector_is_an_error_and_raises_the_error_interrupt() {
    let mut apic = enabled();
    put(&mut apic, at::LVT_ERROR, 0xfe, 0);
    apic.accept(fixed(0, 3, false));
    assert_eq!(apic.pending_vector(), Some(0xfe));
    assert_eq!(look(&mut apic, at::ESR, 0), 0, "not latched yet");
    put(&mut apic, at::ESR, 0, 0);
    assert_eq!(look(&mut apic, at::ESR, 0), Esr::RECEIVE_ILLEGAL_VECTOR.bits());
    put(&mut apic, at::ESR, 0, 0);
    assert_eq!(look(&mut apic, at::ESR, 0), 0);
}

#[test]
fn logical_destinations_follow_the_model() {
    let mut apic = enabled();
    let logical =
        |destination| InterruptMessage { logical: true, ..fixed(destination, 0x40, false) };
    put(&mut apic, at::LDR, 0x0200_0000, 0);
    assert!(apic.accept(logical(0x06)));
    assert!(!apic.accept(logical(0x01)));
    put(&mut apic, at::DFR, 0x0fff_ffff, 0);
    put(&mut apic, at::LDR, 0x3200_0000, 0);
    assert!(apic.accept(logical(0x32)));
    assert!(!apic.accept(logical(0x22)));
    assert!(apic.accept(logical(0xff)));

    let mut apic = in_x2apic_mode(0x23);
    assert_eq!(apic.read_msr(x2apic_msr(at::LDR), 0), Ok(0x2_0008));
    assert!(apic.accept(logical(0x2_000c)));
    assert!(!apic.accept(logical(0x1_0008)));
    assert!(!apic.accept(logical(0xff)));
}

#[test]
fn self_ipis_are_taken_at_once_and_others_are_handed_out() {
    let mut apic = enabled();
    put(&mut apic, at::ICR_LOW, 0x0004_4031, 0);
    assert_eq!(deliver(&mut apic), Some(0x31));
    put(&mut apic, at::ICR_HIGH, 0, 0);
    put(&mut apic, at::ICR_LOW, 0x4042, 0);
    assert_eq!(deliver(&mut apic), Some(0x42));
    put(&mut apic, at::ICR_HIGH, 0x0300_0000, 0);
    let effect = apic.write(at::ICR_LOW.into(), Width::W4, 0x4043, 0);
    assert_eq!(effect, Effect::Send { message: fixed(3, 0x43, false), broadcast: false });
    let effect = apic.write(at::ICR_LOW.into(), Width::W4, 0x000c_4044, 0);
    assert!(matches!(effect, Effect::Send { broadcast: true, .. }));
    assert_eq!(apic.awaited_vector(), None);
    assert_eq!(look(&mut apic, at::ICR_LOW, 0) & Icr::DELIVERY_STATUS as u32, 0);
}

#[test]
fn x2apic_self_ipi_and_end() {
    let mut apic = in_x2apic_mode(0);
    apic.write_msr(x2apic_msr(at::SELF_IPI), 0x77, 0).map(|_| ()).unwrap();
    assert_eq!(deliver(&mut apic), Some(0x77));
    assert_eq!(apic.write_msr(x2apic_msr(at::EOI), 1, 0), Err(GeneralProtection));
    assert_eq!(apic.write_msr(x2apic_msr(at::EOI), 0, 0), Ok(Effect::None));
    assert_eq!(apic.read_msr(x2apic_msr(at::ISR + 0x30), 0), Ok(0));
}

#[test]
fn nmi_is_taken_once() {
    let mut apic = enabled();
    apic.accept(InterruptMessage { mode: DeliveryMode::Nmi, ..fixed(0, 0, false) });
    assert!(apic.take_nmi());
    assert!(!apic.take_nmi());
}

#[test]
fn a_one_shot_fires_once_and_counts_down() {
    let mut apic = enabled();
    put(&mut apic, at::TIMER_DIVIDE, 0b0011, 0);
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0x30, TimerMode::OneShot).0, 0);
    put(&mut apic, at::TIMER_INITIAL, 1000, 5000);
    assert_eq!(apic.deadline(), Some(21_000));
    assert_eq!(look(&mut apic, at::TIMER_CURRENT, 5000), 1000);
    assert_eq!(look(&mut apic, at::TIMER_CURRENT, 13_000), 500);
    apic.poll(20_999);
    assert_eq!(apic.pending_vector(), None);
    apic.poll(21_000);
    assert_eq!(deliver(&mut apic), Some(0x30));
    assert_eq!(apic.deadline(), None);
    assert_eq!(look(&mut apic, at::TIMER_CURRENT, 30_000), 0);
}

#[test]
fn a_periodic_timer_keeps_its_phase_when_polled_late() {
    let mut apic = enabled();
    put(&mut apic, at::TIMER_DIVIDE, 0b1011, 0);
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0x30, TimerMode::Periodic).0, 0);
    put(&mut apic, at::TIMER_INITIAL, 100, 0);
    apic.poll(350);
    assert_eq!(apic.deadline(), Some(400));
    assert_eq!(deliver(&mut apic), Some(0x30));
    assert_eq!(look(&mut apic, at::TIMER_CURRENT, 360), 40);
    put(&mut apic, at::TIMER_INITIAL, 0, 370);
    assert_eq!(apic.deadline(), None);
}

#[test]
fn a_new_divisor_applies_to_what_is_left() {
    let mut apic = enabled();
    put(&mut apic, at::TIMER_DIVIDE, 0b1011, 0);
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0x30, TimerMode::OneShot).0, 0);
    put(&mut apic, at::TIMER_INITIAL, 100, 0);
    put(&mut apic, at::TIMER_DIVIDE, 0b0000, 60);
    assert_eq!(apic.deadline(), Some(140));
}

#[test]
fn the_tsc_deadline_reads_zero_once_it_fired() {
    let mut apic = enabled();
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0xec, TimerMode::TscDeadline).0, 0);
    put(&mut apic, at::TIMER_INITIAL, 7, 0);
    assert_eq!(apic.deadline(), None, "the count registers are idle in this mode");
    assert_eq!(apic.write_msr(msr::TSC_DEADLINE, 900, 100), Ok(Effect::None));
    assert_eq!(apic.deadline(), Some(900));
    assert_eq!(apic.read_msr(msr::TSC_DEADLINE, 899), Ok(900));
    assert_eq!(apic.read_msr(msr::TSC_DEADLINE, 900), Ok(0));
    assert_eq!(deliver(&mut apic), Some(0xec));
    assert_eq!(apic.write_msr(msr::TSC_DEADLINE, 1, 1000), Ok(Effect::None));
    put(&mut apic, at::EOI, 0, 0);
    assert_eq!(apic.pending_vector(), Some(0xec), "a deadline in the past fires at once");
}

#[test]
fn leaving_deadline_mode_disarms_it() {
    let mut apic = enabled();
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0xec, TimerMode::TscDeadline).0, 0);
    assert_eq!(apic.write_msr(msr::TSC_DEADLINE, 900, 100), Ok(Effect::None));
    put(&mut apic, at::LVT_TIMER, Lvt::timer(0xec, TimerMode::OneShot).0, 100);
    assert_eq!(apic.deadline(), None);
    assert_eq!(apic.write_msr(msr::TSC_DEADLINE, 900, 100), Ok(Effect::None));
    assert_eq!(apic.read_msr(msr::TSC_DEADLINE, 100), Ok(0));
}

#[test]
fn what_expired_while_masked_does_not_fire_when_unmasked() {
    let mut apic = enabled();
    let entry = Lvt::timer(0x30, TimerMode::OneShot).0;
    put(&mut apic, at::LVT_TIMER, entry | Lvt::MASKED, 0);
    put(&mut apic, at::TIMER_INITIAL, 10, 0);
    put(&mut apic, at::LVT_TIMER, entry, 1000);
    apic.poll(2000);
    assert_eq!(apic.awaited_vector(), None);
}

#[test]
fn software_disable_masks_the_local_vectors() {
    let mut apic = enabled();
    put(&mut apic, at::LVT_LINT0, 0x700, 0);
    put(&mut apic, at::SVR, 0xff, 0);
    assert_eq!(look(&mut apic, at::LVT_LINT0, 0), 0x700 | Lvt::MASKED);
    put(&mut apic, at::LVT_LINT0, 0x700, 0);
    assert_eq!(look(&mut apic, at::LVT_LINT0, 0), 0x700 | Lvt::MASKED);
}

#[test]
fn mode_transitions_that_the_manual_forbids_fault() {
    let off = DEFAULT_LAPIC_BASE;
    let xapic = off | ApicBase::EN.bits();
    let x2apic = xapic | ApicBase::EXTD.bits();
    let mut apic = LocalApic::new(0, true);
    assert_eq!(set_base(&mut apic, off | ApicBase::EXTD.bits()), Err(GeneralProtection));
    assert_eq!(set_base(&mut apic, xapic | 1), Err(GeneralProtection));
    assert!(set_base(&mut apic, x2apic).is_ok());
    assert_eq!(apic.page(), None);
    assert_eq!(set_base(&mut apic, xapic), Err(GeneralProtection));
    assert!(set_base(&mut apic, off).is_ok());
    assert_eq!(set_base(&mut apic, x2apic), Err(GeneralProtection));
    assert!(set_base(&mut apic, xapic).is_ok());
    assert_eq!(apic.page(), Some(Gpa::new(DEFAULT_LAPIC_BASE)));
    assert_eq!(apic.read_msr(msr::APIC_BASE, 0), Ok(xapic | ApicBase::BSP.bits()));
}

#[test]
fn x2apic_registers_do_not_exist_in_xapic_mode_and_the_page_not_in_x2apic_mode() {
    let mut apic = enabled();
    assert_eq!(apic.read_msr(x2apic_msr(at::ID), 0), Err(GeneralProtection));
    let mut apic = in_x2apic_mode(0x105);
    assert_eq!(apic.read_msr(x2apic_msr(at::ID), 0), Ok(0x105));
    assert_eq!(look(&mut apic, at::VERSION, 0), 0);
    for register in [at::DFR, at::ICR_HIGH, at::EOI, at::SELF_IPI, at::APR, at::LVT_CMCI] {
        assert_eq!(apic.read_msr(x2apic_msr(register), 0), Err(GeneralProtection));
    }
    for register in [at::ID, at::VERSION, at::LDR, at::ISR, at::TIMER_CURRENT, at::PPR] {
        assert_eq!(apic.write_msr(x2apic_msr(register), 0, 0), Err(GeneralProtection));
    }
    assert_eq!(apic.write_msr(x2apic_msr(at::TPR), 0x100, 0), Err(GeneralProtection));
}

proptest! {
    #[test]
    fn no_access_panics(
        start_in_x2apic: bool,
        accesses in proptest::collection::vec(
            (0_u8..4, any::<u64>(), 0_u64..0x1000, 0_u32..4, any::<u64>()), 0..200),
    ) {
        let mut apic = if start_in_x2apic { in_x2apic_mode(7) } else { enabled() };
        for (kind, value, offset, width, now) in accesses {
            let width = Width::try_new(1 << width).unwrap();
            let number = Msr(0x800 + (offset >> 4) as u32);
            match kind {
                0 => { apic.read(offset, width, now); }
                1 => { let _ = apic.write(offset, width, value, now); }
                2 => { let _ = apic.write_msr(number, value, now); }
                _ => { let _ = apic.read_msr(number, now); }
            }
            if let Some(vector) = apic.pending_vector() {
                prop_assert!(vector >= 16);
                apic.acknowledge(vector);
                prop_assert_eq!(apic.pending_vector(), None);
            }
            apic.poll(now);
        }
    }
}
