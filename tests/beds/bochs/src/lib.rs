//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! The models as a plugin of Bochs: the VT-d unit of `tests/models`, and functions behind it ([`model`]), in the emulator's
//! machine ([`machine`]). `shim.cc` is the C++ part: it knows Bochs, and calls what is declared here.

mod config;
mod machine;
mod model;
mod way;

use std::ffi::{CStr, CString, c_char};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hw::Width;
use machine::Machine;

/// What the models need of Bochs. Everything is called on Bochs' own thread, while it waits for an answer.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bochs {
    /// Bytes of memory from address 0 on.
    memory: u64,
    /// Reads memory within a page.
    read: unsafe extern "C" fn(hpa: u64, bytes: *mut u8, count: u32),
    /// Writes memory within a page.
    write: unsafe extern "C" fn(hpa: u64, bytes: *const u8, count: u32),
    /// Interrupts the local APICs.
    interrupt: unsafe extern "C" fn(vector: u8, destination: u32, mode: u8, logical: bool),
    /// Writes a line into the log.
    say: unsafe extern "C" fn(line: *const c_char),
}

impl Bochs {
    fn read(&self, hpa: u64, bytes: &mut [u8]) {
        // SAFETY: so many bytes are there, and Bochs reads memory for every address.
        unsafe { (self.read)(hpa, bytes.as_mut_ptr(), bytes.len() as u32) }
    }

    fn write(&self, hpa: u64, bytes: &[u8]) {
        // SAFETY: as for reading.
        unsafe { (self.write)(hpa, bytes.as_ptr(), bytes.len() as u32) }
    }

    fn interrupt(&self, vector: u8, destination: u32, mode: u8, logical: bool) {
        // SAFETY: whatever it is given, Bochs looks for whom it is meant.
        unsafe { (self.interrupt)(vector, destination, mode, logical) }
    }

    fn say(&self, line: &str) {
        let line = CString::new(line).unwrap_or_default();
        // SAFETY: the line ends with a zero.
        unsafe { (self.say)(line.as_ptr()) }
    }
}

static MACHINE: Mutex<Option<Machine>> = Mutex::new(None);

fn lock() -> MutexGuard<'static, Option<Machine>> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with the machine; `nothing` where there is none yet.
fn with<T>(nothing: T, act: impl FnOnce(&mut Machine) -> T) -> T {
    lock().as_mut().map_or(nothing, |machine| {
        let done = act(machine);
        machine.settle();
        done
    })
}

/// # Safety
/// The string must end with a zero, and stay as long as what is returned.
unsafe fn text<'a>(text: *const c_char) -> &'a str {
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default()
}

/// Makes the machine with a unit that is `legacy`, `second`, `first` or `nested`. False where `kind` is none of them.
///
/// # Safety
/// The functions of `bochs` must be what they are said to be, for good; `kind` must end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_start(bochs: Bochs, kind: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let profile = machine::profile(unsafe { text(kind) });
    *lock() = profile.map(|profile| Machine::new(bochs, profile));
    profile.is_some()
}

/// Adds a function, device and function `devfn` of bus 0, by which it is called from then on; or -1 where there is no `name`.
///
/// # Safety
/// `name` must end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_add(name: *const c_char, devfn: u8) -> i32 {
    // SAFETY: the caller's promise.
    let model = model::of(unsafe { text(name) });
    model.map_or(-1, |model| with(-1, |machine| machine.add(model, devfn) as i32))
}

/// Bytes of a BAR of a function, 0 where it has none.
#[unsafe(no_mangle)]
pub extern "C" fn bed_bar_bytes(function: u32, bar: u32) -> u32 {
    with(0, |machine| machine.bar_bytes(function as usize, bar as usize) as u32)
}

/// Reads a register of the unit.
#[unsafe(no_mangle)]
pub extern "C" fn bed_unit_read(offset: u64, bytes: u32) -> u64 {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W8);
    with(width.mask(), |machine| machine.unit.load(offset, width))
}

/// Writes a register of the unit.
#[unsafe(no_mangle)]
pub extern "C" fn bed_unit_write(offset: u64, bytes: u32, value: u64) {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W8);
    with((), |machine| machine.unit.store(offset, width, value));
}

/// Lets everything do a step; whether there is more to do.
#[unsafe(no_mangle)]
pub extern "C" fn bed_tick() -> bool {
    with(false, Machine::tick)
}

/// Reads configuration space of a function, all but its BARs.
#[unsafe(no_mangle)]
pub extern "C" fn bed_config_read(function: u32, offset: u16, bytes: u32) -> u32 {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W4);
    with(u32::MAX, |machine| machine.config_read(function as usize, offset, width))
}

/// Writes it.
#[unsafe(no_mangle)]
pub extern "C" fn bed_config_write(function: u32, offset: u16, bytes: u32, value: u32) {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W4);
    with((), |machine| machine.config_write(function as usize, offset, width, value));
}

/// Reads a BAR.
///
/// # Safety
/// `to` must have room for as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_bar_read(
    function: u32,
    bar: u32,
    offset: u64,
    bytes: u32,
    to: *mut u8,
) {
    // SAFETY: the caller's promise.
    let to = unsafe { std::slice::from_raw_parts_mut(to, bytes as usize) };
    with((), |machine| machine.bar_read(function as usize, bar as usize, offset, to));
}

/// Writes a BAR, up to 64 bytes at once.
///
/// # Safety
/// `from` must have as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_bar_write(
    function: u32,
    bar: u32,
    offset: u64,
    bytes: u32,
    from: *const u8,
) {
    // SAFETY: the caller's promise.
    let from = unsafe { std::slice::from_raw_parts(from, bytes as usize) };
    with((), |machine| machine.bar_write(function as usize, bar as usize, offset, from));
}

/// Says what has happened, and what was done wrong.
#[unsafe(no_mangle)]
pub extern "C" fn bed_report() {
    with((), |machine| machine.report());
}
