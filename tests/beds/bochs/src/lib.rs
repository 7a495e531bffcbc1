//! SPDX-License-Identifier: LGPL-2.1-or-later
//!
//! The models as a plugin of Bochs: the VT-d unit of `tests/models`, and the function of `tests/models/siov` behind it, in the
//! emulator's machine ([`machine`]). `shim.cc` is the C++ part: it knows Bochs, and calls what is declared here.
//!
//! In the environment, `KERF_IOMMU` says what the unit can do: `legacy`, `second`, `first` or `nested`.

mod config;
mod machine;

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

/// Makes the machine. The function is device and function `devfn` of bus 0. False where `kind` is no unit.
///
/// # Safety
/// The functions of `bochs` must be what they are said to be, for good; `kind` must end with a zero.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_start(bochs: Bochs, kind: *const c_char, devfn: u8) -> bool {
    // SAFETY: the caller's promise.
    let kind = unsafe { CStr::from_ptr(kind) };
    let profile = kind.to_str().ok().and_then(machine::profile);
    *lock() = profile.map(|profile| Machine::new(bochs, profile, devfn));
    profile.is_some()
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

/// Lets the unit do a step; whether there is more to do.
#[unsafe(no_mangle)]
pub extern "C" fn bed_unit_tick() -> bool {
    with(false, |machine| {
        machine.unit.tick();
        !machine.unit.is_idle()
    })
}

/// Reads configuration space of the function, all but its BARs.
#[unsafe(no_mangle)]
pub extern "C" fn bed_config_read(offset: u16, bytes: u32) -> u32 {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W4);
    with(u32::MAX, |machine| machine.config_read(offset, width))
}

/// Writes it.
#[unsafe(no_mangle)]
pub extern "C" fn bed_config_write(offset: u16, bytes: u32, value: u32) {
    let width = Width::try_new(bytes.into()).unwrap_or(Width::W4);
    with((), |machine| machine.config_write(offset, width, value));
}

/// Reads a BAR.
///
/// # Safety
/// `to` must have room for as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_bar_read(offset: u64, bytes: u32, to: *mut u8) {
    // SAFETY: the caller's promise.
    let to = unsafe { std::slice::from_raw_parts_mut(to, bytes as usize) };
    with((), |machine| machine.bar_read(offset, to));
}

/// Writes a BAR, up to 64 bytes at once.
///
/// # Safety
/// `from` must have as many bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn bed_bar_write(offset: u64, bytes: u32, from: *const u8) {
    // SAFETY: the caller's promise.
    let from = unsafe { std::slice::from_raw_parts(from, bytes as usize) };
    with((), |machine| machine.bar_write(offset, from));
}

/// Says what has happened, and what was done wrong.
#[unsafe(no_mangle)]
pub extern "C" fn bed_report() {
    with((), |machine| machine.report());
}
