//! Interrupts of functions that guests have: each has a vector of one CPU, whose entry says what to deliver to whom.

use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use alloc::vec::Vec;

use spin::Once;
use vmm::platform::InterruptMessage;
use x86_spec::apic::DeliveryMode;

use crate::{sched, start};

/// Vectors of devices: above the 8259s', below Kerf's own.
pub(super) const FIRST: u8 = 0x30;
pub(super) const LAST: u8 = 0xef;
const COUNT: usize = (LAST - FIRST) as usize + 1;

/// What each vector of each CPU is for; 0 where it is free.
static TARGETS: Once<Vec<[AtomicU64; COUNT]>> = Once::new();
/// Where the search for a free one begins: a vector that has been given back is used again as late as can be.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// A vector of a CPU, until it is dropped.
#[derive(Debug)]
pub(crate) struct DeviceVector {
    /// The CPU's number.
    pub(crate) cpu: u32,
    /// The vector.
    pub(crate) vector: u8,
}

const VALID: u64 = 1 << 47;

/// VM 63:48, valid 47, mode 46:44, logical 43, vector 39:32, destination 31:0.
fn pack(vm: usize, message: &InterruptMessage) -> u64 {
    (vm as u64) << 48
        | VALID
        | (message.mode as u64) << 44
        | u64::from(message.logical) << 43
        | u64::from(message.vector) << 32
        | u64::from(message.destination)
}

fn unpack(packed: u64) -> Option<(usize, InterruptMessage)> {
    let message = InterruptMessage {
        destination: packed as u32,
        logical: packed >> 43 & 1 != 0,
        mode: DeliveryMode::from_low_bits((packed >> 44) as u32),
        vector: (packed >> 32) as u8,
        level: false,
    };
    (packed & VALID != 0).then_some(((packed >> 48) as usize, message))
}

fn entry(cpu: u32, vector: u8) -> Option<&'static AtomicU64> {
    let targets = TARGETS.get()?.get(cpu as usize)?;
    targets.get(usize::from(vector.checked_sub(FIRST)?))
}

impl DeviceVector {
    /// One that is free, to deliver `message` to a VM from now on.
    pub(crate) fn take(cpu: u32, vm: usize, message: &InterruptMessage) -> Option<Self> {
        let row = || [const { AtomicU64::new(0) }; COUNT];
        let all = TARGETS.call_once(|| start::cpus().iter().map(|_| row()).collect());
        let targets = all.get(cpu as usize)?;
        let first = NEXT.fetch_add(1, Ordering::Relaxed);
        let packed = pack(vm, message);
        let taken = (0..COUNT).map(|step| (first + step) % COUNT).find(|&at| {
            targets.get(at).is_some_and(|target| {
                target.compare_exchange(0, packed, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })
        })?;
        Some(Self { cpu, vector: FIRST + taken as u8 })
    }

    /// Has it deliver something else.
    pub(crate) fn aim(&self, vm: usize, message: &InterruptMessage) {
        if let Some(target) = entry(self.cpu, self.vector) {
            target.store(pack(vm, message), Ordering::Release);
        }
    }

    /// The ID of its CPU's local APIC.
    pub(crate) fn apic_id(&self) -> Option<u32> {
        start::cpus().get(self.cpu as usize).map(|cpu| cpu.apic_id())
    }
}

impl Drop for DeviceVector {
    fn drop(&mut self) {
        if let Some(target) = entry(self.cpu, self.vector) {
            target.store(0, Ordering::Release);
        }
    }
}

/// Such an interrupt came to the calling CPU; false where nobody has the vector, as after it was given back.
pub(super) fn came(vector: u8) -> bool {
    let target = entry(start::current().number, vector);
    let target = target.and_then(|target| unpack(target.load(Ordering::Acquire)));
    let (Some((vm, message)), Some(world)) = (target, sched::world()) else { return false };
    if let Some(vm) = world.vms.get(vm) {
        vm.deliver(&message);
    }
    true
}
