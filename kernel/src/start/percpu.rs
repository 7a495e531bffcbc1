//! What each CPU has for itself, found through GS.

use core::arch::asm;
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::ptr;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use spin::Once;
use x86_spec::msr;
use x86_spec::topology::Topology;

use super::gdt::{self, Gdt, Tss};
use super::{idt, stack};
use crate::platform::CpuId;

/// One CPU's own data. `GS:0` points at it; an exit from a guest restores the GS base with the rest of the host state.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct PerCpu {
    myself: *const PerCpu,
    /// Kerf's number for the CPU, from 0 for the one that booted.
    pub(crate) number: u32,
    /// Its local APIC's ID, once that is known.
    apic_id: AtomicU32,
    /// The local timer's interrupt came.
    timer: AtomicBool,
    /// It runs Kerf.
    up: AtomicBool,
    /// It was stopped for good.
    stopped: AtomicBool,
    /// Where it sits, once that is known.
    topology: Once<Topology>,
    /// How many NMIs came.
    nmis: AtomicU32,
    gdt: Gdt,
    tss: Tss,
}

const _: () = assert!(offset_of!(PerCpu, myself) == 0);

// SAFETY: all that changes once the CPU runs is atomic or behind `Once`; the rest is read by the CPU alone.
unsafe impl Sync for PerCpu {}

impl PerCpu {
    pub(super) const fn new(number: u32) -> Self {
        Self {
            myself: ptr::null(),
            number,
            apic_id: AtomicU32::new(u32::MAX),
            timer: AtomicBool::new(false),
            up: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            topology: Once::new(),
            nmis: AtomicU32::new(0),
            gdt: Gdt::new(),
            tss: Tss::new(),
        }
    }

    /// Notes the local APIC's ID.
    pub(crate) fn set_apic_id(&self, id: u32) {
        self.apic_id.store(id, Ordering::Relaxed);
    }

    /// The local APIC's ID.
    pub(crate) fn apic_id(&self) -> u32 {
        self.apic_id.load(Ordering::Relaxed)
    }

    /// Finds out where the calling CPU sits, which this is.
    pub(super) fn set_topology(&self) {
        self.topology.call_once(|| Topology::of(&CpuId, self.apic_id()));
    }

    /// Where it sits.
    pub(crate) fn topology(&self) -> Topology {
        self.topology.get().copied().unwrap_or_default()
    }

    /// Says that it runs.
    pub(super) fn set_up(&self) {
        self.up.store(true, Ordering::Release);
    }

    /// Whether it runs.
    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    /// Says that it has stopped for good.
    pub(super) fn set_stopped(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    /// Whether it has stopped for good.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    /// Counts an NMI.
    pub(super) fn note_nmi(&self) {
        self.nmis.fetch_add(1, Ordering::Relaxed);
    }

    /// How many NMIs came.
    pub(crate) fn nmis(&self) -> u32 {
        self.nmis.load(Ordering::Relaxed)
    }

    /// Notes that the local timer's interrupt came. Handlers run on the CPU they concern, so relaxed order will do.
    pub(crate) fn note_timer(&self) {
        self.timer.store(true, Ordering::Relaxed);
    }

    /// Whether it came since this was last asked.
    pub(crate) fn take_timer(&self) -> bool {
        let came = self.timer.load(Ordering::Relaxed);
        if came {
            self.timer.store(false, Ordering::Relaxed);
        }
        came
    }
}

/// The boot CPU's, in the image: it is needed before there is a heap.
struct BootCpu(UnsafeCell<PerCpu>);

// SAFETY: written by `install_boot` once, before anything reads it; shared and atomic from then on.
unsafe impl Sync for BootCpu {}

static BOOT: BootCpu = BootCpu(UnsafeCell::new(PerCpu::new(0)));

/// Gives the boot CPU its descriptor tables, exception handlers and per-CPU data.
pub(super) fn install_boot() {
    let [df, nmi, mc] = &stack::BOOT_EXCEPTIONS;
    // SAFETY: called by `enter` alone, once, before anything else runs: the table is loaded nowhere, and the boot CPU's
    // data and stacks, which are static, are used by no one yet.
    unsafe {
        idt::fill();
        prepare(BOOT.0.get(), [df.top(), nmi.top(), mc.top()]);
        load(BOOT.0.get());
    }
}

/// Makes `cpu` name itself and these exception stacks.
///
/// # Safety
/// `cpu` and the stacks live forever and are one CPU's alone; nothing else uses them yet.
pub(super) unsafe fn prepare(cpu: *mut PerCpu, exception_stacks: [u64; 3]) {
    // SAFETY: `cpu` is the caller's to write, and lives on.
    unsafe {
        (*cpu).myself = cpu;
        let [df, nmi, mc] = exception_stacks;
        (*cpu).tss.ist = [df, nmi, mc, 0, 0, 0, 0];
        let tss = &raw const (*cpu).tss;
        (*cpu).gdt.set_task(tss);
    }
}

/// Makes the calling CPU use `cpu`.
///
/// # Safety
/// It was [`prepare`]d for the calling CPU alone.
pub(super) unsafe fn load(cpu: *const PerCpu) {
    // SAFETY: the table, its TSS and its stacks are the CPU's for good.
    unsafe { gdt::load(&raw const (*cpu).gdt) };
    idt::load();
    let base = cpu as u64;
    // SAFETY: IA32_GS_BASE exists in every 64-bit CPU and takes any canonical address. Loading the
    // segment registers above has zeroed it, so this comes after.
    unsafe {
        asm!(
            "wrmsr",
            in("ecx") msr::GS_BASE.0,
            in("eax") base as u32,
            in("edx") (base >> 32) as u32,
            options(nostack, preserves_flags),
        );
    }
}

/// The calling CPU's data.
pub(crate) fn current() -> &'static PerCpu {
    let cpu: *const PerCpu;
    // SAFETY: every CPU runs `load` before anything that could get here, and its data lives forever.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, preserves_flags, readonly));
        &*cpu
    }
}
