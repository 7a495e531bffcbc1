//! What a virtual machine needs from outside.

use hw::Gpa;

/// Guest physical memory, bytes only. Interior mutability: the guest itself changes it at any time.
pub trait GuestMemory {
    /// Copies from guest memory; all of `into` or nothing is meaningful.
    ///
    /// # Errors
    /// [`NoMemory`] where any byte of the range is not RAM.
    fn read(&self, gpa: Gpa, into: &mut [u8]) -> Result<(), NoMemory>;
    /// Copies into guest memory.
    ///
    /// # Errors
    /// [`NoMemory`] where any byte of the range is not RAM; nothing is written then.
    fn write(&self, gpa: Gpa, from: &[u8]) -> Result<(), NoMemory>;
}

/// The guest named an address at which it has no RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory(pub Gpa);

/// The machine around the guest.
pub trait Host {
    /// The host's time-stamp counter. The guest's is this plus the machine's offset.
    fn tsc(&self) -> u64;
    /// Seconds since 1970.
    fn unix_time(&self) -> u64;
    /// Puts bytes that the guest's UART sent on the guest's console.
    fn console_write(&mut self, bytes: &[u8]);
    /// The next byte typed at the guest's console.
    fn console_read(&mut self) -> Option<u8>;
}
