//! What an exit code and its two words of information mean. Pure: nothing here touches the CPU or the VMCB.

use hw::{Gpa, Msr, Port, Width};
use x86_spec::cpu::vector;
use x86_spec::svm::{MSR_WRITE, exit_code, ioio, npf};

use crate::{Access, Exit, PortIo, SecondStageFault};

/// What the CPU left behind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ExitFields {
    pub(super) code: u64,
    pub(super) info1: u64,
    pub(super) info2: u64,
    pub(super) rax: u64,
    pub(super) rcx: u64,
    pub(super) rdx: u64,
}

impl ExitFields {
    /// EDX:EAX.
    fn value(&self) -> u64 {
        self.rdx << 32 | self.rax & 0xffff_ffff
    }
}

/// What the backend itself has to do about an exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Own {
    /// Give the guest its exception: it was intercepted only so that an endless chain of them cannot hold the CPU.
    Reflect { vector: u8, error_code: Option<u32> },
    /// Raise #GP(0) in the guest.
    GeneralProtection,
    /// The handler of an NMI ends.
    Iret,
    /// Call the host's machine-check handler.
    MachineCheck,
    /// Find out whose window the virtual interrupt is.
    Window,
    /// The CPU refused the VMCB.
    Refused,
}

/// What the backend has to do about an exit; `None` where it is for the layers above, as [`decode`] says. These are apart
/// so that the frequent exits go straight into their caller's place.
#[inline]
pub(super) const fn own(code: u64) -> Option<Own> {
    const MACHINE_CHECK: u64 = exit_code::EXCEPTION + vector::MC as u64;
    const DEBUG: u64 = exit_code::EXCEPTION + vector::DB as u64;
    const ALIGNMENT: u64 = exit_code::EXCEPTION + vector::AC as u64;
    Some(match code {
        // No counter is offered.
        exit_code::RDPMC => Own::GeneralProtection,
        exit_code::IRET => Own::Iret,
        exit_code::VINTR => Own::Window,
        MACHINE_CHECK => Own::MachineCheck,
        DEBUG => Own::Reflect { vector: vector::DB, error_code: None },
        ALIGNMENT => Own::Reflect { vector: vector::AC, error_code: Some(0) },
        // Some CPUs write the low half only.
        _ if code as u32 == exit_code::INVALID as u32 => Own::Refused,
        _ => return None,
    })
}

/// The meaning of an exit.
#[inline]
pub(super) fn decode(fields: &ExitFields) -> Exit {
    const UNDEFINED: u64 = exit_code::EXCEPTION + vector::UD as u64;
    match fields.code {
        exit_code::CPUID => Exit::Cpuid,
        exit_code::VMMCALL => Exit::Hypercall,
        exit_code::HLT => Exit::Halt,
        exit_code::MSR => msr(fields),
        exit_code::IOIO => port_io(fields),
        exit_code::NPF => Exit::SecondStage(second_stage(fields.info1, fields.info2)),
        exit_code::INTR => Exit::ExternalInterrupt,
        exit_code::NMI => Exit::Nmi,
        exit_code::INIT => Exit::InitSignal,
        exit_code::SHUTDOWN => Exit::Shutdown,
        exit_code::XSETBV => Exit::Xsetbv { index: fields.rcx as u32, value: fields.value() },
        exit_code::CR4_READ | exit_code::CR4_WRITE => Exit::Cr4,
        // An SMI stays pending and is taken by the firmware as soon as GIF is set.
        exit_code::SMI => Exit::Handled,
        UNDEFINED => Exit::Undefined,
        exit_code::INVD | exit_code::WBINVD => Exit::Ignore,
        exit_code::INVLPGA
        | exit_code::MONITOR
        | exit_code::MWAIT
        | exit_code::MWAIT_ARMED
        | exit_code::VMRUN
        | exit_code::VMLOAD
        | exit_code::VMSAVE
        | exit_code::STGI
        | exit_code::CLGI
        | exit_code::SKINIT
        | exit_code::RDPRU => Exit::InvalidOpcode,
        code => Exit::Unhandled { code, detail: fields.info1 },
    }
}

fn msr(fields: &ExitFields) -> Exit {
    let msr = Msr(fields.rcx as u32);
    match fields.info1 & MSR_WRITE {
        0 => Exit::MsrRead(msr),
        _ => Exit::MsrWrite { msr, value: fields.value() },
    }
}

fn port_io(fields: &ExitFields) -> Exit {
    let detail = fields.info1;
    match port_width(detail) {
        Some(width) => Exit::PortIo(port_access(detail, width)),
        None => Exit::Unhandled { code: fields.code, detail },
    }
}

/// The width of the port access that exited, by EXITINFO1.
#[inline(always)]
pub(super) fn port_width(info: u64) -> Option<Width> {
    Width::try_new(info >> ioio::SIZE_SHIFT & 7)
}

/// Likewise the access.
#[inline(always)]
pub(super) fn port_access(info: u64, width: Width) -> PortIo {
    PortIo {
        port: Port((info >> ioio::PORT_SHIFT) as u16),
        width,
        write: info & ioio::IN == 0,
        string: info & ioio::STRING != 0,
        rep: info & ioio::REP != 0,
    }
}

/// A nested page fault, by EXITINFO1 and EXITINFO2.
#[inline]
pub(super) fn second_stage(info1: u64, info2: u64) -> SecondStageFault {
    let access = match info1 {
        info if info & npf::FETCH != 0 => Access::Execute,
        info if info & npf::WRITE != 0 => Access::Write,
        _ => Access::Read,
    };
    let during_walk = info1 & npf::GUEST_WALK != 0;
    SecondStageFault { gpa: Gpa::new(info2), gla: None, access, during_walk }
}

/// The length of the instruction at `rip` that caused an exit, where the CPU tells where the next one begins: for port
/// accesses always, else where it offers NRIPS (0 in `next_rip` otherwise).
pub(super) fn instruction_len(code: u64, rip: u64, info2: u64, next_rip: u64) -> Option<u8> {
    let next = if code == exit_code::IOIO { info2 } else { next_rip };
    if next == 0 {
        return None;
    }
    let len = match next.wrapping_sub(rip) {
        len if next > rip => len,
        // IP and EIP wrap at their own width.
        len if rip <= 0xffff => len & 0xffff,
        len => len & 0xffff_ffff,
    };
    u8::try_from(len).ok().filter(|len| (1..=15).contains(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: u64, info1: u64, info2: u64) -> Exit {
        assert_eq!(own(code), None);
        decode(&ExitFields { code, info1, info2, ..ExitFields::default() })
    }

    #[test]
    fn a_port_access_is_taken_apart() {
        // `in al, 0x71` and `rep outsw` to 0x3f8, as QEMU records them: port, then address size, size, type.
        let read =
            PortIo { port: Port(0x71), width: Width::W1, write: false, string: false, rep: false };
        assert_eq!(exit(0x7b, 0x0071_0211, 0), Exit::PortIo(read));
        let write =
            PortIo { port: Port(0x3f8), width: Width::W2, write: true, string: true, rep: true };
        assert_eq!(exit(0x7b, 0x03f8_022c, 0), Exit::PortIo(write));
        let none = Exit::Unhandled { code: 0x7b, detail: 0x0071_0001 };
        assert_eq!(exit(0x7b, 0x0071_0001, 0), none);
    }

    #[test]
    fn a_nested_fault_says_what_was_wanted() {
        for (info1, access, during_walk) in [
            (0x1_0000_0004, Access::Read, false),
            (0x1_0000_0006, Access::Write, false),
            (0x1_0000_0014, Access::Execute, false),
            (0x2_0000_0006, Access::Write, true),
            // Present, but not writable.
            (0x1_0000_0007, Access::Write, false),
        ] {
            let fault =
                SecondStageFault { gpa: Gpa::new(0xfee0_00b0), gla: None, access, during_walk };
            let got = exit(0x400, info1, 0xfee0_00b0);
            assert_eq!(got, Exit::SecondStage(fault), "{info1:#x}");
        }
    }

    #[test]
    fn an_msr_write_takes_the_low_halves() {
        let fields = ExitFields {
            code: 0x7c,
            info1: 1,
            rax: 0xffff_ffff_1234_5678,
            rcx: 0xffff_ffff_c000_0080,
            rdx: 0xffff_ffff_0000_0001,
            ..ExitFields::default()
        };
        let write = Exit::MsrWrite { msr: Msr(0xc000_0080), value: 0x1_1234_5678 };
        assert_eq!(decode(&fields), write);
        let read = ExitFields { info1: 0, ..fields };
        assert_eq!(decode(&read), Exit::MsrRead(Msr(0xc000_0080)));
    }

    #[test]
    fn every_exit_that_kerf_asks_for_has_a_meaning() {
        for (code, want) in [
            (0x04, Exit::Cr4),
            (0x14, Exit::Cr4),
            (0x46, Exit::Undefined),
            (0x60, Exit::ExternalInterrupt),
            (0x61, Exit::Nmi),
            (0x63, Exit::InitSignal),
            (0x72, Exit::Cpuid),
            (0x76, Exit::Ignore),
            (0x78, Exit::Halt),
            (0x7f, Exit::Shutdown),
            (0x80, Exit::InvalidOpcode),
            (0x81, Exit::Hypercall),
            (0x86, Exit::InvalidOpcode),
            (0x89, Exit::Ignore),
            (0x8a, Exit::InvalidOpcode),
            (0x8b, Exit::InvalidOpcode),
            (0x8d, Exit::Xsetbv { index: 0, value: 0 }),
        ] {
            assert_eq!(exit(code, 0, 0), want, "{code:#x}");
        }
        for (code, want) in [
            (0x6f, Own::GeneralProtection),
            (0x41, Own::Reflect { vector: 1, error_code: None }),
            (0x51, Own::Reflect { vector: 17, error_code: Some(0) }),
            (0x52, Own::MachineCheck),
            (0x64, Own::Window),
            (0x74, Own::Iret),
            (u64::MAX, Own::Refused),
            (0xffff_ffff, Own::Refused),
        ] {
            assert_eq!(own(code), Some(want), "{code:#x}");
        }
        let unknown = Exit::Unhandled { code: 0x401, detail: 5 };
        assert_eq!(exit(0x401, 5, 0), unknown);
    }

    #[test]
    fn a_length_is_what_the_cpu_gives_and_never_a_guess() {
        assert_eq!(instruction_len(0x72, 0x1000, 0, 0x1002), Some(2));
        assert_eq!(instruction_len(0x72, 0x1000, 0, 0), None, "no next RIP");
        assert_eq!(instruction_len(0x7b, 0x1000, 0x1001, 0), Some(1), "ports always tell");
        assert_eq!(instruction_len(0x72, 0x1000, 0x1001, 0), None, "EXITINFO2 is for ports");
        assert_eq!(instruction_len(0x72, 0x1000, 0, 0x2000), None);
        assert_eq!(instruction_len(0x72, 0xffff, 0, 1), Some(2), "IP wraps");
        assert_eq!(instruction_len(0x72, 0xffff_ffff, 0, 1), Some(2), "EIP wraps");
    }
}
