//! A virtual CPU's state, saved and taken up again.

use proptest::prelude::*;
use vcpu::{Event, Exit, StateError};
use x86_spec::msr;

use super::bench::Bench;
use crate::{CoreState, Outcome};

const TIMER_VECTOR: u64 = 0xec;

fn write(bench: &mut Bench, msr: u32, value: u64) {
    let exit = Exit::MsrWrite { msr: hw::Msr(msr), value };
    assert_eq!(bench.exit(exit), Outcome::Resume);
    assert_eq!(bench.vcpu.pending, None);
}

/// In x2APIC mode, with a deadline at 2,000,000, an interrupt in service, one requested, and the clock on.
fn busy() -> Bench {
    let mut bench = Bench::new();
    write(&mut bench, msr::APIC_BASE.0, 0xfee0_0d00);
    write(&mut bench, 0x80f, 0x1ff);
    write(&mut bench, 0x832, 2 << 17 | TIMER_VECTOR);
    write(&mut bench, msr::TSC_DEADLINE.0, 2_000_000);
    write(&mut bench, 0x4b56_4d01, 0x1001);
    write(&mut bench, 0x83f, 0x61);
    let _ = bench.exit(Exit::Handled);
    write(&mut bench, 0x83f, 0x62);
    bench
}

#[test]
fn a_restored_cpu_goes_on_where_it_was() {
    let mut bench = busy();
    let state = bench.core.save(&bench.vm, &mut bench.vcpu);
    let bytes = state.to_bytes();
    let state = CoreState::from_bytes(&bytes).unwrap();
    bench.vm.reset(bench.vm.tsc_offset());
    bench.core = bench.vm.core(0);
    bench.core.restore(&state, &bench.vm).unwrap();
    assert_eq!(bench.core.save(&bench.vm, &mut bench.vcpu), state);
    bench.vcpu.delivered.clear();
    bench.prepare();
    assert_eq!(bench.deadline, Some(2_001_000));
    let _ = bench.exit(Exit::Handled);
    assert_eq!(bench.vcpu.delivered, [], "0x62 waits for the end of 0x61");
    write(&mut bench, 0x80b, 0);
    let _ = bench.exit(Exit::Handled);
    assert_eq!(bench.vcpu.delivered, [Event::Interrupt(0x62)]);
    bench.host.tsc.set(2_001_000);
    let _ = bench.exit(Exit::ExternalInterrupt);
    let _ = bench.exit(Exit::Handled);
    assert_eq!(bench.vcpu.delivered[1], Event::Interrupt(TIMER_VECTOR as u8));
}

#[test]
fn what_was_sent_is_saved_too() {
    let mut bench = Bench::with_cpus(2);
    assert_eq!(bench.exit(Exit::Halt), Outcome::Wait);
    bench.vm.console_ready();
    let state = bench.core.save(&bench.vm, &mut bench.vcpu);
    assert!(!bench.vm.attention(0));
    bench.core.restore(&state, &bench.vm).unwrap();
    bench.prepare();
    assert!(bench.is_halted);
}

#[test]
fn the_state_of_another_cpu_or_version_is_refused() {
    let mut bench = Bench::with_cpus(2);
    let state = bench.core.save(&bench.vm, &mut bench.vcpu);
    assert_eq!(bench.vm.core(1).restore(&state, &bench.vm), Err(StateError::Value("index")));
    let bytes = state.to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        CoreState::from_bytes(&bytes)
    };
    assert_eq!(with(0, 0), Err(StateError::NotAState));
    assert_eq!(with(4, 9), Err(StateError::Version(9)));
    assert_eq!(with(16, 4), Err(StateError::Value("activity")));
    assert_eq!(CoreState::from_bytes(&bytes[1..]), Err(StateError::NotAState));
    assert_eq!(CoreState::from_bytes(&bytes[..40]), Err(StateError::Length));
    assert_eq!(CoreState::from_bytes(&[&bytes[..], &[0]].concat()), Err(StateError::Length));
    // Words 3, 6 and 21: x2APIC mode of an APIC that is off, a DFR with bits clear that are always set, and a vector that
    // no interrupt has.
    for (at, byte) in [(3 * 8 + 1, 4), (6 * 8, 0), (21 * 8, 1)] {
        let state = with(at, byte).unwrap();
        let refused = bench.core.restore(&state, &bench.vm);
        assert_eq!(refused, Err(StateError::Value("local APIC")), "{at}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(changes in proptest::collection::vec((0_usize..280, any::<u8>()), 0..40)) {
        let mut bench = busy();
        let mut bytes = bench.core.save(&bench.vm, &mut bench.vcpu).to_bytes();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        if let Ok(state) = CoreState::from_bytes(&bytes)
            && bench.core.restore(&state, &bench.vm).is_ok()
        {
            prop_assert_eq!(bench.core.save(&bench.vm, &mut bench.vcpu), state);
            bench.prepare();
            let _ = bench.exit(Exit::Handled);
        }
    }
}
