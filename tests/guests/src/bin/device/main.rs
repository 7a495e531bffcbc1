//! A guest with an NVMe disk of its own. It reads block after block, ten times a second, and looks whether each is what its
//! disk holds: `seed=N` on its command line says what that is. With `hostile` there it then does everything to other memory,
//! to interrupts and to its function that a guest can do, tells when each act is over, and ends.

#![no_std]
#![no_main]

mod garbage;
mod nvme;
mod pci;

use core::sync::atomic::Ordering::Relaxed;

use guests::paging::Page;
use guests::trap::on_interrupt;
use guests::{apic, cpu, println};

use nvme::Nvme;

guests::guest!("device", run);

/// Pages of the disk that hold the pattern, from the first on; the one after them holds [`MESSAGES`].
const PAGES: u32 = 64;
/// The emulated machine's memory. A guest's own ends far before.
const MACHINE_BYTES: u64 = 1 << 30;
/// Where another's memory is tried, as often as this, and with this offset.
const STEP: u64 = 8 << 20;
const OFFSET: u64 = 0x3000;
/// Of this guest's memory.
const OWN_BYTES: u64 = 64 << 20;
/// Where a write is an interrupt, of the remappable format and of the other.
const INTERRUPTS: [u64; 2] = [0xfee0_0000, 0xfee0_1000];
const HEALTHY_BEATS: u32 = 3;
const TIMER: u8 = 0x40;

static BUFFER: Page = Page::new();

/// So many milliseconds of the time-stamp counter.
pub(crate) fn ticks(milliseconds: u64) -> u64 {
    u64::from(cpu::cpuid(0x4000_0010, 0).eax) * milliseconds
}

/// Halts until an interrupt, one of the timer's at the latest.
pub(crate) fn nap() {
    let _ = apic::set_deadline(cpu::tsc() + ticks(1));
    cpu::halt();
}

/// Waits, and lets interrupts in.
fn pause(milliseconds: u64) {
    let until = cpu::tsc() + ticks(milliseconds);
    while cpu::tsc() < until {
        nap();
    }
}

/// The number after `name` on the command line.
fn number(name: &[u8]) -> u64 {
    let line = guests::command_line();
    let at = line.windows(name.len()).position(|word| word == name);
    let digits = at.map_or(&[][..], |at| &line[at + name.len()..]);
    digits
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

/// Whether the buffer is what page `page` of the disk holds.
fn is_right(page: u32, seed: u64) -> bool {
    let expected = |index: usize| seed << 32 | u64::from(page) << 16 | index as u64;
    (0..).zip(BUFFER.words()).all(|(index, word)| word.load(Relaxed) == expected(index))
}

/// Reads a page of the disk: whether it came, whole, and with an interrupt.
fn beat(disk: &mut Nvme, count: u32, seed: u64) -> Result<(), &'static str> {
    let page = count % PAGES;
    BUFFER.words().iter().for_each(|word| word.store(0, Relaxed));
    let before = nvme::interrupts();
    match disk.read(8 * page, BUFFER.gpa()) {
        None => return Err("no answer"),
        Some(0) => {}
        Some(_) => return Err("an error"),
    }
    if !disk.interrupted(before) {
        return Err("no interrupt");
    }
    if !is_right(page, seed) {
        return Err("other data");
    }
    Ok(())
}

fn run() {
    apic::enable();
    on_interrupt(TIMER, || ());
    apic::use_tsc_deadline(TIMER);
    let seed = number(b"seed=");
    let hostile = guests::command_line().windows(7).any(|word| word == b"hostile");
    let Some(mut disk) = pci::find(nvme::CLASS).and_then(|function| Nvme::start(function, nap))
    else {
        println!("FAIL disk there is none that starts");
        return;
    };
    println!("buffer at {:#x}", BUFFER.gpa());
    let mut gone = false;
    for count in 1.. {
        pause(100);
        match beat(&mut disk, count, seed) {
            Ok(()) => println!("beat {count}"),
            Err(why) if !gone => {
                gone = true;
                println!("the disk gives {why}");
            }
            Err(_) => println!("without a disk {count}"),
        }
        if hostile && count == HEALTHY_BEATS {
            break;
        }
    }
    others(&mut disk);
    interrupt_range(&mut disk);
    let function = disk.function;
    garbage::write(disk);
    let restarted = Nvme::start(function, nap);
    let healed = restarted.is_some();
    guests::check!("disk-starts-after-garbage", healed);
    let Some(mut disk) = restarted else { return };
    guests::check!("disk-reads-after-garbage", beat(&mut disk, 1, seed).is_ok());
    storm(&mut disk);
}

/// Has the disk write all over the machine's memory, but for what the guest has of it at the same addresses.
fn others(disk: &mut Nvme) {
    let mut tried = 0;
    for at in (OWN_BYTES..MACHINE_BYTES).step_by(STEP as usize) {
        let _ = disk.read(0, at + OFFSET);
        tried += 1;
        // No storm yet.
        pause(30);
    }
    println!("wrote to others {tried} times");
}

/// Has the disk write messages.
fn interrupt_range(disk: &mut Nvme) {
    for at in INTERRUPTS {
        let _ = disk.read(8 * PAGES, at);
        pause(30);
    }
    println!("wrote messages");
}

/// Has the disk write to others as fast as it can, until it can no more.
fn storm(disk: &mut Nvme) {
    let stopped = (0..5000).find(|_| disk.read(0, MACHINE_BYTES - 0x1000).is_none());
    guests::check!("storm-stops-the-disk", stopped.is_some());
    println!("the disk wrote to others {} times before", stopped.unwrap_or_default());
    BUFFER.words().iter().for_each(|word| word.store(0, Relaxed));
    let silent = disk.read(0, BUFFER.gpa()).is_none();
    guests::check!("stopped-disk-is-silent", silent);
}
