//! Reads an NVMe disk at random, 4 KiB at a time and past the page cache, as the init of a Linux that has nothing else: one
//! read after the other, then 32 at once. Before and after each thousand it passes a mark, an instruction that does nothing
//! and that the emulator's plugin knows. Every block of the disk begins with its number.
//!
//! It prints `READER-DONE`, or `READER-FAILED why`, and switches off.

use std::arch::asm;
use std::error::Error;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::thread;
use std::time::Duration;

use peer::{begin, end};
use rustix::fs::{Mode, OFlags, open};

const DISK: &str = "/dev/nvme0n1";
const BLOCK: usize = 4096;
/// Reads between two marks, and before the first.
const READS: usize = 1000;
const WARM_UP: usize = 200;
const DEPTH: usize = 32;

/// `include/uapi/asm/unistd_64.h`.
const IO_SETUP: usize = 206;
const IO_GETEVENTS: usize = 208;
const IO_SUBMIT: usize = 209;

/// A block in memory, as O_DIRECT wants it.
#[repr(C, align(4096))]
#[derive(Clone)]
struct Block([u8; BLOCK]);

/// A request of Linux's own asynchronous I/O, and what becomes of it: `include/uapi/linux/aio_abi.h`.
#[repr(C)]
#[derive(Clone, Default)]
struct Request {
    data: u64,
    key_and_flags: u64,
    /// Operation 15:0 (0 reads), priority 31:16, file 63:32.
    operation: u64,
    buffer: u64,
    bytes: u64,
    offset: u64,
    reserved: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Default)]
struct Event {
    data: u64,
    request: u64,
    result: i64,
    more: i64,
}

fn main() {
    match run() {
        Ok(()) => println!("READER-DONE"),
        Err(why) => println!("READER-FAILED {why}"),
    }
    end();
}

fn run() -> Result<(), Box<dyn Error>> {
    begin()?;
    let disk = appear()?;
    let blocks = blocks(&disk)?;
    let mut random = Random(1, blocks);
    one_by_one(&disk, &mut random, WARM_UP)?;
    mark();
    one_by_one(&disk, &mut random, READS)?;
    mark();
    let mut queue = Queue::new(&disk)?;
    queue.read(&mut random, WARM_UP)?;
    mark();
    queue.read(&mut random, READS)?;
    mark();
    Ok(())
}

/// The plugin's mark: a NOP of eight bytes, the last four of which are `KERF`.
#[inline(never)]
fn mark() {
    // SAFETY: it does nothing.
    unsafe { asm!(".byte 0x0f, 0x1f, 0x84, 0x00", ".ascii \"KERF\"", options(nostack)) };
}

/// The disk, which its driver finds in its own time.
fn appear() -> Result<File, Box<dyn Error>> {
    for _ in 0..600 {
        if let Ok(disk) = open(DISK, OFlags::RDONLY | OFlags::DIRECT, Mode::empty()) {
            return Ok(disk.into());
        }
        thread::sleep(Duration::from_millis(100));
    }
    Err("no disk appears".into())
}

fn blocks(disk: &File) -> Result<u64, Box<dyn Error>> {
    use std::io::{Seek as _, SeekFrom};
    let mut disk = disk;
    Ok(disk.seek(SeekFrom::End(0))? / BLOCK as u64)
}

/// Numbers of blocks, by a linear congruence (Knuth's MMIX).
struct Random(u64, u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % self.1
    }
}

fn check(block: &Block, number: u64) -> Result<(), Box<dyn Error>> {
    let mut first = [0; 8];
    first.copy_from_slice(&block.0[..8]);
    match u64::from_le_bytes(first) {
        found if found == number => Ok(()),
        found => Err(format!("block {number} begins with {found}").into()),
    }
}

fn one_by_one(disk: &File, random: &mut Random, count: usize) -> Result<(), Box<dyn Error>> {
    let mut block = Box::new(Block([0; BLOCK]));
    for _ in 0..count {
        let number = random.next();
        disk.read_exact_at(&mut block.0, number * BLOCK as u64)?;
        check(&block, number)?;
    }
    Ok(())
}

/// [`DEPTH`] reads at once.
struct Queue {
    context: usize,
    requests: Vec<Request>,
    blocks: Vec<Block>,
}

impl Queue {
    fn new(disk: &File) -> Result<Self, Box<dyn Error>> {
        let mut context = 0_usize;
        // SAFETY: it writes the context alone.
        unsafe { call(IO_SETUP, [DEPTH, (&raw mut context) as usize, 0, 0, 0]) }?;
        let mut blocks = vec![Block([0; BLOCK]); DEPTH];
        let request = |(slot, block): (usize, &mut Block)| Request {
            data: slot as u64,
            operation: (disk.as_raw_fd() as u64) << 32,
            buffer: (&raw mut *block) as u64,
            bytes: BLOCK as u64,
            ..Request::default()
        };
        let requests = blocks.iter_mut().enumerate().map(request).collect();
        Ok(Self { context, requests, blocks })
    }

    fn submit(&mut self, slot: usize, number: u64) -> Result<(), Box<dyn Error>> {
        self.requests[slot].offset = number * BLOCK as u64;
        let list = [(&raw mut self.requests[slot]) as usize];
        // SAFETY: requests and blocks stay where they are, and nobody looks at a block before its event.
        unsafe { call(IO_SUBMIT, [self.context, 1, list.as_ptr() as usize, 0, 0]) }?;
        Ok(())
    }

    /// Reads so many blocks, each slot again as soon as it is through.
    fn read(&mut self, random: &mut Random, count: usize) -> Result<(), Box<dyn Error>> {
        let (mut begun, mut done) = (DEPTH.min(count), 0);
        for slot in 0..begun {
            self.submit(slot, random.next())?;
        }
        let mut events = vec![Event::default(); DEPTH];
        while done < count {
            let list = events.as_mut_ptr() as usize;
            // SAFETY: there is room for as many events.
            let came = unsafe { call(IO_GETEVENTS, [self.context, 1, DEPTH, list, 0]) }?;
            for event in &events[..came] {
                let slot = event.data as usize;
                if event.result != BLOCK as i64 {
                    return Err(format!("a read gave {}", event.result).into());
                }
                check(&self.blocks[slot], self.requests[slot].offset / BLOCK as u64)?;
                done += 1;
                if begun < count {
                    self.submit(slot, random.next())?;
                    begun += 1;
                }
            }
        }
        Ok(())
    }
}

/// Calls Linux.
///
/// # Errors
/// As it says.
///
/// # Safety
/// As the call wants its arguments.
unsafe fn call(number: usize, [a, b, c, d, e]: [usize; 5]) -> Result<usize, std::io::Error> {
    let result: isize;
    // SAFETY: the ABI of Linux for x86-64: RCX and R11 are lost.
    unsafe {
        asm!("syscall", inlateout("rax") number => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d, in("r8") e,
            lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    usize::try_from(result).map_err(|_| std::io::Error::from_raw_os_error(-result as i32))
}
