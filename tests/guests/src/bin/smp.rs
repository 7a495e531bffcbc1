//! Two virtual CPUs of one machine: start-up, interrupts between them in both modes of the local APIC, what one must see of
//! what the other did, and that each keeps what is its own when they share a CPU. CPU 1 carries out what CPU 0 asks for.

#![no_std]
#![no_main]

use core::{
    arch::asm,
    sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering::*},
};

use guests::{
    apic::{self, register},
    check, cpu, paging,
    paging::{Page, bit},
    smp,
    trap::{self, hook, on_interrupt},
};

guests::guest!("smp", run);

const PING: u8 = 0x60;
const FLUSH: u8 = 0x61;
const LOWEST: u8 = 0x62;
const TIMER: u8 = 0x63;
const WAKE: u8 = 0x64;
const ALL: u8 = 0x65;

/// Delivery modes and shorthands of an interrupt command; all are asserted.
const ASSERT: u32 = 1 << 14;
const LOWEST_PRIORITY: u32 = 0b001 << 8;
const NMI: u32 = 0b100 << 8;
const LOGICAL: u32 = 1 << 11;
const ALL_WITH_SELF: u32 = 0b10 << 18;
const ALL_BUT_SELF: u32 = 0b11 << 18;

/// Interrupts by CPU.
static PINGS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static LOWESTS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static ALLS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static NMIS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static TICKS: [AtomicU32; 2] = [const { AtomicU32::new(0) }; 2];
static FLUSHES: AtomicU32 = AtomicU32::new(0);

/// What CPU 1 is to do; null while it has nothing.
static WORK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());
static STOP: AtomicBool = AtomicBool::new(false);

/// Which CPU this is.
fn me() -> usize {
    apic::id() as usize & 1
}

/// Waits, interrupts open, until `holds`: at most a while that no sound machine needs.
fn wait_for(holds: impl Fn() -> bool) -> bool {
    let end = cpu::tsc() + smp::khz() * 4000;
    while !holds() {
        if cpu::tsc() > end {
            return false;
        }
        cpu::listen(500);
    }
    true
}

/// What CPU 1 does all the time.
fn other(_id: u32) -> ! {
    apic::enable();
    loop {
        let work = WORK.load(Acquire);
        if work.is_null() {
            cpu::listen(500);
            continue;
        }
        // SAFETY: `start_other` is the only one to store here, and it stores a `fn()`.
        let work = unsafe { core::mem::transmute::<*mut (), fn()>(work) };
        work();
        WORK.store(core::ptr::null_mut(), Release);
    }
}

fn start_other(work: fn()) {
    STOP.store(false, Relaxed);
    WORK.store(work as *mut (), Release);
}

/// Tells it to stop; says whether it has.
fn end_other() -> bool {
    STOP.store(true, Relaxed);
    wait_for(|| WORK.load(Acquire).is_null())
}

/// Carried out by CPU 1, from start to end.
fn on_other(work: fn()) -> bool {
    start_other(work);
    wait_for(|| WORK.load(Acquire).is_null())
}

fn run() {
    apic::enable();
    on_interrupt(PING, || _ = PINGS[me()].fetch_add(1, Relaxed));
    on_interrupt(LOWEST, || _ = LOWESTS[me()].fetch_add(1, Relaxed));
    on_interrupt(ALL, || _ = ALLS[me()].fetch_add(1, Relaxed));
    on_interrupt(TIMER, || _ = TICKS[me()].fetch_add(1, Relaxed));
    on_interrupt(WAKE, || {});
    on_interrupt(FLUSH, flush);
    hook(trap::NMI, Some(|_| _ = NMIS[me()].fetch_add(1, Relaxed)));
    start_up();
    let mut mode = "xapic";
    for _ in 0..2 {
        fixed(mode);
        logical(mode);
        broadcasts(mode);
        nmis(mode);
        if mode == "xapic" {
            x2apic();
            mode = "x2apic";
        }
    }
    wakes();
    lost_interrupts();
    shootdowns();
    vector_registers();
    held_registers();
    timers();
    contention();
    time();
    again();
}

fn start_up() {
    let came = smp::start(1, other);
    check!("smp-start-up", came, "CPU 1 has not come");
    if !came {
        guests::finish("smp");
    }
    let cr0 = smp::cr0_at_start();
    check!("smp-starts-in-real-mode", cr0 & 0x8000_0001 == 0, "cr0 {cr0:#x}");
    check!("smp-second-start-up-is-ignored", smp::arrived(1) == 1, "{} times", smp::arrived(1));
    static IDENTITY: [AtomicU64; 3] = [const { AtomicU64::new(0) }; 3];
    on_other(|| {
        IDENTITY[0].store(apic::id().into(), Relaxed);
        IDENTITY[1].store(cpu::cpuid(0xb, 0).edx.into(), Relaxed);
        IDENTITY[2].store(cpu::read_existing_msr(apic::APIC_BASE_MSR), Relaxed);
    });
    let [id, x2apic, base] = [0, 1, 2].map(|index: usize| IDENTITY[index].load(Relaxed));
    check!("smp-identity", (id, x2apic) == (1, 1), "{id} {x2apic}");
    check!("smp-is-not-the-boot-cpu", base == apic::LOCAL_APIC_GPA | 0x800, "{base:#x}");
    let threads = (cpu::cpuid(1, 0).ebx >> 16 & 0xff, cpu::cpuid(0xb, 1).ebx & 0xffff);
    check!("smp-topology", threads.0 >= 2 && threads.1 == 2, "{threads:?}");
    apic::command(7, 0b110 << 8 | ASSERT | 8);
    check!("smp-absent-cpu-stays-away", smp::arrived(7) == 0);
}

/// Vectors there and back, physical.
fn fixed(mode: &str) {
    let before = [PINGS[0].load(Relaxed), PINGS[1].load(Relaxed)];
    let mut there = true;
    for sent in 1..=20 {
        apic::command(1, ASSERT | u32::from(PING));
        there &= wait_for(|| PINGS[1].load(Relaxed) - before[1] == sent);
    }
    check!(format_args!("ipi-{mode}-fixed"), there, "{} of 20", PINGS[1].load(Relaxed) - before[1]);
    on_other(|| {
        for _ in 0..20 {
            let before = PINGS[0].load(Relaxed);
            apic::command(0, ASSERT | u32::from(PING));
            wait_for(|| PINGS[0].load(Relaxed) != before);
        }
    });
    let back = PINGS[0].load(Relaxed) - before[0];
    check!(format_args!("ipi-{mode}-fixed-back"), back == 20, "{back} of 20");
    let before = PINGS[0].load(Relaxed);
    apic::command(0, ASSERT | u32::from(PING));
    let came = wait_for(|| PINGS[0].load(Relaxed) - before == 1);
    check!(format_args!("ipi-{mode}-self-by-identifier"), came);
}

/// Logical destinations, and one of two by lowest priority.
fn logical(mode: &str) {
    if mode == "xapic" {
        apic::write(register::LOGICAL_DESTINATION, 1 << 24);
        on_other(|| apic::write(register::LOGICAL_DESTINATION, 2 << 24));
    }
    let before = [PINGS[0].load(Relaxed), PINGS[1].load(Relaxed)];
    let count = |cpu: usize| PINGS[cpu].load(Relaxed) - before[cpu];
    apic::command(0b10, ASSERT | LOGICAL | u32::from(PING));
    let one = wait_for(|| count(1) == 1) && count(0) == 0;
    check!(format_args!("ipi-{mode}-logical"), one, "{} {}", count(0), count(1));
    apic::command(0b11, ASSERT | LOGICAL | u32::from(PING));
    let both = wait_for(|| count(0) == 1 && count(1) == 2);
    check!(format_args!("ipi-{mode}-logical-both"), both, "{} {}", count(0), count(1));
    let before = LOWESTS[0].load(Relaxed) + LOWESTS[1].load(Relaxed);
    let count = || LOWESTS[0].load(Relaxed) + LOWESTS[1].load(Relaxed) - before;
    for sent in 1..=20 {
        apic::command(0b11, ASSERT | LOGICAL | LOWEST_PRIORITY | u32::from(LOWEST));
        wait_for(|| count() == sent);
    }
    cpu::listen(smp::khz());
    check!(format_args!("ipi-{mode}-lowest-priority"), count() == 20, "{} of 20", count());
}

fn broadcasts(mode: &str) {
    let before = [ALLS[0].load(Relaxed), ALLS[1].load(Relaxed)];
    let count = |cpu: usize| ALLS[cpu].load(Relaxed) - before[cpu];
    apic::command(0, ASSERT | ALL_BUT_SELF | u32::from(ALL));
    let others = wait_for(|| count(1) == 1) && count(0) == 0;
    check!(format_args!("ipi-{mode}-all-but-self"), others, "{} {}", count(0), count(1));
    apic::command(0, ASSERT | ALL_WITH_SELF | u32::from(ALL));
    let all = wait_for(|| count(0) == 1 && count(1) == 2);
    check!(format_args!("ipi-{mode}-all-with-self"), all, "{} {}", count(0), count(1));
    let everyone = if mode == "xapic" { 0xff } else { u32::MAX };
    apic::command(everyone, ASSERT | u32::from(ALL));
    let all = wait_for(|| count(0) == 2 && count(1) == 3);
    check!(format_args!("ipi-{mode}-broadcast-destination"), all, "{} {}", count(0), count(1));
    apic::send_to_self(ALL);
    let own = wait_for(|| count(0) == 3) && count(1) == 3;
    check!(format_args!("ipi-{mode}-self"), own, "{} {}", count(0), count(1));
}

/// NMIs reach a CPU whose interrupts are off.
fn nmis(mode: &str) {
    let before = [NMIS[0].load(Relaxed), NMIS[1].load(Relaxed)];
    let count = |cpu: usize| NMIS[cpu].load(Relaxed) - before[cpu];
    start_other(|| {
        while !STOP.load(Relaxed) {
            core::hint::spin_loop();
        }
    });
    apic::command(1, ASSERT | NMI);
    let came = wait_for(|| count(1) == 1);
    check!(format_args!("ipi-{mode}-nmi"), came && count(0) == 0, "{} {}", count(0), count(1));
    apic::command(0, ASSERT | NMI | ALL_BUT_SELF);
    let came = wait_for(|| count(1) == 2);
    check!(
        format_args!("ipi-{mode}-nmi-broadcast"),
        came && count(0) == 0,
        "{} {}",
        count(0),
        count(1)
    );
    end_other();
}

fn x2apic() {
    // CPU 1 first: it sends nothing while the two differ.
    let switched = on_other(apic::use_x2apic_here) && apic::switch_to_x2apic().is_ok();
    let enabled = on_other(apic::enable);
    apic::enable();
    check!(
        "x2apic-on-both",
        switched && enabled && apic::id() == 0,
        "{switched} {enabled} {}",
        apic::id()
    );
}

/// HLT with interrupts open ends at an interrupt, with interrupts off at an NMI.
fn wakes() {
    static HALTS: AtomicU32 = AtomicU32::new(0);
    static WOKEN: AtomicU32 = AtomicU32::new(0);
    HALTS.store(0, Relaxed);
    WOKEN.store(0, Relaxed);
    start_other(|| {
        for _ in 0..20 {
            // What comes from here on, interrupts being off, waits for the HLT.
            HALTS.fetch_add(1, Relaxed);
            cpu::halt();
            WOKEN.fetch_add(1, Relaxed);
        }
    });
    for sent in 1..=20 {
        wait_for(|| HALTS.load(Relaxed) >= sent);
        cpu::listen(smp::khz() / 4);
        apic::command(1, ASSERT | u32::from(WAKE));
        if !wait_for(|| WOKEN.load(Relaxed) >= sent) {
            break;
        }
    }
    let woken = WOKEN.load(Relaxed);
    check!("ipi-wakes-hlt", woken == 20, "{woken} of 20");
    wait_for(|| WORK.load(Acquire).is_null());
    let before = NMIS[1].load(Relaxed);
    start_other(|| {
        HALTS.fetch_add(1, Relaxed);
        // SAFETY: interrupts are off: an NMI ends it.
        unsafe { asm!("hlt", options(nostack)) };
    });
    wait_for(|| HALTS.load(Relaxed) > 20);
    // An NMI before the HLT would not end it.
    cpu::listen(smp::khz());
    apic::command(1, ASSERT | NMI);
    let ended = wait_for(|| WORK.load(Acquire).is_null());
    check!(
        "nmi-wakes-hlt-with-interrupts-off",
        ended && NMIS[1].load(Relaxed) - before == 1,
        "{ended}"
    );
}

/// Both send to each other at full speed, never waiting: each vector comes at least once after it was last sent.
fn lost_interrupts() {
    static ROUNDS: AtomicU32 = AtomicU32::new(0);
    static ANSWERS: AtomicU32 = AtomicU32::new(0);
    on_interrupt(0x70, || {
        let _ = ANSWERS.fetch_add(1, Relaxed);
    });
    on_interrupt(0x71, || {
        ROUNDS.fetch_add(1, Relaxed);
        apic::command(0, ASSERT | 0x70);
    });
    let mut lost = 0;
    for _ in 0..100 {
        let before = ANSWERS.load(Relaxed);
        apic::command(1, ASSERT | 0x71);
        if !wait_for(|| ANSWERS.load(Relaxed) != before) {
            lost += 1;
            break;
        }
    }
    check!("ipi-ping-pong", lost == 0, "lost after {}", ROUNDS.load(Relaxed));
    let before = PINGS[1].load(Relaxed);
    let mut last = before;
    for _ in 0..500 {
        apic::command(1, ASSERT | u32::from(PING));
        last = last.max(PINGS[1].load(Relaxed));
    }
    apic::command(1, ASSERT | u32::from(PING));
    let came = wait_for(|| PINGS[1].load(Relaxed) > before);
    check!(
        "ipi-storm-is-merged-not-lost",
        came && PINGS[1].load(Relaxed) - before <= 501,
        "{last}"
    );
}

const VIEW: u64 = paging::FREE + 0x50_0000;
static FRAMES: [Page; 2] = [const { Page::new() }; 2];

fn flush() {
    paging::invalidate(VIEW);
    FLUSHES.fetch_add(1, Release);
}

fn look() -> u64 {
    // SAFETY: one of the two frames is mapped there.
    unsafe { core::ptr::with_exposed_provenance::<u64>(VIEW as usize).read_volatile() }
}

/// As a kernel does it: change the entry, interrupt the other CPU, wait for its word. It must then see the other frame.
fn shootdowns() {
    static SEEN: AtomicU64 = AtomicU64::new(0);
    for (value, frame) in (1..).zip(&FRAMES) {
        frame.words()[0].store(value, Relaxed);
    }
    let writable = bit::PRESENT | bit::WRITABLE;
    paging::map(VIEW, FRAMES[0].gpa(), writable);
    paging::invalidate(VIEW);
    start_other(|| {
        while !STOP.load(Relaxed) {
            cpu::listen(100);
            SEEN.store(look() | u64::from(FLUSHES.load(Acquire)) << 32, Release);
        }
    });
    let (mut stale, mut late) = (0, 0);
    for round in 1..=40_u64 {
        let frame = (round & 1) as usize;
        let flushes = FLUSHES.load(Acquire);
        paging::map(VIEW, FRAMES[frame].gpa(), writable);
        paging::invalidate(VIEW);
        apic::command(1, ASSERT | u32::from(FLUSH));
        late += u32::from(!wait_for(|| FLUSHES.load(Acquire) != flushes));
        // What it looked at after the flush.
        late += u32::from(!wait_for(|| SEEN.load(Acquire) >> 32 > flushes.into()));
        wait_for(|| SEEN.load(Acquire) as u32 == frame as u32 + 1);
        stale +=
            u32::from(SEEN.load(Acquire) as u32 != frame as u32 + 1 || look() != frame as u64 + 1);
    }
    check!("shootdown-is-seen", stale == 0 && late == 0, "{stale} stale, {late} late of 40");
    end_other();
}

/// Each CPU's vector registers are its own, however they take turns.
fn vector_registers() {
    static DAMAGED: AtomicU32 = AtomicU32::new(0);
    static ROUNDS: AtomicU32 = AtomicU32::new(0);
    fn keep(seed: u64) -> bool {
        let pattern = [seed, seed << 8, seed << 16, seed << 24];
        let mut found = [0_u64; 4];
        // SAFETY: compiled code has no vector registers; handlers neither.
        unsafe {
            asm!("vmovdqu ymm7, [{}]", "vmovdqu ymm12, [{0}]", in(reg) &pattern, options(nostack));
            let end = cpu::tsc() + smp::khz() / 2;
            while cpu::tsc() < end {
                let _ = cpu::cpuid(0, 0);
            }
            asm!("vpcmpeqq ymm7, ymm7, ymm12", "vmovdqu [{}], ymm7", in(reg) &mut found, options(nostack));
            let same = found == [u64::MAX; 4];
            asm!("vmovdqu [{}], ymm12", in(reg) &mut found, options(nostack));
            same && found == pattern
        }
    }
    start_other(|| {
        while !STOP.load(Relaxed) {
            DAMAGED.fetch_add((!keep(0x11)).into(), Relaxed);
            ROUNDS.fetch_add(1, Relaxed);
        }
    });
    let mut damaged = 0;
    for _ in 0..40 {
        damaged += u32::from(!keep(0xee));
    }
    wait_for(|| ROUNDS.load(Relaxed) > 0);
    end_other();
    let other = DAMAGED.load(Relaxed);
    check!(
        "ymm-kept-across-vcpu-switches",
        damaged == 0 && other == 0,
        "{damaged} here, {other} there"
    );
}

/// MSRs that stay in the CPU for as long as a virtual CPU has it.
fn held_registers() {
    const TSC_AUX: u32 = 0xc000_0103;
    const SPEC_CTRL: u32 = 0x48;
    static DAMAGED: AtomicU32 = AtomicU32::new(0);
    fn keep(tsc_aux: u64, ibrs: u64) -> bool {
        let has_amd_leaf = cpu::cpuid(0x8000_0000, 0).eax >= 0x8000_0008;
        let has_ibrs = cpu::cpuid(7, 0).edx & 1 << 26 != 0
            || has_amd_leaf && cpu::cpuid(0x8000_0008, 0).ebx & 1 << 14 != 0;
        let all = [(TSC_AUX, tsc_aux), (SPEC_CTRL, ibrs)];
        let registers = &all[..if has_ibrs { 2 } else { 1 }];
        // SAFETY: nothing here asks which CPU it is, or speculates on secrets.
        registers.iter().for_each(|&(msr, value)| unsafe { cpu::write_existing_msr(msr, value) });
        let end = cpu::tsc() + smp::khz() * 4;
        while cpu::tsc() < end {}
        registers.iter().all(|&(msr, value)| cpu::read_existing_msr(msr) == value)
    }
    start_other(|| {
        while !STOP.load(Relaxed) {
            DAMAGED.fetch_add((!keep(0x1111, 0)).into(), Relaxed);
        }
    });
    let damaged = (0..20).filter(|_| !keep(0x2222, 1)).count();
    end_other();
    let other = DAMAGED.load(Relaxed);
    check!(
        "msrs-kept-across-vcpu-switches",
        damaged == 0 && other == 0,
        "{damaged} here, {other} there"
    );
}

fn timers() {
    fn tick(count: u32) {
        apic::use_tsc_deadline(TIMER);
        let before = TICKS[me()].load(Relaxed);
        while TICKS[me()].load(Relaxed) - before < count {
            let now = TICKS[me()].load(Relaxed);
            // SAFETY: a timer moves no memory.
            unsafe { cpu::write_existing_msr(apic::TSC_DEADLINE_MSR, cpu::tsc() + 100_000) };
            while TICKS[me()].load(Relaxed) == now {
                cpu::halt();
            }
        }
    }
    let before = [TICKS[0].load(Relaxed), TICKS[1].load(Relaxed)];
    start_other(|| tick(50));
    tick(50);
    let ended = wait_for(|| WORK.load(Acquire).is_null());
    let ticks = [TICKS[0].load(Relaxed) - before[0], TICKS[1].load(Relaxed) - before[1]];
    check!("timer-on-each-cpu", ended && ticks == [50, 50], "{ticks:?}");
}

/// A lock that spins without a PAUSE: both get on, no addition is lost.
fn contention() {
    static LOCK: AtomicBool = AtomicBool::new(false);
    static SUM: AtomicU64 = AtomicU64::new(0);
    const EACH: u64 = 2_000;
    fn add() {
        for _ in 0..EACH {
            while LOCK.compare_exchange_weak(false, true, Acquire, Relaxed).is_err() {}
            SUM.store(SUM.load(Relaxed) + 1, Relaxed);
            LOCK.store(false, Release);
        }
    }
    start_other(add);
    add();
    let ended = wait_for(|| WORK.load(Acquire).is_null());
    let sum = SUM.load(Relaxed);
    check!("lock-contention-gets-on", ended && sum == 2 * EACH, "{sum}");
}

/// The time-stamp counters never run backwards from one CPU to the other.
fn time() {
    static BALL: AtomicU64 = AtomicU64::new(0);
    static BACKWARDS: AtomicU32 = AtomicU32::new(0);
    /// Odd stamps are CPU 1's to answer, even ones CPU 0's.
    fn play(odd: u64, rounds: u32) {
        for _ in 0..rounds {
            let came = wait_for(|| BALL.load(Acquire) & 1 == odd || STOP.load(Relaxed));
            let (stamp, now) = (BALL.load(Acquire) & !1, cpu::tsc() & !1);
            BACKWARDS.fetch_add((now < stamp || !came).into(), Relaxed);
            BALL.store(now | (odd ^ 1), Release);
        }
    }
    start_other(|| play(1, 40));
    BALL.store(cpu::tsc() | 1, Release);
    play(0, 39);
    let ended = wait_for(|| WORK.load(Acquire).is_null());
    let backwards = BACKWARDS.load(Relaxed);
    check!("tsc-never-runs-backwards", ended && backwards == 0, "{backwards} of 79");
}

/// INIT takes a CPU out of whatever it does; a start-up starts it anew.
fn again() {
    start_other(|| {
        loop {
            core::hint::spin_loop();
        }
    });
    cpu::listen(smp::khz());
    WORK.store(core::ptr::null_mut(), Release);
    let came = smp::start(1, other);
    check!("init-restarts-a-running-cpu", came && smp::arrived(1) == 2, "{}", smp::arrived(1));
    static ALIVE: AtomicBool = AtomicBool::new(false);
    let done = on_other(|| ALIVE.store(true, Relaxed));
    check!("restarted-cpu-works", done && ALIVE.load(Relaxed));
    start_other(|| {
        // SAFETY: stops this CPU for good, or until INIT.
        unsafe { asm!("cli", "hlt", options(nostack)) };
    });
    cpu::listen(smp::khz());
    WORK.store(core::ptr::null_mut(), Release);
    let came = smp::start(1, other);
    check!("init-restarts-a-halted-cpu", came && smp::arrived(1) == 3, "{}", smp::arrived(1));
}
