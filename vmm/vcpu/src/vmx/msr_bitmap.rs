//! Which MSRs the guest reaches without an exit (SDM vol. 3, 25.6.9). Pure.

use hw::Msr;
use x86_spec::msr;

use crate::Speculation;

/// A register that passes.
#[derive(Clone, Copy)]
struct Passed {
    msr: Msr,
    read: bool,
    write: bool,
}

const fn both(msr: Msr) -> Passed {
    Passed { msr, read: true, write: true }
}

/// All others exit. Each of these is either in the VMCS, so that entries and exits switch it, or among
/// [`super::vcpu::HELD`], which are switched when the virtual CPU on a CPU changes.
const PASSED: &[Passed] = &[
    // The CPU adds the guest's offset. A write would move the host's time.
    Passed { msr: msr::TSC, read: true, write: false },
    both(msr::SYSENTER_CS),
    both(msr::SYSENTER_ESP),
    both(msr::SYSENTER_EIP),
    both(msr::STAR),
    both(msr::LSTAR),
    both(msr::CSTAR),
    both(msr::SFMASK),
    both(msr::FS_BASE),
    both(msr::GS_BASE),
    both(msr::KERNEL_GS_BASE),
    both(msr::TSC_AUX),
];

const fn command(msr: Msr) -> Passed {
    Passed { msr, read: false, write: true }
}

/// Likewise, where the CPU has them.
fn controls(has: &Speculation) -> impl Iterator<Item = Passed> {
    let all = [
        (has.spec_ctrl != 0, both(msr::SPEC_CTRL)),
        (has.pred_cmd, command(msr::PRED_CMD)),
        (has.flush_cmd, command(msr::FLUSH_CMD)),
    ];
    all.into_iter().filter_map(|(has, passed)| has.then_some(passed))
}

/// Word `index` (0 to 511) of the page: four bitmaps of 1 KiB, reads of low and of high MSRs, then writes; a bit set
/// exits.
pub(super) fn word(index: usize, speculation: &Speculation) -> u64 {
    let mut word = u64::MAX;
    for passed in PASSED.iter().copied().chain(controls(speculation)) {
        let (half, low) = match passed.msr.0 {
            number @ 0..0x2000 => (0, number),
            number => (1, number & 0x1fff),
        };
        let at = low as usize / 64;
        let read = passed.read && index == half * 128 + at;
        let write = passed.write && index == 256 + half * 128 + at;
        if read || write {
            word &= !(1 << (low % 64));
        }
    }
    word
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exits(msr: Msr, write: bool) -> bool {
        let byte = usize::from(write) * 2048 + usize::from(msr.0 >= 0xc000_0000) * 1024;
        let bit = byte * 8 + (msr.0 & 0x1fff) as usize;
        word(bit / 64, &Speculation::NONE) & 1 << (bit % 64) != 0
    }

    #[test]
    fn only_switched_registers_pass() {
        for msr in [msr::LSTAR, msr::FS_BASE, msr::SYSENTER_EIP, msr::KERNEL_GS_BASE] {
            assert!(!exits(msr, false) && !exits(msr, true), "{msr:?}");
        }
        for msr in [msr::EFER, msr::PAT, msr::APIC_BASE, msr::XSS, msr::X2APIC_BASE, Msr(0)] {
            assert!(exits(msr, false) && exits(msr, true), "{msr:?}");
        }
        assert!(!exits(msr::TSC, false) && exits(msr::TSC, true));
    }

    #[test]
    fn the_rest_of_the_page_is_set() {
        let passing = |has| (0..512).map(|index| word(index, &has).count_zeros()).sum::<u32>();
        assert_eq!(passing(Speculation::NONE), 11 * 2 + 1);
        let spec_ctrl = Speculation { spec_ctrl: 1, ..Speculation::NONE };
        assert_eq!(passing(spec_ctrl), 12 * 2 + 1);
        let commands = Speculation { pred_cmd: true, flush_cmd: true, ..Speculation::NONE };
        assert_eq!(passing(commands), 11 * 2 + 1 + 2, "no state to read");
    }
}
