//! The table of exits: its rows, Kerf's goals, and what was measured of others.

use crate::bed::BedKind;

/// One row.
pub(super) struct Row {
    /// As the guest prints it.
    pub(super) name: &'static str,
    /// As the table shows it.
    pub(super) title: &'static str,
    /// Instructions at most, where the CPU gives an instruction's length.
    pub(super) goal: Option<u64>,
    /// Jailhouse's figure.
    pub(super) jailhouse: &'static str,
    /// Xen 4.17's, for a PVH guest.
    pub(super) xen: &'static str,
    /// KVM's of Linux 6.12.
    pub(super) kvm: &'static str,
    /// The last without next-RIP, as stock QEMU is.
    kvm_without_next_rip: Option<u64>,
    /// How many virtual CPUs the guest has that measures it.
    pub(super) vcpus: u32,
}

/// What the peers' columns are.
pub(super) const PEERS_NOTE: &str = "Jailhouse, Xen 4.17 PVH and KVM 6.12: measured earlier, on QEMU with next-RIP offered; in brackets without it, as stock QEMU is";

/// All rows, in the table's order.
pub(super) const ROWS: [Row; 12] = [
    row("cpuid", "CPUID", Some(80), ["100-124", "755 (2492)", "1109 (2298)"], Some(2298)),
    row("hypercall", "hypercall", Some(60), ["162", "732 (2613)", "1134 (2489)"], Some(2489)),
    row("wrmsr", "intercepted WRMSR", Some(80), ["103", "764 (2498)", "1337 (2478)"], Some(2478)),
    row("self-ipi", "x2APIC self-IPI with EOI", Some(250), ["482", "2356", "4699"], Some(4699)),
    row("port", "port emulated in the hypervisor", Some(100), ["152", "1079", "1503"], Some(1503)),
    row(
        "apic-read",
        "decoded access to an emulated register",
        Some(350),
        ["2959 (forwarded)", "4680", "3270"],
        Some(3270),
    ),
    row(
        "device-read",
        "device register behind a user-space VMM",
        Some(350),
        ["-", "-", "5634"],
        Some(5634),
    ),
    row(
        "hlt-wake",
        "HLT to timer handler, excess",
        Some(600),
        ["106 (no exit)", "9676", "5949"],
        Some(5949),
    ),
    row("first-touch", "first touch of a 4 KiB page", Some(0), ["1", "1", "10745"], Some(10745)),
    row("uart-read", "UART read", None, ["-", "-", "-"], None),
    row("unknown-port", "port with nothing behind it", None, ["-", "-", "-"], None),
    Row {
        vcpus: 2,
        ..row("ipi", "IPI to a halted vCPU of the same CPU", None, ["-", "-", "-"], None)
    },
];

const fn row(
    name: &'static str,
    title: &'static str,
    goal: Option<u64>,
    [jailhouse, xen, kvm]: [&'static str; 3],
    kvm_without_next_rip: Option<u64>,
) -> Row {
    Row { name, title, goal, jailhouse, xen, kvm, kvm_without_next_rip, vcpus: 1 }
}

impl Row {
    /// Kerf's goal on a bed. Stock QEMU gives no instruction's length, so there it is a tenth of KVM: as `kvm` measured it
    /// in the same run, else as it was measured before.
    pub(super) fn goal_on(&self, bed: BedKind, kvm: Option<u64>) -> Option<u64> {
        match bed {
            BedKind::Bochs => self.goal,
            BedKind::Qemu => self.goal.and(kvm.or(self.kvm_without_next_rip)).map(|kvm| kvm / 10),
        }
    }
}
